"""The inner loop of mask pasting, compiled by numba; imported only by paste.py, on first use."""

import numpy as np

from segzoo.utils.compiled import compiled


@compiled
def paste_window(mask, rows, columns, threshold, margin, plane, top, left, unsure):
    """Set the pixels of a window to 1 where a mask, interpolated bilinearly, is at least the threshold.

    Between two neighboring samples of the mask the values of a row of pixels lie on a line, so that most
    pixels follow from its ends.

    Args:
        mask: (M, M) floats; it is zero outside.
        rows, columns: (h,) and (w,) floats, rising, in (-1, M): the mask's row and column of each pixel.
        threshold: a float above 0.
        margin: where the value is within `margin` of the threshold, pixels are left as they are.
        plane: (H, W) uint8 of zeros, output.
        top, left: the window's first row and column in the plane.
        unsure: (P,) int32 buffer, output: the first P of the pixels left as they are, y * w + x.

    Returns:
        The number of those pixels.
    """
    side = mask.shape[0]
    width = columns.size
    low, high = threshold - margin, threshold + margin
    # Pixels of segment k, between the samples k - 1 and k, are starts[k], ..., starts[k + 1] - 1.
    starts = np.zeros(side + 2, np.int32)
    beyond = np.empty(width, mask.dtype)
    for x in range(width):
        cell = np.floor(columns[x])
        beyond[x] = columns[x] - cell
        starts[int(cell) + 2] = x + 1
    for k in range(1, side + 2):
        starts[k] = max(starts[k], starts[k - 1])
    # The mask along a row of pixels, with a zero at both ends.
    line = np.zeros(side + 2, mask.dtype)
    count = 0
    for y in range(rows.size):
        cell = int(np.floor(rows[y]))
        below = rows[y] - np.floor(rows[y])
        for k in range(side):
            line[k + 1] = 0
        if cell >= 0:
            for k in range(side):
                line[k + 1] += mask[cell, k] * (1 - below)
        if cell + 1 < side:
            for k in range(side):
                line[k + 1] += mask[cell + 1, k] * below
        for k in range(side + 1):
            start, stop = line[k], line[k + 1]
            if (start < low) & (stop < low):
                continue
            if (start >= high) & (stop >= high):
                for x in range(starts[k], starts[k + 1]):
                    plane[top + y, left + x] = 1
                continue
            for x in range(starts[k], starts[k + 1]):
                value = start * (1 - beyond[x]) + stop * beyond[x]
                if value >= high:
                    plane[top + y, left + x] = 1
                elif value >= low:
                    if count < unsure.size:
                        unsure[count] = y * width + x
                    count += 1
    return count
