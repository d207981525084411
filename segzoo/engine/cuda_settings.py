"""Settings of CUDA for a training, and for what has to be exact: evaluation, prediction, export."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode

from segzoo.data.augmentation.build import has_one_size


@contextmanager
def training_settings(cfg: CfgNode) -> Iterator[None]:
    """Let CUDA compute as SOLVER.TF32 and CUDNN_BENCHMARK ask, inside; nothing changes on a CPU."""
    benchmark = cfg.CUDNN_BENCHMARK or has_one_size(cfg)
    with cuda_settings(tf32=cfg.SOLVER.TF32, benchmark=benchmark):
        yield


@contextmanager
def exact_settings(benchmark: bool = False) -> Iterator[None]:
    """Let CUDA compute in full single precision, inside.

    Args:
        benchmark: CUDNN_BENCHMARK: whether cuDNN measures its algorithms for every new size of an image.
    """
    with cuda_settings(tf32=False, benchmark=benchmark):
        yield


@contextmanager
def cuda_settings(*, tf32: bool, benchmark: bool) -> Iterator[None]:
    """Let CUDA round products in single precision to TF32 or not, and cuDNN measure or not, inside."""
    cudnn = torch.backends.cudnn
    with _tf32(tf32):
        before, cudnn.benchmark = cudnn.benchmark, benchmark
        try:
            yield
        finally:
            cudnn.benchmark = before


@contextmanager
def _tf32(enabled: bool) -> Iterator[None]:
    # Not `torch.set_float32_matmul_precision`, which also applies to CPUs.
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    switches = [matmul, cudnn]
    name: str = "allow_tf32"
    value: bool | str = enabled
    try:
        before = [getattr(switch, name) for switch in switches]
    except RuntimeError:
        # The program has set `fp32_precision`, which PyTorch does not let be mixed with `allow_tf32`.
        switches = [matmul, cudnn.conv, cudnn.rnn]
        name, value = "fp32_precision", ("tf32" if enabled else "ieee")
        before = [getattr(switch, name) for switch in switches]
    for switch in switches:
        setattr(switch, name, value)
    try:
        yield
    finally:
        for switch, old in zip(switches, before, strict=True):
            setattr(switch, name, old)
