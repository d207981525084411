"""Small models of Panoptic SegFormer, and images with segments for them."""

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from segzoo.projects.panoptic_segformer.losses import PanopticSegFormerCriterion
from segzoo.projects.panoptic_segformer.meta_arch import PanopticSegFormer

#: Things and stuff, in mixed order.
IS_THING = (True, False, True, False, False)


class Pyramid(nn.Module):
    """A backbone of four channels in each of three maps, at strides 8, 16 and 32."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, 1) for i in range(5))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = []
        for conv in self.convs:
            x = conv(x)
            maps.append(x)
        return dict(zip(("res3", "res4", "res5"), maps[2:], strict=True))

    def output_shape(self):
        return {f"res{i}": ShapeSpec(channels=4, stride=2**i) for i in (3, 4, 5)}


def small_model(
    is_thing=IS_THING, seed: int = 0, criterion: dict | None = None, **changes
) -> PanopticSegFormer:
    """Build a model with 64 channels."""
    torch.manual_seed(seed)
    arguments = {
        "backbone": Pyramid(),
        "criterion": PanopticSegFormerCriterion(**(criterion or {})),
        "in_features": ("res3", "res4", "res5"),
        "is_thing": is_thing,
        "num_classes": len(is_thing),
        "dim": 64,
        "num_heads": 4,
        "hidden_dim": 48,
        "dropout": 0.0,
        "encoder_layers": 1,
        "location_layers": 2,
        "num_queries": 12,
        "thing_layers": 1,
        "stuff_layers": 2,
        "pixel_mean": (120.0, 115.0, 105.0),
        "pixel_std": (58.0, 57.0, 56.0),
    }
    return PanopticSegFormer(**(arguments | changes))


def with_segments(height: int, width: int, classes=(), seed: int = 0) -> dict:
    """Return an image with one rectangle for each class, as the mapper makes it; they do not overlap."""
    generator = torch.Generator().manual_seed(seed)
    segment_map = torch.full((height, width), -1, dtype=torch.int16)
    boxes = []
    for index in range(len(classes)):
        left, right = width * index // len(classes), width * (index + 1) // len(classes)
        top, bottom = 3 + index, height - 5 + index
        segment_map[top:bottom, left:right] = index
        boxes.append([left, top, right, bottom])
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8),
        "segment_map": segment_map,
        "segment_classes": torch.tensor(classes, dtype=torch.int64),
        "segment_boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
    }
