"""Costs, query filter and losses of Panoptic SegFormer, on values computed by hand or with NumPy."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from segzoo.modeling.mask_classification.criterion import NonFiniteCostError, SegmentTargets
from segzoo.projects.panoptic_segformer import matching
from segzoo.projects.panoptic_segformer.boxes import generalized_iou
from segzoo.projects.panoptic_segformer.location_decoder import Locations, refine
from segzoo.projects.panoptic_segformer.losses import PanopticSegFormerCriterion
from segzoo.projects.panoptic_segformer.targets import separate, thing_and_stuff_indices
from tests.modeling.panoptic_segformer_helpers import small_model, with_segments


def logit(p):
    return math.log(p / (1 - p))


def test_focal_cost_is_that_of_the_formula():
    cost = matching.class_costs(torch.tensor([[logit(0.2), logit(0.9)]]), torch.tensor([1, 0, 1]))
    expected = [0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p) for p in (0.9, 0.2, 0.9)]
    assert cost[0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
        # Overlap 1, union 7, hull 9.
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7 - 2 / 9),
        # No overlap, union 2, hull 4 x 1.
        ([0, 0, 1, 1], [3, 0, 4, 1], -0.5),
    ],
)
def test_generalized_iou(first, second, expected):
    first, second = torch.tensor(first).float(), torch.tensor(second).float()
    assert generalized_iou(first, second).item() == pytest.approx(expected, abs=1e-6)


def test_dice_cost_has_the_larger_epsilon():
    masks = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    truth = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    expected = [1 - 2 * 1 / (1.25 + 0.001 + 2 + 0.001), 1.0]
    assert matching.dice_costs(masks, truth)[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_one_round_of_the_filter_keeps_the_queries_of_the_assignment():
    cost = np.random.default_rng(0).normal(size=(9, 3))
    assert matching.filter_queries(cost, 1).tolist() == linear_sum_assignment(cost)[0].tolist()


def test_further_rounds_match_the_queries_that_are_left():
    # One thing: each round takes the cheapest query that is left.
    cost = np.array([[5.0], [1.0], [4.0], [2.0], [3.0]])
    assert [matching.filter_queries(cost, rounds).tolist() for rounds in (1, 2, 3)] == [
        [1],
        [1, 3],
        [1, 3, 4],
    ]


@pytest.mark.parametrize(("queries", "things", "kept"), [(12, 5, 10), (9, 5, 5), (4, 7, 4), (6, 0, 0)])
def test_the_filter_never_asks_for_more_queries_than_there_are(queries, things, kept):
    cost = np.random.default_rng(1).normal(size=(queries, things))
    found = matching.filter_queries(cost, 3)
    assert len(found) == kept
    assert (np.diff(found) > 0).all()


def test_reference_points_and_boxes_are_refined_in_logits():
    point = refine(torch.tensor([0.5, 0.25]), torch.tensor([0.0, 0.0, logit(0.3), 0.0]))
    assert point.tolist() == pytest.approx([0.5, 0.25, 0.3, 0.5])
    box = refine(torch.tensor([0.5, 0.25, 0.1, 0.0]), torch.tensor([logit(0.6), 0.0, 0.0, 0.0]))
    assert box.tolist() == pytest.approx([0.6, 0.25, 0.1, 1e-5], rel=1e-3)


# Two thing classes (0, 2) and three stuff classes (1, 3, 4).
IS_THING = torch.tensor([True, False, True, False, False])


def scene(classes, size=(16, 32)):
    """Segments in columns of 8 pixels, 8 rows high."""
    segment_map = torch.full(size, -1, dtype=torch.int16)
    boxes = []
    for index in range(len(classes)):
        segment_map[:8, 8 * index : 8 * index + 8] = index
        boxes.append([8.0 * index, 0.0, 8.0 * index + 8, 8.0])
    segments = SegmentTargets(
        torch.tensor(classes, dtype=torch.int64),
        segment_map,
        extras={"boxes": torch.tensor(boxes).reshape(-1, 4)},
    )
    return separate(segments, size, IS_THING, thing_and_stuff_indices(IS_THING.tolist()))


def test_things_and_stuff_are_separated_by_metadata_not_by_their_order():
    target = scene([4, 2, 1, 0])
    assert target.things.tolist() == [1, 3]
    assert target.thing_classes.tolist() == [1, 0]
    assert target.stuff.tolist() == [0, 2]
    assert target.stuff_classes.tolist() == [2, 0]
    assert target.boxes.tolist() == [[8, 0, 16, 8], [24, 0, 32, 8]]
    assert target.image_boxes[0].tolist() == [0.375, 0.25, 0.25, 0.5]


def test_of_two_stuff_segments_of_a_class_the_last_is_the_target_and_both_count():
    target = scene([4, 1, 4])
    assert target.stuff.tolist() == [1, 2]
    assert target.stuff_classes.tolist() == [0, 2]
    assert target.num_stuff == 3


def test_masks_are_resized_bilinearly():
    target = scene([4, 2])
    # The first segment has the pixels [0, 8) x [0, 8) of 16 x 32.
    assert target.masks(torch.tensor([0]), (2, 8))[0].tolist() == [[1.0, 1.0, *[0.0] * 6], [0.0] * 8]
    # One row: its center is between the rows 7 and 8; two of 32 columns: 7.5 is between two pixels.
    assert target.masks(torch.tensor([0]), (1, 2))[0].tolist() == [[0.25, 0.0]]


def locations(num_layers=2, queries=4, seed=0):
    torch.manual_seed(seed)
    return Locations(
        torch.randn(1, queries, 8),
        torch.randn(num_layers, 1, queries, 2),
        torch.rand(num_layers, 1, queries, 4) * 0.5 + 0.2,
    )


def numpy_focal(logits, one_hot):
    p = 1 / (1 + np.exp(-logits))
    return (-0.25 * (1 - p) ** 2 * np.log(p) * one_hot - 0.75 * p**2 * np.log(1 - p) * (1 - one_hot)).sum()


def numpy_giou(a, b):
    def area(box):
        return (box[2] - box[0]) * (box[3] - box[1])

    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    overlap = np.prod(np.clip(high - low, 0, None))
    union = area(a) + area(b) - overlap
    hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
    return overlap / union - (hull - union) / hull


def numpy_dice(mask, truth):
    return 1 - 2 * (mask * truth).sum() / ((mask**2).sum() + (truth**2).sum() + 2e-6)


def test_all_losses_of_an_image_equal_a_numpy_computation():
    found, target = locations(), scene([4, 2, 1, 0])
    torch.manual_seed(1)
    thing_masks = [torch.rand(1, 2, 4, 8) for _ in range(3)]
    stuff_masks = [torch.rand(1, 3, 4, 8) for _ in range(2)]
    stuff_logits = [torch.randn(1, 3)]
    criterion = PanopticSegFormerCriterion()
    matches = criterion.match(found, [target])
    losses = criterion(
        [target],
        locations=found,
        matches=matches,
        thing_masks=thing_masks,
        stuff_masks=stuff_masks,
        stuff_logits=stuff_logits,
    )
    assert set(losses) == {
        *("loss_cls", "loss_bbox", "loss_iou", "d0.loss_cls", "d0.loss_bbox", "d0.loss_iou"),
        *("d0.loss_mask_things_f", "d1.loss_mask_things_f", "loss_mask_things"),
        *("d0.loss_mask_stuff_f", "loss_mask_stuff", "d0.loss_cls_stuff_f"),
    }
    share = 2 / 4  # two things, two stuff segments
    size = np.array([32, 16, 32, 16.0])
    for layer, prefix in enumerate(("d0.", "")):
        logits, boxes = found.logits[layer, 0].numpy(), found.boxes[layer, 0].numpy()
        cost = np.zeros((4, 2))
        ious, distances = np.zeros((4, 2)), np.zeros((4, 2))
        for query in range(4):
            for thing in range(2):
                p = 1 / (1 + np.exp(-logits[query, target.thing_classes[thing]]))
                focal = 0.25 * (1 - p) ** 2 * -np.log(p) - 0.75 * p**2 * -np.log(1 - p)
                truth = target.image_boxes[thing].numpy()
                edges = [
                    np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2]) * size
                    for box in (boxes[query], truth)
                ]
                ious[query, thing], distances[query, thing] = (
                    numpy_giou(*edges),
                    abs(boxes[query] - truth).sum(),
                )
                cost[query, thing] = 2 * focal + 5 * distances[query, thing] - 2 * ious[query, thing]
        rows, columns = linear_sum_assignment(cost)
        one_hot = np.zeros((4, 2))
        one_hot[rows, target.thing_classes[columns]] = 1
        assert losses[f"{prefix}loss_cls"] == pytest.approx(
            2 * numpy_focal(logits, one_hot) / 2 * share, rel=1e-5
        )
        assert losses[f"{prefix}loss_bbox"] == pytest.approx(
            5 * distances[rows, columns].sum() / 2 * share, rel=1e-5
        )
        assert losses[f"{prefix}loss_iou"] == pytest.approx(
            2 * (1 - ious[rows, columns]).sum() / 2 * share, rel=1e-5
        )
        kept, last_cost = rows, cost
    # Masks are matched with twice the class cost and the dice of the tail, on the grid of the masks.
    logits = found.logits[1, 0].numpy()
    best = None
    for order in ((0, 1), (1, 0)):
        total = 0.0
        for position, thing in enumerate(order):
            query = kept[position]
            p = 1 / (1 + np.exp(-logits[query, target.thing_classes[thing]]))
            focal = 0.25 * (1 - p) ** 2 * -np.log(p) - 0.75 * p**2 * -np.log(1 - p)
            mask = thing_masks[-1][0, position].numpy()
            truth = target.masks(target.things[[thing]], (4, 8))[0].numpy()
            dice = 1 - 2 * (mask * truth).sum() / ((mask**2).sum() + (truth**2).sum() + 2e-3)
            total += last_cost[query, thing] + 2 * focal + 2 * dice
        best = min(best or (math.inf, ()), (total, order))
    for masks, chosen, weight, name in (
        (thing_masks, list(target.things[list(best[1])]), share / 2, "things"),
        (stuff_masks, None, (1 - share) / 2, "stuff"),
    ):
        for index, layer in enumerate(masks):
            large = torch.nn.functional.interpolate(layer, scale_factor=2, mode="bilinear")[0].numpy()
            # Class 4 is the third stuff class, class 1 the first.
            pairs = list(enumerate(chosen)) if name == "things" else [(2, 0), (0, 2)]
            dice = sum(
                numpy_dice(large[query], target.masks(torch.tensor([int(segment)]), (8, 16))[0].numpy())
                for query, segment in pairs
            )
            key = f"loss_mask_{name}" if index == len(masks) - 1 else f"d{index}.loss_mask_{name}_f"
            assert losses[key] == pytest.approx(2 * dice * weight, rel=1e-5), key
    presence = numpy_focal(stuff_logits[0].numpy(), np.array([[1, 0, 1]]))
    assert losses["d0.loss_cls_stuff_f"] == pytest.approx(4 * presence / 2 * (1 - share), rel=1e-5)


@pytest.mark.parametrize(("images", "trained"), [("with_things", False), ("all", True)])
def test_stuff_classes_of_images_without_things(images, trained):
    target = scene([1, 3])
    criterion = PanopticSegFormerCriterion(stuff_class_images=images)
    found = locations()
    losses = criterion(
        [target],
        locations=found,
        matches=criterion.match(found, [target]),
        thing_masks=[torch.rand(1, 0, 4, 8)],
        stuff_masks=[torch.rand(1, 3, 4, 8)],
        stuff_logits=[torch.zeros(1, 3)],
    )
    assert (losses["d0.loss_cls_stuff_f"] > 0) == trained
    assert losses["loss_mask_things"] == 0
    assert losses["loss_cls"] > 0


def test_without_thing_classes_stuff_classes_are_always_trained():
    flags = torch.zeros(5, dtype=torch.bool)
    target = scene([1, 3])
    target = separate(target.segments, (16, 32), flags, thing_and_stuff_indices(flags.tolist()))
    losses = PanopticSegFormerCriterion()(
        [target], stuff_masks=[torch.rand(1, 5, 4, 8)], stuff_logits=[torch.zeros(1, 5)]
    )
    assert losses["d0.loss_cls_stuff_f"] > 0


def test_nan_predictions_are_reported():
    found = locations()
    found.logits[1, 0, 2] = torch.nan
    with pytest.raises(NonFiniteCostError, match="layer 1 of 2"):
        PanopticSegFormerCriterion().match(found, [scene([0, 2])])


def test_losses_of_a_batch_are_sums_over_its_images_with_common_counts():
    model = small_model().train()
    images = [with_segments(40, 56, (0, 1, 2)), with_segments(40, 56, (3,), seed=1)]
    alone = [model([image]) for image in images]
    together = model(images)
    counts = [(2, 1), (1, 1)]  # of things, at least 1, and of stuff
    things, stuff = 2, 2
    for name, total in together.items():
        # Each image alone has the factors r / n_t or (1 - r) / n_s, which are both 1 / (n_t + n_s).
        expected = sum(
            losses[name].item() * (n_t + n_s) for losses, (n_t, n_s) in zip(alone, counts, strict=True)
        )
        assert total.item() == pytest.approx(expected / (things + stuff), rel=1e-4, abs=1e-6), name


def test_more_things_than_queries_are_trained():
    model = small_model(num_queries=3, criterion={"filter_rounds": 3}).train()
    losses = model([with_segments(64, 96, (0, 2, 0, 2, 0, 1))])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_mask_things"] > 0
    # Losses are divided by the number of things that have a query, and of stuff: 3 + 1, else 5 + 1.
    more = small_model(num_queries=12).train()
    same = {key: value for key, value in model.state_dict().items() if not key.startswith("location_decoder")}
    more.load_state_dict(same, strict=False)
    others = more([with_segments(64, 96, (0, 2, 0, 2, 0, 1))])
    assert 4 * losses["loss_mask_stuff"].item() == pytest.approx(
        6 * others["loss_mask_stuff"].item(), rel=1e-4
    )


def test_every_parameter_gets_a_gradient_in_an_image_without_segments():
    model = small_model().train()
    sum(model([with_segments(40, 56)]).values()).backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []
