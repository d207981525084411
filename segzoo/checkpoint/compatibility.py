"""Compare a checkpoint's metadata with those of the config it is loaded for."""

import math
from collections.abc import Mapping
from typing import Any

from segzoo.utils.tasks import TASKS


def compare_description(theirs: Mapping[str, Any] | None, ours: Mapping[str, Any] | None) -> list[str]:
    """Return one line for each difference between two descriptions that predictions depend on.

    Args:
        theirs: the file's description; None for a file of another code base.
        ours: the config's. Keys that one of them lacks are not compared.
    """
    theirs, ours = theirs or {}, ours or {}
    differences = []
    # A task with one class of all segments has no names of classes.
    named = not all(_has_one_class(one) for one in (theirs, ours))
    if named and theirs.get("classes") and ours.get("classes"):
        their_classes, our_classes = list(theirs["classes"]), list(ours["classes"])
        if len(their_classes) != len(our_classes):
            differences.append(f"{len(their_classes)} vs {len(our_classes)} classes")
        elif their_classes != our_classes:
            pairs = enumerate(zip(their_classes, our_classes, strict=True))
            differences.append(next(f"class {index}: {a!r} vs {b!r}" for index, (a, b) in pairs if a != b))
    formats = theirs.get("image_format"), ours.get("image_format")
    if all(formats) and formats[0] != formats[1]:
        differences.append(f"image_format: {formats[0]!r} vs {formats[1]!r}")
    for key in ("pixel_mean", "pixel_std"):
        if theirs.get(key) and ours.get(key) and not _close(theirs[key], ours[key]):
            differences.append(f"{key}: {list(theirs[key])} vs {list(ours[key])}")
    return differences


def _has_one_class(description: Mapping[str, Any]) -> bool:
    task = TASKS.get(description.get("task", ""))
    return task is not None and task.classes == "one"


def _close(first: list[float], second: list[float]) -> bool:
    pairs = zip(first, second, strict=False)
    return len(first) == len(second) and all(math.isclose(a, b, abs_tol=1e-3) for a, b in pairs)
