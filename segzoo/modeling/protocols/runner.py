"""Test a model under a protocol, with the interface of the model itself.

Memory: the scores of one copy of the image, (K, h, w) float32, and, if several copies are averaged or scores
are requested, those of the image, (K, H, W). Windows add batches of bounded size; everything else is
computed in bands of rows. A map of 150 classes at 1024 x 2048 takes 1.2 GiB, of 19 classes 152 MiB.

Shape shorthand: N windows of a batch, K classes, H W size of the original image, h w size of a copy of it.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..segmentor import Segmentor
from .presets import InferenceProtocol
from .protocol_model import ProtocolModel
from .resize import copy_size, resize_image, resize_labels, rounded_up, score_bands
from .windows import coverage, tiled_size, window_corners

Size = tuple[int, int]

# Bytes of the scores of a batch of windows, if WINDOW_BATCH does not set their number.
_BATCH_BYTES = {"cpu": 0, "cuda": 1 << 31}


class ProtocolSegmentor(ProtocolModel):
    """A semantic model under one of the presets, or a modified one."""

    #: Scores are resized, whatever the model resizes by itself.
    semantic_resizing = "scores"

    def __init__(
        self,
        model: Segmentor,
        protocol: InferenceProtocol,
        *,
        flip_pairs: Sequence[tuple[int, int]] = (),
        window_batch: int = 0,
    ):
        """
        Args:
            model, flip_pairs: see `ProtocolModel`.
            protocol: a complete protocol; see `build_inference_protocol`.
            window_batch: number of windows that run together; 0: as many as fit into bounded memory, on a CPU
                one.

        Raises:
            InputError: the model does not support the task "semantic".
        """
        super().__init__(model, protocol, flip_pairs)
        self.window_batch = window_batch

    def test(self, inputs: dict, semantic: str) -> Tensor:
        """Return the result of one image; in mode "center_crop", of the crop."""
        image = inputs["image"]
        size = int(inputs.get("height", image.shape[-2])), int(inputs.get("width", image.shape[-1]))
        if self.protocol.mode == "center_crop":
            size = self.protocol.crop_size
        return self._scores(image, size) if semantic == "scores" else self._labels(image, size)

    # From bands to results.

    def _scores(self, image: Tensor, size: Size) -> Tensor:
        total, copies = None, 0
        for canvas, flipped in self._copies(image):
            copies += 1
            if total is None and not flipped and tuple(canvas.shape[-2:]) == size:
                total = canvas  # the bands are views, which are modified in place
                for _ in self._finished_bands(canvas, flipped, size):
                    pass
                continue
            if total is None:
                total = canvas.new_zeros((len(canvas), *size))
            for start, stop, band in self._finished_bands(canvas, flipped, size):
                total[:, start:stop] += band
            del canvas
        return total if copies == 1 else total.div_(copies)

    def _labels(self, image: Tensor, size: Size) -> Tensor:
        if self._copy_count() > 1:
            total = self._scores(image, size)
            bands = score_bands(total, size, False)
        else:
            canvas, _ = next(self._copies(image))
            # The largest logit is the most probable class: a single copy needs no softmax.
            bands = score_bands(canvas, size, self.protocol.align_corners)
        labels = None
        for start, stop, band in bands:
            if labels is None:
                labels = torch.empty(size, dtype=torch.int16, device=band.device)
            # On a CPU max over the first dimension is faster than argmax, with the same result.
            labels[start:stop] = band.max(0).indices
        return labels

    def _finished_bands(self, canvas: Tensor, flipped: bool, size: Size) -> Iterator[tuple[int, int, Tensor]]:
        """Yield bands of a copy's scores at the original size, ready to be averaged with other copies."""
        for start, stop, band in score_bands(canvas, size, self.protocol.align_corners):
            if self.protocol.softmax == "copy" and self.model.score_kind == "logits":
                softmax_(band, 0)
            yield start, stop, self._unflip(band) if flipped else band

    # From the image to copies.

    def _copy_count(self) -> int:
        return len(self.protocol.scales) * (2 if self._flips_copies() else 1)

    def _flips_copies(self) -> bool:
        return self.protocol.flip and self.protocol.softmax in ("copy", "never")

    def _copies(self, image: Tensor) -> Iterator[tuple[Tensor, bool]]:
        """Yield the (K, h, w) scores of each copy of the image, and whether the copy is flipped.

        A flipped copy has its own windows: clamped windows are at what was the left border.
        """
        protocol = self.protocol
        for scale in protocol.scales:
            size = copy_size(protocol, tuple(image.shape[-2:]), scale)
            copy = resize_image(image, size, protocol.interpolation)
            copy = resize_image(copy, rounded_up(size, protocol.round_to), protocol.interpolation)
            copy = copy.to(self.model.device).float()
            if protocol.mode == "center_crop":
                copy = copy[(slice(None), *center_crop(tuple(copy.shape[-2:]), protocol.crop_size))]
            yield self._copy_scores(copy), False
            if self._flips_copies():
                yield self._copy_scores(copy.flip(-1)), True

    def _copy_scores(self, copy: Tensor) -> Tensor:
        """Return the average of all windows of (3, h, w) float, (K, h, w) float32."""
        size = tuple(copy.shape[-2:])
        if self.protocol.mode != "slide":
            return self._window_scores(copy[None])[0]
        padded, top, left = self._padded(copy)
        scores = self._slide(padded)
        return scores[:, top : top + size[0], left : left + size[1]]

    def _padded(self, copy: Tensor) -> tuple[Tensor, int, int]:
        """Return the copy padded to the size that the windows need, and the copy's top and left in it."""
        protocol, size = self.protocol, tuple(copy.shape[-2:])
        padded_size = size
        if protocol.padding != "none":
            padded_size = tuple(max(pair) for pair in zip(size, protocol.crop_size, strict=True))
        if protocol.last_window == "padded":
            padded_size = tiled_size(padded_size, protocol.crop_size, protocol.window_stride)
        if padded_size == size:
            return copy, 0, 0
        top = left = 0
        if protocol.padding == "centered":
            top, left = ((padded - side) // 2 for padded, side in zip(padded_size, size, strict=True))
        padded = copy.new_zeros((len(copy), *padded_size))
        if protocol.pad_value == "mean":
            padded += self.model.pixel_mean.to(padded)
        padded[:, top : top + size[0], left : left + size[1]] = copy
        return padded, top, left

    def _slide(self, image: Tensor) -> Tensor:
        """Return the scores of a padded copy: (3, h, w) float -> (K, h, w) float32."""
        protocol, size = self.protocol, tuple(image.shape[-2:])
        window = tuple(min(pair) for pair in zip(size, protocol.crop_size, strict=True))
        corners = window_corners(size, window, protocol.window_stride)
        if len(corners) == 1:
            return self._window_scores(image[None])[0]
        canvas = None
        for top, left, scores in self._windows(image, corners, window):
            if canvas is None:
                canvas = scores.new_zeros((len(scores), *size))
            height, width = scores.shape[-2:]
            canvas[:, top : top + height, left : left + width] += scores
        return canvas.div_(coverage(size, window, protocol.window_stride, canvas.device))

    def _windows(
        self, image: Tensor, corners: Sequence[tuple[int, int]], window: Size
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (top, left, scores (K, rows, w)) of windows or of bands of their rows."""

        def crop(top: int, left: int) -> Tensor:
            return image[:, top : top + window[0], left : left + window[1]]

        if self.model.coarse_scores and image.device.type == "cpu" and not self.window_batch:
            for top, left in corners:
                for start, scores in self._window_bands(crop(top, left)):
                    yield top + start, left, scores
            return
        batch_size = self.window_batch or self._affordable(window, image.device)
        for first in range(0, len(corners), batch_size):
            batch = corners[first : first + batch_size]
            scores = self._window_scores(torch.stack([crop(*corner) for corner in batch]))
            yield from ((*corner, own) for corner, own in zip(batch, scores, strict=True))

    # From windows to their scores.

    def _window_scores(self, crops: Tensor) -> Tensor:
        """Return scores of (N, 3, h, w) float crops, (N, K, h, w) float32, which may be changed in place."""
        if not self._flips_windows():
            return self._combined([self.model.score_maps(crops).float()], 1)
        scores = self.model.score_maps(torch.cat([crops, crops.flip(-1)])).float()
        return self._combined(list(scores.split(len(crops))), 1)

    def _window_bands(self, crop: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (start, (K, rows, w)): the result of `_window_scores` for one window, (3, h, w), in bands.

        Scores are resized, converted to probabilities and added while they are in the cache. Views run one
        after the other: on a CPU a batch is slower than its parts.
        """
        height, width = crop.shape[-2:]
        bands = []
        for view in [crop, crop.flip(-1)] if self._flips_windows() else [crop]:
            scores, size, align_corners = self.model.dense_scores(view[None])
            bands.append(score_bands(scores[0].float(), size, align_corners))
        for parts in zip(*bands, strict=True):
            start = parts[0][0]
            if start >= height:  # the rest is padding
                return
            yield start, self._combined([band[:, : height - start, :width] for _, _, band in parts], 0)

    def _combined(self, views: list[Tensor], dim: int) -> Tensor:
        """Return the average of the scores of windows and, with two views, of the flipped windows.

        Args:
            views: (..., K, h, w) float32 each, changed in place.
            dim: dimension of the classes.
        """
        has_logits = self.model.score_kind == "logits"
        if self.protocol.softmax == "window" and has_logits:
            views = [softmax_(scores, dim) for scores in views]
        total = views[0] if len(views) == 1 else views[0].add_(self._unflip(views[1]))
        if self.protocol.softmax == "pair" and has_logits:
            return softmax_(total, dim)
        return total if len(views) == 1 else total.mul_(0.5)

    def _flips_windows(self) -> bool:
        """Return whether each window is averaged with its flipped copy before windows are averaged."""
        return self.protocol.flip and not self._flips_copies()

    def _unflip(self, scores: Tensor) -> Tensor:
        """Flip (..., K, h, w) scores of a flipped image back, and swap paired classes."""
        scores = scores.flip(-1)
        if not self.flip_pairs:
            return scores
        order = list(range(scores.shape[-3]))
        for one, other in self.flip_pairs:
            order[one], order[other] = other, one
        return scores.index_select(-3, torch.tensor(order, device=scores.device))

    def _affordable(self, window: Size, device: torch.device) -> int:
        views = 2 if self._flips_windows() else 1
        window_bytes = 4 * views * self.model.num_classes * window[0] * window[1]
        return max(_BATCH_BYTES.get(device.type, 1 << 31) // window_bytes, 1)


def softmax_(logits: Tensor, dim: int) -> Tensor:
    """Apply softmax in place, without a second map of all classes."""
    logits.sub_(logits.amax(dim, keepdim=True)).exp_()
    return logits.div_(logits.sum(dim, keepdim=True))


def center_crop(size: Size, crop: Size) -> tuple[slice, slice]:
    """Return rows and columns of the crop in the center of a map of `size`, which is at least as large.

    An odd margin is rounded to even, as Python does.
    """
    return tuple(
        slice(start := round((length - side) / 2.0), start + side)
        for length, side in zip(size, crop, strict=True)
    )


def label_cropper(protocol: InferenceProtocol) -> Callable | None:
    """Return a function that crops (H, W) labels to the predictions' size, or None if none is needed."""
    if protocol.mode != "center_crop":
        return None

    def crop(labels):
        resized = resize_labels(labels, copy_size(protocol, labels.shape, protocol.scales[0]))
        return resized[center_crop(resized.shape, protocol.crop_size)]

    return crop
