"""MODEL_ZOO.md, made from the tables so that its numbers are those that the code checks and loads."""

import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from segzoo.model_zoo.records import Section, WeightsInfo
from segzoo.model_zoo.registry import sections
from segzoo.utils.errors import InputError

_INTRODUCTION = """# Model zoo

Made by `python tools/make_model_zoo.py` from `segzoo/model_zoo/weights/*.yaml`; do not edit it by hand.

- *paper* columns are what the authors publish, in their paper, model zoo or readme. *reproduced* columns are
  measured with segzoo: parameters (10^6) and GFLOPs (10^9 multiply-adds of one forward pass, counted as
  fvcore counts) by `tools/analyze_model.py` at the stated height x width, metrics by an evaluation of the
  linked file or of a training with the linked configuration. A dash means not published or not measured; a
  column without any number is left out.
- Metrics are in percent. Under each table stands how they were measured; compare only what was measured
  alike: *ms* is an average over image sizes and flips, *flip* over an image and its mirror image, *crop* is
  the score of a centre crop, *test* that of a benchmark's server on its test images, and *quoted* what the
  source of the table cites from the method's paper.
- No weights are redistributed. The links lead to the authors' files, which load as they are: with
  `MODEL.WEIGHTS URL` on the command line or `model_zoo.get(NAME, weights="official")`. A published hash is
  checked when the file is loaded. *folder* and *page* are for your browser: download the file and give its
  path.
- **Mind the licence of the weights**, which is not that of this code.
- The commands are for eight GPUs; with fewer, `SOLVER.ACCUMULATE` keeps the batch.
"""

_TASKS = ("semantic", "panoptic", "instance", "entity")

# Models that the authors of the methods here publish, too; those that get rows are no longer called missing.
_ALSO_PUBLISHED = (
    ("MaskFormer", "panoptic", "ade20k", "ADE20K panoptic"),
    ("Mask2Former", "semantic", "cityscapes", "Cityscapes semantic"),
    ("Mask2Former", "panoptic", "cityscapes", "Cityscapes panoptic"),
    ("Mask2Former", "instance", "cityscapes", "Cityscapes instances"),
    ("Mask2Former", "panoptic", "ade20k", "ADE20K panoptic"),
    ("Mask2Former", "instance", "ade20k", "ADE20K instances"),
    ("Mask2Former", "instance", "coco", "COCO instances"),
    ("Mask2Former", "semantic", "mapillary_vistas", "Mapillary Vistas semantic"),
    ("Mask2Former", "panoptic", "mapillary_vistas", "Mapillary Vistas panoptic"),
)


def render(root: Path | None = None) -> str:
    """The text of MODEL_ZOO.md.

    Args:
        root: the repository, whose pictures `assets/zoo_*.png` (see tools/plot_zoo.py) are shown.
    """
    ordered = sorted(sections(), key=_order)
    anchors = _anchors(ordered)
    text = [_INTRODUCTION + _not_here_yet(), *_pictures(root)]
    text += [*_index_by_dataset(ordered, anchors), *_index_by_method(ordered, anchors)]
    for title, group in groupby(ordered, key=lambda section: section.title):
        text.append(f"## {title}\n")
        text += [_section(section) for section in group]
    return "\n".join(text)


def _order(section: Section) -> tuple[int, str]:
    """By task and dataset; the methods of a dataset as the tables are read."""
    return _TASKS.index(section.models[0].task), section.title


def heading(section: Section) -> str:
    """What stands over a table, unique in the document."""
    source = f" ({section.source})" if section.source else ""
    return f"{section.method}: {section.title}{source}"


def _anchors(ordered: Sequence[Section]) -> dict[str, str]:
    """Heading -> the end of a link to it as GitHub makes it, which numbers those that would be equal.

    Raises:
        InputError: two tables with one heading.
    """
    headings = []
    for title, group in groupby(ordered, key=lambda section: section.title):
        headings += [title, *(heading(section) for section in group)]
    anchors: dict[str, str] = {}
    used: Counter[str] = Counter()
    for text in headings:
        if text in anchors:
            raise InputError(f"two sections are called {text!r}; give each of them another `source`")
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        anchors[text] = f"#{slug}-{used[slug]}" if used[slug] else f"#{slug}"
        used[slug] += 1
    return anchors


def _not_here_yet() -> str:
    here = {(info.method, info.task, info.dataset) for section in sections() for info in section.models}
    missing: dict[str, list[str]] = {}
    for method, task, dataset, words in _ALSO_PUBLISHED:
        if (method, task, dataset) not in here:
            missing.setdefault(method, []).append(words)
    listed = [f"{method} on {', '.join(words)}" for method, words in missing.items()]
    lines = [f"Published by the same authors and not here yet: {'; '.join(listed)}."] if listed else []
    return "".join(
        textwrap.fill(line, 110, initial_indent="- ", subsequent_indent="  ") + "\n" for line in lines
    )


def _pictures(root: Path | None) -> list[str]:
    files = sorted(root.glob("assets/zoo_*.png")) if root else []
    return [f"![published results of {file.stem[4:]}](assets/{file.name})\n" for file in files]


def _index_by_dataset(ordered: Sequence[Section], anchors: dict[str, str]) -> list[str]:
    lines = _table_head(["dataset and task", "models", "methods"])
    for title, group in groupby(ordered, key=lambda section: section.title):
        listed = list(group)
        links = [f"[{_short(section)}]({anchors[heading(section)]})" for section in listed]
        models = sum(len(section.models) for section in listed)
        lines.append(f"| [{title}]({anchors[title]}) | {models} | {', '.join(links)} |")
    return ["## By dataset\n", "\n".join(lines) + "\n"]


def _index_by_method(ordered: Sequence[Section], anchors: dict[str, str]) -> list[str]:
    lines = _table_head(["method", "models", "paper", "notes", "tables"])
    for method in sorted({section.method for section in ordered}, key=str.lower):
        own = [section for section in ordered if section.method == method]
        links = [
            f"[{section.title}{f' ({section.source})' * bool(section.source)}]({anchors[heading(section)]})"
            for section in own
        ]
        first = own[0].links
        models = sum(len(section.models) for section in own)
        lines.append(
            f"| {method} | {models} | [paper]({first['paper']}) | [readme]({first['readme']}) "
            f"| {'; '.join(links)} |"
        )
    return ["## By method\n", "\n".join(lines) + "\n"]


def _short(section: Section) -> str:
    return f"{section.method} ({section.source})" if section.source else section.method


def _section(section: Section) -> str:
    """A table with its sources, protocols, notes and commands."""
    rows = section.models
    code = "official code" if not section.source else f"code of {section.source}"
    licence = f" ({section.code_licence})" if section.code_licence else ""
    links = f"[paper]({section.links['paper']}), [{code}]({section.links['repository']}){licence}"
    columns = _columns(section)
    text = [f"### {heading(section)}", "", f"{links}, [notes]({section.links['readme']})", ""]
    text += _table_head(columns)
    text += ["| " + " | ".join(column(info) for column in columns.values()) + " |" for info in rows]
    text += ["", *_footnotes(section), "", *_commands(section)]
    return "\n".join(text) + "\n"


def _columns(section: Section) -> dict:
    """Header -> what stands under it; columns of numbers are left out where no row has one."""
    numbers = {}
    for metric in section.metrics:
        # "mIoU paper" is what another source quotes from the method's paper.
        numbers[f"{metric}, {'quoted' if metric.endswith(' paper') else 'paper'}"] = (
            lambda info, metric=metric: _number(info.value(metric))
        )
        numbers[f"{metric}, reproduced"] = lambda info, metric=metric: _number(_own_metric(info, metric))
    numbers["params M, paper"] = lambda info: _number(info.params, digits=0)
    numbers["params M, reproduced"] = lambda info: _number(
        info.reproduced and info.reproduced.params, digits=2
    )
    numbers["GFLOPs, paper"] = lambda info: _at(_number(info.gflops, digits=0), info.gflops_size)
    numbers["GFLOPs, reproduced"] = lambda info: (
        _at(_number(info.reproduced.gflops), info.reproduced.size) if info.reproduced else "-"
    )
    shown = {
        name: column
        for name, column in numbers.items()
        if any(column(info) != "-" for info in section.models)
    }
    return {
        "model": lambda info: f"[{info.name.split('/')[-1]}](configs/{info.name}.yaml)",
        "backbone": lambda info: info.backbone,
        "pre-training": lambda info: info.pretraining,
        "schedule": lambda info: info.schedule,
        **shown,
        "weights": _links,
        "licence of the weights": lambda info: info.licence if _has_link(info) else "-",
    }


def _own_metric(info: WeightsInfo, metric: str) -> float | None:
    return info.reproduced.metrics.get(metric) if info.reproduced else None


def _number(value: float | None, digits: int = 1) -> str:
    """With at least that many digits after the point, and as many more (up to two) as were published."""
    if value is None:
        return "-"
    text = f"{value:.{max(digits, 2)}f}"
    while text[-1] == "0" and len(text.split(".")[1]) > digits:
        text = text[:-1]
    return text.rstrip(".")


def _at(number: str, size: tuple[int, int] | None) -> str:
    return number if number == "-" or size is None else f"{number} @ {size[0]}x{size[1]}"


def _has_link(info: WeightsInfo) -> bool:
    return bool(info.url or info.page or info.folder)


def _links(info: WeightsInfo) -> str:
    places = [(info.model_id or "file", info.url), ("page", info.page), ("folder", info.folder)]
    cells = [f"[{text}]({address})" for text, address in places if address][:1] or ["none"]
    for name, digits in (("md5", info.md5_prefix), ("sha256", info.sha256_prefix)):
        cells += [f"{name} `{digits[:8]}`"] if digits else []
    return ", ".join(cells + ([f"[log]({info.log})"] if info.log else []))


def _footnotes(section: Section) -> list[str]:
    lines = []
    for metric, protocol in section.metrics.items():
        overrides = section.evaluate_with.get(metric)
        how = f" Evaluate with `{shlex.join(overrides)}`." if overrides else ""
        if any(info.value(metric) is not None or _own_metric(info, metric) for info in section.models):
            lines.append(f"- {metric}: {protocol}.{how}")
    for module, count in section.models[0].only_official.items():
        lines.append(
            f"- Only in the official code and files: `{module}`, {count:,} parameters that nothing uses; "
            "they are not in the reproduced counts."
        )
    notes = [(info.name.split("/")[-1], info.note) for info in section.models if info.note]
    for note in dict.fromkeys(note for _, note in notes):
        models = [name for name, text in notes if text == note]
        lines.append(f"- {', '.join(models) if len(models) < len(section.models) else 'All'}: {note}.")
    return lines


def _commands(section: Section) -> list[str]:
    lines = ["<details><summary>Commands</summary>", "", "```"]
    for info in section.models:
        config = f"--config-file configs/{info.name}.yaml"
        lines.append(f"python tools/train_net.py --num-gpus 8 {config}")
        if _has_link(info):
            lines.append(f"python tools/train_net.py --num-gpus 8 --eval-only {config} \\")
            lines.append(f"    MODEL.WEIGHTS {info.url or 'DOWNLOADED_FILE'}")
    return [*lines, "```", "", "</details>"]


def _table_head(columns: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
