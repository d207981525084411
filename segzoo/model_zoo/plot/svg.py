"""A chart as SVG: for the page, and as a picture of its own."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from .costs import Cost
from .labels import Box, free_offsets
from .palette import DARK, LIGHT, SHAPES, style_of
from .points import Point, groups_of, pareto_front, percent

WIDTH, HEIGHT = 900, 520
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 14, 50  # margins
LETTER = 6.1  # average width of a label's letter
LINE = 20  # of the legend

_RULES = """
.chart text { font: 12px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--soft); }
.chart .grid { stroke: var(--grid); }
.chart .frame { stroke: var(--soft); }
.chart .front { fill: none; stroke: var(--front); stroke-width: 7; stroke-linecap: round;
  stroke-linejoin: round; }
.chart .line { fill: none; stroke: var(--c); stroke-width: 1.2; opacity: .75; }
.chart .hollow.line { stroke-dasharray: 2 4; }
.chart .point path { fill: var(--c); stroke: var(--ground); stroke-width: 1; }
.chart .point.hollow path { fill: var(--ground); stroke: var(--c); stroke-width: 2; }
.chart .point text { font-size: 11px; fill: var(--c); stroke: var(--ground); stroke-width: 3;
  paint-order: stroke; }
"""


def rules() -> str:
    """Return the style rules of charts: colors by CSS variables, for light and dark grounds."""

    def variables(ground: str, soft: str, grid: str, front: str, palette: Sequence[str]) -> str:
        shared = f"--ground: {ground}; --soft: {soft}; --grid: {grid}; --front: {front}; "
        return shared + " ".join(f"--c{index}: {color};" for index, color in enumerate(palette))

    light = variables("#ffffff", "#4a5058", "#e4e7eb", "#d5d9df", LIGHT)
    dark = variables("#15181d", "#b6bdc7", "#2c323a", "#3a414b", DARK)
    series = "\n".join(f".c{index} {{ --c: var(--c{index}); }}" for index in range(len(LIGHT)))
    return (
        f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        f":root[data-theme=light] {{ {light} }}\n:root[data-theme=dark] {{ {dark} }}\n{series}{_RULES}"
    )


def chart(
    points: Sequence[Point],
    cost: Cost,
    metric: str,
    styles: Mapping[str, int],
    tips: Mapping[str, str],
    links: Mapping[str, str],
    title: str = "",
) -> str:
    """Return the inner elements of a chart of WIDTH x HEIGHT.

    Args:
        points: at least one.
        cost: the horizontal axis.
        metric: name of the vertical axis.
        styles: {series: its number}, which gives color and marker.
        tips: {model: what is shown when it is pointed at}.
        links: {model: where it leads}, "" for no link.
        title: over the chart.
    """
    x_of, x_ticks = _logarithmic([point.x for point in points], LEFT, WIDTH - RIGHT)
    top = TOP + (24 if title else 0)
    y_of, y_ticks = _linear([point.y for point in points], HEIGHT - BOTTOM, top)
    places = {point.name: (x_of(point.x), y_of(point.y)) for point in points}
    front = pareto_front(points, cost.less_is_better)
    parts = [*_frame(x_of, x_ticks, y_of, y_ticks, top)]
    if title:
        parts.append(f'<text x="{LEFT}" y="18" style="font-size: 15px">{escape(title)}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        f"{escape(cost.title)}</text>"
    )
    middle = (top + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(metric)}, %</text>"
    )
    parts.append(f'<polyline class="front" points="{_path(front, places)}"/>')
    for group in groups_of(points):
        if len(group) > 1:
            number = styles[group[0].series]
            parts.append(
                f'<polyline class="line {_classes(group[0], number)}" data-series="{number}" '
                f'points="{_path(group, places)}"/>'
            )
    offsets = _offsets(points, front, places, top)
    order = sorted(points, key=lambda point: (point.x, point.name))
    parts += [
        _point(point, styles[point.series], places[point.name], offsets.get(point.name), tips, links)
        for point in order
    ]
    return "\n".join(parts)


def picture(points: Sequence[Point], cost: Cost, metric: str, title: str) -> str:
    """Return a whole SVG document with a legend."""
    styles = {series: index for index, series in enumerate(dict.fromkeys(point.series for point in points))}
    tips = {
        point.name: f"{point.name}\n{metric} {percent(point.y)} %\n{point.x:g} {cost.unit}"
        f" {cost.notes.get(point.name, '')}".rstrip()
        for point in points
    }
    links = dict.fromkeys(tips, "")
    inner = chart(points, cost, metric, styles, tips, links, title)
    legend = []
    for series, row in styles.items():
        color, shape = style_of(row)
        legend.append(
            f'<g class="point c{color}" transform="translate({WIDTH + 8} {40 + LINE * row})">'
            f'<path d="{SHAPES[shape]}"/></g>'
            f'<text x="{WIDTH + 22}" y="{44 + LINE * row}">{escape(series)}</text>'
        )
    notes = ["thick: Pareto front"] + ["hollow: IN-21k"] * any(point.in21k for point in points)
    for row, note in enumerate(notes, len(styles)):
        legend.append(f'<text x="{WIDTH + 22}" y="{44 + LINE * row}">{note}</text>')
    width = WIDTH + 40 + round(7 * max(20, *map(len, styles)))
    height = max(HEIGHT, 60 + LINE * (len(styles) + len(notes)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(title)}">\n'
        f"<style>{escape(rules(), quote=False)}</style>\n"
        f'<rect width="{width}" height="{height}" style="fill: var(--ground)"/>\n'
        f"{inner}\n{chr(10).join(legend)}\n</svg>\n"
    )


def marker(number: int) -> str:
    """Return a small SVG of a series' marker, for a legend."""
    color, shape = style_of(number)
    return (
        f'<svg class="chart marker" viewBox="-8 -8 16 16" width="16" height="16" aria-hidden="true">'
        f'<g class="point c{color}"><path d="{SHAPES[shape]}"/></g></svg>'
    )


def _classes(point: Point, number: int) -> str:
    return f"c{style_of(number)[0]}" + (" hollow" if point.in21k else "")


def _point(
    point: Point,
    number: int,
    place: tuple[float, float],
    offset: tuple[float, float] | None,
    tips: Mapping[str, str],
    links: Mapping[str, str],
) -> str:
    label = ""
    if offset is not None:
        anchor = "start" if offset[0] > 0 else "end" if offset[0] < 0 else "middle"
        label = (
            f'<text x="{offset[0] * 1.3:g}" y="{-offset[1] * 1.3:g}" text-anchor="{anchor}">'
            f"{escape(point.label)}</text>"
        )
    tag = f'a href="{escape(links[point.name])}"' if links[point.name] else 'g role="img"'
    return (
        f'<{tag} class="point {_classes(point, number)}" data-series="{number}" '
        f'data-model="{escape(point.name)}" transform="translate({place[0]:.1f} {place[1]:.1f})">'
        f'<title>{escape(tips[point.name])}</title><path d="{SHAPES[style_of(number)[1]]}"/>{label}'
        f"</{tag[0]}>"
    )


def _path(points: Sequence[Point], places: Mapping[str, tuple[float, float]]) -> str:
    return " ".join("{:.1f},{:.1f}".format(*places[point.name]) for point in points)


def _offsets(
    points: Sequence[Point],
    front: Sequence[Point],
    places: Mapping[str, tuple[float, float]],
    top: float,
) -> dict[str, tuple[float, float]]:
    # The vertical axis upward, as for the offsets.
    centers = {name: (x, -y) for name, (x, y) in places.items()}
    labels = {point.name: point.label for point in points}

    def box_of(name: str, offset: tuple[float, float]) -> Box:
        x, y = centers[name]
        width = LETTER * len(labels[name])
        left = x + 1.3 * offset[0] - (0 if offset[0] > 0 else width if offset[0] < 0 else width / 2)
        bottom = y + 1.3 * offset[1] - 3
        return left, bottom, left + width, bottom + 12

    order = sorted(points, key=lambda point: (point not in front, point.x))
    frame = (LEFT, BOTTOM - HEIGHT, WIDTH - RIGHT, -top)
    return free_offsets([point.name for point in order], box_of, centers, frame, 7)


def _frame(x_of, x_ticks: Sequence[float], y_of, y_ticks: Sequence[float], top: float) -> Iterator[str]:
    bottom = HEIGHT - BOTTOM
    for value in x_ticks:
        x = x_of(value)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>'
    for value in y_ticks:
        y = y_of(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    yield f'<line class="frame" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    yield f'<line class="frame" x1="{LEFT}" x2="{LEFT}" y1="{top}" y2="{bottom}"/>'


def _logarithmic(values: Sequence[float], start: float, stop: float):
    """Return the function from a value to its place, and the ticks: 1, 2, 5, or more in a narrow range."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.09 * (high - low), 0.06)
    low, high = low - margin, high + margin
    steps = (1, 2, 5) if high - low > 1 else (1, 1.5, 2, 3, 4, 5, 7)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]

    def place(value: float) -> float:
        return start + (math.log10(value) - low) / (high - low) * (stop - start)

    return place, [tick for tick in ticks if low <= math.log10(tick) <= high]


def _linear(values: Sequence[float], start: float, stop: float):
    """Return the function from a value to its place, and about six ticks."""
    low, high = min(values), max(values)
    margin = max(0.09 * (high - low), 0.3)
    low, high = low - margin, high + margin
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    ticks = [round(index * step, 6) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]

    def place(value: float) -> float:
        return start + (value - low) / (high - low) * (stop - start)

    return place, ticks
