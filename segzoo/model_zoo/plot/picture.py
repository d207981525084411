"""A plot as a picture of pixels, by matplotlib."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator

from .costs import Cost
from .labels import Box, free_offsets
from .palette import LIGHT
from .points import Point, groups_of, pareto_front

MARKERS = "osD^vPX*<>hpd8"


def draw(points: Sequence[Point], cost: Cost, metric: str, title: str) -> Figure:
    """Return the figure, 1080 x 720 pixels."""
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    front = pareto_front(points, cheaper_is_less=cost.less_is_better)
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
    series = list(dict.fromkeys(point.series for point in points))
    colors = {name: LIGHT[index % len(LIGHT)] for index, name in enumerate(series)}
    markers = {name: MARKERS[index % len(MARKERS)] for index, name in enumerate(series)}
    for group in groups_of(points):
        color, in21k = colors[group[0].series], group[0].in21k
        place = [point.x for point in group], [point.y for point in group]
        axes.plot(*place, color=color, linewidth=1.1, linestyle=":" if in21k else "-", zorder=2)
        axes.plot(
            *place,
            linestyle="",
            marker=markers[group[0].series],
            markersize=7,
            color=color,
            markerfacecolor="white" if in21k else color,
            zorder=3,
        )
    for name in series:
        axes.plot([], [], color=colors[name], marker=markers[name], markersize=7, linewidth=1.1, label=name)
    if any(point.in21k for point in points):
        axes.plot(
            [], [], color="0.3", linestyle=":", marker="o", markerfacecolor="white", label="hollow: IN-21k"
        )
    _axes(axes, cost, metric, title)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    figure.draw_without_rendering()
    _label(axes, points, front, colors)
    return figure


def _axes(axes: Axes, cost: Cost, metric: str, title: str) -> None:
    axes.set_title(title, fontsize=12, loc="left")
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.1)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 7)))
    axes.xaxis.set_minor_locator(LogLocator(subs=()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(cost.title, fontsize=10)
    axes.set_ylabel(f"{metric}, %", fontsize=10)
    axes.grid(True, alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _label(axes: Axes, points: Sequence[Point], front: Sequence[Point], colors: dict[str, str]) -> None:
    """Write the backbones beside the points where there is room, those of the front first."""
    renderer = axes.figure.canvas.get_renderer()
    by_name = {point.name: point for point in points}

    def note(name: str, offset: tuple[float, float]) -> Annotation:
        point = by_name[name]
        return axes.annotate(
            point.label,
            (point.x, point.y),
            xytext=offset,
            textcoords="offset points",
            ha="left" if offset[0] > 0 else "right" if offset[0] < 0 else "center",
            fontsize=7.5,
            color=colors[point.series],
            zorder=4,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )

    def box_of(name: str, offset: tuple[float, float]) -> Box:
        tried = note(name, offset)
        box = tried.get_window_extent(renderer)
        tried.remove()
        return box.x0, box.y0, box.x1, box.y1

    frame = axes.get_window_extent(renderer)
    centers = {point.name: tuple(axes.transData.transform((point.x, point.y))) for point in points}
    order = [point.name for point in sorted(points, key=lambda point: (point not in front, point.x))]
    radius = 5 * axes.figure.dpi / 72
    placed = free_offsets(order, box_of, centers, (frame.x0, frame.y0, frame.x1, frame.y1), radius)
    for name, offset in placed.items():
        note(name, offset)
