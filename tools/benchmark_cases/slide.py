"""Sliding-window inference on an image of 1024 x 2048 pixels, against the loops of other code bases.

The peers run window by window: semseg's on maps of doubles with the classes last, MMSegmentation's padding
each window's logits to the size of the image. They and segzoo run the same model (SegFormer-B0, random
weights) on the same windows.
"""

import math
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from torch.nn import functional as F

from segzoo.config.files import config_root
from segzoo.config.load import new_config
from segzoo.engine import Trainer
from segzoo.modeling.per_pixel import PerPixelSegmentor
from segzoo.modeling.protocols import PRESETS, ProtocolSegmentor

from . import Case, Pair

HEIGHT, WIDTH = 1024, 2048


def segformer(num_classes: int) -> PerPixelSegmentor:
    cfg = new_config()
    for name in ("backbones/mit_b0", "methods/segformer_b0_b1"):
        cfg.merge_from_other_cfg(CfgNode(cfg.load_yaml_with_base(str(config_root() / f"_base_/{name}.yaml"))))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    torch.manual_seed(0)
    return Trainer.build_model(cfg).eval()


def make_image() -> np.ndarray:
    """Return (HEIGHT, WIDTH, 3) uint8: smooth patches of color with some noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


@torch.no_grad()
def semseg_loop(model: PerPixelSegmentor, pixels: np.ndarray, crop: int, base_size: int) -> np.ndarray:
    """Return labels as semseg's test, for an image whose long side is `base_size`, larger than the window."""
    assert max(pixels.shape) == base_size
    assert min(pixels.shape[:2]) >= crop
    height, width = pixels.shape[:2]
    pixels = pixels.astype(np.float32)
    stride = math.ceil(crop * 2 / 3)
    total, count = np.zeros((height, width, model.num_classes)), np.zeros((height, width))
    for row in range(math.ceil((height - crop) / stride) + 1):
        for column in range(math.ceil((width - crop) / stride) + 1):
            bottom, right = min(row * stride + crop, height), min(column * stride + crop, width)
            window = (slice(bottom - crop, bottom), slice(right - crop, right))
            views = torch.from_numpy(pixels[window].transpose(2, 0, 1))[None]
            scores = F.softmax(model.score_maps(torch.cat([views, views.flip(3)])), dim=1)
            scores = (scores[0] + scores[1].flip(2)) / 2
            total[window] += scores.numpy().transpose(1, 2, 0)
            count[window] += 1
    total /= count[..., None]
    # semseg would resize here, but the image already has the final size.
    return np.argmax(total, axis=2)


@torch.no_grad()
def mmseg_loop(model: PerPixelSegmentor, pixels: np.ndarray, crop: int, stride: int) -> np.ndarray:
    """Return labels as MMSegmentation's sliding window."""
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float()
    height, width = image.shape[-2:]
    total, count = (
        image.new_zeros((1, model.num_classes, height, width)),
        image.new_zeros((1, 1, height, width)),
    )
    for row in range(max(height - crop + stride - 1, 0) // stride + 1):
        for column in range(max(width - crop + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + crop, height), min(column * stride + crop, width)
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            logits = model.score_maps(image[:, :, top:bottom, left:right])
            total += F.pad(logits, (left, width - right, top, height - bottom))
            count[:, :, top:bottom, left:right] += 1
    total = F.interpolate(total / count, (height, width), mode="bilinear", align_corners=False)
    return F.softmax(total, dim=1)[0].argmax(0).numpy()


def same_labels(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Compare labels; rounding may decide between two classes of equal score at a few pixels."""
    different = np.count_nonzero(ours != theirs)
    text = f"{different} of {ours.size} px differ"
    return text if different <= 2e-5 * ours.size else f"DIFFERENT: {text}"


def pair(preset: str, num_classes: int, crop: int, stride: int, peer, **fields) -> Pair:
    model, pixels = segformer(num_classes), make_image()
    protocol = replace(PRESETS[preset], crop_size=(crop, crop), **fields)
    segmentor = ProtocolSegmentor(model, protocol)
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def ours() -> np.ndarray:
        return segmentor([{"image": image}], semantic="labels")[0]["sem_seg_labels"].numpy()

    return Pair(ours, partial(peer, model, pixels, crop, stride), same_labels)


CASES = [
    Case(
        "semseg-1024x2048x150",
        "window 512, stride 2/3, with flips, SegFormer-B0, to labels; peer: semseg's loop",
        partial(pair, "semseg_ss", 150, 512, WIDTH, semseg_loop, base_size=WIDTH),
        goal=1.5,
        repeat=1,
        slow=True,
        recorded=False,
    ),
    Case(
        "semseg-1024x2048x19",
        "window 713, stride 2/3, with flips, SegFormer-B0, to labels; peer: semseg's loop",
        partial(pair, "semseg_ss", 19, 713, WIDTH, semseg_loop, base_size=WIDTH),
        goal=1.5,
        repeat=1,
        slow=True,
        recorded=False,
    ),
    Case(
        "mmseg-1024x2048x150",
        "window 512, stride 384, SegFormer-B0, to labels; peer: MMSegmentation's loop",
        partial(
            pair,
            "mmseg_slide",
            150,
            512,
            384,
            mmseg_loop,
            base_size=HEIGHT,
            max_size=WIDTH,
            stride_fraction=0.75,
        ),
        goal=1.5,
        memory_goal=0.6,
        repeat=1,
        slow=True,
    ),
]
