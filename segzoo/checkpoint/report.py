"""Report of what loading did to every weight, and the error for a checkpoint that does not fit."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tabulate import tabulate

from segzoo.utils.errors import InputError
from segzoo.utils.text import some

from .compatibility import compare_description
from .key_maps import matches, query_keys

logger = logging.getLogger(__name__)

Mismatch = tuple[str, tuple[int, ...], tuple[int, ...]]


@dataclass
class LoadReport:
    """What `load_checkpoint` did with every weight.

    Attributes:
        path: the path or URL that was given.
        source: name of the recognized layout.
        loaded: the model's keys that now have the file's values.
        renamed: {file key: model key} of loaded weights whose names differ.
        resized: the model's keys whose values were interpolated to the model's shape.
        reinitialized: the model's keys that keep their initial values, as expected: the classifier or the
            queries when fine-tuning, all but the backbone with an ImageNet file. Such a model must not be
            evaluated.
        training_only: the model's keys that keep their initial values because such files lack them, and that
            predictions do not depend on.
        other_numbers: numbers in which the file differs from the model: "133 classes -> 5".
        mismatched: (model key, shape in the file, shape in the model).
        missing: the model's keys that the file lacks without a reason.
        unexpected: the file's keys that have no place in the model.
        extras: the file's keys that are known not to be needed.
        description: metadata of a segzoo checkpoint; else None.
        layout_description: the same of a file without metadata, as far as its layout determines it.
        differences: how they differ from the config, see `compare`.
        notes: which of several sets of weights was taken, which prefix of the names was removed.
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
    layout_description: dict[str, Any] | None = None
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every weight that predictions depend on came from the file."""
        return not (self.reinitialized or self.missing)

    def compare(self, config: Mapping[str, Any] | None) -> None:
        """Set `differences`: those between the file's metadata and a config's, see `compare_description`."""
        self.differences = compare_description(self.description or self.layout_description, config)

    def require_complete(
        self, action: str = "evaluation", consequence: str = "refusing to report metrics"
    ) -> None:
        """Raise InputError unless every weight was loaded and the classes and the input format agree.

        Results with a random head, other classes or another channel order mean nothing.

        Args:
            action: start of the message.
            consequence: end of the message.
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

    def require_same_input(self) -> None:
        """Raise InputError if the file's model had other channels, mean or standard deviation.

        The message has the overrides that give a configuration the input of the file.
        """
        inputs = {
            "image_format": "INPUT.FORMAT",
            "pixel_mean": "MODEL.PIXEL_MEAN",
            "pixel_std": "MODEL.PIXEL_STD",
        }
        found = [line for line in self.differences if line.startswith(tuple(f"{name}:" for name in inputs))]
        if found:
            theirs = self.description or self.layout_description or {}
            overrides = [f'{key} "{theirs[name]}"' for name, key in inputs.items() if theirs.get(name)]
            raise InputError(
                f"training: {self.path} was trained with another input than this config's ({found[0]}); use "
                f"the config it was trained with, or give this one its input: {' '.join(overrides)}"
            )

    def log(self) -> None:
        """Log the table, the notes and, as a warning, the weights re-initialized for fine-tuning."""
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
                "%s: %s; re-initialized, all others are loaded: %s",
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
            ("re-initialized", len(self.reinitialized), module_names(self.reinitialized)),
            ("for training only, initial", len(self.training_only), module_names(self.training_only)),
            ("other shape", len(self.mismatched), some(shapes, 1)),
            ("missing", len(self.missing), module_names(self.missing)),
            ("unexpected", len(self.unexpected), module_names(self.unexpected)),
            ("not needed", len(self.extras), module_names(self.extras)),
        ]
        table = tabulate(
            [row for row in rows if row[1] or row[0] == "loaded"], ["weights", "count", ""], "pipe"
        )
        return f"{self.path}, read as {self.source}:\n{table}"


class Layout(NamedTuple):
    """A layout, and how well it explains a file.

    Attributes:
        name: name of the layout.
        explained: number of the file's weights that it maps to a key of the model.
        recognized: whether the file has the keys that identify the layout.
    """

    name: str
    explained: int
    recognized: bool


class CheckpointMismatchError(InputError):
    """Error for weights that do not fit a model.

    Attributes:
        report: what would have happened to every weight; the model is unchanged.
        nearest: other layouts that explain most of the file, the best first.
    """

    def __init__(self, message: str, report: LoadReport, nearest: tuple[Layout, ...] = ()) -> None:
        super().__init__(message)
        self.report = report
        self.nearest = nearest

    def log(self, total: int) -> None:
        """Log the table of all weights and the nearest layouts; `total` is the file's number of weights."""
        lines = [str(self.report)]
        for layout in self.nearest:
            known = "" if layout.recognized else ", although the file lacks the keys that identify it"
            lines.append(f"as {layout.name}, {layout.explained} of {total} weights would have a place{known}")
        logger.error("%s", "\n".join(lines))


def describe_problems(report: LoadReport) -> str:
    """Return in one line why a file does not fit; "" if it does."""
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
    """Return what to do about a file that does not fit, from its metadata if it has any."""
    about = report.description or {}
    if about.get("config"):
        return "it holds its own configuration: give it without --config-file"
    trained = " ".join(f"{key} {about[key]}" for key in ("task", "dataset") if about.get(key))
    details = f", {trained}" if trained else ""
    return f"give the configuration it was trained with{details} (MODEL_ZOO.md lists them)"


def listed(keys: list[str]) -> str:
    """Return the name of a single weight, or the number of weights and the first ten names."""
    return f"{len(keys)} weights ({some(keys, 10)})" if len(keys) != 1 else keys[0]


def module_names(keys: list[str]) -> str:
    """Return the names of the keys' modules, at most three levels deep."""
    return some(list(dict.fromkeys(".".join(key.split(".")[:3]) for key in keys)), 4)
