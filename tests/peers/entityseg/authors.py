"""Import the authors' EntitySeg from a checkout, on Detectron2 and the CPU.

Nothing of the authors' code is in this repository. Its license, CC BY-NC 4.0, allows running it for this.
"""

import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import deform_conv
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch.nn import functional as F


def greedy_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return the indices that greedy suppression keeps, in descending order of the scores.

    A box is suppressed if its IoU with a kept one is above `threshold`; 0/0 is not.
    """
    order = np.argsort(-scores.numpy(), kind="stable")
    corners = boxes.numpy()
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    suppressed = np.zeros(len(order), bool)
    kept = []
    for index in order:
        if suppressed[index]:
            continue
        kept.append(index)
        low = np.maximum(corners[index, :2], corners[:, :2])
        high = np.minimum(corners[index, 2:], corners[:, 2:])
        intersection = (high - low).clip(min=0).prod(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            suppressed |= intersection / (areas[index] + areas - intersection) > threshold
    return torch.tensor(np.array(kept, np.int64))


def modulated_deform_conv(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    deformable_groups: int,
) -> Tensor:
    """Compute Detectron2's compiled operator tap by tap, for one group and one deformable group."""
    if groups != 1 or deformable_groups != 1:
        raise NotImplementedError("groups")
    height, width = x.shape[-2:]
    rows = torch.arange(offset.shape[2])[:, None] * stride - padding
    columns = torch.arange(offset.shape[3])[None] * stride - padding
    total: Tensor | float = 0.0 if bias is None else bias[:, None, None]
    size = weight.shape[-1]
    for tap in range(size * size):
        y = rows + dilation * (tap // size) + offset[:, 2 * tap]
        x_at = columns + dilation * (tap % size) + offset[:, 2 * tap + 1]
        grid = torch.stack([2 * x_at / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
        values = F.grid_sample(x, grid, align_corners=True) * mask[:, tap : tap + 1]
        total = total + F.conv2d(values, weight[:, :, tap // size, tap % size, None, None])
    return total


def import_authors(checkout: Path) -> None:
    """Import the package `entityseg` of the checkout and register its parts with Detectron2."""
    warnings.simplefilter("ignore")
    root = checkout / "Entity" / "EntitySeg"
    for name, kind in (("float", float), ("int", int), ("bool", bool)):  # removed from NumPy
        setattr(np, name, kind)
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    package = types.ModuleType("entityseg")
    package.__path__ = [str(root / "entityseg")]
    sys.modules["entityseg"] = package
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    for name in ("arch", "backbone"):
        importlib.import_module(f"entityseg.{name}")
    importlib.import_module("entityseg.det_head.layers.ml_nms").batched_nms = (
        lambda boxes, scores, _, threshold: greedy_nms(boxes, scores, threshold)
    )
    deform_conv.modulated_deform_conv = modulated_deform_conv


def import_mapper(checkout: Path) -> type:
    """Return the authors' dataset mapper, without the module that registers datasets."""
    if "entityseg.arch" not in sys.modules:
        import_authors(checkout)
    package = types.ModuleType("entityseg.data")
    package.__path__ = [str(checkout / "Entity" / "EntitySeg" / "entityseg" / "data")]
    sys.modules["entityseg.data"] = package
    return importlib.import_module("entityseg.data.dataset_mapper").DatasetMapper


def build(checkout: Path, config: str, *overrides: object) -> tuple[nn.Module, CfgNode]:
    """Return the authors' model on the CPU and its configuration.

    Args:
        checkout: root of the repository.
        config: name of a file in `Entity/EntitySeg/configs`, without `.yaml`.
        overrides: keys and values in turn.
    """
    if "entityseg.arch" not in sys.modules:
        import_authors(checkout)
    cfg = get_cfg()
    importlib.import_module("entityseg.config").add_entity_config(cfg)
    cfg.merge_from_file(str(checkout / "Entity" / "EntitySeg" / "configs" / f"{config}.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *overrides])
    return build_model(cfg), cfg


def without_drop_path(model: nn.Module) -> nn.Module:
    """Set every drop-path probability to 0 and return the model."""
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    return model


@contextmanager
def first_of_sampled() -> Iterator[None]:
    """Let caps keep the first positives: `random.sample` and `torch.randperm` keep the order."""
    random = importlib.import_module("random")
    sample, permute = random.sample, torch.randperm
    random.sample = lambda values, number: list(values)[:number]
    torch.randperm = lambda number, **kwargs: torch.arange(number)
    try:
        yield
    finally:
        random.sample, torch.randperm = sample, permute
