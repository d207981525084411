"""The segments of a whole batch, looked up with one operator for all images.

Shape shorthand: N images, T segments of all images, S the largest number of segments of an image, H W pixels
of a padded image, M masks, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.layers.runtime import transferred

from .point_sampling import corners
from .target_masks import SegmentTargets


class TargetBatch:
    """The targets of N images of one padded size.

    Args:
        targets: N >= 1 targets; if those of any image are planes, all become planes.

    Attributes:
        counts: the number of segments of each image.
        first: the index, among all T segments, of the first segment of each image.
        size: (H, W)

    Raises:
        ValueError: the targets have different sizes.
    """

    def __init__(self, targets: Sequence[SegmentTargets]):
        sizes = {target.size for target in targets}
        if len(sizes) != 1:
            raise ValueError(f"targets of one batch must have one size, found {sorted(sizes)}")
        self.size: tuple[int, int] = sizes.pop()
        self.counts = [len(target) for target in targets]
        self.first = [0, *accumulate(self.counts)][:-1]
        self._targets = targets
        self._labels: Tensor | None = None
        self._planes: Tensor | None = None
        if any(target.masks is not None for target in targets):
            self._planes = torch.cat([_planes(target) for target in targets])
            self.device = self._planes.device
        else:
            maps = [target.segment_map for target in targets]
            self._labels = torch.stack(maps) if len(maps) > 1 else maps[0][None]
            self.device = self._labels.device

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def most(self) -> int:
        """S"""
        return max(self.counts)

    def padded_classes(self) -> Tensor:
        """Return the classes of each image's segments, (N, S) int64, 0 where it has fewer."""
        return torch.stack([F.pad(one.classes, (0, self.most - len(one))) for one in self._targets])

    def resized(self, size: tuple[int, int]) -> TargetBatch:
        """Return the segments at another resolution, with PyTorch's "nearest" interpolation."""
        if size == self.size:
            return self
        batch = copy(self)
        batch.size = size
        if self._labels is not None:
            # float32 holds every int16 exactly, and interpolation supports it on every device.
            batch._labels = _nearest(self._labels.float(), size).to(torch.int16)
        else:
            batch._planes = _nearest(self._planes.to(torch.uint8), size).bool()
        return batch

    def one_hot(self, images: range, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Return the membership of pixels [start, stop) of some flattened images in each image's segments.

        Returns:
            (images, stop - start, S) of 0 and 1; 0 for segments that an image does not have.
        """
        if self._labels is not None:
            labels = self._labels[images.start : images.stop].flatten(1)[:, start:stop].long()
            # Column 0 is for pixels of no segment and is dropped.
            columns = torch.zeros((*labels.shape, self.most + 1), dtype=dtype, device=self.device)
            return columns.scatter_(2, labels[..., None] + 1, 1)[..., 1:]
        columns = torch.zeros((len(images), stop - start, self.most), dtype=dtype, device=self.device)
        for row, image in enumerate(images):
            own = self._planes[self.first[image] : self.first[image] + self.counts[image]]
            columns[row, :, : len(own)] = own.flatten(1)[:, start:stop].t()
        return columns

    def sample_all(self, images: range, points: Tensor) -> Tensor:
        """Sample all segments of some images at the same points, as `SegmentTargets.sample` does.

        Args:
            points: (images, P, 2) float (x, y) in [0, 1]: fractions of width and height.

        Returns:
            (images, P, S) in [0, 1], of the points' dtype; 0 for segments that an image does not have.
        """
        pixels, weights = (part.movedim(0, -1).contiguous() for part in corners(points, self.size))
        if self._labels is not None:
            labels = _gathered(self._labels[images.start : images.stop], pixels.flatten(1)).view_as(pixels)
            # A pixel of a segment counts in the segment's column, a pixel of none nowhere.
            columns = torch.eye(self.most + 1, dtype=points.dtype, device=self.device)[:, 1:].contiguous()
            samples = F.embedding_bag(
                (labels.flatten(0, 1) + 1).int(),
                columns,
                per_sample_weights=weights.flatten(0, 1),
                mode="sum",
            )
            return samples.unflatten(0, points.shape[:2])
        samples = points.new_zeros((*points.shape[:2], self.most))
        pixels_of_plane = self.size[0] * self.size[1]
        for row, image in enumerate(images):
            planes = self._planes[self.first[image] : self.first[image] + self.counts[image]]
            covered = planes.view(-1, pixels_of_plane)[:, pixels[row].flatten()].unflatten(1, (-1, 4))
            samples[row, :, : len(planes)] = (covered * weights[row]).sum(-1).t()
        return samples

    def sample(self, images: Tensor, segments: Tensor, points: Tensor) -> Tensor:
        """Sample one segment for each of M masks at the mask's own points, as `SegmentTargets.sample` does.

        Args:
            images, segments: (M,) int64, the image of each mask, and the segment among the image's.
            points: (M, P, 2), see `sample_all`.

        Returns:
            (M, P) in [0, 1], of the points' dtype.
        """
        planes, maps = self._rows(images, segments)
        pixels, weights = corners(points, self.size)
        pixels += planes[:, None] * (self.size[0] * self.size[1])
        covered = maps.reshape(-1).index_select(0, pixels.flatten()).view_as(pixels)
        if self._labels is not None:
            covered = covered == segments[:, None].to(covered.dtype)
        return (covered * weights).sum(0)

    def members(self, images: Tensor, segments: Tensor, dtype: torch.dtype) -> Tensor:
        """Return which pixels belong to the segment of each of M masks, (M, H * W) of 0 and 1, of `dtype`."""
        planes, maps = self._rows(images, segments)
        chosen = maps.flatten(1).index_select(0, planes)
        if self._labels is None:
            # On a CPU, converting bytes is eight times as fast as converting bools,
            return chosen.view(torch.uint8).to(dtype)
        # and a comparison whose result has the type of its inputs is several times as fast as one to bools.
        return chosen.eq_(segments[:, None].to(chosen.dtype)).to(dtype)

    def _rows(self, images: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Return the index of each mask's map or plane, (M,), and all maps or planes, (.., H, W)."""
        if self._labels is not None:
            return images, self._labels
        first = transferred(torch.tensor(self.first), self.device)
        return first[images] + segments, self._planes


def _planes(target: SegmentTargets) -> Tensor:
    if target.masks is not None:
        return target.masks
    return target.planes(torch.arange(len(target), device=target.segment_map.device))


def _nearest(planes: Tensor, size: tuple[int, int]) -> Tensor:
    if len(planes) == 0:
        return planes.new_zeros((0, *size))
    return F.interpolate(planes[None], size=size, mode="nearest")[0]


def _gathered(maps: Tensor, pixels: Tensor) -> Tensor:
    """Return the values of flattened maps (N, H, W) at pixels (N, P), by one index, three times as fast."""
    if len(maps) > 1:
        pixels = pixels + torch.arange(len(maps), device=maps.device)[:, None] * maps[0].numel()
    return maps.reshape(-1).index_select(0, pixels.reshape(-1)).view_as(pixels)
