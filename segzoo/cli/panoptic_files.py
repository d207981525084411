"""Making panoptic labels in COCO's format (https://cocodataset.org/#format-data, "Panoptic Segmentation").

Shape shorthand: H, W pixels.
"""

from typing import Any

import numpy as np
from scipy import ndimage

from segzoo.data.dataset_file import DatasetFile


def measure_segments(ids: np.ndarray) -> dict[int, dict[str, Any]]:
    """Return the areas and boxes of the segments of an image.

    Args:
        ids: (H, W) whole numbers, 0 for void.

    Returns:
        {id: {"area": pixels, "bbox": [x, y, width, height] in whole pixels}}, by increasing id, without void.
    """
    values, numbers = np.unique(ids, return_inverse=True)
    areas = np.bincount(numbers.ravel())
    boxes = ndimage.find_objects(numbers.reshape(ids.shape) + 1)
    measured = {}
    for value, area, (rows, columns) in zip(values.tolist(), areas.tolist(), boxes, strict=True):
        width, height = columns.stop - columns.start, rows.stop - rows.start
        measured[value] = {"area": area, "bbox": [columns.start, rows.start, width, height]}
    measured.pop(0, None)
    return measured


def panoptic_categories(dataset: DatasetFile) -> list[dict[str, Any]]:
    """Return the `categories` of a panoptic JSON, one for each class of a dataset, in their order."""
    return [
        {"id": one.id, "name": one.name, "isthing": int(one.isthing), "color": list(one.color)}
        for one in dataset.classes
    ]
