"""Names of configurations, and models built from them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from segzoo.checkpoint import load_checkpoint, local_file
from segzoo.checkpoint.download import file_hash
from segzoo.config.files import config_root
from segzoo.config.load import read_config
from segzoo.data.dataset_config import complete_config
from segzoo.utils.errors import InputError

from .records import WeightsInfo
from .registry import official_weights


def list_models(task: str | None = None, dataset: str | None = None, method: str | None = None) -> list[str]:
    """Names of the zoo's configurations, sorted: paths below `configs/` without `.yaml`.

    Args:
        task: semantic | panoptic | entity | instance.
        dataset: as in the path: ade20k, coco, camvid, ...
        method: as the file name starts: maskformer, pspnet, pspnet_jpu, ...
    """
    names = []
    root = config_root()
    for file in root.rglob("*.yaml"):
        name = file.relative_to(root).with_suffix("").as_posix()
        parts = name.split("/")
        if parts[0] == "_base_" or len(parts) != 3:
            continue
        if (
            task in (None, parts[0])
            and dataset in (None, parts[1])
            and (method is None or f"{parts[2]}_".startswith(f"{method}_"))
        ):
            names.append(name)
    return sorted(names)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a configuration file and complete it.

    Args:
        path: a YAML file, or a name below `configs/` without `.yaml`: `semantic/camvid/maskformer_r18`.
        overrides: alternating keys and values, as on a command line: `["SOLVER.MAX_ITER", "10"]`.

    Returns:
        The configuration, with the datasets of `DATASETS.FILES` registered and the values that follow from
        the dataset filled in. It is not frozen.

    Raises:
        InputError: file not found, unknown key, wrong type or value, unknown dataset, contradiction with the
            dataset.
    """
    return complete_config(read_config(path, overrides))


def get_config(name: str) -> CfgNode:
    """The complete configuration of a model of the zoo.

    Raises:
        InputError: no such model.
    """
    return load_config(name)


def get(name: str, weights: str | Path | None = None, device: str = "cpu") -> nn.Module:
    """Builds a model of the zoo, in evaluation mode.

    Args:
        name: one of `list_models()`.
        weights: None for random weights, "official" for the file that the zoo links to, or a path or URL.
        device: where the model is to be.

    Raises:
        InputError: no such model, no official weights, or weights that do not fill the whole model.
    """
    cfg = get_config(name)
    cfg.MODEL.DEVICE = device
    cfg.MODEL.WEIGHTS = ""
    md5_prefix = ""
    if weights == "official":
        info = official_weights(name)
        weights, md5_prefix = info.url, info.md5_prefix
        if info.sha256_prefix:
            _check_sha256(local_file(info.url), info)
    if device != "cpu":
        _check_device(device)
    model = build_model(cfg).eval()
    if weights:
        load_checkpoint(model, weights, md5_prefix=md5_prefix).require_complete(f"model_zoo.get({name!r})")
    return model


def _check_sha256(file: Path, info: WeightsInfo) -> None:
    found = file_hash(file, "sha256")
    if not found.startswith(info.sha256_prefix):
        raise InputError(
            f"{info.url}: sha256 starts with {found[: len(info.sha256_prefix)]}, expected "
            f"{info.sha256_prefix}; the file is damaged or not the published one: delete {file} and try again"
        )


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} is not usable here: {str(error).splitlines()[0]}") from None
