"""The configured protocol: the preset TEST.PROTOCOL with the overrides in TEST.INFERENCE."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from ..plain_model import as_segmentor
from ..segmentor import SegmentationModel
from . import presets
from .map_averaging import MapAveraging, SemanticTTA
from .presets import PRESETS, InferenceProtocol
from .runner import ProtocolSegmentor

#: The protocol of `SemanticTTA`, with the sizes of TEST.AUG; TEST.AUG.ENABLED True selects it, too.
TTA_NAME = MapAveraging.name

_CHOICES = {
    "mode": presets.MODES,
    "resize": presets.RESIZES,
    "interpolation": presets.INTERPOLATIONS,
    "padding": presets.PADDINGS,
    "pad_value": presets.PAD_VALUES,
    "last_window": presets.LAST_WINDOWS,
    "stride_rounding": presets.STRIDE_ROUNDINGS,
    "softmax": presets.SOFTMAXES,
}
_PAIRS = ("crop_size", "stride")
_TYPE_NAMES = {int: "a positive whole number", float: "a positive number", bool: "True or False"}


def check_preset(key: str, name: str) -> None:
    """Raise InputError, naming the configuration's key, unless a protocol has that name, or it is ""."""
    known = (*PRESETS, TTA_NAME)
    if name and name not in known:
        raise InputError(f"{key} {name!r} is unknown{did_you_mean(name, known)}; known: {', '.join(known)}")


def build_inference_protocol(cfg: CfgNode) -> InferenceProtocol | MapAveraging | None:
    """Build the complete protocol, or return None for the model's own forward pass.

    Raises:
        InputError: unknown preset, a value of the wrong type, a value that the protocol needs is missing, or
            tasks other than semantic.
    """
    name, given = cfg.TEST.PROTOCOL, _build_given(cfg.TEST.INFERENCE)
    if cfg.TEST.INFERENCE.WINDOW_BATCH < 0:
        raise InputError(
            f"TEST.INFERENCE.WINDOW_BATCH {cfg.TEST.INFERENCE.WINDOW_BATCH}: expected a number of windows, "
            "or 0 for as many as fit into bounded memory"
        )
    if name in ("", TTA_NAME):
        if given:
            raise InputError(
                f"TEST.INFERENCE.{next(iter(given)).upper()} has no effect with TEST.PROTOCOL {name!r}; "
                f"name a preset: {', '.join(PRESETS)}"
            )
        return _build_averaging(cfg)
    check_preset("TEST.PROTOCOL", name)
    if cfg.TEST.AUG.ENABLED:
        raise InputError(
            f"TEST.AUG.ENABLED True and TEST.PROTOCOL {name} exclude each other; "
            f"use TEST.PROTOCOL {TTA_NAME}, or TEST.AUG.ENABLED False"
        )
    if tuple(cfg.TEST.TASKS) != ("semantic",):
        raise InputError(
            f"TEST.PROTOCOL {name} is for the semantic task, but TEST.TASKS is {tuple(cfg.TEST.TASKS)}; "
            'set TEST.PROTOCOL "" or TEST.TASKS "(\'semantic\',)"'
        )
    if "stride_fraction" in given:
        if "stride" in given:
            raise InputError(
                f"TEST.INFERENCE.STRIDE {given['stride']} and STRIDE_FRACTION {given['stride_fraction']} "
                "exclude each other; set one of them to None"
            )
        given["stride"] = ()  # the preset's
    return _build_complete(replace(PRESETS[name], **given))


def build_protocol_model(
    cfg: CfgNode, model: nn.Module, flip_pairs: Sequence[tuple[int, int]] = ()
) -> SegmentationModel:
    """Build the model under TEST.PROTOCOL (or TEST.AUG), which is called instead of the model.

    Args:
        model: a meta-architecture, a `Segmentor` or not.
        flip_pairs: classes that are swapped in a flipped image.

    Returns:
        The model itself if it is a Segmentor and its own forward pass is requested.

    Raises:
        InputError: see `build_inference_protocol`.
    """
    protocol = build_inference_protocol(cfg)
    segmentor = as_segmentor(
        model,
        input_format=cfg.INPUT.FORMAT,
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
    )
    if protocol is None:
        return segmentor
    if isinstance(protocol, MapAveraging):
        return SemanticTTA(segmentor, protocol, flip_pairs=flip_pairs)
    return ProtocolSegmentor(
        segmentor, protocol, flip_pairs=flip_pairs, window_batch=cfg.TEST.INFERENCE.WINDOW_BATCH
    )


def build_single_scale_config(cfg: CfgNode) -> CfgNode:
    """Return a copy of a configuration whose TEST.PROTOCOL tests one scale; for `maskformer_tta` it is ""."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.AUG.ENABLED = False
    if cfg.TEST.PROTOCOL == TTA_NAME:
        cfg.TEST.PROTOCOL = ""
    if cfg.TEST.PROTOCOL:
        cfg.TEST.INFERENCE.SCALES = [1.0]
    return cfg


def _build_averaging(cfg: CfgNode) -> MapAveraging | None:
    if cfg.TEST.PROTOCOL != TTA_NAME and not cfg.TEST.AUG.ENABLED:
        return None
    spelling = f"TEST.PROTOCOL {TTA_NAME}" if cfg.TEST.PROTOCOL else "TEST.AUG"
    if tuple(cfg.TEST.TASKS) != ("semantic",):
        raise InputError(
            f"{spelling} supports the semantic task only, but TEST.TASKS is {tuple(cfg.TEST.TASKS)}; "
            "set TEST.AUG.ENABLED False or TEST.TASKS \"('semantic',)\""
        )
    sizes = cfg.TEST.AUG
    return MapAveraging(tuple(sizes.MIN_SIZES), sizes.MAX_SIZE, sizes.FLIP)


def _build_given(inference: CfgNode) -> dict[str, Any]:
    """Return the values of TEST.INFERENCE that are not None, by field of `InferenceProtocol`."""
    names = [field.name for field in fields(InferenceProtocol) if field.name.upper() in inference]
    given = {name: inference[name.upper()] for name in names}
    return {name: _build_value(name, value) for name, value in given.items() if value is not None}


def _build_value(name: str, value: Any) -> Any:
    key = f"TEST.INFERENCE.{name.upper()}"
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise InputError(f"{key} {value!r}: expected one of {', '.join(_CHOICES[name])}")
        return value
    if name in _PAIRS:
        pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
        if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
            raise InputError(f"{key} {value!r}: expected (height, width) in pixels")
        return pair
    if name == "scales":
        scales = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not scales or not all(isinstance(scale, int | float) and scale > 0 for scale in scales):
            raise InputError(f"{key} {value!r}: expected a list of positive factors, e.g. [0.75, 1.0, 1.25]")
        return tuple(float(scale) for scale in scales)
    expected = type(getattr(InferenceProtocol("", ""), name))
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not expected or (expected in (int, float) and value <= 0):
        raise InputError(f"{key} {value!r}: expected {_TYPE_NAMES[expected]}")
    return value


def _build_complete(protocol: InferenceProtocol) -> InferenceProtocol:
    """Return the protocol, completed, after checking that its fields fit each other."""
    name = f"TEST.PROTOCOL {protocol.name}"
    if protocol.mode in ("slide", "center_crop") and not protocol.crop_size:
        raise InputError(f"{name}: TEST.INFERENCE.CROP_SIZE is missing; give the (height, width) trained on")
    if protocol.mode == "center_crop":
        short = min(protocol.crop_size)
        if protocol.crop_size != (short, short) or protocol.flip or len(protocol.scales) > 1:
            raise InputError(f"{name}: a center crop has to be square, at one scale and not flipped")
        if protocol.round_to > 1:
            raise InputError(
                f"{name}: TEST.INFERENCE.ROUND_TO {protocol.round_to} would resize images but not their "
                "labels; set it to 1"
            )
        protocol = replace(protocol, base_size=protocol.base_size or short)
        if protocol.base_size < short or protocol.resize != "short_edge" or protocol.scales != (1.0,):
            raise InputError(
                f"{name}: a center crop of {short} pixels needs RESIZE short_edge, SCALES [1.0] and a "
                f"BASE_SIZE of at least {short}, found {protocol.resize}, {list(protocol.scales)} and "
                f"{protocol.base_size}"
            )
    if protocol.resize != "none" and not protocol.base_size:
        raise InputError(f"{name}: TEST.INFERENCE.BASE_SIZE is missing; give the side to resize to")
    if protocol.resize == "none" and protocol.scales != (1.0,):
        raise InputError(f"{name}: several SCALES need a RESIZE other than none, found {protocol.scales}")
    if protocol.mode == "slide":
        if any(step > side for step, side in zip(protocol.window_stride, protocol.crop_size, strict=True)):
            raise InputError(
                f"{name}: TEST.INFERENCE.STRIDE {protocol.window_stride} is larger than CROP_SIZE "
                f"{protocol.crop_size}: pixels would not be covered; make it smaller"
            )
        if protocol.last_window == "padded" and protocol.padding != "right_bottom":
            raise InputError(f"{name}: LAST_WINDOW padded needs PADDING right_bottom")
    return protocol
