"""Depths of a backbone's parameters, for layer-wise learning rate decay (SOLVER.LAYER_DECAY).

A backbone provides them in a method `layer_depths()`. The rule is that of BEiT (Bao et al. 2022) and, for
stages, of SimMIM's Swin (Xie et al. 2022): the embedding is at depth 0, the blocks of all stages follow one
by one, and a transition to the next stage is as deep as the block before it.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn


class LayerDepths(NamedTuple):
    """Depths of the parameters of a module.

    Attributes:
        depths: {parameter name: depth}, from 0 for the first layer up to `total`.
        total: depth of everything after the last layer; its learning rate is not reduced.
    """

    depths: dict[str, int]
    total: int


def number_layers(module: nn.Module, place: Callable[[str], tuple[int, ...] | None]) -> LayerDepths:
    """Return the depths of a module's parameters, given their positions.

    Args:
        module: the backbone.
        place: maps a parameter name to the position of its layer; layers are numbered in the order of these
            tuples. None for a parameter of no layer, such as a norm on an output.
    """
    places = {name: place(name) for name, _ in module.named_parameters()}
    layers = sorted({position for position in places.values() if position is not None})
    number = {layer: index for index, layer in enumerate(layers)}
    return LayerDepths(
        {name: len(layers) if layer is None else number[layer] for name, layer in places.items()}, len(layers)
    )
