"""The inner loops of mask pasting and painting, compiled by numba; see `load_loops`."""

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


@compiled
def paint_mask(mask, rows, row_weights, starts, column_weights, threshold, margin, label, labels, unsure):
    """Label the free pixels of a resized mask that are above the threshold.

    Three neighboring source pixels determine a row of the result, and three a column. Where all of them are
    on one side of the threshold, so is the result.

    Args:
        mask: (h, w) floats, h and w at least 3.
        rows: (H,) integers, rising: the first source row of each row.
        row_weights: (H, 3) floats, the weights of that row and the next two.
        starts: (w - 1,) integers: column x begins at source column k for starts[k] <= x < starts[k + 1].
        column_weights: (W, 3) floats, like `row_weights`.
        threshold: a float of at least 0.
        margin: where the value is within `margin` of the threshold, pixels are left as they are.
        label: a number other than 0.
        labels: (H, W) integers, 0 for free pixels; output.
        unsure: (P,) integers, output: the first P free pixels that are left as they are, y * W + x.

    Returns:
        The number of those pixels; the number of labeled pixels and the sum of their values; their first and
        last column and row, x0, y0, x1, y1.
    """
    height, width = mask.shape
    num_columns = labels.shape[1]
    low, high = threshold - margin, threshold + margin
    top, bottom, left, right = height, -1, width, -1
    for i in range(height):
        first, last = -1, -1
        for j in range(width):
            if mask[i, j] > low:
                if first < 0:
                    first = j
                last = j
        if first >= 0:
            top, bottom = min(top, i), i
            left, right = min(left, first), max(right, last)
    count, area, total = 0, 0, 0.0
    x0, y0, x1, y1 = num_columns, labels.shape[0], -1, -1
    if bottom < 0:
        return count, area, total, x0, y0, x1, y1
    begin, end = max(left - 2, 0), min(right, width - 3)
    line = np.zeros(width, mask.dtype)
    for y in range(np.searchsorted(rows, top - 2), np.searchsorted(rows, bottom, "right")):
        i = rows[y]
        upper, middle, lower = row_weights[y]
        for j in range(begin, end + 3):
            line[j] = mask[i, j] * upper + mask[i + 1, j] * middle + mask[i + 2, j] * lower
        for j in range(begin, end + 1):
            a, b, c = line[j], line[j + 1], line[j + 2]
            if not ((a > low) | (b > low) | (c > low)):
                continue
            for x in range(starts[j], starts[j + 1]):
                if labels[y, x] != 0:
                    continue
                value = a * column_weights[x, 0] + b * column_weights[x, 1] + c * column_weights[x, 2]
                if value > high:
                    labels[y, x] = label
                    area += 1
                    total += value
                    x0, x1 = min(x0, x), max(x1, x)
                    y0, y1 = min(y0, y), y
                elif value > low:
                    if count < unsure.size:
                        unsure[count] = y * num_columns + x
                    count += 1
    return count, area, total, x0, y0, x1, y1
