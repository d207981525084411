"""Count parameters and multiply-adds of the zoo's models, as its tables do."""

from detectron2.config import CfgNode

from segzoo.engine.analysis import Complexity, analyze_config
from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from . import load_config
from .records import Measured, WeightsInfo
from .registry import known_models

# Datasets whose papers count at the size of a test image instead of the training crop.
_TEST_SIZES = {"cityscapes": (1024, 2048), "mapillary_vistas": (1024, 2048)}
_PANOPTIC_SIZE = (800, 1088)


def count(name: str, size: tuple[int, int] | None = None) -> Complexity:
    """Count a model of the tables, with the size and overrides (`count_with`) of its row.

    Args:
        name: name of the configuration.
        size: another height and width.

    Raises:
        InputError: there is no such row or configuration, or the network does not accept the size.
    """
    info = known_models().get(name)
    if info is None:
        raise InputError(f"{name} has no row in the tables{did_you_mean(name, known_models())}")
    cfg = load_config(name, [str(item) for item in info.count_with])
    return analyze_config(cfg, size or counted_size(cfg, info))


def counted_size(cfg: CfgNode, info: WeightsInfo | None) -> tuple[int, int]:
    """Return the (height, width) to count at: the row's, else the authors', else the usual one."""
    stated = info and (info.size or info.gflops_size or (info.official_code and info.official_code.size))
    return stated or usual_size(cfg, info.dataset if info else "")


def usual_size(cfg: CfgNode, dataset: str) -> tuple[int, int]:
    """Return the usual (height, width) for a dataset's models: its test image, or else the training crop."""
    if dataset in _TEST_SIZES:
        return _TEST_SIZES[dataset]
    if cfg.TASK == "semantic" and len(cfg.INPUT.CROP_SIZE) == 2:
        return tuple(cfg.INPUT.CROP_SIZE)
    return _PANOPTIC_SIZE


def rounded(complexity: Complexity, metrics: dict[str, float] | None = None) -> Measured:
    """Return a count in the tables' units, 10^6 parameters and 10^9 multiply-adds, with a run's metrics."""
    gflops = complexity.total_flops / 1e9
    return Measured(
        params=round(complexity.total_params / 1e6, 2),
        gflops=round(gflops, 1 if gflops >= 1 else 3),
        size=complexity.size,
        metrics=metrics or {},
    )
