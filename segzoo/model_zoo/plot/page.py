"""The zoo as one page: charts and tables of models, which works offline and loads nothing."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from segzoo.config.files import config_root

from ..records import WeightsInfo
from .costs import Cost
from .points import leading_metric, percent, points_of, series_of, title_of
from .svg import HEIGHT, WIDTH, chart, marker, rules

_FOLDER = Path(__file__).parent
# The page may neither load nor send anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_HOW = (
    "Each point is a model: point at it, or reach it with the Tab key, for its numbers and its command; "
    "Enter leads to its row. The thick line joins the models that no other beats. Hollow: the backbone was "
    "pretrained on ImageNet-21k. Accuracies are the published ones; compare only those measured alike."
)


def page(rows: Sequence[WeightsInfo], costs: Sequence[Cost], metric: str, folder: Path) -> str:
    """Return the page as HTML.

    Args:
        rows: the models; each gets one row of a table, and a point in the chart of each metric and cost that
            it has.
        costs: the horizontal axes, the one to show first in front.
        metric: the metric to show first; "" for the first of each table.
        folder: where the page will be, for links to configurations.
    """
    groups: dict[tuple[str, str], list[WeightsInfo]] = {}
    for info in rows:
        groups.setdefault((info.dataset, info.task), []).append(info)
    used = [cost for cost in costs if cost.values]
    # The largest first: it is what the page shows.
    ordered = sorted(groups.values(), key=lambda group: -len(group))
    sections = "\n".join(_section(group, used, metric, folder) for group in ordered)
    return _TEMPLATE.format(
        policy=escape(_POLICY),
        style=rules() + (_FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(_FOLDER / "page.js").read_text(encoding="utf-8"),
        count=f"{len(rows)} model{'s' * (len(rows) != 1)}",
        how=escape(_HOW),
        sections=sections,
    )


def _section(rows: Sequence[WeightsInfo], costs: Sequence[Cost], metric: str, folder: Path) -> str:
    metrics = _metrics(rows)
    if metric in metrics:
        metrics = [metric, *(other for other in metrics if other != metric)]
    series = series_of(rows)
    styles = {name: index for index, name in enumerate(dict.fromkeys(series.values()))}
    figures = [
        _figure(rows, chosen, cost, styles)
        for chosen in metrics
        for cost in costs
        if points_of(rows, cost.values, chosen)
    ]
    # Without the script, the first chart of each section is shown.
    shown = figures[:1] + [figure.replace("<figure", "<figure hidden", 1) for figure in figures[1:]]
    legend = "\n".join(
        f'<label><input type="checkbox" checked data-series="{index}">{marker(index)}{escape(name)}</label>'
        for name, index in styles.items()
    )
    dataset, task = rows[0].dataset, rows[0].task
    return (
        f'<section data-dataset="{escape(dataset)}" data-task="{escape(task)}">\n'
        f"<h2>{escape(title_of(rows[0]))}</h2>\n"
        f'<fieldset class="legend"><legend>Methods</legend>\n{legend}\n</fieldset>\n'
        + ("\n".join(shown) or "<p>No metric of these models is published.</p>")
        + f"\n{_table(rows, metrics, costs, styles, series, folder)}\n</section>"
    )


def _metrics(rows: Sequence[WeightsInfo]) -> list[str]:
    """Return the published metrics: the leading one, then those that most models have."""
    found = [entry.metric for info in rows for entry in info.published]
    if not found:
        return []
    first = leading_metric(rows)
    return sorted(dict.fromkeys(found), key=lambda metric: (metric != first, -found.count(metric)))


def _figure(rows: Sequence[WeightsInfo], metric: str, cost: Cost, styles: Mapping[str, int]) -> str:
    points = points_of(rows, cost.values, metric)
    infos = {info.name: info for info in rows}
    tips = {point.name: _tip(infos[point.name], metric, cost) for point in points}
    links = {point.name: f"#{_anchor(point.name)}" for point in points}
    protocols = dict.fromkeys(
        entry.protocol for info in rows for entry in info.published if entry.metric == metric
    )
    # Counts hold for a size; throughputs have it too.
    sizes = list(dict.fromkeys(cost.notes[point.name] for point in points if point.name in cost.notes))
    caption = f"{metric}: {'; '.join(protocols)}"
    if sizes:
        caption += f". {cost.unit} {sizes[0] if len(sizes) == 1 else 'at several sizes: see each model'}"
    name = f"published {metric} against {cost.title}"
    return (
        f'<figure data-metric="{escape(metric)}" data-cost="{escape(cost.key)}" '
        f'data-cost-title="{escape(cost.title)}">\n'
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{escape(name)}">\n'
        f"{chart(points, cost, metric, styles, tips, links)}\n</svg>\n"
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
    )


def _tip(info: WeightsInfo, metric: str, cost: Cost) -> str:
    """Return what is shown for a point, a line each: model, metric, protocol, cost, command."""
    protocol = next(entry.protocol for entry in info.published if entry.metric == metric)
    value = f"{cost.values[info.name]:g} {cost.unit} {cost.notes.get(info.name, '')}".rstrip()
    lines = [
        info.name,
        f"{info.method}, {info.backbone}; pretraining: {info.pretraining}",
        f"{metric} {percent(info.value(metric))} %: {protocol}",
        value + (f" ({cost.title.partition(', ')[2]})" if cost.name == "throughput" else ""),
        _command(info),
    ]
    return "\n".join(lines)


def _command(info: WeightsInfo) -> str:
    words = ["predict", "--model", info.name, "--input", "photos/", "--output", "out/"]
    return shlex.join(["segzoo", *(words if info.url else ["train", "--config-file", info.name])])


def _anchor(name: str) -> str:
    return name.replace("/", ".")


def _table(
    rows: Sequence[WeightsInfo],
    metrics: Sequence[str],
    costs: Sequence[Cost],
    styles: Mapping[str, int],
    series: Mapping[str, str],
    folder: Path,
) -> str:
    names = ["model", "method", "backbone", *(f"{metric}, %" for metric in metrics)]
    names += [cost.title for cost in costs] + ["files", "command"]
    head = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in names)

    def line(info: WeightsInfo) -> Iterator[str]:
        yield f'<th scope="row">{escape(info.name.split("/")[-1])}</th>'
        yield f"<td>{escape(series[info.name])}</td><td>{escape(info.backbone)}</td>"
        for metric in metrics:
            value = info.value(metric)
            yield _number(value, "" if value is None else percent(value))
        for cost in costs:
            value = cost.values.get(info.name)
            yield _number(value, "" if value is None else f"{value:g}", cost.notes.get(info.name, ""))
        yield f"<td>{_links(info, folder)}</td><td><code>{escape(_command(info))}</code></td>"

    body = "\n".join(
        f'<tr id="{escape(_anchor(info.name))}" data-model="{escape(info.name)}" '
        f'data-series="{styles[series[info.name]]}" tabindex="-1">{"".join(line(info))}</tr>'
        for info in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table of models"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _number(value: float | None, text: str, note: str = "") -> str:
    if value is None:
        return "<td></td>"
    title = f' title="{escape(note)}"' if note else ""
    return f'<td class="number" data-value="{value!r}"{title}>{text}</td>'


def _links(info: WeightsInfo, folder: Path) -> str:
    config = os.path.relpath(config_root().resolve() / f"{info.name}.yaml", folder.resolve())
    links = [("config", Path(config).as_posix())]
    weights = info.url or info.page or info.folder
    if weights:
        links.append(("weights", weights))
    links.append(("paper", info.paper))
    return " ".join(
        f'<a href="{escape(address)}"{title}>{name}</a>'
        for name, address in links
        for title in (f' title="license: {escape(info.license)}"' if name == "weights" else "",)
    )


_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>segzoo: models of the zoo</title>
<style>
{style}</style>
</head>
<body>
<header><h1>Models of the zoo</h1><p>{count}. {how}</p></header>
<form class="filters" hidden>
<label>Dataset <select name="dataset"></select></label>
<label>Task <select name="task"></select></label>
<label>Metric <select name="metric"></select></label>
<label>Cost <select name="cost"></select></label>
<label>Search <input name="search" type="search" placeholder="name, method"></label>
<button type="button" name="theme">Light / dark</button>
</form>
<main>
{sections}
</main>
<div id="tip" role="status" hidden></div>
<script>
{script}</script>
</body>
</html>
"""
