"""Merging of masks by score, and the other results, against a restatement with whole masks."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segzoo.modeling.batch import Sizes
from segzoo.projects.panoptic_segformer import merging
from segzoo.projects.panoptic_segformer.merging import ScoredMasks, Thresholds


def scored(masks, probabilities, classes, is_thing):
    count = len(masks)
    return ScoredMasks(
        masks=torch.as_tensor(masks).float(),
        probabilities=torch.tensor(probabilities),
        classes=torch.tensor(classes),
        is_thing=torch.tensor(is_thing),
        boxes=torch.tensor([[0.25, 0.5, 1.5, 1.0]]).repeat(count, 1),
    )


def row(*values):
    """A mask of one row."""
    return [list(values)]


def merge(found, size, thresholds):
    """The published procedure: category + 1, instance of each pixel; 0 for none."""
    masks = F.interpolate(found.masks[None], size=size, mode="bilinear", align_corners=False)[0].numpy()
    inside = masks > 0.5
    quality = (masks * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1)
    scores = found.probabilities.numpy() * quality**2
    category, instance, number = np.zeros(size, int), np.zeros(size, int), 1
    for index in np.argsort(-scores, kind="stable"):
        thing = bool(found.is_thing[index])
        if scores[index] < (thresholds.thing_score if thing else thresholds.stuff_score):
            continue
        mask = inside[index]
        limit = thresholds.thing_overlap if thing else thresholds.stuff_overlap
        if mask.sum() == 0 or (mask & (category > 0)).sum() / mask.sum() > limit:
            continue
        free = mask & (category == 0)
        category[free] = found.classes[index] + 1
        if thing:
            instance[free] = number
            number += 1
    return category, instance


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(40, 61), (150, 200)])
def test_merging_equals_the_published_procedure(seed, size):
    generator = torch.Generator().manual_seed(seed)
    centers, widths = torch.rand(2, 30, 2, 1, 1, generator=generator)
    places = torch.stack(torch.meshgrid(torch.linspace(0, 1, 18), torch.linspace(0, 1, 23), indexing="ij"))
    distances = ((places - centers) / (0.1 + 0.3 * widths)).square().sum(1)
    found = scored(
        1.4 * (-distances).exp(),
        torch.rand(30, generator=generator).tolist(),
        torch.arange(30).tolist(),
        [index % 3 > 0 for index in range(30)],
    )
    thresholds = Thresholds(0.2, 0.15, 0.5, 0.3)
    ids, segments = merging.panoptic(found, size, thresholds)
    category, instance = merge(found, size, thresholds)
    painted = np.zeros((len(segments) + 1, 2), int)
    number = 0
    for one in segments:
        number += one["isthing"]
        painted[one["id"]] = one["category_id"] + 1, number if one["isthing"] else 0
    assert len(segments) > 3
    assert (painted[ids.numpy()] == np.stack([category, instance], -1)).all()


def test_the_score_is_the_probability_times_the_squared_mean_with_one_added_to_the_area():
    found = scored([row(0.8, 0.6, 0.5, 0.2)], [0.9], [3], [True])
    _, segments = merging.panoptic(found, (1, 4), Thresholds(0, 0, 1, 1))
    # Pixels of exactly one half do not count: (0.8 + 0.6) / (2 + 1).
    assert segments[0]["score"] == pytest.approx(0.9 * (1.4 / 3) ** 2, rel=1e-6)
    assert (segments[0]["id"], segments[0]["isthing"], segments[0]["category_id"]) == (1, True, 3)


def test_a_skipped_thing_takes_no_number_and_its_pixels_stay_free():
    wide, narrow, other = row(1, 1, 1, 0, 0, 0), row(0, 1, 1, 1, 0, 0), row(0, 0, 0, 1, 1, 1)
    found = scored([wide, narrow, other], [1.0, 0.9, 0.8], [0, 0, 1], [True] * 3)
    # Two of the three pixels of the second are covered.
    ids, segments = merging.panoptic(found, (1, 6), Thresholds(0.1, 0.1, 0.5, 0.5))
    assert ids.tolist() == [[1, 1, 1, 2, 2, 2]]
    assert [one["category_id"] for one in segments] == [0, 1]


def test_thresholds_differ_between_things_and_stuff():
    # Half of the second mask is covered by the first.
    first, second = row(2, 2, 2, 2, 0, 0), row(0, 0, 1, 1, 1, 1)
    for is_thing, kept in ((True, 2), (False, 1)):
        found = scored([first, second], [1.0, 0.9], [0, 1], [True, is_thing])
        assert len(merging.panoptic(found, (1, 6), Thresholds(0, 0, 0.5, 0.4))[1]) == kept
        # A score of 0.9 (4 / 5)^2 = 0.576.
        assert len(merging.panoptic(found, (1, 6), Thresholds(0.5, 0.6, 1, 1))[1]) == kept


def test_values_above_one_raise_the_score_and_are_not_dropped_early():
    found = scored([row(2.0, 2.0, 2.0)], [0.2], [0], [True])
    # 0.2 (6 / 4)^2 = 0.45
    assert merging.panoptic(found, (1, 3), Thresholds(0.44, 0, 1, 1))[1][0]["score"] == pytest.approx(0.45)
    assert merging.panoptic(found, (1, 3), Thresholds(0.46, 0, 1, 1))[1] == []


def test_a_score_just_above_the_threshold_is_not_dropped_early():
    """The bound by which masks are dropped before they are resized is the score but for one pixel."""
    found = scored(torch.full((1, 20, 20), 0.9), [1.0], [0], [True])
    # (0.9 * 10000 / 10001)^2 = 0.80984, the bound is 0.81.
    segments = merging.panoptic(found, (100, 100), Thresholds(0.8098, 0, 1, 1))[1]
    assert [one["score"] for one in segments] == pytest.approx([0.80984], abs=1e-5)
    assert merging.panoptic(found, (100, 100), Thresholds(0.8099, 0, 1, 1))[1] == []


def test_no_masks_give_an_empty_map():
    found = scored([row(0.0, 0.4)], [1.0], [0], [False])
    ids, segments = merging.panoptic(found, (2, 4), Thresholds())
    assert ids.unique().tolist() == [0]
    assert segments == []


def test_instances_overlap_and_have_the_boxes_of_the_location_decoder():
    found = scored(
        [row(0, 1, 1), row(0, 0.6, 0.4), row(1, 1, 1)], [0.5, 0.9, 1.0], [4, 6, 7], [True, True, False]
    )
    instances = merging.instances(found, (2, 6), 100)
    assert instances.pred_classes.tolist() == [4, 6]
    # Four columns of two rows are above one half; resized masks have quarters between the pixels.
    masks = F.interpolate(found.masks[None, :2], size=(2, 6), mode="bilinear")[0]
    assert torch.equal(instances.pred_masks, masks > 0.5)
    inside = masks > 0.5
    quality = (masks * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1)
    assert instances.scores.tolist() == pytest.approx((torch.tensor([0.5, 0.9]) * quality**2).tolist())
    # Clipped to the image of 6 x 2 pixels.
    assert instances.pred_boxes.tensor[0].tolist() == [1.5, 1.0, 6.0, 2.0]
    assert len(merging.instances(found, (2, 6), 1)) == 1


def test_entities_are_the_segments_by_score():
    found = scored([row(1, 1, 0, 0), row(0, 0, 2, 2)], [0.9, 0.9], [5, 2], [True, False])
    ids, entities = merging.entities(found, (1, 4), Thresholds(), 0.0, 100)
    assert ids.tolist() == [[2, 2, 1, 1]]
    assert [(one["id"], one["category_id"]) for one in entities] == [(1, 2), (2, 5)]
    ids, entities = merging.entities(found, (1, 4), Thresholds(), 0.0, 1)
    assert ids.tolist() == [[0, 0, 1, 1]]
    assert len(entities) == 1


def test_semantic_scores_are_the_best_of_each_class():
    found = scored([row(0.5, 0), row(1.5, 0.5), row(0, 1)], [0.8, 0.4, 0.3], [1, 1, 0], [True, True, False])
    scores = merging.semantic_scores(found, (1, 2), 3)
    assert scores[:, 0].flatten().tolist() == pytest.approx([0.0, 0.3, 0.4, 0.2, 0.0, 0.0])
    assert merging.semantic_labels(found, (1, 2), 3).tolist() == [[1, 0]]


def test_padding_is_cut_from_masks_before_they_are_resized():
    masks = torch.arange(5.0 * 7).view(1, 5, 7)
    # 33 x 50 pixels of 40 x 56: 5 of 5 rows of 8 pixels, 7 of 7 columns; 32 and 49: 4 and 7.
    assert merging.cropped(masks, Sizes((40, 56), (33, 50), (1, 1))).shape == (1, 5, 7)
    assert merging.cropped(masks, Sizes((40, 56), (32, 48), (1, 1))).shape == (1, 4, 6)
