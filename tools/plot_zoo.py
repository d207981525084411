#!/usr/bin/env python
"""Plot the models of one dataset: published metric against cost, with the Pareto front.

python tools/plot_zoo.py --dataset ade20k --output zoo_ade20k.png
python tools/plot_zoo.py --dataset ade20k --metric "mIoU ms" --methods SegFormer MaskFormer --output zoo.png
python tools/plot_zoo.py --dataset coco --task panoptic --metric PQ --output zoo_coco.svg
python tools/plot_zoo.py --dataset ade20k --x throughput --measurements measured.json --output zoo_speed.png
python tools/plot_zoo.py --dataset ade20k --measurements measured.json --output zoo.html

The suffix decides: .png and .svg are pictures, .html is a page with filters and tables, which `segzoo zoo
--plot` writes for any models. GFLOPs in pictures are counted by segzoo, for all models at --size, or by
default at the training crop of each (Cityscapes and Mapillary Vistas: 1024x2048, COCO panoptic: 800x1088).
Throughput comes from files that `tools/benchmark.py throughput --record` writes. Metrics are published ones:
columns of the same name are measured alike but not always identically, see MODEL_ZOO.md.
"""

import argparse
import sys
from collections.abc import Sequence

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from command_line import EXIT_STATUS, CommandLine, end, path_value, report_errors

from segzoo.model_zoo import load_config
from segzoo.model_zoo.measure import count, usual_size
from segzoo.model_zoo.plot import Cost, check_output, write_page, write_picture
from segzoo.model_zoo.plot.costs import read_records, throughput
from segzoo.model_zoo.plot.points import with_metric
from segzoo.model_zoo.records import WeightsInfo
from segzoo.model_zoo.registry import known_models
from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

SIZES = {"cityscapes": "at 1024x2048", "mapillary_vistas": "at 1024x2048", "coco": "at 800x1088"}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        description=__doc__, epilog=EXIT_STATUS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset", required=True, help="as in the models' names: ade20k, cityscapes, coco, ..."
    )
    parser.add_argument(
        "--task", default="", help="semantic, panoptic, ...; needed where a dataset has several"
    )
    parser.add_argument("--metric", default="mIoU", help='a column of MODEL_ZOO.md: mIoU, "mIoU ms", PQ, ...')
    parser.add_argument("--x", choices=["gflops", "throughput"], default="gflops")
    parser.add_argument(
        "--measurements",
        type=path_value,
        nargs="+",
        metavar="FILE",
        help="for throughput: recorded measurements",
    )
    parser.add_argument("--precision", default="", help="for throughput: only those in fp32, bf16 or fp16")
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="for gflops: count all at this size"
    )
    parser.add_argument(
        "--methods", nargs="+", metavar="METHOD", help="only these, by their names in MODEL_ZOO.md"
    )
    parser.add_argument("--output", type=path_value, required=True, metavar="FILE.png|.svg|.html")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    check_output("--output", args.output)
    if args.output.suffix == ".html":
        rows = select(args.dataset, args.task, args.metric, args.methods)
        print(write_page(args.output, rows, args.measurements or (), args.metric))
        return
    if (args.x == "throughput") != bool(args.measurements):
        raise InputError("--x throughput and --measurements FILE go together; give both or neither")
    rows = select(args.dataset, args.task, args.metric, args.methods)
    if args.x == "throughput":
        cost = throughput(read_records(args.measurements, args.precision), args.measurements)
    else:
        counts = {info.name: gflops for info in rows if (gflops := count_gflops(info, args.size)) is not None}
        size = "at {}x{}".format(*args.size) if args.size else SIZES.get(args.dataset, "at the training crop")
        cost = Cost("gflops", "gflops", f"GFLOPs (10⁹ multiply-adds), {size}", "GFLOPs", counts)
    print(write_picture(args.output, rows, args.metric, cost))


def count_gflops(info: WeightsInfo, size: Sequence[int] | None) -> float | None:
    """Return the recorded count, or a new one if that was made at another size; None if it fails."""
    try:
        chosen = tuple(size) if size else usual_size(load_config(info.name), info.dataset)
        if info.reproduced and info.reproduced.size == chosen:
            return info.reproduced.gflops
        return count(info.name, chosen).total_flops / 1e9
    except InputError as error:
        print(f"left out: {info.name}: {error}", file=sys.stderr)
        return None


def select(dataset: str, task: str, metric: str, methods: Sequence[str] | None) -> list[WeightsInfo]:
    """Return the models that have the metric.

    Raises:
        InputError: an unknown name, or several tasks.
    """
    rows = [info for info in known_models().values() if info.dataset == dataset]
    if not rows:
        datasets = sorted({info.dataset for info in known_models().values()})
        raise InputError(
            f"--dataset {dataset} is unknown{did_you_mean(dataset, datasets)}; known: {', '.join(datasets)}"
        )
    rows = with_metric([info for info in rows if task in ("", info.task)], metric)
    tasks = sorted({info.task for info in rows})
    if len(tasks) > 1:
        # A metric belongs first to the task whose tables begin with it: mIoU to semantic, PQ to panoptic.
        leading = [info for info in rows if info.published[0].metric == metric.split()[0]]
        rows, tasks = leading or rows, sorted({info.task for info in leading}) or tasks
    if len(tasks) > 1:
        raise InputError(f"--dataset {dataset} has {metric} for {' and '.join(tasks)}; choose with --task")
    for method in methods or ():
        known = sorted({info.method for info in rows})
        if method not in known:
            raise InputError(
                f"--methods {method} is unknown{did_you_mean(method, known)}; known: {', '.join(known)}"
            )
    return [info for info in rows if not methods or info.method in methods]


@report_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; return its exit status: 0, or 2 for wrong input."""
    run(parse_arguments(arguments))
    return 0


if __name__ == "__main__":
    end(main())
