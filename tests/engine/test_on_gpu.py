"""What a GPU computes in another way than a CPU gives the CPU's results."""

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_tools

from segzoo.engine.ahead import predictions
from segzoo.engine.progress import Stopwatch
from segzoo.evaluation.entity import resolve_overlaps, resolve_overlaps_on_device
from segzoo.evaluation.mask_runs import find_runs
from segzoo.modeling.mask_classification import postprocess
from segzoo.modeling.mask_classification.criterion import RandomPoints
from segzoo.utils.lazy_masks import LazyMasks, is_on_device
from tests.mask_classification.conftest import Scene
from tests.mask_classification.criterion_reference import make_criterion

DEVICE = "cuda"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class HostPoints(RandomPoints):
    """The same points on every device."""

    def _draw(self, purpose_and_start, shape, like):
        return super()._draw(purpose_and_start, shape, like.new_empty((), device="cpu")).to(like.device)


def moved(value):
    """The same outputs or leaves on the GPU, without their history."""
    if isinstance(value, dict):
        return {name: moved(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [moved(one) for one in value]
    return value.detach().to(DEVICE).requires_grad_(value.requires_grad)


@pytest.mark.parametrize("num_points", [0, 40])
@pytest.mark.parametrize("mask_loss", ["focal", "bce"])
def test_losses_and_gradients(num_points, mask_loss):
    scene = Scene(layers=3, num_segments=(3, 0, 5), dtype=torch.float64)
    criterion = make_criterion((2.0, 5.0, 5.0), mask_loss, num_points)
    expected = criterion(scene.outputs, scene.targets, HostPoints(seed=3))
    gradients = torch.autograd.grad(sum(expected.values()), scene.leaves)
    outputs, leaves = moved(scene.outputs), []
    for layer in (*outputs["aux_outputs"], outputs):
        leaves += [layer["pred_logits"], layer["mask_embed"]]
    targets = [target.to(DEVICE) for target in scene.targets]
    found = criterion(outputs, targets, HostPoints(seed=3))
    torch.testing.assert_close({name: loss.cpu() for name, loss in found.items()}, expected)
    on_gpu = torch.autograd.grad(sum(found.values()), [outputs["mask_features"], *leaves])
    for one, other in zip(on_gpu, gradients, strict=True):
        torch.testing.assert_close(one.cpu(), other)


def some_instances(device):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(9, 5, generator=generator).to(device)
    masks = torch.randn(9, 16, 24, generator=generator).to(device)
    return postprocess.instances(logits, masks, (64, 96), (61, 90), (83, 121), max_instances=20)


def test_masks_leave_as_the_runs_of_the_cpu_s_masks():
    found, expected = some_instances(DEVICE), some_instances("cpu")
    assert is_on_device(found.pred_masks)
    torch.testing.assert_close(found.scores.cpu(), expected.scores)
    masks = found.pred_masks.cpu()
    assert (masks != expected.pred_masks).float().mean() < 1e-4
    lazy = LazyMasks(_shown, masks.shape[1:], found.pred_masks)
    for runs in (find_runs(found.pred_masks), find_runs(lazy)):
        for mask, run in zip(masks.numpy(), runs, strict=True):
            assert run["counts"] == mask_tools.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    scores = found.scores.cpu().numpy()
    on_host = resolve_overlaps(masks.numpy(), scores)
    for one in (found.pred_masks, lazy):
        ids, segments, cut = resolve_overlaps_on_device(one, scores)
        np.testing.assert_array_equal(ids, on_host[0])
        assert (segments, cut) == on_host[1:]


def _shown(masks, size):
    return masks


class Slow(torch.nn.Module):
    """A model whose predictions are late, and each the number of the image."""

    def __init__(self):
        super().__init__()
        self.work = torch.nn.Parameter(torch.randn(2000, 2000))

    def forward(self, batched_inputs, *, tasks=None, semantic="scores"):
        late = self.work
        for _ in range(20):
            late = (late @ self.work).clamp(-1, 1)
        number = batched_inputs[0]["number"] + (late[0, 0] * 0).long()
        return [{"sem_seg_labels": number.expand(30, 40), "instances": number.expand(5, 30, 40) % 2 == 1}]


def test_a_batch_is_complete_while_the_next_one_is_computed():
    loader = [[{"number": number}] for number in range(6)]
    with torch.no_grad():
        found = [
            (outputs[0]["sem_seg_labels"].unique().tolist(), len(find_runs(outputs[0]["instances"]).places))
            for _, outputs in predictions(Slow().to(DEVICE), loader, Stopwatch(), tasks=None)
        ]
    # An odd number's five masks have one change each, at their first pixel.
    assert found == [([number], 5 * (number % 2)) for number in range(6)]
