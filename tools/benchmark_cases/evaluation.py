"""The evaluators against Detectron2, panopticapi and pycocotools, on the same predictions.

`evaluation_peers` has the other libraries.
"""

import contextlib
import copy
import io
import itertools
import json
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, SemSegEvaluator
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segzoo.evaluation import PanopticEvaluator, SemanticEvaluator, prediction_io
from segzoo.evaluation.average_precision import accumulate
from segzoo.evaluation.entity import entity_matches
from segzoo.evaluation.panoptic import ClassSums, image_quality
from segzoo.evaluation.segments import SegmentMap

from . import Case, Pair, scenes

PANOPTIC_IMAGES = 40
ENTITY_IMAGES = 50  # more, since detections are sorted once for all images
_numbers = itertools.count()


class _Labels:
    """A label map in place of scores, for a peer that takes the argmax of its input."""

    def __init__(self, labels: np.ndarray):
        self.labels = torch.from_numpy(labels).long()

    def argmax(self, dim: int) -> torch.Tensor:
        return self.labels


def semantic(num_classes: int, height: int, width: int, labels_given: bool) -> Pair:
    """Compare `process` on one image; both sides read the ground truth from its PNG."""
    rng = np.random.default_rng(0)
    folder = tempfile.TemporaryDirectory()
    truth, predicted = scenes.semantic_scene(rng, num_classes, height, width)
    name = f"benchmark_semantic_{next(_numbers)}"
    entry = scenes.register_semantic(name, Path(folder.name), truth, num_classes)
    if labels_given:
        ours, theirs = {"sem_seg_labels": torch.from_numpy(predicted)}, {"sem_seg": _Labels(predicted)}
    else:
        ours = theirs = {"sem_seg": scenes.semantic_scores(rng, predicted, num_classes)}
    evaluator = SemanticEvaluator(name, scoring_threads=0)
    peer = SemSegEvaluator(name, distributed=False)

    def run(evaluator, output: dict, matrix: str, keep=folder) -> np.ndarray:
        evaluator.reset()
        evaluator.process([entry], [output])
        return getattr(evaluator, matrix)

    return Pair(
        partial(run, evaluator, ours, "confusion_matrix"),
        partial(run, peer, theirs, "_conf_matrix"),
        lambda ours, theirs: "matrices equal" if np.array_equal(ours, theirs) else "DIFFERENT matrices",
    )


def _panoptic_files(folder: Path) -> dict:
    """Write ground truth and predictions of scenes as PNGs; categories are numbered from 1."""
    rng = np.random.default_rng(1)
    (folder / "truth").mkdir()
    (folder / "predicted").mkdir()
    pairs, images = [], []
    for index in range(PANOPTIC_IMAGES):
        truth, predicted = scenes.panoptic_scene(rng, 480, 640)
        annotations = []
        for kind, (ids, segments) in (("truth", truth), ("predicted", predicted)):
            prediction_io.save_ids(folder / kind / f"{index:04d}.png", ids)
            numbered = [{**segment, "category_id": segment["category_id"] + 1} for segment in segments]
            annotations.append(
                {"image_id": index, "file_name": f"{index:04d}.png", "segments_info": numbered}
            )
        pairs.append(tuple(annotations))
        images.append((truth, predicted))
    count = scenes.THINGS + scenes.STUFF
    categories = [{"id": i + 1, "name": f"class{i}", "isthing": int(i < scenes.THINGS)} for i in range(count)]
    return {"pairs": pairs, "images": images, "categories": categories}


def _single_core(folder: Path, pairs: list, categories: list[dict]):
    from panopticapi.evaluation import pq_compute_single_core

    with contextlib.redirect_stdout(io.StringIO()):
        return pq_compute_single_core(
            0,
            pairs,
            str(folder / "truth"),
            str(folder / "predicted"),
            {category["id"]: category for category in categories},
        )


def _same_sums(ours: ClassSums, theirs) -> str:
    """Compare every class bitwise: IoU sum, true positives, false positives, false negatives."""
    same = all(
        (ours.iou[i], ours.tp[i], ours.fp[i], ours.fn[i])
        == (theirs[i + 1].iou, theirs[i + 1].tp, theirs[i + 1].fp, theirs[i + 1].fn)
        for i in range(len(ours.iou))
    )
    return "bitwise equal per class" if same else "DIFFERENT sums"


def panoptic_from_png() -> Pair:
    temporary = tempfile.TemporaryDirectory()
    folder = Path(temporary.name)
    made = _panoptic_files(folder)

    def segzoo_run(keep=temporary) -> ClassSums:
        sums = ClassSums(len(made["categories"]))
        for (truth, predicted), (true_map, predicted_map) in zip(made["pairs"], made["images"], strict=True):
            maps = [
                SegmentMap(prediction_io.load_ids(folder / kind / annotation["file_name"]), segments)
                for kind, annotation, (_, segments) in (
                    ("truth", truth, true_map),
                    ("predicted", predicted, predicted_map),
                )
            ]
            sums.add(image_quality(truth["file_name"], *maps))
        return sums

    return Pair(segzoo_run, lambda: _single_core(folder, made["pairs"], made["categories"]), _same_sums)


def panoptic_end_to_end() -> Pair:
    """Compare `process` and `evaluate` on a model's outputs; both sides read the ground truth from PNGs."""
    temporary = tempfile.TemporaryDirectory()
    folder = Path(temporary.name)
    made = _panoptic_files(folder)
    name = f"benchmark_panoptic_{next(_numbers)}"
    entries = []
    for (truth, _), (true_map, _) in zip(made["pairs"], made["images"], strict=True):
        png = str(folder / "truth" / truth["file_name"])
        entries.append(
            {"file_name": truth["file_name"], "image_id": truth["image_id"], "png": png, "info": true_map[1]}
        )
    document = {"annotations": [truth for truth, _ in made["pairs"]], "categories": made["categories"]}
    (folder / "truth.json").write_text(json.dumps({**document, "images": []}), encoding="utf-8")
    names = [category["name"] for category in made["categories"]]
    numbers = {category["id"]: index for index, category in enumerate(made["categories"])}
    DatasetCatalog.register(name, lambda: entries)
    MetadataCatalog.get(name).set(
        classes=names,
        isthing=[bool(category["isthing"]) for category in made["categories"]],
        contiguous_id_to_dataset_id=list(numbers),
        thing_dataset_id_to_contiguous_id=numbers,
        stuff_dataset_id_to_contiguous_id=numbers,
        panoptic_json=str(folder / "truth.json"),
        panoptic_root=str(folder / "truth"),
        load_panoptic=lambda entry: (prediction_io.load_ids(entry["png"]), entry["info"]),
    )
    maps = [(torch.from_numpy(ids), segments) for _, (ids, segments) in made["images"]]

    def run(evaluator) -> None:
        evaluator.reset()
        for entry, (ids, segments) in zip(entries, maps, strict=True):
            # Detectron2's evaluator changes the segments that it is given.
            evaluator.process([entry], [{"panoptic_seg": (ids, copy.deepcopy(segments))}])
        evaluator.evaluate()

    ours, theirs = PanopticEvaluator(name), COCOPanopticEvaluator(name)
    single_core = _single_core(folder, copy.deepcopy(made["pairs"]), made["categories"])

    def segzoo_run(keep=temporary) -> ClassSums:
        run(ours)
        return ours.class_sums

    # Detectron2 sums over processes, in another order: the single-process sums are the reference.
    return Pair(segzoo_run, lambda: run(theirs), lambda sums, _: _same_sums(sums, single_core))


class EntityData(NamedTuple):
    """Scenes as id maps and as COCO's dicts with RLE."""

    images: list[tuple[SegmentMap, SegmentMap]]
    truth: dict
    detections: list[dict]

    def segzoo(self) -> tuple[np.ndarray, np.ndarray]:
        """Return precision and recall from the id maps."""
        return accumulate([entity_matches(str(i), *maps) for i, maps in enumerate(self.images)])

    def peer(self, coco: type, cocoeval: type) -> tuple[np.ndarray, np.ndarray]:
        """Return precision and recall of classes with pycocotools' interface, from RLE."""
        with contextlib.redirect_stdout(io.StringIO()):
            truth = coco()
            truth.dataset = {**self.truth, "annotations": list(map(dict, self.truth["annotations"]))}
            truth.createIndex()
            result = cocoeval(truth, truth.loadRes(list(map(dict, self.detections))), "segm")
            result.evaluate()
            result.accumulate()
        return result.eval["precision"][:, :, 0], result.eval["recall"][:, 0]


@cache
def entity_data() -> EntityData:
    """Return the scenes, which are made once for all peers."""
    rng = np.random.default_rng(2)
    images, annotations, detections = [], [], []
    for image_id in range(ENTITY_IMAGES):
        (true_ids, true_segments), prediction = scenes.entity_scene(rng, 480, 640)
        images.append((SegmentMap(true_ids, true_segments), SegmentMap(*prediction)))
        for segment in true_segments:
            if not segment["iscrowd"]:
                mask = rle.encode(np.asfortranarray(true_ids == segment["id"], np.uint8))
                entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0}
                annotations.append(
                    {
                        **entry,
                        "area": segment["area"],
                        "bbox": rle.toBbox(mask).tolist(),
                        "segmentation": mask,
                    }
                )
        for segment in prediction[1]:
            mask = rle.encode(np.asfortranarray(prediction[0] == segment["id"], np.uint8))
            entry = {"image_id": image_id, "category_id": 1, "score": segment["score"]}
            detections.append({**entry, "segmentation": mask})
    sizes = [{"id": image_id, "height": 480, "width": 640} for image_id in range(ENTITY_IMAGES)]
    truth = {"images": sizes, "categories": [{"id": 1, "name": "entity"}], "annotations": annotations}
    return EntityData(images, truth, detections)


def same_precision_and_recall(ours: tuple, theirs: tuple, tolerance: float = 0.0) -> str:
    if all(np.array_equal(one, two) for one, two in zip(ours, theirs, strict=True)):
        return "precision and recall bitwise equal"
    difference = max(float(np.abs(one - two).max()) for one, two in zip(ours, theirs, strict=True))
    text = f"precision and recall to {difference:.0e}"
    return text if difference <= tolerance else f"DIFFERENT: {text}"


def entity() -> Pair:
    """Compare entity AP; segzoo gets id maps and pycocotools gets RLE."""
    data = entity_data()
    return Pair(data.segzoo, lambda: data.peer(COCO, COCOeval), same_precision_and_recall)


def _semantic_cases() -> list[Case]:
    cases = []
    for num_classes, height, width in ((150, 512, 683), (19, 1024, 2048)):
        size = f"{height}x{width}x{num_classes}"
        text = f"semantic evaluation of one {height} x {width} image, {num_classes} classes"
        make = partial(semantic, num_classes, height, width)
        cases += [
            Case(
                f"semantic-{kind}-{size}",
                f"{text}, {kind} given; peer: Detectron2's SemSegEvaluator",
                partial(make, kind == "labels"),
                GOALS[kind, num_classes],
                "numpy",
                scene=scenes.content_of(num_classes).text,
            )
            for kind in ("scores", "labels")
        ]
    return cases


# Of the peers' time, with scenes as real images have them; more classes in an image cost Detectron2 more.
GOALS = {("scores", 150): 3.5, ("labels", 150): 4.0, ("scores", 19): 9.0, ("labels", 19): 9.0}

CASES = [
    *_semantic_cases(),
    Case(
        "panoptic-png",
        f"PQ of {PANOPTIC_IMAGES} images of 480 x 640 from PNGs; peer: panopticapi's pq_compute_single_core",
        panoptic_from_png,
        2.0,
        "numpy",
        scene=scenes.COCO_PANOPTIC,
        needs=("panopticapi",),
    ),
    Case(
        "panoptic-end-to-end",
        f"PQ of {PANOPTIC_IMAGES} predicted maps of 480 x 640; peer: Detectron2's COCOPanopticEvaluator",
        panoptic_end_to_end,
        3.0,
        "numpy",
        scene=scenes.COCO_PANOPTIC,
        needs=("panopticapi",),
    ),
    Case(
        "entity-ap",
        f"entity AP of {ENTITY_IMAGES} images of 480 x 640, masks given; peer: pycocotools",
        entity,
        12.0,
        "numpy",
        repeat=5,
        scene=f"{scenes.COCO_PANOPTIC}; up to 100 detections",
        needs=("pycocotools",),
    ),
]
