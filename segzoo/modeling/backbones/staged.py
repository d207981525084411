"""Base class of the hierarchical transformer backbones: options, freezing, activation checkpointing."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn
from torch.utils.checkpoint import checkpoint

from segzoo.utils.errors import InputError

from .options import build_options

FEATURES = ("res2", "res3", "res4", "res5")


class StagedBackbone(Backbone):
    """Four stages with outputs "res2" to "res5" at strides 4, 8, 16 and 32.

    A subclass has the table `variants`, builds its modules, and ends its constructor with `freeze`. README.md
    in this folder lists how each rounds the sides of its maps.
    """

    variants: ClassVar[Mapping[str, Any]]

    def __init__(
        self, channels: tuple[int, ...], out_features: tuple[str, ...], activation_checkpointing: bool
    ):
        """
        Args:
            channels: channels of the outputs res2 to res5.
            out_features: names of the outputs; a subclass does not build stages after the last of them.
            activation_checkpointing: recompute block activations in the backward pass to save memory.
        """
        super().__init__()
        unknown = [name for name in out_features if name not in FEATURES]
        if unknown or not out_features:
            raise InputError(f"out_features {list(out_features)}: expected some of {', '.join(FEATURES)}")
        self.channels = channels
        self.out_features = tuple(name for name in FEATURES if name in out_features)
        self.num_stages = 1 + max(FEATURES.index(name) for name in out_features)
        self.activation_checkpointing = activation_checkpointing
        self._frozen: list[nn.Module | nn.Parameter] = []

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        node = cfg.MODEL.BACKBONE
        if node.VARIANT not in cls.variants:
            raise InputError(
                f"MODEL.BACKBONE.VARIANT {node.VARIANT!r} is not a {cls.__name__}; "
                f"choose one of {', '.join(cls.variants)}"
            )
        if node.OUTPUT_STRIDE != 32:
            raise InputError(
                f"MODEL.BACKBONE.OUTPUT_STRIDE {node.OUTPUT_STRIDE}: a {cls.__name__} has no dilation; use 32"
            )
        return {
            "variant": cls.variants[node.VARIANT],
            "in_channels": input_shape.channels,
            **build_options(cfg, FEATURES),
        }

    def freeze(self, parts: Iterable[tuple[nn.Module | nn.Parameter, ...]], freeze_at: int) -> None:
        """Freeze the first `freeze_at` entries of `parts`: the stem, then the stages of res2, res3, ..."""
        self._frozen = [part for group in list(parts)[:freeze_at] for part in group]
        for part in self._frozen:
            part.requires_grad_(False)

    def train(self, mode: bool = True):
        """Set the mode, but keep frozen stages in eval mode, without stochastic depth or batch statistics."""
        super().train(mode)
        for part in self._frozen:
            if isinstance(part, nn.Module):
                part.eval()
        return self

    def run(self, blocks: Iterable[nn.Module], x: torch.Tensor) -> torch.Tensor:
        """Run the blocks in sequence, with activation checkpointing if it is enabled."""
        checkpointing = self.activation_checkpointing and self.training
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=False) if checkpointing else block(x)
        return x

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=channels, stride=4 * 2**index)
            for index, (name, channels) in enumerate(zip(FEATURES, self.channels, strict=True))
            if name in self.out_features
        }


def at_least(image: torch.Tensor, side: int) -> torch.Tensor:
    """Pad (N, C, H, W) with zeros at the bottom and right until H and W are at least `side`.

    This is for images so small that a published network fails on them.
    """
    bottom, right = max(side - image.shape[2], 0), max(side - image.shape[3], 0)
    return F.pad(image, (0, right, 0, bottom)) if bottom or right else image


def drop_path_rates(last: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Return a rate for each block of each stage: 0 for the first block, growing linearly to `last`."""
    steps = max(sum(depths) - 1, 1)
    rates = iter([last * index / steps for index in range(sum(depths))])
    return [[next(rates) for _ in range(depth)] for depth in depths]


def init_linear(module: nn.Module) -> None:
    """Initialize a linear layer as transformers do: truncated normal weights, std 0.02; zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
