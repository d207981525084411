"""The loops of pillow_resize.py, compiled by numba."""

import numpy as np

from segzoo.utils.compiled import compiled

#: Bits after the binary point of a weight; Pillow uses as many for images of 8 bits.
PRECISION = 22


@compiled
def weights_of(old_side, new_side, first, count):
    """Return the source positions and weights of the pixels first, first + 1, ... of a resized side.

    A pixel is the average of the source pixels below a triangle of at least two pixels, in double precision,
    rounded to integers that sum up to about 2**PRECISION.

    Returns:
        starts, lengths (count,) int64: pixel i averages the source pixels from starts[i] on, lengths[i] of
        them; weights (count, longest) int32.
    """
    scale = old_side / new_side
    radius = max(scale, 1.0)
    longest = int(np.ceil(radius)) * 2 + 1
    starts = np.empty(count, np.int64)
    lengths = np.empty(count, np.int64)
    weights = np.zeros((count, longest), np.int32)
    exact = np.empty(longest, np.float64)
    inverse = 1.0 / radius
    for i in range(count):
        center = (first + i + 0.5) * scale
        start = max(int(center - radius + 0.5), 0)
        length = min(int(center + radius + 0.5), old_side) - start
        total = 0.0
        for k in range(length):
            distance = abs((k + start - center + 0.5) * inverse)
            weight = 1.0 - distance if distance < 1.0 else 0.0
            exact[k] = weight
            total += weight
        for k in range(length):
            weight = exact[k] / total if total != 0.0 else exact[k]
            weights[i, k] = int(0.5 + weight * (1 << PRECISION))
        # Weights of zero at the ends change nothing.
        while length > 1 and weights[i, length - 1] == 0:
            length -= 1
        skipped = 0
        while skipped < length - 1 and weights[i, skipped] == 0:
            skipped += 1
        for k in range(length - skipped):
            weights[i, k] = weights[i, k + skipped]
        starts[i] = start + skipped
        lengths[i] = length - skipped
    return starts, lengths, weights


@compiled
def resize_rows(pixels, starts, lengths, weights, out):
    """Set each row of `out` (R, 3 W) to the weighted averages along the row of `pixels` (R, 3 S).

    Both are uint8 of three channels; starts[i] counts pixels.
    """
    sums = np.empty(out.shape[1], np.int32)
    half = np.int32(1 << (PRECISION - 1))
    for y in range(out.shape[0]):
        row = pixels[y]
        for x in range(starts.size):
            place = 3 * starts[x]
            red, green, blue = half, half, half
            for k in range(lengths[x]):
                weight = weights[x, k]
                red = np.int32(red + row[place] * weight)
                green = np.int32(green + row[place + 1] * weight)
                blue = np.int32(blue + row[place + 2] * weight)
                place += 3
            sums[3 * x] = red
            sums[3 * x + 1] = green
            sums[3 * x + 2] = blue
        for x in range(sums.size):
            out[y, x] = min(sums[x] >> PRECISION, 255)


@compiled
def resize_columns(pixels, top, starts, lengths, weights, out):
    """Set each row of `out` (R, W) to the weighted average of rows of `pixels` (H, W), which start at `top`.

    Both are uint8.
    """
    width = out.shape[1]
    sums = np.empty(width, np.int32)
    for y in range(out.shape[0]):
        sums[:] = 1 << (PRECISION - 1)
        for k in range(lengths[y]):
            weight = weights[y, k]
            row = pixels[starts[y] - top + k]
            for x in range(width):
                sums[x] += row[x] * weight
        for x in range(width):
            out[y, x] = min(sums[x] >> PRECISION, 255)
