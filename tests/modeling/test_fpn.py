"""The neck FPN: Detectron2's own on the same weights, sizes that round up or down, and heads above it."""

import re

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone import fpn as detectron2_fpn

from segzoo.checkpoint.rules_cnn import DETECTRON2_FPN
from segzoo.modeling.detection import FPN
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import random_image, shake
from tests.modeling.pixel_model_helpers import pixel_model
from tests.modeling.pixel_peers import TINY

SHAPES = {f"res{level}": ShapeSpec(channels=3 * level, stride=2**level) for level in range(2, 6)}
LEVELS = {f"p{level}" for level in range(2, 6)}
# What Detectron2 adds above p5, and the arguments of the neck that say the same.
TOPS = {
    "none": (lambda: None, {}),
    "max_pool": (detectron2_fpn.LastLevelMaxPool, {"top_block": "max_pool"}),
    "p6p7 from res5": (
        lambda: detectron2_fpn.LastLevelP6P7(15, 32, "res5"),
        {"top_block": "p6p7", "top_in_feature": "res5"},
    ),
    "p6p7 from p5": (lambda: detectron2_fpn.LastLevelP6P7(32, 32, "p5"), {"top_block": "p6p7"}),
}


class Given(Backbone):
    """Feature maps that are given as the image."""

    def forward(self, features):
        return features

    def output_shape(self):
        return SHAPES


def renamed(state):
    result = {}
    for key, value in state.items():
        for pattern, replacement in DETECTRON2_FPN:
            key = re.sub(pattern, replacement, key)
        result[key] = value
    return result


def features_of(height, width, rounding=0, shapes=SHAPES):
    """Maps of an image; `rounding` is added to a side before it is divided by 2."""
    generator = torch.Generator().manual_seed(1)
    maps = {}
    height, width = (height + 3) // 4, (width + 3) // 4
    for name, shape in shapes.items():
        values = torch.randn(2, shape.channels, height, width, generator=generator, dtype=torch.double)
        maps[name] = values.requires_grad_()
        height, width = (height + rounding) // 2, (width + rounding) // 2
    return maps


@pytest.mark.parametrize(("norm", "fuse"), [("", "sum"), ("GN", "avg")])
@pytest.mark.parametrize("top", TOPS)
def test_it_is_detectron2s_pyramid(top, norm, fuse):
    build_top, options = TOPS[top]
    theirs = detectron2_fpn.FPN(Given(), list(SHAPES), 32, norm, build_top(), fuse)
    theirs.double()
    ours = FPN(input_shape=SHAPES, out_channels=32, norm=norm, fuse=fuse, **options).double()
    shake(theirs)
    state = renamed({f"backbone.{key}": value for key, value in theirs.state_dict().items()})
    ours.load_state_dict({key.removeprefix("neck."): value for key, value in state.items()})
    assert ours.output_shape() == theirs.output_shape()

    # The coarsest level has odd sides, so those above it round.
    mine, other = features_of(96, 160), features_of(96, 160)
    found, expected = ours(mine), theirs(other)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    for outputs in (found, expected):
        sum((value * value).sum() for value in outputs.values()).backward()
    for name in SHAPES:
        torch.testing.assert_close(mine[name].grad, other[name].grad)
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    named = {f"backbone.{name}": parameter.grad for name, parameter in theirs.named_parameters()}
    for name, gradient in renamed(named).items():
        torch.testing.assert_close(gradients[name.removeprefix("neck.")], gradient)


def test_weights_are_initialized_as_detectron2s():
    torch.manual_seed(0)
    theirs = detectron2_fpn.FPN(Given(), list(SHAPES), 64, "", detectron2_fpn.LastLevelP6P7(15, 64, "res5"))
    ours = FPN(input_shape=SHAPES, out_channels=64, top_block="p6p7", top_in_feature="res5")
    state = renamed({f"backbone.{key}": value for key, value in theirs.state_dict().items()})
    for name, weight in ours.state_dict().items():
        expected = state[f"neck.{name}"]
        torch.testing.assert_close(weight.abs().max(), expected.abs().max(), rtol=0.05, atol=0)
        assert torch.equal(weight.mean() == 0, expected.mean() == 0)  # biases


@pytest.mark.parametrize("rounding", [0, 1])
@pytest.mark.parametrize("size", [(61, 83), (33, 120), (97, 39)])
def test_levels_of_any_size_are_added_pixel_by_pixel(size, rounding):
    shapes = {name: ShapeSpec(channels=4, stride=shape.stride) for name, shape in SHAPES.items()}
    neck = FPN(input_shape=shapes, out_channels=4).double()
    with torch.no_grad():
        for level, convolution in [*neck.lateral.items(), *neck.output.items()]:
            kernel = torch.zeros_like(convolution.weight)
            center = kernel.shape[-1] // 2
            kernel[range(4), range(4), center, center] = int(level[1:])
            convolution.weight.copy_(kernel)
            convolution.bias.zero_()
        features = features_of(*size, rounding, shapes)
        found = neck(features)
        above = None
        for level in (5, 4, 3, 2):
            total = level * features[f"res{level}"].numpy()
            if above is not None:
                rows, columns = (
                    [min(index // 2, above.shape[axis] - 1) for index in range(total.shape[axis])]
                    for axis in (2, 3)
                )
                total = total + above[:, :, rows][:, :, :, columns]
            above = total
            torch.testing.assert_close(found[f"p{level}"], level * torch.from_numpy(total))


def parameters_of(**options):
    neck = FPN(input_shape=SHAPES, out_channels=8, **options)
    outputs = neck({name: value.float() for name, value in features_of(64, 96, 1).items()})
    assert outputs.keys() == neck.output_shape().keys() == set(neck.out_features)
    for name, shape in neck.output_shape().items():
        assert outputs[name].shape[1] == shape.channels
    sum(value.sum() for value in outputs.values()).backward()
    unused = [name for name, parameter in neck.named_parameters() if parameter.grad is None]
    assert unused == []
    return {name.rpartition(".")[0] for name, _ in neck.named_parameters()}


def test_only_layers_that_an_output_needs_exist():
    laterals = {f"lateral.{level}" for level in LEVELS}
    outputs = {f"output.{level}" for level in LEVELS}
    tops = {"top_block.p6", "top_block.p7"}
    assert parameters_of(top_block="p6p7") == laterals | outputs | tops
    entity = parameters_of(
        top_block="p6p7", top_in_feature="res5", out_features=("p3", "p4", "p5", "p6", "p7")
    )
    assert entity == (laterals | outputs | tops) - {"lateral.p2", "output.p2"}
    assert parameters_of(out_features=("p2", "res4")) == laterals | {"output.p2"}
    assert parameters_of(top_block="p6p7", out_features=("p6", "p5")) == {
        *("lateral.p5", "output.p5", "top_block.p6")
    }
    # p5 is computed for p7, though not returned.
    assert parameters_of(top_block="p6p7", out_features=("p7",)) == {"lateral.p5", "output.p5", *tops}
    lateral = parameters_of(top_block="p6", top_in_feature="lateral", out_features=("p6",))
    assert lateral == {"lateral.p5", "top_block.p6"}
    raw = parameters_of(top_block="p6", top_in_feature="res5", out_features=("p6",))
    assert raw == {"top_block.p6"}
    narrow = parameters_of(in_features=("res4", "res3"), top_block="max_pool")
    assert narrow == {"lateral.p3", "lateral.p4", "output.p3", "output.p4"}


def test_the_coarsest_lateral_map_may_feed_the_level_above():
    neck = FPN(input_shape=SHAPES, out_channels=8, top_block="p6", top_in_feature="lateral")
    features = {name: value.float() for name, value in features_of(64, 96).items()}
    expected = neck.top_block["p6"](neck.lateral["p5"](features["res5"]))
    assert torch.equal(neck(features)["p6"], expected)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.FPN.IN_FEATURES", ["res2", "res6"], "MODEL.FPN.IN_FEATURES has 'res6', but there are res2"),
        ("MODEL.FPN.IN_FEATURES", ["res2", "res4"], r"MODEL.FPN.IN_FEATURES: a pyramid .* res2 4, res4 16"),
        ("MODEL.BACKBONE.OUTPUT_STRIDE", 16, r"strides double .* res4 16, res5 16"),
        ("MODEL.FPN.OUT_FEATURES", ["p2", "p7"], "MODEL.FPN.OUT_FEATURES has 'p7', but there are p2, p3"),
        ("MODEL.FPN.TOP_IN_FEATURE", "p7", "MODEL.FPN.TOP_IN_FEATURE 'p7': expected lateral or one of p2"),
        ("MODEL.FPN.TOP_IN_FEATURE", "res5", r"'res5' has \d+ channels, which max_pool keeps, and the"),
    ],
)
def test_wrong_keys_are_named_in_one_line(key, value, message):
    stride = ("MODEL.BACKBONE.OUTPUT_STRIDE", 32)
    with pytest.raises(InputError, match=message) as caught:
        pixel_model("fcn", 3, *TINY, *stride, "MODEL.NECK.NAME", "FPN", key, value)
    assert "\n" not in str(caught.value)


def test_a_per_pixel_method_takes_the_finest_level():
    model = pixel_model(
        *("fcn", 3, *TINY, "MODEL.NECK.NAME", "FPN", "MODEL.FPN.OUT_CHANNELS", 16),
        *("MODEL.FPN.OUT_FEATURES", ["p2", "res4"], "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2"]),
        *("MODEL.BACKBONE.OUTPUT_STRIDE", 32, "MODEL.BACKBONE.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN"),
        *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 8, "MODEL.AUX_HEAD.CONVS_DIM", 8, "MODEL.AUX_HEAD.NAME", "FCNHead"),
    )
    inputs = [
        {"image": random_image(61, 83, seed), "sem_seg": torch.randint(0, 3, (61, 83))} for seed in (0, 1)
    ]
    sum(model(inputs).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    logits = model.eval().raw_outputs(inputs[:1])["sem_seg_logits"]
    assert logits.shape == (1, 3, 16, 21)
