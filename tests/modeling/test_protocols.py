"""Test protocols against loops written from the code bases' descriptions, and their common properties.

K classes, H W size of the image, h w size of a copy.
"""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from PIL import Image
from torch import nn
from torch.nn import functional as F

from segzoo.config.load import new_config
from segzoo.modeling import DenseScores, Segmentor
from segzoo.modeling.per_pixel import PerPixelSegmentor, PixelHead
from segzoo.modeling.plain_model import PlainModel
from segzoo.modeling.protocols import (
    PRESETS,
    ProtocolSegmentor,
    SemanticTTA,
    build_inference_protocol,
    build_protocol_model,
    label_cropper,
    resize,
)
from segzoo.utils.errors import InputError

CLASSES = 5
MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)


class Dense(Segmentor):
    """A model that is padded with MEAN."""

    def __init__(self):
        mean = MEAN.flatten().tolist()
        super().__init__(backbone=None, num_classes=CLASSES, pixel_mean=mean, pixel_std=(1.0,) * 3)

    def dense_scores(self, images):
        return DenseScores(self.full_scores(images), tuple(images.shape[-2:]), False)


class Patches(Dense):
    """Scores that depend on a pixel's neighbors, their side, and the border of the input."""

    def __init__(self, score_kind="logits"):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(CLASSES, 3, 5, 5, generator=generator) / 5)
        self.score_kind = score_kind
        self.batches = []

    def full_scores(self, images):
        self.batches.append(tuple(images.shape))
        scores = F.conv2d(F.pad((images - MEAN) / 58.0, [2] * 4, value=1.0), self.weight)
        return scores if self.score_kind == "logits" else scores.abs()


class Constant(Dense):
    values = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.9])

    def full_scores(self, images):
        return self.values.view(1, -1, 1, 1).repeat(len(images), 1, *images.shape[-2:])


def protocol(name, **fields):
    """Return a preset with sizes reduced for quick tests."""
    preset = PRESETS[name]
    small = {"base_size": 64}
    if preset.max_size:
        small["max_size"] = 128
    if preset.mode != "whole":
        small |= {"crop_size": (41, 41)}
    if preset.stride:
        small |= {"stride": (30, 30)}
    if preset.mode == "center_crop":
        small["base_size"] = 41
    return replace(preset, **{**small, **fields})


def random_pixels(height=50, width=83, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def run(model, preset, pixels, semantic="scores", **options):
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    segmentor = ProtocolSegmentor(model, preset, **options)
    inputs = {"image": image, "height": pixels.shape[0], "width": pixels.shape[1]}
    return next(iter(segmentor([inputs], semantic=semantic)[0].values()))


def model_scores(model, pixels):
    """Compute (h, w, K) numpy logits of (h, w, 3) floats."""
    with torch.no_grad():
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))
        return model.score_maps(image[None])[0].numpy().transpose(1, 2, 0).astype(np.float64)


def softmax(logits):
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def naive_semseg(model, pixels, base_size, crop, scales):
    """Compute semseg's test, window by window in numpy."""
    height, width = pixels.shape[:2]
    average = 0
    for scale in scales:
        long = round(scale * base_size)
        new = (long, round(long / height * width)) if height > width else (round(long / width * height), long)
        copy = cv2.resize(pixels.astype(np.float32), new[::-1], interpolation=cv2.INTER_LINEAR)
        pads = [max(crop - side, 0) for side in new]
        before = [pad // 2 for pad in pads]
        padded = np.empty((new[0] + pads[0], new[1] + pads[1], 3), np.float32)
        padded[:] = MEAN.flatten().numpy()
        padded[before[0] : before[0] + new[0], before[1] : before[1] + new[1]] = copy
        stride = math.ceil(2 * crop / 3)
        total, count = np.zeros((*padded.shape[:2], CLASSES)), np.zeros((*padded.shape[:2], 1))
        for row in range(math.ceil((padded.shape[0] - crop) / stride) + 1):
            for column in range(math.ceil((padded.shape[1] - crop) / stride) + 1):
                bottom = min(row * stride + crop, padded.shape[0])
                right = min(column * stride + crop, padded.shape[1])
                window = (slice(bottom - crop, bottom), slice(right - crop, right))
                straight = softmax(model_scores(model, padded[window]))
                flipped = softmax(model_scores(model, padded[window][:, ::-1]))[:, ::-1]
                total[window] += (straight + flipped) / 2
                count[window] += 1
        assert count.min() >= 1
        total = (total / count)[before[0] : before[0] + new[0], before[1] : before[1] + new[1]]
        average = average + cv2.resize(total, (width, height), interpolation=cv2.INTER_LINEAR) / len(scales)
    return average.transpose(2, 0, 1)


@pytest.mark.parametrize(("size", "base"), [((50, 83), 100), ((83, 50), 60), ((30, 40), 36), ((41, 41), 41)])
@pytest.mark.parametrize("name", ["semseg_ss", "semseg_ms"])
def test_semseg_windows_are_those_of_a_plain_loop(name, size, base):
    model, pixels = Patches(), random_pixels(*size)
    expected = naive_semseg(model, pixels, base, 41, PRESETS[name].scales)
    found = run(model, protocol(name, base_size=base), pixels)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


def mmcv_rescale(pixels, long_edge, short_edge):
    height, width = pixels.shape[:2]
    factor = min(long_edge / max(height, width), short_edge / min(height, width))
    size = int(width * factor + 0.5), int(height * factor + 0.5)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)


def naive_mmseg(model, pixels, scales, flip, *, crop=None, stride=None, divisor=1):
    """Compute MMSegmentation's test: window by window, padded to the whole image."""
    probabilities = 0
    for scale in scales:
        copy = mmcv_rescale(pixels, int(128 * scale), int(64 * scale))
        aligned = [math.ceil(side / divisor) * divisor for side in copy.shape[:2]]
        copy = cv2.resize(copy, aligned[::-1], interpolation=cv2.INTER_LINEAR)
        for flipped in [False, True][: 1 + flip]:
            image = torch.from_numpy(copy.transpose(2, 0, 1).copy()).float()[None]
            image = image.flip(-1) if flipped else image
            height, width = image.shape[-2:]
            if crop is None:
                logits = model.score_maps(image)
            else:
                logits, count = torch.zeros(1, CLASSES, height, width), torch.zeros(1, 1, height, width)
                for row in range(max(height - crop + stride - 1, 0) // stride + 1):
                    for column in range(max(width - crop + stride - 1, 0) // stride + 1):
                        bottom, right = min(row * stride + crop, height), min(column * stride + crop, width)
                        top, left = max(bottom - crop, 0), max(right - crop, 0)
                        window = model.score_maps(image[..., top:bottom, left:right])
                        logits += F.pad(window, (left, width - right, top, height - bottom))
                        count[..., top:bottom, left:right] += 1
                logits /= count
            logits = F.interpolate(logits, pixels.shape[:2], mode="bilinear", align_corners=False)
            scores = logits.softmax(1)[0]
            probabilities = probabilities + (scores.flip(-1) if flipped else scores)
    return probabilities / (len(scales) * (1 + flip))


@pytest.mark.parametrize("size", [(50, 83), (83, 50), (20, 80)])
@pytest.mark.parametrize(
    "name", ["segformer", "segformer_ms", "segformer_cityscapes", "segformer_cityscapes_ms"]
)
@torch.no_grad()
def test_segformer_is_tested_as_by_a_plain_loop(name, size):
    model, pixels, preset = Patches(), random_pixels(*size), PRESETS[name]
    sliding = {"crop": 41, "stride": 30} if preset.mode == "slide" else {}
    expected = naive_mmseg(model, pixels, preset.scales, preset.flip, divisor=1 if sliding else 32, **sliding)
    found = run(model, protocol(name), pixels)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def naive_gluon(model, pixels, base_size, crop, scales):
    """Compute GluonCV's --multi: windows beyond the border are padded with black at right and bottom."""
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None]
    height, width = image.shape[-2:]
    stride, average = int(crop * 2 / 3), 0

    def evaluate(window):
        rows, columns = window.shape[-2:]
        padded = F.pad(window, (0, max(crop - columns, 0), 0, max(crop - rows, 0)))
        logits = model.score_maps(padded) + model.score_maps(padded.flip(-1)).flip(-1)
        return logits.softmax(1)[..., :rows, :columns]

    for scale in scales:
        long = math.ceil(base_size * scale)
        new = (
            (long, int(1.0 * width * long / height + 0.5))
            if height > width
            else (int(1.0 * height * long / width + 0.5), long)
        )
        copy = F.interpolate(image, new, mode="bilinear", align_corners=True)
        if long <= crop:
            scores = evaluate(copy)
        else:
            padded = F.pad(copy, (0, max(crop - new[1], 0), 0, max(crop - new[0], 0)))
            rows, columns = padded.shape[-2:]
            scores, count = torch.zeros(1, CLASSES, rows, columns), torch.zeros(1, 1, rows, columns)
            for row in range(math.ceil((rows - crop) / stride) + 1):
                for column in range(math.ceil((columns - crop) / stride) + 1):
                    window = (
                        ...,
                        slice(row * stride, min(row * stride + crop, rows)),
                        slice(column * stride, min(column * stride + crop, columns)),
                    )
                    scores[window] += evaluate(padded[window])
                    count[window] += 1
            scores = (scores / count)[..., : new[0], : new[1]]
        average += F.interpolate(scores, (height, width), mode="bilinear", align_corners=True) / len(scales)
    return average[0]


@pytest.mark.parametrize("size", [(50, 83), (83, 50), (30, 31)])
@torch.no_grad()
def test_gluons_multi_scale_test_is_that_of_a_plain_loop(size):
    model, pixels = Patches(), random_pixels(*size)
    expected = naive_gluon(model, pixels, 80, 41, (0.5, 0.75, 1.0, 1.25, 1.5, 1.75))
    found = run(model, protocol("gluon_ms", base_size=80), pixels)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(50, 83), (83, 50), (41, 41), (200, 90)])
@torch.no_grad()
def test_the_center_crop_is_that_of_pillow_and_labels_are_cropped_alike(size):
    model, pixels = Patches(), random_pixels(*size)
    labels = np.random.default_rng(1).integers(0, 150, size, dtype=np.uint8)
    height, width = size
    new = (int(height * 41 / width), 41) if width < height else (41, int(width * 41 / height))
    top, left = round((new[0] - 41) / 2.0), round((new[1] - 41) / 2.0)
    crop = (slice(top, top + 41), slice(left, left + 41))
    resized = np.asarray(Image.fromarray(pixels).resize(new[::-1], Image.BILINEAR))[crop]
    preset = protocol("gluon_val")
    expected = softmax(model_scores(model, resized)).transpose(2, 0, 1)
    np.testing.assert_allclose(run(model, preset, pixels).numpy(), expected, atol=1e-5)
    expected = np.asarray(Image.fromarray(labels).resize(new[::-1], Image.NEAREST))[crop]
    assert np.array_equal(label_cropper(preset)(labels), expected)


@torch.no_grad()
def test_testval_is_one_forward_pass_at_native_size():
    model, pixels = Patches(), random_pixels()
    expected = softmax(model_scores(model, pixels)).transpose(2, 0, 1)
    np.testing.assert_allclose(run(model, protocol("gluon_testval"), pixels).numpy(), expected, atol=1e-5)
    assert model.batches[-1] == (1, 3, 50, 83)
    assert label_cropper(PRESETS["gluon_testval"]) is None


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [(50, 83), (83, 41), (9, 130), (1, 1)])
def test_a_constant_prediction_stays_constant(name, size):
    scores = run(Constant(), protocol(name), random_pixels(*size))
    expected = (2 * Constant.values if PRESETS[name].softmax == "pair" else Constant.values).softmax(0)
    torch.testing.assert_close(scores, expected.view(-1, 1, 1).expand_as(scores), atol=1e-5, rtol=0)
    assert scores.shape[1:] == ((41, 41) if name == "gluon_val" else size)
    assert (run(Constant(), protocol(name), random_pixels(*size), semantic="labels") == 2).all()


def test_constant_logits_that_are_averaged_stay_constant():
    scores = run(Constant(), protocol("mmseg_slide_ms", softmax="never"), random_pixels())
    torch.testing.assert_close(scores, Constant.values.view(-1, 1, 1).expand_as(scores), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PRESETS)
def test_labels_are_the_classes_of_largest_score(name):
    model, pixels = Patches(), random_pixels()
    scores = run(model, protocol(name), pixels)
    labels = run(model, protocol(name), pixels, semantic="labels")
    assert labels.dtype == torch.int16
    assert torch.equal(labels.long(), scores.argmax(0))


@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].mode == "slide"])
@pytest.mark.parametrize("window_batch", [0, 1, 3])
def test_the_window_batch_is_respected_and_changes_no_result(name, window_batch):
    pixels, model = random_pixels(), Patches()
    expected = run(model, protocol(name), pixels, window_batch=100)
    most = max(batch[0] for batch in model.batches)
    model.batches.clear()
    found = run(model, protocol(name), pixels, window_batch=window_batch)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    views = 2 if PRESETS[name].flip and PRESETS[name].softmax in ("window", "pair") else 1
    limit = max(window_batch, 1) * views  # 0: on a CPU one window, larger batches are slower
    assert max(batch[0] for batch in model.batches) == min(limit, most)


@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].flip])
def test_a_flipped_image_has_flipped_scores(name):
    # Two windows per side are symmetric, so that a flipped image has the same windows.
    one_scale = {"scales": (1.0,), "base_size": 48, "last_window": "clamped"}
    pixels, pairs = random_pixels(48, 48), [(1, 3)]
    straight = run(Patches(), protocol(name, **one_scale), pixels, flip_pairs=pairs)
    flipped = run(Patches(), protocol(name, **one_scale), pixels[:, ::-1], flip_pairs=pairs)
    swapped = flipped.flip(-1)[[0, 3, 2, 1, 4]]
    torch.testing.assert_close(straight, swapped, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(straight, flipped.flip(-1), atol=1e-2)


@pytest.mark.parametrize("name", ["semseg_ss", "gluon_ms", "segformer_ms"])
def test_scores_that_are_probabilities_are_averaged_without_a_softmax(name):
    whole = {"crop_size": (), "stride": (), "mode": "whole", "flip": False, "scales": (1.0,)}
    model, pixels = Patches("probabilities"), random_pixels()
    preset = protocol(name, **whole, resize="none", round_to=1)
    expected = model_scores(model, pixels).transpose(2, 0, 1)
    np.testing.assert_allclose(run(model, preset, pixels).numpy(), expected, atol=1e-4)


def test_the_presets_have_the_published_settings():
    six = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    # name: mode, scales, flip, softmax, align_corners of the resize back
    expected = {
        "semseg_ss": ("slide", (1.0,), True, "window", False),
        "semseg_ms": ("slide", six, True, "window", False),
        "gluon_val": ("center_crop", (1.0,), False, "copy", False),
        "gluon_testval": ("whole", (1.0,), False, "copy", False),
        "gluon_ms": ("slide", six, True, "pair", True),
        "segformer": ("whole", (1.0,), False, "copy", False),
        "segformer_ms": ("whole", (0.75, 0.875, 1.0, 1.125, 1.25), True, "copy", False),
        "segformer_cityscapes": ("slide", (1.0,), False, "copy", False),
        "segformer_cityscapes_ms": ("slide", (*six, 2.0), True, "copy", False),
        "mmseg_whole": ("whole", (1.0,), False, "copy", False),
        "mmseg_whole_ms": ("whole", six, True, "copy", False),
        "mmseg_slide": ("slide", (1.0,), False, "copy", False),
        "mmseg_slide_ms": ("slide", six, True, "copy", False),
    }
    found = {
        name: (preset.mode, preset.scales, preset.flip, preset.softmax, preset.align_corners)
        for name, preset in PRESETS.items()
    }
    assert found == expected
    assert PRESETS["segformer"].round_to == PRESETS["segformer_ms"].round_to == 32
    assert (PRESETS["segformer"].max_size, PRESETS["segformer"].base_size) == (2048, 512)
    city = PRESETS["segformer_cityscapes"]
    assert (city.crop_size, city.stride, city.max_size, city.base_size) == (
        (1024,) * 2,
        (768,) * 2,
        2048,
        1024,
    )


def config(**keys):
    cfg = new_config()
    cfg.TEST.TASKS = ("semantic",)
    for key, value in keys.items():
        node = cfg.TEST if key in cfg.TEST else cfg.TEST.INFERENCE
        node[key] = value
    return cfg


def test_a_configuration_overrides_parts_of_a_preset():
    cfg = config(PROTOCOL="semseg_ss", BASE_SIZE=512, CROP_SIZE=[473, 465], SCALES=[1, 1.5], FLIP=False)
    built = build_inference_protocol(cfg)
    assert built == replace(
        PRESETS["semseg_ss"], base_size=512, crop_size=(473, 465), scales=(1.0, 1.5), flip=False
    )
    assert built.window_stride == (316, 310)
    built = build_inference_protocol(config(PROTOCOL="segformer_cityscapes", STRIDE_FRACTION=0.5))
    assert built.window_stride == (512, 512)
    built = build_inference_protocol(config(PROTOCOL="gluon_val", CROP_SIZE=480))
    assert (built.crop_size, built.base_size) == ((480, 480), 480)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"PROTOCOL": "semseg"}, "TEST.PROTOCOL 'semseg' is unknown; did you mean semseg_ss"),
        ({"PROTOCOL": "semseg_ss", "BASE_SIZE": 512}, "CROP_SIZE is missing"),
        ({"PROTOCOL": "semseg_ss", "CROP_SIZE": 473}, "BASE_SIZE is missing"),
        ({"SCALES": [1.0]}, "TEST.INFERENCE.SCALES has no effect with TEST.PROTOCOL ''"),
        ({"PROTOCOL": "segformer", "FLIP": "yes"}, "FLIP 'yes': expected True or False"),
        ({"PROTOCOL": "segformer", "SOFTMAX": "late"}, "SOFTMAX 'late': expected one of window, pair"),
        ({"PROTOCOL": "segformer", "SCALES": []}, "SCALES .*: expected a list of positive factors"),
        ({"PROTOCOL": "mmseg_slide", "CROP_SIZE": 64, "STRIDE": 65}, "larger than CROP_SIZE"),
        ({"PROTOCOL": "gluon_testval", "SCALES": [0.5, 1]}, "need a RESIZE other than none"),
        ({"PROTOCOL": "gluon_val", "CROP_SIZE": [480, 400]}, "a center crop has to be square"),
        ({"PROTOCOL": "gluon_val", "CROP_SIZE": 480, "ROUND_TO": 32}, "ROUND_TO 32 would resize images"),
        ({"PROTOCOL": "mmseg_slide", "STRIDE": 60, "STRIDE_FRACTION": 0.5}, "exclude each other"),
        ({"PROTOCOL": "segformer", "TASKS": ("panoptic",)}, "TEST.TASKS is .'panoptic',."),
        ({"WINDOW_BATCH": -1}, "WINDOW_BATCH -1: expected a number of windows"),
    ],
)
def test_impossible_protocols_are_explained(keys, message):
    with pytest.raises(InputError, match=message):
        build_inference_protocol(config(**keys))


def test_the_model_that_is_called_under_each_protocol():
    model = Patches()
    assert build_protocol_model(config(), model) is model
    assert isinstance(build_protocol_model(config(), nn.Identity()), PlainModel)
    assert isinstance(build_protocol_model(config(PROTOCOL="maskformer_tta"), model), SemanticTTA)
    cfg = config(PROTOCOL="segformer")
    built = build_protocol_model(cfg, model)
    assert isinstance(built, ProtocolSegmentor)
    assert built.semantic_resizing == "scores"
    with pytest.raises(InputError, match=r"tasks \('panoptic',\): the protocol segformer is for the sem"):
        built([], tasks=("panoptic",))
    cfg.TEST.TASKS = ("panoptic",)
    with pytest.raises(InputError, match="PROTOCOL segformer is for the semantic task"):
        build_protocol_model(cfg, model)


class Boxes(nn.Module):
    """A detector with Detectron2's interface."""

    def forward(self, batched_inputs):
        return [{"instances": None} for _ in batched_inputs]


def test_models_without_semantic_results_are_refused():
    detector = build_protocol_model(config(PROTOCOL="gluon_testval"), Boxes())
    with pytest.raises(InputError, match="Boxes returns no sem_seg, found instances; use a semantic model"):
        detector([{"image": torch.zeros(3, 8, 8)}])

    class InstancesOnly(Dense):
        supported_tasks = ("instance",)

    with pytest.raises(InputError, match="'semantic': InstancesOnly supports instance only"):
        ProtocolSegmentor(InstancesOnly(), PRESETS["segformer"])


class TinyHead(PixelHead):
    """Two strided convolutions: logits at an eighth of the input."""

    def __init__(self, align_corners):
        shape = {"image": ShapeSpec(channels=3)}
        super().__init__(input_shape=shape, in_features=("image",), num_classes=CLASSES, channels=8, norm="")
        self.align_corners = align_corners
        self.predictor = nn.Conv2d(3, CLASSES, 9, stride=8, padding=4)

    def forward(self, features):
        return {"logits": 8 * self.predictor(features["image"])}


class NoBackbone(nn.Module):
    def forward(self, image):
        return {}


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size_divisibility", [0, 16])
@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].mode == "slide"])
def test_windows_resized_in_bands_equal_windows_resized_at_once(
    name, size_divisibility, align_corners, monkeypatch
):
    torch.manual_seed(0)
    model = PerPixelSegmentor(
        backbone=NoBackbone(),
        sem_seg_head=TinyHead(align_corners),
        loss=None,
        pixel_mean=MEAN.flatten().tolist(),
        pixel_std=[58.0] * 3,
        size_divisibility=size_divisibility,
    ).eval()
    pixels, pairs = random_pixels(70, 83), [(0, 2)]
    monkeypatch.setattr(resize, "_BAND_ELEMENTS", {"cpu": CLASSES * 48 * 7})
    found = run(model, protocol(name), pixels, flip_pairs=pairs)
    expected = run(model, protocol(name), pixels, flip_pairs=pairs, window_batch=2)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
