"""RoIAlign in plain PyTorch, for torchvision builds whose compiled operator does not load.

N images, R boxes, C channels, H W size of the features, h w size of the output, s samples along a bin.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Samples (boxes x channels x points) held at a time: 128 MiB of float32.
SAMPLES_AT_A_TIME = 1 << 25


def roi_align(
    features: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The mean of bilinear samples in each bin of each box (Mask R-CNN, section 3).

    Arguments have the order and meaning of `torch.ops.torchvision.roi_align`; differentiable in `features`.

    Args:
        features: (N, C, H, W) float.
        rois: (R, 5) float: image index, then x1, y1, x2, y2 in pixels of the input image.
        spatial_scale: feature pixels per input pixel.
        pooled_height, pooled_width: h and w.
        sampling_ratio: s; at most 0 means as many as the bin has feature pixels, rounded up.
        aligned: subtract half a pixel, so that pixel centres lie at .5 (Detectron2's "ROIAlignV2").

    Returns:
        (R, C, h, w) of the dtype of `features`.
    """
    output_size = (pooled_height, pooled_width)
    start, bin_size = _bins(rois[:, 1:].float(), spatial_scale, output_size, aligned)
    if sampling_ratio > 0:
        samples = torch.full_like(bin_size, sampling_ratio, dtype=torch.int64)
    else:
        samples = bin_size.ceil().long().clamp(min=1)
    output = features.new_zeros(len(rois), features.shape[1], *output_size)
    if not len(rois):
        return output
    # Boxes of one image with the same number of samples form a regular grid, and are sampled together.
    groups, group_of_roi = torch.stack([rois[:, 0].long(), *samples.unbind(1)], 1).unique(
        dim=0, return_inverse=True
    )
    for group, (image, *counts) in enumerate(groups.tolist()):
        members = (group_of_roi == group).nonzero()[:, 0]
        points = pooled_height * counts[0] * pooled_width * counts[1]
        for chunk in members.split(max(1, SAMPLES_AT_A_TIME // (points * features.shape[1]))):
            pooled = _pool(features[image], start[chunk], bin_size[chunk], counts, output_size)
            output = output.index_copy(0, chunk, pooled.to(output.dtype))
    return output


def _bins(boxes: Tensor, scale: float, output_size: tuple[int, int], aligned: bool) -> tuple[Tensor, Tensor]:
    """boxes (R, 4) -> upper left corners (R, 2) and sizes of a bin (R, 2), both (y, x) in feature pixels."""
    corners = boxes * scale - (0.5 if aligned else 0.0)
    start, end = corners[:, [1, 0]], corners[:, [3, 2]]
    size = end - start
    if not aligned:
        size = size.clamp(min=1.0)
    return start, size / size.new_tensor(output_size)


def _pool(
    image: Tensor, start: Tensor, bin_size: Tensor, samples: list[int], output_size: tuple[int, int]
) -> Tensor:
    """image (C, H, W), start and bin_size (R, 2) -> (R, C, h, w)."""
    positions, inside = [], []
    for axis in range(2):
        length = image.shape[1 + axis]
        steps = torch.arange(output_size[axis] * samples[axis], device=image.device) + 0.5
        position = start[:, axis, None] + steps * (bin_size[:, axis, None] / samples[axis])
        # A sample more than a pixel outside counts as zero; a nearer one takes the value at the border.
        inside.append((position >= -1) & (position <= length))
        positions.append(position.clamp(0, length - 1) * (2 / max(length - 1, 1)) - 1)
    rows, columns = positions
    count, height, width = len(rows), rows.shape[1], columns.shape[1]
    grid = torch.stack(
        [columns[:, None, :].expand(count, height, width), rows[:, :, None].expand(count, height, width)],
        dim=-1,
    )
    values = functional.grid_sample(
        image[None].float(), grid.view(1, count * height, width, 2), padding_mode="border", align_corners=True
    )
    values = values.view(-1, count, height, width) * (inside[0][:, :, None] & inside[1][:, None, :])
    return functional.avg_pool2d(values.transpose(0, 1), kernel_size=samples)
