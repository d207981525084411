"""Test protocols: how the scores of an image are computed from a model's, as in published code bases."""

from .build import (
    TTA_NAME,
    build_inference_protocol,
    build_protocol_model,
    build_single_scale_config,
    check_preset,
)
from .map_averaging import MapAveraging, SemanticTTA
from .presets import PRESETS, InferenceProtocol
from .runner import ProtocolSegmentor, label_cropper

__all__ = [
    "PRESETS",
    "TTA_NAME",
    "InferenceProtocol",
    "MapAveraging",
    "ProtocolSegmentor",
    "SemanticTTA",
    "build_inference_protocol",
    "build_protocol_model",
    "build_single_scale_config",
    "check_preset",
    "label_cropper",
]
