"""`segzoo zoo`: list the models of the zoo, show one, or download its official weights."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from segzoo.utils.commands import command_line
from segzoo.utils.errors import InputError
from segzoo.utils.published_names import known_names
from segzoo.utils.tasks import TASKS
from segzoo.utils.text import did_you_mean

from .command import command
from .parser import EXIT_STATUS, CommandLine, path_value

if TYPE_CHECKING:
    from segzoo.model_zoo.records import WeightsInfo
    from segzoo.model_zoo.search import Entry

EXAMPLES = f"""
examples:
  all models of a task on a dataset, the most accurate first:
    %(prog)s --task semantic --dataset ade20k
  by words of their names, up to a size, with weights under a license:
    %(prog)s segformer b2
    %(prog)s --task panoptic --max-params 50
    %(prog)s --license mit
  the details of one, and the commands that train, test and use it:
    %(prog)s panoptic/coco/mask2former_r50
  its official weights, into the cache; prints the file:
    %(prog)s panoptic/coco/mask2former_r50 --download
  the published accuracies against GFLOPs and parameters, or a measured throughput, as a page or a picture:
    %(prog)s --plot zoo.html
    %(prog)s --dataset ade20k --task semantic --plot zoo.svg --metric "mIoU ms" --x params
    %(prog)s --dataset ade20k --plot zoo.html --measurements images_per_second.json

Accuracies are the published ones, in percent; the page of a model says how each was measured, and only those
measured alike can be compared. Parameters are in millions, as segzoo counts them. WEIGHTS is link for a file
that --download gets, page for one that has to be downloaded in a browser. Weights belong to their authors:
mind their license, which is not segzoo's.

{EXIT_STATUS}
"""


def build_parser() -> CommandLine:
    """Return the parser of the command."""
    parser = CommandLine(
        "zoo", description="List the models of the zoo, show one, or download its weights.", epilog=EXAMPLES
    )
    parser.add_argument(
        "search", nargs="*", metavar="NAME | WORD", help="a model's name, or words to search for"
    )
    which = parser.group("selection")
    which.add_argument("--task", choices=sorted(TASKS), help="only models of this task")
    which.add_argument(
        "--dataset", metavar="NAME", help="only models of this dataset, as in their names: ade20k, coco"
    )
    which.add_argument(
        "--license", "--licence", metavar="TEXT", help="only weights whose license contains this"
    )
    which.add_argument("--max-params", type=float, metavar="M", help="only models up to M million parameters")
    which.add_argument(
        "--with-weights", action="store_true", help="only models with official weights that --download gets"
    )
    what = parser.group("output")
    what.add_argument(
        "--download", action="store_true", help="download the official weights of the model NAME"
    )
    what.add_argument("--json", action="store_true", help="print JSON")
    plot = parser.group("plot")
    plot.add_argument(
        "--plot",
        type=path_value,
        metavar="FILE.html|.svg|.png",
        help="write a page of the chosen models, or a picture of those of one dataset and task",
    )
    plot.add_argument(
        "--metric", default="", help='as MODEL_ZOO.md calls it: mIoU (default), PQ, "mIoU ms", ...'
    )
    plot.add_argument(
        "--x",
        choices=["throughput", "gflops", "params"],
        help="horizontal axis of a picture; default: throughput with --measurements, else gflops",
    )
    plot.add_argument(
        "--measurements",
        type=path_value,
        nargs="+",
        default=[],
        metavar="FILE",
        help="throughputs that tools/benchmark.py throughput --record or tools/gpu_check.py wrote",
    )
    plot.add_argument("--precision", default="", help="of a picture's throughputs: fp32, bf16 or fp16")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """List, show or download.

    Raises:
        InputError: no such model, dataset or license.
    """
    from segzoo.config.files import zoo_name
    from segzoo.model_zoo.search import all_entries, find_models, similar_name

    if arguments.plot is None:
        for flag in ("metric", "x", "measurements", "precision"):
            if getattr(arguments, flag):
                raise InputError(f"--{flag} is for --plot FILE; give both or neither")
    else:
        for flag in ("json", "download"):
            if getattr(arguments, flag):
                raise InputError(f"--{flag} does not go with --plot FILE; leave one of them out")
    entries = all_entries()
    names = {entry.name: entry for entry in entries}
    name = zoo_name(arguments.search[0]) if len(arguments.search) == 1 else ""
    if name in names and arguments.plot is None:
        return _download(name) if arguments.download else _show(names[name], arguments.json)
    if ("/" in name and name not in names) or arguments.download:
        given = " ".join(arguments.search)
        if not given:
            raise InputError("--download needs the NAME of a model; without it, all names are listed")
        raise InputError(f"the zoo has no model {given}{did_you_mean(name, [*names, *known_names()])}")
    datasets = sorted({entry.name.split("/")[1] for entry in entries})
    if arguments.dataset and arguments.dataset not in datasets:
        hint = did_you_mean(arguments.dataset, datasets) or f"; expected one of {', '.join(datasets)}"
        raise InputError(f"--dataset {arguments.dataset}: no model of the zoo was trained on it{hint}")
    if name in names:
        found = [names[name]]
    else:
        found = find_models(
            entries,
            task=arguments.task or "",
            dataset=arguments.dataset or "",
            text=" ".join(arguments.search),
            license=arguments.license or "",
            max_params=arguments.max_params,
            with_weights=arguments.with_weights,
        )
    if not found:
        licenses = sorted({entry.info.license for entry in entries if entry.info})
        listed = f"; licenses are: {'; '.join(licenses)}" if arguments.license else ""
        hint = similar_name(entries, " ".join(arguments.search)) if arguments.search else ""
        raise InputError(f"no model of the zoo meets all of that{hint}{listed}")
    found.sort(key=lambda entry: (*entry.name.split("/")[:2], -(entry.value or 0), entry.name))
    if arguments.plot is not None:
        print(_plot(arguments, [entry.info for entry in found if entry.info]))
    elif arguments.json:
        print(json.dumps([_as_json(entry) for entry in found], indent=1))
    else:
        for line in _table(found):
            print(line)
    return 0


def _plot(arguments: argparse.Namespace, rows: Sequence["WeightsInfo"]) -> str:
    """Write the page or the picture; return a line that says so."""
    from segzoo.model_zoo.plot import check_output, costs, write_page, write_picture

    check_output("--plot", arguments.plot)
    if arguments.plot.suffix == ".html":
        if arguments.x or arguments.precision:
            raise InputError("--x and --precision are for pictures: a page has all axes; leave them out")
        return write_page(arguments.plot, rows, arguments.measurements, arguments.metric)
    places = sorted({f"--dataset {info.dataset} --task {info.task}" for info in rows})
    if len(places) > 1:
        raise InputError(
            f"--plot {arguments.plot}: a picture shows one dataset and task; add one of "
            f"{' | '.join(places)}, or write a page (.html)"
        )
    kind = arguments.x or ("throughput" if arguments.measurements else "gflops")
    if (kind == "throughput") != bool(arguments.measurements):
        raise InputError("--x throughput and --measurements FILE go together; give both or neither")
    if kind == "throughput":
        records = costs.read_records(arguments.measurements, arguments.precision)
        cost = costs.throughput(records, arguments.measurements)
    else:
        cost = (costs.counted_gflops if kind == "gflops" else costs.counted_params)(rows)
    return write_picture(arguments.plot, rows, arguments.metric, cost)


def _table(found: Sequence["Entry"]) -> Iterator[str]:
    rows = [("NAME", "METRIC", "%", "PARAMS", "WEIGHTS", "LICENSE OF THE WEIGHTS")]
    for entry in found:
        license = entry.info.license if entry.info and entry.weights != "none" else "-"
        rows.append(
            (
                entry.name,
                entry.metric or "-",
                _number(entry.value, 1),
                _number(entry.params, 1),
                entry.weights,
                license,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        yield "  ".join(
            cell.rjust(width) if column in (2, 3) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, [*widths, 0], strict=True))
        ).rstrip()
    yield ""
    count = f"{len(found)} models" if len(found) > 1 else "1 model"
    yield f"{count}; accuracies as published. `{command_line('zoo', 'NAME')}` shows one of them."


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _show(entry: "Entry", as_json: bool) -> int:
    if as_json:
        print(json.dumps(_as_json(entry), indent=1))
        return 0
    for name, text in _described(entry):
        print(f"{name:<14}{text}")
    print()
    for line in _commands(entry):
        print(line)
    return 0


def _described(entry: "Entry") -> Iterator[tuple[str, str]]:
    from segzoo.model_zoo.plot.points import percent

    info = entry.info
    yield "model", entry.name
    if info is None:
        yield "published", "nothing: a configuration of segzoo's own"
        return
    yield "method", f"{info.method}, {info.backbone}"
    yield "data", f"{entry.title}; pre-training: {info.pretraining}"
    yield "schedule", info.schedule
    for index, published in enumerate(info.published):
        name = "published" if index == 0 else ""
        yield name, f"{published.metric} {percent(published.value)} %, {published.protocol}"
    for metric, value in info.reproduced.metrics.items() if info.reproduced else ():
        yield "reproduced", f"{metric} {percent(value)} %"
    if info.reproduced:
        height, width = info.reproduced.size
        yield (
            "counted",
            f"{info.reproduced.params} M parameters, {info.reproduced.gflops} GFLOPs at {height}x{width}",
        )
    if info.params is not None or info.gflops is not None:
        numbers = [f"{info.params:g} M parameters"] * (info.params is not None)
        numbers += [f"{info.gflops:g} GFLOPs"] * (info.gflops is not None)
        yield "paper says", ", ".join(numbers)
    if info.trained_on:
        units = {
            "s per iteration": info.train_time,
            "h in all": info.train_hours,
            "GB per GPU": info.train_memory,
        }
        numbers = [f"{value:g} {unit}" for unit, value in units.items() if value is not None]
        yield "trained in", f"{', '.join(numbers)}, on {info.trained_on}"
    place = info.url or info.page or info.folder
    yield "weights", place or "none published"
    if place:
        yield "license", info.license
    if info.note:
        yield "note", info.note
    yield "paper", info.paper
    yield "code", f"{info.repository}{f' ({info.code_license})' if info.code_license else ''}"


def _commands(entry: "Entry") -> Iterator[str]:
    yield "train it:"
    yield f"  {command_line('train', '--config-file', entry.name)}"
    yield "see its configuration, and where each value comes from:"
    yield f"  {command_line('config', entry.name, '--origin')}"
    if entry.weights == "none" or entry.info is None:
        return
    weights = entry.info.url or "DOWNLOADED_FILE"
    yield "evaluate the official weights:"
    yield f"  {command_line('evaluate', '--config-file', entry.name, '--weights', weights)}"
    yield "use them on your images:"
    files = ("--input", "photos/", "--output", "out/")
    yield f"  {command_line('predict', '--config-file', entry.name, *files, '--weights', weights)}"


def _download(name: str) -> int:
    # Imported here, since it needs torch and the list does not.
    from segzoo.model_zoo.official import download_weights

    print(download_weights(name))
    return 0


def _as_json(entry: "Entry") -> dict[str, Any]:
    """Return the details of a model, for --json."""
    about = asdict(entry.info) if entry.info else {}
    return {"name": entry.name, "title": entry.title, "metric": entry.metric, "value": entry.value} | about


main = command(build_parser, run)
