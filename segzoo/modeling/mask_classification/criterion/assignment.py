"""Copy matching costs to the CPU, where queries are assigned.

Shape shorthand: N images, L layers, Q queries, S segments of an image.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from segzoo.layers.runtime import PendingCopy


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


def costs_of_groups(groups: Iterable[Tensor], counts: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the costs of each image, (L, Q, S), while the device computes those of later groups of images.

    Args:
        groups: (n, L, Q, most) for n images; all groups are queued before the first one is waited for.
        counts: S of each of the images.

    Raises:
        NonFiniteCostError: a cost is NaN or infinite.
    """
    copies = [PendingCopy(costs) for costs in groups]
    first = 0
    for copy in copies:
        array = copy.value().numpy()
        own = counts[first : first + len(array)]
        yield from _finite([costs[..., :count] for costs, count in zip(array, own, strict=True)], first)
        first += len(array)


def _finite(arrays: list[np.ndarray], first: int = 0) -> list[np.ndarray]:
    """Return the arrays; `first` is the number of the first image, for the error."""
    for image, array in enumerate(arrays, first):
        if not np.isfinite(array).all():
            finite = [np.isfinite(matrix).all() for matrix in array]
            raise NonFiniteCostError(image, finite.index(False), len(array))
    return arrays
