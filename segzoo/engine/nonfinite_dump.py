"""What a training leaves behind when its loss is no longer a number: everything needed to see it again."""

import math
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from segzoo.utils.files import written_whole

from .saved_config import saved_config

# So many images are named in the message; the file has all.
_LISTED = 8


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient is not finite; the message says when, why, and where the state is saved."""

    # Of the process: the message is the whole explanation.
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
    """Writes OUTPUT_DIR/nonfinite_<iteration>.pth and returns the message for the error, one line.

    The file holds the arguments as they were before the failing forward pass (but for running statistics):
    restore `random_state`, load `model` into the model of `config`, run it on `batch`: `losses` come again.

    Args:
        rank: of this process; from 1 on it is part of the file's name.
        reason: what is not finite; goes into the message, unless weights were not finite before.
        losses: by name; empty where the model could not compute them.
        batch: the micro-batch, as the model was given it; for a gradient all of the iteration.
        random_state: captured before the forward pass.
    """
    name = f"nonfinite_{iteration}.pth" if rank == 0 else f"nonfinite_{iteration}_rank{rank}.pth"
    path = Path(output_dir, name)
    # Not buffers: the failing forward pass itself spoils running statistics.
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
        reason = f"{len(broken)} weights were non-finite already, first {broken[0]}"
    facts = f"{reason}; {_listed_rates(learning_rates)}; {_listed_images(capsule['file_names'])}"
    where = f"batch and state saved to {path}"
    try:
        with written_whole(path) as unfinished:
            torch.save(capsule, unfinished)
    except (OSError, RuntimeError) as error:
        where = f"batch and state could not be saved to {path}: {error}"
    finite = losses and all(math.isfinite(value) for value in losses.values())
    return f"non-finite {'gradient' if finite else 'loss'} at iteration {iteration}: {where} ({facts})"


def _listed_rates(rates: list[float]) -> str:
    """The learning rate or, where parameter groups differ, the range."""
    low, high = f"{min(rates, default=0):.3g}", f"{max(rates, default=0):.3g}"
    return f"learning rate {low}" if low == high else f"learning rates {low} to {high}"


def _listed_images(names: list[str]) -> str:
    """The first images of the batch without their folders, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"images {', '.join(Path(name).name for name in names[:_LISTED])}{more}"
