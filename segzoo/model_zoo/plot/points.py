"""The points of a plot: which models, in which series, and which of them no other beats."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segzoo.utils.errors import InputError

from ..records import WeightsInfo
from ..registry import sections


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


def with_metric(rows: Sequence[WeightsInfo], metric: str) -> list[WeightsInfo]:
    """Return the models that have a published metric.

    Raises:
        InputError: none has it.
    """
    found = [info for info in rows if info.value(metric) is not None]
    if not found:
        metrics = sorted({entry.metric for info in rows for entry in info.published})
        datasets = sorted({info.dataset for info in rows})
        where = f"of {datasets[0]}" if len(datasets) == 1 else "of those"
        raise InputError(
            f"--metric {metric}: no model {where} has it; published: {', '.join(metrics) or 'none'}"
        )
    return found


def leading_metric(rows: Sequence[WeightsInfo]) -> str:
    """Return the metric that most models have, of those that begin a table.

    Raises:
        InputError: none has any.
    """
    leading = [info.published[0].metric for info in rows if info.published]
    if not leading:
        raise InputError("none of the chosen models has a published metric; nothing to plot")
    return max(dict.fromkeys(leading), key=leading.count)


def percent(value: float) -> str:
    """Return a metric as published: with a decimal, or two."""
    return f"{value:.2f}".removesuffix("0")


def title_of(info: WeightsInfo) -> str:
    """Return the dataset and task of a model, in words."""
    return next(section.title for section in sections() for one in section.models if one.name == info.name)


def series_of(rows: Sequence[WeightsInfo]) -> dict[str, str]:
    """Return {model: its series}: the method, with its source where several trained it."""
    sources = {info.name: section.source for section in sections() for info in section.models}
    by_method: dict[str, set[str]] = {}
    for info in rows:
        by_method.setdefault(info.method, set()).add(sources[info.name])

    def series(info: WeightsInfo) -> str:
        several = len(by_method[info.method]) > 1 and sources[info.name]
        return f"{info.method} ({sources[info.name]})" if several else info.method

    return {info.name: series(info) for info in rows}


def points_of(rows: Sequence[WeightsInfo], costs: Mapping[str, float], metric: str) -> list[Point]:
    """Return a point for each model that has the metric and a cost."""
    series = series_of(rows)
    points = []
    for info in rows:
        value = info.value(metric)
        if info.name not in costs or value is None:
            continue
        in21k = "21k" in info.pretraining or "22k" in info.pretraining
        points.append(Point(info.name, series[info.name], info.backbone, costs[info.name], value, in21k))
    return points


def groups_of(points: Sequence[Point]) -> list[list[Point]]:
    """Return the points of one series that a line joins: one family of backbones with one pretraining."""
    keys = dict.fromkeys((point.series, point.in21k, point.family) for point in points)
    return [
        sorted(
            (point for point in points if (point.series, point.in21k, point.family) == key),
            key=lambda point: point.x,
        )
        for key in keys
    ]


def pareto_front(points: Sequence[Point], cheaper_is_less: bool) -> list[Point]:
    """Return the Pareto-optimal points, from the cheapest to the best."""
    sign = 1 if cheaper_is_less else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (sign * point.x, -point.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front
