"""Deformable convolution in NumPy, by its definition: every tap of every output pixel in a loop."""

import math

import numpy as np


def _bilinear(plane: np.ndarray, y: float, x: float) -> np.ndarray:
    """Interpolate (C, H, W) at a position; pixels outside are zero."""
    value = np.zeros(len(plane))
    for line in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= line < plane.shape[1] and 0 <= column < plane.shape[2]:
                value += (1 - abs(y - line)) * (1 - abs(x - column)) * plane[:, line, column]
    return value


def deform_conv(x, offset, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), mask=None):
    """Return the output as float64; the arguments are arrays in the order of torchvision's operator."""
    num_images, channels, _, _ = x.shape
    num_outputs, width, kernel_height, kernel_width = weight.shape
    groups, taps = channels // width, kernel_height * kernel_width
    parts = offset.shape[1] // (2 * taps)
    result = np.zeros((num_images, num_outputs, *offset.shape[2:]))
    for image, row, column in np.ndindex(num_images, *offset.shape[2:]):
        values = np.zeros((channels, taps))
        for part, tap in np.ndindex(parts, taps):
            at = image, slice(None), row, column
            moved = offset[at].reshape(parts, taps, 2)[part, tap]
            y = row * stride[0] - padding[0] + tap // kernel_width * dilation[0] + moved[0]
            right = column * stride[1] - padding[1] + tap % kernel_width * dilation[1] + moved[1]
            factor = 1.0 if mask is None else mask[at].reshape(parts, taps)[part, tap]
            of_part = slice(part * channels // parts, (part + 1) * channels // parts)
            values[of_part, tap] = factor * _bilinear(x[image, of_part].astype(float), y, right)
        for output in range(num_outputs):
            first = output // (num_outputs // groups) * width
            result[image, output, row, column] = (
                values[first : first + width] * weight[output].reshape(width, taps)
            ).sum()
    return result if bias is None else result + bias[:, None, None]
