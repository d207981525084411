"""Matching and losses take few operations, however many layers, images and segments there are."""

from collections import Counter

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo.layers.runtime import PendingCopy
from segzoo.modeling.mask_classification.criterion import (
    ClassCost,
    DecoderOutputs,
    HungarianMatcher,
    MaskCost,
    RandomPoints,
    assignment,
    matcher,
)
from segzoo.modeling.mask_classification.criterion.fused_criterion import MatchedMasks
from tests.mask_classification.criterion_reference import make_criterion, make_matcher
from tests.processes import pretend_processes

WEIGHTS = (2.0, 5.0, 5.0)
# They start no kernel.
_FREE = (
    *("view", "_unsafe_view", "_reshape_alias", "as_strided", "alias", "detach", "select", "slice", "split"),
    *("t", "transpose", "permute", "expand", "squeeze", "unsqueeze", "unbind", "split_with_sizes"),
    *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh"),
)


class Operations(TorchDispatchMode):
    """Counts operations that compute or copy."""

    def __init__(self):
        super().__init__()
        self.seen: Counter = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split(".")[0].removeprefix("aten::")
        if name not in _FREE:
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def operations(scene, num_points, mask_loss) -> tuple[int, int, int]:
    """Return the numbers for matching, for losses including matching, and for the backward pass."""
    criterion = make_criterion(WEIGHTS, mask_loss, num_points)
    outputs = scene.outputs
    with Operations() as matching:
        criterion.matcher(DecoderOutputs(outputs), scene.targets)
    with Operations() as forward:
        losses = criterion(outputs, scene.targets)
    total = sum(losses.values())
    with Operations() as backward:
        total.backward()
    return tuple(sum(one.seen.values()) for one in (matching, forward, backward))


@pytest.mark.parametrize("num_points", [0, 40])
@pytest.mark.parametrize("mask_loss", ["focal", "bce"])
def test_the_number_of_operations_hardly_depends_on_layers_images_and_segments(
    make_scene, num_points, mask_loss
):
    few = operations(make_scene(layers=2, num_segments=(3, 2)), num_points, mask_loss)
    many = operations(make_scene(layers=10, num_segments=(9, 1, 5, 7)), num_points, mask_loss)
    # 4 images, 10 layers and 220 matched masks.
    assert many[0] <= (130 if num_points else 60)
    assert many[1] <= (340 if num_points else 185)
    assert many[2] <= 40
    # For each image, the padding of its classes, and the products of embeddings and features.
    assert many[0] - few[0] <= 2 + 2
    assert many[1] - few[1] <= 2 * 6 + 4
    # Autograd returns to the classes and embeddings of each layer.
    assert many[2] - few[2] <= 2 * 8


@pytest.mark.parametrize("num_points", [0, 40])
def test_the_gradient_in_the_backward_pass_is_that_of_the_forward_pass(make_scene, monkeypatch, num_points):
    """The first is what GPUs compute, without reading anything back."""
    scene = make_scene(dtype=torch.float64)
    criterion = make_criterion(WEIGHTS, num_points=num_points)
    found = []
    for in_forward in (True, False):
        monkeypatch.setattr(MatchedMasks, "__post_init__", lambda self: None)
        monkeypatch.setattr(MatchedMasks, "gradient_in_forward", in_forward)
        losses = criterion(scene.outputs, scene.targets, RandomPoints(seed=2))
        # Different weights, and one for all.
        for weights in (range(1, 1 + len(losses)), [3.0] * len(losses)):
            total = sum(weight * loss for weight, loss in zip(weights, losses.values(), strict=True))
            gradients = torch.autograd.grad(total, scene.leaves, retain_graph=True)
            found.append((total, gradients))
    torch.testing.assert_close(found[:2], found[2:], rtol=1e-10, atol=1e-12)


# Operations that wait for a GPU, and return what the host decides by.
_READS = ("_local_scalar_dense", "nonzero", "unique_dim", "_unique2", "masked_select", "is_nonzero", "equal")


@pytest.mark.parametrize("num_points", [0, 40])
@pytest.mark.parametrize("mask_loss", ["focal", "bce"])
def test_a_step_on_a_gpu_reads_nothing_back_but_the_costs(make_scene, monkeypatch, num_points, mask_loss):
    """Copies of costs do not count here: they are `PendingCopy`, seen in the next test."""
    monkeypatch.setattr(MatchedMasks, "__post_init__", lambda self: None)
    monkeypatch.setattr(MatchedMasks, "gradient_in_forward", False)
    scene = make_scene(layers=3, num_segments=(3, 0, 5))
    criterion = make_criterion(WEIGHTS, mask_loss, num_points)
    with Operations() as step:
        sum(criterion(scene.outputs, scene.targets, RandomPoints(seed=1)).values()).backward()
    assert sum(step.seen.values()) > 100
    assert {name: step.seen[name] for name in _READS if step.seen[name]} == {}


@pytest.mark.parametrize("num_points", [0, 40])
def test_counts_and_costs_are_on_their_way_before_the_host_waits(make_scene, monkeypatch, num_points):
    """All is queued first; then the queries of an image are assigned before the next image is waited for."""
    happened = []

    class Copy(PendingCopy):
        def __init__(self, tensor):
            super().__init__(tensor)
            happened.append("copy")

        def value(self):
            happened.append("wait")
            return super().value()

    def assign(matrix):
        happened.append("assign")
        return linear_sum_assignment(matrix)

    monkeypatch.setattr(assignment, "PendingCopy", Copy)
    monkeypatch.setattr(matcher, "linear_sum_assignment", assign)
    scene = make_scene(layers=2, num_segments=(3, 2, 4))
    criterion = make_criterion(WEIGHTS, num_points=num_points)
    alone = criterion(scene.outputs, scene.targets, RandomPoints(seed=3))
    assert happened == ["copy"] + ["wait"] + ["assign"] * 6  # small enough to be compared together
    happened.clear()
    # Two processes with equal counts.
    pretend_processes(monkeypatch, 2, lambda tensor: happened.append("exchange") or tensor.mul_(2))
    criterion = make_criterion(WEIGHTS, num_points=num_points)
    criterion.matcher.chunk_elements = 1
    both = criterion(scene.outputs, scene.targets, RandomPoints(seed=3))
    assert happened == ["exchange"] + ["copy"] * 3 + (["wait"] + ["assign"] * 2) * 3
    torch.testing.assert_close(both, alone, rtol=1e-5, atol=1e-6)


class OwnMaskCost(MaskCost):
    """A cost of two dimensions, as costs of other packages may be written."""

    def sums(self, pixels):
        assert pixels.logits.dim() == pixels.membership.dim() == 2
        values = torch.nn.functional.softplus(pixels.logits)
        return -pixels.logits @ pixels.membership, values.sum(1, keepdim=True)


class OwnClassCost(ClassCost):
    def costs(self, outputs, image, target):
        assert len(target)
        return super().costs(outputs, image, target)


@pytest.mark.parametrize("num_points", [0, 40])
@pytest.mark.parametrize("chunk_elements", [None, 100])
def test_costs_that_know_one_image_give_those_of_the_batch(make_scene, num_points, chunk_elements):
    scene = make_scene(num_segments=(3, 0, 5), dtype=torch.float64)
    outputs = DecoderOutputs(scene.outputs)
    own = HungarianMatcher([OwnClassCost(2.0), OwnMaskCost(5.0, "bce")], num_points, chunk_elements)
    standard = HungarianMatcher([ClassCost(2.0), MaskCost(5.0, "bce")], num_points, chunk_elements)
    found, expected = (
        matcher.total_costs(outputs, scene.targets, RandomPoints(seed=4)) for matcher in (own, standard)
    )
    for image, target in enumerate(scene.targets):
        ours, theirs = (costs[image, ..., : len(target)] for costs in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_batch_without_segments_or_with_planes_in_one_image_is_matched(make_scene):
    scene = make_scene()
    outputs = DecoderOutputs(scene.outputs)
    mixed = [scene.targets[0], scene.targets_as_planes()[1]]
    for num_points in (0, 40):
        matcher = make_matcher(WEIGHTS, num_points=num_points)
        expected, found = (matcher(outputs, one, RandomPoints(seed=1)) for one in (scene.targets, mixed))
        for ours, theirs in zip(found, expected, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert torch.equal(torch.stack(one), torch.stack(other))
