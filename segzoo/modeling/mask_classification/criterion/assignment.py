"""Copy matching costs to the CPU, where queries are assigned.

Shape shorthand: L layers, Q queries, S segments of an image.
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
    arrays = [part.view(cost.shape).numpy() for part, cost in zip(parts, costs, strict=True)]
    for image, array in enumerate(arrays):
        for layer, matrix in enumerate(array):
            if not np.isfinite(matrix).all():
                raise NonFiniteCostError(image, layer, len(array))
    return arrays
