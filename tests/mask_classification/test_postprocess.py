"""Post-processing equals the definitions, with all masks formed at full size."""

import pytest
import torch
import torch.nn.functional as F

from segzoo.modeling.mask_classification import postprocess
from segzoo.modeling.mask_classification.bilinear import MaskResizer
from segzoo.modeling.mask_classification.postprocess import inference, tiled_masks
from segzoo.modeling.mask_classification.postprocess.panoptic_fusion import PixelAssignment
from segzoo.modeling.mask_classification.postprocess.tiled_masks import TiledMasks

SIZES = [
    ((64, 80), (64, 80), (64, 80)),
    ((64, 80), (57, 74), (57, 74)),
    ((64, 80), (57, 74), (83, 109)),
    ((64, 80), (57, 74), (31, 20)),
    ((16, 20), (16, 19), (16, 19)),
    ((64, 80), (1, 80), (1, 80)),
    ((64, 80), (64, 80), (1, 1)),
]
IS_THING = (True, False, True, False, False)


def prediction(num_queries=12, num_classes=5, size=(16, 20), seed=0, confidence=6.0):
    """Return smooth masks and confident classes, some of them "no object"."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_queries, num_classes + 1, generator=generator) * confidence
    masks = torch.randn(1, num_queries, 6, 6, generator=generator) * 5
    return logits, F.interpolate(masks, size=size, mode="bilinear", align_corners=False)[0]


def perfect_prediction(ids, categories, num_classes=5):
    """Return queries that predict exactly a map of ids (H, W), 0 for void, and one query without a mask."""
    masks = torch.stack([ids == index + 1 for index in range(len(categories))] + [torch.zeros_like(ids) > 0])
    logits = torch.zeros(len(categories) + 1, num_classes + 1)
    logits[range(len(categories)), categories] = 20
    logits[-1, -1] = 20
    return logits, masks.float() * 40 - 20


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("resize_scores", [False, True])
def test_semantic_scores_and_labels_equal_the_plain_formulation(plain_postprocess, sizes, resize_scores):
    logits, masks = prediction()
    expected = plain_postprocess.semantic_scores(logits, masks, *sizes, resize_scores)
    scores = postprocess.semantic_scores(logits, masks, *sizes, resize_scores)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    labels = postprocess.semantic_labels(logits, masks, *sizes, resize_scores)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), expected.argmax(0))


def test_semantic_labels_in_many_bands_equal_those_in_one(monkeypatch):
    logits, masks = prediction(size=(200, 40))
    sizes = ((800, 160), (790, 150), (1100, 210))
    whole = postprocess.semantic_scores(logits, masks, *sizes)
    rows = []
    bands = inference.MaskResizer.bands

    def small_bands(self, planes, _, *args, **kwargs):
        for start, stop, band in bands(self, planes, 7, *args, **kwargs):
            rows.append(stop - start)
            yield start, stop, band

    monkeypatch.setattr(inference.MaskResizer, "bands", small_bands)
    assert torch.equal(postprocess.semantic_labels(logits, masks, *sizes).long(), whole.argmax(0))
    assert len(rows) == 158


def test_labels_beyond_a_byte_and_ties_take_the_first_class():
    logits = torch.zeros(2, 301)
    logits[0, 280] = logits[0, 299] = 9.0
    masks = torch.tensor([[[9.0]], [[-9.0]]])
    labels = postprocess.semantic_labels(logits, masks, (4, 4), (4, 4), (4, 4))
    assert labels.dtype == torch.int16
    assert (labels == 280).all()


def test_semantic_results_under_autocast_are_those_without():
    logits, masks = prediction()
    sizes = SIZES[2]
    expected = postprocess.semantic_scores(logits, masks, *sizes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(postprocess.semantic_scores(logits, masks, *sizes), expected)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("confident_only", [False, True])
def test_panoptic_equals_the_plain_formulation(plain_postprocess, sizes, confident_only):
    for seed in range(4):
        logits, masks = prediction(seed=seed, num_queries=20)
        ids, info = postprocess.panoptic(logits, masks, *sizes, IS_THING, 0.6, 0.5, confident_only)
        arguments = (logits, masks, *sizes, IS_THING, 0.6, 0.5, confident_only)
        expected_ids, expected = plain_postprocess.panoptic(*arguments)
        assert ids.dtype == torch.int32
        assert torch.equal(ids, expected_ids)
        assert [(segment["id"], segment["category_id"]) for segment in info] == expected
        assert all(segment["isthing"] == IS_THING[segment["category_id"]] for segment in info)
        scores = logits.softmax(-1).max(-1).values
        assert all(min((scores - segment["score"]).abs()) == 0 for segment in info)


def test_perfect_predictions_reach_pq_100():
    ids = torch.zeros(24, 32, dtype=torch.int64)
    ids[:12, :16], ids[:12, 16:], ids[12:, :10], ids[20:, 20:] = 1, 2, 3, 4
    categories = [0, 0, 1, 3]
    logits, masks = perfect_prediction(ids, categories)
    size = (24, 32)
    found, info = postprocess.panoptic(logits, masks, size, size, size, IS_THING, confident_pixels_only=True)
    assert torch.equal(found.long(), ids)
    assert [segment["category_id"] for segment in info] == categories
    assert [segment["isthing"] for segment in info] == [True, True, False, False]


def test_stuff_of_one_class_is_merged_and_things_are_not():
    ids = torch.arange(1, 5).repeat_interleave(4).expand(8, 16).clone()
    size = (8, 16)
    for category, count in ((1, 1), (0, 4)):
        logits, masks = perfect_prediction(ids, [category] * 4)
        logits[0, category] = 6.0
        found, info = postprocess.panoptic(logits, masks, size, size, size, IS_THING)
        assert len(info) == count
        assert len(found.unique()) == count
        assert max(segment["score"] for segment in info) > 0.9999


def test_a_segment_that_lost_most_of_its_mask_is_dropped():
    ids = torch.ones(10, 10, dtype=torch.int64)
    logits, masks = perfect_prediction(ids, [0, 2])
    masks[1] = -20.0
    masks[1, :, :5] = 20.0
    logits[0, 0] = 3.0  # query 0 covers everything with a lower score and keeps half of it
    size = (10, 10)
    found, info = postprocess.panoptic(logits, masks, size, size, size, IS_THING, 0.5, 0.6)
    assert [segment["category_id"] for segment in info] == [2]
    assert (found[:, :5] == 1).all()
    assert (found[:, 5:] == 0).all()
    _, both = postprocess.panoptic(logits, masks, size, size, size, IS_THING, 0.5, 0.4)
    assert len(both) == 2


def test_no_kept_query_gives_empty_results():
    logits, masks = prediction()
    logits[:, -1] = 99.0
    sizes = SIZES[2]
    ids, info = postprocess.panoptic(logits, masks, *sizes, IS_THING)
    assert ids.shape == sizes[2]
    assert not ids.any()
    assert info == []
    ids, info = postprocess.entities(logits, masks, *sizes)
    assert not ids.any()
    assert info == []
    found = postprocess.instances(logits, masks, *sizes, is_thing=[False] * 5)
    assert len(found) == 0
    assert found.pred_masks.shape == (0, *sizes[2])


@pytest.mark.parametrize("sizes", SIZES)
def test_instances_equal_the_plain_formulation(plain_postprocess, sizes):
    logits, masks = prediction()
    found = postprocess.instances(logits, masks, *sizes, 20)
    binary, scores, classes = plain_postprocess.instances(logits, masks, *sizes, 20)
    order = scores.argsort(descending=True, stable=True)
    assert torch.equal(found.pred_masks, binary[order])
    torch.testing.assert_close(found.scores, scores[order])
    assert torch.equal(found.pred_classes, classes[order])
    for mask, box in zip(found.pred_masks, found.pred_boxes.tensor.tolist(), strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if mask.any() else [0] * 4
        assert box == [float(side) for side in expected]


def test_instances_of_a_panoptic_model_are_things():
    logits, masks = prediction(confidence=1.0)
    everything = postprocess.instances(logits, masks, *SIZES[0], 20)
    things = postprocess.instances(logits, masks, *SIZES[0], 20, IS_THING)
    expected = [category for category in everything.pred_classes.tolist() if IS_THING[category]]
    assert things.pred_classes.tolist() == expected
    assert 0 < len(things) < 20


@pytest.mark.parametrize("sizes", SIZES)
def test_entities_equal_the_definition(plain_postprocess, sizes):
    logits, masks = prediction(confidence=2.0)
    ids, info = postprocess.entities(logits, masks, *sizes)
    scores = 1 - logits.softmax(-1)[:, -1]
    full = plain_postprocess.full_size_masks(masks, *sizes).sigmoid()
    winner = (scores[:, None, None] * full).argmax(0)
    expected = []
    for query in range(len(logits)):
        visible = (winner == query) & (full[query] >= 0.5)
        if visible.any():
            category = int(logits[query, :-1].argmax())
            expected.append((float(scores[query] * full[query][visible].mean()), category, visible))
    expected.sort(key=lambda entity: -entity[0])
    assert [entity["id"] for entity in info] == list(range(1, len(expected) + 1))
    for entity, (score, category, visible) in zip(info, expected, strict=True):
        assert entity["score"] == pytest.approx(score, abs=1e-6)
        assert entity["category_id"] == category
        assert torch.equal(ids == entity["id"], visible)


def test_entity_thresholds_drop_and_the_best_are_kept():
    logits, masks = prediction(num_queries=40, confidence=2.0)
    _, everything = postprocess.entities(logits, masks, *SIZES[0])
    ids, best = postprocess.entities(logits, masks, *SIZES[0], max_entities=3)
    assert best == everything[:3]
    assert ids.max() == 3
    kept = 1 - logits.softmax(-1)[:, -1] > 0.7
    assert 0 < kept.sum() < 40
    ids, above = postprocess.entities(logits, masks, *SIZES[0], score_threshold=0.7)
    expected_ids, expected = postprocess.entities(logits[kept], masks[kept], *SIZES[0])
    assert above == [entity for entity in expected if entity["score"] > 0.7]
    assert torch.equal(ids, expected_ids * (expected_ids <= len(above)))
    _, whole = postprocess.entities(logits, masks, *SIZES[0], overlap_threshold=0.1)
    assert 0 < len(whole) < len(everything)


@pytest.mark.parametrize("name", ["semantic_labels", "panoptic", "entities"])
def test_the_order_of_queries_does_not_change_the_segments(name):
    logits, masks = prediction(num_queries=20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    options = {"is_thing": IS_THING} if name == "panoptic" else {}
    function = getattr(postprocess, name)
    first = function(logits, masks, *SIZES[2], **options)
    second = function(logits[order], masks[order], *SIZES[2], **options)
    if name == "semantic_labels":
        assert torch.equal(first, second)
        return
    pairs = torch.stack([first[0].flatten(), second[0].flatten()]).unique(dim=1)
    assert pairs.shape[1] == len(first[0].unique()) == len(second[0].unique())


@pytest.mark.parametrize("name", ["semantic_scores", "semantic_labels", "panoptic", "entities", "instances"])
def test_inputs_are_not_modified(name):
    logits, masks = prediction()
    before = logits.clone(), masks.clone()
    options = {"is_thing": IS_THING} if name == "panoptic" else {}
    size = tuple(masks.shape[-2:])
    getattr(postprocess, name)(logits, masks, size, size, size, **options)
    assert torch.equal(logits, before[0])
    assert torch.equal(masks, before[1])


@pytest.fixture(params=["noise", "regions"])
def tiled_prediction(request):
    """Return masks over many tiles that compete everywhere, or that are compact with gaps between them."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(30, 6, generator=generator) * 6
    masks = torch.randn(30, 50, 66, generator=generator) * 3
    if request.param == "regions":
        centers = torch.rand(30, 2, generator=generator) * torch.tensor([50, 66])
        rows, columns = torch.meshgrid(torch.arange(50), torch.arange(66), indexing="ij")
        distance = (rows - centers[:, :1, None]).square() + (columns - centers[:, 1:, None]).square()
        masks = 6 - distance.sqrt() * 1.7 + masks / 10
    return logits, masks


@pytest.mark.parametrize("output_size", [(197, 260), (131, 97)])
def test_joined_tiles_equal_the_plain_formulation(
    plain_postprocess, tiled_prediction, output_size, monkeypatch
):
    monkeypatch.setitem(tiled_masks._TILE_SIZE, "cpu", (23, 32))
    logits, masks = tiled_prediction
    sizes = ((200, 264), (197, 260), output_size)
    for confident_only in (False, True):
        arguments = (logits, masks, *sizes, IS_THING, 0.4, 0.05, confident_only)
        ids, info = postprocess.panoptic(*arguments)
        expected_ids, expected = plain_postprocess.panoptic(*arguments)
        assert torch.equal(ids, expected_ids)
        assert [(segment["id"], segment["category_id"]) for segment in info] == expected != []
    found = postprocess.instances(logits, masks, *sizes, 20)
    binary, scores, _ = plain_postprocess.instances(logits, masks, *sizes, 20)
    order = scores.argsort(descending=True, stable=True)
    assert torch.equal(found.pred_masks, binary[order])
    torch.testing.assert_close(found.scores, scores[order])


def test_the_first_of_equal_queries_wins_and_saturated_queries_compete():
    logits = torch.zeros(4, 6)
    logits[:, 0] = 5
    size = (20, 30)
    masks = torch.full((4, *size), 80.0)
    ids, info = postprocess.panoptic(logits, masks, size, size, size, IS_THING)
    assert ids.eq(1).all()
    assert len(info) == 1
    logits[2, 0] = 9  # equally confident mask, more confident class
    masks[3] = -200.0
    pixels = PixelAssignment(
        masks, torch.arange(4), logits.softmax(-1).max(-1).values, MaskResizer(size, size, size), False
    )
    assert pixels.winner.eq(3).all()
    assert pixels.areas()[1] == [600, 600, 600, 0]


def test_bounds_of_tiles_hold_for_the_resized_masks(tiled_prediction):
    _, masks = tiled_prediction
    resizer = MaskResizer((200, 264), (197, 260), (333, 410))
    tiled = TiledMasks(masks, torch.arange(30), resizer)
    whole = resizer(masks)
    all_queries = torch.ones_like(tiled.lower, dtype=torch.bool)
    count = 0
    for index, (tile, _, planes) in enumerate(tiled.select(all_queries)):
        expected = whole[:, tile.rows, tile.columns]
        torch.testing.assert_close(planes, expected, rtol=1e-5, atol=1e-5)
        assert (expected >= tiled.lower[index, :, None, None]).all()
        assert (expected <= tiled.upper[index, :, None, None]).all()
        count += tile.pixels
    assert count == 333 * 410 == tiled.pixels.sum()


def test_panoptic_and_instance_results_under_autocast_are_those_without(tiled_prediction):
    sizes = ((200, 264), (197, 260), (197, 260))
    expected = postprocess.panoptic(*tiled_prediction, *sizes, IS_THING)
    expected_instances = postprocess.instances(*tiled_prediction, *sizes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = postprocess.panoptic(*tiled_prediction, *sizes, IS_THING)
        instances = postprocess.instances(*tiled_prediction, *sizes)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(instances.pred_masks, expected_instances.pred_masks)


def test_nan_masks_win_no_pixel_and_do_not_affect_others():
    logits, masks = prediction()
    masks[0] = float("nan")
    logits[0] = torch.tensor([30.0, 0, 0, 0, 0, 0])
    found = postprocess.panoptic(logits, masks, *SIZES[0], IS_THING)
    expected = postprocess.panoptic(logits[1:], masks[1:], *SIZES[0], IS_THING)
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1] != []
