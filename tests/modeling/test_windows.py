"""Sliding windows cover every pixel, stay inside, and have the positions of the code bases' loops."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from segzoo.modeling.protocols import PRESETS
from segzoo.modeling.protocols.presets import InferenceProtocol
from segzoo.modeling.protocols.resize import copy_size, resize_image, resize_labels, score_bands
from segzoo.modeling.protocols.windows import coverage, tiled_size, window_corners, window_starts

SIZES = [(1024, 2048, 713, 713), (512, 683, 473, 473), (473, 473, 473, 473), (500, 474, 473, 473)]
SIZES += [(1024, 2048, 1024, 1024), (1792, 3584, 713, 705), (769, 1025, 768, 512)]


@pytest.mark.parametrize(("height", "width", "crop_height", "crop_width"), SIZES)
@pytest.mark.parametrize("fraction", [1 / 3, 2 / 3, 1.0])
def test_windows_cover_every_pixel_and_stay_inside(height, width, crop_height, crop_width, fraction):
    window = (crop_height, crop_width)
    stride = tuple(math.ceil(side * fraction) for side in window)
    covered = np.zeros((height, width), dtype=int)
    corners = window_corners((height, width), window, stride)
    for top, left in corners:
        assert 0 <= top <= height - crop_height
        assert 0 <= left <= width - crop_width
        covered[top : top + crop_height, left : left + crop_width] += 1
    assert covered.min() >= 1
    assert len(set(corners)) == len(corners)
    assert np.array_equal(coverage((height, width), window, stride).numpy(), covered)


def test_the_last_window_is_clamped_to_the_border():
    # By hand: crops of 713 over 2048 pixels at stride ceil(2/3 713) = 476.
    assert window_starts(2048, 713, 476) == [0, 476, 952, 1335]
    assert window_starts(1024, 713, 476) == [0, 311]
    assert window_starts(713, 713, 476) == [0]
    # SegFormer on Cityscapes: 1024 at stride 768.
    assert window_starts(2048, 1024, 768) == [0, 768, 1024]


@pytest.mark.parametrize(
    ("crop", "rounding", "expected"),
    [
        (473, "up", 316),
        (465, "up", 310),
        (713, "up", 476),
        (705, "up", 470),
        (480, "down", 320),
        (768, "down", 512),
    ],
)
def test_the_stride_is_two_thirds_of_the_crop(crop, rounding, expected):
    protocol = InferenceProtocol("", "", crop_size=(crop, crop), stride_rounding=rounding)
    assert protocol.window_stride == (expected, expected)


@pytest.mark.parametrize("length", [5, 48, 49, 80, 81, 200])
def test_a_tiled_size_needs_no_clamping(length):
    (padded, _) = tiled_size((length, 48), (48, 48), (32, 32))
    assert padded >= length
    starts = window_starts(padded, 48, 32)
    assert starts == [32 * index for index in range(len(starts))]
    assert starts[-1] + 48 == padded
    assert padded - 32 < max(length, 48)


def sizes_of(name, size, scale, **fields):
    return copy_size(dataclasses.replace(PRESETS[name], **fields), size, scale)


@pytest.mark.parametrize(
    ("name", "fields", "size", "scale", "expected"),
    [
        # semseg: long = round(scale * base), the other side round(long / old long * old).
        ("semseg_ss", {"base_size": 512}, (512, 683), 1.0, (384, 512)),
        ("semseg_ss", {"base_size": 512}, (683, 512), 1.0, (512, 384)),
        ("semseg_ms", {"base_size": 2048}, (1024, 2048), 1.75, (1792, 3584)),
        ("semseg_ms", {"base_size": 512}, (375, 500), 0.75, (288, 384)),
        # GluonCV: long = ceil(base * scale), the other int(x + 0.5).
        ("gluon_ms", {"base_size": 521}, (375, 500), 0.5, (196, 261)),
        # pytorch-cv: short = crop, the other truncated.
        ("gluon_val", {"base_size": 480}, (375, 500), 1.0, (480, 640)),
        ("gluon_val", {"base_size": 480}, (500, 334), 1.0, (718, 480)),
        # SegFormer: as large as fits 2048 x 512.
        ("segformer", {}, (512, 683), 1.0, (512, 683)),
        ("segformer", {}, (100, 1000), 1.0, (205, 2048)),
        ("segformer_ms", {}, (300, 400), 0.875, (448, 597)),
        ("segformer_cityscapes_ms", {}, (1024, 2048), 0.5, (512, 1024)),
        ("gluon_testval", {}, (333, 501), 1.0, (333, 501)),
    ],
)
def test_copies_have_the_sizes_of_the_code_bases(name, fields, size, scale, expected):
    assert sizes_of(name, size, scale, **fields) == expected


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(37, 53), (19, 120), (80, 53), (37, 60), (1, 1), (64, 20)])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_scores_resized_in_bands_equal_scores_resized_at_once(align_corners, size, rows):
    scores = torch.randn(4, 37, 53, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(scores[None], size, mode="bilinear", align_corners=align_corners)[0]
    found = torch.full_like(expected, torch.nan)
    for start, stop, band in score_bands(scores, size, align_corners, rows):
        found[:, start:stop] = band
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_images_are_resized_bit_identically_to_opencv_and_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels.transpose(2, 0, 1))
    found = resize_image(image, (23, 90), "opencv").permute(1, 2, 0).numpy()
    assert np.array_equal(found, cv2.resize(pixels, (90, 23), interpolation=cv2.INTER_LINEAR))
    found = resize_image(image, (23, 90), "pillow").permute(1, 2, 0).numpy()
    assert np.array_equal(found, np.asarray(Image.fromarray(pixels).resize((90, 23), Image.BILINEAR)))
    # "float" is OpenCV's resize of an image of floats, which semseg tests on.
    found = resize_image(image, (23, 90), "float").permute(1, 2, 0).numpy()
    expected = cv2.resize(pixels.astype(np.float32), (90, 23), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("size", [(20, 31), (64, 100), (33, 47), (7, 90)])
def test_labels_take_the_nearest_pixel_as_pillow_does(size):
    labels = np.random.default_rng(1).integers(0, 200, (33, 47), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(labels).resize(size[::-1], Image.NEAREST))
    assert np.array_equal(resize_labels(labels, size), expected)
    assert np.array_equal(
        resize_labels(labels.astype(np.uint16) * 300, size), expected.astype(np.uint16) * 300
    )
