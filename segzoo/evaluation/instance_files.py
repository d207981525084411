"""Read and write predicted instances: Cityscapes' text and mask files, and COCO's results JSON.

Shape shorthand: n predicted instances of an image, H W pixels.
"""

import functools
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_tools
from torch import Tensor

from segzoo.utils.coco_masks import mask_rle, rle_size
from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text
from segzoo.utils.json_values import Ids, shown
from segzoo.utils.lazy_masks import LazyMasks, planes
from segzoo.utils.text_files import read_text

from . import prediction_io
from .boxes import mask_boxes
from .rle import encode_rle

_RESULT_KEYS = {
    "image_id": int | float | str,
    "category_id": int | float | str,
    "score": int | float,
    "segmentation": Mapping,  # RLE: predictions are not polygons
}
_MASK_FOLDER = "masks"


def save_instances(
    folder: Path,
    name: str,
    masks: np.ndarray | LazyMasks,
    class_ids: Iterable[int],
    scores: Iterable[float],
) -> None:
    """Write the instances of an image in the format of Cityscapes' server.

    `<name>.txt` has a line "mask_file class_id score" for each, with the mask files in `masks/` beside it.
    The text file is written last: if it exists, the masks are complete.

    Args:
        folder: folder of the predictions.
        name: name of the image, may contain folders: "frankfurt/frankfurt_000000_000294_leftImg8bit".
        masks: (n, H, W) bool.
        class_ids, scores: n of each.
    """
    text_file = folder / f"{name}.txt"
    lines = []
    for number, (mask, class_id, score) in enumerate(zip(planes(masks), class_ids, scores, strict=True)):
        mask_file = f"{_MASK_FOLDER}/{text_file.stem}_{number:03d}.png"
        prediction_io.save_mask(text_file.parent / mask_file, mask)
        lines.append(f"{mask_file} {int(class_id)} {float(score)!r}\n")
    write_text(text_file, "".join(lines))


def load_instances(text_file: Path) -> tuple[np.ndarray, list[int], list[float]]:
    """Read the instances of an image, as written by `save_instances` or another program.

    Returns:
        masks (n, H, W) bool, class ids and scores; without instances the masks are (0, 0, 0).

    Raises:
        InputError: a line or a mask cannot be read, or masks have several sizes.
    """
    masks, class_ids, scores = [], [], []
    for number, line in enumerate(read_text(text_file).splitlines(), 1):
        words = line.rsplit(maxsplit=2)
        try:
            mask_file, class_id, score = words[0], int(float(words[1])), float(words[2])
        except (IndexError, ValueError):
            raise InputError(
                f"{text_file}: line {number} is {line!r}, expected the path of a mask, the id of its class "
                "and its confidence"
            ) from None
        masks.append(prediction_io.load_mask(text_file.parent / mask_file))
        if masks[-1].shape != masks[0].shape:
            raise InputError(
                f"{text_file}: its masks have several sizes, such as {masks[0].shape} and {masks[-1].shape} "
                "(height, width); write them again"
            )
        class_ids.append(class_id)
        scores.append(score)
    return np.array(masks) if masks else np.zeros((0, 0, 0), bool), class_ids, scores


def load_coco_results(json_file: Path, image_ids: Sequence[int | str]) -> Mapping[Any, list[dict[str, Any]]]:
    """Read a results JSON: {image id: its entries, in the order of the file}; images may have none.

    Raises:
        InputError: the file is not a results JSON, or has other images.
    """
    try:
        results = json.loads(json_file.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{json_file}: not found; save it with TEST.SAVE_PREDICTIONS True") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{json_file}: not a JSON file ({error}); save the predictions again") from None
    if not isinstance(results, list):
        raise InputError(f"{json_file}: is not a list; expected COCO's results, a list of instances")
    known, by_image = Ids(image_ids), defaultdict(list)
    for number, entry in enumerate(results):
        missing = [key for key in _RESULT_KEYS if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise InputError(f"{json_file}: entry {number} lacks {missing[0]!r}, which COCO's results have")
        wrong = [
            key
            for key, types in _RESULT_KEYS.items()
            if not isinstance(entry[key], types) or isinstance(entry[key], bool)
        ]
        if wrong:
            raise InputError(
                f"{json_file}: entry {number} has the {wrong[0]} {shown(entry[wrong[0]])}; expected that of "
                "COCO's results" + (", an RLE" if wrong[0] == "segmentation" else "")
            )
        if not _is_box(entry.get("bbox")):
            raise InputError(
                f"{json_file}: entry {number} has the bbox {shown(entry['bbox'])}; expected [x, y, width, "
                "height] in finite numbers, or none"
            )
        if not abs(entry["score"]) <= sys.float_info.max:
            raise InputError(
                f"{json_file}: entry {number} has the score {shown(entry['score'])}; expected a finite number"
            )
        image_id = known.find(entry["image_id"])
        if image_id is None:
            raise InputError(
                f"{json_file}: entry {number} is of image {shown(entry['image_id'])}, which the dataset does "
                "not have; predictions and dataset must have the same images"
            )
        by_image[image_id].append(entry)
    return by_image


def _is_box(value: Any) -> bool:
    """Return whether a value is four finite numbers, of any sign, or stands for no box: None or []."""
    if value is None or value == []:
        return True
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
        and all(abs(one) <= sys.float_info.max for one in value)
    )


def entry_boxes(entries: Sequence[Mapping[str, Any]], masks: np.ndarray | LazyMasks) -> np.ndarray | None:
    """Return the boxes of an image's entries as in the file, (n, 4) float64; None if no entry has one.

    Args:
        entries: of `load_coco_results`.
        masks: of `decode_entries`; they have the boxes of the entries without one.
    """
    if not any(entry.get("bbox") for entry in entries):
        return None
    boxes = [entry.get("bbox") for entry in entries]
    without = [index for index, box in enumerate(boxes) if not box]
    for index, mask in zip(without, planes(masks, without), strict=True):
        boxes[index] = mask_boxes([encode_rle(mask)])[0]
    return np.array(boxes, np.float64)


def decode_entries(entries: Sequence[Mapping[str, Any]], json_file: Path) -> np.ndarray | LazyMasks:
    """Return the masks of an image's entries, RLEs that are compressed or not, decoded when they are needed.

    Raises:
        InputError: an entry is not an RLE, or the RLEs have several sizes.
    """
    rles = []
    for entry in entries:
        described = f"{json_file}: a mask of image {shown(entry['image_id'])}"
        size = rle_size(entry["segmentation"], described)
        rles.append(mask_rle(entry["segmentation"], size, described))
        if size != tuple(rles[0]["size"]):
            raise InputError(
                f"{described} has the size {list(size)}, another one {rles[0]['size']}; expected RLEs of the "
                "image's size"
            )
    if not rles:
        return np.zeros((0, 0, 0), bool)
    return LazyMasks(functools.partial(_decoded, rles), rles[0]["size"], torch.arange(len(rles)))


def _decoded(rles: Sequence[dict[str, Any]], indices: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the masks of some RLEs, (n, H, W) bool."""
    masks = np.zeros((len(indices), *size), bool)
    for mask, index in zip(masks, indices.tolist(), strict=True):
        mask[:] = mask_tools.decode(rles[index])
    return torch.from_numpy(masks)
