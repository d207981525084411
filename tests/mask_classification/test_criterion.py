"""The criterion gives the losses and gradients of the plain formulation and of transformers."""

import pytest
import torch
import torch.nn.functional as F
from transformers.models.maskformer.modeling_maskformer import MaskFormerHungarianMatcher, MaskFormerLoss

from segzoo.modeling.mask_classification.criterion import (
    ClassTerm,
    FusedSetCriterion,
    RandomPoints,
    SegmentTargets,
    SetCriterion,
    UncertainPoints,
)
from segzoo.modeling.mask_classification.criterion.dense_loss import DenseLoss
from segzoo.modeling.mask_classification.criterion.flat_matches import FlatMatches
from segzoo.modeling.mask_classification.criterion.mask_predictions import MaskPredictions
from segzoo.modeling.mask_classification.criterion.matched_masks import MatchedMasks
from segzoo.modeling.mask_classification.criterion.target_batch import TargetBatch
from tests.mask_classification.criterion_reference import (
    OwnPoints,
    make_criterion,
    make_matcher,
    mask_and_dice,
    reference_losses,
)
from tests.processes import pretend_processes

WEIGHTS = (2.0, 20.0, 3.0)
CRITERIA = (FusedSetCriterion, SetCriterion)


def gradients(losses, leaves):
    return torch.autograd.grad(sum(losses.values()), leaves)


def dense_losses(loss, logits, target, segments, weights=(1.0, 1.0)):
    """Return sums of the mask and dice losses of logits (M, h, w) for segments (M,)."""
    matches = FlatMatches([[(torch.arange(len(logits)), segments)]], [target], len(logits))
    matched = MatchedMasks(MaskPredictions([logits[None]]), TargetBatch([target]), matches)
    return matched.losses(loss, weights, torch.tensor(1.0))[:, 0]


def assert_same(losses, expected, tolerance=1e-6):
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            losses[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m
        )


def assert_same_gradients(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).abs().max()) <= 2e-6 * float(theirs.abs().max())


@pytest.mark.parametrize("mask_loss", ["focal", "bce"])
@pytest.mark.parametrize(
    ("size", "num_segments"),
    [((32, 40), (3, 5)), ((31, 37), (2, 0)), ((32, 40), (40, 4)), ((6, 7), (1, 1)), ((1, 40), (1, 2))],
)
def test_losses_and_gradients_equal_the_plain_formulation(
    make_scene, plain_matcher, mask_loss, size, num_segments
):
    scene = make_scene(size=size, num_segments=num_segments)
    expected = reference_losses(scene, WEIGHTS, mask_loss, plain_matcher)
    expected_gradients = gradients(expected, scene.leaves)
    criteria = [
        make_criterion(mask_loss=mask_loss, chunk_elements=chunk_elements)
        for chunk_elements in (1, 4000, None)
    ]
    for criterion in (*criteria, make_criterion(mask_loss=mask_loss, criterion_class=SetCriterion)):
        for outputs in (scene.outputs, scene.outputs_with_masks):
            losses = criterion(outputs, scene.targets)
            assert_same(losses, expected)
            assert_same_gradients(gradients(losses, scene.leaves), expected_gradients)


@pytest.mark.parametrize("criterion_class", CRITERIA)
def test_losses_equal_transformers(make_scene, criterion_class):
    scene = make_scene()
    outputs = scene.outputs_with_masks
    weights = {"loss_cross_entropy": WEIGHTS[0], "loss_mask": WEIGHTS[1], "loss_dice": WEIGHTS[2]}
    theirs = MaskFormerLoss(5, MaskFormerHungarianMatcher(*WEIGHTS), weights, eos_coef=0.1)
    expected = theirs(
        outputs["pred_masks"],
        outputs["pred_logits"],
        scene.planes(),
        [target.classes for target in scene.targets],
        [
            {"masks_queries_logits": layer["pred_masks"], "class_queries_logits": layer["pred_logits"]}
            for layer in outputs["aux_outputs"]
        ],
    )
    losses = make_criterion(criterion_class=criterion_class)(scene.outputs, scene.targets)
    assert len(losses) == len(expected) == 9
    for suffix in ("", "_0", "_1"):
        for name, their_name in (("ce", "cross_entropy"), ("mask", "mask"), ("dice", "dice")):
            value = expected[f"loss_{their_name}{suffix}"] * weights[f"loss_{their_name}"]
            torch.testing.assert_close(losses[f"loss_{name}{suffix}"], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask_loss", ["focal", "bce"])
@pytest.mark.parametrize("as_planes", [False, True])
def test_dense_gradient_is_the_numerical_one(make_scene, mask_loss, as_planes):
    scene = make_scene(size=(9, 12), mask_size=(3, 4), num_segments=(3,))
    target = (scene.targets_as_planes() if as_planes else scene.targets)[0]
    loss = DenseLoss(mask_loss, chunk_elements=200)
    logits = scene.random(4, 3, 4, dtype=torch.float64).mul(3).requires_grad_()
    segments = torch.tensor([2, 0, 1, 0])

    def losses(x):
        return dense_losses(loss, x, target, segments, weights=(2.0, 3.0))

    assert torch.autograd.gradcheck(losses, (logits,), atol=1e-7)


def test_a_loss_used_alone_or_reweighted_has_its_own_gradient(make_scene, plain_matcher):
    scene = make_scene()
    losses = make_criterion()(scene.outputs, scene.targets)
    expected = reference_losses(scene, WEIGHTS, "focal", plain_matcher)
    for factors in ({"loss_mask": 1.0}, {"loss_dice_0": 2.0}, {"loss_mask_1": 0.5, "loss_dice_1": 3.0}):
        ours, theirs = (
            torch.autograd.grad(
                sum(factor * values[name] for name, factor in factors.items()),
                scene.features,
                retain_graph=True,
            )
            for values in (losses, expected)
        )
        assert_same_gradients(ours, theirs)


def test_extreme_logits_stay_finite_and_exact():
    logits = (
        torch.tensor([-300.0, -90.0, -20.0, 0.0, 20.0, 90.0, 300.0]).repeat(2, 1)[:, None].requires_grad_()
    )
    target = SegmentTargets(
        torch.zeros(1, dtype=torch.int64), segment_map=torch.tensor([[0, -1, 0, -1, 0, -1, 0]])
    )
    loss = DenseLoss("focal", 100)
    mask, dice = dense_losses(loss, logits, target, torch.tensor([0, 0]))
    expected = mask_and_dice(logits.flatten(1), (target.segment_map == 0).float().expand(2, 7), "focal")
    torch.testing.assert_close((mask, dice), expected)
    found = torch.autograd.grad(mask + dice, logits)[0]
    torch.testing.assert_close(found, torch.autograd.grad(sum(expected), logits)[0], atol=1e-7, rtol=1e-5)


def test_the_class_loss_is_zero_if_no_query_has_a_weight(make_scene):
    scene = make_scene()
    nothing = SegmentTargets(torch.zeros(0, dtype=torch.int64), masks=torch.zeros(0, 32, 40) > 0)
    losses = make_criterion(no_object_weight=0.0)(scene.outputs, [nothing, nothing])
    assert losses["loss_ce"] == 0


@pytest.mark.parametrize("criterion_class", CRITERIA)
@pytest.mark.parametrize("num_points", [0, 30])
@pytest.mark.parametrize("empty", ["no segments", "no pixels"])
def test_images_without_objects_give_finite_losses_and_zero_mask_gradients(
    make_scene, num_points, empty, criterion_class
):
    scene = make_scene()
    nothing = torch.full((32, 40), -1, dtype=torch.int16)
    classes = torch.zeros(0, dtype=torch.int64)
    targets = [
        SegmentTargets(classes, segment_map=nothing),
        SegmentTargets(classes, masks=torch.zeros(0, 32, 40) > 0),
    ]
    if empty == "no pixels":
        scene.targets[1].segment_map[:] = -1
        targets[1] = scene.targets[1]
    losses = make_criterion(num_points=num_points, criterion_class=criterion_class)(scene.outputs, targets)
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in scene.leaves)
    assert scene.features.grad[0].abs().max() == 0
    assert scene.layers[0]["mask_embed"].grad[0].abs().max() == 0
    assert scene.layers[0]["pred_logits"].grad[0].abs().max() > 0
    if empty == "no segments":
        assert scene.features.grad.abs().max() == 0
        weight = WEIGHTS[0]
        expected = -scene.layers[0]["pred_logits"].log_softmax(-1)[..., -1].mean() * weight
        torch.testing.assert_close(losses["loss_ce_0"], expected)


def test_planes_give_the_losses_of_the_map(make_scene):
    scene = make_scene()
    criterion = make_criterion()
    losses, from_planes = (
        criterion(scene.outputs, scene.targets),
        criterion(scene.outputs, scene.targets_as_planes()),
    )
    assert_same(from_planes, losses)
    assert_same_gradients(gradients(from_planes, scene.leaves), gradients(losses, scene.leaves))


def test_planes_that_overlap_equal_the_plain_formulation(make_scene, plain_matcher):
    scene = make_scene(num_segments=(4,))
    planes = torch.rand(4, 32, 40, generator=scene.generator) > 0.5
    targets = [SegmentTargets(scene.targets[0].classes, masks=planes)]
    expected = reference_losses(scene, WEIGHTS, "focal", plain_matcher, planes=targets)
    for criterion_class in CRITERIA:
        losses = make_criterion(criterion_class=criterion_class)(scene.outputs, targets)
        assert_same(losses, expected)
        assert_same_gradients(
            gradients(losses, scene.leaves),
            torch.autograd.grad(sum(expected.values()), scene.leaves, retain_graph=True),
        )


@pytest.mark.parametrize("num_points", [0, 50])
def test_permuting_queries_does_not_change_the_losses(make_scene, num_points):
    scene = make_scene()
    order = torch.randperm(scene.num_queries, generator=scene.generator)
    criterion = make_criterion(num_points=num_points)
    torch.manual_seed(0)
    losses = criterion(scene.outputs, scene.targets)
    for layer in scene.layers:
        layer.update({key: value[:, order] for key, value in layer.items()})
    torch.manual_seed(0)
    permuted = criterion(scene.outputs, scene.targets)
    if num_points:
        # Points are drawn per matched mask, in the order of queries: only matches and classes are equal.
        losses, permuted = ({k: v for k, v in x.items() if "loss_ce" in k} for x in (losses, permuted))
    assert_same(permuted, losses, 2e-6)


def test_autocast_does_not_change_the_losses(make_scene):
    scene = make_scene()
    expected = make_criterion()(scene.outputs, scene.targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = make_criterion()(scene.outputs, scene.targets)
    assert_same(losses, expected, 0)
    assert all(value.dtype == torch.float32 for value in losses.values())


def test_half_precision_factors_receive_half_precision_gradients(make_scene):
    scene = make_scene(dtype=torch.bfloat16)
    sum(make_criterion()(scene.outputs, scene.targets).values()).backward()
    assert all(leaf.grad.dtype == torch.bfloat16 and leaf.grad.abs().max() > 0 for leaf in scene.leaves)


def test_no_gradient_is_computed_under_no_grad(make_scene):
    scene = make_scene()
    with torch.no_grad():
        losses = make_criterion()(scene.outputs, scene.targets)
    assert_same(losses, make_criterion()(scene.outputs, scene.targets), 0)
    assert not any(value.requires_grad for value in losses.values())


def one_image(outputs, image):
    """Return the outputs of one image of a batch."""
    part = {key: value[image : image + 1] for key, value in outputs.items() if key != "aux_outputs"}
    return part | {"aux_outputs": [one_image(layer, image) for layer in outputs.get("aux_outputs", [])]}


def test_two_processes_with_one_image_each_train_like_one_process_with_both(make_scene, monkeypatch):
    scene = make_scene()
    assert len(scene.targets[0]) != len(scene.targets[1])
    together = make_criterion()(scene.outputs, scene.targets)

    def losses_of(rank):
        return make_criterion()(one_image(scene.outputs, rank), scene.targets[rank : rank + 1])

    sent = {0: [], 1: []}
    for rank in sent:
        pretend_processes(monkeypatch, 2, lambda tensor, rank=rank: sent[rank].append(tensor.clone()))
        losses_of(rank)
    apart = []
    for rank in sent:
        others = iter(sent[1 - rank])
        pretend_processes(monkeypatch, 2, lambda tensor, others=others: tensor.add_(next(others)))
        apart.append(losses_of(rank))
    # DistributedDataParallel averages gradients, so training uses the mean over processes.
    mean = {name: (apart[0][name] + apart[1][name]) / 2 for name in together}
    assert_same(mean, together, 1e-6)


@pytest.mark.parametrize("mask_loss", ["focal", "bce"])
@pytest.mark.parametrize("as_planes", [False, True])
@pytest.mark.parametrize(
    ("size", "num_segments"), [((32, 40), (3, 5)), ((31, 37), (2, 0)), ((32, 40), (40, 4)), ((1, 40), (1, 2))]
)
def test_point_losses_and_gradients_equal_the_plain_formulation(
    make_scene, plain_matcher, mask_loss, size, num_segments, as_planes
):
    scene = make_scene(size=size, num_segments=num_segments, dtype=torch.float64)
    expected = reference_losses(scene, WEIGHTS, mask_loss, plain_matcher, num_points=64, seed=5)
    expected_gradients = gradients(expected, scene.leaves)
    targets = scene.targets_as_planes() if as_planes else scene.targets
    shared = {"mask_loss": mask_loss, "num_points": 64}
    criteria = [make_criterion(**shared, chunk_elements=chunk_elements) for chunk_elements in (1, 900, None)]
    for criterion in (*criteria, make_criterion(**shared, criterion_class=SetCriterion)):
        for outputs in (scene.outputs, scene.outputs_with_masks):
            losses = criterion(outputs, targets, OwnPoints(seed=5))
            # Processes exchange the numbers of masks and the weights in float32.
            assert_same(losses, expected, 1e-7)
            for ours, theirs in zip(gradients(losses, scene.leaves), expected_gradients, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


def test_a_reweighted_point_loss_has_its_own_gradient_on_the_same_points(make_scene, plain_matcher):
    scene = make_scene(dtype=torch.float64)
    expected = reference_losses(scene, WEIGHTS, "bce", plain_matcher, num_points=64, seed=5)
    losses = make_criterion(mask_loss="bce", num_points=64)(scene.outputs, scene.targets, OwnPoints(seed=5))
    ours, theirs = (
        torch.autograd.grad(values["loss_mask_1"] * 0.5 + values["loss_dice"] * 3, scene.features)[0]
        for values in (losses, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


def test_a_seed_repeats_the_points(make_scene):
    scene = make_scene()
    criterion = make_criterion(mask_loss="bce", num_points=40)
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(criterion(scene.outputs, scene.targets)["loss_mask"].item())
    assert losses[0] == losses[1] != losses[2]


def test_hundreds_of_segments_take_the_memory_of_a_chunk(make_scene):
    """Only a chunk of the 900 matched masks of 64x64, 14 MiB, may be in memory."""
    scene = make_scene(size=(128, 128), mask_size=(64, 64), num_segments=(300,))
    masks, queries = 900, 300
    for layer in scene.layers:
        layer["pred_logits"] = scene.random(1, queries, 6).requires_grad_()
        layer["mask_embed"] = scene.random(1, queries, scene.channels).requires_grad_()
    criterion = make_criterion(mask_loss="bce", num_points=64, chunk_elements=2**13)
    criterion.matcher.chunk_elements = 2**13
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        sum(criterion(scene.outputs, scene.targets).values()).backward()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    costs = 3 * queries * 300 * 4
    assert peak < masks * 64 * 64 * 4 / 2 + 3 * costs


def test_points_are_drawn_where_masks_are_uncertain():
    ramp = torch.linspace(-4, 4, 64).expand(2, 64, 64).clone()
    comparison = UncertainPoints(1000)
    points = comparison.choose(ramp, RandomPoints().for_losses(0, 2, comparison.num_drawn, ramp))
    assert points.shape == (2, 1000, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    # 750 of 3000 candidates: the quarter of the width around the zero crossing. (Near the upper and lower
    # border the zeros outside pull samples towards 0, so a few are farther away.)
    distance = (points[:, :750, 0] - 0.5).abs()
    assert (distance < 0.14).float().mean() > 0.97
    assert (points[:, 750:, 0] - 0.5).abs().mean() == pytest.approx(0.25, abs=0.04)


def test_point_losses_approach_the_dense_ones_without_importance_sampling(make_scene):
    scene = make_scene(size=(64, 80), mask_size=(32, 40))
    dense = make_criterion(mask_loss="bce")(scene.outputs, scene.targets)
    matcher = make_matcher(WEIGHTS, "bce")
    criterion = make_criterion(
        mask_loss="bce", num_points=20000, importance_sample_ratio=0.0, matcher=matcher
    )
    torch.manual_seed(0)
    sampled = criterion(scene.outputs, scene.targets)
    for name in dense:
        torch.testing.assert_close(sampled[name], dense[name], rtol=0.03, atol=0.03)


def test_point_gradients_reach_the_factors(make_scene):
    scene = make_scene()
    losses = make_criterion(mask_loss="bce", num_points=100)(scene.outputs, scene.targets)
    sum(losses.values()).backward()
    assert all(leaf.grad.abs().max() > 0 for leaf in scene.leaves)


def test_the_criterion_adds_nothing_to_a_checkpoint():
    assert make_criterion().state_dict() == {}


def test_class_loss_weights_unmatched_queries_by_hand():
    logits = torch.zeros(1, 3, 3)
    logits[0, 0, 1] = 2.0
    masks = torch.full((1, 3, 2, 2), -5.0)
    masks[0, 0] = 5.0
    target = SegmentTargets(torch.tensor([1]), segment_map=torch.zeros(2, 2, dtype=torch.int16))
    criterion = SetCriterion([ClassTerm(2, no_object_weight=0.1)], make_matcher((1.0, 20.0, 1.0)))
    losses = criterion({"pred_logits": logits, "pred_masks": masks}, [target])
    matched = -F.log_softmax(torch.tensor([0.0, 2.0, 0.0]), 0)[1]
    unmatched = torch.tensor(3.0).log()
    torch.testing.assert_close(losses["loss_ce"], (matched + 0.2 * unmatched) / 1.2)
