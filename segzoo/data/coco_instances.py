"""Instances in COCO's format: JSON to records, masks to RLE, overlapping masks to one map.

Shape shorthand: H, W pixels; S instances of an image; A sets of instances that share pixels.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from detectron2.utils.logger import log_first_n
from pycocotools import mask as mask_tools

from segzoo.utils.coco_masks import mask_rle
from segzoo.utils.errors import InputError
from segzoo.utils.json_values import Ids, is_box, is_positive, read_flag, shown
from segzoo.utils.text import some

from .polygons import are_plain_coco, are_valid_coco, has_three_points, read_polygons


class Overlaps(NamedTuple):
    """One map of instances that may overlap: see `IndexMap`.

    Attributes:
        indices: (H, W) uint8 or uint16 in [0, A].
        members: (A + 1, S) bool: the instances that cover the pixels of an index; row 0 has none.
    """

    indices: np.ndarray
    members: np.ndarray


def instance_dicts(
    content: Mapping[str, Any],
    images: Mapping[Any, dict[str, Any]],
    index_of: Mapping[int, int],
    ignore_label: int,
    json_file: str,
) -> list[dict[str, Any]]:
    """Return a Detectron2 record per image of a COCO instances JSON, in ascending order of image ids.

    Args:
        content: the JSON; its dicts are reused and changed.
        images: {image id: its record}, see `read_images`.
        index_of: {category id: class index, or the ignore label}.

    Returns:
        The records with `annotations`, each with `category_id` (class index), `iscrowd`, `segmentation`, and,
        if the JSON has them, `id`, `area` and `bbox` (with Detectron2's `bbox_mode`). Areas and boxes that
        are not finite and positive are left out, with a warning, as are polygons of fewer than three points.
        Annotations without a class are in `void_annotations`.

    Raises:
        InputError: a key is missing, or ids contradict each other.
    """
    find_image = _id_finder(images, "image_id", "which is not in images; the file must list both", json_file)
    find_category = _id_finder(
        index_of,
        "category_id",
        f"which is not among its categories ({some(map(shown, index_of), 4)}); write one of these ids",
        json_file,
    )
    records = [{**record, "annotations": []} for record in images.values()]
    by_image_id = {record["image_id"]: record for record in records}
    degenerate, converted = 0, 0
    example: tuple[Any, str] | None = None
    unusable: list[_Unusable] = []
    from detectron2.structures import BoxMode  # not above: it imports torchvision

    mode = BoxMode.XYWH_ABS
    for annotation in content["annotations"]:
        get = annotation.get
        # COCO has a million annotations: well-formed ones are read without a function call.
        image_id, category_id, crowd = get("image_id"), get("category_id"), get("iscrowd", 0)
        if type(image_id) is not int or image_id not in by_image_id:
            image_id = find_image(annotation)
        if type(category_id) is not int or category_id not in index_of:
            category_id = find_category(annotation)
        if type(crowd) is not int or crowd not in (0, 1):
            crowd = read_flag(crowd, "iscrowd", _describe(annotation, json_file))
        annotation["category_id"] = index = index_of[category_id]
        annotation["iscrowd"] = crowd
        segmentation = get("segmentation")
        if not are_valid_coco(segmentation) and not isinstance(segmentation, dict):
            if not are_plain_coco(segmentation):
                converted += 1
                example = example or (get("id"), shown(segmentation))
            polygons = read_valid_polygons(annotation, json_file)
            if not polygons:
                degenerate += index != ignore_label
                continue
            annotation["segmentation"] = polygons
        if index == ignore_label:
            by_image_id[image_id].setdefault("void_annotations", []).append(annotation)
            continue
        if not is_positive(get("area")):
            unusable.append(_pop_unusable(annotation, "area"))
        if is_box(get("bbox")):
            annotation["bbox_mode"] = mode
        else:
            unusable.append(_pop_unusable(annotation, "bbox"))
        by_image_id[image_id]["annotations"].append(annotation)
    if degenerate and not any(record["annotations"] for record in records):
        raise InputError(
            f"{json_file}: none of its {degenerate} annotations has a polygon of three points; segmentation "
            "must be a list of polygons [x, y, x, y, ...]: export them again"
        )
    if example is not None:
        message = (
            f"{json_file}: {converted} annotations have polygons in another form than COCO's (first: "
            f"annotation {shown(example[0])}, {example[1]}): read as points of polygons"
        )
        log_first_n(logging.WARNING, message, key="message")
    if degenerate:
        message = f"{json_file}: {degenerate} annotations without a polygon of three points left out"
        log_first_n(logging.WARNING, message, key="message")
    if unusable:
        counts = Counter(one.key for one in unusable).items()
        first = unusable[0]
        message = (
            f"{json_file}: of {len(content['annotations'])} annotations "
            f"{' and '.join(f'{count} have no usable {key}' for key, count in counts)} (first: annotation "
            f"{shown(first.annotation_id)}, {first.key} {first.found}): measured from their masks"
        )
        log_first_n(logging.WARNING, message, key="message")
    return sorted(records, key=lambda record: _sort_key(record["image_id"]))


class _Unusable(NamedTuple):
    annotation_id: Any
    key: str
    found: str


def _pop_unusable(annotation: dict[str, Any], key: str) -> _Unusable:
    found = shown(annotation.pop(key)) if key in annotation else "missing"
    return _Unusable(annotation.get("id"), key, found)


def read_valid_polygons(annotation: Mapping[str, Any], json_file: str) -> list[list[float]]:
    """Return the polygons of an annotation that have three points or more, in COCO's form.

    Raises:
        InputError: there are no polygons, or some cannot be read.
    """
    segmentation = annotation.get("segmentation")
    if not isinstance(segmentation, (list, str)):
        raise InputError(
            f"{_describe(annotation, json_file)} has no segmentation; instance segmentation needs a mask "
            "(polygons or RLE) for every object"
        )
    polygons = read_polygons(segmentation, partial(_describe, annotation, json_file))
    return list(filter(has_three_points, polygons))


def _describe(annotation: Mapping[str, Any], json_file: str) -> str:
    return f"{json_file}: annotation {shown(annotation.get('id'))}"


def _id_finder(
    listed: Mapping[Any, Any], key: str, problem: str, json_file: str
) -> Callable[[Mapping[str, Any]], Any]:
    """Return a function that finds the id under `key` of an annotation among the `listed` ids.

    Args:
        problem: end of the message about an id that is not listed.
    """
    ids = Ids(listed)
    what = {"image_id": "is of image", "category_id": "has the category"}[key]

    def find(annotation: Mapping[str, Any]) -> Any:
        if key not in annotation:
            raise InputError(
                f"{_describe(annotation, json_file)} lacks {key!r}; COCO's instances format has it"
            )
        found = ids.find(annotation[key])
        if found is None:
            raise InputError(f"{_describe(annotation, json_file)} {what} {shown(annotation[key])}, {problem}")
        return found

    return find


def _sort_key(image_id: Any) -> tuple:
    number = isinstance(image_id, int)
    return (0, image_id, "") if number else (1, 0, str(image_id))


def annotation_rle(annotation: Mapping[str, Any], size: tuple[int, int], file_name: str) -> dict[str, Any]:
    """Return the mask of an annotation as compressed RLE: see `mask_rle`."""
    return mask_rle(annotation["segmentation"], size, f"{file_name}: annotation {annotation.get('id')}")


def paint(labels: np.ndarray, rles: Sequence[Mapping[str, Any]], values: Sequence[int]) -> None:
    """Write the values of masks into a map; where masks overlap, the first one is on top.

    Args:
        labels: (H, W) integers, changed in place.
        rles: S masks as RLE, of the same size.
        values: (S,) values of the masks.
    """
    for code, value in zip(reversed(rles), reversed(values), strict=True):
        window, inside = _decoded(code)
        labels[window][inside] = value


def _decoded(code: Mapping[str, Any]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return the bounding box of an RLE as slices, and the boolean mask inside it."""
    left, top, width, height = (int(side) for side in mask_tools.toBbox(code))
    window = np.s_[top : top + height, left : left + width]
    return window, mask_tools.decode(code)[window].astype(bool)


def split_overlaps(rles: Sequence[Mapping[str, Any]], size: tuple[int, int], file_name: str) -> Overlaps:
    """Return one map of masks that may overlap: pixels that the same masks cover share an index.

    One mask is decoded at a time. Augmenting the map by nearest pixel gives the same result, pixel by pixel,
    as augmenting every mask separately.

    Args:
        rles: S masks as RLE, all of `size`.
        size: (H, W).
        file_name: the image, for messages.

    Raises:
        InputError: there are more sets of overlapping masks than 16 bits can count.
    """
    indices = np.zeros(size, dtype=np.int32)
    members: list[tuple[int, ...]] = [()]
    for number, code in enumerate(rles):
        window, inside = _decoded(code)
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
    """Keep the sets that have pixels, and renumber them in order, in the smallest integer type that fits."""
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
