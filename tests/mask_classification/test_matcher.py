"""The matcher finds the pairs of the plain formulation and of transformers, from masks or factors."""

import pytest
import torch
import torch.nn.functional as F
from transformers.models.maskformer.modeling_maskformer import MaskFormerHungarianMatcher

from segzoo.modeling.mask_classification.criterion import (
    DecoderOutputs,
    HungarianMatcher,
    MaskCost,
    NonFiniteCostError,
    QueryCost,
    RandomPoints,
)
from tests.mask_classification.criterion_reference import make_matcher

WEIGHTS = (1.0, 20.0, 1.0)


def as_lists(matches):
    return [(queries.tolist(), segments.tolist()) for queries, segments in matches]


@pytest.mark.parametrize("mask_loss", ["focal", "bce"])
@pytest.mark.parametrize("num_segments", [(3, 5), (0, 9), (40, 1)])
@pytest.mark.parametrize("num_points", [0, 40])
def test_pairs_equal_the_plain_formulation(make_scene, plain_matcher, mask_loss, num_segments, num_points):
    scene = make_scene(num_segments=num_segments, dtype=torch.float64)
    matcher = make_matcher(WEIGHTS, mask_loss, num_points)
    plain = plain_matcher(WEIGHTS, mask_loss, num_points)
    for outputs in map(DecoderOutputs, (scene.outputs, scene.outputs_with_masks)):
        found, expected = (one(outputs, scene.targets, RandomPoints(seed=3)) for one in (matcher, plain))
        assert [as_lists(layer) for layer in found] == [as_lists(layer) for layer in expected]


def test_pairs_equal_transformers(make_scene):
    scene = make_scene()
    outputs = scene.outputs_with_masks
    theirs = MaskFormerHungarianMatcher(cost_class=1.0, cost_mask=20.0, cost_dice=1.0)
    expected = theirs(
        outputs["pred_masks"],
        outputs["pred_logits"],
        scene.planes(),
        [target.classes for target in scene.targets],
    )
    found = make_matcher(WEIGHTS)(DecoderOutputs(outputs), scene.targets)
    assert as_lists(found[-1]) == as_lists(expected)


@pytest.mark.parametrize("num_points", [0, 400])
def test_perfect_masks_are_matched_with_their_own_segments(make_scene, num_points):
    scene = make_scene()
    planes = scene.planes()[1]
    masks = torch.full((1, 9, 32, 40), -9.0)
    order = torch.tensor([7, 2, 4, 0, 8])
    masks[0, order] = planes * 18 - 9
    outputs = {"pred_logits": torch.zeros(1, 9, 6), "pred_masks": masks}
    target = scene.targets[1]
    for mask_loss in ("focal", "bce"):
        matcher = make_matcher(WEIGHTS, mask_loss, num_points)
        (((queries, segments),),) = matcher(DecoderOutputs(outputs), [target])
        assert order[segments].tolist() == queries.tolist()


def test_point_samples_of_factors_equal_those_of_masks(make_scene):
    scene = make_scene()
    points = torch.rand(50, 2)
    factored = DecoderOutputs(scene.outputs).masks
    finished = DecoderOutputs(scene.outputs_with_masks).masks
    for image, layer in ((0, 0), (1, 2)):
        masks = scene.outputs_with_masks["aux_outputs"][0]["pred_masks"] if layer == 0 else None
        masks = scene.outputs_with_masks["pred_masks"] if masks is None else masks
        expected = F.grid_sample(masks[image][None], 2 * points[None, None] - 1, align_corners=False)[0, :, 0]
        for predictions in (finished, factored):
            found = predictions.at_points(range(image, image + 1))(
                range(layer, layer + 1), points[None, None]
            )
            torch.testing.assert_close(found[0, 0], expected)


def test_overlapping_planes_give_the_pairs_of_the_map(make_scene):
    scene = make_scene()
    matcher, outputs = make_matcher(WEIGHTS), DecoderOutputs(scene.outputs)
    from_planes, from_map = (
        matcher(outputs, targets) for targets in (scene.targets_as_planes(), scene.targets)
    )
    assert [as_lists(layer) for layer in from_planes] == [as_lists(layer) for layer in from_map]


@pytest.mark.parametrize("num_points", [0, 300])
def test_chunks_do_not_change_the_costs(make_scene, num_points):
    scene = make_scene()
    outputs = DecoderOutputs(scene.outputs)
    whole, pieces = (
        make_matcher(WEIGHTS, num_points=num_points, chunk_elements=size).total_costs(
            outputs, scene.targets, RandomPoints(seed=4)
        )
        for size in (10**6, 500)
    )
    torch.testing.assert_close(whole, pieces)


def test_permuting_queries_permutes_the_pairs(make_scene):
    scene = make_scene(layers=1)
    outputs = scene.outputs
    order = torch.randperm(scene.num_queries)
    permuted = {
        "pred_logits": outputs["pred_logits"][:, order],
        "mask_embed": outputs["mask_embed"][:, order],
        "mask_features": outputs["mask_features"],
    }
    matcher = make_matcher(WEIGHTS)
    found, moved = (matcher(DecoderOutputs(one), scene.targets)[0] for one in (outputs, permuted))
    pairs = zip(found, moved, strict=True)
    for (queries, segments), (moved_queries, moved_segments) in pairs:
        expected = set(zip(queries.tolist(), segments.tolist(), strict=True))
        assert set(zip(order[moved_queries].tolist(), moved_segments.tolist(), strict=True)) == expected


def test_bfloat16_predictions_under_autocast_are_costed_in_float32(make_scene):
    scene = make_scene()
    halves = {key: value.bfloat16() for key, value in scene.outputs.items() if key != "aux_outputs"}
    exact = {key: value.float() for key, value in halves.items()}
    matcher = make_matcher(WEIGHTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = matcher(DecoderOutputs(halves), scene.targets)
    expected = matcher(DecoderOutputs(exact), scene.targets)
    assert [as_lists(layer) for layer in found] == [as_lists(layer) for layer in expected]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["pred_logits", "mask_embed"])
def test_non_finite_predictions_name_image_and_layer(make_scene, value, key):
    scene = make_scene()
    with torch.no_grad():
        scene.layers[1][key][1, 4] = value
    with pytest.raises(NonFiniteCostError, match="image 1 of the batch at layer 1 of 3") as error:
        make_matcher(WEIGHTS)(DecoderOutputs(scene.outputs), scene.targets)
    assert (error.value.image, error.value.layer) == (1, 1)


def test_unknown_mask_loss_is_refused():
    with pytest.raises(ValueError, match="focal, bce"):
        MaskCost(mask_loss="lovasz")


class OneLayerCost(QueryCost):
    """A cost that ignores all layers but the last."""

    weight = 1.0

    def costs(self, outputs, image, target):
        return outputs.stacked("pred_logits", image)[-1][:, target.classes]


def test_costs_of_another_shape_or_type_are_refused(make_scene):
    scene = make_scene()
    matcher = HungarianMatcher([MaskCost(), OneLayerCost()])
    message = r"OneLayerCost returned costs of shape \(9, 3\); expected .* \(3, 9, 3\)"
    with pytest.raises(ValueError, match=message):
        matcher(DecoderOutputs(scene.outputs), scene.targets)
    with pytest.raises(
        TypeError, match="function is not a matching cost: derive it from QueryCost or PixelCost"
    ):
        HungarianMatcher([lambda *arguments: 0.0])
