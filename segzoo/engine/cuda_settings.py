"""Settings of CUDA for a training, and for what has to be exact: evaluation, prediction, export."""

from collections.abc import Iterator
from contextlib import contextmanager

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
    # Not `torch.set_float32_matmul_precision`, which also applies to CPUs.
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = tf32, tf32, benchmark
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
