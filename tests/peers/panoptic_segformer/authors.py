"""Import the authors' Panoptic SegFormer from a checkout, with mmdet 2.28 and mmcv 1.7 without operators.

Nothing of the authors' code is in this repository.
"""

import importlib
import re
import sys
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tests.modeling.peers import WithoutOperators


def import_authors(checkout: Path) -> types.ModuleType:
    """Return `easymd.models` of `checkout` with the package's other parts left out."""
    warnings.simplefilter("ignore")
    ext_loader = importlib.import_module("mmcv.utils.ext_loader")
    ext_loader.load_ext = lambda name, functions: WithoutOperators(name)
    registry = importlib.import_module("mmcv.utils").Registry
    register = registry._register_module

    def replace(self: Any, module: Any, module_name: Any = None, force: bool = False) -> None:
        # mmdet 2.28 has a SwinTransformer and a DiceLoss of its own; the authors' version of mmdet had not.
        register(self, module, module_name, True)

    registry._register_module = replace
    package = types.ModuleType("easymd")
    package.__path__ = [str(checkout / "easymd")]
    sys.modules["easymd"] = package
    sys.path.insert(0, str(checkout))
    for module in ("mmdet.models", "easymd.core"):
        importlib.import_module(module)
    return importlib.import_module("easymd.models")


def build(
    checkout: Path,
    config: str,
    *,
    backbone: tuple[str, Sequence[int]] | None = None,
    filter_rounds: int = 1,
) -> tuple[nn.Module, Any]:
    """Return the authors' model and its configuration.

    Args:
        checkout: root of the repository.
        config: name of a file in `configs/panformer`, without `.py`.
        backbone: another registered backbone and the channels of its maps; None: the configuration's.
        filter_rounds: 1 as released; more: the intended rounds, with the stop test that always fires undone.
    """
    import_authors(checkout)
    from mmcv import Config
    from mmdet.models import build_detector

    cfg = Config.fromfile(str(checkout / "configs" / "panformer" / f"{config}.py"))
    cfg.model.pretrained = None
    if "swin" in config:  # keys of R50 that Swin's released class rejects
        for key in ("depth", "num_stages", "norm_cfg", "norm_eval", "style", "frozen_stages"):
            cfg.model.backbone.pop(key, None)
    if backbone is not None:
        cfg.model.backbone.type, cfg.model.neck.in_channels = backbone[0], list(backbone[1])
    if filter_rounds > 1:
        undo_stop()
    model = build_detector(cfg.model)
    model.bbox_head.assigner_filter.max_pos = filter_rounds if filter_rounds > 1 else 3
    return model, cfg


def undo_stop() -> None:
    """Let the query filter run all its rounds.

    Its module is compiled again without the test that ends the first.
    """
    tools = importlib.import_module("easymd.models.panformer.tools")
    source, number = re.subn(r"if cost\[.*INF:", "if False:", Path(tools.__file__).read_text())
    if number != 1:
        raise ValueError(f"{tools.__file__}: {number} stop tests, expected 1")
    exec(compile(source, tools.__file__, "exec"), vars(tools))


def without_dropout(model: nn.Module) -> nn.Module:
    """Set every dropout probability to 0 and return the model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    return model
