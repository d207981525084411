"""COCO's compressed run lengths of a mask, from where its columns change: a fraction of pycocotools' time.

Almost all of it is spent where numpy releases the interpreter lock, beside a model that computes.

Shape shorthand: H W pixels of a mask, n changes.
"""

import numpy as np


def run_lengths(mask: np.ndarray) -> dict:
    """The same as pycocotools' `mask.encode`, with text for bytes.

    Args:
        mask: (H, W) bool.

    Returns:
        {"size": [H, W], "counts": text}
    """
    height, width = mask.shape
    if mask.size == 0:
        return {"size": [height, width], "counts": "0"}
    return {"size": [height, width], "counts": _as_text(_counts(np.ascontiguousarray(mask)))}


def _counts(mask: np.ndarray) -> np.ndarray:
    """Lengths of runs down the columns, one column after the other, the first of zeros: (n + 1,) int64."""
    height, width = mask.shape
    below = _nonzero(mask[1:] ^ mask[:-1])
    # A column's first pixel follows the last one of the column before.
    before = np.zeros(width, bool)
    before[1:] = mask[-1, :-1]
    tops = np.flatnonzero(mask[0] != before) * height
    places = np.concatenate([tops, below % width * height + below // width + 1])
    places.sort()
    return np.diff(places, prepend=0, append=mask.size)


def _nonzero(flags: np.ndarray) -> np.ndarray:
    """np.flatnonzero of bools, eight at a time where possible: few are true."""
    if flags.size % 8:
        return np.flatnonzero(flags)
    words = np.flatnonzero(flags.reshape(-1).view(np.uint64))
    row, column = np.nonzero(flags.reshape(-1, 8)[words])
    return words[row] * 8 + column


def _as_text(counts: np.ndarray) -> str:
    """COCO's text: differences to the last run but one, in groups of five bits, the lowest first.

    Each group is a character; its sixth bit says that another one follows. The fifth bit of the last group is
    the sign.
    """
    values = counts.copy()
    values[3:] -= counts[1:-2]
    groups, used = [], []
    going_on = np.ones(len(values), bool)
    while going_on.any():
        used.append(going_on)
        group = values & 31
        values = values >> 5
        going_on = going_on & (values != np.where(group & 16, -1, 0))
        groups.append(group | going_on * 32)
    characters = (np.stack(groups, 1) + 48).astype(np.uint8)
    return characters[np.stack(used, 1)].tobytes().decode("ascii")
