"""The files that `segzoo convert-data panoptic` writes. Files that would not change are not touched.

Shape shorthand: H, W pixels.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segzoo.data.dataset_file import DatasetFile
from segzoo.evaluation.prediction_io import load_ids, save_ids
from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text

MARK = "# Written by segzoo convert-data panoptic"
# The mark of earlier versions, whose files are extended as well.
_EARLIER_MARK = "# Written by tools/make_panoptic.py"


def save_png(path: Path, ids: np.ndarray) -> None:
    """Write an (H, W) id map as a panoptic PNG, unless the file holds it already."""
    if path.is_file():
        try:
            if np.array_equal(load_ids(path), ids):
                return
        except InputError:  # broken: written again
            pass
    save_ids(path, ids)


def save_text(path: Path, text: str) -> None:
    """Write a text file, unless the file holds the text already."""
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def save_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file, unless the file holds the document already."""
    save_text(path, json.dumps(document) + "\n")


def other_splits(path: Path, dataset: DatasetFile) -> dict[str, dict[str, str]]:
    """Return the splits of the YAML that this command wrote there before.

    Raises:
        InputError: the file was not written by this command.
    """
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith((MARK, _EARLIER_MARK)):
        raise InputError(
            f"{path}: exists and was not written by this command; choose another name with --name"
        )
    content = yaml.safe_load(text)
    # Labels with other classes are from an older state of the dataset.
    return dict(content["splits"]) if content["classes"] == _classes(dataset) else {}


def save_yaml(path: Path, dataset: DatasetFile, splits: Mapping[str, Mapping[str, str]], about: str) -> None:
    """Write the dataset YAML of the panoptic labels.

    Args:
        dataset: that of the semantic labels.
        splits: {name to register: values of {images} and {name}}.
    """
    classes = dataset.space.classes
    flip_pairs = [[classes[left], classes[right]] for left, right in dataset.flip_pairs]
    lines = [
        f"{MARK} from {dataset.path.name}.",
        _dump({"about": about}),
        _dump({"name": path.stem}),
        "splits:",
        *(f"  {_flow(name)}: {_flow(dict(values))}" for name, values in sorted(splits.items())),
        'images: "{images}"',
        "panoptic: panoptic/{name}",
        "annotations: panoptic/{name}.json",
        "classes:",
        *(f"  - {_flow(entry)}" for entry in _classes(dataset)),
        *([f"image_range: {list(dataset.image_range)}"] if dataset.image_range is not None else []),
        f"exif: {dataset.exif}",
        *([f"flip_pairs: {_flow(flip_pairs)}"] if flip_pairs else []),
    ]
    save_text(path, "\n".join(lines) + "\n")


def folder_in_yaml(folder: Path, output: Path) -> str:
    """Return a folder as the YAML in `output` names it: relative if below it, so that both can be moved."""
    relative = os.path.relpath(folder, output)
    return str(folder) if relative.startswith("..") else relative


def _classes(dataset: DatasetFile) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "id": one.id, "isthing": one.isthing, "color": list(one.color)}
        for one in dataset.classes
    ]


def _dump(value: Any) -> str:
    return yaml.safe_dump(value, allow_unicode=True, width=1 << 20).strip()


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 20)
    return text.removesuffix("...\n").strip()
