"""A model in several processes, on GPUs or CPUs."""

import inspect
import warnings

import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def sync_batch_norm_on_cpu(module: nn.Module, world_size: int) -> nn.Module:
    """Replace nn.SyncBatchNorm, which runs on GPUs only; parameter names and values stay.

    Several processes get Detectron2's NaiveSyncBatchNorm (same statistics, as every process has the same
    number of pixels), one process plain BatchNorm2d.

    Returns:
        `module`, or its replacement if it is such a layer itself.
    """
    if isinstance(module, nn.SyncBatchNorm):
        layer = NaiveSyncBatchNorm if world_size > 1 else nn.BatchNorm2d
        replacement = layer(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        replacement.load_state_dict(module.state_dict())
        replacement.train(module.training)
        for name, parameter in module.named_parameters():
            replacement.get_parameter(name).requires_grad_(parameter.requires_grad)
        if hasattr(module, "act"):  # timm's, which includes dropout and activation
            replacement.drop, replacement.act = module.drop, module.act
            replacement.register_forward_hook(_drop_and_activate)
        return replacement
    for name, child in module.named_children():
        module.add_module(name, sync_batch_norm_on_cpu(child, world_size))
    return module


def _drop_and_activate(norm: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    return norm.act(norm.drop(output))


def distributed(model: nn.Module, device: str) -> nn.Module:
    """Wrap the model in DistributedDataParallel if there are several processes."""
    if comm.get_world_size() == 1:
        return model
    # The gradient of a 1 x 1 kernel in the channels-last format has other strides, which costs only a copy.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # Running statistics stay local to each process, as in Detectron2; torch 2.13 renames the option.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    # Not static_graph, which saves a search for unused parameters that is off, and refuses changing graphs.
    return DistributedDataParallel(
        model,
        # Must be None for a model on the CPU.
        device_ids=[torch.cuda.current_device()] if torch.device(device).type == "cuda" else None,
        gradient_as_bucket_view=True,
        **{"forward_sync_buffers" if renamed else "broadcast_buffers": False},
    )
