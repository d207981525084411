"""Instances of COCO's format: the JSON to dataset dicts, masks to run lengths, overlaps to one map.

Letters: H, W pixels; S instances of an image; A sets of instances that share pixels.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_tools

from segzoo.errors import InputError

from .messages import check_different, some

logger = logging.getLogger(__name__)

# Coordinates of the smallest polygon, a triangle. pycocotools takes four numbers for a box.
_TRIANGLE = 6
# Pixels: no coordinate of a polygon is larger.
_FARTHEST = 10**6
# Of five bits: a run length has no more after the first.
_GROUPS = 8


class Overlaps(NamedTuple):
    """Instances that may overlap as one map: see `IndexMap`.

    Attributes:
        indices: (H, W) uint8 or uint16 in [0, A].
        members: (A + 1, S) bool: which instances cover the pixels of an index; row 0 has none.
    """

    indices: np.ndarray
    members: np.ndarray


def instance_dicts(
    facts: Mapping[str, Any], index_of: Mapping[int, int], ignore_label: int, json_file: str
) -> list[dict[str, Any]]:
    """A dict per image of a COCO instances JSON, in ascending order of image ids, as Detectron2 has them.

    Args:
        facts: the JSON; its own dicts are used and changed.
        index_of: {category id: class index, or the ignore label}.

    Returns:
        `file_name` as the JSON has it, `image_id`, `height`, `width` and `annotations`, each with
        `category_id` (class index), `iscrowd`, `segmentation`, and, where the JSON has them, `id`, `area`,
        `bbox` (with Detectron2's `bbox_mode`). Those of no class, and polygons of fewer than three points,
        are left out.

    Raises:
        InputError: something is missing, or ids contradict each other.
    """
    # Evaluators tell images by their files.
    for key in ("id", "file_name"):
        check_different((image.get(key) for image in facts["images"]), json_file, f"images have the {key}")
    of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    degenerate = 0
    for annotation in facts["annotations"]:
        described = f"{json_file}: annotation {annotation.get('id')}"
        for key in ("image_id", "category_id"):
            if key not in annotation:
                raise InputError(f"{described} lacks {key!r}; COCO's instances format has it")
        category = annotation["category_id"]
        if category not in index_of:
            raise InputError(
                f"{described} has the category {category}, which is not among its categories "
                f"({some(index_of, 4)})"
            )
        if not isinstance(annotation.get("segmentation"), list | Mapping):
            raise InputError(
                f"{described} has no segmentation; instance segmentation needs a mask (polygons or RLE) for "
                "every object"
            )
        annotation["category_id"] = index = index_of[category]
        annotation["iscrowd"] = int(annotation.get("iscrowd", 0))
        if index == ignore_label:
            continue
        if isinstance(annotation["segmentation"], list):
            polygons = [one for one in annotation["segmentation"] if _is_polygon(one, described)]
            if not polygons:
                degenerate += 1
                continue
            annotation["segmentation"] = polygons
        if "bbox" in annotation:
            annotation["bbox_mode"] = BoxMode.XYWH_ABS
        of_image[annotation["image_id"]].append(annotation)
    if degenerate:
        logger.warning("%s: %d annotations without a polygon of three points left out", json_file, degenerate)
    records = []
    for image in sorted(facts["images"], key=lambda image: _sort_key(image.get("id"))):
        missing = [key for key in ("id", "file_name", "height", "width") if key not in image]
        if missing:
            raise InputError(f"{json_file}: image {image.get('id')} lacks {missing[0]!r}")
        record = {"file_name": image["file_name"], "image_id": image["id"]}
        for key in ("height", "width"):
            side = image[key]
            if not isinstance(side, int | float) or side < 1 or side % 1:
                raise InputError(f"{json_file}: image {image['id']} has the {key} {side!r}; it is in pixels")
            record[key] = int(side)  # some programs write 640.0
        records.append({**record, "annotations": of_image.pop(image["id"], [])})
    if of_image:
        image_id, annotations = next(iter(of_image.items()))
        raise InputError(
            f"{json_file}: annotation {annotations[0].get('id')} is of image {image_id}, which is not in "
            "images (or is there twice); the file has to list both"
        )
    return records


def _is_polygon(coordinates: Any, described: str) -> bool:
    """Whether there are three points; raises InputError for anything but pairs of numbers."""
    if not isinstance(coordinates, list) or len(coordinates) % 2:
        raise InputError(
            f"{described} has a polygon that is not [x, y, x, y, ...]; segmentation is a list of such lists"
        )
    return len(coordinates) >= _TRIANGLE


def _sort_key(image_id: Any) -> tuple:
    number = isinstance(image_id, int)
    return (0, image_id, "") if number else (1, 0, str(image_id))


def annotation_rle(annotation: Mapping[str, Any], size: tuple[int, int], file_name: str) -> dict[str, Any]:
    """The mask of an annotation of an image in compressed run lengths: see `mask_rle`."""
    return mask_rle(annotation["segmentation"], size, f"{file_name}: annotation {annotation.get('id')}")


def mask_rle(segmentation: Any, size: tuple[int, int], described: str) -> dict[str, Any]:
    """A mask of COCO's format in compressed run lengths, as pycocotools' COCO.annToRLE.

    Args:
        segmentation: a list of polygons [x, y, ...], or run lengths, compressed or not.
        size: (H, W) of its image.
        described: what messages call it.

    Returns:
        {"size": [H, W], "counts": bytes or str}

    Raises:
        InputError: run lengths of another size, or something that cannot be read.
    """
    height, width = size
    try:
        if isinstance(segmentation, list):
            for polygon in segmentation:
                _check_coordinates(polygon, described)
            return mask_tools.merge(mask_tools.frPyObjects(segmentation, height, width))
        found, counts = tuple(segmentation["size"]), segmentation["counts"]
        if found != size:
            raise InputError(
                f"{described} has run lengths of {found[1]}x{found[0]}, but its image is {width}x{height}; "
                "image and annotation have to belong together"
            )
        is_compressed = isinstance(counts, str | bytes)
        # pycocotools computes wrong IoUs of wrong run lengths, or never ends.
        runs = parse_run_lengths(counts) if is_compressed else counts
        if min(runs, default=0) < 0:
            raise ValueError(f"a run of {min(runs)} pixels")
        if sum(runs) != height * width:
            raise InputError(
                f"{described} has run lengths of {sum(runs)} pixels, but its image has {height * width}; "
                "write the JSON again"
            )
        return segmentation if is_compressed else mask_tools.frPyObjects(segmentation, height, width)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{described}: its segmentation cannot be read ({error!r})") from None


def _check_coordinates(polygon: Any, described: str) -> None:
    """pycocotools crashes where one is no number, and takes memory in proportion to the largest."""
    coordinates = np.asarray(polygon, dtype=np.float64)
    wrong = coordinates[~(np.abs(coordinates) <= _FARTHEST)]
    if len(wrong):
        raise InputError(f"{described} has a polygon with the coordinate {wrong[0]:g}; expected pixels")


def parse_run_lengths(text: str | bytes) -> list[int]:
    """The run lengths in COCO's compressed text.

    A number is groups of five bits, the lowest first, one a character; the sixth bit says that another group
    follows, and the fifth of the last is the sign. From the fourth on, numbers are differences to the last
    but one.

    Raises:
        ValueError: the text breaks off, or has other characters.
    """
    characters = text.encode("ascii") if isinstance(text, str) else text
    codes = np.frombuffer(characters, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] >= 32:
        raise ValueError("not COCO's text of run lengths")
    last = np.flatnonzero(codes < 32)
    first = np.append(0, last[:-1] + 1)
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if place.max() > _GROUPS:
        raise ValueError("a run length is too large")
    numbers = np.add.reduceat((codes & 31) << 5 * place, first)
    is_negative = codes[last] >= 16
    numbers[is_negative] -= 1 << 5 * (place[last][is_negative] + 1)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers.tolist()


def split_overlaps(rles: Sequence[Mapping[str, Any]], size: tuple[int, int], file_name: str) -> Overlaps:
    """One map for masks that may overlap: pixels that the same masks cover share an index.

    One mask is decoded at a time. A map is augmented as labels without overlaps are, by the nearest pixel;
    what a plane of its own for every mask would give is the same, pixel by pixel.

    Args:
        rles: S masks in run lengths, all of `size`.
        size: (H, W).
        file_name: the image, for messages.

    Raises:
        InputError: more sets of overlapping masks than 16 bits count.
    """
    indices = np.zeros(size, dtype=np.int32)
    members: list[tuple[int, ...]] = [()]
    for number, code in enumerate(rles):
        left, top, width, height = (int(side) for side in mask_tools.toBbox(code))
        window = np.s_[top : top + height, left : left + width]
        inside = mask_tools.decode(code)[window].astype(bool)
        if not inside.any():
            continue
        covered = indices[window][inside]
        cut = np.flatnonzero(np.bincount(covered))
        table = np.zeros(len(members), dtype=np.int32)
        table[cut] = len(members) + np.arange(len(cut))
        indices[window][inside] = table[covered]
        members += [(*members[index], number) for index in cut]
    return _numbered(indices, members, len(rles), file_name)


def _numbered(
    indices: np.ndarray, members: Sequence[tuple[int, ...]], num_masks: int, file_name: str
) -> Overlaps:
    """Only the sets that still have pixels, numbered in their order, in the smallest integers."""
    used = np.bincount(indices.ravel(), minlength=len(members)) > 0
    used[0] = True
    kept = np.flatnonzero(used)
    if len(kept) > 1 << 16:
        raise InputError(
            f"{file_name}: its instances overlap in {len(kept) - 1} different ways; expected at most 65535"
        )
    rows = np.zeros((len(kept), num_masks), dtype=bool)
    for row, index in enumerate(kept):
        rows[row, list(members[index])] = True
    table = (np.cumsum(used) - 1).astype(np.uint8 if len(kept) <= 256 else np.uint16)
    return Overlaps(table[indices], rows)
