"""Sizes and resizing: an image to the copies that a protocol tests, and scores to the image's size.

Shape shorthand: K classes, H W size of the original image, h w size of a copy.
"""

import math
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data.transforms import ResizeTransform
from torch import Tensor

from .presets import InferenceProtocol

Size = tuple[int, int]

# Elements of a band of scores: on a CPU it stays in the caches, a GPU is faster with long vectors.
_BAND_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}


def copy_size(protocol: InferenceProtocol, size: Size, scale: float) -> Size:
    """Return (height, width) of the copy of an image of `size` at `scale`, each at least 1."""
    height, width = size
    long, short, base = max(size), min(size), protocol.base_size
    if protocol.resize == "long_edge":
        target = round(scale * base)
        sides = [target if side == long else round(target / float(long) * side) for side in size]
    elif protocol.resize == "long_edge_up":
        target = math.ceil(scale * base)
        sides = [target if side == long else int(1.0 * side * target / long + 0.5) for side in size]
    elif protocol.resize == "short_edge":
        target = int(scale * base)
        sides = [target if side == short else int(1.0 * side * target / short) for side in size]
    elif protocol.resize == "box":
        box = int(scale * max(protocol.max_size, base)), int(scale * min(protocol.max_size, base))
        factor = min(box[0] / long, box[1] / short)
        sides = [int(side * factor + 0.5) for side in size]
    else:
        sides = [height, width]
    return max(sides[0], 1), max(sides[1], 1)


def rounded_up(size: Size, multiple: int) -> Size:
    """Return both sides rounded up to a multiple."""
    return tuple(side + -side % multiple for side in size)


def resize_image(image: Tensor, size: Size, interpolation: str) -> Tensor:
    """Resize an image bilinearly.

    Args:
        image: (3, h, w) uint8 or float in [0, 255].
        size: (height, width) of the result.
        interpolation: see `InferenceProtocol`. The 8-bit methods apply to uint8 images; a float image is
            resized in floating point.

    Returns:
        (3, *size), uint8 for "opencv" and "pillow" of a uint8 image, else float32.
    """
    if tuple(image.shape[-2:]) == size:
        return image
    if interpolation in ("opencv", "pillow") and image.dtype == torch.uint8:
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        if interpolation == "opencv":
            pixels = cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        else:
            pixels = ResizeTransform(*pixels.shape[:2], *size).apply_image(pixels)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).to(image.device)
    aligned = interpolation == "corners"
    return F.interpolate(image[None].float(), size, mode="bilinear", align_corners=aligned)[0]


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """Resize (h, w) integer labels: each pixel takes the value at its center, as in Pillow."""
    chosen = []
    for source, target in zip(labels.shape, size, strict=True):
        step = source / target
        # Pillow accumulates steps; if a center falls between two pixels, the rounding of the sum decides.
        centers = np.cumsum(np.r_[0.5 * step, np.full(target - 1, step)])
        chosen.append(np.minimum(centers.astype(np.int64), source - 1))
    return labels[chosen[0][:, None], chosen[1]]


def score_bands(
    scores: Tensor, size: Size, align_corners: bool, rows: int | None = None
) -> Iterator[tuple[int, int, Tensor]]:
    """Resize scores bilinearly, a band of rows at a time.

    Args:
        scores: (K, h, w) float.
        size: (H, W).
        rows: rows per band; default: chosen by device.

    Yields:
        (start, stop, band (K, stop - start, W)). A band is a view of `scores` if the size does not change.
    """
    num_classes, height, width = scores.shape
    if rows is None:
        elements = _BAND_ELEMENTS.get(scores.device.type, 2**26)
        rows = max(elements // (num_classes * max(width, size[1])), 1)
    if height != size[0]:
        upper, lower, weight = _neighbors(height, size[0], align_corners, scores.device)
    for start in range(0, size[0], rows):
        stop = min(start + rows, size[0])
        if height == size[0]:
            band = scores[:, start:stop]
        else:
            # Width first: several rows of the result may depend on the same source row.
            first, last = int(upper[start]), int(lower[stop - 1]) + 1
            source = _resize_width(scores[:, first:last], size[1], align_corners)
            band = _between(source, upper[start:stop] - first, lower[start:stop] - first, weight[start:stop])
        yield start, stop, _resize_width(band, size[1], align_corners)


def row_bands(
    rows: Iterable[Tensor], source: Size, size: Size, align_corners: bool
) -> Iterator[tuple[int, int, Tensor]]:
    """Resize scores that arrive in bands of rows as `score_bands` does, holding only rows that are needed.

    Args:
        rows: (K, r, w) float each, from top to bottom; changed only after the next one is requested.
        source: (h, w) of all together.
        size: (H, W).

    Yields:
        As `score_bands`.
    """
    if source[0] == size[0]:
        stop = 0
        for part in rows:
            start, stop = stop, stop + part.shape[1]
            for first, last, band in score_bands(part, (part.shape[1], size[1]), align_corners):
                yield start + first, start + last, band
        return
    held, first, start = None, 0, 0
    for part in rows:
        upper, lower, weight = _neighbors(source[0], size[0], align_corners, part.device)
        held = part.clone() if held is None else torch.cat([held, part], dim=1)
        known = first + held.shape[1]
        ready = int((lower < known).sum())  # rows of the result that need no further ones
        step = max(_BAND_ELEMENTS.get(part.device.type, 2**26) // (len(part) * max(source[1], size[1])), 1)
        for top in range(start, ready, step):
            stop = min(top + step, ready)
            low, high = int(upper[top]), int(lower[stop - 1]) + 1
            wide = _resize_width(held[:, low - first : high - first], size[1], align_corners)
            yield top, stop, _between(wide, upper[top:stop] - low, lower[top:stop] - low, weight[top:stop])
        start = ready
        if start < size[0]:
            # A copy, so that the rows that are done are released.
            needed = int(upper[start]) - first
            held, first = held[:, needed:].clone(), first + needed


def _between(scores: Tensor, upper: Tensor, lower: Tensor, weight: Tensor) -> Tensor:
    """Interpolate between rows of (K, r, w) scores."""
    return torch.lerp(scores[:, upper], scores[:, lower], weight[:, None].to(scores.dtype))


def _resize_width(planes: Tensor, width: int, align_corners: bool) -> Tensor:
    if planes.shape[-1] == width:
        return planes
    size = (planes.shape[-2], width)
    return F.interpolate(planes[None], size, mode="bilinear", align_corners=align_corners)[0]


def _neighbors(
    source: int, target: int, align_corners: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two source rows of every target row and the second's weight, as in F.interpolate."""
    positions = torch.arange(target, device=device, dtype=torch.float32)
    if align_corners:
        positions = positions * ((source - 1) / max(target - 1, 1))
    else:
        positions = ((positions + 0.5) * (source / target) - 0.5).clamp(min=0)
    upper = positions.long().clamp(max=source - 1)
    return upper, (upper + 1).clamp(max=source - 1), positions - upper
