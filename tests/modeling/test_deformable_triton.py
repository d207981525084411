"""The Triton kernels equal the definition. Without a GPU, Triton's interpreter runs them on a CPU."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segzoo.layers import deformable_sampling
from segzoo.layers.deformable_attention import DeformableAttention, sample_levels
from segzoo.layers.deformable_sampling import SampleByTriton, sample_levels_on_grids
from tests.modeling.deformable_inputs import SIZES, make_inputs, to_device

REPOSITORY = Path(__file__).resolve().parent.parent.parent
HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
with_kernels = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="without a GPU the interpreter's test runs this one"
)
on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")


@pytest.mark.skipif(INTERPRETED, reason="is the interpreter's own run")
def test_kernels_in_the_interpreter():
    """In a separate process, because Triton selects its interpreter when it is imported."""
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    run = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert " passed" in run.stdout


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kernel", ["_sample", "_sample_gradients"])
def test_kernels_compile_without_a_gpu(kernel, dtype):
    """The interpreter accepts code that the compiler rejects."""
    triton = pytest.importorskip("triton", "3.4")
    from segzoo.layers import deformable_triton

    kernel = getattr(deformable_triton, kernel)
    constants = {
        "num_heads": 2,
        "num_levels": 1,
        "num_points": 2,
        "num_channels": 20,
        "block": 8,
        "columns": 32,
    }
    constants |= {"needs_value": True, "needs_samples": True}
    constants = {name: constants[name] for name in kernel.arg_names if name in constants}
    types = {"value": f"*{dtype}", "heights": ("fp32",), "widths": ("fp32",)}
    types |= dict.fromkeys(deformable_triton._CHANGING, "i32") | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
    source = triton.compiler.ASTSource(kernel, signature, constants)
    target = triton.backends.compiler.GPUTarget("cuda", 80, 32)
    assert triton.compile(source, target=target).asm["ptx"]


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("capability", "vector"), [(80, ""), (90, ".v4")])
def test_a_hopper_gpu_adds_four_channels_by_one_atomic_operation(dtype, capability, vector):
    """So the backward pass has a quarter of the atomic operations of earlier GPUs."""
    triton = pytest.importorskip("triton", "3.6")
    from segzoo.layers import deformable_triton

    kernel, (block, warps) = deformable_triton._sample_gradients, deformable_triton._GRADIENTS_SHAPE
    constants = {"num_heads": 8, "num_levels": 3, "num_points": 4, "num_channels": 32, "columns": 32}
    constants |= {"block": block, "needs_value": True, "needs_samples": True}
    types = {"value": f"*{dtype}", "heights": ("fp32",) * 3, "widths": ("fp32",) * 3}
    types |= dict.fromkeys(deformable_triton._CHANGING, "i32") | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
    # PyTorch allocates at multiples of 16 bytes, which Triton sees at a launch.
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if str(signature[name]).startswith("*")
    }
    source = triton.compiler.ASTSource(kernel, signature, constants, aligned)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    ptx = triton.compile(source, target=target, options={"num_warps": warps}).asm["ptx"]
    found = re.findall(r"(?:atom|red)\.global[\w.]*\.add(\.v\d)?\.f32", ptx)
    # Of a thread: 8 queries x 4 corners x 32 channels / 32 threads, for each level.
    assert found == [vector] * (3 * 32 // (4 if vector else 1))


def results_of(sample, inputs):
    sampled = sample(inputs[0], SIZES, *inputs[1:])
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(sampled.shape, generator=generator, dtype=torch.float64)
    leaves = [tensor for tensor in inputs if tensor.requires_grad]
    return [sampled, *torch.autograd.grad(sampled, leaves, direction.to(sampled))]


def assert_kernels_agree(inputs, tolerance, value_tolerance=None):
    """Compare with the definition in double precision; value_tolerance is for the value's gradient."""
    ours = results_of(SampleByTriton.apply, to_device(inputs, DEVICE))
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    reference = results_of(sample_levels_on_grids, doubles)
    assert deformable_sampling._triton_problem is None
    tolerances = [tolerance, value_tolerance or tolerance, tolerance, tolerance]
    for one, other, allowed in zip(ours, reference, tolerances, strict=True):
        assert torch.isfinite(one).all()
        assert (one.cpu() - other).norm() <= allowed * other.norm()


@with_kernels
@pytest.mark.parametrize(
    ("dtype", "tolerance", "value_tolerance"),
    [
        (torch.float64, 1e-14, None),
        (torch.float32, 1e-6, None),
        # The gradient by the value is rounded to the value's dtype.
        (torch.bfloat16, 1e-6, 3e-3),
        (torch.float16, 1e-6, 4e-4),
    ],
)
def test_every_precision(dtype, tolerance, value_tolerance):
    assert_kernels_agree(make_inputs(dtype, images=1), tolerance, value_tolerance)


@with_kernels
@pytest.mark.parametrize(
    "shape",
    [
        {"queries": 1, "channels": 1, "heads": 1, "points": 1},
        # More than one program of queries in both directions, the last with a single one.
        {"queries": 33, "channels": 4, "heads": 1, "points": 1, "images": 1},
        {"channels": 20, "images": 3, "points": 1, "heads": 1},
    ],
)
def test_sizes_that_do_not_fill_blocks(shape):
    assert_kernels_agree(make_inputs(**shape), 1e-14)


@with_kernels
def test_pixel_centers_borders_and_far_away():
    assert_kernels_agree(make_inputs(border=True), 1e-14)


@with_kernels
def test_nan_locations_give_nan():
    value, locations, weights = to_device(make_inputs(images=1, heads=1), DEVICE)
    with torch.no_grad():
        locations[0, 3, 0, 0, 0, 1] = torch.nan
        sampled = SampleByTriton.apply(value, SIZES, locations, weights)
    assert sampled.isnan().all(-1).flatten().nonzero().flatten().tolist() == [3]


@with_kernels
def test_any_strides():
    """Locations with the queries last in memory, weights that two images share, values with gaps."""
    value, locations, weights = (tensor.detach() for tensor in make_inputs(heads=1))
    locations = locations.movedim(1, -1).contiguous().movedim(-1, 1)
    weights = weights[:1].expand_as(weights)
    value = value.repeat_interleave(2, dim=1)[:, ::2]
    assert_kernels_agree([tensor.requires_grad_() for tensor in (value, locations, weights)], 1e-14)


@with_kernels
@pytest.mark.parametrize("trained", [(0,), (2,), (1, 2)])
def test_only_needed_gradients_are_computed(trained):
    inputs = to_device(make_inputs(images=1), DEVICE)
    for index, tensor in enumerate(inputs):
        tensor.requires_grad_(index in trained)
    ours, reference = (
        results_of(sample, inputs) for sample in (SampleByTriton.apply, sample_levels_on_grids)
    )
    assert len(ours) == 1 + len(trained)
    for one, other in zip(ours, reference, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@with_kernels
@pytest.mark.parametrize(("images", "queries"), [(2, 0), (0, 9)])
def test_no_images_or_queries(images, queries):
    inputs = to_device(make_inputs(images=images, queries=queries), DEVICE)
    for result in results_of(SampleByTriton.apply, inputs):
        assert not result.any()


@on_gpu
def test_gradients_are_numerically_right():
    inputs = to_device(make_inputs(images=1, queries=4, channels=2), "cuda")
    assert torch.autograd.gradcheck(
        lambda *tensors: sample_levels(tensors[0], SIZES, *tensors[1:]), inputs, nondet_tol=1e-12
    )


@on_gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_the_layer_agrees_with_its_plain_implementation(dtype, monkeypatch):
    """In single precision, and with half-precision values under autocast."""
    torch.manual_seed(0)
    attention = DeformableAttention(256).cuda()
    pixels = sum(height * width for height, width in SIZES)
    query = torch.randn(2, pixels, 256, device="cuda")
    reference_points = torch.rand(2, pixels, 3, 2, device="cuda")

    def gradients(requested):
        monkeypatch.setattr(deformable_sampling, "_requested", requested)
        x = query.clone().requires_grad_()
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            result = attention(x, reference_points, x, SIZES)
        return [result, *torch.autograd.grad(result.float().square().mean(), [x, *attention.parameters()])]

    allowed = 1e-5 if dtype is None else 2e-2
    for one, other in zip(gradients("triton"), gradients("plain"), strict=True):
        assert (one - other).norm() <= allowed * other.norm()


@on_gpu
def test_deterministic_gradients_repeat_to_the_last_bit():
    inputs = to_device(make_inputs(torch.float32, queries=3000, channels=32), "cuda")
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (results_of(sample_levels, inputs) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(deterministic)
    assert all(map(torch.equal, first, second))
