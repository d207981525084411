"""The evaluators' inner loops, compiled by numba; imported only by histogram.py, on first use.

They release the interpreter lock, so that scoring an image overlaps with the model's computation.
"""

import numpy as np

from segzoo.utils.compiled import compiled
from segzoo.utils.search_loops import position

#: Number of ids whose positions count_pairs caches; a power of two.
_SLOTS = 1024
#: Pixels that are compared with the ones before them at a time; a multiple of 8.
_BLOCK = 4096


@compiled
def first_maximum(scores, best, labels):
    """Set labels[p] to the first k with the largest scores[k, p], where NaN is larger than all numbers.

    scores: (K, P) floats; best: (B,) buffer of the same type for blocks of B pixels; labels: (P,) integers,
    output.
    """
    num_classes, num_pixels = scores.shape
    block = best.shape[0]
    winner = np.empty(block, np.int32)
    for start in range(0, num_pixels, block):
        count = min(block, num_pixels - start)
        for p in range(count):
            best[p] = scores[0, start + p]
            winner[p] = 0
        for k in range(1, num_classes):
            row = scores[k, start : start + count]
            index = np.int32(k)
            for p in range(count):
                value = row[p]
                top = best[p]
                # "not <=" is also true for a NaN value; "top == top" keeps the first NaN. Without branches
                # the compiler turns the loop into vector instructions.
                take = (not (value <= top)) & (top == top)
                best[p] = value if take else top
                winner[p] = index if take else winner[p]
        for p in range(count):
            labels[start + p] = winner[p]


@compiled
def count_labels(rows, columns, column_of, table):
    """Add 1 to table[rows[p], column_of[columns[p]]] for every pixel; return the first p out of range or -1.

    rows, columns: (P,) unsigned integers; column_of: a column for every value of `columns`, -1 for a value
    that must not occur; table: (R, C) int64, output, incomplete if a pixel is out of range.
    """
    changed = np.zeros(_BLOCK, np.uint8)
    words = changed.view(np.uint64)
    start = 0
    for first in range(0, rows.size, _BLOCK):
        stop = min(first + _BLOCK, rows.size)
        if _mark_changes(rows, columns, first, stop, changed, words):
            if not _count_run(rows, columns, column_of, table, start, first):
                return start
            invalid = _count_pixels(rows, columns, column_of, table, first, stop)
            if invalid >= 0:
                return invalid
            start = stop
            continue
        for w in range((stop - first + 7) // 8):
            if words[w] == 0:
                continue
            for i in range(8 * w, 8 * w + 8):
                if changed[i]:
                    if not _count_run(rows, columns, column_of, table, start, first + i):
                        return start
                    start = first + i
    return -1 if _count_run(rows, columns, column_of, table, start, rows.size) else start


@compiled
def _count_pixels(rows, columns, column_of, table, start, stop):
    """Count the pixels start .. stop - 1; return the first one out of range or -1."""
    invalid = -1
    num_rows = table.shape[0]
    for p in range(stop - 1, start - 1, -1):
        row = rows[p]
        column = column_of[columns[p]]
        if (row < num_rows) & (column >= 0):
            table[row, column] += 1
        else:
            invalid = p
    return invalid


@compiled
def _count_run(rows, columns, column_of, table, start, stop):
    """Count the equal pixels start .. stop - 1; return whether they are in range."""
    if start == stop:
        return True
    row = rows[start]
    column = column_of[columns[start]]
    if (row < table.shape[0]) & (column >= 0):
        table[row, column] += stop - start
        return True
    return False


@compiled
def count_pairs(first, second, first_ids, second_ids, table):
    """Add 1 to table[i, j] for every pixel with first == first_ids[i] and second == second_ids[j].

    first, second: (P,) integers; *_ids: sorted and unique; table: (len(first_ids) + 1, len(second_ids) + 1)
    int64, output: the last row and column count ids that are not listed.
    """
    if first.size == 0:
        return
    # No slot starts with a key that belongs to it.
    first_keys = np.arange(1, _SLOTS + 1).astype(np.int32)
    second_keys = first_keys.copy()
    first_places = np.zeros(_SLOTS, np.int64)
    second_places = np.zeros(_SLOTS, np.int64)
    row = position(first_ids, first[0])
    column = position(second_ids, second[0])
    changed = np.zeros(_BLOCK, np.uint8)
    words = changed.view(np.uint64)
    start = 0
    # Segments are runs of equal pixels, so ids are looked up only at changes.
    for block in range(0, first.size, _BLOCK):
        stop = min(block + _BLOCK, first.size)
        _mark_changes(first, second, block, stop, changed, words)
        for w in range((stop - block + 7) // 8):
            if words[w] == 0:
                continue
            for i in range(8 * w, 8 * w + 8):
                if changed[i]:
                    p = block + i
                    table[row, column] += p - start
                    start = p
                    row = _recall(first_ids, first[p], first_keys, first_places)
                    column = _recall(second_ids, second[p], second_keys, second_places)
    table[row, column] += first.size - start


@compiled
def _mark_changes(first, second, start, stop, changed, words):
    """Set changed[i] to whether pixel start + i differs from the pixel before it in one of two maps.

    changed: (_BLOCK,) uint8, output, 0 after the last pixel; words: the same memory as uint64, 8 pixels each.

    Returns:
        Whether more than half of the words have a change: then there are hardly runs.
    """
    begin = max(start, 1)
    if start == 0:
        changed[0] = 0
    flags = changed[begin - start : stop - start]
    first_before = first[begin - 1 : stop - 1]
    first_here = first[begin:stop]
    second_before = second[begin - 1 : stop - 1]
    second_here = second[begin:stop]
    # Without branches the compiler turns the loop into vector instructions.
    for i in range(stop - begin):
        flags[i] = (first_here[i] != first_before[i]) | (second_here[i] != second_before[i])
    changed[stop - start :] = 0
    number = 0
    for w in range((stop - start + 7) // 8):
        number += words[w] != 0
    return 16 * number > stop - start


@compiled
def _recall(ids, value, keys, places):
    """Return `position` with a cache in `keys` and `places`; inlined, it would slow the loop above."""
    slot = value & (_SLOTS - 1)
    if keys[slot] == value:
        return places[slot]
    place = position(ids, value)
    keys[slot] = value
    places[slot] = place
    return place


@compiled
def ids_from_rgb(rgb, ids):
    """Set ids[p] to R + 256 G + 65536 B. rgb: (P, 3) uint8; ids: (P,) int32, output."""
    for p in range(ids.size):
        ids[p] = np.int32(rgb[p, 0]) | (np.int32(rgb[p, 1]) << 8) | (np.int32(rgb[p, 2]) << 16)


@compiled
def near_others(ids, width, sideways, last, near):
    """Set near[r, c] to whether another id or the outside is at most `width` rows and columns away.

    ids: (H, W) integers; sideways: (H, W) bool and last: (W,) int64, buffers; near: (H, W) bool, output.
    """
    height, columns = ids.shape
    # Along each row, mark `width` pixels at both ends of each run of equal ids.
    for r in range(height):
        start = 0
        for c in range(1, columns + 1):
            if c < columns and ids[r, c] == ids[r, c - 1]:
                continue
            left = min(start + width, c)
            right = max(c - width, left)
            sideways[r, start:left] = True
            sideways[r, left:right] = False
            sideways[r, right:c] = True
            start = c
    # Along the columns, mark `width` pixels from those, from other ids and from the outside. `last` is the
    # row of the nearest of them: above in the pass down, below in the pass up.
    last[:] = -1
    for r in range(height):
        for c in range(columns):
            if sideways[r, c]:
                last[c] = r
            elif r > 0 and ids[r, c] != ids[r - 1, c]:
                last[c] = r - 1
            near[r, c] = r - last[c] <= width
    last[:] = height
    for r in range(height - 1, -1, -1):
        for c in range(columns):
            if sideways[r, c]:
                last[c] = r
            elif r < height - 1 and ids[r, c] != ids[r + 1, c]:
                last[c] = r + 1
            if last[c] - r <= width:
                near[r, c] = True
