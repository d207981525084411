"""The papers. Importing this package fills the registries."""

from . import (
    bisenet,
    ccnet,
    danet,
    deeplabv3,
    deeplabv3plus,
    fcn,
    jpu,
    mask2former,
    maskformer,
    ocnet,
    per_pixel_baseline,
    psanet,
    pspnet,
    segformer,
    upernet,
)

__all__ = [
    "bisenet",
    "ccnet",
    "danet",
    "deeplabv3",
    "deeplabv3plus",
    "fcn",
    "jpu",
    "mask2former",
    "maskformer",
    "ocnet",
    "per_pixel_baseline",
    "psanet",
    "pspnet",
    "segformer",
    "upernet",
]
