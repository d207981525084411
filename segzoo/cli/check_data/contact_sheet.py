"""A figure with examples of a split: images beside their labels, and a legend.

Shape shorthand: H, W pixels; K classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from PIL import Image

from segzoo.data import label_reader, load_image
from segzoo.utils.errors import InputError
from segzoo.visualization.draw import draw_panoptic, draw_semantic
from segzoo.visualization.panels import legend, resize, stack, strip

from .checked import CheckedSplit

HEIGHT = 240
WIDTH = 2000
# Limit of a tile's aspect ratio, and of its inverse.
MAX_ASPECT = 3.0
GAP = 10


def write_contact_sheet(split: CheckedSplit, folder: Path, number: int) -> Path | None:
    """Draw examples spread over the split into folder/<split>.png; return None if no file can be drawn."""
    records = split.records
    chosen = np.unique(np.linspace(0, len(records) - 1, min(number, len(records))).astype(int))
    tiles, present = [], set()
    for index in chosen if len(records) else ():
        try:
            image, drawn, classes = _draw(records[index], split)
        except InputError:
            continue  # reported as a finding
        present |= classes
        panels = [image, drawn] if split.has_labels else [image]
        name = Path(records[index]["file_name"]).stem
        titles = [name if len(name) <= 28 else f"...{name[-26:]}", ""][: len(panels)]
        tiles.append(strip(panels, titles, HEIGHT, gap=2))
    if not tiles:
        return None
    rows = _in_rows(tiles)
    if split.has_labels:
        metadata = MetadataCatalog.get(split.name)
        order = sorted(present)
        names = [*(metadata.classes[index] for index in order), "void: not colored"]
        colors = [*(metadata.colors[index] for index in order), (255, 255, 255)]
        rows.append(legend(names, colors, max(row.shape[1] for row in rows)))
    path = folder / f"{split.name}.png"
    Image.fromarray(stack(rows, GAP)).save(path)
    return path


def _draw(record: Mapping[str, Any], split: CheckedSplit) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """Return the (H, W, 3) image and its labels drawn, at the height of a tile, and the classes in it."""
    reader, metadata = label_reader(split.name), MetadataCatalog.get(split.name)
    image = load_image(record)
    height, width = image.shape[:2]
    size = (HEIGHT, max(HEIGHT // 3, min(round(width * HEIGHT / height), round(MAX_ASPECT * HEIGHT))))
    small = resize(image, size)
    if not split.has_labels:
        return small, small, set()
    if "pan_seg_file_name" in record:
        ids, info = reader.load_panoptic(record)
        drawn = draw_panoptic(
            small, resize(ids, size, labels=True), info, metadata.classes, metadata.colors, names=False
        )
        return small, drawn, {one["category_id"] for one in info}
    labels = reader.load_sem_seg({**record, "height": height, "width": width})
    # Drawn after resizing, outlines stay one pixel wide.
    drawn = draw_semantic(
        small, resize(labels, size, labels=True), metadata.classes, metadata.colors, names=False
    )
    return small, drawn, set(np.unique(labels).tolist()) - {reader.ignore_label}


def _in_rows(tiles: list[np.ndarray]) -> list[np.ndarray]:
    """Return tiles side by side, in rows of at most WIDTH pixels."""
    rows, row, width = [], [], 0
    for tile in tiles:
        if row and width + GAP + tile.shape[1] > WIDTH:
            rows.append(row)
            row, width = [], 0
        row.append(tile)
        width += GAP + tile.shape[1]
    gap = np.full((tiles[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    return [
        np.concatenate([part for tile in row for part in (tile, gap)][:-1], axis=1) for row in [*rows, row]
    ]
