"""Finding a dataset's files: try its layouts in order, and pair images with labels."""

import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segzoo.utils.errors import InputError
from segzoo.utils.paths import datasets_folder, is_same_file
from segzoo.utils.text import some

from .class_files import CLASS_FIELD, BinaryFilesEncoding, check_names
from .dataset_file import DatasetFile, is_builtin
from .dataset_layouts import Layout
from .list_files import read_list, split_list
from .templates import existing_files, fields_of, fill, match, without_open_fields


@dataclass(frozen=True)
class ImageFile:
    """An image, its id within the split, and its semantic label files, sorted (usually one or none)."""

    path: str
    image_id: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundLayout:
    """A layout whose files exist.

    Attributes:
        index: position of the layout in the dataset file.
        root: folder that its templates are relative to.
        images: the images, in order; () if a JSON lists them.
        class_of: {label file: its class index, or the ignore label} if each file is the mask of one class.
    """

    index: int
    root: Path
    images: tuple[ImageFile, ...] = ()
    class_of: Mapping[str, int] = field(default_factory=dict)


def dataset_folders(dataset: DatasetFile) -> list[Path]:
    """Return the folders that a dataset's `root` may be relative to, in the order in which they are tried.

    These are, for a user's YAML, its folder and the folder of the file that it links to; then
    $DETECTRON2_DATASETS (default ./datasets).
    """
    shared = datasets_folder()
    if is_builtin(dataset.path):
        return [shared]
    folders = [dataset.path.parent, dataset.path.resolve().parent]
    return [*(folders[:1] if is_same_file(*folders) else folders), shared]


def find_layout(dataset: DatasetFile, split: str) -> FoundLayout:
    """Return the first layout of the dataset whose files of the split exist.

    Args:
        split: a registered name, a key of `dataset.splits`.

    Raises:
        InputError: no layout has files, or images have no labels.
    """
    problems: list[tuple[int, str]] = []
    for index, layout in enumerate(dataset.layouts):
        for root in _candidate_roots(dataset, layout):
            has_labels = split not in dataset.without_labels
            found = _try_layout(index, layout, root, dataset.splits[split], split, has_labels)
            if isinstance(found, FoundLayout):
                return found
            problems.append(found)
    # Report the candidate that got farthest.
    step, problem = max(problems, key=lambda one: one[0])
    # At step 1, lists or labels are missing, which `prepare` writes.
    if dataset.prepare and step == 1:
        raise InputError(
            f"{split}: {problem}; run `{dataset.prepare}`, which writes it or says what to unpack"
        )
    expected = f"one of the layouts in {dataset.path.name} says"
    if is_builtin(dataset.path):
        expected = f"`segzoo prepare {dataset.path.stem} --help` shows"
    raise InputError(
        f"{split}: {problem}; set DETECTRON2_DATASETS (now {dataset_folders(dataset)[-1]}) to the folder "
        f"that holds it, or arrange the files as {expected}"
        + (f"; run `{dataset.prepare}`, which writes what the download lacks" if dataset.prepare else "")
    )


def image_files(dataset: DatasetFile, split: str) -> list[str]:
    """Return the image files of the first layout that has any, even if they are not listed or labeled."""
    for layout in dataset.layouts:
        for root in _candidate_roots(dataset, layout):
            # With a JSON, `images` is the folder.
            in_folder = "{" not in fill(layout.images, dataset.splits[split])
            template = f"{layout.images}/{{stem}}.*" if in_folder else layout.images
            files = [path for path, _ in match(root, template, dataset.splits[split])]
            if files:
                return files
    return []


def _candidate_roots(dataset: DatasetFile, layout: Layout) -> Iterable[Path]:
    return dict.fromkeys(
        folder / os.path.expandvars(root) for root in layout.roots for folder in dataset_folders(dataset)
    )


def _try_layout(
    index: int, layout: Layout, root: Path, fields: Mapping[str, str], split: str, has_labels: bool
) -> FoundLayout | tuple[int, str]:
    """Return the layout with its files, or (number of steps that succeeded, what is missing)."""
    if not root.is_dir():
        return -1, f"no folder {root}"
    listed_in_json = layout.panoptic is not None or layout.instances is not None
    if listed_in_json and not has_labels:
        key = "image_id" if finds_images_by_id(layout) else "stem"
        template = layout.images if finds_images_by_id(layout) else f"{layout.images}/{{stem}}.*"
        json_file = root / fill(layout.annotations or layout.instances or "", fields)
        if json_file.is_file() and (root / without_open_fields(fill(layout.images, fields))).is_dir():
            return FoundLayout(index, root)
        by_stem = tuple(ImageFile(path, found[key]) for path, found in match(root, template, fields))
        return FoundLayout(index, root, by_stem) if by_stem else (0, f"no images in {root / layout.images}")
    if listed_in_json:
        templates = [layout.images, layout.instances]
        if layout.panoptic is not None:
            templates = [layout.images, layout.annotations, layout.panoptic, layout.labels or layout.images]
        for step, place in enumerate(one for one in templates if one is not None):
            path = root / without_open_fields(fill(place, fields))
            if not path.exists():
                return step, f"{path} does not exist"
        return FoundLayout(index, root)
    if layout.list_file is not None and not split_list(layout, root, fields)[0].is_file():
        if not any(match(root, layout.images, fields)):
            return 0, _no_images(root, layout.images, fields)
        return 1, f"no list {split_list(layout, root, fields)[0]}"
    class_of: dict[str, int] = {}
    labels_of = _label_finder(layout, root, fields, class_of) if has_labels else lambda found: ()
    images = list(_list_images(layout, root, fields, split, labels_of))
    if not images:
        return 0, _no_images(root, layout.images, fields)
    if layout.list_file is not None:
        paths = [image.path for image in images]
        if not existing_files(paths):
            list_file = split_list(layout, root, fields)[0]
            return 2, (
                f"{len(paths)} of {len(paths)} listed images do not exist: {some(paths, 1)}; {list_file} "
                f"must name images like {layout.images}, or paths relative to {root}"
            )
        check_exist(paths, split, "listed images")
    if not has_labels:
        return FoundLayout(index, root, tuple(images))
    there = existing_files(label for image in images for label in image.labels)
    missing = [image for image in images if not there.issuperset(image.labels)]
    if len(missing) == len(images):
        first_fields = {**fields, "stem": images[0].image_id}
        labels = layout.labels or ""
        other = _underscores(root, labels, first_fields) or _other_suffix(
            root, "labels", labels, first_fields
        )
        return (
            1,
            f"{len(images)} images like {images[0].path}, but no label like {images[0].labels[0]}{other}",
        )
    if missing:
        plural = "s have no labels" if len(missing) > 1 else " has no labels"
        raise InputError(
            f"{split}: {len(missing)} image{plural}, first {missing[0].path} (expected "
            f"{missing[0].labels[0]}); add them, or name the images to use in a text file under the key list"
        )
    return FoundLayout(index, root, tuple(images), class_of)


def _no_images(root: Path, template: str, fields: Mapping[str, str]) -> str:
    return f"no images {root / fill(template, fields)}{_other_suffix(root, 'images', template, fields)}"


def _other_suffix(root: Path, key: str, template: str, fields: Mapping[str, str]) -> str:
    """Return the remedy if files match a template except for the suffix, such as a.JPG; else ""."""
    stem, dot, suffix = template.rpartition(".")
    if not dot or "{" in suffix or "/" in suffix or suffix == "*":
        return ""
    path = next((path for path, _ in match(root, f"{stem}.*", fields)), None)
    return (
        ""
        if path is None or path.endswith(f".{suffix}")
        else f" (but {path}: let {key} end in .* for any suffix)"
    )


def _underscores(root: Path, labels: str, fields: Mapping[str, str]) -> str:
    """Return the remedy if files match `labels` except for a `_` in the text of its `*`; else ""."""
    if labels.removesuffix(".*").count("*") != 1 or "{" in fill(labels, fields):
        return ""
    before, _, after = labels.partition("*")
    for path, found in match(root, f"{before}{{rest}}{after}", fields):
        several = "_".join("*" * (found["rest"].count("_") + 1))
        return f" (but {path}: a * stands for a text without _, so set labels: {before}{several}{after})"
    return ""


def _label_finder(
    layout: Layout, root: Path, fields: Mapping[str, str], class_of: dict[str, int]
) -> Callable[[Mapping[str, str]], tuple[str, ...]]:
    """Return a function from the fields of an image to its label files, or the expected file if none exists.

    Args:
        class_of: filled in place if the template has {class}.
    """
    template = layout.labels or ""
    if not has_several_labels(layout) and not template.endswith(".*"):
        return lambda found: (str(root / fill(template, {**fields, **found})),)
    per_class = layout.encoding if isinstance(layout.encoding, BinaryFilesEncoding) else None
    one_of = not has_several_labels(layout)
    names = [name for name in re.findall(r"{(\w+)}", fill(template, fields)) if name != CLASS_FIELD]
    files: dict[tuple[str | None, ...], list[str]] = {}
    patterns = {CLASS_FIELD: per_class.pattern} if per_class else {}
    images = {_key(found, names) for _, found in match(root, layout.images, fields)} if not one_of else set()
    # One pass over the folder, in the order of the names.
    found: Mapping[str, str]
    for path, found in match(root, template, fields, patterns):
        if images and _key(found, names) not in images:
            found = _match_shorter_stem(path, found, root, template, fields, names, images)
        files.setdefault(_key(found, names), []).append(path)
        # A file of an unknown class is reported below.
        if per_class and (index := per_class.class_of(found[CLASS_FIELD])) is not None:
            class_of[path] = index
    if per_class:
        everything = match(root, template, fields)
        unknown = [(path, found[CLASS_FIELD]) for path, found in everything if path not in class_of]
        check_names(unknown, per_class.space)

    def find(found: Mapping[str, str]) -> tuple[str, ...]:
        expected = str(root / fill(template, {**fields, **found}))
        paths = files.get(_key(found, names), [expected])
        if one_of and len(paths) > 1:
            raise InputError(f"{paths[0]} and {paths[1]} are labels of the same image; keep one of them")
        return tuple(paths)

    return find


def _key(found: Mapping[str, str], names: Iterable[str]) -> tuple[str | None, ...]:
    return tuple(found.get(name) for name in names)


def _match_shorter_stem(
    path: str,
    found: Mapping[str, str],
    root: Path,
    template: str,
    fields: Mapping[str, str],
    names: Sequence[str],
    images: Container[tuple[str | None, ...]],
) -> Mapping[str, str]:
    """Return the fields of a label file with the longest `{stem}` that an image has.

    `{stem}-*.png` matches 00-car-0.png with the stems 00-car and 00.

    Args:
        found: the fields with the longest stem that matches; returned if no image has a shorter one.
        names: the fields that form a key.
        images: keys of all images.
    """
    stem = found.get("stem", "")
    for end in range(len(stem) - 1, 0, -1):
        if _key({**found, "stem": stem[:end]}, names) in images:
            fitting = fields_of(path, root, template, {**fields, "stem": stem[:end]})
            if fitting is not None:
                return {**fitting, "stem": stem[:end]}
    return found


def finds_images_by_id(layout: Layout) -> bool:
    """Return whether a panoptic JSON's images are found by id, as in `{city}/{image_id}_leftImg8bit.png`.

    Otherwise `images` is the folder of the files that the JSON names.
    """
    return layout.panoptic is not None and "{image_id}" in layout.images


def has_several_labels(layout: Layout) -> bool:
    """Return whether an image may have several semantic label files."""
    labels = (layout.labels or "").removesuffix(".*")
    return "*" in labels or isinstance(layout.encoding, BinaryFilesEncoding)


def _list_images(
    layout: Layout,
    root: Path,
    fields: Mapping[str, str],
    split: str,
    labels_of: Callable[[Mapping[str, str]], tuple[str, ...]],
) -> Iterator[ImageFile]:
    """Yield the images in the order of their paths or of the list file, with their expected label files."""
    if layout.list_file is not None:
        for image in read_list(layout, root, fields, split, labels_of):
            yield ImageFile(*image)
        return
    seen: dict[str, str] = {}
    for path, found in match(root, layout.images, fields):
        image_id = "/".join(found.values())
        if seen.setdefault(image_id, path) != path:
            raise InputError(f"{split}: {seen[image_id]} and {path} share a name; keep one of them")
        yield ImageFile(path, image_id, labels_of(found))


def check_exist(paths: Iterable[str], split: str, what: str) -> None:
    """Raise InputError with the first of the `paths` that does not exist."""
    paths = list(paths)
    there = existing_files(paths)
    missing = [path for path in paths if path not in there]
    if missing:
        raise InputError(
            f"{split}: {len(missing)} of {len(paths)} {what} do not exist: {some(missing, 1)}; add the "
            "files, or correct the file that lists them"
        )
