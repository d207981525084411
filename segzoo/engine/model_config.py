"""The configuration of a model to run: from a file, or from its checkpoint.

A checkpoint of segzoo can be opened alone: it holds its configuration, class names, colors and thing flags,
and needs neither the folder nor the dataset of the run that wrote it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from segzoo.checkpoint import local_file, read_description
from segzoo.config.load import parse_config, read_config
from segzoo.data import register_described
from segzoo.data.dataset_config import complete_config
from segzoo.data.dataset_file import is_dataset_file
from segzoo.data.register import dataset_metadata
from segzoo.utils.errors import InputError
from segzoo.utils.published_names import find_names

_KEY = "MODEL.WEIGHTS"


def model_config(
    config_file: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    weights: str | Path = "",
    evaluates: bool = False,
    trust: bool = False,
) -> CfgNode:
    """Return the complete configuration of a model to run with its weights.

    Args:
        config_file: a YAML file or a name below `configs/`; "" or None for the one in the checkpoint.
        overrides: alternating keys and values.
        weights: path or URL of the checkpoint; "" for MODEL.WEIGHTS.
        evaluates: whether the datasets of DATASETS.TEST are needed. If not, a dataset whose YAML file does
            not exist is replaced by the classes in the checkpoint.
        trust: execute pickled code in the file, where it holds more than weights.

    Raises:
        InputError: as `load_config`; neither a configuration nor weights, or a checkpoint without
            configuration.
    """
    if weights:
        overrides = [*overrides, _KEY, str(weights)]
    if config_file:
        return _from_file(config_file, overrides, evaluates, trust)
    given = [value for key, value in zip(overrides[::2], overrides[1::2], strict=False) if key == _KEY]
    if not given or not given[-1]:
        raise InputError(
            "found neither a configuration nor a checkpoint that holds one; give --config-file FILE, or "
            "--weights FILE, a checkpoint of segzoo"
        )
    return checkpoint_config(given[-1], overrides, evaluates=evaluates, trust=trust)


def checkpoint_config(
    weights: str | Path, overrides: Sequence[str] = (), *, evaluates: bool = False, trust: bool = False
) -> CfgNode:
    """Return the complete configuration in a checkpoint of segzoo, and register its classes.

    Arguments and errors as `model_config`.
    """
    file = local_file(weights)
    about = _description(file, weights, trust)
    cfg = parse_config(about["config"], str(weights), overrides)
    cfg.MODEL.WEIGHTS = str(weights)
    cfg.DATASETS.TRAIN = ()
    cfg.DATASETS.CLASSES_FROM = register_described(about, file.name)
    if evaluates:
        _require_datasets(cfg, weights, about, chosen="DATASETS.TEST" in overrides[::2])
    else:
        cfg.DATASETS.TEST = cfg.DATASETS.FILES = ()
    return complete_config(cfg)


def held_config(weights: str | Path, *, trust: bool = False) -> str:
    """Return the YAML text of the training configuration that a checkpoint of segzoo holds.

    Arguments and errors as `model_config`.
    """
    return _description(local_file(weights), weights, trust)["config"]


def _description(file: Path, weights: str | Path, trust: bool) -> dict[str, Any]:
    """Return the description in a checkpoint, which must include its configuration."""
    about = read_description(file, trust)
    if about is None or "config" not in about:
        reason = "it is not segzoo's" if about is None else f"segzoo {about.get('version', '')} wrote none"
        # fcn_resnet50_ade-3479525a.zip
        named = find_names(file.name.rpartition("-")[0])
        config = named[0].configuration if named else "FILE"
        quoted = f'"{config}"' if named else config
        raise InputError(
            f"{weights} holds no configuration ({reason}); give the one that it was trained with: "
            f"--config-file {config}, or Predictor(load_config({quoted}), weights)"
        )
    return about


def _from_file(config_file: str | Path, overrides: Sequence[str], evaluates: bool, trust: bool) -> CfgNode:
    cfg = read_config(config_file, overrides)
    missing = [file for file in cfg.DATASETS.FILES if not is_dataset_file(file)]
    if missing and cfg.MODEL.WEIGHTS and not evaluates:
        file = local_file(cfg.MODEL.WEIGHTS)
        about = read_description(file, trust)
        if about and about.get("classes"):
            cfg.DATASETS.CLASSES_FROM = register_described(about, file.name)
            cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = cfg.DATASETS.FILES = ()
    return complete_config(cfg)


def _require_datasets(cfg: CfgNode, weights: str | Path, about: dict[str, Any], chosen: bool) -> None:
    """Raise InputError if a checkpoint's datasets are missing; `chosen`: DATASETS.TEST is not its own."""
    missing = [file for file in cfg.DATASETS.FILES if not is_dataset_file(file)]
    names = ", ".join(cfg.DATASETS.TEST) or about.get("dataset", "")
    if missing:
        files = ",".join(
            '"FILE"' if file in missing else f'"{file}"' for file in map(str, cfg.DATASETS.FILES)
        )
        do, they = ("do", "they are") if len(missing) > 1 else ("does", "it is")
        raise InputError(
            f"{weights} is tested on {names}, but {' and '.join(missing)} {do} not exist here; say where "
            f"{they} now: DATASETS.FILES '[{files}]'"
        )
    if cfg.DATASETS.FILES or chosen:  # an unknown name is found as in any configuration
        return
    unknown = [name for name in cfg.DATASETS.TEST if not dataset_metadata(name)]
    if unknown and not cfg.IMPORTS:
        raise InputError(
            f"{weights} is tested on {unknown[0]}, which is not registered; name the file that describes it: "
            f"DATASETS.FILES '[\"FILE\"]'"
        )
