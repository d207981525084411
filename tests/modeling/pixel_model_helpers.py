"""Per-pixel models made of the method files in configs/_base_/methods/, and loaded from files of peers."""

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segzoo.checkpoint import LoadReport, load_checkpoint
from segzoo.config.load import new_config

METHODS = Path(__file__).parents[2] / "configs" / "_base_" / "methods"


def pixel_config(method: str, num_classes: int, *overrides: object) -> CfgNode:
    """Load a method file for `num_classes` on the CPU, with alternating keys and values in `overrides`."""
    cfg = new_config()
    cfg.merge_from_other_cfg(CfgNode(cfg.load_yaml_with_base(str(METHODS / f"{method}.yaml"))))
    # The norm is set in a backbone's file; per-pixel configurations train it.
    own = [
        "MODEL.DEVICE",
        "cpu",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        num_classes,
        "MODEL.BACKBONE.NORM",
        "SyncBN",
    ]
    cfg.merge_from_list([*own, *overrides])
    return cfg


def pixel_model(method: str, num_classes: int, *overrides: object, seed: int = 0) -> nn.Module:
    """Build a model in training mode, with weights drawn from `seed`."""
    torch.manual_seed(seed)
    return build_model(pixel_config(method, num_classes, *overrides))


def unallocated_model(method: str, num_classes: int, *overrides: object) -> nn.Module:
    """Build a model in eval mode on the meta device, for counting."""
    overrides = ("MODEL.DEVICE", "meta", "MODEL.SEM_SEG_HEAD.NORM", "BN", *overrides)
    cfg = pixel_config(method, num_classes, *overrides)
    with torch.device("meta"):
        return build_model(cfg).eval()


def count_parameters(model: nn.Module) -> float:
    """Return the number of parameters in millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def count_operations(model: nn.Module, size: tuple[int, int]) -> float:
    """Return billions of multiply-adds in convolutions and matrix products, counted by PyTorch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.raw_outputs([{"image": torch.zeros(3, *size, device="meta")}])
    return counter.get_total_flops() / 2e9


def load_published(model: nn.Module, state: dict[str, torch.Tensor], folder: Path) -> LoadReport:
    """Save weights as training frameworks publish them, and load the file, which has to fit completely."""
    file = folder / "published.pth"
    torch.save({"state_dict": state, "meta": {}}, file)
    report = load_checkpoint(model, file)
    assert report.complete
    assert not report.unexpected
    return report


def normalized(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Normalize a (3, H, W) uint8 image to (1, 3, H, W) float, the input of a peer."""
    return ((image - model.pixel_mean) / model.pixel_std)[None]
