"""Copies from the CPU to a device for which nobody waits."""

import torch
from torch import Tensor


def transferred(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor.to(device)`, during which the program goes on where that is safe: on CUDA devices.

    Apple's would read the tensor later, when its memory may hold something else.
    """
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")
