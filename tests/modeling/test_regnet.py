"""RegNet's maps are those of Detectron2's network with the same weights; what it cannot do is one line."""

import pytest
import torch
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

from segzoo.modeling.backbones.regnet import FEATURES, VARIANTS, RegNetBackbone, RegNetVariant
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import shake
from tests.modeling.test_backbones import build

SMALL = RegNetVariant(depth=8, w_a=16.0, w_0=16, w_m=2.0, group_width=8, se_ratio=0.25, stem_width=8)


@torch.no_grad()
def test_maps_are_detectron2s():
    ours = shake(RegNetBackbone(variant=SMALL, norm="BN")).eval()
    theirs = RegNet(
        stem_class=SimpleStem,
        block_class=ResBottleneckBlock,
        norm="BN",
        out_features=["s1", "s2", "s3", "s4"],
        depth=8,
        w_a=16.0,
        w_0=16,
        w_m=2.0,
        group_width=8,
        se_ratio=0.25,
        stem_width=8,
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 3, 65, 41)
    found, expected = ours(image), theirs(image)
    assert tuple(found) == FEATURES
    for one, other in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(one, other)
    shapes = {name: (shape.channels, shape.stride) for name, shape in theirs.output_shape().items()}
    assert list(shapes.values()) == [(shape.channels, shape.stride) for shape in ours.output_shape().values()]


def test_widths_and_depths_are_those_of_the_published_networks():
    """RegNetX-4.0GF and RegNetY-4.0GF of Radosavovic et al.: widths, and number of blocks of each stage."""
    expected = {
        "regnetx_4gf": ([80, 240, 560, 1360], [2, 5, 14, 2]),
        "regnety_4gf": ([128, 192, 512, 1088], [2, 6, 12, 2]),
    }
    assert expected.keys() == VARIANTS.keys()
    for name, (widths, depths) in expected.items():
        with torch.device("meta"):
            network = RegNetBackbone(variant=VARIANTS[name], norm="BN")
        assert [shape.channels for shape in network.output_shape().values()] == widths
        assert [len(list(stage.children())) for stage, _ in network.stages_and_names] == depths


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("VARIANT", "regnetx_4g", "is not a RegNetBackbone; choose one of regnetx_4gf, regnety_4gf; did you"),
        ("OUTPUT_STRIDE", 8, "does not dilate; use 32"),
        ("DROP_PATH_RATE", 0.1, "has no stochastic depth; use 0.0"),
    ],
)
def test_what_it_cannot_do_is_one_line(key, value, message):
    with pytest.raises(InputError, match=message):
        build("RegNetBackbone", "regnetx_4gf", f"MODEL.BACKBONE.{key}", value)
