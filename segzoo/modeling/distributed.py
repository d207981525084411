"""What losses need to know of the other processes."""

import torch
from torch import Tensor


@torch.no_grad()
def mean_over_workers(count: float | Tensor, device: torch.device) -> Tensor:
    """The mean of a number over all processes, as a float scalar on `device`."""
    # For a copy of the number the program would have to wait; an addition takes it along.
    mean = torch.zeros((), dtype=torch.float32, device=device).add_(count)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean
