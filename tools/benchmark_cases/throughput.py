"""`tools/benchmark.py throughput`: images per second of the zoo's models, recorded with their conditions.

    python tools/benchmark.py throughput semantic/ade20k/maskformer_swin_tiny --threads 4
    python tools/benchmark.py throughput NAME ... --device cuda --precision bf16 --batch 8 --record a.json

The time is that from a batch of images on the device to the network's raw outputs, with random weights. A
record replaces that of the same model in FILE.json and keeps the others; tools/plot_zoo.py draws them.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from command_line import CommandLine, report_errors
from detectron2.modeling import build_model
from torch import nn

import segzoo
from segzoo import model_zoo
from segzoo.config.files import zoo_name
from segzoo.model_zoo.measure import counted_size
from segzoo.model_zoo.registry import known_models
from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandLine(
        prog="benchmark.py throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="models of the zoo")
    parser.add_argument("--batch", type=int, default=1, help="images per forward pass (default 1)")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="image size; default: the one at which GFLOPs are counted",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on a CPU (default 1)")
    parser.add_argument("--seconds", type=float, default=5.0, help="minimum time for each model (default 5)")
    parser.add_argument("--record", type=Path, metavar="FILE.json", help="add the measurements to this file")
    return parser.parse_args(arguments)


@report_errors
def main(arguments: Sequence[str]) -> int:
    """Run the subcommand; return its exit status: 0, or 2 for wrong input."""
    run(parse_arguments(arguments))
    return 0


def run(args: argparse.Namespace) -> None:
    if min(args.batch, args.threads, *(args.size or (1,))) < 1:
        raise InputError("--batch, --threads and --size: expected at least 1")
    if args.record:
        read_records(args.record)  # raises before the work
    torch.set_num_threads(args.threads)
    for name in map(zoo_name, args.names):
        record = measure(name, args)
        if args.record:
            add_record(args.record, record)
        height, width = record["size"]
        print(
            f"{name}: {record['images_per_second']:.3g} images/s "
            f"({height}x{width}, batch {args.batch}, {args.precision}, {record['device']})",
            flush=True,
        )


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time one model; return the record."""
    cfg = model_zoo.get_config(name)
    size = tuple(args.size) if args.size else counted_size(cfg, known_models().get(name))
    cfg.merge_from_list(["MODEL.DEVICE", args.device, "MODEL.WEIGHTS", ""])
    try:
        model = build_model(cfg).eval()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {args.device}: {str(error).splitlines()[0]}") from None
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, device=args.device)
    run_once(model, image, args)  # warm-up
    run_once(model, image, args)
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < args.seconds:
        start = time.perf_counter()
        run_once(model, image, args)
        seconds.append(time.perf_counter() - start)
    return {
        "name": name,
        "images_per_second": float(f"{args.batch / statistics.median(seconds):.4g}"),
        "size": list(size),
        "batch": args.batch,
        "precision": args.precision,
        **machine(args.device, args.threads),
        "runs": len(seconds),
        "date": date.today().isoformat(),
    }


def run_once(model: nn.Module, image: torch.Tensor, args: argparse.Namespace) -> None:
    """Run one forward pass of a batch to its end."""
    inputs = [{"image": image, "height": image.shape[1], "width": image.shape[2]}] * args.batch
    kind, dtype = torch.device(args.device).type, PRECISIONS[args.precision]
    with torch.inference_mode(), torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
        model.raw_outputs(inputs)
    if kind == "cuda":
        torch.cuda.synchronize(args.device)


def machine(device: str, threads: int) -> dict[str, Any]:
    """Return the conditions of a measurement, beside batch and precision."""
    kind = torch.device(device).type
    return {
        "kind": kind,
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else processor(),
        "threads": threads if kind == "cpu" else None,
        "torch": torch.__version__,
        "segzoo": segzoo.__version__,
    }


def processor() -> str:
    """Return the processor's model name, as far as the system knows it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def read_records(file: Path) -> list[dict[str, Any]]:
    """Return the measurements of a file, [] if there is no file yet."""
    if not file.exists():
        return []
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["measurements"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"--record {file}: exists and holds no measurements; choose another file") from None


def add_record(file: Path, record: dict[str, Any]) -> None:
    """Write a measurement, replacing the model's older one under the same conditions."""

    def differs(other: dict[str, Any]) -> bool:
        keys = ("name", "device", "threads", "precision", "batch", "size")
        return any(other.get(key) != record[key] for key in keys)

    records = [other for other in read_records(file) if differs(other)] + [record]
    lines = ",\n".join("  " + json.dumps(item) for item in records)
    write_text(file, f'{{"measurements": [\n{lines}\n]}}\n')
