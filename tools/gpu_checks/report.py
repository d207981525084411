"""The Markdown page of `tools/gpu_check.py`."""

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(report: Mapping[str, Any]) -> str:
    """Return a page with a table for each section of the report; see `run_sections`."""
    small = ", small sizes: the figures mean nothing" if report["small"] else ""
    lines = ["# GPU check", "", f"Device: {report['device']}{small}."]
    lines += [line for problem in report.get("problems", ()) for line in ("", f"**{_cell(problem)}**")]
    for name, section in report["sections"].items():
        lines += ["", f"## {name}", "", f"{section['about']}; {section['seconds']} s."]
        if section["problem"]:
            lines += ["", f"**Incomplete**: {_cell(section['problem'])}"]
        if section["rows"]:
            lines += ["", *table(section["rows"])]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table whose columns are all names in the rows, in the order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    body = [[_cell(row.get(name, "")) for name in columns] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *body)]


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
