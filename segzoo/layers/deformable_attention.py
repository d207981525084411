"""Multi-scale deformable attention without a compiled operator (Zhu et al., Deformable DETR, section 4.1).

Every query samples a few points of every level at fractional positions and sums the samples. The
implementation depends on the device: `deformable_sampling` chooses it.

Shape shorthand: N images, Q queries, M heads, D channels of a head, L levels, P points of a level, S pixels
of all levels.
"""

import math

import torch
from torch import Tensor, nn

from .deformable_rows import SampleRows
from .deformable_sampling import SampleByTriton, Sizes, current_form, sample_levels_on_grids
from .linear_layer import Linear
from .runtime import transferred, without_autocast


class DeformableAttention(nn.Module):
    """Attention to learned points around a reference point, with the published parameter names."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        num_levels: int = 3,
        num_points: int = 4,
        value_dtype: torch.dtype | None = None,
    ):
        """
        Args:
            dim: channels, a multiple of num_heads.
            num_heads, num_levels, num_points: M, L, P.
            value_dtype: dtype to which values are rounded before they are sampled, such as bfloat16: half of
                the memory traffic. Positions, weights and sums stay in single precision. None: as they are.
        """
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.value_dtype = value_dtype
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = Linear(dim, samples * 2)
        self.attention_weights = Linear(dim, samples)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)
        self._initialize()

    def _initialize(self) -> None:
        """Initialize each head to a different direction, with its points 1, 2, ... P pixels away."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2.0 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().max(-1, keepdim=True).values
        distances = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None] * distances[:, None]
        offsets = offsets.expand(-1, self.num_levels, -1, -1).flatten()
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        sizes: Sizes,
        padding: Tensor | None = None,
    ) -> Tensor:
        """Attend from every query to points around its reference points.

        Args:
            query: (N, Q, C) float.
            reference_points: (N or 1, Q, L, 2) float, x and y in units of each level's width and height,
                which offsets of whole pixels are added to; or (N or 1, Q, L, 4) for reference boxes, center,
                width and height, where an offset of P is half of the box's width or height.
            value: (N, S, C) float, the levels one after the other, each row by row.
            sizes: (height, width) of each level.
            padding: (N, S) bool, pixels whose values are 0.

        Returns:
            (N, Q, C) float.
        """
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        # The queries come last in memory: rows with only one sample's values are slow.
        offsets = self.sampling_offsets(query).transpose(1, 2).contiguous()
        offsets = offsets.unflatten(1, (heads, levels, points, 2)).movedim(-1, 1)
        weights = self.attention_weights(query).transpose(1, 2).unflatten(1, (heads, levels * points))
        weights = weights.to(_sampling_type(weights)).softmax(2)
        weights = weights.unflatten(2, (levels, points)).movedim(-1, 1)
        centers = reference_points[:, :, None, :, None, :2]
        if reference_points.shape[-1] == 4:
            # In the order of Deformable DETR's operations.
            locations = centers + offsets / points * reference_points[:, :, None, :, None, 2:] * 0.5
        else:
            sides = torch.tensor([(width, height) for height, width in sizes], dtype=offsets.dtype)
            locations = centers + offsets / transferred(sides, offsets.device)[:, None]
        value = self.value_proj(value)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        value = value.unflatten(-1, (heads, -1))
        if self.value_dtype is not None:
            value = value.to(self.value_dtype)
        return self.output_proj(sample_levels(value, sizes, locations, weights).to(query.dtype))


def sample_levels(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of bilinear samples at the locations, with zeros outside of the level.

    Args:
        value: (N, S, M, D) float.
        sizes: (height, width) of each level.
        locations: (N, Q, M, L, P, 2) float, x and y in units of the level's width and height.
        weights: (N, Q, M, L, P) float.

    Returns:
        (N, Q, M D) float32, or float64 if `value` is float64.
    """
    form = current_form(value.device.type)
    dtype = _sampling_type(value)
    with without_autocast(value.device):
        locations, weights = locations.to(dtype), weights.to(dtype)
        if form == "triton":
            return SampleByTriton.apply(value, tuple(map(tuple, sizes)), locations, weights)
        if form == "rows":
            return SampleRows.apply(value.to(dtype), tuple(map(tuple, sizes)), locations, weights)
        return sample_levels_on_grids(value.to(dtype), sizes, locations, weights)


def _sampling_type(tensor: Tensor) -> torch.dtype:
    """Return the dtype of sampling, at least float32, which positions need."""
    return torch.promote_types(tensor.dtype, torch.float32)
