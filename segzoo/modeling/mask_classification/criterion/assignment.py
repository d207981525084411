"""Copy matching costs to the CPU, where queries are assigned.

Shape shorthand: N images, L layers, Q queries, S segments of an image.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class NonFiniteCostError(FloatingPointError):
    """The predictions of a layer hold NaN or infinity and cannot be matched.

    Attributes:
        image: index of the image in the batch.
        layer: index of the layer; the last is the main prediction.
    """

    def __init__(self, image: int, layer: int, num_layers: int):
        super().__init__(
            f"non-finite matching cost for image {image} of the batch at layer {layer} of {num_layers}: the "
            "predictions hold NaN or infinity; lower SOLVER.BASE_LR or clip gradients"
        )
        self.image = image
        self.layer = layer


def costs_on_cpu(costs: Sequence[Tensor]) -> list[np.ndarray]:
    """Copy the costs of all images, (L, Q, S) each, in one transfer.

    Args:
        costs: one tensor for each image, on one device.

    Raises:
        NonFiniteCostError: a cost is NaN or infinite.
    """
    flat = torch.cat([cost.detach().flatten() for cost in costs]).cpu()
    parts = flat.split([cost.numel() for cost in costs])
    return _finite([part.view(cost.shape).numpy() for part, cost in zip(parts, costs, strict=True)])


def batch_costs_on_cpu(costs: Tensor, counts: Sequence[int]) -> list[np.ndarray]:
    """Copy the costs of a batch, (N, L, Q, S), of which image i has `counts[i]` columns, in one transfer.

    Raises:
        NonFiniteCostError: a cost is NaN or infinite.
    """
    array = costs.detach().cpu().numpy()
    return _finite([own[..., :count] for own, count in zip(array, counts, strict=True)])


def _finite(arrays: list[np.ndarray]) -> list[np.ndarray]:
    for image, array in enumerate(arrays):
        if not np.isfinite(array).all():
            finite = [np.isfinite(matrix).all() for matrix in array]
            raise NonFiniteCostError(image, finite.index(False), len(array))
    return arrays
