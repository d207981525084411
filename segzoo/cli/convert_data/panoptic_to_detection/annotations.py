"""Making the annotations of an image.

Shape shorthand: H, W pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from segzoo.data.label_reader import opened_labels, segment_codes, segment_indices
from segzoo.evaluation.instance import encode_mask
from segzoo.utils.errors import InputError
from segzoo.utils.json_values import is_box, is_positive

from .parts import divide


class Job(NamedTuple):
    """An image to convert.

    Attributes:
        image_id: as in the JSON.
        png: path of its panoptic PNG.
        size: (H, W) by the JSON, or None.
        segments: its segments_info.
    """

    image_id: Any
    png: str
    size: tuple[int, int] | None
    segments: Sequence[dict[str, Any]]


class Converted(NamedTuple):
    """The result for an image.

    Attributes:
        annotations: JSON texts without the opening brace and id.
        disagreeing: number of segments whose bbox or area in the JSON is not that of the pixels.
        empty: number of segments without a pixel.
        problem: what is wrong with the image, or "".
    """

    annotations: list[str] = []
    disagreeing: int = 0
    empty: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Converter:
    """A function that converts images; it holds plain data, so that it can be sent to other processes.

    Attributes:
        things: ids of the categories that are things.
    """

    things: frozenset[int]
    things_only: bool
    sub_stuff: bool

    def __call__(self, job: Job) -> Converted:
        try:
            return self._convert(job)
        except InputError as error:
            return Converted(problem=str(error))

    def _convert(self, job: Job) -> Converted:
        with opened_labels(job.png) as (image, _):
            codes = segment_codes(image, job.png)
        if job.size not in (None, codes.shape):
            raise InputError(
                f"{job.png}: is {codes.shape[1]}x{codes.shape[0]}, but the panoptic JSON says "
                f"{job.size[1]}x{job.size[0]} for image {job.image_id}; "
                "PNG and JSON must come from the same export"
            )
        ids = [segment["id"] for segment in job.segments]
        indices, areas = segment_indices(codes, ids, (), job.png, empty_allowed=True)
        windows = ndimage.find_objects(indices.astype(np.int32), max_label=len(ids))
        found, disagreeing, empty = [], 0, 0
        for number, (segment, window) in enumerate(zip(job.segments, windows, strict=True), 1):
            is_thing = segment["category_id"] in self.things
            if self.things_only and not is_thing:
                continue
            is_divided = self.sub_stuff and not is_thing
            if window is None and is_divided:
                raise InputError(
                    f"{job.png}: no pixel has the id {segment['id']} of a stuff segment, which --sub-stuff "
                    "cannot divide; remove it from the panoptic JSON, or leave --sub-stuff out"
                )
            empty += window is None
            mask = indices == number
            box = _box(window)
            common = {key: value for key, value in segment.items() if key != "id"}
            common["image_id"] = job.image_id
            whole = {
                "bbox": segment["bbox"] if is_box(segment.get("bbox")) else box,
                "area": segment["area"] if is_positive(segment.get("area")) else int(areas[number - 1]),
            }
            disagreeing += whole != {"bbox": box, "area": areas[number - 1]}
            found.append({**common, **whole, "segmentation": encode_mask(mask)})
            if is_divided:
                for part in divide(mask):
                    own = {"bbox": part.bbox, "area": part.area, "segmentation": encode_mask(part.mask)}
                    found.append({**common, **own})
        return Converted([json.dumps(one)[1:] for one in found], disagreeing, empty)


def _box(window: tuple[slice, slice] | None) -> list[int]:
    """Return x, y, width, height of a window, rows and columns; zeros for None."""
    if window is None:
        return [0, 0, 0, 0]
    rows, columns = window
    return [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
