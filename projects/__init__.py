"""The papers. Importing this package fills the registries."""

from detectron2.config import CfgNode

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
    "add_projects_config",
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


def add_projects_config(cfg: CfgNode) -> CfgNode:
    """Adds the keys that belong to a single method, in place, and returns `cfg`.

    Methods that are not named use the shared keys of `segzoo.config` only.
    """
    bisenet.add_bisenet_config(cfg)
    ccnet.add_ccnet_config(cfg)
    danet.add_danet_config(cfg)
    deeplabv3.add_deeplabv3_config(cfg)
    deeplabv3plus.add_deeplabv3plus_config(cfg)
    jpu.add_jpu_config(cfg)
    psanet.add_psanet_config(cfg)
    pspnet.add_pspnet_config(cfg)
    segformer.add_segformer_config(cfg)
    upernet.add_upernet_config(cfg)
    return cfg
