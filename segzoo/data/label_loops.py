"""Loops over label maps, compiled by numba; imported only on first use."""

import numpy as np

from segzoo.utils.compiled import compiled
from segzoo.utils.search_loops import position

_AHEAD = 16  # codes that are compared at a time


@compiled
def count_bytes(values, words, counts):
    """Add the number of pixels of each value to `counts`.

    values: (P,) uint8; words: its first P // 8 groups of 8 bytes as uint64; counts: (256,) int64, output.
    """
    # Regions are runs of equal pixels: mostly, 8 pixels are one comparison and one addition.
    for w in range(words.size):
        value = values[8 * w]
        if words[w] == np.uint64(value) * np.uint64(0x0101010101010101):
            counts[value] += 8
        else:
            for i in range(8 * w, 8 * w + 8):
                counts[values[i]] += 1
    for i in range(8 * words.size, values.size):
        counts[values[i]] += 1


@compiled
def index_codes(codes, listed, places, indices, areas):
    """Set indices[p] to places[i] for codes[p] == listed[i], and count the pixels of each place.

    codes: (P,) integers; listed: (L,) of the same type, sorted and unique; places: (L,) integers; indices:
    (P,) integers and areas: (1 + largest place,) int64, output.

    Returns:
        Whether all codes are listed; if not, the outputs are incomplete.
    """
    start = 0
    while start < codes.size:
        code = codes[start]
        found = position(listed, code)
        if found == listed.size:
            return False
        place = places[found]
        # Segments are runs of equal pixels.
        stop = start + 1
        while stop + _AHEAD <= codes.size and _are_all(codes[stop : stop + _AHEAD], code):
            stop += _AHEAD
        while stop < codes.size and codes[stop] == code:
            stop += 1
        _fill(indices[start:stop], place)
        areas[place] += stop - start
        start = stop
    return True


@compiled
def _are_all(codes, code):
    differences = codes[0] ^ code
    for i in range(1, _AHEAD):  # without a branch: vector instructions
        differences |= codes[i] ^ code
    return differences == 0


@compiled
def _fill(target, value):
    for i in range(target.size):
        target[i] = value
