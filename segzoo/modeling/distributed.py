"""What losses need to know of the other processes."""

import torch
from torch import Tensor


def mean_over_workers(count: float | Tensor, device: torch.device) -> Tensor:
    """The mean of a number over all processes, as a float scalar on `device`."""
    mean = torch.as_tensor(count, dtype=torch.float32, device=device).detach().clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean
