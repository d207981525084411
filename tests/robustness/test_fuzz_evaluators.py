"""The evaluators on small scenes of any kind, against a loop over pixels and the official evaluations.

hypothesis draws maps of a few pixels, where ties, halves, voids, crowds and empty images are frequent.
"""

import contextlib
import io
import uuid

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segzoo.evaluation import EntityEvaluator, InstanceEvaluator, PanopticEvaluator, SemanticEvaluator

BOUNDED = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SIZE = (4, 6)
ISTHING = [True, True, False]
IGNORE = 255
VALUES = 5

maps = arrays(np.int32, SIZE, elements=st.integers(0, VALUES - 1), fill=st.nothing())
categories = st.lists(st.integers(0, 2), min_size=VALUES, max_size=VALUES)
few_scores = st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0]), min_size=VALUES, max_size=VALUES)
truths = st.tuples(maps, categories, st.integers(0, VALUES))
guesses = st.tuples(maps, categories, few_scores)
scenes = st.lists(st.tuples(truths, guesses), min_size=1, max_size=4)


def true_segments(indices, classes, crowd):
    """Ids (H, W), 0 is void, and the segments; `crowd` is the one that is a crowd, if any."""
    ids = np.where(indices > 0, indices * 70_001, 0).astype(np.int32)
    return ids, [
        {
            "id": int(index) * 70_001,
            "category_id": classes[index],
            "iscrowd": int(index == crowd),
            "isthing": ISTHING[classes[index]],
            "area": int((indices == index).sum()),
        }
        for index in np.unique(indices)
        if index
    ]


def guessed_segments(indices, classes, scores):
    return indices, [
        {
            "id": int(index),
            "category_id": classes[index],
            "score": scores[index],
            "isthing": ISTHING[classes[index]],
        }
        for index in np.unique(indices)
        if index
    ]


@pytest.fixture
def register():
    """Registers scenes as a dataset; returns its name, its dicts and the truths."""
    names = []

    def make(scenes):
        name = f"scenes_{uuid.uuid4().hex}"
        names.append(name)
        truths = [true_segments(*truth) for truth, _ in scenes]
        # Images are not in the order of their ids.
        records = [
            {"file_name": f"{index}.png", "image_id": 50 - index, "height": SIZE[0], "width": SIZE[1]}
            for index in range(len(truths))
        ]
        of_file = dict(zip((record["file_name"] for record in records), truths, strict=True))
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(
            classes=["a", "b", "c"],
            colors=[(0, 0, 0)] * 3,
            isthing=ISTHING,
            ignore_label=IGNORE,
            evaluator_type="panoptic",
            contiguous_id_to_dataset_id=[1, 2, 3],
            load_sem_seg=lambda record: class_map(*of_file[record["file_name"]]),
            load_panoptic=lambda record: of_file[record["file_name"]],
        )
        return name, records, truths

    yield make
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def class_map(ids, segments):
    labels = np.full(SIZE, IGNORE, np.uint8)
    for segment in segments:
        labels[ids == segment["id"]] = segment["category_id"]
    return labels


def run(evaluator, records, outputs):
    evaluator.process(records, outputs)
    return evaluator.evaluate()[evaluator.task_key]


@BOUNDED
@given(scenes=scenes)
def test_semantic_counts_are_those_of_a_loop_over_pixels(register, scenes):
    name, records, truths = register(scenes)
    guesses = [np.minimum(indices, 2).astype(np.uint8) for _, (indices, _, _) in scenes]
    evaluator = SemanticEvaluator(name, scoring_threads=0)
    metrics = run(evaluator, records, [{"sem_seg_labels": torch.from_numpy(guess)} for guess in guesses])
    matrix = np.zeros((3, 3), int)
    for truth, guess in zip(truths, guesses, strict=True):
        for true, found in zip(class_map(*truth).ravel().tolist(), guess.ravel().tolist(), strict=True):
            if true != IGNORE:
                matrix[found, true] += 1
    assert np.array_equal(evaluator.confusion_matrix[:3, :3], matrix)
    ious = []
    for one in range(3):
        union = matrix[one].sum() + matrix[:, one].sum() - matrix[one, one]
        if union:  # a class that neither has does not count
            ious.append(matrix[one, one] / union)
    expected = 100 * np.mean(ious) if matrix.sum() else np.nan
    assert metrics["mIoU"] == pytest.approx(expected, nan_ok=True)


@BOUNDED
@given(scenes=scenes)
def test_panoptic_quality_is_that_of_panopticapi(register, tmp_path, scenes):
    name, records, truths = register(scenes)
    guesses = [guessed_segments(*guess) for _, guess in scenes]
    outputs = [{"panoptic_seg": (torch.from_numpy(ids), segments)} for ids, segments in guesses]
    found = run(PanopticEvaluator(name, scoring_threads=0), records, outputs)
    if not any(segments for _, segments in truths):
        return  # panopticapi divides by the number of classes that there are
    folder = tmp_path / uuid.uuid4().hex
    pairs = []
    for record, *both in zip(records, truths, guesses, strict=True):
        pair = []
        for kind, (ids, segments) in zip(("truth", "guess"), both, strict=True):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(id2rgb(ids.astype(np.uint32))).save(folder / kind / record["file_name"])
            content = {"image_id": record["image_id"], "file_name": record["file_name"]}
            pair.append({**content, "segments_info": [{"iscrowd": 0, **one} for one in segments]})
        pairs.append(pair)
    kinds = {index: {"id": index, "isthing": int(isthing)} for index, isthing in enumerate(ISTHING)}
    with contextlib.redirect_stdout(io.StringIO()):
        counts = pq_compute_single_core(0, pairs, str(folder / "truth"), str(folder / "guess"), kinds)
    for suffix, isthing in (("", None), ("_th", True), ("_st", False)):
        try:
            expected, _ = counts.pq_average(kinds, isthing=isthing)
        except ZeroDivisionError:  # no thing, or no stuff
            continue
        for key in ("pq", "sq", "rq"):
            assert found[f"{key.upper()}{suffix}"] == pytest.approx(100 * expected[key], abs=1e-9)


def encode(mask):
    return rle.encode(np.asfortranarray(mask, np.uint8))


def official_ap(images, number_of_categories):
    """pycocotools' numbers, of (image id, [(mask, category, crowd)], [(mask, category, score)])."""
    annotations, detections = [], []
    for image_id, true, found in images:
        for mask, category, crowd in true:
            content = {"id": len(annotations) + 1, "category_id": category, "iscrowd": crowd}
            content |= {"area": float(mask.sum()), "image_id": image_id, "segmentation": encode(mask)}
            annotations.append(content)
        for mask, category, score in found:
            content = {"image_id": image_id, "category_id": category, "score": score}
            detections.append({**content, "segmentation": encode(mask)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image_id, "height": SIZE[0], "width": SIZE[1]} for image_id, _, _ in images],
            "categories": [{"id": category} for category in range(number_of_categories)],
            "annotations": annotations,
        }
        truth.createIndex()
        results = truth.loadRes(detections) if detections else COCO()
        if not detections:
            results.dataset = {**truth.dataset, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(truth, results, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats < 0, np.nan, 100 * evaluation.stats)


@BOUNDED
@given(scenes=scenes)
def test_entity_ap_is_that_of_pycocotools_with_one_category(register, scenes):
    name, records, truths = register(scenes)
    guesses = [guessed_segments(*guess) for _, guess in scenes]
    outputs = [{"entity_seg": (torch.from_numpy(ids), segments)} for ids, segments in guesses]
    found = run(EntityEvaluator(name, scoring_threads=0), records, outputs)
    images = [
        (
            record["image_id"],
            [(ids == one["id"], 0, 0) for one in segments if not one["iscrowd"]],
            [(guess == one["id"], 0, one["score"]) for one in guessed],
        )
        for record, (ids, segments), (guess, guessed) in zip(records, truths, guesses, strict=True)
    ]
    np.testing.assert_array_equal(list(found.values()), official_ap(images, 1))


@BOUNDED
@given(scenes=scenes, grow=st.booleans())
def test_instance_ap_is_that_of_pycocotools(register, scenes, grow):
    """Predicted masks overlap where `grow` says that each has the pixels beside it as well."""
    name, records, truths = register(scenes)
    outputs, images = [], []
    for record, (ids, segments), (_, guess) in zip(records, truths, scenes, strict=True):
        indices, guessed = guessed_segments(*guess)
        kept = [one for one in guessed if one["isthing"]]
        masks = [indices == one["id"] for one in kept]
        if grow:
            masks = [mask | np.roll(mask, 1, axis=1) for mask in masks]
        instances = Instances(SIZE)
        instances.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, *SIZE))
        instances.scores = torch.tensor([one["score"] for one in kept])
        instances.pred_classes = torch.tensor([one["category_id"] for one in kept], dtype=torch.int64)
        outputs.append({"instances": instances})
        true = [(ids == one["id"], one["category_id"], one["iscrowd"]) for one in segments if one["isthing"]]
        found = [(mask, one["category_id"], one["score"]) for mask, one in zip(masks, kept, strict=True)]
        images.append((record["image_id"], true, found))
    metrics = run(InstanceEvaluator(name, scoring_threads=0, engine="pycocotools"), records, outputs)
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    np.testing.assert_allclose([metrics[key] for key in keys], official_ap(images, 2), rtol=1e-12)
