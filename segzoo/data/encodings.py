"""How class labels are stored in image files: a registry of named encodings.

An encoding turns the pixels of one label file into class indices, and rejects unknown values.

Shape shorthand: H, W pixels; K classes.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import yaml
from detectron2.utils.logger import log_first_n
from PIL import Image

from segzoo.utils.errors import InputError
from segzoo.utils.label_png import label_array
from segzoo.utils.text import did_you_mean, some

from .label_ops import count_values, look_up, rgb_codes
from .palettes import PaletteCheck

# Stands for a class name: pixels that are ignored in training and evaluation.
VOID = "void"

# In files of `InstanceIdEncoding`: the id of an instance is this times the id of its class, plus a number.
INSTANCES = 1000

GRAY_16_BIT = ("I;16", "I;16L", "I;16B", "I")


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a dataset, and the mapping of the labels in its files to them.

    Attributes:
        classes: (K,) names, in the order of the class indices.
        ids: (K,) numbers of the classes in files that do not count from 0.
        label_map: {label in the files: class name or "void"}; a label is a name, or a number as stored.
        source: name of the dataset's YAML, for messages.
    """

    classes: tuple[str, ...]
    ids: tuple[int, ...]
    label_map: Mapping[str | int, str] = field(default_factory=dict)
    source: str = "dataset"

    @property
    def ignore_label(self) -> int:
        """Label of void pixels in memory, independent of the files."""
        return 255 if len(self.classes) <= 255 else 65535

    @property
    def dtype(self) -> type:
        return np.uint8 if len(self.classes) <= 255 else np.uint16

    def index(self, label: str | int, name: str | None = None) -> int:
        """Return the class index in [0, K), or `ignore_label`, of a label in the files.

        Args:
            label: a name or a number in the files.
            name: the name of `label`, if that is a number.

        Raises:
            InputError: the label belongs to no class.
        """
        name_of_label = label if name is None else name
        target = self.label_map.get(label, self.label_map.get(name_of_label, name_of_label))
        if target == VOID:
            return self.ignore_label
        if target in self.classes:
            return self.classes.index(target)
        raise InputError(
            f"{self.source}: label {name!r} in the files is neither a class nor in label_map"
            f"{did_you_mean(name, self.classes) or '; map it to a class or to void'}"
        )


class UnknownLabelError(InputError):
    """A label file contains values that belong to no class.

    Attributes:
        labels: these values, or colors (r, g, b).
    """

    def __init__(self, message: str, labels: Iterable[Any]) -> None:
        super().__init__(message, tuple(labels))  # both, for pickling
        self.labels = tuple(labels)

    def __str__(self) -> str:
        return self.args[0]


class Encoding:
    """Base class of encodings. A subclass is registered by its `name` and takes `options` from the YAML."""

    name = ""
    options: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()  # the Pillow modes it can read

    def __init__(self, space: LabelSpace, options: Mapping[str, Any]) -> None:
        self.space = space
        self.given = dict(options)  # the options in the YAML
        self.labels: set[str | int] = set()  # the names and numbers that label_map may have as sources
        self.without_labels: set[int] = set()  # classes without a label in the files, not declared as such

    def decode(self, image: Image.Image, file_name: str) -> np.ndarray:
        """Return the classes of a label image, (H, W) uint8 (uint16 for more than 255 classes).

        Returns:
            Class indices in [0, K), or the ignore label.

        Raises:
            UnknownLabelError: the file contains values that belong to no class.
        """
        raise NotImplementedError

    def file_values(self) -> list[int] | None:
        """Return (K,) the value of each class in the files; None if a class has none.

        If `label_map` merges several labels into a class, the label that has the class's name is taken.
        """
        return None

    def with_option(self, key: str, value: Any) -> str:
        """Return the YAML of this encoding with one more option, for messages."""
        setting = {"type": self.name, **self.given, key: value}
        return yaml.safe_dump(setting, default_flow_style=True, width=10**6, sort_keys=False).strip()

    def _fail(self, problem: str) -> InputError:
        return InputError(f"{self.space.source}: encoding {self.name}: {problem}")

    def _others(self, options: Mapping[str, Any]) -> bool:
        others = options.get("others", "error")
        if others not in ("error", VOID):
            raise self._fail(f"others is {others!r}; expected error or void")
        return others == VOID


class IndexEncoding(Encoding):
    """Gray or palette image whose pixel values are class indices.

    Options: `offset` is added to a value to get its class index (-1: 0 is void and 1 the first class);
    `values` names the values (a list, or {value: name}) if they are not simply `classes`; `void` lists values
    without a class; `others: void` makes every unlisted value void; `channel: 0` reads the first channel of
    files that have three, such as those of annotation tools that save RGB only.

    The alpha channel of a gray image is ignored; floating-point pixels must be whole numbers. A palette that
    contradicts the colors in the YAML is rejected, see `PaletteCheck`.
    """

    name = "index"
    options: tuple[str, ...] = ("offset", "values", "void", "others", "channel")
    modes: tuple[str, ...] = ("L", "P", "1", "LA", "F", *GRAY_16_BIT)

    def __init__(
        self, space: LabelSpace, options: Mapping[str, Any], palette_check: PaletteCheck | None = None
    ) -> None:
        super().__init__(space, options)
        self.palette_check = palette_check
        self.channel = options.get("channel")
        if self.channel is not None:
            if self.channel not in (0, 1, 2):
                raise self._fail(f"channel is {self.channel!r}; expected 0 (red), 1 or 2")
            self.modes = (*self.modes, "RGB", "RGBA")
        names = self._names(options)
        void = _list_of_ints(options.get("void", []), lambda text: self._fail(f"void {text}"))
        table = np.full(1 << 16, -1, dtype=np.int32)
        if self._others(options):
            table[:] = space.ignore_label
        # Void in all files: the ignore label for K classes, and 255.
        table[[space.ignore_label, 255]] = space.ignore_label
        self.implicit_void = space.ignore_label not in void and space.ignore_label not in names
        # An offset of -1 means that values start at 1: smaller ones are void.
        table[: max(0, -options.get("offset", 0))] = space.ignore_label
        for value, name in names.items():
            table[value] = space.index(value, name)
        for value in void:
            table[value] = space.ignore_label
        for label, target in space.label_map.items():
            if isinstance(label, int):
                table[label] = space.index(label, target)
                self.implicit_void &= label != space.ignore_label
        self.table: np.ndarray = np.where(table < 0, space.ignore_label, table).astype(space.dtype)
        self.known = table >= 0
        self.values = names
        self.labels = set(names.values()) | set(range(1 << 16))

    def _names(self, options: Mapping[str, Any]) -> dict[int, str]:
        """Return {value in the files: its name}."""
        if "values" not in options:
            offset = self._offset(options)
            names = {index - offset: name for index, name in enumerate(self.space.classes)}
        else:
            if "offset" in options:
                raise self._fail("set either offset or values, not both")
            values = options["values"]
            names = dict(values) if isinstance(values, Mapping) else dict(enumerate(values or ()))
        return self._checked(names)

    def _offset(self, options: Mapping[str, Any]) -> int:
        offset = options.get("offset", 0)
        if not isinstance(offset, int):
            raise self._fail(f"offset is {offset!r}; expected a whole number")
        return offset

    def _checked(self, names: dict[int, str]) -> dict[int, str]:
        for value, name in names.items():
            if not isinstance(value, int) or not 0 <= value < 1 << 16 or not isinstance(name, str):
                raise self._fail(f"{value!r}: {name!r} is not a value in [0, 65536) with a class name")
        return names

    def decode(self, image: Image.Image, file_name: str) -> np.ndarray:
        raw, present = self._known_values(image, file_name)
        if raw.dtype == self.table.dtype and raw.flags.writeable and (self.table[present] == present).all():
            return raw  # nothing to replace
        return look_up(self.table, raw)

    def _known_values(self, image: Image.Image, file_name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored values, (H, W) uint8 or uint16, and the different ones; all are known."""
        raw = label_array(image)
        if raw.ndim == 3:
            # No conversion to gray, which would mix the channels.
            raw = np.ascontiguousarray(raw[:, :, 0 if image.mode == "LA" else self.channel])
        if raw.dtype == bool:
            raw = raw.astype(np.uint8)
        elif raw.dtype != np.uint8:
            raw = self._as_16_bit(raw, file_name)
        counts = count_values(raw)
        present = np.flatnonzero(counts)
        if image.mode == "P" and self.palette_check is not None:
            known = np.where(self.known[present], self.table[present].astype(int), -1)
            class_of = dict(zip(present.tolist(), known.tolist(), strict=True))
            self.palette_check(image, class_of, file_name)
        unknown = present[~self.known[present]]
        if len(unknown):
            message = f"{file_name}: {self._unknown(unknown, int(counts[unknown].sum()))}"
            raise UnknownLabelError(message, unknown.tolist())
        self._check_mask(present, file_name)
        return raw, present

    def file_values(self) -> list[int] | None:
        classes = self.space.classes
        value_of = {int(self.table[value]): int(value) for value in np.flatnonzero(self.known)[::-1]}
        own = {classes.index(name): value for value, name in self.values.items() if name in classes}
        value_of |= {index: value for index, value in own.items() if self.table[value] == index}
        found = [value_of[index] for index in range(len(classes)) if index in value_of]
        return found if len(found) == len(classes) else None

    @staticmethod
    def _as_16_bit(raw: np.ndarray, file_name: str) -> np.ndarray:
        if raw.dtype.kind == "f":
            broken = raw[raw != np.floor(raw)]  # including NaN
            if broken.size:
                raise InputError(
                    f"{file_name}: has floating-point labels such as {broken[0]:g}, expected whole numbers; "
                    "save them with 8 or 16 bits, and void as 255"
                )
        if raw.min() < 0 or raw.max() >= 1 << 16:
            raise InputError(
                f"{file_name}: labels range from {raw.min()} to {raw.max()}, expected [0, 65536); "
                "save them with 8 or 16 bits"
            )
        return raw.astype(np.uint16)

    def _unknown(self, unknown: np.ndarray, pixels: int) -> str:
        first, last = min(self.values, default=0), max(self.values, default=-1)
        if sorted(self.values) == list(range(first, last + 1)):
            expected = f"outside [{first}, {last + 1})"
        else:
            expected = f"not among the values {some(sorted(self.values), 40)}"
        plural, verb, are = ("s", "are", "are") if len(unknown) > 1 else ("", "is", "is")
        from_1 = ""
        if self.counts_from_0 and unknown.tolist() == [len(self.space.classes)]:
            from_1 = f"if the files count from 1, set encoding: {{type: {self.name}, offset: -1}}; else "
        return (
            f"label{plural} {some(unknown)} {verb} {expected} and {are} not the ignore label "
            f"{self.space.ignore_label} ({pixels} pixels); {from_1}give each a class with label_map in "
            f"{self.space.source}, or list it there under encoding: {{type: {self.name}, void: [...]}}"
        )

    @property
    def counts_from_0(self) -> bool:
        """Whether each value is the index of its class."""
        return self.values == dict(enumerate(self.space.classes))

    def _check_mask(self, present: np.ndarray, file_name: str) -> None:
        """Raise InputError for a binary mask of 0 and 255, which as indices would be class 0 and void."""
        is_mask = len(present) <= 2 and present[-1] == 255 and present[0] in (0, 255)
        if is_mask and self.implicit_void and len(self.space.classes) <= 2:
            foreground = self.space.classes[-1]
            raise InputError(
                f"{file_name}: holds only {{{some(present)}}}; 255 is the ignore label, so no foreground "
                f"remains. Set encoding: binary (0 and 255), or label_map: {{255: {foreground}}}, or "
                "encoding: {type: index, void: [255]} if it is really void"
            )


class IdEncoding(IndexEncoding):
    """Like `index`, but values are the `id`s of the classes; `offset` is added to a value to get the id."""

    name = "id"
    options: tuple[str, ...] = ("offset", "void", "others", "channel")

    def _names(self, options: Mapping[str, Any]) -> dict[int, str]:
        offset = self._offset(options)
        values = [class_id - offset for class_id in self.space.ids]
        return self._checked(dict(zip(values, self.space.classes, strict=True)))


class Regions(NamedTuple):
    """The regions of an image, one per value in its label file.

    Attributes:
        indices: (H, W) uint8 or uint16 in [0, R): the region of each pixel.
        values: (R,) int64, ascending: the value in the file.
        classes: (R,) int64 class indices, or the ignore label.
        is_instance: (R,) bool, whether the region is a single object. Otherwise a region of a thing class is
            a group whose members are not separated.
    """

    indices: np.ndarray
    values: np.ndarray
    classes: np.ndarray
    is_instance: np.ndarray


class InstanceIdEncoding(IdEncoding):
    """Classes and instances in one file, as in Cityscapes: 1000 times the class's `id` plus a number.

    A value below 1000 is the `id` alone: stuff, or a group of things that are not separated.
    """

    name = "instance_id"
    options = ("void", "others")
    modes = ("L", *GRAY_16_BIT)

    def __init__(
        self, space: LabelSpace, options: Mapping[str, Any], palette_check: PaletteCheck | None = None
    ) -> None:
        super().__init__(space, options, palette_check)
        if max(space.ids) >= INSTANCES:
            raise self._fail(f"a class has the id {max(space.ids)}; ids must be below {INSTANCES}")
        values = np.arange(1 << 16)
        ids = np.where(values < INSTANCES, values, values // INSTANCES)
        self.table, self.known = self.table[ids], self.known[ids]

    def regions(self, image: Image.Image, file_name: str) -> Regions:
        """Return the regions of a file, void ones included.

        Raises:
            UnknownLabelError: the file contains values that belong to no class.
        """
        raw, present = self._known_values(image, file_name)
        position = np.zeros(256 if raw.dtype == np.uint8 else 1 << 16, dtype=np.uint16)
        position[present] = np.arange(len(present))
        if len(present) <= 256:
            position = position.astype(np.uint8)
        classes = self.table[present].astype(np.int64)
        return Regions(look_up(position, raw), present.astype(np.int64), classes, present >= INSTANCES)

    def _unknown(self, unknown: np.ndarray, pixels: int) -> str:
        ids = np.unique(np.where(unknown < INSTANCES, unknown, unknown // INSTANCES))
        return (
            f"values {some(unknown)} have ids of no class, {some(ids)} ({pixels} pixels); list the ids in "
            f"{self.space.source} under encoding: {{type: {self.name}, void: [...]}}"
        )


class PaletteEncoding(IndexEncoding):
    """Like `index`, for files that must be palette images: the index counts, not the color."""

    name = "palette"
    options = ("offset", "values", "void", "others")
    modes = ("P",)


class BinaryEncoding(IndexEncoding):
    """A mask of 0 and 255 (or 0 and 1): the first and the second of two classes.

    Options: `channel`, as for `index`; `threshold` is the smallest value of the second class, for masks with
    soft edges.
    """

    name = "binary"
    options = ("channel", "threshold")
    modes = ("L", "P", "1", "LA", "F")

    def _names(self, options: Mapping[str, Any]) -> dict[int, str]:
        if len(self.space.classes) != 2:
            raise self._fail(f"needs two classes (background first), found {len(self.space.classes)}")
        background, foreground = self.space.classes
        if "threshold" not in options:
            return {0: background, 1: foreground, 255: foreground}
        threshold = options["threshold"]
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold <= 255:
            raise self._fail(f"threshold is {threshold!r}; expected a number above 0, at most 255")
        return {value: background if value < threshold else foreground for value in range(256)}

    def _unknown(self, unknown: np.ndarray, pixels: int) -> str:
        background, foreground = self.space.classes
        return (
            f"values {some(unknown)} are none of 0, 1 and 255 ({pixels} pixels); name them in "
            f"{self.space.source}: encoding: {{type: index, values: "
            f"{{<value>: {background}, <value>: {foreground}}}}}"
        )


class RGBEncoding(Encoding):
    """An RGB image whose colors are classes.

    Options: `colors` is {class name: [[r, g, b], ...]}, by default the classes' `color`; an empty list stands
    for a class that no file has. `void` lists colors without a class; `others: void` makes every other color
    void, with a warning.
    """

    name = "rgb"
    options = ("colors", "void", "others")
    modes = ("RGB", "RGBA", "P")

    def __init__(
        self, space: LabelSpace, options: Mapping[str, Any], colors: Mapping[str, Sequence[int]]
    ) -> None:
        super().__init__(space, options)
        self.others_are_void = self._others(options)
        by_label = options.get("colors") or {name: [color] for name, color in colors.items()}
        self.without_labels = set(range(len(space.classes))) - {space.index(label) for label in by_label}
        labels: dict[int, int] = {}
        for label, listed in [*by_label.items(), (VOID, options.get("void", []))]:
            index = space.ignore_label if label == VOID else space.index(label)
            if not isinstance(listed, list):
                raise self._fail(f"{label!r}: {listed!r} is not a list of colors [[r, g, b], ...]")
            for color in listed:
                code = self._code(label, color)
                if labels.setdefault(code, index) != index:
                    raise self._fail(f"color {list(color)} is given to {label!r} and to another class")
        self.codes, self.indices = tuple(labels), tuple(labels.values())
        self.labels = set(by_label)

    def _code(self, label: str, color: Any) -> int:
        if not is_color(color):
            raise self._fail(f"{label!r}: {color!r} is not a color; write a list of [r, g, b] in 0..255")
        return color[0] | color[1] << 8 | color[2] << 16

    def decode(self, image: Image.Image, file_name: str) -> np.ndarray:
        codes = rgb_codes(image)
        stored = _color_table(self.codes, self.indices)[codes]
        unknown = stored == 0
        if unknown.any():
            self._report(codes[unknown], file_name)
        labels = (stored - 1).astype(self.space.dtype)
        labels[unknown] = self.space.ignore_label
        return labels

    def _report(self, codes: np.ndarray, file_name: str) -> None:
        colors = [(code & 255, code >> 8 & 255, code >> 16) for code in np.unique(codes).tolist()]
        found = f"{file_name}: {len(codes)} pixels have colors of no class: {some(colors, 3)}"
        if not self.others_are_void:
            raise UnknownLabelError(
                f"{found}; list it under encoding.colors or encoding.void in {self.space.source}", colors
            )
        log_first_n(logging.WARNING, f"{found}; they are void", n=10)


@lru_cache(maxsize=4)
def _color_table(codes: tuple[int, ...], indices: tuple[int, ...]) -> np.ndarray:
    """Return (2**24,) uint32 class index + 1, 0 for other colors; untouched pages take no memory."""
    table = np.zeros(1 << 24, dtype=np.uint32)
    table[list(codes)] = np.asarray(indices, dtype=np.uint32) + 1
    return table


class EncodingByMode(Encoding):
    """Several encodings in one folder; a file is read by the first that supports its mode."""

    def __init__(self, encodings: Sequence[Encoding]) -> None:
        super().__init__(encodings[0].space, {})
        self.encodings = encodings
        self.name = " or ".join(encoding.name for encoding in encodings)
        self.modes = tuple(mode for encoding in encodings for mode in encoding.modes)
        self.labels = set().union(*(encoding.labels for encoding in encodings))
        self.without_labels = set.intersection(*(encoding.without_labels for encoding in encodings))

    def file_values(self) -> list[int] | None:
        return next(filter(None, (encoding.file_values() for encoding in self.encodings)), None)

    def decode(self, image: Image.Image, file_name: str) -> np.ndarray:
        fitting = next(encoding for encoding in self.encodings if image.mode in encoding.modes)
        return fitting.decode(image, file_name)


ENCODINGS: dict[str, type[Encoding]] = {
    encoding.name: encoding
    for encoding in (
        IndexEncoding,
        IdEncoding,
        InstanceIdEncoding,
        PaletteEncoding,
        BinaryEncoding,
        RGBEncoding,
    )
}


def build_encoding(
    setting: Any, space: LabelSpace, colors: Mapping[str, Sequence[int]], stops_at_palettes: bool = True
) -> Encoding:
    """Build an encoding from the value of `encoding` in a dataset's YAML.

    Args:
        setting: a name, a mapping with the key `type` and options, or a list of these.
        space: the dataset's classes.
        colors: {class name: its color in the YAML}, the default of `rgb`.
        stops_at_palettes: whether a palette that contradicts the colors is an error, or only a warning.

    Raises:
        InputError: unknown encoding or option, invalid values, or a class without a color.
    """
    given = {space.classes.index(name): (color[0], color[1], color[2]) for name, color in colors.items()}
    palette_check = PaletteCheck(space.classes, given, space.source, stops_at_palettes)
    if isinstance(setting, list) and setting:
        encoding: Encoding = EncodingByMode(
            [_build_one(one, space, colors, palette_check) for one in setting]
        )
    else:
        encoding = _build_one(setting, space, colors, palette_check)
    if encoding.without_labels:
        name = space.classes[min(encoding.without_labels)]
        raise InputError(
            f"{space.source}: encoding {encoding.name}: class {name!r} has no color; give it one under "
            "color or encoding.colors ([] there if no file has it)"
        )
    return encoding


def _build_one(
    setting: Any, space: LabelSpace, colors: Mapping[str, Sequence[int]], palette_check: PaletteCheck
) -> Encoding:
    setting = {"type": setting} if isinstance(setting, str) else setting
    if not isinstance(setting, Mapping) or "type" not in setting:
        raise InputError(f"{space.source}: encoding lacks its type, one of {', '.join(ENCODINGS)}")
    if setting["type"] not in ENCODINGS:
        raise InputError(
            f"{space.source}: encoding {setting['type']!r} is unknown"
            f"{did_you_mean(setting['type'], ENCODINGS)}; known: {', '.join(ENCODINGS)}"
        )
    encoding = ENCODINGS[setting["type"]]
    options = {key: value for key, value in setting.items() if key != "type"}
    for key in options:
        if key not in encoding.options:
            raise InputError(
                f"{space.source}: encoding {encoding.name} has no option {key}"
                f"{did_you_mean(key, encoding.options)}"
            )
    if encoding is RGBEncoding:
        return RGBEncoding(space, options, colors)
    if issubclass(encoding, IndexEncoding):
        # An explicit `palette` needs no check.
        return encoding(space, options, None if encoding is PaletteEncoding else palette_check)
    return encoding(space, options)


def is_color(value: Any) -> bool:
    """Return whether a value is a list of three numbers in 0..255."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(part, int) and 0 <= part <= 255 for part in value)
    )


def _list_of_ints(values: Any, fail: Any) -> list[int]:
    if not isinstance(values, Iterable) or not all(
        isinstance(value, int) and 0 <= value < 1 << 16 for value in values
    ):
        raise fail(f"is {values!r}; expected a list of numbers in [0, 65536)")
    return list(values)
