"""The classes of a dataset YAML: names, ids, colors, things and stuff, and a background."""

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean, some

from .checks import check_keys
from .encodings import VOID, is_color

CLASS_KEYS = ("name", "id", "color", "isthing")


@dataclass(frozen=True)
class DatasetClass:
    """A class: name, id in label files, display color, and whether it has instances.

    `color_is_given` distinguishes a color of the YAML, which label files may contain, from a generated one.
    """

    name: str
    id: int
    color: tuple[int, int, int]
    isthing: bool
    color_is_given: bool


def read_background(content: Mapping[str, Any], has_instances: bool, path: Path) -> str | None:
    """Return the name of the background class, for pixels that no instance covers; None if there is none."""
    name, listed = content.get("background"), content.get("classes")
    if name is None:
        return None
    if not has_instances:
        raise InputError(
            f"{path.name}: background is only for datasets with the key instances, as the class of pixels "
            "that no instance covers; remove it"
        )
    names = [one.get("name") if isinstance(one, Mapping) else one for one in listed or ()]
    if isinstance(listed, list) and name not in names:
        raise InputError(
            f"{path.name}: background is {name!r}, which is not among the classes"
            f"{did_you_mean(name, names)}; add it to classes, at the position of its index"
        )
    if len(names) == 1:
        raise InputError(
            f"{path.name}: the background {name!r} is the only class; add the instances' classes"
        )
    return name


def read_classes(
    content: Mapping[str, Any], path: Path, all_things: bool, background: str | None
) -> tuple[DatasetClass, ...]:
    """Return the classes of a dataset YAML; with `all_things`, all but the `background` are things."""
    listed = content.get("classes")
    if isinstance(listed, Mapping):
        # As in YOLO's files: {0: road, 1: car}.
        if list(listed) != list(range(len(listed))):
            raise InputError(
                f"{path.name}: classes is a mapping of {some(map(repr, listed))}; write a list of names, or "
                "of {name: ..., id: ...} where the numbers in the files do not count from 0"
            )
        listed = list(listed.values())
    if not isinstance(listed, list) or not listed:
        raise InputError(
            f"{path.name}: lacks classes: a list of names, the name of a dataset with the same classes, or a "
            "text file of names"
        )
    classes = []
    for index, entry in enumerate(listed):
        entry = dict(entry) if isinstance(entry, dict) else {"name": entry}
        check_keys(entry, CLASS_KEYS, f"{path.name}: class {index}")
        if entry.get("isthing", 0) is None:
            del entry["isthing"]
        if entry.get("name") == background and background is not None:
            if entry.setdefault("isthing", False):
                raise InputError(
                    f"{path.name}: class {background!r} has isthing {entry['isthing']!r}, but it is the "
                    "background, which has no instances; leave isthing out"
                )
        elif all_things and not entry.setdefault("isthing", True):
            raise InputError(
                f"{path.name}: class {entry.get('name')!r} has isthing false, but the key instances is for "
                "classes with instances; remove isthing or the class, or name it under background"
            )
        classes.append(_read_class(index, entry, path))
    for what in ("name", "id"):
        seen: set[Any] = set()
        for entry in classes:
            value = getattr(entry, what)
            if value in seen:
                raise InputError(f"{path.name}: two classes have the {what} {value!r}; it must be unique")
            seen.add(value)
    return tuple(classes)


def _read_class(index: int, entry: Mapping[str, Any], path: Path) -> DatasetClass:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise InputError(
            f"{path.name}: class {index} has the name {name!r}; write a string, quoted if needed"
        )
    if name == VOID:
        raise InputError(f"{path.name}: class {index} is called void, which means no class; rename it")
    class_id, color, isthing = entry.get("id", index), entry.get("color"), entry.get("isthing", False)
    if not isinstance(class_id, int) or isinstance(class_id, bool) or class_id < 0:
        raise InputError(f"{path.name}: class {name!r} has the id {class_id!r}; expected a number from 0")
    if color is not None and not is_color(color):
        raise InputError(f"{path.name}: class {name!r} has the color {color!r}; expected [r, g, b] in 0..255")
    if isthing not in (True, False):
        raise InputError(f"{path.name}: class {name!r} has isthing {isthing!r}; write true or false")
    shown = (0, 0, 0) if name == "background" else generated_color(index)
    shown = shown if color is None else tuple(color)
    return DatasetClass(name, class_id, shown, bool(isthing), color_is_given=color is not None)


def generated_color(index: int) -> tuple[int, int, int]:
    """Return a display color: eight successive classes differ in hue, then the tone changes."""
    hue = index * 0.61803398875 % 1
    saturation, value = ((0.75, 0.95), (0.45, 0.75), (0.9, 0.6), (0.4, 1.0))[index // 8 % 4]
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue
