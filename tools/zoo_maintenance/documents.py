"""MODEL_ZOO.md and docs/zoo/, made from the tables, whose numbers the code loads and checks."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest
from pathlib import Path

from segzoo.model_zoo.records import Section, WeightsInfo
from segzoo.model_zoo.registry import sections

from .tables import (
    has_link,
    heading,
    model_link,
    number_text,
    section_text,
    table_head,
    weights_links,
)

INDEX, PAGES = "MODEL_ZOO.md", "docs/zoo"
# Rows of the first table of a page, which a screen shows at once.
OVERVIEW_ROWS = 20

_MADE = (
    "Made by `python tools/make_model_zoo.py` from `segzoo/model_zoo/weights/*.yaml`; do not edit it by hand."
)
_ACCURACIES = """**Accuracies are the authors', as published: {reproduced} been reproduced with segzoo yet.**
Parameters and GFLOPs are counted with segzoo where a column says *reproduced*."""

_READING = """## How to read the pages

- *paper* columns are what the authors publish, in their paper, model zoo or readme. *reproduced* columns are
  measured with segzoo: parameters (10^6) and GFLOPs (10^9 multiply-adds of one forward pass, counted as
  fvcore counts) by `segzoo analyze` at the stated height x width, metrics by an evaluation of the linked file
  or of a training with the linked configuration. A dash means not published or not measured; a column without
  any number is left out.
- Metrics are in percent. Under each table stands how they were measured; compare only what was measured
  alike: *ms* is an average over image sizes and flips, *flip* over an image and its mirror image, *crop* is
  the score of a center crop, *test* that of a benchmark's server on its test images, and *quoted* what the
  source of the table cites from the method's paper.
- No weights are redistributed. The links lead to the authors' files, which load as they are. A published hash
  is checked when the file is loaded. *folder* and *page* are for your browser: download the file and give its
  path.
- **Mind the license of the weights**, which is not that of this code.
"""

_COMMANDS = """```
segzoo zoo --task semantic --dataset ade20k --max-params 50   # list, by task, dataset, size, license
segzoo zoo semantic/ade20k/segformer_mit_b2                    # all that is known about one, and its commands
segzoo zoo panoptic/coco/mask2former_r50 --download            # its official weights
```
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


def documents(root: Path | None = None) -> dict[str, str]:
    """Return the text of each document by its path below the repository.

    Args:
        root: the repository, whose pictures `assets/zoo_*.png` (see tools/plot_zoo.py) are shown.
    """
    pages = {
        title: list(group)
        for title, group in groupby(sorted(sections(), key=_order), key=lambda one: one.title)
    }
    texts = {INDEX: _index(pages, root)}
    return texts | {f"{PAGES}/{_file(group)}": _page(title, group) for title, group in pages.items()}


def _order(section: Section) -> tuple[int, str]:
    """By task and dataset; the methods of a dataset as the tables are read."""
    return _TASKS.index(section.models[0].task), section.title


def _file(group: Sequence[Section]) -> str:
    """The page of a dataset and task."""
    info = group[0].models[0]
    return f"{info.dataset}_{info.task}.md"


def _slugs(group: Sequence[Section]) -> list[str]:
    """The ends of links to the tables of a page as GitHub makes them of headings; equal ones are numbered."""
    slugs: list[str] = []
    used: Counter[str] = Counter()
    for section in group:
        slug = "".join(c for c in heading(section).lower() if c.isalnum() or c in "-_ ").replace(" ", "-")
        slugs.append(f"{slug}-{used[slug]}" if used[slug] else slug)
        used[slug] += 1
    return slugs


def _index(pages: dict[str, list[Section]], root: Path | None) -> str:
    models = [info for group in pages.values() for section in group for info in section.models]
    text = ["# Model zoo\n", f"{len(models)} models. {_reproduced(models)}\n", _COMMANDS]
    text += ["## By dataset and task\n", *_by_dataset(pages), "", "## By method\n", *_by_method(pages), ""]
    text += [_READING + _not_here_yet(models), *_pictures(root), _MADE]
    return "\n".join(text) + "\n"


def _reproduced(models: Sequence[WeightsInfo]) -> str:
    count = sum(bool(info.reproduced and info.reproduced.metrics) for info in models)
    return _ACCURACIES.format(reproduced=f"{count} of {len(models)} have" if count else "none has")


def _by_dataset(pages: dict[str, list[Section]]) -> Iterator[str]:
    yield from table_head(["dataset and task", "models", "methods"])
    for title, group in pages.items():
        models = sum(len(section.models) for section in group)
        methods = dict.fromkeys(section.method for section in group)
        yield f"| [{title}]({PAGES}/{_file(group)}) | {models} | {', '.join(methods)} |"


def _by_method(pages: dict[str, list[Section]]) -> Iterator[str]:
    own: dict[str, list[tuple[str, Section]]] = {}
    for group in pages.values():
        for section, slug in zip(group, _slugs(group), strict=True):
            own.setdefault(section.method, []).append((f"{_file(group)}#{slug}", section))
    yield from table_head(["method", "models", "paper", "notes", "pages"])
    for method, places in sorted(own.items(), key=lambda pair: pair[0].lower()):
        links = [f"[{section.title}]({PAGES}/{place})" for place, section in places]
        first = places[0][1].links
        paper, readme = f"[paper]({first['paper']})", f"[readme]({first['readme']})"
        models = sum(len(section.models) for _, section in places)
        yield f"| {method} | {models} | {paper} | {readme} | {'; '.join(links)} |"


def _not_here_yet(models: Sequence[WeightsInfo]) -> str:
    here = {(info.method, info.task, info.dataset) for info in models}
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


def _page(title: str, group: Sequence[Section]) -> str:
    models = [info for section in group for info in section.models]
    info = models[0]
    shown = _overview(group)
    text = [
        f"# {title}\n",
        f"{_reproduced(models)} [How to read the tables](../../MODEL_ZOO.md#how-to-read-the-pages).\n",
    ]
    some = f"{len(shown)} of {len(models)} models, of every method; all are [below](#{_slugs(group)[0]})."
    text += [
        "## Overview\n",
        *([f"{some}\n"] if len(shown) < len(models) else []),
        *_overview_table(shown),
        "",
    ]
    text += [
        "```",
        f"NAME={info.name}  # any model of this page",
        "segzoo train --num-gpus 8 --config-file $NAME  # fewer GPUs: SOLVER.ACCUMULATE keeps the batch",
        "segzoo zoo $NAME --download                    # prints the FILE of the official weights",
        "segzoo evaluate --num-gpus 8 --config-file $NAME --weights FILE",
        "segzoo predict --config-file $NAME --weights FILE --input photos/ --output out/",
        "```\n",
        *(section_text(section) for section in group),
        _MADE,
    ]
    return "\n".join(text) + "\n"


def _overview(group: Sequence[Section]) -> list[tuple[Section, WeightsInfo]]:
    """At most OVERVIEW_ROWS models, in the order of the tables: the best of each, then the second, ..."""
    ranked = [
        sorted(section.models, key=lambda info, section=section: -(_main_value(section, info) or 0))
        for section in group
    ]
    chosen: set[str] = set()
    for row in zip_longest(*ranked):
        for info in row:
            if info is not None and len(chosen) < OVERVIEW_ROWS:
                chosen.add(info.name)
    return [(section, info) for section in group for info in section.models if info.name in chosen]


def _main_value(section: Section, info: WeightsInfo) -> float | None:
    return info.value(next(iter(section.metrics), ""))


def _overview_table(rows: Sequence[tuple[Section, WeightsInfo]]) -> Iterator[str]:
    yield from table_head(["model", "backbone", "published", "params M", "GFLOPs", "weights", "license"])
    for section, info in rows:
        metric = next(iter(section.metrics), "")
        value = _main_value(section, info)
        measured = info.reproduced
        cells = [
            model_link(info),
            info.backbone,
            "-" if value is None else f"{number_text(value)} {metric}",
            number_text(measured.params if measured else info.params),
            number_text(measured.gflops if measured else info.gflops, digits=0),
            weights_links(info).split(", ")[0],
            info.license if has_link(info) else "-",
        ]
        yield "| " + " | ".join(cells) + " |"
