"""Models have exactly as many parameters as the published ones."""

import pytest
import torch
from detectron2.modeling import build_model

from tests.modeling.modeling_helpers import TRANSFORMER_PIXEL_DECODER, make_config

R50 = ["MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r50"]


def swin(variant: str) -> list[str]:
    return ["MODEL.BACKBONE.NAME", "SwinTransformer", "MODEL.BACKBONE.VARIANT", variant]


@pytest.mark.parametrize(
    ("num_classes", "overrides", "millions"),
    [
        (150, swin("tiny"), 41.76),
        (150, swin("small"), 63.07),
        (133, [*R50, *TRANSFORMER_PIXEL_DECODER], 45.01),
        (133, swin("tiny"), 41.75),
        (133, swin("small"), 63.07),
        (133, swin("base_384"), 101.83),
    ],
)
def test_maskformer_has_the_parameters_of_the_official_one(num_classes, overrides, millions):
    cfg = make_config(num_classes, *overrides, "MODEL.DEVICE", "meta")
    with torch.device("meta"):
        model = build_model(cfg)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == millions
