"""Other processes, as far as sums over processes are concerned, without starting any."""

from collections.abc import Callable

import torch
from torch import Tensor


class _Done:
    def wait(self) -> None:
        pass


def pretend_processes(monkeypatch, number: int, exchange: Callable[[Tensor], object]) -> None:
    """Make `torch.distributed` claim a number of processes whose sums `exchange` writes into a tensor."""

    def all_reduce(tensor: Tensor, async_op: bool = False) -> _Done | None:
        exchange(tensor)
        return _Done() if async_op else None

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: number)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
