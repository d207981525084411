"""Resizing by rows and its transpose agree with `F.interpolate` and its backward pass, for any sizes."""

import pytest
import torch
import torch.nn.functional as F

from segzoo.modeling.mask_classification.bilinear import MaskResizer, resize_transposed

SIZES = [
    ((8, 10), (32, 40)),
    ((7, 9), (26, 33)),
    ((1, 1), (5, 3)),
    ((5, 4), (1, 17)),
    ((12, 9), (5, 9)),
    ((30, 30), (7, 64)),
]


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_transpose_equals_the_backward_pass_of_interpolation(small, large):
    planes = torch.randn(3, *small, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, *large, dtype=torch.float64)
    resized = F.interpolate(planes[None], size=large, mode="bilinear", align_corners=False)[0]
    (expected,) = torch.autograd.grad(resized, planes, upstream)
    torch.testing.assert_close(resize_transposed(upstream, small), expected)


@pytest.mark.parametrize(
    "sizes",
    [
        ((32, 40), (32, 40), (32, 40)),
        ((32, 40), (30, 37), (30, 37)),
        ((32, 40), (30, 37), (71, 55)),
        ((32, 40), (31, 33), (9, 100)),
        ((33, 41), (33, 41), (1, 1)),
        ((8, 10), (8, 9), (8, 9)),
    ],
)
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_joined_bands_equal_interpolation_of_whole_planes(sizes, rows, plain_postprocess):
    masks = torch.randn(4, 8, 10)
    expected = plain_postprocess.full_size_masks(masks, *sizes)
    resizer = MaskResizer(*sizes)
    assert torch.equal(resizer(masks), expected)
    bands = list(resizer.bands(masks, rows))
    assert [start for start, *_ in bands] == list(range(0, sizes[2][0], rows))
    torch.testing.assert_close(torch.cat([band for *_, band in bands], 1), expected, rtol=0, atol=2e-6)
