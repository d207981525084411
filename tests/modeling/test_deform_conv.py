"""Deformable convolution against NumPy, against torchvision where its operator loads, and numerically."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.layers import deform_conv_rows
from segzoo.layers.deform_conv import DeformConv2d, choose_form, convolve_on_grids, deform_conv2d
from segzoo.layers.deform_conv_rows import Geometry
from segzoo.utils.errors import InputError
from tests.modeling.deform_conv_reference import deform_conv

# groups, deformable groups, modulated, bias, kernel, stride, padding, dilation
CASES = [
    (1, 1, True, True, (3, 3), (1, 1), (1, 1), (1, 1)),
    (1, 1, False, False, (3, 3), (2, 2), (1, 1), (1, 1)),
    (2, 1, True, False, (3, 3), (1, 1), (2, 2), (2, 2)),
    (1, 3, False, True, (3, 2), (2, 1), (1, 2), (1, 2)),
    (3, 2, True, True, (1, 3), (1, 2), (0, 1), (2, 1)),
]


def make_inputs(case, dtype=torch.float64, size=(6, 7), spread=2.0, num_images=2):
    """Return x, offset, weight, bias, stride, padding, dilation, mask: some positions are outside."""
    groups, parts, modulated, bias, kernel, stride, padding, dilation = case
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    taps = kernel[0] * kernel[1]
    output = Geometry(stride, padding, dilation).output_size(size, kernel)
    x, weight = draw(num_images, 12, *size), draw(6, 12 // groups, *kernel)
    offset = spread * draw(num_images, parts * taps * 2, *output)
    mask = draw(num_images, parts * taps, *output).sigmoid() if modulated else None
    return [x, offset, weight, draw(6) if bias else None, stride, padding, dilation, mask]


def on_grids(x, offset, weight, bias, stride, padding, dilation, mask):
    return convolve_on_grids(x, offset, weight, bias, mask, Geometry(stride, padding, dilation))


def with_gradients(convolve, inputs):
    """Return the output and the gradients by all tensors."""
    inputs = [tensor.clone().requires_grad_() if isinstance(tensor, Tensor) else tensor for tensor in inputs]
    output = convolve(*inputs)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    leaves = [tensor for tensor in inputs if isinstance(tensor, Tensor)]
    return [output.detach(), *torch.autograd.grad(output, leaves, direction)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("convolve", [deform_conv2d, on_grids])
def test_the_output_is_that_of_the_definition(convolve, case):
    inputs = make_inputs(case)
    expected = deform_conv(*(value.numpy() if isinstance(value, Tensor) else value for value in inputs))
    torch.testing.assert_close(convolve(*inputs), torch.from_numpy(expected), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", CASES[1:])
def test_gradients_are_those_of_finite_differences(case):
    inputs = make_inputs(case, size=(3, 2), num_images=1)
    # Not on the lines between pixels, where the derivative jumps.
    inputs[1] = inputs[1].floor() + 0.05 + 0.9 * (inputs[1] - inputs[1].floor())
    tensors = [value.requires_grad_() for value in inputs if isinstance(value, Tensor)]

    def convolve(*tensors: Tensor) -> Tensor:
        values = iter(tensors)
        return deform_conv2d(*(next(values) if isinstance(value, Tensor) else value for value in inputs))

    assert torch.autograd.gradcheck(convolve, tensors, fast_mode=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_torchvision(case, dtype):
    torchvision = pytest.importorskip("torchvision")
    if not torchvision.extension._has_ops():
        pytest.skip("torchvision's compiled operators do not load with this torch")
    inputs = make_inputs(case, dtype, spread=4.0)
    expected = with_gradients(torchvision.ops.deform_conv2d, inputs)
    for convolve in (deform_conv2d, on_grids):
        # Grids have coordinates relative to the size, which are rounded in float32.
        tolerance = 1e-12 if dtype == torch.float64 else 5e-6 if convolve is on_grids else 1e-6
        for found, peer in zip(with_gradients(convolve, inputs), expected, strict=True):
            assert (found - peer).abs().max() <= tolerance * peer.abs().max()


def test_at_the_border_gradients_are_one_sided():
    """Positions exactly one pixel outside: at -1 the value rises inwards, at H it is 0 on both sides."""
    x, weight = torch.ones(1, 1, 2, 2, dtype=torch.float64), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for y, expected in ((-1.0, 1.0), (-1.5, 0.0), (2.0, 0.0), (1.5, -1.0), (-0.5, 1.0), (40.0, 0.0)):
        offset = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
        offset[0, 0, 0, 0] = y
        offset.requires_grad_()
        deform_conv2d(x, offset, weight)[0, 0, 0, 0].backward()
        assert offset.grad[0, 0, 0, 0].item() == expected, y


def test_without_offsets_it_is_a_convolution():
    x, weight = torch.randn(2, 8, 9, 7), torch.randn(6, 4, 3, 3)
    found = deform_conv2d(x, torch.zeros(2, 18, 5, 4), weight, stride=2, padding=1)
    torch.testing.assert_close(
        found, F.conv2d(x, weight, stride=2, padding=1, groups=2), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("case", [CASES[0], CASES[4]])
def test_blocks_do_not_change_the_result(case, monkeypatch):
    inputs = make_inputs(case)
    whole = with_gradients(deform_conv2d, inputs)
    monkeypatch.setattr(deform_conv_rows, "VALUES_AT_A_TIME", 12 * 9 * 4)
    for found, expected in zip(with_gradients(deform_conv2d, inputs), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_inputs_are_kept_as_they_are():
    inputs = make_inputs((1, 1, False, False, (1, 1), (1, 1), (0, 0), (1, 1)))
    before = [value.clone() if isinstance(value, Tensor) else value for value in inputs]
    deform_conv2d(*inputs)
    for value, original in zip(inputs, before, strict=True):
        if isinstance(value, Tensor):
            assert torch.equal(value, original)


def test_the_result_may_be_modified_in_place_and_has_the_memory_format_of_the_image():
    x, offset, weight, *others = make_inputs(CASES[0])
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = x.clone().requires_grad_()
        result = deform_conv2d(leaf.contiguous(memory_format=layout), offset, weight, *others)
        assert result.is_contiguous(memory_format=layout)
        F.relu_(result).sum().backward()
        assert leaf.grad.abs().sum() > 0


def test_nan_offsets_give_nan_and_an_empty_batch_an_empty_result():
    x, offset, weight, *others = make_inputs(CASES[0])
    offset[0, 3, 2, 2] = torch.nan
    found = deform_conv2d(x, offset, weight, *others)
    assert found[0, :, 2, 2].isnan().all()
    assert found.isnan().sum() == 6
    others[-1] = others[-1][:0]
    leaf = x[:0].requires_grad_()
    found = deform_conv2d(leaf, offset[:0], weight, *others)
    assert found.shape == (0, 6, 6, 7)
    found.sum().backward()


def test_half_precision_is_computed_in_float32():
    x, offset, weight, *others, mask = make_inputs(CASES[0], torch.float32)
    expected = deform_conv2d(x.bfloat16().float(), offset, weight, *others, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = deform_conv2d(x.bfloat16(), offset, weight, *others, mask)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected.bfloat16())


def test_the_implementation_follows_from_the_situation():
    assert choose_form("cpu", has_operator=True) == "rows"
    assert choose_form("cpu", traced=True) == "grids"
    assert choose_form("cuda", has_operator=True) == "torchvision"
    assert choose_form("cuda", has_operator=True, deterministic=True) == "rows"
    assert choose_form("cuda", has_operator=True, traced=True) == "grids"
    assert choose_form("cuda") == choose_form("mps", has_operator=True) == "grids"


def test_the_layer_has_the_parameters_and_results_of_its_arguments():
    torch.manual_seed(0)
    layer = DeformConv2d(
        8, 4, 3, stride=2, padding=2, dilation=2, groups=2, deformable_groups=4, norm=torch.nn.BatchNorm2d(4)
    )
    assert (layer.offset_channels, layer.mask_channels) == (72, 36)
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.named_parameters()}
    assert shapes == {"weight": (4, 4, 3, 3), "bias": (4,), "norm.weight": (4,), "norm.bias": (4,)}
    x, offset, mask = torch.randn(1, 8, 7, 7), torch.randn(1, 72, 4, 4), torch.rand(1, 36, 4, 4)
    with torch.no_grad():
        layer.bias += 0.5
        found = layer.eval()(x, offset, mask)
        arrays = [tensor.numpy() for tensor in (x, offset, layer.weight, layer.bias)]
        expected = deform_conv(*arrays, (2, 2), (2, 2), (2, 2), mask.numpy())
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": torch.zeros(1, 17, 8, 8)}, "offset has 17 channels; expected 18"),
        ({"offset": torch.zeros(1, 18, 7, 8)}, r"offset is \(1, 18, 7, 8\); expected \(1, 18, 8, 8\)"),
        ({"mask": torch.ones(1, 18, 8, 8)}, r"mask is \(1, 18, 8, 8\); expected \(1, 9, 8, 8\)"),
        ({"weight": torch.ones(4, 3, 3, 3)}, r"weight is \(4, 3, 3, 3\), but x has 4 channels"),
        ({"x": torch.ones(4, 8, 8)}, "expected tensors of four dimensions"),
        ({"dilation": 9}, r"dilation \(9, 9\) is larger than an image of \(8, 8\)"),
    ],
)
def test_wrong_shapes_are_refused_in_one_line(change, message):
    arguments = {
        **{"x": torch.ones(1, 4, 8, 8), "offset": torch.zeros(1, 18, 8, 8), "weight": torch.ones(4, 4, 3, 3)},
        **{"padding": 1, **change},
    }
    with pytest.raises(InputError, match=message) as caught:
        deform_conv2d(**arguments)
    assert "\n" not in str(caught.value)


def test_channels_that_cannot_be_divided_are_refused():
    with pytest.raises(InputError, match="in_channels 8 cannot be divided into 3 groups"):
        DeformConv2d(8, 8, 3, deformable_groups=3)
