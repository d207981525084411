"""The test protocols of published code bases as data, including everything that changes a result.

A preset omits fields that depend on the dataset (`base_size`, `crop_size`); the configuration sets them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MODES = ("whole", "slide", "center_crop")
RESIZES = ("none", "long_edge", "long_edge_up", "short_edge", "box")
INTERPOLATIONS = ("float", "corners", "opencv", "pillow")
PADDINGS = ("none", "centered", "right_bottom")
PAD_VALUES = ("mean", "black")
LAST_WINDOWS = ("clamped", "padded")
STRIDE_ROUNDINGS = ("up", "down")
SOFTMAXES = ("window", "pair", "copy", "never")

_SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@dataclass(frozen=True)
class InferenceProtocol:
    """How the scores of an image are computed from a model's score maps.

    Attributes:
        name: name of the preset.
        mode: "whole" images, a sliding window ("slide"), or "center_crop", whose labels are cropped, too.
        resize: how the image is resized to a copy of scale s, keeping its aspect ratio:
            "none": not at all (s = 1 only).
            "long_edge": long side round(s * base_size); "long_edge_up": ceil(s * base_size).
            "short_edge": short side int(s * base_size).
            "box": as large as fits into a box of int(s * max_size) by int(s * base_size) pixels.
        base_size, max_size: pixels; 0 if `resize` does not use it, or if the configuration has to set it.
        round_to: a copy is resized so that both sides are the next multiple of this.
        interpolation: for resizing the image. "float": bilinear in floating point; "corners": the same with
            aligned corners; "opencv": bilinear in 8 bits; "pillow": bilinear in 8 bits, antialiased when
            downsampling.
        crop_size: (height, width) of the window or of the center crop; () if the configuration has to set it.
        stride: (height, width) of the window's step; () for `stride_fraction` of the crop, rounded "up" or
            "down" (`stride_rounding`).
        last_window: "clamped" to the image's border, or "padded" if it extends over the border.
        padding: where a copy smaller than the window is padded; with "none" the window shrinks instead.
        pad_value: "mean", the model's pixel mean, or "black".
        scales: scales s of the copies whose results are averaged.
        flip: also average the results of the flipped image.
        softmax: which logits are converted to the probabilities that are averaged:
            "window": those of each window, separately for the image and the flipped image.
            "pair": the sum of a window's logits and its flipped logits.
            "copy": those of a whole copy, windows averaged, at the size of the original image.
            "never": none; logits are averaged throughout.
        align_corners: for resizing scores to the size of the original image.
        published: the published results that used it.
    """

    name: str
    published: str
    mode: str = "whole"
    resize: str = "none"
    base_size: int = 0
    max_size: int = 0
    round_to: int = 1
    interpolation: str = "float"
    crop_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    stride_fraction: float = 2 / 3
    stride_rounding: str = "up"
    last_window: str = "clamped"
    padding: str = "none"
    pad_value: str = "mean"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    softmax: str = "copy"
    align_corners: bool = False

    @property
    def window_stride(self) -> tuple[int, int]:
        """(height, width) of the window's step in pixels."""
        if self.stride:
            return self.stride
        rounding = math.ceil if self.stride_rounding == "up" else math.floor
        # Rounding first makes 465 * (2 / 3) exactly 310.
        return tuple(rounding(round(side * self.stride_fraction, 6)) for side in self.crop_size)


def _semseg(name: str, scales: tuple[float, ...], published: str) -> InferenceProtocol:
    return InferenceProtocol(
        name=name,
        published=published,
        mode="slide",
        resize="long_edge",
        stride_fraction=2 / 3,
        stride_rounding="up",
        padding="centered",
        scales=scales,
        flip=True,
        softmax="window",
    )


def _mmseg(name: str, published: str, **fields) -> InferenceProtocol:
    defaults = {"resize": "box", "interpolation": "opencv", "max_size": 2048, "softmax": "copy"}
    return InferenceProtocol(name=name, published=published, **{**defaults, **fields})


_PRESETS = (
    _semseg("semseg_ss", (1.0,), "semseg's single-scale column, which averages the flipped image as well"),
    _semseg("semseg_ms", _SIX_SCALES, "semseg's multi-scale column"),
    InferenceProtocol(
        name="gluon_val",
        published="pytorch-cv's `val (crop)` column: a center crop, its labels cropped in the same way",
        mode="center_crop",
        resize="short_edge",
        interpolation="pillow",
    ),
    InferenceProtocol(
        name="gluon_testval",
        published="pytorch-cv's `val` column and GluonCV's tables: one forward pass at native size",
        mode="whole",
        resize="none",
    ),
    InferenceProtocol(
        name="gluon_ms",
        published="pytorch-cv's --multi and GluonCV's multi-scale evaluator (with softmax instead of exp)",
        mode="slide",
        resize="long_edge_up",
        interpolation="corners",
        stride_fraction=2 / 3,
        stride_rounding="down",
        last_window="padded",
        padding="right_bottom",
        pad_value="black",
        scales=_SIX_SCALES,
        flip=True,
        softmax="pair",
        align_corners=True,
    ),
    _mmseg("segformer", "SegFormer on ADE20K, single-scale", base_size=512, round_to=32),
    _mmseg(
        "segformer_ms",
        "SegFormer on ADE20K, multi-scale",
        base_size=512,
        round_to=32,
        scales=(0.75, 0.875, 1.0, 1.125, 1.25),
        flip=True,
    ),
    _mmseg(
        "segformer_cityscapes",
        "SegFormer on Cityscapes, single-scale",
        mode="slide",
        base_size=1024,
        crop_size=(1024, 1024),
        stride=(768, 768),
    ),
    _mmseg(
        "segformer_cityscapes_ms",
        "SegFormer on Cityscapes, multi-scale",
        mode="slide",
        base_size=1024,
        crop_size=(1024, 1024),
        stride=(768, 768),
        scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
        flip=True,
    ),
    _mmseg("mmseg_whole", "MMSegmentation's whole-image test, and UPerNet on CSWin", base_size=512),
    _mmseg(
        "mmseg_whole_ms",
        "the same, multi-scale: its default ratios",
        base_size=512,
        scales=_SIX_SCALES,
        flip=True,
    ),
    _mmseg("mmseg_slide", "MMSegmentation's sliding window", mode="slide", base_size=512),
    _mmseg(
        "mmseg_slide_ms",
        "the same, multi-scale: its default ratios",
        mode="slide",
        base_size=512,
        scales=_SIX_SCALES,
        flip=True,
    ),
)

#: The presets by name. TEST.PROTOCOL also accepts `maskformer_tta`, see map_averaging.py.
PRESETS: Mapping[str, InferenceProtocol] = MappingProxyType({preset.name: preset for preset in _PRESETS})
