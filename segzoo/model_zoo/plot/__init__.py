"""Pictures and a page of the zoo's models: a published metric against throughput, GFLOPs or parameters."""

from collections.abc import Sequence
from pathlib import Path

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text

from ..records import WeightsInfo
from .costs import Cost, costs_of
from .page import page
from .points import leading_metric, points_of, title_of, with_metric
from .svg import picture as svg_picture

SUFFIXES = (".html", ".png", ".svg")
__all__ = ["SUFFIXES", "Cost", "check_output", "write_page", "write_picture"]


def check_output(flag: str, output: Path) -> None:
    """Check that a file's name says what to write.

    Raises:
        InputError: another suffix.
    """
    if output.suffix not in SUFFIXES:
        raise InputError(f"{flag} {output}: expected a name ending in {', '.join(SUFFIXES)}")


def write_page(
    output: Path, rows: Sequence[WeightsInfo], measurements: Sequence[Path], metric: str = ""
) -> str:
    """Write a page of all given models, with those that have no metric in its tables only.

    Args:
        output: a name ending in .html.
        rows: models of any datasets and tasks.
        measurements: files of `tools/benchmark.py throughput --record`.
        metric: the metric that is shown first; "" for the first of each table.

    Returns:
        What was written, in a line.

    Raises:
        InputError: no model has the metric, or a file holds no measurements.
    """
    if metric:
        with_metric(rows, metric)
    text = page(rows, costs_of(rows, measurements), metric, output.parent)
    write_text(output, text)
    return f"{output}: {len(rows)} model{'s' * (len(rows) != 1)}"


def write_picture(
    output: Path, rows: Sequence[WeightsInfo], metric: str, cost: Cost, left_out: str = ""
) -> str:
    """Write a picture of the models of one dataset and task.

    Args:
        output: a name ending in .png or .svg.
        rows: models of one dataset; of one task, or `metric` belongs to one.
        metric: the vertical axis; "" for the first of their table.
        cost: the horizontal axis.
        left_out: words for the models that have no such cost.

    Returns:
        What was written, in a line.

    Raises:
        InputError: nothing to draw.
    """
    metric = metric or leading_metric(rows)
    rows = with_metric(rows, metric)
    points = points_of(rows, cost.values, metric)
    if not points:
        raise InputError(f"no model of {rows[0].dataset} has {metric} and {cost.name}; nothing to plot")
    title = f"{title_of(rows[0])}: published {metric}"
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".svg":
        write_text(output, svg_picture(points, cost, metric, title))
    else:
        # Imported here, since it takes half a second.
        from . import picture

        picture.draw(points, cost, metric, title).savefig(output)
    missing = len(rows) - len(points)
    note = f", {missing} left out for lack of {left_out or cost.name}" if missing else ""
    return f"{output}: {len(points)} {rows[0].task} models{note}"
