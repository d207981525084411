"""Keys to set in a dataset's YAML, inferred from the contents of its label files.

Shape shorthand: K classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from detectron2.data import MetadataCatalog

from segzoo.data import DatasetFile
from segzoo.data.class_files import CLASS_FIELD, BinaryFilesEncoding
from segzoo.data.encodings import Encoding, IndexEncoding
from segzoo.data.layouts import match
from segzoo.data.palettes import PaletteCheck
from segzoo.utils.text import some

from .stored import StoredSummary

# Maximum number of unknown colors, or values of a mask, to list one by one.
LISTED = 8
# Minimum fraction of pixels with colors of classes where files hold colors of classes.
MOST = 0.5
# Threshold of masks with soft edges.
SOFT_EDGE = 128
# The value of void unless the YAML says otherwise.
VOID_VALUE = 255


class Option(NamedTuple):
    """Keys of a dataset's YAML that make it fit its files.

    Attributes:
        keys: {key: its new value}.
        meaning: the condition under which they are right, or "" where the files alone show it.
    """

    keys: Mapping[str, Any]
    meaning: str = ""

    def as_yaml(self) -> str:
        """Return the keys in a line: {key: value, ...}."""
        return yaml.safe_dump(dict(self.keys), default_flow_style=True, width=10**6, sort_keys=False).strip()

    def __str__(self) -> str:
        text = f"set {self.as_yaml().removeprefix('{').removesuffix('}')}"
        return f"if {self.meaning}, {text}" if self.meaning else text


def as_text(options: Sequence[Option], source: str) -> str:
    """Return the options in one line, or ""."""
    return f"{'; '.join(map(str, options))} in {source}" if options else ""


class Files(NamedTuple):
    """The label files of a split, and how they are read.

    Attributes:
        dataset: that of the split.
        split: registered name.
        layout: index of the layout.
        encoding: that of the layout.
        stored: contents of the files.
    """

    dataset: DatasetFile
    split: str
    layout: int
    encoding: Encoding
    stored: StoredSummary

    @property
    def names(self) -> tuple[str, ...]:
        return self.dataset.space.classes

    @property
    def given_colors(self) -> dict[tuple[int, int, int], int]:
        """Return {color: class index} of the classes with a color in the YAML."""
        classes = enumerate(self.dataset.classes)
        return {entry.color: index for index, entry in classes if entry.color_is_given}


def options_for(files: Files) -> tuple[Option, ...]:
    """Return options that fit the files better than the YAML does; () if there are none."""
    stored = files.stored
    for options in (mask_per_class(files), by_color(files)):
        if options:
            return options
    if not stored.values or sum(stored.colors.values()) or stored.photos:
        return ()
    return tuple(_by_value(files))


def mask_per_class(files: Files) -> tuple[Option, ...]:
    """Return options for label files that are named after classes and hold two values: a mask per class."""
    values = set(files.stored.values)
    if isinstance(files.encoding, BinaryFilesEncoding) or len(values) > 2 or not values or max(values) == 0:
        return ()
    if len(values) == 2 and 0 not in values:
        return ()
    encoding = BinaryFilesEncoding(files.dataset.space, {})
    layout = files.dataset.layouts[files.layout]
    root = Path(MetadataCatalog.get(files.split).dataset_root)
    fields = files.dataset.splits[files.split]
    for template in _per_class_templates(layout.labels or "", encoding):
        found = dict(match(root, template, fields, {CLASS_FIELD: encoding.pattern}))
        every = [path for path, _ in match(root, template, fields)]
        if not found or len(found) < len(every) or len(found) < files.stored.files:
            continue
        with_files = {encoding.class_of(one[CLASS_FIELD]) for one in found.values()}
        without = [name for index, name in enumerate(files.names) if index not in with_files]
        keys = {"labels": template}
        if any(not isinstance(label, str) for label in files.dataset.space.label_map):
            keys["label_map"] = {}
        by_rest = {
            name: Option({**keys, "encoding": {"type": encoding.name, "rest": name}}, meaning)
            for name, meaning in _rests(without)
        }
        return tuple(by_rest.values()) or (Option({**keys, "encoding": encoding.name}),)
    return ()


def _rests(without: Sequence[str]) -> list[tuple[str, str]]:
    """Return [(class of pixels in no mask, condition)], inferred from the classes without files."""
    background = list(filter(_is_background, without))
    if background or len(without) == 1:
        return [((background or without)[0], "")]
    return [(name, f"what no mask covers is {name!r}") for name in without[:1]]


def _is_background(name: str) -> bool:
    return name.lower().strip("_") in ("background", "bg")


def _per_class_templates(labels: str, encoding: BinaryFilesEncoding) -> Iterator[str]:
    """Yield templates with `{class}` in place of a `*` or of the name of a class."""
    field = f"{{{CLASS_FIELD}}}"
    parts = labels.removesuffix(".*").split("*")
    suffix = ".*" if labels.endswith(".*") else ""
    for form in ("{}", "{}-*", "{}_*", "*-{}", "*_{}"):
        for place in range(1, len(parts)):
            yield "*".join(parts[:place]) + form.format(field) + "*".join(parts[place:]) + suffix
    for name in sorted(encoding.labels, key=len, reverse=True):
        for place in range(len(labels)):
            if labels.startswith(name, place):
                yield labels[:place] + field + labels[place + len(name) :]


def by_color(files: Files) -> tuple[Option, ...]:
    """Return options for RGB files, and for palettes that contradict each other or the classes."""
    stored, given = files.stored, files.given_colors
    if files.encoding.name == "rgb":
        return ()
    if stored.palettes and (contradicting(files) or differing(stored)):
        colors = {color for palette in stored.palettes for _, color in palette}
    elif stored.colors and not stored.photos and not stored.values:
        colors = set(stored.colors)
        known = sum(count for color, count in stored.colors.items() if color in given)
        if known < MOST * sum(stored.colors.values()):
            return ()
    else:
        return ()
    if len(given) < len(files.names) or not colors & given.keys():
        return ()
    others = sorted(colors - given.keys())
    if not others:
        return (Option({"encoding": "rgb"}),)
    if len(others) <= LISTED:
        return (Option({"encoding": {"type": "rgb", "void": [list(color) for color in others]}}),)
    return (Option({"encoding": {"type": "rgb", "others": "void"}}),)


def counting_from_1(files: Files | None) -> tuple[Option, ...]:
    """Return the option for values that count from 1, where neither the first class nor 0 occurs."""
    if files is None or not isinstance(files.encoding, IndexEncoding) or 0 in files.stored.values:
        return ()
    if not files.stored.values or files.encoding.given or not files.encoding.counts_from_0:
        return ()
    return (Option({"encoding": {"type": "index", "offset": -1}}, f"1 is {files.names[0]!r}"),)


def advice(files: Files, unknown: Sequence[Any]) -> str:
    """Return advice on unknown labels, or files of another format, where no key is sure to help; or "".

    Args:
        unknown: the values or colors that are no class.
    """
    stored, source = files.stored, files.dataset.path.name
    if files.encoding.name == "rgb":
        if len(unknown) > LISTED:
            return (
                "this many colors come from smoothing or lossy compression; export the files again as PNG, "
                f"without either, or set others: void under encoding in {source}"
            )
        if unknown and all(color[::-1] in files.given_colors for color in unknown):
            return (
                "with red and blue exchanged these are colors of classes: write the files again as RGB "
                f"(OpenCV expects BGR), or list these under encoding.colors in {source}"
            )
        return f"list each under encoding.colors, with its class, or under encoding.void in {source}"
    if isinstance(files.encoding, IndexEncoding) and differing(stored):
        return (
            "palettes differ from file to file: if the colors are the labels, give each class its color in "
            f"{source} and set encoding: rgb; if the indices are, set encoding: palette"
        )
    if stored.photos:
        return "these are photos, or were compressed lossily; find the files with the labels"
    if stored.colors and not stored.values:
        shown = some((list(color) for color, _ in stored.colors.most_common()), LISTED)
        return f"give each class in {source} its color, one of {shown}, and set encoding: rgb"
    return ""


def contradicting(files: Files) -> dict[int, tuple[int, int]]:
    """Return {index: (its class, the class whose color it has)} for the palettes of the files."""
    encoding, classes = files.encoding, files.dataset.classes
    if not isinstance(encoding, IndexEncoding):
        return {}
    colors = {index: entry.color for index, entry in enumerate(classes) if entry.color_is_given}
    check = PaletteCheck(files.names, colors, files.dataset.path.name)
    found: dict[int, tuple[int, int]] = {}
    for palette in files.stored.palettes:
        class_of = {value: int(encoding.table[value]) for value, _ in palette if encoding.known[value]}
        class_of = {value: index for value, index in class_of.items() if index < len(files.names)}
        found |= check.contradictions(dict(palette), class_of)
    return found


def differing(stored: StoredSummary) -> bool:
    """Return whether files draw an index in different colors, which other files have at other indices.

    Palettes of random colors differ too, but share no colors.
    """
    colors_of: dict[int, set] = {}
    values_of: dict[Any, set] = {}
    for palette in stored.palettes:
        shown = [color for _, color in palette]
        for value, color in palette:
            if shown.count(color) == 1:
                colors_of.setdefault(value, set()).add(color)
                values_of.setdefault(color, set()).add(value)
    moved = {color for color, values in values_of.items() if len(values) > 1}
    return any(len(colors) > 1 and colors & moved for colors in colors_of.values())


def _by_value(files: Files) -> Iterator[Option]:
    """Yield options by the values of gray and palette files, and of RGB ones with equal channels."""
    encoding, names = files.encoding, files.names
    plain = {key for key, _ in encoding.given.items()} <= {"channel"}
    if not plain or encoding.name not in ("index", "palette", "binary", "rgb", "id"):
        return
    if files.dataset.space.label_map:
        return
    is_rgb = bool({"RGB", "RGBA"} & files.stored.modes.keys())
    channel = {"channel": 0} if is_rgb else {}
    values = set(files.stored.values)
    inner = values - {VOID_VALUE}
    count = len(names)
    if values == {0, VOID_VALUE} and count == 2:
        yield Option({"encoding": {"type": "binary", **channel} if channel else "binary"})
        return
    if count == 2 and {0, VOID_VALUE} <= values and len(values) > LISTED:
        # Scaled with smoothing.
        keys = {"type": "binary", "threshold": SOFT_EDGE, **channel}
        yield Option({"encoding": keys}, "they are masks with soft edges")
        return
    if inner <= set(range(count)):
        # The values fit: only the file format or the encoding differs.
        unknown = any(not encoding.known[value] for value in inner) if encoding.name == "id" else False
        if encoding.name in ("rgb", "palette") or unknown or (is_rgb and "channel" not in encoding.given):
            yield Option({"encoding": {"type": "index", **channel} if channel else "index"})
        elif inner and VOID_VALUE in values and 0 not in values and (_is_background(names[0]) or count == 2):
            yield Option({"label_map": {VOID_VALUE: names[0]}}, f"255 is {names[0]!r}")
        return
    ids = {entry.id for entry in files.dataset.classes}
    if encoding.name == "index" and inner - {0} <= ids and ids != set(range(count)):
        void = {"void": [0]} if 0 in inner - ids else {}
        options = {**void, **channel}
        yield Option({"encoding": {"type": "id", **options} if options else "id"})
        return
    if encoding.name == "id":
        return
    yield from _counted(values, inner, names, channel)


def _counted(
    values: set[int], inner: set[int], names: Sequence[str], channel: Mapping[str, Any]
) -> Iterator[Option]:
    """Yield options for values that number the classes from 1, or in steps.

    Args:
        values: all values that occur.
        inner: those other than 255.
    """
    count = len(names)
    from_1 = Option({"encoding": {"type": "index", "offset": -1, **channel}})
    if inner and max(inner) == count:
        if len(inner) == count and 0 in inner:
            # As many values as classes: one class may not occur.
            yield from_1._replace(meaning=f"0 is unlabeled and 1 is {names[0]!r}")
            yield _listed(sorted(inner), names, channel, f"0 is {names[0]!r}")
        else:
            yield from_1
        return
    if inner == set(range(1, count + 2)) and count > 1:
        # As in trimaps: the value after those of the classes marks uncertain pixels.
        keys = {"type": "index", "offset": -1, "void": [count + 1], **channel}
        yield Option({"encoding": keys}, f"1 is {names[0]!r} and {count + 1} unlabeled")
        return
    for candidate in (inner, values):
        ordered = sorted(candidate)
        without_0 = [value for value in ordered if value]
        if len(ordered) == count and _is_even(ordered):
            other = values - candidate
            is_trimap = count == 2 and other == {VOID_VALUE} and ordered[0] == 0
            either = count == 2 and (is_trimap or ordered[0] != 0) and VOID_VALUE in values
            meaning = f"{ordered[-1]} is {names[-1]!r}" if either else ""
            yield _listed(ordered, names, channel, meaning)
            if is_trimap:
                listed = _listed(
                    [0, VOID_VALUE], names, channel, f"255 is {names[1]!r} and {ordered[1]} void"
                )
                listed.keys["encoding"]["void"] = [ordered[1]]
                yield listed
            elif either:
                yield _listed(ordered[::-1], names, channel, f"{ordered[-1]} is {names[0]!r}")
            return
        if len(without_0) == count and _is_even([0, *without_0]):
            unlabeled = _listed(without_0, names, channel, "")
            unlabeled.keys["encoding"]["void"] = [0]
            yield unlabeled
            return
    for candidate in (inner, values):
        if len(candidate) == count:
            yield _listed(sorted(candidate), names, channel, "the values are the classes in this order")
            return


def _listed(values: Sequence[int], names: Sequence[str], channel: Mapping[str, Any], meaning: str) -> Option:
    named = dict(zip(values, names, strict=True))
    return Option({"encoding": {"type": "index", "values": named, **channel}}, meaning)


def _is_even(values: Sequence[int]) -> bool:
    """Return whether ascending values are evenly spaced, up to rounding."""
    steps = [after - before for before, after in pairwise(values)]
    return bool(steps) and max(steps) - min(steps) <= 1
