"""Markdown tables of zoo models, for the pages in docs/zoo/."""

import shlex
from collections.abc import Iterable

from segzoo.model_zoo.records import Section, WeightsInfo

# From a page to the root of the repository.
UP = "../../"


def heading(section: Section) -> str:
    """Return the heading of a table, unique in its page."""
    return f"{section.method} ({section.source})" if section.source else section.method


def model_link(info: WeightsInfo) -> str:
    """Return the name of a model as a link to its configuration."""
    return f"[{info.name.split('/')[-1]}]({UP}configs/{info.name}.yaml)"


def section_text(section: Section) -> str:
    """Return a table with its heading, links, protocols and notes."""
    rows = section.models
    code = "official code" if not section.source else f"code of {section.source}"
    license = f" ({section.code_license})" if section.code_license else ""
    links = f"[paper]({section.links['paper']}), [{code}]({section.links['repository']}){license}"
    columns = _columns(section)
    text = [f"## {heading(section)}", "", f"{links}, [notes]({UP}{section.links['readme']})", ""]
    text += table_head(columns)
    text += ["| " + " | ".join(column(info) for column in columns.values()) + " |" for info in rows]
    text += ["", *_footnotes(section)]
    return "\n".join(text) + "\n"


def _columns(section: Section) -> dict:
    """Return {header: function from a model to its cell}, without columns that have no number."""
    numbers = {}
    for metric in section.metrics:
        # "mIoU paper" is what another source quotes from the method's paper.
        numbers[f"{metric}, {'quoted' if metric.endswith(' paper') else 'paper'}"] = (
            lambda info, metric=metric: number_text(info.value(metric))
        )
        numbers[f"{metric}, reproduced"] = lambda info, metric=metric: number_text(_own_metric(info, metric))
    numbers["params M, paper"] = lambda info: number_text(info.params, digits=0)
    numbers["params M, reproduced"] = lambda info: number_text(
        info.reproduced and info.reproduced.params, digits=2
    )
    numbers["GFLOPs, paper"] = lambda info: _at(number_text(info.gflops, digits=0), info.gflops_size)
    numbers["GFLOPs, reproduced"] = lambda info: (
        _at(number_text(info.reproduced.gflops), info.reproduced.size) if info.reproduced else "-"
    )
    numbers["training s/iteration, paper"] = lambda info: number_text(info.train_time, most=3)
    numbers["training h, paper"] = lambda info: number_text(info.train_hours)
    numbers["training GB per GPU, paper"] = lambda info: number_text(info.train_memory)
    shown = {
        name: column
        for name, column in numbers.items()
        if any(column(info) != "-" for info in section.models)
    }
    return {
        "model": lambda info: model_link(info),
        "backbone": lambda info: info.backbone,
        "pre-training": lambda info: info.pretraining,
        "schedule": lambda info: info.schedule,
        **shown,
        "weights": weights_links,
        "license of the weights": lambda info: info.license if has_link(info) else "-",
    }


def _own_metric(info: WeightsInfo, metric: str) -> float | None:
    return info.reproduced.metrics.get(metric) if info.reproduced else None


def number_text(value: float | None, digits: int = 1, most: int = 2) -> str:
    """Return a number with at least `digits` decimals, and up to `most` if they were published."""
    if value is None:
        return "-"
    text = f"{value:.{max(digits, most)}f}"
    while text[-1] == "0" and len(text.split(".")[1]) > digits:
        text = text[:-1]
    return text.rstrip(".")


def _at(number: str, size: tuple[int, int] | None) -> str:
    return number if number == "-" or size is None else f"{number} @ {size[0]}x{size[1]}"


def has_link(info: WeightsInfo) -> bool:
    """Return whether the official weights of a model are published."""
    return bool(info.url or info.page or info.folder)


def weights_links(info: WeightsInfo) -> str:
    """Return links to the official weights (or "none") and the log, with hashes."""
    places = [(info.model_id or "file", info.url), ("page", info.page), ("folder", info.folder)]
    cells = [f"[{text}]({address})" for text, address in places if address][:1] or ["none"]
    hashes = {"md5": info.md5_prefix, "sha256": info.sha256_prefix, "sha1 of the .params": info.sha1_prefix}
    for name, digits in hashes.items():
        cells += [f"{name} `{digits[:8]}`"] if digits else []
    return ", ".join(cells + ([f"[log]({info.log})"] if info.log else []))


def _footnotes(section: Section) -> list[str]:
    lines = []
    for metric, protocol in section.metrics.items():
        overrides = section.evaluate_with.get(metric)
        how = f" Evaluate with `{shlex.join(overrides)}`." if overrides else ""
        if any(info.value(metric) is not None or _own_metric(info, metric) for info in section.models):
            lines.append(f"- {metric}: {protocol}.{how}")
    for hardware in dict.fromkeys(info.trained_on for info in section.models if info.trained_on):
        lines.append(f"- training: on {hardware}.")
    lines += _unused_parameters(section)
    notes = [(info.name.split("/")[-1], info.note) for info in section.models if info.note]
    for note in dict.fromkeys(note for _, note in notes):
        models = [name for name, text in notes if text == note]
        lines.append(f"- {', '.join(models) if len(models) < len(section.models) else 'All'}: {note}.")
    return lines


def _unused_parameters(section: Section) -> list[str]:
    """Return a line for each set of modules that only the official code has, with its models."""
    owners: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for info in section.models:
        owners.setdefault(tuple(info.only_official.items()), []).append(info.name.split("/")[-1])
    lines = []
    for modules, names in owners.items():
        if modules:
            models = "All" if len(names) == len(section.models) else ", ".join(names)
            listed = ", ".join(f"`{module}` ({count:,})" for module, count in modules)
            lines.append(
                f"- {models}: unused parameters, only in the official code and weights: {listed}. The "
                "reproduced counts do not include them."
            )
    return lines


def table_head(columns: Iterable[str]) -> list[str]:
    """Return the first two lines of a Markdown table."""
    return ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
