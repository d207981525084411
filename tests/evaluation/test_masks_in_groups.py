"""Masks that are pasted on demand give the files, numbers and drawings of masks at full size."""

import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.structures import Instances
from pycocotools import mask as mask_tools

from segzoo.evaluation import EntityEvaluator, InstanceEvaluator, entity, instance, instance_base
from segzoo.evaluation.boundary import BoundaryInstanceEvaluator
from segzoo.evaluation.cityscapes_ap import match_instances
from segzoo.evaluation.coco_writers import ResultsWriter
from segzoo.evaluation.instance_base import cpu_masks
from segzoo.evaluation.instance_files import load_instances, save_instances
from segzoo.evaluation.mask_runs import find_runs
from segzoo.evaluation.rescore import rescore
from segzoo.utils import lazy_masks
from segzoo.utils.lazy_masks import LazyMasks, stored_masks
from segzoo.visualization.draw import draw_result
from tests.evaluation.evaluation_data import PanopticData
from tests.modeling.box_detections import PASTINGS, at_output, detections

CLASSES, COLORS = ["a", "b", "c"], [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
EVALUATORS = [InstanceEvaluator, BoundaryInstanceEvaluator, EntityEvaluator]


def dense(found):
    """The same instances with masks at full size."""
    fields = {name: found.stored(name) for name in ("pred_boxes", "scores", "pred_classes")}
    return Instances(found.image_size, **fields, pred_masks=stored_masks(found).tensor())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset, and the results of both ways of pasting for its images."""
    data = PanopticData(tmp_path_factory.mktemp("data"), num_images=6, seed=1)
    data.found = {
        pasting: [
            at_output(pasting, detections(17, (31, 45), seed=seed), (entry["height"], entry["width"]))
            for seed, entry in enumerate(data.dataset_dicts)
        ]
        for pasting in PASTINGS
    }
    return data


@pytest.fixture
def three_at_once(monkeypatch):
    """Masks of these small images in groups of about three, so that there are several groups."""
    monkeypatch.setattr(lazy_masks, "PIXELS_AT_ONCE", 3 * 30 * 35)


@pytest.mark.parametrize("pasting", PASTINGS)
@pytest.mark.parametrize("kind", EVALUATORS, ids=lambda kind: kind.__name__)
def test_metrics_and_files_are_those_of_masks_at_full_size(kind, pasting, data, tmp_path, three_at_once):
    results, files = [], []
    for name, convert in (("lazy", lambda one: one), ("dense", dense)):
        save = {} if kind is BoundaryInstanceEvaluator else {"save_predictions": True}
        evaluator = kind(data.name, tmp_path / name, **save)
        outputs = [{"instances": convert(one)} for one in data.found[pasting]]
        evaluator.process(data.dataset_dicts, outputs)
        results.append(repr(evaluator.evaluate()))
        paths = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        files.append([(path.relative_to(tmp_path / name), path.read_bytes()) for path in paths])
        if name == "lazy":
            assert all(isinstance(stored_masks(one["instances"]), LazyMasks) for one in outputs)
    assert results[0] == results[1]
    assert files[0] == files[1]
    assert bool(files[0]) == bool(save)


class OwnScore(InstanceEvaluator):
    """An evaluator of another package, which reads masks."""

    def score(self, dataset_dict, prediction):
        assert {mask.shape for mask, _, _ in prediction.rows()} == {prediction.masks.shape[1:]}
        return super().score(dataset_dict, prediction)


@pytest.mark.parametrize("form", ["drawn on demand", "full size"])
@pytest.mark.parametrize("kind", [InstanceEvaluator, EntityEvaluator, ResultsWriter, OwnScore])
def test_what_leaves_a_gpu_gives_the_metrics_and_files_of_masks(
    kind, form, data, tmp_path, three_at_once, monkeypatch
):
    """As if the masks were on a GPU: no mask is copied to the host, unless `score` is another package's."""
    results, files, taken = [], [], []
    for name in ("host", "device"):
        evaluator = kind(data.name, tmp_path / name, save_predictions=True)
        monkeypatch.setattr(instance, "find_runs", lambda masks: taken.append(1) or find_runs(masks))
        if name == "device":
            for module in (instance, entity):
                monkeypatch.setattr(module, "is_on_device", lambda masks: True)
            if kind is not OwnScore:
                monkeypatch.setattr(instance_base, "cpu_masks", None)
                monkeypatch.setattr(entity, "cpu_masks", None)
        found = data.found["detectron2"]
        outputs = [{"instances": one if form == "drawn on demand" else dense(one)} for one in found]
        evaluator.process(data.dataset_dicts, outputs)
        results.append(repr(evaluator.evaluate()))
        paths = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        files.append([(path.relative_to(tmp_path / name), path.read_bytes()) for path in paths])
    assert results[0] == results[1]
    assert files[0] == files[1] != []
    assert len(taken) == (6 if kind in (InstanceEvaluator, ResultsWriter) else 0)


@pytest.mark.parametrize("pasting", PASTINGS)
def test_saved_masks_are_pycocotools_encodings_and_are_rescored(pasting, data, tmp_path, three_at_once):
    evaluator = InstanceEvaluator(data.name, tmp_path, save_predictions=True)
    evaluator.process(data.dataset_dicts, [{"instances": one} for one in data.found[pasting]])
    metrics = evaluator.evaluate()
    entries = json.loads((tmp_path / "coco_instances_results.json").read_text())
    masks = [mask for one in data.found[pasting] for mask in dense(one).pred_masks.numpy()]
    assert len(entries) == len(masks) > 90
    for entry, mask in zip(entries, masks, strict=True):
        counts = mask_tools.encode(np.asfortranarray(mask, np.uint8))["counts"]
        assert entry["segmentation"]["counts"] == counts.decode()
    again, _ = rescore(data.name, tmp_path, ["instance"], tmp_path / "again")
    assert repr(again) == repr(metrics)


@pytest.mark.parametrize("boundary", [None, 2])
def test_cityscapes_matches_and_files_are_those_at_full_size(data, boundary, tmp_path, three_at_once):
    found = data.found["detectron2"][0]
    rng = np.random.default_rng(0)
    regions = SimpleNamespace(
        indices=np.repeat(np.repeat(rng.integers(0, 5, (4, 5)), 12, 0), 12, 1)[
            : found.image_size[0], : found.image_size[1]
        ],
        classes=np.array([0, 1, 2, 255, 1]),
        is_instance=np.array([True, True, False, False, True]),
    )
    options = {"is_thing": [True, True, False], "ignore_label": 255, "boundary": boundary}
    scores, classes = found.scores.numpy(), found.pred_classes.numpy()
    lazy, full = (
        match_instances(cpu_masks(one), scores, classes, regions, **options) for one in (found, dense(found))
    )
    assert len(lazy.pairs) > 3
    for one, other in zip(lazy, full, strict=True):
        np.testing.assert_array_equal(one, other)
    save_instances(tmp_path, "city/image", cpu_masks(found), classes, scores)
    masks, ids, _ = load_instances(tmp_path / "city/image.txt")
    np.testing.assert_array_equal(masks, dense(found).pred_masks)
    assert ids == classes.tolist()


@pytest.mark.parametrize("pasting", PASTINGS)
def test_drawings_are_those_of_masks_at_full_size(pasting, data, three_at_once):
    found = data.found[pasting][0]
    image = np.random.default_rng(0).integers(0, 256, (*found.image_size, 3), dtype=np.uint8)
    for threshold in (0.0, 0.5, 2.0):
        drawn = [
            draw_result(image, {"instances": one}, "instance", CLASSES, COLORS, threshold)
            for one in (found, dense(found))
        ]
        assert np.array_equal(*drawn)
        assert np.array_equal(drawn[0], image) == (threshold == 2)
    assert isinstance(stored_masks(found), LazyMasks)


SIDE, COUNT = (120, 170), 1000


def consume(consumer, found, data, folder, monkeypatch):
    """Evaluate, write or draw the instances of an image."""
    scores, classes = found.scores.numpy(), found.pred_classes.numpy()
    if consumer == "draw":
        image = np.zeros((*SIDE, 3), np.uint8)
        draw_result(image, {"instances": found}, "instance", CLASSES, COLORS)
    elif consumer == "files":
        save_instances(folder, "image", cpu_masks(found), classes, scores)
    elif consumer == "cityscapes":
        indices = np.zeros(SIDE, np.int32)
        regions = SimpleNamespace(indices=indices, classes=np.array([0]), is_instance=np.array([True]))
        options = {"is_thing": [True], "ignore_label": 255, "boundary": 3}
        match_instances(cpu_masks(found), scores, classes, regions, **options)
    else:
        evaluator = consumer(data.name, scoring_threads=0)
        whole = {"id": 1, "category_id": 0, "iscrowd": 0, "isthing": True, "area": SIDE[0] * SIDE[1]}
        truth = np.ones(SIDE, np.int32), [whole]
        monkeypatch.setitem(vars(evaluator.metadata), "load_panoptic", lambda entry: truth)
        entry = {"file_name": "x.png", "image_id": 1, "height": SIDE[0], "width": SIDE[1]}
        evaluator.process([entry], [{"instances": found}])
        evaluator.flush()


CONSUMERS = ["draw", "files", "cityscapes", *EVALUATORS]


@pytest.mark.parametrize(
    ("consumer", "pasting"),
    [*((one, "detectron2") for one in CONSUMERS), ("draw", "gluoncv"), (InstanceEvaluator, "gluoncv")],
)
def test_memory_of_a_thousand_wide_boxes_is_that_of_a_few_masks(
    consumer, pasting, tmp_path, monkeypatch, data
):
    pixels = SIDE[0] * SIDE[1]
    monkeypatch.setattr(lazy_masks, "PIXELS_AT_ONCE", 5 * pixels + 1)
    found = at_output(pasting, detections(COUNT, (80, 110)), SIDE)
    consume(consumer, found[:7], data, tmp_path, monkeypatch)  # what is loaded and compiled once
    masks = stored_masks(found)
    draw, sizes = masks.draw, []
    masks.draw = lambda *arguments: sizes.append(len(arguments[0])) or draw(*arguments)
    tracemalloc.start()
    try:
        consume(consumer, found, data, tmp_path, monkeypatch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(stored_masks(found), LazyMasks)
    assert sum(sizes) == len(masks) >= COUNT - 1
    assert max(sizes) == 5
    # Two groups, the maps of the consumer, and RLEs.
    assert peak < 75 * pixels
