"""The sections of `tools/gpu_check.py`: modules with a function `run(settings, rows)`.

This module, `report` and `wheels` import nothing but the standard library: the process that starts the
sections has to outlive whatever happens in them.
"""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class Section(NamedTuple):
    """A section of the report.

    Attributes:
        module: its module in this package.
        limit: seconds after which its process is ended.
        about: what it does, in a few words.
    """

    module: str
    limit: int
    about: str

    def load(self) -> ModuleType:
        return importlib.import_module(f"{__name__}.{self.module}")


SECTIONS = {
    "limits": Section("limits", 30, "the machine, and what it reaches in products, copies and launches"),
    "tests": Section("gpu_tests", 80, "the tests that need a GPU"),
    "kernels": Section("kernels", 30, "deformable attention, beside its memory traffic and F.grid_sample"),
    "step": Section("step", 105, "a training step: time, kernels, host synchronizations, memory; peers"),
    "inference": Section("inference", 70, "an image to results, with peers"),
    "throughput": Section("images_per_second", 45, "images per second at batch 16, for the zoo's plot"),
    "evaluation": Section("evaluation", 55, "an evaluation of three tasks beside Detectron2's loop"),
    "train": Section("training", 155, "two minutes of training on Shapes, and the model's metrics"),
}


def replace(file: Path, text: str) -> None:
    """Write a file so that it is complete whenever it is read."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


class Rows:
    """The rows of a section, which are written to its file one by one, so that none is lost."""

    def __init__(self, file: Path):
        self._file = file
        self.rows: list[dict[str, Any]] = []

    def add(self, **row: Any) -> None:
        """Add a row: values by column; None leaves the cell empty."""
        self.rows.append({name: value for name, value in row.items() if value is not None})
        replace(self._file, json.dumps(self.rows, indent=1))


class Settings(NamedTuple):
    """What the sections are told.

    Attributes:
        device: cuda, cuda:1, ..., or cpu.
        small: use small sizes and networks.
        output: the report's folder.
        limit: seconds after which the section's process is ended.
    """

    device: str
    small: bool
    output: Path
    limit: float = float("inf")

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def rows(self, section: str) -> Rows:
        """Return the empty rows of a section."""
        return Rows(self.output / f"{section}.json")
