#!/usr/bin/env python
"""Plot the models of one dataset: published metric against cost, with the Pareto front.

python tools/plot_zoo.py --dataset ade20k --output zoo_ade20k.png
python tools/plot_zoo.py --dataset ade20k --metric "mIoU ms" --methods SegFormer MaskFormer --output zoo.png
python tools/plot_zoo.py --dataset coco --task panoptic --metric PQ --output zoo_coco.png
python tools/plot_zoo.py --dataset ade20k --x throughput --measurements measured.json --output zoo_speed.png

GFLOPs are counted by segzoo, for all models at --size, or by default at the training crop of each
(Cityscapes and Mapillary Vistas: 1024x2048, COCO panoptic: 800x1088). Throughput comes from files that
`tools/benchmark.py throughput --record` writes. Metrics are published ones: columns of the same name are
measured alike but not always identically, see MODEL_ZOO.md.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from command_line import EXIT_STATUS, CommandLine, end, path_value, report_errors
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator
from matplotlib.transforms import Bbox

from segzoo.model_zoo import load_config
from segzoo.model_zoo.measure import count, usual_size
from segzoo.model_zoo.records import WeightsInfo
from segzoo.model_zoo.registry import known_models, sections
from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

# Distinguishable without color vision: near the palette of Okabe and Ito, with a marker for each method.
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#C2578F",
    "#B87F00",
    "#2B8FCB",
    "#7F3C8D",
    "#666666",
    "#8A5A10",
    "#111111",
)
MARKERS = "osD^vPX*<>hpd8"
# Conditions that must be equal for throughputs to be comparable.
CONDITIONS = ("device", "threads", "precision", "batch", "torch")

SIZES = {"cityscapes": "at 1024x2048", "mapillary_vistas": "at 1024x2048", "coco": "at 800x1088"}


@dataclass(frozen=True)
class Point:
    """A model in the plot; `family` is that of its backbone: R, Swin, MiT, ..."""

    name: str
    series: str
    label: str
    x: float
    y: float
    in21k: bool

    @property
    def family(self) -> str:
        return re.split(r"[\d-]", self.label, maxsplit=1)[0]


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
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="for gflops: count all at this size"
    )
    parser.add_argument(
        "--methods", nargs="+", metavar="METHOD", help="only these, by their names in MODEL_ZOO.md"
    )
    parser.add_argument("--output", type=path_value, required=True, metavar="FILE.png")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    if (args.x == "throughput") != bool(args.measurements):
        raise InputError("--x throughput and --measurements FILE go together; give both or neither")
    if args.output.suffix != ".png":
        raise InputError(f"--output {args.output}: expected a name ending in .png")
    rows = select(args.dataset, args.task, args.metric, args.methods)
    conditions = ""
    if args.x == "throughput":
        records = read_measurements(args.measurements)
        costs = {record["name"]: record["images_per_second"] for record in records}
        conditions = describe_conditions(records[0])
    else:
        costs = {info.name: gflops for info in rows if (gflops := count_gflops(info, args.size)) is not None}
        conditions = (
            "at {}x{}".format(*args.size) if args.size else SIZES.get(args.dataset, "at the training crop")
        )
    points = points_of(rows, costs, args.metric)
    if not points:
        raise InputError(f"no model of {args.dataset} has {args.metric} and {args.x}; nothing to plot")
    task = rows[0].task
    figure = draw(points, args.x, args.metric, f"{title_of(rows[0])}: published {args.metric}", conditions)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output)
    left_out = len(rows) - len(points)
    print(
        f"{args.output}: {len(points)} {task} models"
        + (f", {left_out} left out for lack of {args.x}" if left_out else "")
    )


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
    rows = [info for info in rows if task in ("", info.task)]
    with_metric = [info for info in rows if info.value(metric) is not None]
    if not with_metric:
        metrics = sorted({entry.metric for info in rows for entry in info.published})
        raise InputError(
            f"--metric {metric}: no model of {dataset} has it; published: {', '.join(metrics) or 'none'}"
        )
    tasks = sorted({info.task for info in with_metric})
    if len(tasks) > 1:
        # A metric belongs first to the task whose tables begin with it: mIoU to semantic, PQ to panoptic.
        leading = [info for info in with_metric if info.published[0].metric == metric.split()[0]]
        with_metric, tasks = leading or with_metric, sorted({info.task for info in leading}) or tasks
    if len(tasks) > 1:
        raise InputError(f"--dataset {dataset} has {metric} for {' and '.join(tasks)}; choose with --task")
    for method in methods or ():
        known = sorted({info.method for info in with_metric})
        if method not in known:
            raise InputError(
                f"--methods {method} is unknown{did_you_mean(method, known)}; known: {', '.join(known)}"
            )
    return [info for info in with_metric if not methods or info.method in methods]


def read_measurements(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the records of the files, all made under the same conditions.

    Raises:
        InputError: another file, or records that are not comparable.
    """
    records: list[dict[str, Any]] = []
    for file in files:
        try:
            records += json.loads(file.read_text(encoding="utf-8"))["measurements"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file}: no measurements ({type(error).__name__}); "
                "write them with tools/benchmark.py throughput --record"
            ) from None
    names = [record["name"] for record in records]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} was measured more than once (sizes or files); keep one of the records")
    if not records:
        raise InputError(
            f"{files[0]}: holds no measurement; add some with tools/benchmark.py throughput --record"
        )
    for condition in CONDITIONS:
        found = sorted({str(record[condition]) for record in records})
        if len(found) > 1:
            raise InputError(
                f"{', '.join(str(file) for file in files)}: measured with {condition} {' and '.join(found)}, "
                "which cannot be compared in one plot; measure again or give files with the same conditions"
            )
    return records


def describe_conditions(record: dict[str, Any]) -> str:
    threads = f", {record['threads']} threads" if record["kind"] == "cpu" else ""
    where = f"{record['device']}{threads}"
    return f"{where}, batch {record['batch']}, {record['precision']}, torch {record['torch']}"


def title_of(info: WeightsInfo) -> str:
    return next(section.title for section in sections() if info in section.models)


def points_of(rows: Sequence[WeightsInfo], costs: dict[str, float], metric: str) -> list[Point]:
    sources = {info.name: section.source for section in sections() for info in section.models}
    by_method: dict[str, set[str]] = {}
    for info in rows:
        by_method.setdefault(info.method, set()).add(sources[info.name])
    points = []
    for info in rows:
        value = info.value(metric)
        if info.name not in costs or value is None:
            continue
        several = len(by_method[info.method]) > 1 and sources[info.name]
        series = f"{info.method} ({sources[info.name]})" if several else info.method
        points.append(
            Point(
                info.name,
                series,
                info.backbone,
                costs[info.name],
                value,
                "21k" in info.pretraining or "22k" in info.pretraining,
            )
        )
    return points


def pareto_front(points: Sequence[Point], cheaper_is_less: bool) -> list[Point]:
    """Return the Pareto-optimal points, from the cheapest to the best."""
    sign = 1 if cheaper_is_less else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (sign * point.x, -point.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def draw(points: Sequence[Point], x: str, metric: str, title: str, conditions: str) -> Figure:
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    front = pareto_front(points, cheaper_is_less=x == "gflops")
    axes.plot(
        [point.x for point in front],
        [point.y for point in front],
        color="0.6",
        linewidth=5,
        alpha=0.35,
        solid_capstyle="round",
        zorder=1,
        label="Pareto front",
    )
    colors: dict[str, str] = {}
    for index, series in enumerate(dict.fromkeys(point.series for point in points)):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        colors[series] = color
        own = [point for point in points if point.series == series]
        for in21k, family in dict.fromkeys((point.in21k, point.family) for point in own):
            members = (point for point in own if (point.in21k, point.family) == (in21k, family))
            group = sorted(members, key=lambda point: point.x)
            line = {"color": color, "linewidth": 1.1, "linestyle": ":" if in21k else "-", "zorder": 2}
            axes.plot([point.x for point in group], [point.y for point in group], **line)
            axes.plot(
                [point.x for point in group],
                [point.y for point in group],
                linestyle="",
                marker=marker,
                markersize=7,
                color=color,
                markerfacecolor="white" if in21k else color,
                zorder=3,
            )
        axes.plot([], [], color=color, marker=marker, markersize=7, linewidth=1.1, label=series)
    if any(point.in21k for point in points):
        axes.plot(
            [], [], color="0.3", linestyle=":", marker="o", markerfacecolor="white", label="hollow: IN-21k"
        )
    _axes(axes, x, metric, title, conditions)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    figure.draw_without_rendering()
    _label(axes, points, front, colors)
    return figure


def _axes(axes: Axes, x: str, metric: str, title: str, conditions: str) -> None:
    axes.set_title(title, fontsize=12, loc="left")
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.1)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 7)))
    axes.xaxis.set_minor_locator(LogLocator(subs=()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    unit = "GFLOPs (10⁹ multiply-adds)" if x == "gflops" else "images/s"
    axes.set_xlabel(f"{unit}, {conditions}", fontsize=10)
    axes.set_ylabel(f"{metric}, %", fontsize=10)
    axes.grid(True, alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


# Offsets of a label from its point, in typographic points; the first free one is used.
_PLACES = [(7, 3), (-7, 3), (7, -10), (-7, -10), (0, 8), (0, -15), (9, 9), (-9, 9), (9, -15), (-9, -15)]


def _label(axes: Axes, points: Sequence[Point], front: Sequence[Point], colors: dict[str, str]) -> None:
    """Write the backbones beside the points where there is room, those of the front first.

    No label overlaps another or a point, or is nearer to another point than to its own.
    """
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    centers = {point.name: axes.transData.transform((point.x, point.y)) for point in points}
    radius = 5 * axes.figure.dpi / 72
    taken = [
        Bbox.from_bounds(cx - radius, cy - radius, 2 * radius, 2 * radius) for cx, cy in centers.values()
    ]
    for point in sorted(points, key=lambda point: (point not in front, point.x)):
        others = [center for name, center in centers.items() if name != point.name]
        for dx, dy in _PLACES:
            note = axes.annotate(
                point.label,
                (point.x, point.y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                fontsize=7.5,
                color=colors[point.series],
                zorder=4,
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )
            box = note.get_window_extent(renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            own = _distance(box, centers[point.name])
            nearest = all(_distance(box, center) > own for center in others)
            if inside and nearest and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            note.remove()


def _distance(box: Bbox, center: Sequence[float]) -> float:
    """Return the distance from a point to a box, in pixels."""
    x, y = center
    return math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))


@report_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; return its exit status: 0, or 2 for wrong input."""
    run(parse_arguments(arguments))
    return 0


if __name__ == "__main__":
    end(main())
