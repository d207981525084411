"""Load a published file into a model, and report what happened to every weight."""

import logging
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from segzoo.utils.errors import InputError
from segzoo.utils.text import some

from .download import local_file
from .finite import check_finite
from .key_maps import DERIVED, LOSS_KEYS, NATIVE, KeyMap, classifier_keys, key_maps, matches, query_keys
from .prefixes import find_prefix
from .reader import CheckpointFile, read_checkpoint
from .report import CheckpointMismatchError, Layout, LoadReport, describe_problems, listed, remedy
from .untrained import remember_load
from .weight_sets import split_choice

logger = logging.getLogger(__name__)


def load_checkpoint(
    model: nn.Module,
    path_or_url: str | Path,
    *,
    trust: bool = False,
    allow_missing_classifier: bool = False,
    strict: bool = True,
) -> LoadReport:
    """Load a checkpoint, official or segzoo's own, into a model.

    Args:
        model: the model, wrapped in DistributedDataParallel or not; a whole one or a bare backbone.
        path_or_url: a path, `https://`, `detectron2://` or `catalog://` address; `#ema` at its end selects
            the set of weights with that name.
        trust: execute pickled code in the file.
        allow_missing_classifier: also accept a file without a classifier.
        strict: raise for missing, unexpected and mismatched weights; False only reports them.

    Returns:
        The report, which is logged as well.

    Raises:
        InputError: the file is not a readable checkpoint, has another hash, does not fit the model, or holds
            NaN or infinite weights; the model is then unchanged. Missing and unexpected keys and other shapes
            do not fit, except for another number of classes or object queries, which are re-initialized.
            Weights that do not fit raise `CheckpointMismatchError`, which carries the report and the nearest
            layouts; they are logged before.
    """
    file = open_checkpoint(path_or_url, trust)
    report = load_state(
        model, file, name=str(path_or_url), allow_missing_classifier=allow_missing_classifier, strict=strict
    )
    report.log()
    return report


def open_checkpoint(path_or_url: str | Path, trust: bool = False) -> CheckpointFile:
    """Find, check and read a checkpoint; arguments and errors as `load_checkpoint`."""
    _, choice = split_choice(str(path_or_url))
    return read_checkpoint(local_file(path_or_url), trust, choice=choice)


def load_state(
    model: nn.Module,
    file: CheckpointFile,
    *,
    name: str = "",
    allow_missing_classifier: bool = False,
    allow_other_classes: bool = True,
    strict: bool = True,
) -> LoadReport:
    """Load a checkpoint that has been read; arguments, result and errors as `load_checkpoint`.

    `allow_other_classes=False`, as for resuming, raises for another number of classes or queries and for
    other loss parameters.
    """
    model = getattr(model, "module", model) if isinstance(model, _WRAPPERS) else model
    own = model.state_dict()
    report = LoadReport(path=name or str(file.path), source="", description=file.description)
    weights, outside = _under_prefix(file, own, report)
    key_map, _ = _choose_map(weights, own)
    report.source = key_map.name
    report.layout_description = dict(key_map.description) if key_map.description else None
    weights = key_map.regroup(weights)
    loss_keys = LOSS_KEYS if allow_other_classes else ()
    lacking = tuple(
        part
        for part in (f"{name}." for name in getattr(model, "optional_parts", ()))
        if not any(key.startswith(part) for key in own)
    )
    names = _place(weights, own, key_map, loss_keys, lacking, report)
    classifier = classifier_keys()
    may_differ = (*classifier, *query_keys()) if allow_other_classes else ()
    new = _fit_shapes(names, weights, own, key_map, may_differ, loss_keys, report)
    may_lack = classifier if allow_missing_classifier else ()
    _sort_missing(model, own, new, key_map, may_lack, loss_keys, report)
    if not report.loaded:
        _refuse(
            f"{report.path}: none of its {len(file.weights)} weights ({some(file.weights, 3)}) "
            f"has a place in the model ({some(own, 3)}); {remedy(report)}",
            report,
            weights,
            own,
        )
    # Buffers of losses and metrics or another network; if weights are missing, perhaps those, renamed.
    (report.unexpected if report.missing else report.extras).extend(outside)
    if strict and (problems := describe_problems(report)):
        _refuse(problems, report, weights, own)
    check_finite(new, own, report.path)
    report.other_numbers = _other_numbers(report, getattr(model, "num_classes", None))
    with torch.no_grad():
        model.load_state_dict(new, strict=False)
    remember_load(model, report)
    return report


def _under_prefix(
    file: CheckpointFile, own: Collection[str], report: LoadReport
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights without the prefix of a wrapper, and the keys outside that prefix."""
    base, _ = split_choice(report.path)
    if len(file.sets) > 1:
        others = ", ".join(file.sets[1:])
        report.notes.append(
            f"took the weights in {file.sets[0]!r}; the file also holds {others} (to take them: "
            f"MODEL.WEIGHTS {base}#{file.sets[1]})"
        )
    prefix = find_prefix(file.weights, lambda keys: _choose_map(keys, own)[1])
    if not prefix.text:
        return file.weights, ()
    note = f"removed {prefix.text!r} from the names of its weights"
    if prefix.same:
        note += (
            f"; the file also holds {', '.join(prefix.same)} (to take them: MODEL.WEIGHTS "
            f"{base}#{prefix.same[0].removesuffix('.')})"
        )
    if prefix.outside:
        note += f"; left out {listed(list(prefix.outside))}"
    report.notes.append(note)
    start = len(prefix.text)
    weights = {key[start:]: value for key, value in file.weights.items() if key.startswith(prefix.text)}
    return weights, prefix.outside


def _other_numbers(report: LoadReport, num_classes: int | None) -> list[str]:
    """Return texts such as "133 classes -> 5"; `num_classes` is the model's, None if it has none."""
    found: dict[str, None] = {}
    for key, in_file, in_model in report.mismatched:
        if key not in report.reinitialized:
            continue
        if matches(key, query_keys()):
            found[f"{in_file[0]} queries -> {in_model[0]}"] = None
            continue
        # Mask classification has one more row, for "no object", and so have detectors, for the background.
        more = 1 if num_classes is not None and in_model[0] == num_classes + 1 else 0
        if num_classes is not None and in_model[0] == 4 * num_classes:  # the edges of boxes
            in_file, in_model = (in_file[0] // 4,), (num_classes,)
        found[f"{in_file[0] - more} classes -> {in_model[0] - more}"] = None
    return list(found)


_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)


def _choose_map(keys: Collection[str], own: Collection[str]) -> tuple[KeyMap, int]:
    """Return the layout that explains most of a file's keys, the native one on a tie, and their number.

    A key is explained if it has a place in the model or is one of the layout's `extras`.
    """
    best, best_count = NATIVE, -1
    for key_map in key_maps():
        if key_map.fits(keys):
            prefix = _prefix(key_map, own)
            count = sum(
                _target(key, key_map, prefix, own) in own or matches(key, key_map.extras) for key in keys
            )
            if count > best_count:
                best, best_count = key_map, count
    return best, best_count


def _nearest(keys: Collection[str], own: Collection[str], source: str) -> tuple[Layout, ...]:
    """Return the two layouts other than `source` that explain most of a file, recognized or not."""
    layouts = []
    for key_map in key_maps():
        if key_map.name != source:
            prefix = _prefix(key_map, own)
            explained = sum(_target(key, key_map, prefix, own) in own for key in keys)
            layouts.append(Layout(key_map.name, explained, key_map.fits(keys)))
    ranked = sorted(layouts, key=lambda layout: (-layout.explained, not layout.recognized, layout.name))
    return tuple(layout for layout in ranked[:2] if layout.explained)


def _refuse(message: str, report: LoadReport, weights: Collection[str], own: Collection[str]) -> NoReturn:
    """Log the table of all weights, and raise the error for weights that do not fit."""
    error = CheckpointMismatchError(message, report, _nearest(weights, own, report.source))
    error.log(len(weights))
    raise error


def _prefix(key_map: KeyMap, own: Iterable[str]) -> str:
    """Return the map's prefix; "" if the model is itself the part with that prefix."""
    own = list(own)
    # Detectron2's FPN backbones hold the network as `bottom_up`.
    for prefix in (f"{key_map.prefix}bottom_up.", key_map.prefix):
        if key_map.prefix and any(key.startswith(prefix) for key in own):
            return prefix
    return ""


# A detector on res4 has the backbone's last stage in its heads.
_STAGE_IN_HEADS = "roi_heads."


def _target(key: str, key_map: KeyMap, prefix: str, own: Collection[str]) -> str:
    """Return the model's name for a file's key."""
    name = key_map.rename(key)
    if prefix and prefix + name not in own and _STAGE_IN_HEADS + name in own:
        return _STAGE_IN_HEADS + name
    return prefix + name


def _place(
    weights: dict[str, Tensor],
    own: dict[str, Tensor],
    key_map: KeyMap,
    loss_keys: tuple[str, ...],
    lacking: tuple[str, ...],
    report: LoadReport,
) -> dict[str, str]:
    """Return {model key: file key}; add other keys to the report's `extras` or `unexpected`.

    `lacking`: the beginnings of keys of parts that the model may have and does not have.
    """
    prefix = _prefix(key_map, own)
    placed: dict[str, str] = {}
    for key in weights:
        target = _target(key, key_map, prefix, own)
        if target in placed:
            raise InputError(
                f"{report.path}: {placed[target]} and {key} both map to {target} (read as {key_map.name})"
            )
        if target in own:
            placed[target] = key
        elif target.startswith(lacking) or matches(key, (*key_map.extras, *DERIVED, *loss_keys)):
            report.extras.append(key)
        else:
            report.unexpected.append(key)
    return placed


def _fit_shapes(
    names: dict[str, str],
    weights: dict[str, Tensor],
    own: dict[str, Tensor],
    key_map: KeyMap,
    may_differ: tuple[str, ...],
    loss_keys: tuple[str, ...],
    report: LoadReport,
) -> dict[str, Tensor]:
    """Return the values to load in the model's shapes; keys in `may_differ` may differ in number of rows."""
    new: dict[str, Tensor] = {}
    for key, file_key in names.items():
        value: Tensor | None = key_map.transform(key, weights[file_key])
        shape = own[key].shape
        if value.shape != shape:
            in_file = tuple(value.shape)
            value = _resize(key, value, shape, key_map)
            if value is None and matches(key, loss_keys):
                report.extras.append(file_key)
                continue
            if value is not None:
                if value.numel() != weights[file_key].numel():  # else only the layout differs
                    report.resized.append(key)
            else:
                report.mismatched.append((key, in_file, tuple(shape)))
                if in_file[1:] == tuple(shape[1:]) and matches(key, may_differ):
                    report.reinitialized.append(key)
                continue
        new[key] = value
        report.loaded.append(key)
        if key != file_key:
            report.renamed[file_key] = key
    return new


def _resize(key: str, value: Tensor, shape: torch.Size, key_map: KeyMap) -> Tensor | None:
    for pattern, resize in key_map.resize:
        if re.search(pattern, key):
            return resize(value, shape)
    return None


def _sort_missing(
    model: nn.Module,
    own: dict[str, Tensor],
    new: dict[str, Tensor],
    key_map: KeyMap,
    classifier: tuple[str, ...],
    loss_keys: tuple[str, ...],
    report: LoadReport,
) -> None:
    """Add the model's keys that the file lacks to the report: by design (also `classifier`), or missing."""
    parameters = dict(model.named_parameters())
    handled = {key for key, _, _ in report.mismatched}
    prefix = _prefix(key_map, own)
    in_heads = {key.rpartition(".")[0] for key in new if prefix and key.startswith(_STAGE_IN_HEADS)}
    for key in own:
        if key in new or key in handled or matches(key, DERIVED):
            continue
        if key.rpartition(".")[0] in in_heads and matches(key, key_map.absent):
            continue
        if not key.startswith(prefix) or matches(key, classifier):
            report.reinitialized.append(key)
        elif matches(key, (*key_map.training_only, *loss_keys)):
            report.training_only.append(key)
        elif not matches(key, key_map.absent):
            report.missing.append(key)
        elif key in parameters:
            report.reinitialized.append(key)
