"""Convert masks of COCO's formats to RLE, with checks that pycocotools lacks: it crashes on some bad input.

Shape shorthand: H, W pixels.
"""

import ast
from typing import Any

import numpy as np
from pycocotools import mask as mask_tools

from .errors import InputError
from .json_values import as_integer, shown

# Largest coordinate of a polygon and side of an image, in pixels.
_FARTHEST = 10**6
# Largest number of groups of five bits after the first one of a run length.
_GROUPS = 8
# Raised where another type is found instead of a list, a number or a key.
_UNREADABLE = (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError, SyntaxError)


def mask_rle(segmentation: Any, size: tuple[int, int], described: str) -> dict[str, Any]:
    """Return a mask of COCO's format as compressed RLE, as pycocotools' COCO.annToRLE does.

    Args:
        segmentation: a list of polygons [x, y, ...], or an RLE, compressed or not.
        size: (H, W) of its image.
        described: name of the annotation in messages.

    Returns:
        {"size": [H, W], "counts": bytes or str}

    Raises:
        InputError: the RLE has another size, or the segmentation cannot be read.
    """
    height, width = size
    try:
        if isinstance(segmentation, list):
            for polygon in segmentation:
                _check_coordinates(polygon, described)
            return mask_tools.merge(mask_tools.frPyObjects(segmentation, height, width))
        found, counts = rle_size(segmentation, described), _without_quotes(segmentation["counts"])
        if found != size:
            raise InputError(
                f"{described} has an RLE of {found[1]}x{found[0]}, but its image is {width}x{height}; "
                "image and annotation have to belong together"
            )
        is_compressed = isinstance(counts, str | bytes)
        # pycocotools computes wrong IoUs from invalid RLEs, or does not terminate.
        runs = decode_rle(counts) if is_compressed else [_run(run) for run in counts]
        if min(runs, default=0) < 0:
            raise ValueError(f"a run of {min(runs)} pixels")
        if sum(runs) != height * width:
            raise InputError(
                f"{described} has an RLE of {sum(runs)} pixels, but its image has {height * width}; "
                "write the JSON again"
            )
        code = {"size": [height, width], "counts": counts if is_compressed else runs}
        return code if is_compressed else mask_tools.frPyObjects(code, height, width)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(error, described) from None


def _without_quotes(counts: Any) -> Any:
    """Return the value of a string such as "b'...'" or "[1, 2]"; other values as they are.

    Programs write these strings when they pass pycocotools' bytes or numpy's arrays to `str`. A compressed
    RLE may begin with a bracket, but has no quotes, commas or spaces.
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
        f"{described}: its segmentation cannot be read ({problem}); write it as polygons, or as COCO's RLE"
    )


def _check_coordinates(polygon: Any, described: str) -> None:
    """Raise InputError for a coordinate that is too large or not a number.

    pycocotools crashes if it is not a number, and uses memory in proportion to the largest one.
    """
    coordinates = np.asarray(polygon, dtype=np.float64)
    wrong = coordinates[~(np.abs(coordinates) <= _FARTHEST)]
    if len(wrong):
        raise InputError(f"{described} has a polygon with the coordinate {wrong[0]:g}; expected pixels")


def decode_rle(text: str | bytes) -> list[int]:
    """Return the run lengths of a compressed RLE.

    A number consists of groups of five bits, one per character, the lowest first; the sixth bit says that
    another group follows, and the fifth bit of the last group is the sign. From the fourth number on, each is
    stored as the difference to the one before the previous.

    Raises:
        ValueError: the text is truncated, or has other characters.
    """
    characters = text.encode("ascii") if isinstance(text, str) else text
    codes = np.frombuffer(characters, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] >= 32:
        raise ValueError("not a compressed RLE")
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
    length = as_integer(run)
    if length is None:
        raise ValueError(f"a run of {shown(run)} pixels")
    return length


def rle_size(segmentation: Any, described: str) -> tuple[int, int]:
    """Return the (H, W) stated in an RLE.

    Raises:
        InputError: it is missing or not a size.
    """
    try:
        sides = [as_integer(side) for side in segmentation["size"]]
    except _UNREADABLE as error:
        raise _unreadable(error, described) from None
    known = [side for side in sides if side is not None and 0 <= side <= _FARTHEST]
    if len(sides) != 2 or len(known) != 2:
        raise InputError(
            f"{described} has an RLE with the size {shown(segmentation['size'])}; expected [height, "
            "width] in pixels"
        )
    height, width = known
    return height, width
