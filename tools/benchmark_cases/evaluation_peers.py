"""The evaluators against mmsegmentation, torchmetrics, faster-coco-eval and hotcoco.

Semantic predictions are label maps, or scores for torchmetrics and mmsegmentation, which take the argmax by
torch; all sides read the ground truth from its PNG.
"""

import itertools
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from segzoo.evaluation import SemanticEvaluator

from . import Case, Pair, scenes
from .evaluation import ENTITY_IMAGES, entity_data, same_precision_and_recall
from .model import allow_missing_operators

_numbers = itertools.count()


def mmsegmentation(num_classes: int) -> Callable[[torch.Tensor, torch.Tensor], np.ndarray]:
    """Return a function from labels and ground truth, both (H, W) int64, to the IoU of the classes."""
    allow_missing_operators()
    from mmseg.evaluation import IoUMetric

    def run(labels: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
        areas = IoUMetric.intersect_and_union(labels, truth, num_classes, scenes.IGNORE)
        return (areas[0] / areas[1]).numpy()

    return run


def torchmetrics(num_classes: int) -> Callable[[torch.Tensor, torch.Tensor], np.ndarray]:
    """Return the same of torchmetrics' confusion matrix, which ignores the ignored pixels."""
    from torchmetrics.classification import MulticlassConfusionMatrix

    metric = MulticlassConfusionMatrix(num_classes, ignore_index=scenes.IGNORE, validate_args=False)

    def run(labels: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
        metric.reset()
        metric.update(labels[None], truth[None])
        return _iou(metric.compute().numpy())

    return run


def _iou(matrix: np.ndarray) -> np.ndarray:
    hits = matrix.diagonal().astype(np.float64)
    with np.errstate(invalid="ignore"):
        return hits / (matrix.sum(0) + matrix.sum(1) - hits)


def semantic(
    num_classes: int, height: int, width: int, labels_given: bool, make_peer: Callable[[int], Callable]
) -> Pair:
    """Compare the IoU of all classes of one image."""
    rng = np.random.default_rng(0)
    folder = tempfile.TemporaryDirectory()
    truth, predicted = scenes.semantic_scene(rng, num_classes, height, width)
    name = f"benchmark_peers_{next(_numbers)}"
    entry = scenes.register_semantic(name, Path(folder.name), truth, num_classes)
    labels = torch.from_numpy(predicted)
    scores = None if labels_given else scenes.semantic_scores(rng, predicted, num_classes)
    output = {"sem_seg_labels": labels} if labels_given else {"sem_seg": scores}
    evaluator, peer = SemanticEvaluator(name, scoring_threads=0), make_peer(num_classes)

    def ours(keep: Any = folder) -> np.ndarray:
        evaluator.reset()
        evaluator.process([entry], [output])
        # The last row and column count ignored pixels.
        return _iou(evaluator.confusion_matrix[:-1, :-1])

    def theirs() -> np.ndarray:
        true_labels = torch.from_numpy(np.array(Image.open(entry["sem_seg_file_name"]))).long()
        return peer(labels.long() if scores is None else scores.argmax(0), true_labels)

    def compare(one: np.ndarray, other: np.ndarray) -> str:
        difference = np.nanmax(np.abs(one - other))
        same = np.array_equal(np.isnan(one), np.isnan(other)) and difference < 1e-6
        return f"{'' if same else 'DIFFERENT, '}IoU " + (f"to {difference:.0e}" if difference else "equal")

    return Pair(ours, theirs, compare)


def entity(make_peer: Callable[[], tuple[type, type]], tolerance: float) -> Pair:
    """Compare entity AP with a library that has pycocotools' interface."""
    data, classes = entity_data(), make_peer()
    compare = partial(same_precision_and_recall, tolerance=tolerance)
    return Pair(data.segzoo, lambda: data.peer(*classes), compare)


def faster_coco_eval() -> tuple[type, type]:
    from faster_coco_eval import COCO, COCOeval_faster

    return COCO, COCOeval_faster


def hotcoco() -> tuple[type, type]:
    from hotcoco import COCO, COCOeval

    return COCO, COCOeval


CASES = [
    Case(
        f"semantic-{kind}-{height}x{width}x{num_classes}-{peer}",
        f"semantic evaluation of one {height} x {width} image, {num_classes} classes, {kind} given; "
        f"peer: {name}",
        partial(semantic, num_classes, height, width, kind == "labels", make),
        goal=2.0,
        memory="numpy" if kind == "labels" else "torch",
        scene=scenes.content_of(num_classes).text,
        needs=(peer,),
    )
    for peer, name, make in (
        ("mmseg", "mmsegmentation's IoUMetric", mmsegmentation),
        ("torchmetrics", "torchmetrics", torchmetrics),
    )
    for kind in ("scores", "labels")
    for num_classes, height, width in ((150, 512, 683), (19, 1024, 2048))
] + [
    Case(
        f"entity-ap-{peer}",
        f"entity AP of {ENTITY_IMAGES} images of 480 x 640, masks given; peer: {name}",
        partial(entity, make, tolerance),
        goal,
        "numpy",
        repeat=5,
        scene=f"{scenes.COCO_PANOPTIC}; up to 100 detections",
        needs=(peer,),
    )
    for peer, name, make, tolerance, goal in (
        # It divides in another order than pycocotools.
        ("faster_coco_eval", "faster-coco-eval", faster_coco_eval, 1e-14, 3.0),
        ("hotcoco", "hotcoco", hotcoco, 0.0, 1.5),
    )
]
