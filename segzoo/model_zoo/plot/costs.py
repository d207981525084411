"""What a model costs: the horizontal axes, from the zoo's tables and from measurements of throughput."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segzoo.utils.errors import InputError

from ..records import WeightsInfo

# Conditions that must be equal for throughputs to be comparable.
CONDITIONS = ("device", "threads", "precision", "batch", "torch")


@dataclass(frozen=True)
class Cost:
    """A horizontal axis.

    Attributes:
        key: identifier of letters, digits and "-".
        name: in messages: gflops | throughput | params.
        title: of the axis, with the unit.
        unit: of a value, as in "12.5 GFLOPs".
        values: of each model that has one.
        less_is_better: whether models to the left are better.
        notes: what to say beside a model's value, such as its image size.
    """

    key: str
    name: str
    title: str
    unit: str
    values: Mapping[str, float]
    less_is_better: bool = True
    notes: Mapping[str, str] = field(default_factory=dict)


def costs_of(rows: Sequence[WeightsInfo], files: Sequence[Path]) -> list[Cost]:
    """Return the axes of a page: measured throughputs first, one for each set of conditions, then the counts.

    Raises:
        InputError: a file holds no measurements.
    """
    names = {info.name for info in rows}
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for record in read_records(files):
        if record["name"] in names:
            groups.setdefault(tuple(str(record[key]) for key in CONDITIONS), []).append(record)
    measured = [
        throughput(records, files, key=f"throughput-{i}") for i, records in enumerate(groups.values())
    ]
    return [*measured, counted_gflops(rows), counted_params(rows)]


def counted_gflops(rows: Sequence[WeightsInfo]) -> Cost:
    """Return the recorded counts, each at the size of its row."""
    counts = {info.name: info.reproduced for info in rows if info.reproduced}
    return Cost(
        "gflops",
        "gflops",
        "GFLOPs (10⁹ multiply-adds)",
        "GFLOPs",
        {name: count.gflops for name, count in counts.items()},
        notes={name: "at {}x{}".format(*count.size) for name, count in counts.items()},
    )


def counted_params(rows: Sequence[WeightsInfo]) -> Cost:
    """Return the recorded numbers of parameters."""
    values = {info.name: info.reproduced.params for info in rows if info.reproduced}
    return Cost("params", "params", "parameters, 10⁶", "M parameters", values)


def throughput(records: Sequence[Mapping[str, Any]], files: Sequence[Path], key: str = "throughput") -> Cost:
    """Return the measured throughputs, all made under the same conditions.

    Raises:
        InputError: records that are not comparable, or two of a model.
    """
    names = [record["name"] for record in records]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} was measured more than once (sizes or files); keep one of the records")
    for condition in CONDITIONS:
        found = sorted({str(record[condition]) for record in records})
        if len(found) > 1:
            raise InputError(
                f"{', '.join(str(file) for file in files)}: measured with {condition} {' and '.join(found)}, "
                "which cannot be compared in one plot; measure again or give files with the same conditions"
            )
    return Cost(
        key,
        "throughput",
        f"images/s, {describe_conditions(records[0])}",
        "images/s",
        {record["name"]: record["images_per_second"] for record in records},
        less_is_better=False,
        notes={record["name"]: "at {}x{}".format(*record["size"]) for record in records},
    )


def read_records(files: Sequence[Path], precision: str = "") -> list[dict[str, Any]]:
    """Return the measurements in files, of one precision if given.

    Raises:
        InputError: another file, or none of the precision.
    """
    records: list[dict[str, Any]] = []
    for file in files:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))["measurements"]
            for record in found:
                if not {"name", "kind", *CONDITIONS} <= set(record) or len(record["size"]) != 2:
                    raise KeyError
                if not record["images_per_second"] > 0:
                    raise ValueError
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file}: no measurements ({type(error).__name__}); "
                "write them with tools/benchmark.py throughput --record"
            ) from None
        records += found
    if files and not records:
        raise InputError(
            f"{files[0]}: holds no measurement; add some with tools/benchmark.py throughput --record"
        )
    chosen = [record for record in records if precision in ("", record["precision"])]
    if records and not chosen:
        known = sorted({record["precision"] for record in records})
        raise InputError(f"--precision {precision}: nothing was measured with it; found: {', '.join(known)}")
    return chosen


def describe_conditions(record: Mapping[str, Any]) -> str:
    """Return the conditions of a measurement in words."""
    count = record["threads"]
    threads = f", {count} thread{'s' * (count != 1)}" if record["kind"] == "cpu" else ""
    where = f"{record['device']}{threads}"
    return f"{where}, batch {record['batch']}, {record['precision']}, torch {record['torch']}"
