"""Dump of everything needed to reproduce a non-finite loss or gradient."""

import math
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from segzoo.utils.files import atomic_path

from .saved_config import saved_config

# Number of images named in the message; the file has all.
_LISTED = 8


class NonFiniteLossError(FloatingPointError):
    """Non-finite loss or gradient; the message says when, why, and where the state is saved."""

    # Exit status of the process.
    exit_status = 1


def save_nonfinite_capsule(
    output_dir: str,
    *,
    iteration: int,
    rank: int,
    reason: str,
    losses: dict[str, float],
    batch: list[dict[str, Any]],
    random_state: dict,
    model: nn.Module,
    learning_rates: list[float],
    cfg: CfgNode,
) -> str:
    """Write OUTPUT_DIR/nonfinite_<iteration>.pth and return the message for the error, one line.

    The file holds the arguments as they were before the failing forward pass (except running statistics):
    restore `random_state`, load `model` into the model of `config`, and run it on `batch` to reproduce
    `losses`.

    Args:
        rank: of this process; above 0 it is part of the file's name.
        reason: what is not finite; goes into the message, unless weights were already non-finite.
        losses: by name; empty where the model could not compute them.
        batch: the micro-batch given to the model; for a gradient, all of the iteration's.
        random_state: captured before the forward pass.
    """
    name = f"nonfinite_{iteration}.pth" if rank == 0 else f"nonfinite_{iteration}_rank{rank}.pth"
    path = Path(output_dir, name)
    # Not buffers: the failing forward pass itself corrupts running statistics.
    broken = [key for key, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    capsule = {
        "iteration": iteration,
        "losses": losses,
        "file_names": [image.get("file_name", "") for image in batch],
        "learning_rates": learning_rates,
        "nonfinite_weights": broken,
        "batch": batch,
        "random_state": random_state,
        "model": model.state_dict(),
        "config": saved_config(cfg),
    }
    if broken:
        reason = f"{len(broken)} weights were already non-finite, first {broken[0]}"
    details = f"{reason}; {_listed_rates(learning_rates)}; {_listed_images(capsule['file_names'])}"
    where = f"batch and state saved to {path}"
    try:
        with atomic_path(path) as unfinished:
            torch.save(capsule, unfinished)
    except (OSError, RuntimeError) as error:
        where = f"batch and state could not be saved to {path}: {error}"
    finite = losses and all(math.isfinite(value) for value in losses.values())
    return f"non-finite {'gradient' if finite else 'loss'} at iteration {iteration}: {where} ({details})"


def _listed_rates(rates: list[float]) -> str:
    """Return the learning rate or, where parameter groups differ, the range."""
    low, high = f"{min(rates, default=0):.3g}", f"{max(rates, default=0):.3g}"
    return f"learning rate {low}" if low == high else f"learning rates {low} to {high}"


def _listed_images(names: list[str]) -> str:
    """Return the names of the batch's first images without folders, and the number of the others."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"images {', '.join(Path(name).name for name in names[:_LISTED])}{more}"
