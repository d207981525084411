"""The inner loop of `label_png`, compiled by numba; imported only there, on first use."""

import numpy as np

from segzoo.utils.compiled import compiled

_NONE, _LEFT, _ABOVE, _AVERAGE, _PAETH = range(5)  # PNG's filters
_GROUP = 8  # words of 8 bytes that are compared with 0 at a time


@compiled
def undo_filters(raw, step, values):
    """Set values[y, x] to the bytes of a pixel, the first one lowest; return whether all rows have a filter.

    A filter stores a pixel as its difference from neighbors. In a label map most differences are 0, and most
    pixels equal the one on the left or above: only the others are computed.

    raw: (H, 1 + step W) uint8, the filter and the stored bytes of each row; step: bytes of a pixel, 1 or
    3; values: (H, W) integers, output.
    """
    height, width = values.shape
    # Eight pixels or bytes at a time are compared with 0.
    changed = np.zeros((width + 7) // 8 * 8, np.uint8)
    stored = np.zeros((width * step + 8 * _GROUP - 1) // (8 * _GROUP) * (8 * _GROUP), np.uint8)
    above = np.zeros(width, values.dtype)
    for y in range(height):
        kind = raw[y, 0]
        row = values[y]
        _copy(raw[y, 1:], stored)
        if kind == _NONE:
            _unpack(stored, step, row)
        elif kind == _ABOVE:
            _copy(above, row)
            _add_to_above(stored, stored.view(np.uint64), step, row)
        elif kind == _AVERAGE:
            left = np.int32(0)
            for x in range(width):
                left = _sum(_mean(left, np.int32(above[x])), _pixel(stored, x, step))
                row[x] = left
        elif kind in (_LEFT, _PAETH):
            if kind == _PAETH:
                _mark_steps(above, changed)
            else:
                _fill(changed, 0)
            _mark_stored(stored.view(np.uint64), stored, step, changed)
            _continue_left(stored, step, changed, changed.view(np.uint64), above, kind == _PAETH, row)
        else:
            return False
        above = row
    return True


@compiled
def _add_to_above(stored, words, step, row):
    """Add the differences from the row above to its copy."""
    for w in range(words.size):
        if words[w] != 0:
            for i in range(8 * w, 8 * w + 8):
                if stored[i] != 0:
                    x = i // step
                    row[x] = _sum(np.int32(row[x]), np.int32(stored[i]) << (8 * (i - x * step)))


@compiled
def _are_zero(words):
    found = np.uint64(0)
    for w in range(_GROUP):  # without a branch: vector instructions
        found |= words[w]
    return found == 0


@compiled
def _unpack(stored, step, row):
    """Set a row to its stored bytes."""
    if step == 1:
        for x in range(row.size):
            row[x] = stored[x]
    else:
        for x in range(row.size):
            # A known number of bytes is several times faster than `_pixel`.
            first, second, third = stored[3 * x], stored[3 * x + 1], stored[3 * x + 2]
            row[x] = np.int32(first) | np.int32(second) << 8 | np.int32(third) << 16


@compiled
def _mark_stored(words, stored, step, changed):
    """Set changed[x] for each pixel with a difference."""
    for group in range(0, words.size, _GROUP):
        if _are_zero(words[group : group + _GROUP]):
            continue
        for w in range(group, group + _GROUP):
            if words[w] != 0:
                for i in range(8 * w, 8 * w + 8):
                    if stored[i] != 0:
                        changed[i // step] = 1


@compiled
def _continue_left(stored, step, changed, words, above, is_paeth, row):
    """Fill a row with the pixel on the left, computed anew where `changed` is set."""
    start = 0
    left = np.int32(0)
    for w in range(words.size):
        if words[w] != 0:
            for x in range(8 * w, 8 * w + 8):
                if changed[x] != 0:
                    _fill(row[start:x], left)
                    start = x
                    if is_paeth:
                        corner = np.int32(above[x - 1]) if x > 0 else np.int32(0)
                        left = _nearest(left, np.int32(above[x]), corner, step)
                    left = _sum(left, _pixel(stored, x, step))
    _fill(row[start:], left)


@compiled
def _mark_steps(row, changed):
    """Set changed[x] to whether row[x] differs from the pixel on its left, which is 0 for the first one."""
    changed[0] = row[0] != 0
    here = row[1:]
    before = row[:-1]
    flags = changed[1 : row.size]
    for i in range(here.size):
        flags[i] = here[i] != before[i]


# Loops of their own become vector instructions; numba's assignment to a slice does not.
@compiled
def _copy(source, target):
    for i in range(source.size):
        target[i] = source[i]


@compiled
def _fill(target, value):
    for i in range(target.size):
        target[i] = value


@compiled
def _pixel(stored, x, step):
    """Return the bytes of pixel x as an integer, the first one lowest."""
    value = np.int32(stored[x * step])
    for k in range(1, step):
        value |= np.int32(stored[x * step + k]) << (8 * k)
    return np.int32(value)


@compiled
def _sum(first, second):
    """Add each of three bytes, modulo 256."""
    return np.int32(((first & 0x7F7F7F) + (second & 0x7F7F7F)) ^ ((first ^ second) & 0x808080))


@compiled
def _mean(first, second):
    """Return the rounded-down mean of each of three bytes."""
    return np.int32((first & second) + (((first ^ second) >> 1) & 0x7F7F7F))


@compiled
def _nearest(left, above, corner, step):
    """Return, for each byte, the neighbor that is nearest to left + above - corner (Paeth)."""
    result = np.int32(0)
    for shift in range(0, 8 * step, 8):
        a = (left >> shift) & 255
        b = (above >> shift) & 255
        c = (corner >> shift) & 255
        to_a = abs(b - c)
        to_b = abs(a - c)
        to_c = abs(a + b - 2 * c)
        nearest = c
        if to_a <= to_b and to_a <= to_c:
            nearest = a
        elif to_b <= to_c:
            nearest = b
        result |= nearest << shift
    return np.int32(result)
