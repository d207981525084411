"""Deformable attention and its gradients equal the definition."""

import math

import pytest
import torch
from detectron2.modeling import build_model

from segzoo.layers import deformable_attention
from segzoo.layers.deformable_attention import DeformableAttention, sample_levels, sample_levels_on_grids
from segzoo.model_zoo import load_config

SIZES = [(3, 4), (5, 7), (1, 2)]


def make_inputs(dtype=torch.float64, images=2, queries=6, heads=2, points=3, channels=3, seed=0):
    """Make values for SIZES and random samples, some of them outside."""
    generator = torch.Generator().manual_seed(seed)
    pixels = sum(height * width for height, width in SIZES)
    shape = (images, queries, heads, len(SIZES), points)
    value = torch.randn(images, pixels, heads, channels, generator=generator, dtype=dtype)
    locations = torch.rand(*shape, 2, generator=generator, dtype=dtype) * 1.8 - 0.4
    weights = torch.rand(shape, generator=generator, dtype=dtype)
    return tuple(tensor.requires_grad_() for tensor in (value, locations, weights))


def naive_sample(value, locations, weights):
    """Compute the definition pixel by pixel: bilinear with pixel centers at halves, zeros outside."""
    images, queries, heads, levels, _ = weights.shape
    starts = [sum(h * w for h, w in SIZES[:level]) for level in range(levels)]
    result = torch.zeros(images, queries, heads, value.shape[-1], dtype=value.dtype)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in weights.shape)).tolist():
        image, query, head, level, _ = index
        height, width = SIZES[level]
        x, y = locations[tuple(index)].tolist()
        x, y = x * width - 0.5, y * height - 0.5
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    pixel = value[image, starts[level] + row * width + column, head]
                    result[image, query, head] += weights[tuple(index)] * share * pixel
    return result.flatten(2)


@pytest.mark.parametrize("sample", [sample_levels, sample_levels_on_grids])
def test_samples_are_those_of_the_definition(sample):
    value, locations, weights = make_inputs()
    with torch.no_grad():
        expected = naive_sample(value, locations, weights)
        assert torch.allclose(sample(value, SIZES, locations, weights), expected, atol=1e-12)


def test_gradients_are_numerically_right():
    inputs = make_inputs(images=1, queries=4, channels=2)
    assert torch.autograd.gradcheck(lambda v, loc, w: sample_levels(v, SIZES, loc, w), inputs)


def test_gradients_equal_those_of_grid_sample_in_single_precision():
    gradients = []
    for sample in (sample_levels, sample_levels_on_grids):
        inputs = make_inputs(torch.float32, queries=300, channels=8)
        outer = torch.randn(2, 300, 16, generator=torch.Generator().manual_seed(1))
        gradients.append(torch.autograd.grad(sample(inputs[0], SIZES, *inputs[1:]), inputs, outer))
    for ours, reference in zip(*gradients, strict=True):
        assert torch.allclose(ours, reference, rtol=1e-4, atol=1e-5)


def test_half_precision_inputs_are_sampled_in_full_precision():
    value, locations, weights = make_inputs(torch.float32)
    halves = [tensor.detach().bfloat16() for tensor in (value, weights)]
    with torch.autocast("cpu", torch.bfloat16):
        sampled = sample_levels(halves[0], SIZES, locations, halves[1])
    assert sampled.dtype == torch.float32
    expected = naive_sample(halves[0].double(), locations.double(), halves[1].double())
    assert torch.allclose(sampled.double(), expected, atol=1e-5)


def test_heads_are_initialized_to_different_directions():
    attention = DeformableAttention(32, num_heads=8, num_levels=2, num_points=2)
    offsets = attention.sampling_offsets.bias.view(8, 2, 2, 2)
    # The first head points right, the third down, the fifth left; the second point is twice as far.
    assert torch.allclose(offsets[0, 0], torch.tensor([[1.0, 0.0], [2.0, 0.0]]), atol=1e-6)
    assert torch.allclose(offsets[2, 1], torch.tensor([[0.0, 1.0], [0.0, 2.0]]), atol=1e-6)
    assert torch.allclose(offsets[4, 0], torch.tensor([[-1.0, 0.0], [-2.0, 0.0]]), atol=1e-6)


def test_it_is_traced_by_export():
    attention = DeformableAttention(16, num_heads=2, num_levels=3, num_points=2).eval()
    pixels = sum(height * width for height, width in SIZES)
    x = torch.randn(1, pixels, 16)
    reference_points = torch.rand(1, pixels, 3, 2)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x, reference_points):
            return self.attention(x, reference_points, x, SIZES)

    with torch.no_grad():
        exported = torch.export.export(Model(), (x, reference_points)).module()
        assert torch.allclose(exported(x, reference_points), Model()(x, reference_points), atol=1e-5)


@pytest.mark.parametrize("amp", [False, True])
def test_the_key_for_half_values_reaches_each_layer_and_changes_outputs_by_rounding(amp, monkeypatch):
    sampled, outputs = [], []

    def sample(value, *arguments):
        sampled.append((value.dtype, arguments[1].dtype))
        return sample_levels(value, *arguments)

    monkeypatch.setattr(deformable_attention, "sample_levels", sample)
    for half in ("False", "True"):
        words = ["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"]
        words += ["MODEL.SEM_SEG_HEAD.CONVS_DIM", "64", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "2"]
        words += ["MODEL.MASK_FORMER.DEFORMABLE_HALF_VALUES", half]
        torch.manual_seed(0)
        model = build_model(load_config("panoptic/shapes/mask2former_r18_quarter", words)).eval()
        pixels = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 255
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
            features = model.backbone(pixels / 64 - 2)
            outputs.append(model.sem_seg_head.pixel_decoder(features))
        layers = [module for module in model.modules() if isinstance(module, DeformableAttention)]
        assert {layer.value_dtype for layer in layers} == {torch.bfloat16 if half == "True" else None}
        assert len(layers) == 2
        # The decoder is computed without autocast: positions stay in single precision.
        expected = (torch.bfloat16 if half == "True" else torch.float32), torch.float32
        assert sampled == [expected] * len(layers)
        sampled.clear()
    single, half = (torch.cat([one.flatten() for one in flat(output)]) for output in outputs)
    difference = (half - single).norm() / single.norm()
    # bfloat16 has 8 bits of mantissa.
    assert 0 < difference < 2**-7


def flat(output):
    """The tensors of a nest of tuples, lists and dicts."""
    if isinstance(output, torch.Tensor):
        return [output.float()]
    return [one for part in (output.values() if isinstance(output, dict) else output) for one in flat(part)]


def test_values_in_bfloat16_are_rounded_once_and_everything_else_is_exact():
    torch.manual_seed(0)
    sizes = [(4, 5), (2, 3)]
    layers = [DeformableAttention(16, 2, 2, 3, value_dtype=dtype) for dtype in (torch.bfloat16, None)]
    layers[1].load_state_dict(layers[0].state_dict())
    query, value = torch.randn(2, 7, 16), torch.randn(2, 26, 16)
    points = torch.rand(2, 7, 2, 2)
    rounded = layers[1].value_proj(value).to(torch.bfloat16).float()
    layers[1].value_proj = torch.nn.Identity()
    expected = layers[1](query, points, rounded, sizes)
    actual = layers[0](query, points, value, sizes)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    actual.square().sum().backward()
    assert layers[0].value_proj.weight.grad.abs().sum() > 0
