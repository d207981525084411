"""Peak memory of models as a table or JSON: `segzoo analyze --memory`."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from segzoo.utils.errors import InputError

from .configuration import load_any

#: Ten models that most users begin with: semantic, panoptic, instance and entity segmentation.
COMMON_MODELS = (
    "semantic/ade20k/segformer_mit_b0",
    "semantic/ade20k/segformer_mit_b2",
    "semantic/ade20k/pspnet_r50_v1s_120ep",
    "semantic/ade20k/deeplabv3_r50_v1s_120ep",
    "semantic/ade20k/upernet_swin_tiny",
    "semantic/ade20k/maskformer_swin_tiny",
    "panoptic/coco/mask2former_r50",
    "panoptic/coco/mask2former_swin_tiny",
    "instance/coco/mask2former_r50",
    "entity/coco/entityseg_r50",
)
_SIZE = (512, 512)
_BATCH = 2
_NOTE = (
    "tensors: the peak of what PyTorch allocates on a CPU: weights, gradients, optimizer state, batch and\n"
    "activations. process: the growth of a process on Linux, an estimate: mostly within 15 %, or 10 MiB if\n"
    "it is below 64 MiB; Python and its libraries take another 500 to 800 MiB.\n"
    "A GPU uses other kernels and workspaces; tools/gpu_check.py measures its peak."
)


def show_memory(args: argparse.Namespace, names: Sequence[str]) -> int:
    """Print the peaks of the named models, by default of `COMMON_MODELS`; return the exit status."""
    size = tuple(args.size) if args.size else _SIZE
    names = names or COMMON_MODELS
    configurations = [
        load_any(name, args.opts, trust=args.trust_checkpoint, needs_datasets=False) for name in names
    ]
    results = []
    for name, cfg in zip(names, configurations, strict=True):
        results.append(peaks(name, cfg, size, args.batch or _BATCH, args.measure))
    print(json.dumps(results, indent=2) if args.json else as_table(results))
    return 0


def peaks(name: str, cfg: Any, size: tuple[int, int], batch: int, measured: bool) -> dict[str, Any]:
    """Return the peaks of training and inference in MiB, predicted and, if asked for, measured.

    Raises:
        InputError: the model does not run on images of this size, or `predict` refuses it.
    """
    # Imported here: a wrong name or key is reported without importing models.
    from segzoo.engine.memory import JOBS, Job, measure, on_cpu, predict

    job = Job(on_cpu(cfg), size, batch)
    result: dict[str, Any] = {"name": name, "size": list(size), "batch": batch}
    for kind in JOBS:
        try:
            found = {"predicted": predict(kind, job)}
            if measured:
                found["measured"] = measure(kind, job)
        except (AssertionError, MemoryError, OSError, RuntimeError, ValueError) as error:
            if isinstance(error, InputError):
                raise InputError(f"{name}: {error}") from error
            cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
            height, width = size
            raise InputError(
                f"{name}: {kind} does not run on {batch} images of {height} x {width} ({cause}); try another "
                "--size or --batch"
            ) from error
        result[kind] = {how: _in_mib(peak._asdict()) for how, peak in found.items()}
    return result


def _in_mib(peak: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of bytes in MiB, unknown ones as None, and the reason if there is one."""
    return {
        part: value if isinstance(value, str) else None if value is None else round(value / 2**20, 1)
        for part, value in peak.items()
        if value != ""
    }


def as_table(results: Sequence[dict[str, Any]]) -> str:
    """Return a table with a row for each model and kind of work, and what its columns mean."""
    first = results[0]
    measured = "measured" in first["training"]
    rows = []
    for result in results:
        for kind in ("training", "inference"):
            row = [result["name"], kind]
            for part in ("tensors", "process"):
                predicted = result[kind]["predicted"][part]
                row.append(f"{predicted:.0f}")
                if measured:
                    found = result[kind]["measured"][part]
                    row.append("-" if found is None else _beside(found, predicted))
            rows.append(row)
    headers = ["model", "work"]
    for part in ("tensors", "process"):
        headers += [part, *(["measured"] if measured else [])]
    reasons = {
        result[kind].get("measured", {}).get("reason", "")
        for result in results
        for kind in ("training", "inference")
    }
    notes = [f"-: only the tensors were measured: {reason}." for reason in sorted(reasons - {""})]
    height, width = first["size"]
    title = f"Peak memory in MiB, batch {first['batch']} of {height} x {width} pixels, on a CPU"
    table = tabulate(rows, headers, "pipe", disable_numparse=True)
    return "\n".join([title, table, *notes, _NOTE])


def _beside(found: float, predicted: float) -> str:
    return f"{found:.0f} ({100 * (predicted / found - 1):+.1f} %)"
