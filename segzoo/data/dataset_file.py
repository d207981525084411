"""Reading and checking the YAML that describes a dataset. `segzoo check-data --keys` explains the keys.

Shape shorthand: K classes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segzoo.utils.errors import InputError
from segzoo.utils.paths import expand_home, is_same_file, user_path
from segzoo.utils.tasks import EVALUATOR_TYPES, SUBMISSION_FORMATS
from segzoo.utils.text import did_you_mean, some
from segzoo.utils.text_files import read_text

from .checks import check_keys
from .class_lists import read_class_list
from .dataset_classes import DatasetClass, read_background, read_classes
from .dataset_layouts import LAYOUT_KEYS, Layout, read_layouts
from .encodings import VOID, IdEncoding, IndexEncoding, InstanceIdEncoding, LabelSpace

# Folder of the built-in datasets. It may be reached through links: see `is_builtin`.
CATALOG = Path(__file__).parent / "catalog"

DATASET_KEYS = (
    *("name", "about", "splits", "image_counts", "classes", "label_map", "flip_pairs", "evaluator"),
    *("boundary_dilation", "background", "crowd", "coordinates", "image_range", "exif", "without_labels"),
    *("submission", "prepare", "layouts", *LAYOUT_KEYS),
)
# Whether EXIF orientations are applied to images: labels match the image as displayed, or the stored pixels.
EXIF = ("apply", "ignore")
# The keys that a dataset needs for an evaluator.
_NEEDS = {
    "panoptic": "the keys panoptic and annotations",
    "coco_instances": "the key instances",
    "cityscapes_instances": "labels with the encoding instance_id",
    "sem_seg": "the key labels (or panoptic, or instances with background)",
}


@dataclass(frozen=True)
class DatasetFile:
    """A parsed dataset YAML.

    Attributes:
        path: the file.
        splits: {registered name: {template field: value}}.
        layouts: in the order in which they are tried.
        classes: (K,) in the order of the class indices.
        space: names, label map and ignore label.
        flip_pairs: class indices that a horizontal flip swaps.
        evaluator: one of `EVALUATOR_TYPES`, including those that a private package registers.
        boundary_dilation: width of boundaries as a fraction of the diagonal, for boundary metrics, or None.
        image_counts: {registered name: published number of images}, if known.
        without_labels: registered names of splits that have images only.
        submission: the format of predictions on these: one of `SUBMISSION_FORMATS`, or `evaluator`.
        prepare: command that writes what the download lacks, or "".
        background: index of the class of pixels that no instance covers, if a JSON of instances also serves
            as semantic labels; else None.
        crowds_are_instances: segments with iscrowd are single objects, not groups.
        has_relative_coordinates: polygons of a JSON of instances are in fractions of width and height.
        image_range: values of images of more than 8 bits that become 0 and 255; None: estimated.
        exif: one of `EXIF`.
    """

    path: Path
    name: str
    about: str
    splits: dict[str, dict[str, str]]
    layouts: tuple[Layout, ...]
    classes: tuple[DatasetClass, ...]
    space: LabelSpace
    flip_pairs: tuple[tuple[int, int], ...]
    evaluator: str
    image_counts: dict[str, int]
    without_labels: frozenset[str] = frozenset()
    submission: str = ""
    prepare: str = ""
    background: int | None = None
    crowds_are_instances: bool = False
    has_relative_coordinates: bool = False
    image_range: tuple[float, float] | None = None
    exif: str = "apply"
    boundary_dilation: float | None = None


def is_builtin(path: Path) -> bool:
    """Return whether a dataset YAML belongs to the catalog, also if it is reached through links."""
    return any(is_same_file(path, CATALOG / name) for name in (path.name, path.resolve().name))


def find_dataset_file(name: str | Path) -> Path:
    """Return the YAML at a path, in a folder, or with a name in the catalog of built-in datasets.

    Raises:
        InputError: there is none, or the folder has several.
    """
    for candidate in (user_path(name), CATALOG / f"{name}", CATALOG / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    if str(name) and user_path(name).is_dir():
        return _only_dataset_file(user_path(name))
    names = sorted(file.stem for file in CATALOG.glob("*.yaml"))
    raise InputError(
        f"dataset file {name} does not exist{did_you_mean(Path(name).stem, names)}; "
        f"give a path, or one of {', '.join(names)}"
    )


def is_dataset_file(name: str | Path) -> bool:
    """Return whether `find_dataset_file` finds one."""
    try:
        find_dataset_file(name)
    except InputError:
        return False
    return True


def _only_dataset_file(folder: Path) -> Path:
    """Return the only dataset YAML in a folder: a YAML with the key splits."""
    candidates = sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))
    files = [file for file in candidates if re.search(rb"(?m)^(\xef\xbb\xbf)?splits\s*:", file.read_bytes())]
    if len(files) != 1:
        names = some(file.name for file in files)
        found = f"{len(files)} dataset files ({names})" if files else "no dataset file"
        raise InputError(f"{folder} is a folder with {found}; give the YAML that describes the dataset")
    return files[0]


def read_dataset_file(name: str | Path) -> DatasetFile:
    """Read and check a dataset YAML.

    Args:
        name: path, or name in the catalog of built-in datasets.

    Raises:
        InputError: not found, not YAML, an unknown or missing key, or contradictory values.
    """
    path = find_dataset_file(name)
    content = _load_yaml(path)
    check_keys(content, DATASET_KEYS, path.name)
    content, default_encoding = _with_borrowed_classes(content, path)
    has_instances = _has_instances(content)
    background = read_background(content, has_instances, path)
    classes = read_classes(content, path, has_instances, background)
    space = _read_label_space(content, classes, path)
    splits = _read_splits(content, path)
    without_labels = _read_without_labels(content, splits, path)
    fields = set().union(*splits.values())
    layouts = read_layouts(
        content,
        space,
        classes,
        fields,
        needs_labels=without_labels < set(splits),
        stops_at_palettes=not is_builtin(path),
        default_encoding=default_encoding,
    )
    is_panoptic = layouts[0].panoptic is not None
    default = _default_evaluator(layouts[0])
    evaluator = content.get("evaluator", default)
    _check_evaluator(evaluator, default, path, has_background=background is not None)
    if len(classes) < 2 and not is_panoptic and not has_instances:
        raise InputError(
            f"{path.name}: a single class ({classes[0].name}), with all else ignored, always scores 100; "
            "add a class 'background'"
        )
    counts = content.get("image_counts", {})
    check_keys(counts, splits, f"{path.name}: image_counts", " of unknown split")
    return DatasetFile(
        path=path,
        name=str(content.get("name", path.stem)),
        about=str(content.get("about", "")),
        splits=splits,
        layouts=layouts,
        classes=classes,
        space=space,
        flip_pairs=_read_flip_pairs(content, space),
        evaluator=evaluator,
        image_counts=dict(counts),
        without_labels=without_labels,
        submission=_read_submission(content, without_labels, path) or evaluator,
        prepare=str(content.get("prepare", "")),
        background=None if background is None else space.classes.index(background),
        crowds_are_instances=_read_choice(content, "crowd", ("groups", "instances"), layouts[0], path),
        has_relative_coordinates=_read_choice(
            content, "coordinates", ("pixels", "relative"), layouts[0], path
        ),
        image_range=_read_image_range(content, path),
        exif=_read_exif(content, path),
        boundary_dilation=_read_boundary_dilation(content, path),
    )


def read_split_names(path: Path) -> list[str]:
    """Return the names of the splits of a dataset YAML, without further checks."""
    return list(_load_yaml(path).get("splits") or ())


def _read_choice(
    content: Mapping[str, Any], key: str, values: tuple[str, str], layout: Layout, path: Path
) -> bool:
    """Return whether a key about a JSON's segments has the second of its values; the first is the default."""
    value = content.get(key, values[0])
    if value not in values:
        raise InputError(f"{path.name}: {key} is {value!r}; expected {values[0]} or {values[1]}")
    has_polygons, has_segments = layout.instances is not None, layout.panoptic is not None
    if key in content and not has_polygons and not (has_segments and key == "crowd"):
        goes_with = "instances or panoptic" if key == "crowd" else "instances"
        raise InputError(f"{path.name}: {key} is only for {goes_with}; remove it")
    return value == values[1]


def _read_image_range(content: Mapping[str, Any], path: Path) -> tuple[float, float] | None:
    given = content.get("image_range")
    if given is None:
        return None
    is_pair = isinstance(given, list) and len(given) == 2
    if not is_pair or not all(isinstance(one, int | float) for one in given) or not given[0] < given[1]:
        raise InputError(f"{path.name}: image_range is {given!r}; expected [lowest, highest], e.g. [0, 4095]")
    return given[0], given[1]


def _read_exif(content: Mapping[str, Any], path: Path) -> str:
    exif = content.get("exif", EXIF[0])
    if exif not in EXIF:
        raise InputError(
            f"{path.name}: exif is {exif!r}; expected apply (labels match the image as displayed, with its "
            "EXIF orientation) or ignore (labels match the stored pixels)"
        )
    return exif


def _read_boundary_dilation(content: Mapping[str, Any], path: Path) -> float | None:
    given = content.get("boundary_dilation")
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if given is None or (is_number and 0 < given < 1):
        return given
    raise InputError(
        f"{path.name}: boundary_dilation is {given!r}; expected a fraction of the image's diagonal, e.g. 0.02"
    )


def _default_evaluator(layout: Layout) -> str:
    if layout.panoptic is not None:
        return "panoptic"
    if layout.instances is not None:
        return "coco_instances"
    return "cityscapes_instances" if isinstance(layout.encoding, InstanceIdEncoding) else "sem_seg"


def _check_evaluator(evaluator: Any, default: str, path: Path, has_background: bool) -> None:
    """Raise InputError unless the evaluator fits the labels.

    `default` is the evaluator for these labels; labels with segments may also be evaluated by class alone.
    """
    by_class = default in ("panoptic", "cityscapes_instances") or has_background
    if evaluator == default or (evaluator == "sem_seg" and by_class):
        return
    # The needs of registered evaluators are not known here.
    if evaluator in EVALUATOR_TYPES and evaluator not in _NEEDS:
        return
    known = ", ".join(EVALUATOR_TYPES)
    if evaluator in EVALUATOR_TYPES:
        raise InputError(
            f"{path.name}: evaluator {evaluator!r} needs {_NEEDS[evaluator]}, which the file lacks; choose "
            f"another of {known}"
        )
    raise InputError(
        f"{path.name}: evaluator {evaluator!r} is unknown; expected one of {known}, or one that a module in "
        f"IMPORTS registers{did_you_mean(evaluator, EVALUATOR_TYPES)}"
    )


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
        # The C loader takes a tenth of the time.
        content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if isinstance(content, dict) and isinstance(content.get("splits"), Mapping):
            content["splits"] = _as_written(content["splits"], text)
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a valid YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no keys; `segzoo check-data --keys` shows a dataset file")
    return content


def _as_written(splits: Mapping[Any, Any], text: str) -> Mapping[Any, Any]:
    """Return the splits with values as written: YAML would parse 01 as 1 and 2017-01-01 as a date."""
    listed = [
        one for value in splits.values() for one in (value.values() if isinstance(value, dict) else [value])
    ]
    if all(isinstance(one, str) for one in (*splits, *listed)):
        return splits
    return yaml.load(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader))["splits"]


def _with_borrowed_classes(content: dict[str, Any], path: Path) -> tuple[dict[str, Any], str]:
    """Insert the classes, and flip pairs, of the dataset or text file that `classes` may name.

    Returns:
        The content, and the default encoding of label files: `id` if the text file numbers its classes.
    """
    name = content.get("classes")
    if not isinstance(name, str):
        return content, IndexEncoding.name
    beside = path.parent / expand_home(name)
    if is_same_file(beside, path):
        raise InputError(f"{path.name}: classes names the file itself; list the classes")
    if beside.is_file() and beside.suffix.lower() not in (".yaml", ".yml"):
        listed = read_class_list(beside)
        has_ids = any("id" in entry for entry in listed)
        return {**content, "classes": listed}, (IdEncoding if has_ids else IndexEncoding).name
    lender = _load_yaml(find_dataset_file(beside if beside.is_file() else name))
    borrowed: dict[str, Any] = {key: lender[key] for key in ("classes", "flip_pairs") if key in lender}
    return {**borrowed, **content, "classes": borrowed.get("classes")}, IndexEncoding.name


def _has_instances(content: Mapping[str, Any]) -> bool:
    """Return whether the labels are a COCO JSON of instances; `_check_layout` finds contradictions."""
    layouts = content.get("layouts")
    entries = [entry for entry in layouts if isinstance(entry, Mapping)] if isinstance(layouts, list) else []
    return "instances" in content or any("instances" in entry for entry in entries)


def _read_label_space(
    content: Mapping[str, Any], classes: tuple[DatasetClass, ...], path: Path
) -> LabelSpace:
    names = tuple(entry.name for entry in classes)
    label_map = content.get("label_map") or {}
    if not isinstance(label_map, Mapping):
        raise InputError(f"{path.name}: label_map is {label_map!r}; expected {{label in the files: class}}")
    for target in label_map.values():
        if target != VOID and target not in names:
            raise InputError(
                f"{path.name}: label_map target {target!r} is unknown"
                f"{did_you_mean(target, names) or f'; use void or one of {some(names)}'}"
            )
    return LabelSpace(names, tuple(entry.id for entry in classes), dict(label_map), path.name)


def _read_splits(content: Mapping[str, Any], path: Path) -> dict[str, dict[str, str]]:
    splits = content.get("splits")
    if not isinstance(splits, Mapping) or not splits:
        raise InputError(f"{path.name}: lacks splits, {{name to register: value of {{split}} in the paths}}")
    fields = {
        str(name): value if isinstance(value, Mapping) else {"split": value} for name, value in splits.items()
    }
    for name, split_fields in fields.items():
        for key, value in split_fields.items():
            if isinstance(value, list | Mapping):
                raise InputError(
                    f"{path.name}: split {name!r} has the {key} {value!r}; expected a string, a part of paths"
                )
    return {
        name: {key: str(value) for key, value in split_fields.items()}
        for name, split_fields in fields.items()
    }


def _read_without_labels(content: Mapping[str, Any], splits: Mapping[str, Any], path: Path) -> frozenset[str]:
    names = content.get("without_labels") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path.name}: without_labels is {names!r}; expected a list of names in splits")
    check_keys(dict.fromkeys(names), splits, f"{path.name}: without_labels", " has the unknown split")
    return frozenset(names)


def _read_submission(content: Mapping[str, Any], without_labels: frozenset[str], path: Path) -> str:
    """Return the value of `submission`, "" without one."""
    found = content.get("submission", "")
    if "submission" in content and found not in SUBMISSION_FORMATS:
        raise InputError(
            f"{path.name}: submission is {found!r}; expected {' or '.join(SUBMISSION_FORMATS)}; without the "
            "key, the format follows from the labels"
        )
    if found and not without_labels:
        raise InputError(
            f"{path.name}: submission is for splits without labels; name them in without_labels, or remove it"
        )
    return found


def _read_flip_pairs(content: Mapping[str, Any], space: LabelSpace) -> tuple[tuple[int, int], ...]:
    pairs, seen = [], set()
    for pair in content.get("flip_pairs") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise InputError(f"{space.source}: flip_pairs has {pair!r}; expected a list of [left, right]")
        for name in pair:
            if name not in space.classes:
                raise InputError(
                    f"{space.source}: flip_pairs has the unknown class {name!r}"
                    f"{did_you_mean(name, space.classes)}"
                )
            if name in seen:
                raise InputError(f"{space.source}: flip_pairs has {name!r} twice")
            seen.add(name)
        pairs.append((space.classes.index(pair[0]), space.classes.index(pair[1])))
    return tuple(pairs)
