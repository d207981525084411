"""Whole networks, from an image to the head's logits, against transformers and mmsegmentation.

Both sides have the same random weights; segzoo loads them from a file in the peer's published format.
"""

import importlib.util
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from segzoo.checkpoint import load_checkpoint
from segzoo.config.load import new_config

from . import Case, Pair

METHODS = Path(__file__).parents[2] / "configs" / "_base_" / "methods"
NUM_CLASSES = 150
# Relative to the spread of the logits: the change in random transformers if the input changes by 1e-6.
TOLERANCE = 2e-5
# Channels and blocks of MiT.
SIZES = {"b0": ((32, 64, 160, 256), (2, 2, 2, 2)), "b2": ((64, 128, 320, 512), (3, 4, 6, 3))}


def segformer(variant: str, size: int, peer: str) -> Pair:
    """Compare SegFormer with a variant of MiT on one image of size x size."""
    torch.manual_seed(0)
    network, published, overrides = {"transformers": _transformers, "mmseg": _mmsegmentation}[peer](variant)
    cfg = new_config()
    cfg.merge_from_other_cfg(CfgNode(cfg.load_yaml_with_base(str(METHODS / "segformer.yaml"))))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", NUM_CLASSES])
    cfg.merge_from_list(
        ["MODEL.BACKBONE.NAME", "MixTransformer", "MODEL.BACKBONE.VARIANT", variant, *overrides]
    )
    model = build_model(cfg).eval()
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"state_dict": published}, Path(folder) / "published.pth")
        load_checkpoint(model, Path(folder) / "published.pth").require_complete()

    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    normalized = ((image - model.pixel_mean) / model.pixel_std)[None]

    @torch.inference_mode()
    def ours() -> torch.Tensor:
        return model.raw_outputs([{"image": image}])["sem_seg_logits"]

    @torch.inference_mode()
    def theirs() -> torch.Tensor:
        return network(normalized)

    return Pair(ours, theirs, _compare)


def _compare(ours: torch.Tensor, theirs: torch.Tensor) -> str:
    difference = ((ours - theirs).abs().max() / (theirs.max() - theirs.min())).item()
    return f"{'' if difference < TOLERANCE else 'DIFFERENT, '}logits {difference:.1e}"


def _transformers(variant: str) -> tuple[Callable, dict, list]:
    """Return the peer as a function, its weights as published, and overrides of segzoo's configuration."""
    import transformers
    from safetensors.torch import load_file

    transformers.utils.logging.disable_progress_bar()
    (channels, depths), width = SIZES[variant], 256 if variant == "b0" else 768
    config = transformers.SegformerConfig(
        hidden_sizes=list(channels), depths=list(depths), decoder_hidden_size=width, num_labels=NUM_CLASSES
    )
    network = transformers.SegformerForSemanticSegmentation(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)  # names in memory differ
        published = load_file(Path(folder) / "model.safetensors")
    return lambda image: network(image).logits, published, ["MODEL.SEM_SEG_HEAD.CONVS_DIM", width]


def _mmsegmentation(variant: str) -> tuple[Callable, dict, list]:
    """Return the same as `_transformers`; mmcv-lite suffices, as SegFormer needs none of mmcv's operators."""
    allow_missing_operators()
    from mmseg.models import build_segmentor

    channels, depths = SIZES[variant]
    backbone = {
        "type": "MixVisionTransformer",
        "embed_dims": channels[0],
        "num_layers": list(depths),
        "num_heads": [1, 2, 5, 8],
    }
    head = {
        "type": "SegformerHead",
        "in_channels": list(channels),
        "in_index": [0, 1, 2, 3],
        "channels": 256,
        "num_classes": NUM_CLASSES,
        "norm_cfg": {"type": "BN"},
        "align_corners": False,
    }
    config = {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head, "data_preprocessor": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings for the peer's own users
        network: nn.Module = build_segmentor({**config, "test_cfg": {"mode": "whole"}}).eval()
    overrides = ["MODEL.SEM_SEG_HEAD.CONVS_DIM", 256, "MODEL.SEGFORMER.PROJECTION", "conv"]
    return lambda image: network(image, mode="tensor"), network.state_dict(), overrides


def allow_missing_operators() -> None:
    """Let mmsegmentation be imported with mmcv-lite, which has no compiled operators."""
    if "mmcv._ext" not in sys.modules and importlib.util.find_spec("mmcv._ext") is None:
        sys.modules["mmcv._ext"] = _WithoutOperators("mmcv._ext")


class _WithoutOperators(types.ModuleType):
    """A placeholder for mmcv's compiled operators: each exists by name, but none works."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: NotImplemented


CASES = [
    Case(
        name=f"segformer-{variant}-{size}-{peer}",
        description=f"SegFormer-{variant.upper()}, image {size} x {size} to logits; peer: {name}",
        make=lambda variant=variant, size=size, peer=peer: segformer(variant, size, peer),
        goal=1.3,
        memory_goal=1.0,
        repeat=7 if variant == "b0" and size == 512 else 3,
        needs=(peer,),
        recorded=size == 512,
    )
    for peer, name in (("transformers", "transformers"), ("mmseg", "mmsegmentation"))
    for variant in SIZES
    for size in (512, 1024)
]
