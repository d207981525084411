"""Linear layers by oneDNN equal PyTorch's own, forward and backward."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import segzoo.layers.linear_layer as module
from segzoo.layers import Conv2d, Linear, linear


@pytest.fixture(autouse=True)
def by_onednn(monkeypatch):
    """Use oneDNN on any CPU, for products of any size."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(module, "_WORTHWHILE", 0)


def tensors(shape, out_features, bias=True):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator).requires_grad_()
    weight = torch.randn(out_features, shape[-1], generator=generator).requires_grad_()
    return x, weight, torch.randn(out_features, generator=generator).requires_grad_() if bias else None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "out_features"), [((2, 5, 7), 3), ((1, 16), 33), ((4, 2, 3, 8), 8)])
def test_values_and_gradients_are_those_of_the_definition(shape, out_features, bias):
    inputs = tensors(shape, out_features, bias)
    expected_inputs = tuple(None if one is None else one.detach().double().requires_grad_() for one in inputs)
    actual, expected = linear(*inputs), F.linear(*expected_inputs)
    assert type(actual.grad_fn.next_functions[0][0]).__name__ == "_OneDNNLinearBackward"
    assert torch.allclose(actual.double(), expected, atol=1e-5)
    outer = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    actual.backward(outer)
    expected.backward(outer.double())
    for one, other in zip(inputs, expected_inputs, strict=True):
        if one is not None:
            assert torch.allclose(one.grad.double(), other.grad, atol=1e-4)


def test_inputs_may_be_views():
    x = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0)).permute(2, 1, 0)
    _, weight, bias = tensors((1, 6), 3)
    with torch.no_grad():
        assert torch.allclose(linear(x, weight, bias), F.linear(x, weight, bias), atol=1e-5)


def test_frozen_weights_get_no_gradient():
    x, weight, bias = tensors((3, 6), 4)
    linear(x, weight.detach(), bias.detach()).sum().backward()
    assert torch.allclose(x.grad, weight.sum(0).expand(3, 6), atol=1e-5)


def test_a_bias_trained_alone_gets_its_gradient():
    x, weight, bias = tensors((2, 3, 6), 4)
    linear(x.detach(), weight.detach(), bias).sum().backward()
    assert torch.equal(bias.grad, torch.full((4,), 6.0))


@pytest.mark.parametrize("shape", [(3, 6), (2, 5, 6), (2, 3, 5, 6)])
def test_outputs_may_be_modified_in_place_in_training(shape):
    x, weight, bias = tensors(shape, 4)
    y = linear(x, weight, bias)
    y += 1
    permuted = linear(x, weight, bias).movedim(-1, 0)
    permuted *= 2
    (y.sum() + permuted.sum()).backward()
    assert torch.allclose(x.grad, 3 * weight.detach().sum(0).expand(shape), atol=1e-5)


def test_a_weight_with_gaps_does_not_use_the_slow_reference_code(capfd):
    x, whole, _ = tensors((40, 64), 48)
    with torch.no_grad(), torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        cut = linear(x[:, :32], whole[:, 32:])
        stepped = linear(x[:, :32], whole[:, ::2])
    assert torch.allclose(cut, x[:, :32] @ whole[:, 32:].T, atol=1e-4)
    assert torch.allclose(stepped, x[:, :32] @ whole[:, ::2].T, atol=1e-4)
    log = capfd.readouterr().out
    assert log.count(",inner_product,") == 2
    assert ",ref:any," not in log


def test_second_derivatives_and_vmap_equal_the_definition():
    x, weight, bias = tensors((5, 6), 4)

    def curvature(function):
        (slope,) = torch.autograd.grad(function(x, weight, bias).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.sum(), weight)[0]

    assert torch.allclose(curvature(linear), curvature(F.linear), rtol=1e-4, atol=1e-3)
    per_sample = torch.func.vmap(torch.func.grad(lambda row: linear(row, weight, bias).sum()))(x.detach())
    assert torch.allclose(per_sample, weight.sum(0).expand(5, 6), atol=1e-5)


def test_a_wrong_shape_gives_pytorchs_message():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(torch.randn(4, 5), torch.randn(3, 6))


def test_autocast_double_and_tracing_use_pytorchs_own():
    layer = Linear(6, 4)
    x = torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
    traced = torch.jit.trace(nn.Sequential(Linear(6, 4)), x)
    assert "mkldnn" not in str(traced.inlined_graph)


def test_the_layer_has_the_parameters_of_a_linear_layer():
    layer, plain = Linear(6, 4), nn.Linear(6, 4)
    plain.load_state_dict(layer.state_dict(), strict=True)
    x = torch.randn(2, 6)
    assert torch.allclose(layer(x), plain(x), atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("stride", "bias"), [(1, True), (2, False)])
def test_pointwise_convolutions_are_those_of_the_definition(layout, stride, bias):
    generator = torch.Generator().manual_seed(0)
    convolution = Conv2d(6, 5, 1, stride=stride, bias=bias, activation=F.relu_)
    x = torch.randn(2, 6, 7, 8, generator=generator).contiguous(memory_format=layout).requires_grad_()
    reference = [x, *convolution.parameters()]
    doubles = [one.detach().double().requires_grad_() for one in reference]
    actual = convolution(x)
    expected = torch.einsum("nchw,dc->ndhw", doubles[0][..., ::stride, ::stride], doubles[1][..., 0, 0])
    expected = (expected + doubles[2][:, None, None] if bias else expected).clamp(min=0)
    assert torch.allclose(actual.double(), expected, atol=1e-5)
    outer = torch.randn(expected.shape, generator=generator)
    actual.backward(outer)
    expected.backward(outer.double())
    for one, other in zip(reference, doubles, strict=True):
        assert torch.allclose(one.grad.double(), other.grad, atol=1e-4)


def test_a_convolution_takes_an_image_without_a_batch_and_an_empty_batch():
    convolution = Conv2d(3, 4, 1)
    x = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(convolution(x), convolution(x[None])[0], atol=1e-6)
    assert convolution(torch.empty(0, 3, 2, 5)).shape == (0, 4, 2, 5)
