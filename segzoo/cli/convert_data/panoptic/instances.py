"""The instances of an image, from a COCO JSON or from PNGs.

Shape shorthand: H, W pixels.
"""

import bisect
import fnmatch
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from segzoo.data.checks import RemediedError
from segzoo.data.coco_instances import read_valid_polygons
from segzoo.data.coco_json import read_coco_json, read_images, report_wrong_format
from segzoo.data.dataset_file import DatasetFile
from segzoo.data.file_names import match_names
from segzoo.data.label_ops import rgb_codes
from segzoo.data.label_reader import opened_labels
from segzoo.data.polygons import check_polygons
from segzoo.utils.coco_masks import mask_rle
from segzoo.utils.errors import InputError
from segzoo.utils.json_values import Ids, as_integer, is_id, read_flag, shown
from segzoo.utils.text import did_you_mean


class Instance(NamedTuple):
    """One object, or a crowd of objects.

    Attributes:
        name: its name in messages.
        mask: (H, W) bool.
        class_index: None if it follows from the semantic labels below the mask.
        is_crowd: whether it is a group of objects.
    """

    name: str
    mask: np.ndarray
    class_index: int | None = None
    is_crowd: bool = False


class CocoAnnotation(NamedTuple):
    """An annotation of a COCO JSON: its id, class index, `segmentation` and `iscrowd`."""

    annotation_id: Any
    class_index: int
    segmentation: Any
    is_crowd: bool


@dataclass
class InstancesOfSplit:
    """The annotations, or PNGs, with the instances of each image.

    Attributes:
        of_image: {image file: its annotations, or its PNGs, in order}.
        ids: {image file: id of the image}, where a JSON has it.
        sizes: {image file: (height, width)}, where a JSON has it.
        ignored: {reason: number of annotations that are not used}.
    """

    of_image: dict[str, list[Any]]
    ids: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    ignored: Counter = field(default_factory=Counter)


def instances_from_records(records: Sequence[Mapping[str, Any]], dataset: DatasetFile) -> InstancesOfSplit:
    """Return the annotations that are the labels of a split, as training reads them."""
    result = InstancesOfSplit({})
    for record in records:
        file, listed = record["file_name"], []
        for one in record["annotations"]:
            if dataset.classes[one["category_id"]].isthing:
                crowd = bool(one["iscrowd"])
                listed.append(CocoAnnotation(one.get("id"), one["category_id"], one["segmentation"], crowd))
            else:
                result.ignored["of stuff classes"] += 1
        result.of_image[file], result.ids[file] = listed, record["image_id"]
        void = len(record.get("void_annotations", ()))
        if void:
            result.ignored["of void"] += void
    return result


def find_coco(
    json_file: Path, files: Sequence[str], dataset: DatasetFile, renamed: Mapping[str, str]
) -> InstancesOfSplit:
    """Return the annotations of a split's images in a COCO instances JSON, which may have other images too.

    Args:
        files: image files of the split.
        renamed: {name of a category of the JSON: class, or "void"}.

    Raises:
        InputError: not such a JSON, none of the images is in it, or an unknown category has annotations.
    """
    content = read_coco_json(json_file, "instances")
    with report_wrong_format(json_file, "instances"):
        images = read_images(content, str(json_file))
        return _annotations_by_file(content, images, json_file, files, dataset, renamed)


def _annotations_by_file(
    content: Mapping[str, list[Any]],
    images: Mapping[Any, Mapping[str, Any]],
    json_file: Path,
    files: Sequence[str],
    dataset: DatasetFile,
    renamed: Mapping[str, str],
) -> InstancesOfSplit:
    """Return what `find_coco` returns. `images`: {id: record}, see `read_images`."""
    found = _match_images(list(images.values()), files, json_file)
    result = InstancesOfSplit({file: [] for file in found})
    image_ids = Ids(images)
    file_of = {image["image_id"]: file for file, image in found.items()}
    for file, image in found.items():
        result.ids[file] = image["image_id"]
        if "height" in image and "width" in image:
            result.sizes[file] = (image["height"], image["width"])
    names = {_category_id(one, json_file): one.get("name") for one in content["categories"]}
    categories = Ids(names)
    classes: dict[Any, int | None] = {}
    for annotation in content["annotations"]:
        described = f"{json_file}: annotation {shown(annotation.get('id'))}"
        for key in ("category_id", "image_id"):
            if key not in annotation:
                raise InputError(f"{described} lacks {key!r}")
        segmentation = annotation.get("segmentation")
        image_id = image_ids.find(annotation["image_id"])
        if image_id is None and not is_id(annotation["image_id"]):
            raise InputError(
                f"{described} is of image {shown(annotation['image_id'])}; expected the id of an image"
            )
        if image_id not in file_of:
            continue
        category = categories.find(annotation["category_id"])
        if category is None:
            raise InputError(
                f"{described} has the category {shown(annotation['category_id'])}, which is not among its "
                "categories; write the id of one of them"
            )
        if category not in classes:
            classes[category] = _class_of(category, names, dataset, renamed, json_file)
        index = classes[category]
        if index is None or not dataset.classes[index].isthing:
            result.ignored["of void" if index is None else "of stuff classes"] += 1
        elif not segmentation:
            result.ignored["without a mask"] += 1
        else:
            if not isinstance(segmentation, dict):
                segmentation = read_valid_polygons(annotation, str(json_file))
            if not segmentation:
                result.ignored["without a polygon of three points"] += 1
                continue
            crowd = bool(read_flag(annotation.get("iscrowd"), "iscrowd", described))
            one = CocoAnnotation(annotation.get("id"), index, segmentation, crowd)
            result.of_image[file_of[image_id]].append(one)
    _check_polygons(result, images, json_file)
    return result


def _check_polygons(
    instances: InstancesOfSplit, images: Mapping[Any, Mapping[str, Any]], json_file: Path
) -> None:
    """Raise InputError if all polygons are wrong in one way: see `check_polygons`."""
    listed = [
        {**images[instances.ids[file]], "annotations": [one._asdict() for one in annotations]}
        for file, annotations in instances.of_image.items()
    ]
    try:
        check_polygons(listed, str(json_file))
    except RemediedError as error:
        # Its remedy is for the JSON that a dataset file names.
        problem = str(error).partition(";")[0]
        raise InputError(f"{problem}; multiply them by width and height") from None


def _category_id(category: Mapping[str, Any], json_file: Path) -> int:
    number, name = as_integer(category.get("id")), category.get("name")
    if number is None or not isinstance(name, str):
        raise InputError(
            f"{json_file}: a category has the id {shown(category.get('id'))} and the name {shown(name)}; "
            "expected a number and a text"
        )
    return number


def _class_of(
    category: Any, names: Mapping[Any, str], dataset: DatasetFile, renamed: Mapping[str, str], json_file: Path
) -> int | None:
    """Return the class index of a category, None for void."""
    name = renamed.get(names[category], names[category])
    try:
        index = dataset.space.index(name)
    except InputError:
        known = did_you_mean(name, dataset.space.classes)
        raise InputError(
            f"{json_file}: category {category} {name!r} is no class of {dataset.path.name}{known}; say which "
            f"with --rename '{name}=CLASS', or --rename '{name}=void' to leave it out"
        ) from None
    return None if index == dataset.space.ignore_label else index


def _match_images(
    images: Sequence[Mapping[str, Any]], files: Sequence[str], json_file: Path
) -> dict[str, Mapping[str, Any]]:
    """Return {image file: entry of the JSON}, by the ends of paths, see `match_names`; then by stems."""
    by_name = {image["file_name"]: image for image in images}
    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    matched = match_names(by_name, files, folder)
    fitting = {name: files for name, files in matched.ambiguous.items() if len(files) > 1}
    found = {file: by_name[name] for name, file in matched.files.items()}
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in by_name:
        by_stem[PurePosixPath(name.replace("\\", "/")).stem].append(name)
    for file in files:
        names = by_stem[Path(file).stem]
        if file not in found and len(names) == 1 and names[0] not in matched.files:
            found[file] = by_name[names[0]]
            fitting.setdefault(names[0], []).append(file)
    for name, of_name in fitting.items():
        if len(of_name) > 1:
            image_id, both = by_name[name]["image_id"], " and ".join(of_name[:2])
            raise InputError(
                f"{json_file}: image {image_id} {name!r} fits {both}; write the folder into file_name"
            )
    if not found:
        example = images[0]["file_name"] if images else "none"
        raise InputError(
            f"{json_file}: has no image of the split, such as {Path(files[0]).name}, but {example}; check "
            "--instances"
        )
    return found


def find_pngs(patterns: Mapping[str, str], roots: Sequence[str]) -> InstancesOfSplit:
    """Return the PNGs with the instances of each image.

    Args:
        patterns: {image file: path of its PNG; a `*` in the last part of it stands for any text}.
        roots: folders that the paths may be relative to; the first with a matching file is used.

    Raises:
        InputError: there are none for any image, or a `*` in the name of a folder.
    """
    for root in roots:
        owner = _files_of({file: os.path.join(root, pattern) for file, pattern in patterns.items()})
        if owner:
            of_image: dict[str, list[str]] = defaultdict(list)
            for path in sorted(owner):
                of_image[owner[path]].append(path)
            return InstancesOfSplit(dict(of_image))
    first = next(iter(patterns.values()))
    places = [os.path.join(root, first) for root in roots]
    expected = " or ".join({os.path.abspath(place): place for place in places}.values())
    raise InputError(f"--instance-masks: no image has a file like {expected}; check the path")


def _files_of(patterns: Mapping[str, str]) -> dict[str, str]:
    """Return {PNG: its image file}."""
    names: dict[str, list[str]] = {}
    owner: dict[str, tuple[int, str]] = {}
    for file, pattern in patterns.items():
        folder, name = os.path.split(pattern)
        if "*" in folder:
            raise InputError(f"--instance-masks: {pattern}: a * may stand in names of files, not of folders")
        if folder not in names:
            names[folder] = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        prefix = name.split("*")[0]
        fitting = name.replace("[", "[[]").replace("?", "[?]")
        start = bisect.bisect_left(names[folder], prefix)
        # The last code point sorts after every text with this prefix.
        for found in names[folder][start : bisect.bisect_right(names[folder], prefix + "\U0010ffff")]:
            if fnmatch.fnmatchcase(found, fitting):
                # a_b_1.png belongs to a_b rather than to a: the longer name wins.
                path, claim = os.path.join(folder, found), (len(prefix), file)
                owner[path] = max(owner.get(path, claim), claim)
    return {path: file for path, (_, file) in owner.items()}


def decode_coco(annotations: Sequence[CocoAnnotation], height: int, width: int) -> list[Instance]:
    """Return the instances of an image of this size.

    Raises:
        InputError: a mask is wrong, or of another size.
    """
    return [
        Instance(
            f"annotation {one.annotation_id}",
            coco_mask.decode(
                mask_rle(one.segmentation, (height, width), f"annotation {one.annotation_id}")
            ).astype(bool),
            one.class_index,
            one.is_crowd,
        )
        for one in annotations
    ]


def decode_pngs(
    files: Sequence[str], shape: tuple[int, int], is_binary: bool, no_instance: Sequence[int]
) -> list[Instance]:
    """Return the instances in PNGs of an image of this shape (H, W), without classes.

    Args:
        is_binary: whether a PNG is the mask of one instance; else each of its values is one.
        no_instance: values that are no instance.

    Raises:
        InputError: a file is broken, or of another size.
    """
    instances = []
    for file in files:
        with opened_labels(file) as (image, _):
            values = rgb_codes(image) if image.mode in ("RGB", "RGBA") else np.asarray(image)
        if values.shape != shape:
            found = "x".join(map(str, values.shape[::-1]))
            raise InputError(
                f"{file}: is {found}, but the semantic labels are {shape[1]}x{shape[0]}; both have to match "
                "pixel by pixel"
            )
        if is_binary:
            instances.append(Instance(Path(file).name, ~np.isin(values, no_instance)))
            continue
        present = np.setdiff1d(values, no_instance)
        instances += [Instance(f"{Path(file).name}: {value}", values == value) for value in present]
    return instances
