"""The inner loops of mask pasting and painting, compiled by numba; see `load_loops`."""

import numpy as np

from segzoo.utils.compiled import compiled


@compiled
def find_window(start, stop, side, cells, places):
    """Find the pixels of an axis on which the mask of a box has an influence, and their places in the mask.

    The pixels are Detectron2's on a CPU, which end a pixel outside of the box; its operations are repeated in
    their order and precision.

    Args:
        start, stop: float32, the sides of the box.
        side: number of pixels of the axis.
        cells: number of samples of the mask, which are at the places 0, ..., cells - 1.
        places: (side,) float32, output: the places of the pixels, in (-1, cells).

    Returns:
        The first of the pixels, and their number.
    """
    half, one, two = np.float32(0.5), np.float32(1), np.float32(2)
    first = max(int(np.floor(min(max(start, np.float32(0)), np.float32(side)))) - 1, 0)
    last = min(int(np.ceil(max(min(stop, np.float32(side)), np.float32(-2)))) + 1, side)
    begin, count = first, 0
    for pixel in range(first, last):
        position = (np.float32(pixel) + half - start) / (stop - start) * two - one
        place = (position + one) * np.float32(cells / 2) - half
        if (place > -1) & (place < cells):
            if count == 0:
                begin = pixel
            places[count] = place
            count += 1
    return begin, count


@compiled
def paste_mask(mask, box, threshold, margin, plane, rows, columns, unsure):
    """Set the pixels to 1 where the mask of a box, interpolated bilinearly, is at least the threshold.

    Between two neighboring samples of the mask the values of a row of pixels lie on a line, so that most
    pixels follow from its ends.

    Args:
        mask: (M, M) float32; it is zero outside.
        box: (4,) float32 x0, y0, x1, y1, with an area.
        threshold: a float above 0.
        margin: where the value is within `margin` of the threshold, pixels are left as they are.
        plane: (H, W) uint8 of zeros, output.
        rows, columns: (H,) and (W,) float32 buffers.
        unsure: (P,) int64 buffer, output: the first P of the pixels left as they are, y * W + x.

    Returns:
        The number of those pixels.
    """
    side = mask.shape[0]
    left, width = find_window(box[0], box[2], plane.shape[1], side, columns)
    top, height = find_window(box[1], box[3], plane.shape[0], side, rows)
    low, high = threshold - margin, threshold + margin
    # Pixels of segment k, between the samples k - 1 and k, are starts[k], ..., starts[k + 1] - 1.
    starts = np.zeros(side + 2, np.int64)
    for x in range(width):
        cell = int(np.floor(columns[x]))
        columns[x] -= cell
        starts[cell + 2] = x + 1
    for k in range(1, side + 2):
        starts[k] = max(starts[k], starts[k - 1])
    # The mask along a row of pixels, with a zero at both ends.
    line = np.zeros(side + 2, mask.dtype)
    count = 0
    for y in range(height):
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
                value = start * (1 - columns[x]) + stop * columns[x]
                if value >= high:
                    plane[top + y, left + x] = 1
                elif value >= low:
                    if count < unsure.size:
                        unsure[count] = (top + y) * plane.shape[1] + left + x
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
