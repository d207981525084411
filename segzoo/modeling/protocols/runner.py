"""Test a model under a protocol, with the interface of the model itself.

Memory: if several copies are averaged or scores are requested, the scores of a copy, (K, h, w) float32, and
those of the image, (K, H, W): 1.2 GiB for 150 classes at 1024 x 2048, 152 MiB for 19 classes. Labels
of a single copy need less: with windows, the scores of as many rows as a window has, and without, those that
the model computes before it resizes them. Windows add batches of bounded size; everything else is computed
in bands of rows.

Shape shorthand: N windows of a batch, K classes, H W size of the original image, h w size of a copy of it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from segzoo.layers.resize import resize

from ..resized_labels import resized_labels
from ..segmentor import Segmentor
from .presets import InferenceProtocol
from .protocol_model import ProtocolModel
from .resize import copy_size, resize_image, resize_labels, rounded_up, row_bands, score_bands
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
        elif self.protocol.mode == "slide":
            bands = self._slid_bands(next(self._resized_copies(image)), size)
        else:
            copy = next(self._resized_copies(image))
            if self._has_coarse_labels(copy):
                return self._coarse_labels(copy, size)
            canvas = self._copy_scores(copy)
            # The largest logit is the most probable class: a single copy needs no softmax.
            bands = score_bands(canvas, size, self.protocol.align_corners)
        return best_of_bands(bands, size)

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
        for copy in self._resized_copies(image):
            yield self._copy_scores(copy), False
            if self._flips_copies():
                yield self._copy_scores(copy.flip(-1)), True

    def _resized_copies(self, image: Tensor) -> Iterator[Tensor]:
        """Yield the copy of the image of each scale, (3, h, w) float, cropped in mode "center_crop"."""
        protocol = self.protocol
        for scale in protocol.scales:
            size = copy_size(protocol, tuple(image.shape[-2:]), scale)
            copy = resize_image(image, size, protocol.interpolation)
            copy = resize_image(copy, rounded_up(size, protocol.round_to), protocol.interpolation)
            copy = copy.to(self.model.device).float()
            if protocol.mode == "center_crop":
                copy = copy[(slice(None), *center_crop(tuple(copy.shape[-2:]), protocol.crop_size))]
            yield copy

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
        height, width = image.shape[-2:]
        canvas = None
        for start, stop, rows in self._slid_rows(image):
            if stop - start == height:
                return rows
            if canvas is None:
                canvas = rows.new_empty((len(rows), height, width))
            canvas[:, start:stop] = rows
        return canvas

    def _slid_rows(self, image: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (start, stop, scores (K, stop - start, w) float32) of a padded copy, from top to bottom.

        Rows are finished once no later window has them. A band is valid until the next one is computed.
        """
        protocol, size = self.protocol, tuple(image.shape[-2:])
        window = tuple(min(pair) for pair in zip(size, protocol.crop_size, strict=True))
        corners = window_corners(size, window, protocol.window_stride)
        if len(corners) == 1:
            yield 0, size[0], self._window_scores(image[None])[0]
            return
        counts = coverage(size, window, protocol.window_stride, image.device)
        held, first = None, 0  # scores of the rows from `first` on, as many as a window has
        for corner, start, left, scores in self._windows(image, corners, window):
            if held is None:
                held = scores.new_zeros((len(scores), window[0], size[1]))
            if corner > first:
                yield first, corner, held[:, : corner - first].div_(counts[first:corner])
                _move_up(held, corner - first)
                first = corner
            height, width = scores.shape[-2:]
            held[:, start - first : start - first + height, left : left + width] += scores
        yield first, size[0], held.div_(counts[first:])

    def _slid_bands(self, copy: Tensor, size: Size) -> Iterator[tuple[int, int, Tensor]]:
        """Yield bands of the scores of a copy at the original size, holding only rows that windows share."""
        padded, top, left = self._padded(copy)
        height, width = copy.shape[-2:]

        def rows() -> Iterator[Tensor]:
            for start, stop, scores in self._slid_rows(padded):
                # Not the rows and columns of the padding.
                start, stop = max(start, top) - start, min(stop, top + height) - start
                if start < stop:
                    yield scores[:, start:stop, left : left + width]

        return row_bands(rows(), (height, width), size, self.protocol.align_corners)

    def _has_coarse_labels(self, copy: Tensor) -> bool:
        """Return whether nothing but resizing happens to the scores of a whole copy on a CPU."""
        protocol, model = self.protocol, self.model
        has_softmax = protocol.softmax in ("window", "pair") and model.score_kind == "logits"
        return model.coarse_scores and copy.device.type == "cpu" and not (protocol.flip or has_softmax)

    def _coarse_labels(self, copy: Tensor, size: Size) -> Tensor:
        """Return the labels of a whole copy, without its scores at full size where `resized_labels` can."""
        scores, full_size, align_corners = self.model.dense_scores(copy[None])
        height, width = copy.shape[-2:]
        labels = None
        if align_corners == self.protocol.align_corners or (height, width) == size:
            labels = resized_labels(scores[0].float(), full_size, (height, width), size, align_corners)
        if labels is None:
            canvas = resize(scores.float(), full_size, align_corners)[0, :, :height, :width]
            labels = best_of_bands(score_bands(canvas, size, self.protocol.align_corners), size)
        return labels

    def _windows(
        self, image: Tensor, corners: Sequence[tuple[int, int]], window: Size
    ) -> Iterator[tuple[int, int, int, Tensor]]:
        """Yield (top of the window, top, left, scores (K, rows, w)) of windows or of bands of their rows."""

        def crop(top: int, left: int) -> Tensor:
            return image[:, top : top + window[0], left : left + window[1]]

        if self.model.coarse_scores and image.device.type == "cpu" and not self.window_batch:
            for top, left in corners:
                for start, scores in self._window_bands(crop(top, left)):
                    yield top, top + start, left, scores
            return
        batch_size = self.window_batch or self._affordable(window, image.device)
        for first in range(0, len(corners), batch_size):
            batch = corners[first : first + batch_size]
            scores = self._window_scores(torch.stack([crop(*corner) for corner in batch]))
            for (top, left), own in zip(batch, scores, strict=True):
                yield top, top, left, own

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


def best_of_bands(bands: Iterable[tuple[int, int, Tensor]], size: Size) -> Tensor:
    """Return the class with the largest score per pixel, int16, of (start, stop, scores) bands of rows."""
    labels = None
    for start, stop, band in bands:
        if labels is None:
            labels = torch.empty(size, dtype=torch.int16, device=band.device)
        # On a CPU max over the first dimension is faster than argmax, with the same result.
        labels[start:stop] = band.max(0).indices
    return labels


def _move_up(scores: Tensor, rows: int) -> None:
    """Move (K, h, w) up by a number of rows in place, without a copy of all; zeros follow from below."""
    height = scores.shape[1]
    for start in range(0, height - rows, rows):
        stop = min(start + rows, height - rows)
        scores[:, start:stop] = scores[:, start + rows : stop + rows]
    scores[:, max(height - rows, 0) :] = 0


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
