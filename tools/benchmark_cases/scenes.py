"""Synthetic label maps with as many regions, classes and objects as images of the datasets have.

| dataset | an image has | source |
|---|---|---|
| ADE20K (150 classes) | about 10 classes in 20 regions, 11 % of the pixels unlabeled | CVPR 2017 paper |
| Cityscapes (19) | about 14 classes, 7 people and 12 vehicles, 12 % unlabeled | CVPR 2016 paper |
| COCO panoptic | about 7 things and 4 stuff segments | |
| COCO instances | about 7 objects; 41 % of them below 32 x 32 pixels, 24 % above 96 x 96 | cocodataset.org |

Stuff fills the image, objects lie over it, contours are uneven as hand-drawn polygons are, and a prediction
is the truth with moved contours, missed and invented segments, and confused classes. A PNG of such a map has
the size of a real one: about 10 KB for 480 x 640 and 11 segments.

Shape shorthand: K classes, S segments of an image, H W pixels.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

IGNORE = 255
THINGS, STUFF = 80, 53
# Normal distribution of the logarithm of an object's pixels: 41 % below 32 x 32, 24 % above 96 x 96.
OBJECT_AREA = (7.49, 2.44)
LARGEST_OBJECT = 0.5  # of the image


class Content(NamedTuple):
    """What an image of a semantic dataset shows.

    Attributes:
        text: in words, for the descriptions of cases.
        present: number of its classes.
        stuff: number of regions that fill the image.
        objects: number of objects over them.
        ignored: share of the pixels without a label.
    """

    text: str
    present: int
    stuff: int
    objects: int
    ignored: float


CITYSCAPES = Content("as in Cityscapes: 14 classes, 20 regions, 19 objects", 14, 20, 19, 0.12)
ADE20K = Content("as in ADE20K: 10 classes in 20 regions", 10, 8, 12, 0.11)
CONTENTS = {19: CITYSCAPES, 150: ADE20K}
COCO_PANOPTIC = "as in COCO: 7 things and 4 stuff segments an image on average"
COCO_INSTANCES = "as in COCO: 7 objects an image on average"


def content_of(num_classes: int) -> Content:
    """Return what an image of a dataset with so many classes shows: ADE20K's where it is not known."""
    return CONTENTS.get(num_classes, ADE20K._replace(present=min(num_classes, ADE20K.present)))


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


def outline(rng: np.random.Generator, height: int, width: int, area: float) -> np.ndarray:
    """Return the (N, 2) int32 corners x, y of an object of about `area` pixels, somewhere in the image."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = np.arange(1, 8)
    uneven = rng.normal(0, 0.3, waves.size) / waves
    radius = 1 + (uneven * np.cos(waves * angles[:, None] + rng.uniform(0, 6.28, waves.size))).sum(axis=1)
    stretch = np.exp(rng.normal(0, 0.35))
    size = np.sqrt(area / np.pi) * np.array([stretch, 1 / stretch])
    center = rng.random(2) * (width, height)
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.round(center + size * np.maximum(radius, 0.15)[:, None] * unit).astype(np.int32)


def object_areas(rng: np.random.Generator, height: int, width: int, count: int) -> np.ndarray:
    """Return the (count,) areas of objects in pixels, the largest first, at least 30."""
    areas = np.exp(rng.normal(*OBJECT_AREA, count))
    return np.sort(np.clip(areas, 30, LARGEST_OBJECT * height * width))[::-1]


def scene(rng: np.random.Generator, height: int, width: int, stuff: int, objects: int) -> np.ndarray:
    """Return (H, W) int32: regions 0 ... stuff - 1, and objects from `stuff` on, small over large ones."""
    areas = regions(rng, height, width, stuff)
    for index, area in enumerate(object_areas(rng, height, width, objects)):
        cv2.fillPoly(areas, [outline(rng, height, width, area)], stuff + index)
    return areas


def moved(rng: np.random.Generator, labels: np.ndarray, pixels: float) -> np.ndarray:
    """Return the map with its contours moved by about `pixels`, in and out along each."""
    height, width = labels.shape
    cells = (max(height // 40, 2), max(width // 40, 2))
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    shifts = [cv2.resize(rng.normal(0, pixels, cells).astype(np.float32), (width, height)) for _ in range(2)]
    # OpenCV remaps floats, which hold all ids below 2**24.
    found = cv2.remap(
        labels.astype(np.float32),
        columns + shifts[0],
        rows + shifts[1],
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return found.astype(labels.dtype)


def semantic_scene(rng: np.random.Generator, num_classes: int, height: int, width: int) -> tuple:
    """Return (ground truth (H, W) uint8 with ignored pixels, predicted labels (H, W) uint8).

    A quarter of the regions is predicted as another class. With more than 255 classes the maps are uint16.
    """
    content = content_of(num_classes)
    count = content.stuff + content.objects
    dtype = np.uint8 if num_classes <= IGNORE else np.uint16
    ignore = np.iinfo(dtype).max
    present = rng.choice(num_classes, content.present, replace=False)
    classes = np.concatenate([present, rng.choice(present, max(count - content.present, 0))])[:count]
    classes = rng.permutation(classes).astype(dtype)
    guessed = np.where(rng.random(count) < 0.25, rng.choice(num_classes, count), classes).astype(dtype)
    areas = scene(rng, height, width, content.stuff, content.objects)
    truth, predicted = classes[areas], guessed[moved(rng, areas, 3)]
    unlabeled = scene(rng, height, width, 24, 0)
    truth[unlabeled < round(24 * content.ignored)] = ignore
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
    stuff = 1 + int(rng.poisson(3))
    things = min(int(rng.geometric(1 / 7)), 60)
    count = stuff + things
    areas = scene(rng, height, width, stuff, things)
    numbers = rng.choice(np.arange(1, 1 << 24), count, replace=False).astype(np.int32)
    classes = np.concatenate(
        [THINGS + rng.choice(STUFF, stuff, replace=False), rng.integers(0, THINGS, things)]
    )
    void, crowd = rng.random((2, count)) < 0.06
    crowd &= classes < THINGS
    truth = np.where(void, 0, numbers)[areas].astype(np.int32)
    true_segments = []
    for region in np.unique(areas):
        if not void[region]:
            segment = {"id": int(numbers[region]), "category_id": int(classes[region])}
            segment |= {"iscrowd": int(crowd[region]), "area": int((areas == region).sum())}
            true_segments.append({**segment, "isthing": bool(classes[region] < THINGS)})

    confused = np.where(
        classes < THINGS, rng.integers(0, THINGS, count), THINGS + rng.integers(0, STUFF, count)
    )
    guessed = np.where(rng.random(count) < 0.75, classes, confused)
    dropped = rng.random(count) < 0.15
    found = moved(rng, areas, 3)
    predicted = np.where(dropped, 0, np.arange(1, count + 1))[found].astype(np.int32)
    for _ in range(int(rng.poisson(1))):  # invented
        guessed = np.append(guessed, rng.integers(0, THINGS))
        invented = outline(rng, height, width, float(object_areas(rng, height, width, 1)[0]))
        cv2.fillPoly(predicted, [invented], len(guessed))
    predicted_segments = [
        {
            "id": int(number),
            "category_id": int(guessed[number - 1]),
            "isthing": bool(guessed[number - 1] < THINGS),
            "score": float(rng.random()),
        }
        for number in np.unique(predicted)
        if number > 0
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
