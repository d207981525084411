"""RoIAlign in plain PyTorch, for torchvision builds whose compiled operator does not load.

Shape shorthand: N images, R boxes, C channels, H W size of the features, h w size of the output.

The samples of a box form a grid, so bilinear interpolation and averaging are linear maps along y and along x:
`rows (h, H) @ features (H, W) @ columns (W, w)`. Two matrix products of bounded size replace the samples.
"""

import torch
from torch import Tensor

# Number of values of the intermediate product (boxes x h x C x W) at a time: 128 MiB of float32.
VALUES_AT_A_TIME = 1 << 25


def roi_align(
    features: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Return the mean of bilinear samples in each bin of each box (Mask R-CNN, section 3).

    The arguments are those of `torch.ops.torchvision.roi_align`, in that order; differentiable in `features`.

    Args:
        features: (N, C, H, W) float.
        rois: (R, 5) float: image index, then x1, y1, x2, y2 in pixels of the input image.
        spatial_scale: feature pixels per input pixel.
        pooled_height, pooled_width: h and w.
        sampling_ratio: samples along a bin; 0 or less: the bin's feature pixels, rounded up.
        aligned: subtract half a pixel, so that pixel centers are at .5 (Detectron2's "ROIAlignV2").

    Returns:
        (R, C, h, w) of the dtype of `features`.
    """
    output = features.new_zeros(len(rois), features.shape[1], pooled_height, pooled_width)
    boxes = rois[:, 1:].detach().float() * spatial_scale - (0.5 if aligned else 0.0)
    rows = _averaging_matrix(
        boxes[:, 1], boxes[:, 3], pooled_height, features.shape[2], sampling_ratio, aligned
    )
    columns = _averaging_matrix(
        boxes[:, 0], boxes[:, 2], pooled_width, features.shape[3], sampling_ratio, aligned
    )
    boxes_at_a_time = max(1, VALUES_AT_A_TIME // (pooled_height * features.shape[1] * features.shape[3]))
    for image in rois[:, 0].long().unique().tolist():
        for chunk in (rois[:, 0] == image).nonzero()[:, 0].split(boxes_at_a_time):
            pooled = _pool(features[image].float(), rows[chunk], columns[chunk])
            output = output.index_copy(0, chunk, pooled.to(output.dtype))
    return output


def _averaging_matrix(
    start: Tensor, end: Tensor, bins: int, length: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Return the weight of each feature pixel in each bin along one axis.

    Args:
        start, end: (R,) edges of the boxes in feature pixels.
        length: number of feature pixels along the axis.

    Returns:
        (R, bins, length); a row sums to the fraction of its samples that are counted.
    """
    size = end - start
    if not aligned:
        size = size.clamp(min=1.0)
    bin_size = (size / bins)[:, None, None]
    if sampling_ratio > 0:
        samples = torch.full_like(bin_size, sampling_ratio)
    else:
        samples = bin_size.ceil().clamp(min=1.0)
    max_samples = int(samples.max()) if len(samples) else 1
    sample = torch.arange(max_samples, device=start.device)[None, None, :]
    bin_index = torch.arange(bins, device=start.device)[None, :, None]
    position = start[:, None, None] + (bin_index + (sample + 0.5) / samples) * bin_size
    # A sample more than a pixel outside counts as zero; a closer one takes the value at the border.
    counts = (sample < samples) & (position >= -1) & (position <= length)
    weight = counts / samples
    position = position.clamp(0, length - 1)
    lower = position.floor()
    share = position - lower
    matrix = start.new_zeros(len(start), bins, length)
    matrix.scatter_add_(2, lower.long(), weight * (1 - share))
    matrix.scatter_add_(2, (lower.long() + 1).clamp(max=length - 1), weight * share)
    return matrix


def _pool(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pool image (C, H, W) by rows (R, h, H) and columns (R, w, W) to (R, C, h, w)."""
    count, height, _ = rows.shape
    channels, _, length = image.shape
    lines = rows.flatten(0, 1) @ image.transpose(0, 1).flatten(1)  # (R h, C W)
    pooled = lines.view(count, height * channels, length) @ columns.transpose(1, 2)
    return pooled.view(count, height, channels, -1).transpose(1, 2)
