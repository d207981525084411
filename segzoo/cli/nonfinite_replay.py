"""Running the batch that stopped a training again, to find the first module with a non-finite output."""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from tabulate import tabulate
from torch import Tensor, nn

from segzoo import model_zoo
from segzoo.checkpoint.reader import globals_allowed, read_checkpoint
from segzoo.engine.rng_state import restore_random_state
from segzoo.engine.train_step import amp_dtype
from segzoo.engine.trainers import find_trainer
from segzoo.modeling import as_segmentor
from segzoo.utils.errors import InputError

NEEDED = ("iteration", "batch", "random_state", "config")
# Removes the dataset, which is not needed and may be missing on another machine.
WITHOUT_DATASET = (
    *("DATASETS.TRAIN", "()", "DATASETS.TEST", "()", "DATASETS.FILES", "()", "DATASETS.CLASSES_FROM", ""),
    *("TEST.TASKS", "('semantic',)"),
)


def read_capsule(path: str, trust: bool = False) -> dict[str, Any]:
    """Return the content of a file that `save_nonfinite_capsule` wrote.

    Raises:
        InputError: no such file, or another one.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: does not exist; a training that stops names the file in its last line")
    with globals_allowed(BitMasks, Boxes, Instances, PolygonMasks):  # targets of detectors
        file = read_checkpoint(path, trust=trust)
    missing = [key for key in NEEDED if key not in file.rest]
    if missing:
        raise InputError(
            f"{path}: lacks {', '.join(missing)}; expected a nonfinite_<iteration>.pth of a training"
        )
    return {**file.rest, "model": file.weights}


def rebuild(capsule: dict[str, Any], device: str, overrides: Sequence[str] = ()) -> tuple[CfgNode, nn.Module]:
    """Return the configuration, and the model with the recorded weights in training mode.

    Raises:
        InputError: the present code builds another model from the configuration.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(capsule["config"])
        file.flush()
        cfg = model_zoo.load_config(
            file.name, [*WITHOUT_DATASET, *(["MODEL.DEVICE", device] if device else []), *overrides]
        )
    model = find_trainer(cfg).build_model(cfg).train()
    fit = model.load_state_dict(capsule["model"], strict=False)
    if fit.missing_keys or fit.unexpected_keys:
        found = [*fit.missing_keys, *fit.unexpected_keys]
        raise InputError(
            f"the file's weights are not those of the model of its configuration ({len(found)} differ, first "
            f"{found[0]}); replay with the version of the code that trained it"
        )
    return cfg, model


class FirstNonFinite:
    """Forward hooks that record the first module with a non-finite output."""

    def __init__(self, model: nn.Module):
        self.where: str | None = None
        self.handles = [
            module.register_forward_hook(self._watch(name or type(model).__name__))
            for name, module in model.named_modules()
        ]

    def _watch(self, name: str):
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            if self.where is None and not _finite(output):
                text = "its inputs are finite" if _finite(inputs) else "its inputs are not finite either"
                self.where = f"{name} ({type(module).__name__}; {text})"

        return hook

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return True


def replay(
    capsule: dict[str, Any], device: str = "", fp32: bool = False, overrides: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Repeat the forward and backward pass; return the observations as (name, value)."""
    cfg, model = rebuild(capsule, device, overrides)
    dtype = None if fp32 else amp_dtype(cfg)
    watcher = FirstNonFinite(model)
    restore_random_state(capsule["random_state"])
    as_segmentor(model).set_progress(capsule["iteration"], cfg.SOLVER.MAX_ITER)
    lines = [("precision", str(dtype or torch.float32).removeprefix("torch."))]
    recorded = capsule.get("losses", {})
    try:
        with torch.autocast(torch.device(cfg.MODEL.DEVICE).type, dtype=dtype, enabled=dtype is not None):
            losses = model(capsule["batch"])
    except FloatingPointError as error:
        return [
            *lines,
            ("forward pass", f"stopped: {error}"),
            ("first non-finite output", watcher.where or "none"),
            ("as in the training", _yes_or_no(not recorded)),
        ]
    finally:
        watcher.remove()
    values = {name: float(loss) for name, loss in losses.items()}
    for name, value in values.items():
        before = f" (then: {recorded[name]:.6g})" if name in recorded else ""
        lines.append((name, f"{value:.6g}{before}"))
    lines.append(("first non-finite output", watcher.where or "none"))
    same = recorded.keys() == values.keys() and all(
        _same(value, recorded[name]) for name, value in values.items()
    )
    if all(map(math.isfinite, values.values())):
        sum(losses.values()).backward()
        named = [(name, weight.grad) for name, weight in model.named_parameters() if weight.grad is not None]
        broken = [name for name, gradient in named if not _finite(gradient)]
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for _, gradient in named))
        lines.append(("gradient norm", f"{norm:.6g}"))
        lines.append(("non-finite gradients", f"{len(broken)}, first {broken[0]}" if broken else "none"))
        same = same and not math.isfinite(norm)
    lines.append(("as in the training", _yes_or_no(same)))
    return lines


def _same(value: float, before: float) -> bool:
    """Return whether a loss was reproduced; non-finite losses all count as the same."""
    if math.isfinite(before):
        return math.isclose(value, before, rel_tol=1e-3, abs_tol=1e-6)
    return not math.isfinite(value)


def _yes_or_no(same: bool) -> str:
    return "yes" if same else "no (not reproduced)"


def show_replay(args: argparse.Namespace) -> int:
    """Run the batch of a capsule again and print the observations; return the exit status."""
    capsule = read_capsule(args.capsule, args.trust_checkpoint)
    rates = ", ".join(f"{rate:.3g}" for rate in sorted(set(capsule.get("learning_rates", []))))
    broken = capsule.get("nonfinite_weights", [])
    rows = [
        ("iteration", capsule["iteration"]),
        ("images", "\n".join(capsule.get("file_names", []))),
        ("learning rates", rates),
        ("non-finite weights", f"{len(broken)}, first {broken[0]}" if broken else "none"),
    ]
    print(tabulate(rows, tablefmt="plain"))
    print()
    print(
        tabulate(replay(capsule, args.device, args.fp32, args.opts), tablefmt="plain", disable_numparse=True)
    )
    return 0
