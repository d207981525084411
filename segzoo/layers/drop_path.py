"""Stochastic depth (Huang et al., "Deep Networks with Stochastic Depth", 2016)."""

import torch
from torch import nn


class DropPath(nn.Module):
    """Sets a residual branch to zero for a random subset of the batch, in training only.

    Args:
        rate: probability in [0, 1) that an element of the batch loses the branch. The others are divided by
            `1 - rate`, which keeps the expectation.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop path rate {rate} is outside [0, 1)")
        self.rate = rate

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """Drop elements of a branch, (N, ...) float."""
        if self.rate == 0.0 or not self.training:
            return branch
        keep = 1.0 - self.rate
        factor = branch.new_empty((branch.shape[0],) + (1,) * (branch.dim() - 1)).bernoulli_(keep)
        return branch * factor.div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"
