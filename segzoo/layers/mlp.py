"""Stacks of linear layers."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from .linear_layer import Linear


class MLP(nn.Module):
    """`num_layers` linear layers with a ReLU between them; parameters are named `layers.<i>`.

    Args:
        input_dim, hidden_dim, output_dim: channels of the input, of every hidden layer, of the output.
        num_layers: at least 1.
    """

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        dims = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(Linear(before, after) for before, after in pairwise(dims))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layers: (..., input_dim) float -> (..., output_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu_(layer(x))
        return self.layers[-1](x)


class TransformerMLP(nn.Module):
    """Linear, GELU, linear; with the parameter names `fc1` and `fc2` of published vision transformers."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layers to x, (..., C) float."""
        return self.fc2(F.gelu(self.fc1(x)))
