"""What GPUs ask of training and post-processing, checked where there is none: by the operators that run."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo.layers.runtime import transferred
from segzoo.modeling.mask_classification import postprocess
from tests.mask_classification.criterion_reference import make_criterion

# Not there on Apple's devices, or an error on CUDA devices under torch.use_deterministic_algorithms(True).
REFUSED = ("aten::segment_reduce", "aten::nll_loss2d_forward", "aten::cumsum", "aten::put_", "aten::histc")
WEIGHTS = (2.0, 5.0, 5.0)
SIZES = ((64, 80), (57, 74), (83, 109))


class Demands(TorchDispatchMode):
    """Collects what not every device can do."""

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
                self.found.add(f"{name} gives float64, which Apple's devices have not")
        return result


@pytest.mark.parametrize("mask_loss", ["focal", "bce"])
@pytest.mark.parametrize("num_points", [0, 40])
def test_losses_and_gradients_need_nothing_that_a_device_lacks(make_scene, mask_loss, num_points):
    scene = make_scene()
    criterion = make_criterion(WEIGHTS, mask_loss, num_points)
    with Demands() as demands:
        sum(criterion(scene.outputs, scene.targets).values()).backward()
    assert demands.found == set()


@pytest.mark.parametrize("name", ["semantic_scores", "semantic_labels", "panoptic", "entities", "instances"])
def test_results_need_nothing_that_a_device_lacks(name):
    generator = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(12, 6, generator=generator) * 4, torch.randn(12, 16, 20, generator=generator)
    options = {"is_thing": (True, False, True, False, False)} if name == "panoptic" else {}
    with Demands() as demands:
        getattr(postprocess, name)(logits, masks, *SIZES, **options)
    assert demands.found == set()


@pytest.mark.parametrize(("device", "expected"), [("cuda:1", True), ("mps", False), ("cpu", False)])
def test_only_copies_to_cuda_devices_are_not_waited_for(device, expected):
    """On Apple's a copy that is not waited for reads memory that is used again: pytorch issue 139550."""

    class Recorder:
        def to(self, device, non_blocking):
            return device, non_blocking

    assert transferred(Recorder(), device) == (device, expected)


def test_processes_exchange_three_counts_once_a_step_whatever_the_number_of_layers(make_scene, monkeypatch):
    sent = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: sent.append(tensor.tolist()))
    scene = make_scene(layers=4)
    make_criterion(WEIGHTS)(scene.outputs, scene.targets)
    segments, queries = 3 + 5, 2 * scene.num_queries
    assert sent == [[segments, segments, queries - segments]]
