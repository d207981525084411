"""Tiny datasets in the formats of the real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.utils import id2rgb
from PIL import Image

from segzoo.data import register, register_dataset_file

ROADS = {
    "splits": {"roads_train": "train"},
    "images": "images/{split}/{stem}.png",
    "labels": "masks/{split}/{stem}.png",
    "classes": ["road", "building", "sky", "car", "person"],
}


def save(path: Path, pixels: np.ndarray, mode: str | None = None, palette: list[int] | None = None) -> Path:
    """Writes an array as an image, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels))
    if mode is not None:
        image = image.convert(mode)
    if palette is not None:
        image = Image.fromarray(np.asarray(pixels)).convert("L")
        image.putpalette(palette)
    image.save(path)
    return path


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random RGB pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_yaml(folder: Path, content: dict, name: str = "roads.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(content))
    return folder / name


def write_roads(folder: Path, labels: np.ndarray, **keys) -> Path:
    """A dataset of one image, roads_train, with the given pixels as its label file."""
    labels = np.asarray(labels)
    save(folder / "images/train/a.png", random_image(*labels.shape[:2]))
    save(folder / "masks/train/a.png", labels)
    return write_yaml(folder, {**ROADS, **keys})


def write_panoptic(
    folder: Path, maps: dict[str, np.ndarray], segments: dict[str, list[dict]], categories: list[dict]
) -> Path:
    """images/, panoptic/ and panoptic.json for id maps {stem: (H, W)} with segments {stem: [...]}."""
    images, annotations = [], []
    for number, (stem, ids) in enumerate(maps.items(), 1):
        height, width = ids.shape
        save(folder / f"images/{stem}.jpg", random_image(height, width, number))
        save(folder / f"panoptic/{stem}.png", id2rgb(ids.astype(np.uint32)))
        images.append({"id": number, "file_name": f"{stem}.jpg", "height": height, "width": width})
        infos = []
        for segment in segments[stem]:
            rows, columns = np.nonzero(ids == segment["id"])
            box = [0, 0, 0, 0]
            if len(rows):
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            info = {"area": len(rows), "bbox": [int(side) for side in box], "iscrowd": 0}
            infos.append({**info, **segment})
        annotations.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": infos})
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder / "panoptic.json"


# Two stuff and two thing classes; ids with gaps.
STREET_CATEGORIES = [
    {"id": 1, "name": "road", "isthing": 0},
    {"id": 3, "name": "car", "isthing": 1},
    {"id": 4, "name": "sky", "isthing": 0},
    {"id": 9, "name": "person", "isthing": 1},
]
STREET = {
    "splits": {"street_train": "train"},
    "images": "images",
    "panoptic": "panoptic",
    "annotations": "panoptic.json",
    "classes": [
        {"name": one["name"], "id": one["id"], "isthing": bool(one["isthing"])} for one in STREET_CATEGORIES
    ],
}
# Ids need all three channels. Two cars, a person, a crowd of persons, road, sky, void in the corner.
STREET_IDS = np.array(
    [
        [0, 70000, 70000, 70000, 70000, 70000],
        [500, 500, 70000, 7, 7, 70000],
        [500, 500, 66051, 7, 7, 300],
        [12, 12, 66051, 12, 300, 300],
    ]
)
STREET_SEGMENTS = [
    {"id": 70000, "category_id": 4},
    {"id": 500, "category_id": 3},
    {"id": 7, "category_id": 3},
    {"id": 66051, "category_id": 9},
    {"id": 300, "category_id": 9, "iscrowd": 1},
    {"id": 12, "category_id": 1},
]


def write_street(folder: Path, **keys) -> Path:
    """The panoptic dataset street_train of one image."""
    write_panoptic(folder, {"a": STREET_IDS}, {"a": STREET_SEGMENTS}, STREET_CATEGORIES)
    return write_yaml(folder, {**STREET, **keys}, "street.yaml")


# The 103 rows of ade20k_instance_catid_mapping.txt are 100 pairs: for the instance categories 1..100, labels
# of the scene parsing challenge, 1..150.
ADE20K_THINGS = """
    8 9 11 13 15 16 19 20 21 23 24 25 28 31 32 33 34 36 37 38 39 40 42 43 44 45 46 48 50 51 54 56 57 58 59 63
    65 66 67 68 70 71 72 73 74 75 76 77 79 81 82 83 84 86 87 88 89 90 91 93 94 96 98 99 103 104 105 108 109
    111 112 113 116 117 119 120 121 122 124 125 126 127 128 130 131 133 134 135 136 137 138 139 140 143 144
    145 147 148 149 150
"""
LABEL_OF_CATEGORY = dict(enumerate(map(int, ADE20K_THINGS.split()), 1))

ADE_LABELS = np.array(
    [
        [1, 1, 1, 13, 13, 13],
        [1, 8, 8, 13, 13, 3],
        [0, 8, 8, 150, 150, 150],
        [4, 4, 4, 4, 4, 0],
    ],
    dtype=np.uint8,
)
# Category and number: two persons (category 4), one beyond its label; a bed (1) over floor; no flag at all.
ADE_CATEGORIES = np.array(
    [[0, 0, 4, 4, 4, 4], [0, 1, 1, 4, 4, 4], [0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]], dtype=np.uint8
)
ADE_NUMBERS = np.array(
    [[0, 0, 2, 2, 3, 3], [0, 1, 1, 2, 3, 3], [0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]], dtype=np.uint8
)


def write_ade20k(root: Path) -> Path:
    """ADEChallengeData2016 below `root`, with two images like this in each split."""
    root = root / "ADEChallengeData2016"
    for folder in ("training", "validation"):
        for number in (1, 2):
            name = f"ADE_{folder[:5]}_{number:08d}"
            save(root / f"images/{folder}/{name}.jpg", random_image(4, 6, number))
            save(root / f"annotations/{folder}/{name}.png", ADE_LABELS)
            instances = np.dstack([ADE_CATEGORIES, ADE_NUMBERS, np.zeros_like(ADE_NUMBERS)])
            save(root / f"annotations_instance/{folder}/{name}.png", instances)
    return root


@pytest.fixture(autouse=True)
def datasets_folder(tmp_path, monkeypatch):
    """$DETECTRON2_DATASETS, empty at first; every test starts with the built-in datasets only."""
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    before = set(register._registered)
    yield folder
    forget([name for name in register._registered if name not in before])


def forget(names: list[str]) -> None:
    """Takes registered names back."""
    for name in names:
        register._registered.pop(name, None)
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.pop(name)


def load(path: Path) -> tuple[list[dict], object]:
    """The dataset dicts and the metadata of the first split of a dataset file."""
    name = register_dataset_file(path)[0]
    return DatasetCatalog.get(name), MetadataCatalog.get(name)
