"""From a published file to a model, by name, with a report of what happened to every weight."""

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
from .key_maps import DERIVED, NATIVE, OF_LOSSES, KeyMap, classifier_keys, key_maps, matches, query_keys
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
    """Loads an official or own checkpoint, as published, into a model.

    Args:
        model: the model, wrapped in DistributedDataParallel or not; a whole one or a bare backbone.
        path_or_url: a path, `https://`, `detectron2://` or `catalog://` address; `#ema` after it takes the
            file's weights of that name.
        trust: execute the pickled code in the file, if it holds any.
        allow_missing_classifier: take a file without any classifier, too.
        strict: False only reports missing, unexpected and mismatched weights instead of raising.

    Returns:
        The report, which is logged as well.

    Raises:
        InputError: not a readable checkpoint, another hash, or weights that do not fit: a leftover or missing
            key, or another shape, unless it is the classifier of another number of classes, or another number
            of object queries (re-initialized); or a weight that is NaN or infinite. The model is then
            unchanged. Weights that do not fit raise `CheckpointMismatchError`, after the table of all weights
            and the nearest layouts were logged; it carries them.
    """
    file = open_checkpoint(path_or_url, trust)
    report = load_state(
        model, file, name=str(path_or_url), allow_missing_classifier=allow_missing_classifier, strict=strict
    )
    report.log()
    return report


def open_checkpoint(path_or_url: str | Path, trust: bool = False) -> CheckpointFile:
    """Finds, checks and reads a checkpoint. Arguments and errors as `load_checkpoint`."""
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
    """Loads a checkpoint that has been read. Arguments, result and errors as `load_checkpoint`.

    `allow_other_classes=False` makes another number of classes or queries an error, as in resuming, and other
    parameters of losses.
    """
    model = getattr(model, "module", model) if isinstance(model, _WRAPPERS) else model
    own = model.state_dict()
    report = LoadReport(path=name or str(file.path), source="", description=file.description)
    weights, outside = _under_prefix(file, own, report)
    key_map, _ = _choose_map(weights, own)
    report.source = key_map.name
    weights = key_map.regroup(weights)
    of_losses = OF_LOSSES if allow_other_classes else ()
    names = _place(weights, own, key_map, of_losses, report)
    classifier = classifier_keys()
    may_differ = (*classifier, *query_keys()) if allow_other_classes else ()
    new = _fit_shapes(names, weights, own, key_map, may_differ, of_losses, report)
    may_lack = classifier if allow_missing_classifier else ()
    _sort_missing(model, own, new, key_map, may_lack, of_losses, report)
    if not report.loaded:
        _refuse(
            f"{report.path}: none of its {len(file.weights)} weights ({some(file.weights, 3)}) "
            f"has a place in the model ({some(own, 3)}); {remedy(report)}",
            report,
            weights,
            own,
        )
    # Buffers of losses and metrics, another network; or what is missing, under a name that nobody knows.
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
    """The weights without what a wrapper put before their names, and the keys of those beside the model."""
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
    note = f"took {prefix.text!r} off the names of its weights"
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
    """ "133 classes -> 5" and the like; `num_classes` are the model's, None where it does not say."""
    found: dict[str, None] = {}
    for key, in_file, in_model in report.mismatched:
        if key not in report.reinitialized:
            continue
        if matches(key, query_keys()):
            found[f"{in_file[0]} queries -> {in_model[0]}"] = None
            continue
        # Mask classification has a row more, for no object.
        more = 1 if num_classes is not None and in_model[0] == num_classes + 1 else 0
        found[f"{in_file[0] - more} classes -> {in_model[0] - more}"] = None
    return list(found)


_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)


def _choose_map(keys: Collection[str], own: Collection[str]) -> tuple[KeyMap, int]:
    """The layout that fits the file and explains most of its keys, the model's own one on a tie; how many.

    A key is explained by a place in the model, or by the layout's knowing that it is of no use.
    """
    best, best_count = NATIVE, -1
    for key_map in key_maps():
        if key_map.fits(keys):
            prefix = _prefix(key_map, own)
            count = sum(prefix + key_map.rename(key) in own or matches(key, key_map.extras) for key in keys)
            if count > best_count:
                best, best_count = key_map, count
    return best, best_count


def _nearest(keys: Collection[str], own: Collection[str], source: str) -> tuple[Layout, ...]:
    """The two layouts beside `source` that explain most of a file, recognized or not."""
    layouts = []
    for key_map in key_maps():
        if key_map.name != source:
            prefix = _prefix(key_map, own)
            explained = sum(prefix + key_map.rename(key) in own for key in keys)
            layouts.append(Layout(key_map.name, explained, key_map.fits(keys)))
    ranked = sorted(layouts, key=lambda layout: (-layout.explained, not layout.recognized, layout.name))
    return tuple(layout for layout in ranked[:2] if layout.explained)


def _refuse(message: str, report: LoadReport, weights: Collection[str], own: Collection[str]) -> NoReturn:
    """Raise the error of weights that do not fit, after a table of all of them."""
    error = CheckpointMismatchError(message, report, _nearest(weights, own, report.source))
    error.log(len(weights))
    raise error


def _prefix(key_map: KeyMap, own: Iterable[str]) -> str:
    """The map's prefix; none if the model is itself the part that the prefix stands for."""
    own = list(own)
    # Detectron2's backbones with an FPN have the network below it.
    for prefix in (f"{key_map.prefix}bottom_up.", key_map.prefix):
        if key_map.prefix and any(key.startswith(prefix) for key in own):
            return prefix
    return ""


def _place(
    weights: dict[str, Tensor],
    own: dict[str, Tensor],
    key_map: KeyMap,
    of_losses: tuple[str, ...],
    report: LoadReport,
) -> dict[str, str]:
    """Model key -> file key; what has no place goes to the report's `extras` or `unexpected`."""
    prefix = _prefix(key_map, own)
    placed: dict[str, str] = {}
    for key in weights:
        target = prefix + key_map.rename(key)
        if target in placed:
            raise InputError(
                f"{report.path}: {placed[target]} and {key} are both {target} (read as {key_map.name})"
            )
        if target in own:
            placed[target] = key
        elif matches(key, (*key_map.extras, *DERIVED, *of_losses)):
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
    of_losses: tuple[str, ...],
    report: LoadReport,
) -> dict[str, Tensor]:
    """The values to load, in the model's shapes; what is in `may_differ` may have another number of rows."""
    new: dict[str, Tensor] = {}
    for key, file_key in names.items():
        value: Tensor | None = key_map.transform(key, weights[file_key])
        shape = own[key].shape
        if value.shape != shape:
            in_file = tuple(value.shape)
            value = _resize(key, value, shape, key_map)
            if value is None and matches(key, of_losses):
                report.extras.append(file_key)
                continue
            if value is not None:
                if value.numel() != weights[file_key].numel():  # else it is laid out otherwise, no more
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
    of_losses: tuple[str, ...],
    report: LoadReport,
) -> None:
    """Tells the model's keys that the file lacks by design, `classifier` too, from those it must have."""
    parameters = dict(model.named_parameters())
    handled = {key for key, _, _ in report.mismatched}
    prefix = _prefix(key_map, own)
    for key in own:
        if key in new or key in handled or matches(key, DERIVED):
            continue
        if not key.startswith(prefix) or matches(key, classifier):
            report.reinitialized.append(key)
        elif matches(key, (*key_map.training_only, *of_losses)):
            report.training_only.append(key)
        elif not matches(key, key_map.absent):
            report.missing.append(key)
        elif key in parameters:
            report.reinitialized.append(key)
