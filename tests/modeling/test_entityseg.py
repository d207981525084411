"""EntitySeg's parts against loops written from the paper, and against values computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segzoo.modeling import Sizes
from segzoo.modeling.mask_classification.criterion import SegmentTargets
from segzoo.projects.entityseg.aligned import aligned_upsample
from segzoo.projects.entityseg.assignment import Entities, assign
from segzoo.projects.entityseg.candidates import find_candidates, visible_boxes
from segzoo.projects.entityseg.detection_losses import centerness, detection_losses, generalized_iou
from segzoo.projects.entityseg.fcos_head import FCOSHead, KernelHead, Locations, locations
from segzoo.projects.entityseg.mask_losses import bank_losses, dice_losses, overlap_loss
from segzoo.projects.entityseg.mask_network import MaskNetwork
from segzoo.projects.entityseg.painting import paint_entities
from segzoo.projects.entityseg.true_masks import true_masks

STRIDES = (8, 16, 32, 64, 128)
RANGES = torch.tensor([[-1, 64], [64, 128], [128, 256], [256, 512], [512, 1e8]])
PATHS = ("111", "110", "101", "100", "011", "010", "001")
CPU = torch.device("cpu")


def sides(height, width):
    """(height, width) of levels of strides 8 to 128, each rounded up from the one before."""
    found = [(height // 8, width // 8)]
    for _ in range(4):
        found.append(tuple(math.ceil(side / 2) for side in found[-1]))
    return found


# Geometry.


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_aligned_upsampling_keeps_every_cell_at_its_position_in_the_image(factor):
    """A new cell j of stride s / f lies at the old index (j - f // 2) / f, clamped to the map."""
    maps = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32)

    def along(values, axis):
        size = values.shape[axis]
        places = np.clip((np.arange(factor * size) - factor // 2) / factor, 0, size - 1)
        low = np.minimum(places.astype(int), size - 1)
        high, share = np.minimum(low + 1, size - 1), places - low
        shape = [-1 if one == axis else 1 for one in range(values.ndim)]
        share = share.reshape(shape)
        return np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share

    expected = along(along(maps.astype(np.float64), 2), 3)
    np.testing.assert_allclose(aligned_upsample(torch.from_numpy(maps), factor), expected, atol=1e-5)


def test_locations_are_in_the_middle_of_their_cells():
    found = locations([(2, 3), (1, 2)], (8, 16), CPU)
    expected = [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert found.points.tolist() == expected
    assert found.levels.tolist() == [0] * 6 + [1] * 2


# Assignment.


def assign_by_loops(points, levels, boxes, centers):
    """Center-of-mass sampling, location by location."""
    result = []
    for index, ((x, y), level) in enumerate(zip(points.tolist(), levels.tolist(), strict=True)):
        best = None
        for entity, ((x0, y0, x1, y1), (cx, cy)) in enumerate(zip(boxes, centers, strict=True)):
            reach = 1.5 * STRIDES[level]
            inside = max(cx - reach, x0) < x < min(cx + reach, x1) and max(cy - reach, y0) < y < min(
                cy + reach, y1
            )
            distances = (x - x0, y - y0, x1 - x, y1 - y)
            low, high = RANGES[level].tolist()
            area = (x1 - x0) * (y1 - y0)
            if inside and low <= max(distances) <= high and (best is None or area < best[0]):
                best = (area, entity, distances)
        if best is not None:
            result.append((index, best[1], best[2]))
    return result


@pytest.mark.parametrize("seed", range(4))
def test_locations_are_assigned_as_by_loops_over_all_of_them(seed):
    generator = np.random.default_rng(seed)
    height, width = 192, 256
    places = locations(sides(height, width), STRIDES, CPU)
    first = generator.integers(0, (width - 60, height - 60), (9, 2))
    boxes = np.concatenate([first, first + generator.integers(2, 60, (9, 2))], 1).astype(np.float64)
    boxes[7] = (0, 0, width - 1, height - 1)
    boxes[8] = (4, 20, 68, 150)  # from the location at x = 4, the right side is exactly 64 away
    boxes[1] = boxes[0]  # of equal areas the first entity wins
    centers = boxes[:, :2] + (boxes[:, 2:] - boxes[:, :2]) * generator.uniform(0.2, 0.8, (9, 2))
    entities = Entities(
        torch.tensor(boxes, dtype=torch.float32), torch.tensor(centers, dtype=torch.float32), torch.arange(9)
    )
    found = assign(places, entities, torch.tensor(STRIDES, dtype=torch.float32), RANGES)
    expected = assign_by_loops(*places, boxes.tolist(), entities.centers.tolist())
    assert len(expected) > 20
    assert found.positions.tolist() == [index for index, _, _ in expected]
    assert found.segments.tolist() == [entity for _, entity, _ in expected]
    assert found.distances.tolist() == [list(distances) for _, _, distances in expected]


def test_a_largest_distance_at_the_end_of_two_ranges_fits_both_levels():
    """A box of 128 pixels around (64, 64), a location of both levels of stride 8 (after a shift) and 16."""
    places = Locations(torch.tensor([[64.0, 64.0]] * 3), torch.tensor([0, 1, 2]))
    entities = Entities(torch.tensor([[0.0, 0, 128, 128]]), torch.tensor([[64.0, 64.0]]), torch.tensor([5]))
    found = assign(places, entities, torch.tensor(STRIDES, dtype=torch.float32), RANGES)
    assert found.positions.tolist() == [0, 1]
    assert found.segments.tolist() == [5, 5]


def test_an_image_without_entities_has_no_positive_location():
    none = Entities(torch.zeros(0, 4), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    places = locations(sides(64, 64), STRIDES, CPU)
    found = assign(places, none, torch.tensor(STRIDES, dtype=torch.float32), RANGES)
    assert found.distances.shape == (0, 4)


# Losses.


def test_centerness_and_generalized_iou_by_hand():
    distances = torch.tensor([[1.0, 2, 4, 2], [3, 3, 3, 3]])
    assert centerness(distances).tolist() == [0.5, 1.0]
    # 5 x 4 boxes: intersection (1 + 1) (2 + 2) = 8, union 20 + 20 - 8 = 32, hull (4 + 4) (2 + 2) = 32.
    other = torch.tensor([[4.0, 2, 1, 2], [1, 1, 1, 1]])
    # The second is inside: intersection 4, union 36, hull 36.
    assert generalized_iou(distances, other).tolist() == pytest.approx([9 / 33, 5 / 37])
    # Two boxes that touch the location only at opposite sides: intersection 0, union 2, hull 4.
    apart = generalized_iou(torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[0.0, 0, 1, 1]]))
    assert apart.item() == pytest.approx(1 / 3 - 0.5)


def test_detection_losses_by_hand():
    logits = torch.tensor([0.0, 2.0, -1.0], requires_grad=True)
    center_logits = torch.tensor([0.5, 0.0, 0.0], requires_grad=True)
    distances = torch.tensor([[1.0, 2, 4, 2]] * 3, requires_grad=True)
    targets = torch.tensor([[4.0, 2, 1, 2], [3.0, 3, 3, 3]])
    losses = detection_losses(logits, center_logits, distances, torch.tensor([1, 2]), targets)
    p = 1 / (1 + np.exp(-logits.detach().double().numpy()))
    focal = 0.75 * p[0] ** 2 * -np.log(1 - p[0]) + sum(0.25 * (1 - p[i]) ** 2 * -np.log(p[i]) for i in (1, 2))
    assert losses["loss_fcos_cls"].item() == pytest.approx(focal / 2, rel=1e-6)
    # Centerness 0.5 and 1; IoU of the second: intersection 4 x 4, union 20 + 36 - 16, hull (3 + 4) x 6.
    second = 17 / 41 - (42 - 40) / 42
    expected = (0.5 * (1 - 9 / 33) + 1 - second) / 1.5
    assert losses["loss_fcos_loc"].item() == pytest.approx(expected, rel=1e-6)
    # Both centerness logits are 0, where the cross-entropy is log 2 whatever the target.
    assert losses["loss_fcos_ctr"].item() == pytest.approx(math.log(2), rel=1e-6)
    # The sum of the weights of boxes, here 0.5, may be below 1.
    one = detection_losses(logits, center_logits, distances, torch.tensor([1]), targets[:1])
    assert one["loss_fcos_loc"].item() == pytest.approx(1 - 9 / 33, rel=1e-6)
    none = detection_losses(logits, center_logits, distances, torch.zeros(0).long(), torch.zeros(0, 4))
    assert none["loss_fcos_loc"].item() == none["loss_fcos_ctr"].item() == 0
    sum(none.values()).backward()
    assert all(one.grad is not None for one in (logits, center_logits, distances))


def test_dice_has_squares_in_its_denominator():
    probability = torch.tensor([[[0.5, 1.0], [0.0, 0.0]]])
    mask = torch.tensor([[[True, True], [True, False]]])
    assert dice_losses(probability, mask).item() == pytest.approx(1 - 2 * 1.5 / (1.25 + 3 + 1e-5))


def test_overlap_loss_is_a_softmax_over_the_entities_with_locations():
    """Three locations, of entities 0, 1 and 1 of the first image, and one of the second, alone there."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 2, 3, generator=generator)
    groups, images = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1])
    masks = torch.rand(3, 4, 6, generator=generator) > 0.6
    covered = torch.stack((masks[0] | masks[1], torch.rand(4, 6, generator=generator) > 0.3))
    found = overlap_loss(logits, groups, images, masks, covered, 2)
    means = torch.stack((logits[0], (logits[1] + logits[2]) / 2, logits[3]))
    maps = aligned_upsample(means[:, None], 2)[:, 0].double().numpy()
    exp = np.exp(maps[:2])
    shares = np.concatenate([exp / exp.sum(0), np.ones((1, 4, 6))]) * covered[[0, 0, 1]].numpy()
    dice = [
        1 - 2 * (share * mask).sum() / ((share**2).sum() + mask.sum() + 1e-5)
        for share, mask in zip(shares, masks.numpy(), strict=True)
    ]
    assert found.item() == pytest.approx(np.mean(dice), rel=1e-5)


def test_true_masks_are_every_fourth_pixel_from_the_second():
    generator = np.random.default_rng(4)
    first = generator.integers(-1, 4, (16, 24))
    second = generator.random((3, 16, 24)) > 0.5
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 3, 9, 3], [0, 0, 9, 9]])  # the third: one row
    targets = [
        SegmentTargets(
            torch.zeros(4).long(),
            segment_map=torch.from_numpy(first).short(),
            extras={"entity_boxes": boxes},
        ),
        SegmentTargets(
            torch.zeros(3).long(), masks=torch.from_numpy(second), extras={"entity_boxes": boxes[:3]}
        ),
    ]
    masks, covered = true_masks(targets, torch.tensor([[0, 1], [0, 3], [1, 2]]), 4)
    small, planes = first[2::4, 2::4], second[:, 2::4, 2::4]
    np.testing.assert_array_equal(masks, [small == 1, small == 3, planes[2]])
    np.testing.assert_array_equal(covered, [np.isin(small, (0, 1, 3)), planes[0] | planes[1]])


# Mask network.


def test_the_mask_network_is_convolutions_of_each_entity_s_own_weights():
    generator = torch.Generator().manual_seed(1)
    network = MaskNetwork(scales=[8 * stride for stride in STRIDES])
    assert network.num_parameters == 169
    features = torch.randn(2, 8, 5, 6, generator=generator)
    points = torch.tensor([[20.0, 12.0], [40.0, 8.0], [64.0, 64.0]])
    images, levels = torch.tensor([1, 0, 1]), torch.tensor([0, 1, 4])
    kernels = torch.randn(3, 169, generator=generator)
    inputs = network.inputs(features, images, points, levels, 8)
    found = network(inputs, kernels, PATHS)
    assert set(found) == set(PATHS)
    for entity in range(3):
        scale = (64, 128, 256, 512, 1024)[levels[entity]]
        x, y = points[entity].tolist()
        offsets = torch.tensor(
            [
                [[(x - (8 * j + 4)) / scale for j in range(6)] for _ in range(5)],
                [[(y - (8 * i + 4)) / scale for _ in range(6)] for i in range(5)],
            ]
        )
        first = torch.cat((offsets, features[images[entity]]))
        vector = kernels[entity]
        own = [
            (vector[:80].view(8, 10), vector[152:160]),
            (vector[80:144].view(8, 8), vector[160:168]),
            (vector[144:152].view(1, 8), vector[168:]),
        ]
        for path in PATHS:
            value = first
            for index, kind in enumerate(path):
                if kind == "1":
                    weight, bias = own[index]
                    value = F.conv2d(value[None], weight[..., None, None], bias)[0]
                else:
                    bank = network.bank[index]
                    value = F.conv2d(value[None], bank.weight, bank.bias, padding=1)[0]
                value = value.relu() if index < 2 else value
            torch.testing.assert_close(found[path][entity], value[0], atol=1e-5, rtol=1e-5)
    assert list(MaskNetwork(scales=[64], bank=False).parameters()) == []


def test_bank_losses_are_weighted_means_over_the_locations():
    generator = torch.Generator().manual_seed(2)
    logits = {path: torch.randn(3, 2, 2, generator=generator) for path in ("111", "011")}
    masks = torch.rand(3, 4, 4, generator=generator) > 0.5
    losses = bank_losses(logits, {"111": 1.0, "011": 0.25}, masks, 2)
    for path, weight in (("111", 1.0), ("011", 0.25)):
        probability = aligned_upsample(logits[path][:, None], 2)[:, 0].sigmoid()
        expected = weight * dice_losses(probability, masks).mean()
        assert losses[f"loss_mask_bank_{path}"].item() == pytest.approx(expected.item())


# Heads.


def test_heads_have_the_published_layers():
    head = FCOSHead(64, 2)
    assert head.cls_logits.bias.item() == pytest.approx(-4.59512)
    assert head.bbox_pred.bias is None
    assert head.ctrness.bias is None
    assert all(tower[0].bias is not None for tower in (head.cls_tower, head.bbox_tower))
    with torch.no_grad():
        head.scales[1].fill_(3.0)
        head.bbox_pred.weight.mul_(100)
    levels = [torch.randn(1, 64, 4, 6), torch.randn(1, 64, 2, 3)]
    predictions, features = head(levels)
    assert {name: tuple(one.shape) for name, one in predictions.items()} == {
        "class_logits": (1, 30),
        "centerness_logits": (1, 30),
        "distances": (1, 30, 4),
    }
    expected = 3 * F.conv2d(features[1], head.bbox_pred.weight, padding=1)
    found = predictions["distances"][0, 24:].T.reshape(4, 2, 3)
    torch.testing.assert_close(found, expected[0].relu())
    # Centerness is computed from the tower of boxes.
    expected = F.conv2d(features[0], head.ctrness.weight, padding=1)
    torch.testing.assert_close(predictions["centerness_logits"][0, :24].view(4, 6), expected[0, 0])


def test_the_kernel_head_sees_rows_before_columns_after_the_features():
    head = KernelHead(32, 32, 5, num_convs=1)
    assert head.convs[0].weight.shape == (32, 34, 3, 3)
    assert head.convs[0].bias is None
    assert head.predictor.bias is not None
    x = torch.randn(2, 32, 3, 4)
    rows = torch.tensor([-1.0, 0, 1]).view(1, 1, 3, 1).expand(2, 1, 3, 4)
    columns = torch.tensor([-1.0, -1 / 3, 1 / 3, 1]).expand(2, 1, 3, 4)
    layer = head.convs[0]
    hidden = F.conv2d(torch.cat((x, rows, columns), 1), layer.weight, padding=1)
    hidden = F.group_norm(hidden, 32, layer.norm.weight, layer.norm.bias).relu()
    expected = head.predictor(hidden).flatten(2).transpose(1, 2)
    torch.testing.assert_close(head([x]), expected)


# Inference.


def test_candidates_are_ranked_with_centerness_and_suppressed_at_their_boxes():
    places = Locations(
        torch.tensor([[100.0, 100.0], [104.0, 100.0], [300.0, 100.0], [16.0, 16.0]]),
        torch.tensor([0, 0, 0, 1]),
    )
    probabilities = torch.tensor([0.9, 0.8, 0.06, 0.04])
    center = torch.tensor([0.25, 0.5, 0.5, 1 - 1e-6])
    distances = torch.tensor([[2.0, 2, 2, 2], [2.5, 2, 1.5, 2], [1, 1, 1, 1], [1, 1, 1, 1]])
    found = find_candidates(
        probabilities.logit(), center.logit(), distances, places, torch.tensor([8.0, 16.0])
    )
    # The second has the same box as the first, and 0.8 * 0.5 > 0.9 * 0.25; the last is not above 0.05,
    # whatever its centerness; the third is, although 0.06 * 0.5 is not.
    assert found.positions.tolist() == [1, 2]
    assert found.scores.tolist() == pytest.approx([math.sqrt(0.4), math.sqrt(0.03)], rel=1e-5)
    assert found.boxes.tolist() == [[84, 84, 116, 116], [292, 92, 308, 108]]


def test_boxes_without_area_do_not_suppress_each_other_and_ties_at_the_last_place_stay():
    count = 6
    places = Locations(torch.full((count, 2), 50.0), torch.zeros(count, dtype=torch.int64))
    logits = torch.tensor([3.0, 2, 1, 1, 1, 0])
    found = find_candidates(
        logits, torch.zeros(count), torch.zeros(count, 4), places, torch.tensor([8.0]), max_candidates=3
    )
    assert found.positions.tolist() == [0, 1, 2, 3, 4]
    limited = find_candidates(
        logits, torch.zeros(count), torch.zeros(count, 4), places, torch.tensor([8.0]), candidates_per_level=2
    )
    assert limited.positions.tolist() == [0, 1]


def test_the_locations_of_a_level_are_limited_by_probability_times_centerness():
    places = Locations(torch.arange(6.0).reshape(3, 2) * 100, torch.zeros(3, dtype=torch.int64))
    probabilities, center = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.1, 0.8, 0.9])
    found = find_candidates(
        probabilities.logit(),
        center.logit(),
        torch.ones(3, 4),
        places,
        torch.tensor([8.0]),
        candidates_per_level=2,
    )
    # 0.09, 0.64 and 0.63
    assert found.positions.tolist() == [1, 2]


def test_boxes_outside_of_the_image_are_not_visible():
    boxes = torch.tensor([[-5.0, 2, 0, 9], [2, 2, 3, 3], [20, 2, 25, 3], [19, 9.5, 30, 12]])
    assert visible_boxes(boxes, (10, 20), (5, 10)).tolist() == [False, True, False, True]


def paint_by_loops(masks, scores, sizes, rescore):
    """Entities from full-size probabilities, one after the other."""
    padded = aligned_upsample(masks[:, None], sizes.padded[0] // masks.shape[1])
    planes = F.interpolate(
        padded[..., : sizes.image[0], : sizes.image[1]], sizes.output, mode="bilinear", align_corners=False
    )[:, 0].numpy()
    taken, ids, info = np.zeros(sizes.output, bool), np.zeros(sizes.output, int), []
    for plane, score in zip(planes, scores, strict=True):
        visible = (plane > 0.5) & ~taken
        taken |= visible
        rows, columns = np.nonzero(visible)
        if not len(rows) or rows.min() == rows.max() or columns.min() == columns.max():
            continue
        final = score * plane[visible].mean() if rescore else score
        box = [columns.min(), rows.min(), columns.max(), rows.max()]
        info.append((final, score, [int(side) for side in box]))
        ids[visible] = len(info)
    return ids, info


@pytest.mark.parametrize("rescore", [False, True])
def test_entities_are_painted_in_the_order_of_their_scores(rescore):
    generator = torch.Generator().manual_seed(3)
    small = torch.rand(7, 1, 4, 5, generator=generator)
    masks = F.interpolate(small, (16, 24), mode="bilinear")[:, 0]
    masks[1, :] = 0.1
    masks[2] = masks[0] * 0.99  # hidden almost everywhere
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    sizes = Sizes((64, 96), (60, 90), (45, 120))
    ids, info = paint_entities(masks, scores, sizes, rescore=rescore)
    expected_ids, expected = paint_by_loops(masks, scores.tolist(), sizes, rescore)
    assert len(expected) >= 4
    np.testing.assert_array_equal(ids, expected_ids)
    assert [entity["id"] for entity in info] == list(range(1, len(info) + 1))
    assert [entity["box"] for entity in info] == [box for _, _, box in expected]
    assert [entity["ori_score"] for entity in info] == pytest.approx([score for _, score, _ in expected])
    assert [entity["score"] for entity in info] == pytest.approx([final for final, _, _ in expected])


def test_an_entity_of_one_visible_row_is_dropped_with_its_pixels():
    masks = torch.zeros(3, 8, 8)
    masks[0, :7] = 1
    masks[1, 6:] = 1
    masks[2, :] = 1
    sizes = Sizes((8, 8), (8, 8), (8, 8))
    ids, info = paint_entities(masks, torch.tensor([0.9, 0.8, 0.7]), sizes)
    assert len(info) == 1
    assert ids[:7].eq(1).all()
    assert ids[7].eq(0).all()
    none, nothing = paint_entities(masks[:0], torch.zeros(0), sizes)
    assert (none.shape, none.dtype, nothing) == ((8, 8), torch.int32, [])
    _, above = paint_entities(masks, torch.tensor([0.9, 0.8, 0.7]), sizes, score_threshold=0.95)
    assert above == []


def test_the_threshold_of_entities_is_that_of_their_final_score():
    masks, scores, sizes = torch.full((1, 8, 8), 0.75), torch.tensor([0.8]), Sizes((8, 8), (8, 8), (8, 8))
    # 0.8 * 0.75 = 0.6
    for rescore, threshold, count in ((False, 0.7, 1), (True, 0.7, 0), (True, 0.5, 1)):
        _, found = paint_entities(masks, scores, sizes, rescore=rescore, score_threshold=threshold)
        assert len(found) == count
