"""What is known about published weights: the tables in `weights/*.yaml`, read and checked."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segzoo.errors import InputError

_TABLES = Path(__file__).parent / "weights"
_MD5_IN_NAME = re.compile(r"_([0-9a-f]{6})\.pkl$")


@dataclass(frozen=True)
class Published:
    """A published metric in percent, and how it was measured."""

    metric: str
    value: float
    protocol: str


@dataclass(frozen=True)
class Measured:
    """What was measured on an implementation, the official one or segzoo's.

    Attributes:
        params: parameters, in millions.
        gflops: multiply-adds of one forward pass up to the raw outputs, in 10^9.
        size: height and width of that pass.
        metrics: metric -> percent.
    """

    params: float
    gflops: float
    size: tuple[int, int]
    metrics: dict[str, float]


@dataclass(frozen=True)
class WeightsInfo:
    """A model of the zoo as its authors publish it.

    Attributes:
        name: the configuration's name: `semantic/ade20k/maskformer_r50`.
        method: the paper's name for it.
        backbone: with what the paper adds to it.
        pretraining: what the backbone was trained on before: IN-1k | IN-21k | none.
        schedule: iterations, batch, crop.
        url: the official file; "" if none is published.
        md5_prefix: first hex digits of its md5, "" if not published.
        licence: of the weights.
        published: the metrics, each with its protocol.
        params: parameters in millions, as published; None if they are not.
        gflops: multiply-adds in 10^9, as published; None if they are not.
        model_id: the authors' name of the training run.
        note: anything a user should know.
        official_code: what the authors' code measures with fvcore, at one size; None if not known.
        reproduced: what segzoo measured; None if nothing.
    """

    name: str
    method: str
    backbone: str
    pretraining: str
    schedule: str
    url: str
    md5_prefix: str
    licence: str
    published: tuple[Published, ...]
    params: float | None
    gflops: float | None
    model_id: str
    note: str
    official_code: Measured | None
    reproduced: Measured | None


@dataclass(frozen=True)
class Section:
    """Models that are compared with each other: one method on one dataset.

    Attributes:
        method: the paper's name for it.
        links: paper, repository and readme addresses by what they are.
        title: dataset and task.
        metrics: metric -> protocol, in the order of the columns.
        models: in the order of the rows.
    """

    method: str
    links: dict[str, str]
    title: str
    metrics: dict[str, str]
    models: tuple[WeightsInfo, ...]


def official_weights(name: str) -> WeightsInfo:
    """The official weights of a configuration.

    Raises:
        InputError: the zoo knows no official weights for it.
    """
    info = known_models().get(name)
    if info is None or not info.url:
        reason = f" ({info.note})" if info and info.note else ""
        raise InputError(
            f"{name} has no official weights{reason}; give a path or URL, or None for random weights"
        )
    return info


@functools.cache
def known_models() -> dict[str, WeightsInfo]:
    """All models of the tables, with and without official weights, by configuration name."""
    return {info.name: info for section in sections() for info in section.models}


@functools.cache
def sections() -> tuple[Section, ...]:
    """The tables, in alphabetical order of their files."""
    return tuple(section for file in sorted(_TABLES.glob("*.yaml")) for section in _read(file))


def _read(file: Path) -> Iterator[Section]:
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    links = {key: table[key] for key in ("paper", "repository", "readme")}
    for section in table["sections"]:
        metrics = section["metrics"]
        models = tuple(_info(table, metrics, name, dict(row)) for name, row in section["models"].items())
        yield Section(table["method"], links, section["title"], metrics, models)


def _info(table: dict[str, Any], metrics: dict[str, str], name: str, row: dict[str, Any]) -> WeightsInfo:
    file = row.pop("file", "")
    md5 = _MD5_IN_NAME.search(file)
    published = tuple(
        Published(metric, float(row.pop(metric)), protocol)
        for metric, protocol in metrics.items()
        if metric in row
    )
    return WeightsInfo(
        name=name,
        method=table["method"],
        url=table["url_prefix"] + file if file else "",
        md5_prefix=md5.group(1) if md5 else "",
        licence=table["weights_licence"],
        published=published,
        params=row.pop("params", None),
        gflops=row.pop("gflops", None),
        model_id=row.pop("model_id", ""),
        note=row.pop("note", ""),
        official_code=_measured(row.pop("official_code", None)),
        reproduced=_measured(row.pop("reproduced", None)),
        **row,
    )


def _measured(row: dict[str, Any] | None) -> Measured | None:
    if row is None:
        return None
    return Measured(row["params"], row["gflops"], tuple(row["size"]), row.get("metrics", {}))
