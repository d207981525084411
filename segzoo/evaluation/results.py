"""Store results with their protocol in results.json, and compare results of the same protocol."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text

RESULTS_FILE = "results.json"
logger = logging.getLogger(__name__)

#: Keys of a protocol that must agree for two results to be comparable; the last one for semantic labels only.
#: `image_reading` and `evaluators` of a dataset are compared as well, if both results have them.
COMPARED_KEYS = (
    *("scales", "flip", "mode", "crop", "stride", "input_size", "averaging", "class_averaging"),
    "semantic_resizing",
)
#: Key of an evaluator's protocol: the library that computed the metrics. It is not compared.
ENGINE = "engine"
#: Values of keys that older results.json files lack.
_DEFAULTS = {"mode": "whole"}


@dataclass(frozen=True)
class Protocol:
    """Settings of an evaluation that its results depend on.

    Attributes:
        datasets: {dataset name: images scored}.
        input_size: e.g. {"short_edge": 800, "long_edge_max": 1333}; "original" for no resizing.
        scales: factors of the input size whose predictions are averaged; (1.0,) is single-scale.
        flip: whether predictions for the flipped image are also averaged.
        mode: "whole" images, "slide" (sliding window) or "center_crop" (scored on that crop only).
        crop, stride: (height, width) in pixels of a sliding window and its stride; None for whole images.
        averaging: how scores of windows, scales and flips are averaged: {"softmax": ..., ...}; None for a
            single forward pass, and for averages of final maps.
        class_averaging: the classes that mIoU averages: "valid" | "ground_truth" | "all".
        semantic_resizing: what is resized to the size of the image for semantic labels: class "scores", or
            "masks", from which scores are then computed; None if unknown, and without labels.
        image_reading: {dataset name: changes to the reading of its images}: "image_range", the values that
            become black and white, and "exif", "ignore" if orientations are not applied; None if unknown.
        evaluators: {dataset name: {key of the result: the evaluator's `protocol()`}}; None if unknown.
        weights: file or URL.
        weights_sha256: hash of the file; "" for random weights.
    """

    datasets: Mapping[str, int]
    input_size: Mapping[str, int] | str
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    mode: str = "whole"
    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    averaging: Mapping | None = None
    class_averaging: str = "valid"
    semantic_resizing: str | None = None
    image_reading: Mapping[str, Mapping] | None = None
    evaluators: Mapping[str, Mapping[str, Mapping]] | None = None
    weights: str = ""
    weights_sha256: str = ""


def write_results(
    output_dir: str | Path,
    results: Mapping[str, Mapping],
    protocol: Protocol | Mapping,
    *,
    durable: bool = True,
) -> Path:
    """Write `output_dir`/results.json atomically, and return its path.

    Args:
        output_dir: the folder given to `build_evaluator`, usually OUTPUT_DIR/inference.
        results: {dataset name: {"sem_seg": {"mIoU": ..}, ...}}, as the evaluators return per dataset. NaN (an
            absent class) is written as null.
        protocol: a Protocol, or a mapping with its attributes; additional keys are kept.
        durable: flush the file to disk, see `atomic_path`.

    Raises:
        InputError: the protocol lacks a key or a dataset of `results`.
    """
    from .. import __version__

    content = asdict(protocol) if isinstance(protocol, Protocol) else dict(protocol)
    # Older protocols, stored with predictions, lack these keys.
    content.setdefault("semantic_resizing", _semantic_resizing(content))
    content.setdefault("image_reading", None)
    content.setdefault("evaluators", None)
    missing = [key for key in Protocol.__dataclass_fields__ if key not in content]
    if missing:
        expected = ", ".join(Protocol.__dataclass_fields__)
        raise InputError(f"evaluation protocol: {missing[0]} is missing, expected {expected}")
    unknown = [name for name in results if name not in content["datasets"]]
    if unknown:
        raise InputError(f"evaluation protocol: datasets lacks {unknown[0]} and so its image count")
    document = {
        "segzoo": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "protocol": content,
        "results": results,
    }
    path = Path(output_dir) / RESULTS_FILE
    write_text(path, json.dumps(_without_nan(document), indent=2, allow_nan=False) + "\n", durable=durable)
    return path


def load_results(path: str | Path) -> dict:
    """Read a results.json, or the one in a folder: {"segzoo", "date", "protocol", "results"}.

    Raises:
        InputError: the file does not exist, or is not a results.json.
    """
    path = Path(path)
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found; an evaluation writes it to OUTPUT_DIR/inference") from None
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(document, dict) or not {"protocol", "results"} <= document.keys():
        raise InputError(f'{path}: lacks "protocol" or "results"; was it written by an evaluation of segzoo?')
    return document


def compare_results(first: str | Path | Mapping, second: str | Path | Mapping) -> dict[str, dict[str, tuple]]:
    """Return the metrics of two evaluations side by side, if their protocols agree.

    Args:
        first, second: a results.json, its folder, or its content.

    Returns:
        {dataset: {"sem_seg/mIoU": (first, second), ...}} for the metrics that both have; None for NaN. A
        warning is logged if it is unknown whether a key agrees.

    Raises:
        InputError: the protocols differ (the message names the key), or there is no common dataset.
    """
    documents = [load_results(item) if isinstance(item, str | Path) else item for item in (first, second)]
    one, other = (_without_nan(document["protocol"]) for document in documents)
    for protocol in (one, other):
        protocol["semantic_resizing"] = _semantic_resizing(protocol)
    for key in COMPARED_KEYS:
        values = [protocol.get(key, _DEFAULTS.get(key)) for protocol in (one, other)]
        if key == "semantic_resizing" and not _can_compare_resizing(values, documents):
            continue
        if values[0] != values[1]:
            raise InputError(
                f"not comparable: {key} is {json.dumps(values[0])} in the first result and "
                f"{json.dumps(values[1])} in the second; evaluate both in the same way"
            )
    shared = [name for name in documents[0]["results"] if name in documents[1]["results"]]
    if not shared:
        names = (", ".join(document["results"]) for document in documents)
        raise InputError(f"not comparable: no common dataset, found {next(names)} and {next(names)}")
    table = {}
    for name in shared:
        counts = [protocol["datasets"].get(name) for protocol in (one, other)]
        if counts[0] != counts[1]:
            raise InputError(f"not comparable: {name} was scored on {counts[0]} and on {counts[1]} images")
        _check_reading(name, [(protocol.get("image_reading") or {}).get(name) for protocol in (one, other)])
        _check_evaluators(name, documents)
        left, right = (_flat(document["results"][name]) for document in documents)
        table[name] = {key: (left[key], right[key]) for key in left if key in right}
    return table


def _check_reading(name: str, reading: Sequence[Mapping | None]) -> None:
    """Raise InputError if images were read differently; warn if it is unknown for one result.

    Args:
        reading: `image_reading` of the dataset in both protocols.
    """
    if None in reading:
        # Before it was recorded, almost all images were read in the standard way.
        if any(reading):
            unknown = "first" if reading[0] is None else "second"
            known = json.dumps(next(filter(None, reading)))
            logger.warning(
                "image_reading of %s is unknown for the %s result, %s for the other", name, unknown, known
            )
    elif reading[0] != reading[1]:
        raise InputError(
            f"not comparable: image_reading of {name} is {json.dumps(reading[0])} in the first result and "
            f"{json.dumps(reading[1])} in the second; evaluate both with one INPUT.IMAGE_RANGE, and one "
            "image_range and exif of the dataset's YAML"
        )


def _check_evaluators(name: str, documents: Sequence[Mapping]) -> None:
    """Raise InputError if the protocols of a dataset's evaluators differ."""
    one, other = ((document["protocol"].get("evaluators") or {}).get(name, {}) for document in documents)
    scored = [document["results"][name].keys() for document in documents]
    for task_key in sorted(scored[0] & scored[1] & one.keys() & other.keys()):
        # A missing key is unknown: predictions from files have no information about their model.
        for key in sorted((one[task_key].keys() & other[task_key].keys()) - {ENGINE}):
            values = [_without_nan(protocols[task_key][key]) for protocols in (one, other)]
            if values[0] != values[1]:
                raise InputError(
                    f"not comparable: {task_key} of {name} has {key} {json.dumps(values[0])} in the first "
                    f"result and {json.dumps(values[1])} in the second; evaluate both in the same way"
                )


def _semantic_resizing(protocol: Mapping) -> str | None:
    """Return a protocol's value or, for an older protocol without one, derive it from its tasks."""
    if "semantic_resizing" in protocol:
        return protocol["semantic_resizing"]
    tasks = protocol.get("tasks", ())
    if "semantic" not in tasks:
        return None
    return "scores" if list(tasks) == ["semantic"] else "masks"


def _can_compare_resizing(values: Sequence[str | None], documents: Sequence[Mapping]) -> bool:
    """Return whether both results have semantic metrics and this key; warn if the key is missing."""
    named = [
        {name for name, metrics in document["results"].items() if "sem_seg" in metrics}
        for document in documents
    ]
    if not named[0] & named[1]:
        return False
    unknown = [name for name, value in zip(("first", "second"), values, strict=True) if value is None]
    if unknown:
        logger.warning(
            "semantic_resizing is unknown for the %s result: mIoU differs slightly between masks and scores "
            "that are resized to the size of the image",
            " and the ".join(unknown),
        )
    return not unknown


def _flat(metrics: Mapping) -> dict[str, float | None]:
    return {
        f"{task}/{name}": value
        for task, values in metrics.items()
        for name, value in _without_nan(values).items()
    }


def _without_nan(value):
    """Return a copy with JSON types: lists for tuples, None for NaN and infinities, numbers for numpy's."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
