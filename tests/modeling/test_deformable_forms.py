"""The implementations of deformable attention agree with the definition, and the right one is chosen."""

import logging
import sys
from types import SimpleNamespace

import pytest
import torch

from segzoo.layers import deformable_sampling
from segzoo.layers.deformable_attention import sample_levels
from segzoo.layers.deformable_sampling import SampleByTriton, choose_form, sample_levels_on_grids
from segzoo.utils.errors import InputError
from tests.modeling.deformable_inputs import SIZES, make_inputs

LOGGER = deformable_sampling.logger.name


def results_of(sample, inputs, direction=None):
    """Return the samples, and the gradients of the inputs that require them."""
    sampled = sample(inputs[0], SIZES, *inputs[1:])
    if direction is None:
        direction = torch.randn(
            sampled.shape, generator=torch.Generator().manual_seed(1), dtype=sampled.dtype
        )
    leaves = [tensor for tensor in inputs if tensor.requires_grad]
    return [sampled, *torch.autograd.grad(sampled, leaves, direction)]


def assert_agree(ours, reference, tolerance=1e-12):
    for one, other in zip(ours, reference, strict=True):
        assert torch.allclose(one, other.to(one.dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("situation", "form"),
    [
        ({"device": "cpu"}, "rows"),
        ({"device": "cpu", "traced": True}, "grids"),
        ({"device": "cpu", "deterministic": True}, "rows"),
        ({"device": "cpu", "requested": "triton"}, "triton"),
        ({"device": "cuda"}, "triton"),
        ({"device": "cuda", "deterministic": True}, "triton"),
        ({"device": "cuda", "traced": True}, "grids"),
        ({"device": "cuda", "requested": "plain"}, "grids"),
        ({"device": "cuda", "requested": "plain", "deterministic": True}, "rows"),
        ({"device": "cuda", "triton_problem": "Triton is not installed"}, "grids"),
        ({"device": "cuda", "triton_problem": "it failed", "deterministic": True}, "rows"),
        ({"device": "mps"}, "grids"),
        ({"device": "mps", "deterministic": True}, "grids"),
        ({"device": "xpu"}, "grids"),
    ],
)
def test_the_implementation_follows_from_the_situation(situation, form):
    assert choose_form(**situation)[0] == form


def test_the_reason_names_the_obstacle():
    assert choose_form("cuda", triton_problem="Triton is not installed")[1] == "Triton is not installed"
    assert choose_form("cuda", requested="plain")[1] == "SEGZOO_DEFORMABLE_ATTENTION=plain"


@pytest.mark.parametrize("requested", ["Triton", "", "grids"])
def test_an_unknown_request_is_refused(requested):
    with pytest.raises(InputError, match="expected auto, plain or triton"):
        choose_form("cpu", requested=requested)


def test_a_request_for_kernels_without_triton_is_refused():
    with pytest.raises(InputError, match="Triton is not installed; set it to auto or plain"):
        choose_form("cuda", requested="triton", triton_problem="Triton is not installed")


def test_the_implementation_is_logged_once(caplog):
    deformable_sampling._log_choice.cache_clear()
    inputs = make_inputs()
    with caplog.at_level(logging.INFO, LOGGER):
        for _ in range(3):
            sample_levels(inputs[0], SIZES, *inputs[1:])
    assert caplog.messages == ["deformable attention: sums of table rows (cpu)"]


@pytest.mark.parametrize("border", [False, True])
def test_rows_agree_with_grid_sample(border):
    """Also at borders and on pixels, where the gradient by the location is one-sided."""
    inputs = make_inputs(border=border)
    assert_agree(results_of(sample_levels, inputs), results_of(sample_levels_on_grids, inputs))


@pytest.mark.parametrize("trained", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_any_of_the_inputs_may_be_constant(trained):
    inputs = make_inputs()
    for index, tensor in enumerate(inputs):
        tensor.requires_grad_(index in trained)
    ours = results_of(sample_levels, inputs)
    assert len(ours) == 1 + len(trained)
    assert_agree(ours, results_of(sample_levels_on_grids, inputs))


def test_inputs_may_have_any_strides():
    inputs = make_inputs()
    reference = results_of(sample_levels_on_grids, inputs)
    strided = [tensor.detach().transpose(0, -1).contiguous().transpose(0, -1) for tensor in inputs]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert_agree(results_of(sample_levels, [tensor.requires_grad_() for tensor in strided]), reference)
    # Locations of one image for all, and a gradient expanded from one number.
    value, locations, weights = inputs
    shared = [value, locations.detach()[:1].expand_as(locations).requires_grad_(), weights]
    direction = torch.ones((), dtype=torch.float64).expand(2, 9, 6)
    assert_agree(
        results_of(sample_levels, shared, direction), results_of(sample_levels_on_grids, shared, direction)
    )


@pytest.mark.parametrize(("images", "queries"), [(2, 0), (0, 9)])
def test_inputs_may_have_no_images_or_queries(images, queries):
    inputs = make_inputs(images=images, queries=queries)
    sampled, *gradients = results_of(sample_levels, inputs)
    assert sampled.shape == (images, queries, 6)
    for gradient, tensor in zip(gradients, inputs, strict=True):
        assert gradient.shape == tensor.shape
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    inputs = make_inputs(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        ours = results_of(sample_levels, inputs)
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    reference = results_of(sample_levels_on_grids, doubles, ours[0].new_tensor(0).double().expand(2, 9, 6))
    assert torch.allclose(ours[0].double(), reference[0], atol=1e-5)
    assert [tensor.dtype for tensor in ours] == [torch.float32, dtype, torch.float32, torch.float32]


def test_second_derivatives_are_refused():
    inputs = make_inputs()
    sampled = sample_levels(inputs[0], SIZES, *inputs[1:])
    (gradient,) = torch.autograd.grad(sampled.square().sum(), inputs[1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_compiled_graph_has_no_breaks():
    inputs = make_inputs()
    compiled = torch.compile(
        lambda value, locations, weights: sample_levels(value, SIZES, locations, weights),
        backend="eager",
        fullgraph=True,
    )
    ours = results_of(lambda value, _, *samples: compiled(value, *samples), inputs)
    assert_agree(ours, results_of(sample_levels_on_grids, inputs))


def refuse(*_):
    raise RuntimeError("no compiler\nand more lines")


def out_of_memory(*_):
    raise torch.cuda.OutOfMemoryError("too large")


def sample_as_defined(value, heights, widths, locations, weights):
    return sample_levels_on_grids(value, list(zip(heights, widths, strict=True)), locations, weights)


@pytest.fixture
def kernels(monkeypatch):
    """Replace the module of the kernels by working functions that a test may replace."""
    stand_in = SimpleNamespace(sample=sample_as_defined, sample_gradients=refuse)
    monkeypatch.setattr(deformable_sampling, "_triton_problem", None)
    monkeypatch.setitem(sys.modules, "segzoo.layers.deformable_triton", stand_in)
    monkeypatch.setattr(sys.modules["segzoo.layers"], "deformable_triton", stand_in, raising=False)
    return stand_in


@pytest.mark.parametrize("fails", ["sample", "sample_gradients"])
def test_failing_kernels_are_replaced_with_one_warning(fails, kernels, caplog):
    setattr(kernels, fails, refuse)
    inputs = make_inputs()
    with caplog.at_level(logging.WARNING, LOGGER):
        for _ in range(2):
            ours = results_of(SampleByTriton.apply, inputs)
            assert_agree(ours, results_of(sample_levels_on_grids, inputs))
    (message,) = caplog.messages
    assert "the Triton kernels failed with RuntimeError: no compiler; using F.grid_sample" in message


def test_failing_kernels_are_an_error_if_they_were_requested(kernels, monkeypatch):
    monkeypatch.setattr(deformable_sampling, "_requested", "triton")
    kernels.sample = refuse
    inputs = make_inputs()
    with pytest.raises(RuntimeError, match="no compiler"):
        sample_levels(inputs[0], SIZES, *inputs[1:])


def test_out_of_memory_does_not_disable_the_kernels(kernels):
    kernels.sample = out_of_memory
    inputs = make_inputs()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        SampleByTriton.apply(inputs[0], SIZES, *inputs[1:])
    assert deformable_sampling._triton_problem is None


def test_deterministic_gradients_are_not_those_of_the_kernels(kernels):
    inputs = make_inputs(torch.float32)
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        ours = results_of(SampleByTriton.apply, inputs)
    finally:
        torch.use_deterministic_algorithms(deterministic)
    # The stand-in's gradients would fail, and grid_sample's would differ in the last bits.
    assert deformable_sampling._triton_problem is None
    for one, other in zip(ours[1:], results_of(sample_levels, inputs)[1:], strict=True):
        assert torch.equal(one, other)
