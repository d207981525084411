"""Masks of COCO's formats, checked before pycocotools sees them: it crashes on some that are wrong.

Shape shorthand: H, W pixels.
"""

import ast
from typing import Any

import numpy as np
from pycocotools import mask as mask_tools

from .errors import InputError
from .json_values import as_whole, shown

# Pixels: no coordinate of a polygon is larger, and no side of an image.
_FARTHEST = 10**6
# Of five bits: a run length has no more after the first.
_GROUPS = 8
# What is raised where something else stands in the place of a list, a number or a key.
_UNREADABLE = (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError, SyntaxError)


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
        found, counts = stated_size(segmentation, described), _without_quotes(segmentation["counts"])
        if found != size:
            raise InputError(
                f"{described} has run lengths of {found[1]}x{found[0]}, but its image is {width}x{height}; "
                "image and annotation have to belong together"
            )
        is_compressed = isinstance(counts, str | bytes)
        # pycocotools computes wrong IoUs of wrong run lengths, or never ends.
        runs = parse_run_lengths(counts) if is_compressed else [_run(run) for run in counts]
        if min(runs, default=0) < 0:
            raise ValueError(f"a run of {min(runs)} pixels")
        if sum(runs) != height * width:
            raise InputError(
                f"{described} has run lengths of {sum(runs)} pixels, but its image has {height * width}; "
                "write the JSON again"
            )
        code = {"size": [height, width], "counts": counts if is_compressed else runs}
        return code if is_compressed else mask_tools.frPyObjects(code, height, width)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(error, described) from None


def _without_quotes(counts: Any) -> Any:
    """What Python's texts of bytes, "b'...'", and of lists, "[1, 2]", stand for; anything else as it is.

    Programs write these that hand pycocotools' bytes, or numpy's arrays, to `str`. COCO's own text may begin
    with a bracket, but has no quotes, commas or spaces.
    """
    if not isinstance(counts, str):
        return counts
    is_list = counts[:1] == "[" and ("," in counts or len(counts.split()) > 1)
    if is_list or counts[:2] in ("b'", 'b"'):
        return ast.literal_eval(counts if "," in counts else ",".join(counts.split()))
    return counts


def _unreadable(error: Exception, described: str) -> InputError:
    problem = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    return InputError(
        f"{described}: its segmentation cannot be read ({problem}); write it as polygons, or as COCO's run "
        "lengths"
    )


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


def _run(run: Any) -> int:
    length = as_whole(run)
    if length is None:
        raise ValueError(f"a run of {shown(run)} pixels")
    return length


def stated_size(segmentation: Any, described: str) -> tuple[int, int]:
    """The (H, W) that run lengths say they are of.

    Raises:
        InputError: they do not, or say something that is none.
    """
    try:
        sides = [as_whole(side) for side in segmentation["size"]]
    except _UNREADABLE as error:
        raise _unreadable(error, described) from None
    known = [side for side in sides if side is not None and 0 <= side <= _FARTHEST]
    if len(sides) != 2 or len(known) != 2:
        raise InputError(
            f"{described} has run lengths of the size {shown(segmentation['size'])}; expected [height, "
            "width] in pixels"
        )
    height, width = known
    return height, width
