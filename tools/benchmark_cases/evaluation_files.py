"""Evaluation from files, and AP of 80 classes, against hotcoco; reading PNGs against Pillow.

Shape shorthand: H W pixels of an image.
"""

import contextlib
import io
import itertools
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as rle

from segzoo.evaluation import SemanticEvaluator, prediction_io
from segzoo.evaluation.coco_engine import evaluate_masks, installed_engine
from segzoo.evaluation.panoptic import ClassSums, image_quality
from segzoo.evaluation.rle import encode_rle
from segzoo.evaluation.segments import SegmentMap

from . import Case, Pair, scenes
from .evaluation import same_precision_and_recall

IMAGES = 40
SIZE = (480, 640)
LABEL_SIZE = (512, 683)
CLASSES = 150
# Each measurement registers its dataset anew.
_numbers = itertools.count()


def _label_files(folder: Path) -> list[tuple[Path, Path]]:
    """Write ground truth and predictions of scenes; return the pairs of files."""
    rng = np.random.default_rng(0)
    pairs = []
    for index in range(IMAGES):
        pair = tuple(folder / f"{kind}{index}.png" for kind in ("truth", "predicted"))
        for path, labels in zip(pair, scenes.semantic_scene(rng, CLASSES, *LABEL_SIZE), strict=True):
            Image.fromarray(labels).save(path)
        pairs.append(pair)
    return pairs


def labels_from_png() -> Pair:
    """Compare the confusion matrices of all pairs of label maps."""
    from hotcoco.semantic import SemanticEval

    temporary = tempfile.TemporaryDirectory()
    pairs = _label_files(Path(temporary.name))
    name = f"benchmark_label_files_{next(_numbers)}"
    entries = [{"file_name": str(truth), "image_id": i} for i, (truth, _) in enumerate(pairs)]
    DatasetCatalog.register(name, lambda: entries)
    MetadataCatalog.get(name).set(
        classes=[f"class{index}" for index in range(CLASSES)],
        ignore_label=scenes.IGNORE,
        load_sem_seg=lambda entry: prediction_io.load_labels(Path(entry["file_name"])),
    )
    evaluator = SemanticEvaluator(name, scoring_threads=0)

    def ours(keep: Any = temporary) -> np.ndarray:
        evaluator.reset()
        for entry, (_, predicted) in zip(entries, pairs, strict=True):
            evaluator.process([entry], [{"sem_seg_labels": prediction_io.load_labels(predicted)}])
        return evaluator.confusion_matrix[:-1, :-1].T

    def theirs() -> np.ndarray:
        peer = SemanticEval(CLASSES, ignore_index=scenes.IGNORE)
        for truth, predicted in pairs:
            peer.update_png(truth, predicted)
        return peer.confusion()

    return Pair(ours, theirs, np.array_equal)


def panoptic_from_png() -> Pair:
    """Compare PQ, SQ and RQ over all classes."""
    from hotcoco.panoptic import PanopticEval

    temporary = tempfile.TemporaryDirectory()
    folder = Path(temporary.name)
    rng = np.random.default_rng(1)
    annotations: dict[str, list[dict]] = {"truth": [], "predicted": []}
    for kind in annotations:
        (folder / kind).mkdir()
    for index in range(IMAGES):
        for kind, (ids, segments) in zip(annotations, scenes.panoptic_scene(rng, *SIZE), strict=True):
            prediction_io.save_ids(folder / kind / f"{index}.png", ids)
            annotations[kind].append(
                {"image_id": index, "file_name": f"{index}.png", "segments_info": segments}
            )
    count = scenes.THINGS + scenes.STUFF
    categories = [{"id": i, "name": f"class{i}", "isthing": int(i < scenes.THINGS)} for i in range(count)]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in range(IMAGES)]
    files = []
    for kind, listed in annotations.items():
        files.append(folder / f"{kind}.json")
        document = {"images": images, "annotations": listed, "categories": categories}
        files[-1].write_text(json.dumps(document), encoding="utf-8")

    def ours(keep: Any = temporary) -> list[float]:
        sums = ClassSums(count)
        listed = [json.loads(path.read_bytes())["annotations"] for path in files]
        for pair in zip(*listed, strict=True):
            maps = [
                SegmentMap(prediction_io.load_ids(folder / kind / one["file_name"]), one["segments_info"])
                for kind, one in zip(annotations, pair, strict=True)
            ]
            sums.add(image_quality(pair[0]["file_name"], *maps))
        return list(sums.average(np.ones(count, bool))[0].values())

    def theirs() -> list[float]:
        with contextlib.redirect_stdout(io.StringIO()):
            peer = PanopticEval(
                *map(str, files), gt_folder=folder / "truth", pred_folder=folder / "predicted"
            )
            peer.evaluate()
        found = peer.report()["metrics"]
        return [found[measure] for measure in ("PQ", "SQ", "RQ")]

    def compare(one: list[float], other: list[float]) -> str:
        difference = np.abs(np.subtract(one, other)).max()
        return f"{'' if difference < 1e-12 else 'DIFFERENT, '}PQ, SQ, RQ to {difference:.0e}"

    return Pair(ours, theirs, compare)


def _instances() -> tuple[list[dict], list[dict]]:
    """Return true and predicted instances of 80 classes with their masks, (H, W) bool."""
    rng = np.random.default_rng(2)
    both: tuple[list[dict], list[dict]] = ([], [])
    for number in range(1, IMAGES + 1):
        for found, (ids, segments) in zip(both, scenes.panoptic_scene(rng, *SIZE), strict=True):
            for segment in segments:
                if segment["category_id"] < scenes.THINGS:
                    entry = {"image_id": number, "category_id": segment["category_id"] + 1}
                    entry |= {"mask": ids == segment["id"], "iscrowd": segment.get("iscrowd", 0)}
                    entry |= {"area": float((ids == segment["id"]).sum())}
                    found.append({**entry, "score": segment["score"]} if "score" in segment else entry)
    return both


def average_precision(from_masks: bool) -> Pair:
    """Compare precision and recall with hotcoco, which is given pycocotools' RLE or encodes masks itself."""
    import hotcoco

    truths, detections = _instances()
    categories = list(range(1, scenes.THINGS + 1))
    images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, IMAGES + 1)]

    def with_code(one: dict, encode) -> dict:
        return {
            **{key: item for key, item in one.items() if key != "mask"},
            "segmentation": encode(one["mask"]),
        }

    def by_hotcoco(mask: np.ndarray) -> dict:
        return hotcoco.mask.encode(np.asfortranarray(mask, np.uint8))

    def by_pycocotools(mask: np.ndarray) -> dict:
        return rle.encode(np.asfortranarray(mask, np.uint8))

    def given(encode) -> tuple[list[dict], list[dict]]:
        if from_masks:
            return truths_rle, [with_code(one, encode) for one in detections]
        return truths_rle, detections_rle

    truths_rle = [with_code(one, by_pycocotools) for one in truths]
    detections_rle = [with_code(one, by_pycocotools) for one in detections]

    def ours() -> tuple[np.ndarray, np.ndarray]:
        return evaluate_masks(*given(encode_rle), [SIZE] * IMAGES, categories, installed_engine())

    def theirs() -> tuple[np.ndarray, np.ndarray]:
        listed = [
            {
                "images": images,
                "categories": [{"id": i, "name": str(i)} for i in categories],
                "annotations": some,
            }
            for some in (
                [{**one, "id": number} for number, one in enumerate(side, 1)] for side in given(by_hotcoco)
            )
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            result = hotcoco.COCOeval(*map(hotcoco.COCO, listed), "segm")
            result.params.catIds = categories
            result.params.imgIds = [image["id"] for image in images]
            result.evaluate()
            result.accumulate()
        return result.eval["precision"], result.eval["recall"]

    def compare(one: tuple, other: tuple) -> str:
        shaped = tuple(np.asarray(b).reshape(a.shape) for a, b in zip(one, other, strict=True))
        return same_precision_and_recall(one, shaped)

    return Pair(ours, theirs, compare)


def decoding(kind: str) -> Pair:
    """Compare reading label or panoptic PNGs with Pillow and numpy."""
    temporary = tempfile.TemporaryDirectory()
    folder = Path(temporary.name)
    if kind == "labels":
        paths, load = [path for pair in _label_files(folder) for path in pair], prediction_io.load_labels
    else:
        rng = np.random.default_rng(1)
        paths, load = [folder / f"{index}.png" for index in range(IMAGES)], prediction_io.load_ids
        for path in paths:
            prediction_io.save_ids(path, scenes.panoptic_scene(rng, *SIZE)[0][0])

    def by_pillow(path: Path) -> np.ndarray:
        pixels = np.asarray(Image.open(path))
        if pixels.ndim == 2:
            return pixels
        red, green, blue = (pixels[:, :, band].astype(np.int32) for band in range(3))
        return red | green << 8 | blue << 16

    def compare(one: list, other: list) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    def ours(keep: Any = temporary) -> list[np.ndarray]:
        return [load(path) for path in paths]

    return Pair(ours, lambda: [by_pillow(path) for path in paths], compare)


CASES = [
    Case(
        "labels-png-512x683x150-hotcoco",
        f"confusion matrix of {IMAGES} pairs of label PNGs, 512 x 683, {CLASSES} classes; "
        "peer: hotcoco's update_png",
        labels_from_png,
        goal=1.0,
        memory="numpy",
        scene=scenes.ADE20K.text,
        needs=("hotcoco",),
    ),
    Case(
        "panoptic-png-hotcoco",
        f"PQ of {IMAGES} pairs of panoptic PNGs, 480 x 640; peer: hotcoco's PanopticEval",
        panoptic_from_png,
        goal=1.0,
        memory="numpy",
        scene=scenes.COCO_PANOPTIC,
        needs=("hotcoco",),
    ),
    *(
        Case(
            f"instance-ap-{given}-hotcoco",
            f"AP of 80 classes, {IMAGES} images of 480 x 640, {given} given, by the fastest engine "
            "installed; peer: hotcoco alone",
            partial(average_precision, given == "masks"),
            memory="numpy",
            scene=scenes.COCO_INSTANCES,
            needs=("hotcoco",),
        )
        for given in ("rle", "masks")
    ),
    *(
        Case(
            f"read-png-{kind}",
            f"{text}; peer: Pillow and numpy",
            partial(decoding, kind),
            goal=1.5,
            memory="numpy",
        )
        for kind, text in (
            ("labels", f"reading {2 * IMAGES} label PNGs of 512 x 683"),
            ("ids", f"reading {IMAGES} panoptic PNGs of 480 x 640 as ids"),
        )
    ),
]
