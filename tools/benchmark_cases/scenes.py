"""Synthetic label maps with compact regions, as in photographs; noise would not be representative.

Shape shorthand: K classes, S segments of an image, H W pixels.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

IGNORE = 255
THINGS, STUFF = 80, 53


def regions(rng: np.random.Generator, height: int, width: int, count: int) -> np.ndarray:
    """Return (H, W) int32 in [0, count): the nearest random center, in coordinates warped by smooth noise."""
    scale = 4
    small = (height // scale, width // scale)
    rows, columns = np.mgrid[: small[0], : small[1]].astype(np.float32)
    rows, columns = (
        axis
        + cv2.resize(
            rng.normal(0, 12, (9, 12)).astype(np.float32), small[::-1], interpolation=cv2.INTER_CUBIC
        )
        for axis in (rows, columns)
    )
    centers = rng.random((count, 2)) * small
    nearest = np.zeros(small, np.int32)
    best = np.full(small, np.inf, np.float32)
    for index, (row, column) in enumerate(centers):
        distance = ((rows - row) ** 2 + (columns - column) ** 2) / rng.uniform(0.3, 3)
        closer = distance < best
        nearest[closer], best[closer] = index, distance[closer]
    return cv2.resize(nearest.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST).astype(
        np.int32
    )


def shifted(rng: np.random.Generator, labels: np.ndarray, pixels: int) -> np.ndarray:
    """Return the map shifted by up to `pixels`: a prediction with imperfect boundaries."""
    return np.roll(labels, rng.integers(-pixels, pixels + 1, 2), axis=(0, 1))


def semantic_scene(rng: np.random.Generator, num_classes: int, height: int, width: int) -> tuple:
    """Return (ground truth (H, W) uint8 with 5 % ignored, predicted labels (H, W) uint8)."""
    count = 40
    classes = rng.integers(0, num_classes, count).astype(np.uint8)
    areas = regions(rng, height, width, count)
    truth, predicted = classes[areas], classes[shifted(rng, areas, 6)]
    truth[regions(rng, height, width, 20) == 0] = IGNORE
    return truth, predicted


def semantic_scores(rng: np.random.Generator, labels: np.ndarray, num_classes: int) -> torch.Tensor:
    """Return (K, H, W) float32 noise with the label's class raised."""
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
    scores = torch.randn(num_classes, *labels.shape, generator=generator)
    scores.scatter_add_(0, torch.from_numpy(labels)[None].long(), torch.full((1, *labels.shape), 6.0))
    return scores


def register_semantic(name: str, folder: Path, truth: np.ndarray, num_classes: int) -> dict:
    """Write the ground truth of one image, register it as a dataset and return its dataset dict."""
    path = folder / f"{name}.png"
    Image.fromarray(truth).save(path)
    entry = {"file_name": f"{name}.jpg", "image_id": 1, "sem_seg_file_name": str(path)}
    names = [f"class{index}" for index in range(num_classes)]
    DatasetCatalog.register(name, lambda: [entry])
    MetadataCatalog.get(name).set(
        classes=names,
        stuff_classes=names,
        ignore_label=IGNORE,
        evaluator_type="sem_seg",
        load_sem_seg=lambda record: np.asarray(Image.open(record["sem_seg_file_name"])),
    )
    return entry


def panoptic_scene(rng: np.random.Generator, height: int, width: int) -> tuple:
    """Return (ids, segments) of ground truth and of a prediction, with void, crowds and mistakes."""
    count = int(rng.integers(8, 25))
    areas = regions(rng, height, width, count)
    numbers = rng.choice(np.arange(1, 1 << 24), count, replace=False).astype(np.int32)
    classes = rng.integers(0, THINGS + STUFF, count)
    void, crowd = rng.random((2, count)) < 0.06
    truth = np.where(void, 0, numbers)[areas].astype(np.int32)
    true_segments = []
    for region in np.unique(areas):
        if not void[region]:
            segment = {"id": int(numbers[region]), "category_id": int(classes[region])}
            segment |= {"iscrowd": int(crowd[region]), "area": int((areas == region).sum())}
            true_segments.append({**segment, "isthing": bool(classes[region] < THINGS)})

    guessed = np.where(rng.random(count) < 0.75, classes, rng.integers(0, THINGS + STUFF, count))
    dropped = rng.random(count) < 0.05
    moved = shifted(rng, areas, 8)
    predicted = np.where(dropped, 0, np.arange(1, count + 1))[moved].astype(np.int32)
    predicted_segments = [
        {
            "id": int(region) + 1,
            "category_id": int(guessed[region]),
            "isthing": bool(guessed[region] < THINGS),
            "score": float(rng.random()),
        }
        for region in np.unique(moved)
        if not dropped[region]
    ]
    return (truth, true_segments), (predicted, predicted_segments)


def entity_scene(rng: np.random.Generator, height: int, width: int) -> tuple:
    """Return such a scene with a prediction at score threshold 0: up to 100 detections, mostly fragments."""
    truth, (predicted, segments) = panoptic_scene(rng, height, width)
    kept = rng.random(int(predicted.max()) + 1) < 0.6
    fragments = regions(rng, height, width, 100) + len(kept)
    pieces = np.where(kept[predicted] & (predicted > 0), predicted, fragments)
    numbers, areas = np.unique(pieces, return_counts=True)
    largest = numbers[np.argsort(-areas)[:100]]
    pieces[~np.isin(pieces, largest)] = 0
    scores = {segment["id"]: segment["score"] for segment in segments}
    detections = [
        {"id": int(number), "score": scores.get(int(number), float(rng.random() / 3))} for number in largest
    ]
    return truth, (pieces.astype(np.int32), detections)
