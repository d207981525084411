"""Layers used by two or more methods or backbones."""

from .attention import MultiheadAttention
from .conv import Conv2d, conv_norm_act
from .drop_path import DropPath
from .linear_layer import Linear, linear
from .mlp import MLP
from .position_encoding import sine_position_encoding
from .transformer import FeedForward, TransformerEncoder, TransformerEncoderLayer

__all__ = [
    "MLP",
    "Conv2d",
    "DropPath",
    "FeedForward",
    "Linear",
    "MultiheadAttention",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "conv_norm_act",
    "linear",
    "sine_position_encoding",
]
