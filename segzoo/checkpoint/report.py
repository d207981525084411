"""What loading a checkpoint did to every weight, and the error of one that does not fit."""

import logging
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tabulate import tabulate

from segzoo.utils.errors import InputError
from segzoo.utils.text import some

from .key_maps import matches, query_keys

logger = logging.getLogger(__name__)

Mismatch = tuple[str, tuple[int, ...], tuple[int, ...]]


@dataclass
class LoadReport:
    """What `load_checkpoint` did.

    Attributes:
        path: the file, as it was asked for.
        source: name of the layout that was recognized.
        loaded: the model's keys that now have the file's values.
        renamed: file key -> model key, for the loaded ones whose name differs.
        resized: the model's keys whose values were interpolated to the model's shape.
        reinitialized: the model's keys that keep their initial values, as is to be expected: the classifier
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
    reinitialized: list[str] = field(default_factory=list)
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
        return not (self.reinitialized or self.missing)

    def require_complete(
        self, action: str = "evaluation", consequence: str = "refusing to report metrics"
    ) -> None:
        """Raises InputError unless every weight was loaded, for a model of the same classes and input.

        Results of a random head, of other classes or of other colors mean nothing.

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
            if key in self.reinitialized:
                part = "object queries" if matches(key, query_keys()) else "class head"
                raise InputError(
                    f"{action}: {part} not loaded ({in_file[0]} rows in {self.path}, {in_model[0]} in "
                    f"the model: {key}); {consequence}"
                )
        kept = self.reinitialized + self.missing
        remedy = ""
        if all(key.startswith("auxiliary_head.") for key in kept):
            remedy = '; the auxiliary head is for training only, leave it out: MODEL.AUX_HEAD.NAME ""'
        raise InputError(
            f"{action}: {self.path} ({self.source}) leaves {listed(kept)} at random values; "
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
            if key in self.reinitialized
        ]
        if shapes:
            logger.warning(
                "%s: %s; re-initialized, all else is loaded: %s",
                self.path,
                ", ".join(self.other_numbers),
                ", ".join(shapes),
            )

    def __str__(self) -> str:
        shapes = [f"{key} {in_file} -> {in_model}" for key, in_file, in_model in self.mismatched]
        rows = [
            ("loaded", len(self.loaded), ""),
            ("renamed", len(self.renamed), some([f"{old} -> {new}" for old, new in self.renamed.items()], 1)),
            ("interpolated", len(self.resized), some(self.resized, 1)),
            ("re-initialized", len(self.reinitialized), modules_of(self.reinitialized)),
            ("for training only, initial", len(self.training_only), modules_of(self.training_only)),
            ("other shape", len(self.mismatched), some(shapes, 1)),
            ("missing", len(self.missing), modules_of(self.missing)),
            ("unexpected", len(self.unexpected), modules_of(self.unexpected)),
            ("not needed", len(self.extras), modules_of(self.extras)),
        ]
        table = tabulate(
            [row for row in rows if row[1] or row[0] == "loaded"], ["weights", "count", ""], "pipe"
        )
        return f"{self.path}, read as {self.source}:\n{table}"


class Layout(NamedTuple):
    """A layout of files, and how well it explains one.

    Attributes:
        name: of the layout.
        explained: number of the file's weights that it gives a place in the model.
        recognized: whether the file has the keys by which the layout is known.
    """

    name: str
    explained: int
    recognized: bool


class CheckpointMismatchError(InputError):
    """Weights that do not fit a model.

    Attributes:
        report: what would have happened to every weight; the model is unchanged.
        nearest: the layouts that explain most of the file beside the one that it was read as, the best first.
    """

    def __init__(self, message: str, report: LoadReport, nearest: tuple[Layout, ...] = ()) -> None:
        super().__init__(message)
        self.report = report
        self.nearest = nearest

    def log(self, total: int) -> None:
        """Log the table of all weights, and the nearest layouts; `total` is the file's number of weights."""
        lines = [str(self.report)]
        for layout in self.nearest:
            known = "" if layout.recognized else ", although the file lacks what such files have"
            lines.append(f"as {layout.name}, {layout.explained} of {total} weights would have a place{known}")
        logger.error("%s", "\n".join(lines))


def describe_problems(report: LoadReport) -> str:
    """Return in one line why a file does not fit; "" where it does."""
    shapes = [
        f"{key} is {in_file} in the file, {in_model} in the model"
        for key, in_file, in_model in report.mismatched
        if key not in report.reinitialized
    ]
    problems = []
    if shapes:
        problems.append(f"{len(shapes)} shapes differ: {some(shapes, 10, '; ')}")
    if report.missing:
        problems.append(f"the file lacks {listed(report.missing)}")
    if report.unexpected:
        problems.append(f"the model has no place for {listed(report.unexpected)}")
    if not problems:
        return ""
    return (
        f"{report.path} (read as {report.source}) does not fit the model: {'; '.join(problems)}; "
        f"{remedy(report)}"
    )


def remedy(report: LoadReport) -> str:
    """Return what to do about a file that does not fit: it tells, if it is segzoo's own."""
    about = report.description or {}
    if about.get("config"):
        return "it holds its own configuration: give it alone, without --config-file"
    trained = " ".join(f"{key} {about[key]}" for key in ("task", "dataset") if about.get(key))
    of = f", of {trained}" if trained else ""
    return f"give the configuration of the network that it was saved from{of} (MODEL_ZOO.md lists them)"


def listed(keys: list[str]) -> str:
    """Return some weights in words: the name of one, or the number and the first ten."""
    return f"{len(keys)} weights ({some(keys, 10)})" if len(keys) != 1 else keys[0]


def modules_of(keys: list[str]) -> str:
    """Return the modules that the keys belong to, at most three levels deep."""
    return some(list(dict.fromkeys(".".join(key.split(".")[:3]) for key in keys)), 4)
