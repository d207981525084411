"""Training and post-processing only use operators that GPUs support, checked without a GPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo.layers.runtime import transferred
from segzoo.modeling.mask_classification import postprocess
from segzoo.modeling.mask_classification.bilinear import MaskResizer
from segzoo.modeling.mask_classification.postprocess.panoptic_fusion import PixelAssignment
from tests.mask_classification.criterion_reference import make_criterion
from tests.processes import pretend_processes

# Missing on Apple's devices, or an error on CUDA devices with torch.use_deterministic_algorithms(True).
REFUSED = ("aten::segment_reduce", "aten::nll_loss2d_forward", "aten::cumsum", "aten::put_", "aten::histc")
WEIGHTS = (2.0, 5.0, 5.0)
SIZES = ((64, 80), (57, 74), (83, 109))


class UnsupportedOperators(TorchDispatchMode):
    """Collects operators that some device does not support."""

    def __init__(self):
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.name().split(".")[0]
        if name in REFUSED or (name == "aten::bincount" and len(args) > 1 and args[1] is not None):
            self.found.add(name)
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                self.found.add(f"{name} returns float64, which Apple's devices do not support")
        return result


@pytest.mark.parametrize("mask_loss", ["focal", "bce"])
@pytest.mark.parametrize("num_points", [0, 40])
def test_losses_and_gradients_need_no_unsupported_operator(make_scene, mask_loss, num_points):
    scene = make_scene()
    criterion = make_criterion(WEIGHTS, mask_loss, num_points)
    with UnsupportedOperators() as unsupported:
        sum(criterion(scene.outputs, scene.targets).values()).backward()
    assert unsupported.found == set()


@pytest.mark.parametrize("name", ["semantic_scores", "semantic_labels", "panoptic", "entities", "instances"])
def test_results_need_no_unsupported_operator(name):
    generator = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(12, 6, generator=generator) * 4, torch.randn(12, 16, 20, generator=generator)
    options = {"is_thing": (True, False, True, False, False)} if name == "panoptic" else {}
    with UnsupportedOperators() as unsupported:
        getattr(postprocess, name)(logits, masks, *SIZES, **options)
    assert unsupported.found == set()


@pytest.mark.parametrize("count", [0, 3])
def test_the_areas_of_all_segments_are_copied_together(count, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    masks, scores = torch.randn(4, 16, 20, generator=generator), torch.rand(count, generator=generator)
    pixels = PixelAssignment(masks, torch.arange(count), scores, MaskResizer(*SIZES), True)
    reads, read = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(tensor) or read(tensor))
    won, of_masks, painted = pixels.areas()
    assert len(reads) == 1
    winner = pixels.winner.numpy()
    assert won == [int((winner == number).sum()) for number in range(1, count + 1)]
    probability = pixels.probability.numpy()
    assert painted == [int(((winner == n) & (probability >= 0.5)).sum()) for n in range(1, count + 1)]
    assert len(of_masks) == count


@pytest.mark.parametrize(("device", "expected"), [("cuda:1", True), ("mps", False), ("cpu", False)])
def test_only_copies_to_cuda_devices_are_non_blocking(device, expected):
    """On Apple's devices a non-blocking copy may read reused memory: pytorch issue 139550."""

    class Recorder:
        def to(self, device, non_blocking):
            return device, non_blocking

    assert transferred(Recorder(), device) == (device, expected)


def test_processes_exchange_three_counts_once_per_step_for_any_number_of_layers(make_scene, monkeypatch):
    sent = []
    pretend_processes(monkeypatch, 1, lambda counts: sent.append(counts.tolist()))
    scene = make_scene(layers=4)
    make_criterion(WEIGHTS)(scene.outputs, scene.targets)
    segments, queries = 3 + 5, 2 * scene.num_queries
    assert sent == [[segments, segments, queries - segments]]
