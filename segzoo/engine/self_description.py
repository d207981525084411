"""What a checkpoint says about itself: enough to run its model anywhere, without the run that wrote it."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import Metadata

from segzoo.data.class_facts import DATASET_FACTS
from segzoo.model_zoo.configs import new_config
from segzoo.model_zoo.saved_config import config_in_checkpoint

from .setup import describe, plain


def describe_checkpoint(cfg: CfgNode, metadata: Metadata) -> dict[str, Any]:
    """What stands under the key "segzoo": `describe`, facts of the dataset, and the whole configuration.

    Args:
        metadata: of the dataset whose classes the model predicts; see `segzoo.data`.

    Returns:
        Strings, numbers, lists and dicts only.
    """
    facts = {key: plain(metadata.get(key)) for key in DATASET_FACTS if metadata.get(key) is not None}
    return {**describe(cfg, metadata), **facts, "config": config_in_checkpoint(cfg, new_config())}
