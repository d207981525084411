"""Parameters and multiply-adds of the zoo's models, counted as the tables count them."""

from detectron2.config import CfgNode

from segzoo.engine.analysis import Complexity, analyze_config
from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from . import load_config
from .records import Measured, WeightsInfo
from .registry import known_models

# Datasets whose papers count a whole test image and not the training crop.
_TEST_SIZES = {"cityscapes": (1024, 2048), "mapillary_vistas": (1024, 2048)}
_PANOPTIC_SIZE = (800, 1088)


def count(name: str, size: tuple[int, int] | None = None) -> Complexity:
    """Counts a model of the tables, at the size and in the form (`count_with`) that its row states.

    Args:
        name: of the row.
        size: height and width, where another is wanted.

    Raises:
        InputError: no such row or configuration, or a size that the network does not take.
    """
    info = known_models().get(name)
    if info is None:
        raise InputError(f"{name} has no row in the tables{did_you_mean(name, known_models())}")
    cfg = load_config(name, [str(item) for item in info.count_with])
    return analyze_config(cfg, size or counted_size(cfg, info))


def counted_size(cfg: CfgNode, info: WeightsInfo | None) -> tuple[int, int]:
    """Height and width to count at: what the row says, else where its authors counted, else what is usual."""
    stated = info and (info.size or info.gflops_size or (info.official_code and info.official_code.size))
    return stated or usual_size(cfg, info.dataset if info else "")


def usual_size(cfg: CfgNode, dataset: str) -> tuple[int, int]:
    """What makes the models of a dataset comparable: its usual test image, or else the training crop."""
    if dataset in _TEST_SIZES:
        return _TEST_SIZES[dataset]
    if cfg.TASK == "semantic" and len(cfg.INPUT.CROP_SIZE) == 2:
        return tuple(cfg.INPUT.CROP_SIZE)
    return _PANOPTIC_SIZE


def rounded(complexity: Complexity, metrics: dict[str, float] | None = None) -> Measured:
    """A count as the tables have it: 10^6 parameters and 10^9 multiply-adds, with the metrics of a run."""
    gflops = complexity.total_flops / 1e9
    return Measured(
        params=round(complexity.total_params / 1e6, 2),
        gflops=round(gflops, 1 if gflops >= 1 else 3),
        size=complexity.size,
        metrics=metrics or {},
    )
