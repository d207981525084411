"""Parts used by two or more methods or backbones."""

from .attention import MultiheadAttention
from .drop_path import DropPath
from .mlp import MLP
from .position_encoding import sine_position_encoding
from .transformer import FeedForward, TransformerEncoder, TransformerEncoderLayer

__all__ = [
    "MLP",
    "DropPath",
    "FeedForward",
    "MultiheadAttention",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "sine_position_encoding",
]
