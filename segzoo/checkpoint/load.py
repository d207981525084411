"""From a published file to a model, by name, with a report of what happened to every weight."""

import logging
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from segzoo.utils.errors import InputError

from .download import local_file
from .finite import check_finite
from .key_maps import DERIVED, NATIVE, KeyMap, key_maps
from .prefixes import find_prefix
from .reader import CheckpointFile, read_checkpoint
from .untrained import remember_load
from .weight_sets import split_choice

logger = logging.getLogger(__name__)

Mismatch = tuple[str, tuple[int, ...], tuple[int, ...]]


@dataclass
class LoadReport:
    """What `load_checkpoint` did.

    Attributes:
        path: the file, as it was asked for.
        source: name of the layout that was recognised.
        loaded: the model's keys that now have the file's values.
        renamed: file key -> model key, for the loaded ones whose name differs.
        resized: the model's keys whose values were interpolated to the model's shape.
        reinitialised: the model's keys that keep their initial values, as is to be expected: the classifier
            or the queries of a fine-tune, everything but the backbone after an ImageNet file. Such a model
            must not be evaluated.
        training_only: the model's keys that keep their initial values because such a file lacks them, and
            that predictions do not depend on.
        other_numbers: of what the file has another number than the model: "133 classes -> 5".
        mismatched: (model key, shape in the file, shape in the model).
        missing: the model's keys that the file lacks without a reason.
        unexpected: the file's keys that have no place in the model.
        extras: the file's keys that are known not to be needed.
        description: what a segzoo checkpoint says about itself; else None.
        differences: how that differs from the config, as `compare_description` says; set by who knows both.
        notes: which of several sets of weights was taken, which prefix of the names was taken off.
    """

    path: str
    source: str
    loaded: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    reinitialised: list[str] = field(default_factory=list)
    training_only: list[str] = field(default_factory=list)
    other_numbers: list[str] = field(default_factory=list)
    mismatched: list[Mismatch] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)
    description: dict[str, Any] | None = None
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every weight that predictions depend on came from the file."""
        return not (self.reinitialised or self.missing)

    def require_complete(
        self, action: str = "evaluation", consequence: str = "refusing to report metrics"
    ) -> None:
        """Raises InputError unless every weight was loaded, for a model of the same classes and input.

        Results of a random head, of other classes or of other colours mean nothing.

        Args:
            action: what was to be done, the start of the message. consequence: its end.
        """
        if self.complete:
            if self.differences:
                raise InputError(
                    f"{action}: {self.path} was trained for another config than this one "
                    f"({self.differences[0]}); {consequence}; use the config it was trained with"
                )
            return
        for key, in_file, in_model in self.mismatched:
            if key in self.reinitialised:
                part = "object queries" if _matches(key, _query_keys()) else "class head"
                raise InputError(
                    f"{action}: {part} not loaded ({in_file[0]} rows in {self.path}, {in_model[0]} in "
                    f"the model: {key}); {consequence}"
                )
        kept = self.reinitialised + self.missing
        remedy = ""
        if all(key.startswith("auxiliary_head.") for key in kept):
            remedy = '; the auxiliary head is for training only, leave it out: MODEL.AUX_HEAD.NAME ""'
        raise InputError(
            f"{action}: {self.path} ({self.source}) leaves {_listed(kept)} at random values; "
            f"{consequence}{remedy}"
        )

    def log(self) -> None:
        """Says what happened, and in a line of its own what a fine-tune learns from random values."""
        logger.info("%s", self)
        for note in self.notes:
            logger.info("%s: %s", self.path, note)
        shapes = [
            f"{key} {in_file} -> {in_model}"
            for key, in_file, in_model in self.mismatched
            if key in self.reinitialised
        ]
        if shapes:
            logger.warning(
                "%s: %s; re-initialised, all else is loaded: %s",
                self.path,
                ", ".join(self.other_numbers),
                ", ".join(shapes),
            )

    def __str__(self) -> str:
        shapes = [f"{key} {in_file} -> {in_model}" for key, in_file, in_model in self.mismatched]
        rows = [
            ("loaded", len(self.loaded), ""),
            ("renamed", len(self.renamed), _first([f"{old} -> {new}" for old, new in self.renamed.items()])),
            ("interpolated", len(self.resized), _first(self.resized)),
            ("re-initialised", len(self.reinitialised), _modules(self.reinitialised)),
            ("for training only, initial", len(self.training_only), _modules(self.training_only)),
            ("other shape", len(self.mismatched), _first(shapes)),
            ("missing", len(self.missing), _modules(self.missing)),
            ("unexpected", len(self.unexpected), _modules(self.unexpected)),
            ("not needed", len(self.extras), _modules(self.extras)),
        ]
        table = tabulate(
            [row for row in rows if row[1] or row[0] == "loaded"], ["weights", "count", ""], "pipe"
        )
        return f"{self.path}, read as {self.source}:\n{table}"


def load_checkpoint(
    model: nn.Module,
    path_or_url: str | Path,
    *,
    trust: bool = False,
    allow_missing_classifier: bool = False,
    strict: bool = True,
    md5_prefix: str = "",
) -> LoadReport:
    """Loads an official or own checkpoint, as published, into a model.

    Args:
        model: the model, wrapped in DistributedDataParallel or not; a whole one or a bare backbone.
        path_or_url: a path, `https://`, `detectron2://` or `catalog://` address; `#ema` after it takes the
            file's weights of that name.
        trust: execute the pickled code in the file, if it holds any.
        allow_missing_classifier: take a file without any classifier, too.
        strict: False only reports missing, unexpected and mismatched weights instead of raising.
        md5_prefix: first hex digits of the file's md5, checked before reading.

    Returns:
        The report, which is logged as well.

    Raises:
        InputError: not a readable checkpoint, another hash, or weights that do not fit: a leftover or missing
            key, or another shape, unless it is the classifier of another number of classes, or another number
            of object queries (re-initialised); or a weight that is NaN or infinite. The model is then
            unchanged.
    """
    file = open_checkpoint(path_or_url, trust, md5_prefix)
    report = load_state(
        model, file, name=str(path_or_url), allow_missing_classifier=allow_missing_classifier, strict=strict
    )
    report.log()
    return report


def open_checkpoint(path_or_url: str | Path, trust: bool = False, md5_prefix: str = "") -> CheckpointFile:
    """Finds, checks and reads a checkpoint. Arguments and errors as `load_checkpoint`."""
    _, choice = split_choice(str(path_or_url))
    return read_checkpoint(local_file(path_or_url, md5_prefix), trust, choice=choice)


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

    `allow_other_classes=False` makes another number of classes or queries an error, as in resuming.
    """
    model = getattr(model, "module", model) if isinstance(model, _WRAPPERS) else model
    own = model.state_dict()
    report = LoadReport(path=name or str(file.path), source="", description=file.description)
    weights, outside = _under_prefix(file, own, report)
    key_map, _ = _choose_map(weights, own)
    report.source = key_map.name
    weights = key_map.regroup(weights)
    names = _place(weights, own, key_map, report)
    classifier = _classifier_keys()
    may_differ = (*classifier, *_query_keys()) if allow_other_classes else ()
    new = _fit_shapes(names, weights, own, key_map, may_differ, report)
    _sort_missing(model, own, new, key_map, classifier if allow_missing_classifier else (), report)
    if not report.loaded:
        raise InputError(
            f"{report.path}: none of its {len(file.weights)} weights ({_first(list(file.weights), 3)}) "
            f"has a place in the model ({_first(list(own), 3)}); {_remedy(report)}"
        )
    # Buffers of losses and metrics, another network; or what is missing, under a name that nobody knows.
    (report.unexpected if report.missing else report.extras).extend(outside)
    if strict:
        _raise_on_problems(report)
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
        note += f"; left out {_listed(list(prefix.outside))}"
    report.notes.append(note)
    start = len(prefix.text)
    weights = {key[start:]: value for key, value in file.weights.items() if key.startswith(prefix.text)}
    return weights, prefix.outside


def _remedy(report: LoadReport) -> str:
    """What to do about a file that does not fit: it tells, if it is segzoo's own."""
    about = report.description or {}
    if about.get("config"):
        return "it holds its own configuration: give it alone, without --config-file"
    trained = " ".join(f"{key} {about[key]}" for key in ("task", "dataset") if about.get(key))
    of = f", of {trained}" if trained else ""
    return f"give the configuration of the network that it was saved from{of} (MODEL_ZOO.md lists them)"


def _classifier_keys() -> tuple[str, ...]:
    return tuple(pattern for known in key_maps() for pattern in known.classifier)


def _query_keys() -> tuple[str, ...]:
    return tuple(pattern for known in key_maps() for pattern in known.queries)


def _other_numbers(report: LoadReport, num_classes: int | None) -> list[str]:
    """ "133 classes -> 5" and the like; `num_classes` are the model's, None where it does not say."""
    found: dict[str, None] = {}
    for key, in_file, in_model in report.mismatched:
        if key not in report.reinitialised:
            continue
        if _matches(key, _query_keys()):
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
            count = sum(prefix + key_map.rename(key) in own or _matches(key, key_map.extras) for key in keys)
            if count > best_count:
                best, best_count = key_map, count
    return best, best_count


def _prefix(key_map: KeyMap, own: Iterable[str]) -> str:
    """The map's prefix; none if the model is itself the part that the prefix stands for."""
    own = list(own)
    # Detectron2's backbones with an FPN have the network below it.
    for prefix in (f"{key_map.prefix}bottom_up.", key_map.prefix):
        if key_map.prefix and any(key.startswith(prefix) for key in own):
            return prefix
    return ""


def _place(
    weights: dict[str, Tensor], own: dict[str, Tensor], key_map: KeyMap, report: LoadReport
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
        elif _matches(key, (*key_map.extras, *DERIVED)):
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
            if value is not None:
                if value.numel() != weights[file_key].numel():  # else it is laid out otherwise, no more
                    report.resized.append(key)
            else:
                report.mismatched.append((key, in_file, tuple(shape)))
                if in_file[1:] == tuple(shape[1:]) and _matches(key, may_differ):
                    report.reinitialised.append(key)
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
    report: LoadReport,
) -> None:
    """Tells the model's keys that the file lacks by design, `classifier` too, from those it must have."""
    parameters = dict(model.named_parameters())
    handled = {key for key, _, _ in report.mismatched}
    prefix = _prefix(key_map, own)
    for key in own:
        if key in new or key in handled or _matches(key, DERIVED):
            continue
        if not key.startswith(prefix) or _matches(key, classifier):
            report.reinitialised.append(key)
        elif _matches(key, key_map.training_only):
            report.training_only.append(key)
        elif not _matches(key, key_map.absent):
            report.missing.append(key)
        elif key in parameters:
            report.reinitialised.append(key)


def _raise_on_problems(report: LoadReport) -> None:
    shapes = [
        f"{key} is {in_file} in the file, {in_model} in the model"
        for key, in_file, in_model in report.mismatched
        if key not in report.reinitialised
    ]
    problems = []
    if shapes:
        problems.append(f"{len(shapes)} shapes differ: {_first(shapes, 10, '; ')}")
    if report.missing:
        problems.append(f"the file lacks {_listed(report.missing)}")
    if report.unexpected:
        problems.append(f"the model has no place for {_listed(report.unexpected)}")
    if problems:
        raise InputError(
            f"{report.path} (read as {report.source}) does not fit the model: {'; '.join(problems)}; "
            f"{_remedy(report)}"
        )


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(re.search(pattern, key) for pattern in patterns)


def _listed(keys: list[str]) -> str:
    return f"{len(keys)} weights ({_first(keys, 10)})" if len(keys) != 1 else keys[0]


def _first(items: list[str], count: int = 1, separator: str = ", ") -> str:
    return separator.join(items[:count]) + (f"{separator}..." if len(items) > count else "")


def _modules(keys: list[str]) -> str:
    """The modules that the keys belong to, at most three levels deep."""
    return _first(list(dict.fromkeys(".".join(key.split(".")[:3]) for key in keys)), 4)
