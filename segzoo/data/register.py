"""Registering dataset YAML files with Detectron2's catalogs, and loading the records of a split."""

import gc
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from segzoo.utils.errors import InputError
from segzoo.utils.json_values import Ids, as_integer, read_flag, shown
from segzoo.utils.tasks import NO_GROUND_TRUTH
from segzoo.utils.text import did_you_mean, some

from . import catalogs
from .checks import check_different
from .class_metadata import class_metadata
from .coco_instances import instance_dicts
from .coco_json import read_coco_json, read_image_list, read_images, read_missing_sizes, report_wrong_format
from .dataset_file import CATALOG, DatasetFile, is_builtin, read_dataset_file, read_split_names
from .dataset_layouts import Layout
from .dataset_range import dataset_range, forget_range
from .encodings import VOID, InstanceIdEncoding
from .file_names import find_named_files
from .label_reader import LabelReader
from .layouts import FoundLayout, check_exist, find_layout, finds_images_by_id, has_several_labels
from .palettes import PaletteCheck
from .polygons import check_polygons, scale_relative
from .record_cache import Built, cached_records
from .split_key import SplitKey, cache_key
from .stored_records import StoredRecords
from .templates import fill, folder_of, match

# The remedy for missing files that a JSON names.
_ADD_FILES = "set {} in {} to the folder that file_name is relative to, or add the files"

# The metadata that loading a split sets.
_METADATA_OF_FILES = (
    *("dataset_root", "image_root", "file_labels", "panoptic_json", "panoptic_root", "json_file"),
    *("contiguous_id_to_dataset_id", "thing_dataset_id_to_contiguous_id"),
)
# The files of a record, and the number of records whose files are looked for when they come from the cache.
_FILE_KEYS, _CHECKED_FILES = ("file_name", "pan_seg_file_name", "sem_seg_file_name"), 16

# {registered name: the YAML it comes from, without links}
_registered: dict[str, Path] = {}


def register_builtin() -> None:
    """Register the datasets of the catalog that are not registered yet."""
    known = set(_registered.values())
    for file in dict.fromkeys(_builtin_files().values()):
        if file not in known:
            register_dataset_file(file)


@cache
def _builtin_files() -> dict[str, Path]:
    """Return {split of a built-in dataset: its YAML, without links}."""
    files = [file.resolve() for file in sorted(CATALOG.glob("*.yaml"))]
    return {split: file for file in files for split in read_split_names(file)}


def is_split(name: str) -> bool:
    """Return whether segzoo or, once it is imported, Detectron2 has registered a split of this name."""
    return catalogs.is_registered(name) or name in _builtin_files()


def dataset_metadata(name: str) -> Mapping[str, Any]:
    """Return the metadata of a dataset, as in MetadataCatalog.

    Unlike MetadataCatalog this does not import `detectron2.data` for datasets that segzoo registers.

    Returns:
        {} if no dataset of this name is registered.
    """
    if not catalogs.is_registered(name) and name in _builtin_files():
        register_dataset_file(_builtin_files()[name])
    return catalogs.find_metadata(name)


def register_dataset_file(name: str | Path) -> list[str]:
    """Register the splits of a dataset YAML with DatasetCatalog and MetadataCatalog.

    Built-in datasets replace Detectron2's entries of the same name. Data is read when a dataset is requested,
    not here. Registering a changed file again replaces what it registered before.

    Args:
        name: path of a YAML file, or name of a built-in one.

    Returns:
        The registered names.

    Raises:
        InputError: see `read_dataset_file`, or another dataset has the name of a split.
    """
    dataset = read_dataset_file(name)
    path = dataset.path.resolve()
    for split in dataset.splits:
        taken_by = _registered.get(split) or _builtin_files().get(split)
        # The file may have been moved since.
        if taken_by is not None and taken_by != path and taken_by.is_file():
            where = "is built in" if is_builtin(taken_by) else f"is registered by {taken_by}"
            raise InputError(f"{dataset.path.name}: {split!r} {where}; register under a new name")
        if taken_by is None and catalogs.is_registered(split) and not is_builtin(path):
            raise InputError(_is_taken(dataset, split))
    forget_range(dataset)
    for split in dataset.splits:
        is_new = split not in _registered and not is_builtin(path)
        _register(dataset, split, taken=_is_taken(dataset, split) if is_new else "")
        _registered[split] = path
    return list(dataset.splits)


def _is_taken(dataset: DatasetFile, split: str) -> str:
    return f"{dataset.path.name}: {split!r} is built in; register under a new name"


def label_reader(name: str) -> LabelReader:
    """Return the label reader of a registered dataset.

    Raises:
        InputError: the dataset does not come from a dataset YAML.
    """
    if name not in _registered and name not in _builtin_files():
        known = {**_registered, **_builtin_files()}
        raise InputError(
            f"DATASETS: {name!r} is not registered from a dataset YAML{did_you_mean(name, known)}; "
            "describe it in one and list that in DATASETS.FILES"
        )
    return dataset_metadata(name)["label_reader"]


def _register(dataset: DatasetFile, split: str, taken: str) -> None:
    reader = LabelReader(dataset, split)
    metadata = dict(
        **class_metadata(dataset.classes),
        ignore_label=dataset.space.ignore_label,
        background=dataset.background,
        evaluator_type=NO_GROUND_TRUTH if split in dataset.without_labels else dataset.evaluator,
        submission=dataset.submission,
        boundary_dilation=dataset.boundary_dilation,
        flip_pairs=list(dataset.flip_pairs),
        label_map=dict(dataset.space.label_map),
        dataset_file=str(dataset.path),
        label_reader=reader,
        check_palette=PaletteCheck(
            dataset.space.classes,
            {index: entry.color for index, entry in enumerate(dataset.classes) if entry.color_is_given},
            dataset.path.name,
            stops=not is_builtin(dataset.path),
        ),
        load_sem_seg=reader.load_sem_seg,
    )
    if dataset.layouts[0].panoptic is not None:
        metadata["load_panoptic"] = reader.load_panoptic
    if dataset.layouts[0].instances is not None:
        metadata["load_instances"] = reader.load_instances
    if isinstance(dataset.layouts[0].encoding, InstanceIdEncoding):
        metadata["load_regions"] = reader.load_regions
    catalogs.register(split, SplitLoader(dataset, split), metadata, taken)


class SplitLoader:
    """What DatasetCatalog calls for the records of a split."""

    def __init__(self, dataset: DatasetFile, split: str) -> None:
        self.dataset, self.split = dataset, split

    def __call__(self) -> list[dict[str, Any]]:
        return load_split(self.dataset, self.split)

    def shared(self) -> Sequence[dict[str, Any]]:
        """Return the same records, in little memory if they are many: see `split_records`."""
        return split_records(self.dataset, self.split)


def load_split(dataset: DatasetFile, split: str) -> list[dict[str, Any]]:
    """Return the records (Detectron2's dataset dicts) of a split.

    Returns:
        A dict per image with `file_name`, `image_id`, `dataset` (the split's name) and `layout` (index of the
        layout found). With semantic labels: `sem_seg_file_name`, a tuple if the layout has several files for
        an image, and then `label_classes`, the class index of each, if each is the mask of one class. With
        panoptic labels: `height`, `width`, `pan_seg_file_name` and `segments_info`, each segment with `id`,
        `category_id` (class index), `isthing`, `iscrowd`, and the JSON's `area` and `bbox`; the ids of
        segments without a class are in `void_segments`. With instances: `height`, `width` and `annotations`,
        see `instance_dicts`. A split without labels has none of these. If they differ from the default,
        `exif` ("ignore") and `image_range` (the fields of a PixelRange) say how the image is read.

    Raises:
        InputError: files are missing, or the JSON contradicts itself or the dataset's YAML.
    """
    with _garbage_collection_paused():
        return list(split_records(dataset, split))


def split_records(dataset: DatasetFile, split: str) -> Sequence[dict[str, Any]]:
    """Return the records of a split as `load_split` does; those of a JSON as `StoredRecords`, read once."""
    found = find_layout(dataset, split)
    key = cache_key(dataset, split, found)
    records: Sequence[dict[str, Any]]
    with _garbage_collection_paused():
        if key is None:
            records, _ = _load_records(dataset, split, found)
        else:
            records = _kept_records(dataset, split, found, key)
    reading: dict[str, Any] = {} if dataset.exif == "apply" else {"exif": dataset.exif}
    pixel_range = dataset_range(dataset, _FileNames(records))
    if pixel_range is not None:
        reading["image_range"] = tuple(pixel_range)
    if not reading:
        return records
    if isinstance(records, StoredRecords):
        return records.with_entries(reading)
    for record in records:
        record.update(reading)
    return records


def _kept_records(
    dataset: DatasetFile, split: str, found: FoundLayout, key: SplitKey
) -> Sequence[dict[str, Any]]:
    """Return the records of a split from the cache, or load them into it."""

    def build() -> Built:
        loaded, all_sizes_given = _load_records(dataset, split, found)
        metadata = catalogs.find_metadata(split)
        kept = {name: metadata[name] for name in _METADATA_OF_FILES if name in metadata}
        return Built(loaded, kept, lasting=all_sizes_given)

    records, metadata = cached_records(split, key.values, build, on_disk=key.is_large)
    sample = [records[index] for index in range(0, len(records), max(1, len(records) // _CHECKED_FILES))]
    files = [record[name] for record in sample for name in _FILE_KEYS if name in record]
    if not all(map(os.path.exists, files)):
        # In a folder below the one that the key has; loading says what is missing.
        return _load_records(dataset, split, found)[0]
    _update_metadata(split, **metadata)
    return records


class _FileNames(Sequence[str]):
    """The image files of records, which are many: only a sample is looked at."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return self._records[index]["file_name"]


def _load_records(dataset: DatasetFile, split: str, found: FoundLayout) -> tuple[list[dict[str, Any]], bool]:
    """Return the records, and whether none of their sizes had to be read from an image."""
    layout, fields = dataset.layouts[found.index], dataset.splits[split]
    image_root = folder_of(found.root, layout.images, fields)
    file_labels = layout.encoding.file_values() if layout.encoding is not None else None
    _update_metadata(split, dataset_root=str(found.root), image_root=str(image_root), file_labels=file_labels)
    if layout.panoptic is not None and split not in dataset.without_labels:
        with _garbage_collection_paused():
            return _load_panoptic_split(dataset, split, found)
    if layout.instances is not None and split not in dataset.without_labels:
        with _garbage_collection_paused():
            return _load_instance_split(dataset, split, found)
    listed_in_json = layout.panoptic is not None or layout.instances is not None
    if listed_in_json and not found.images:
        return _load_image_list(dataset, split, found), True
    records = []
    for image in found.images:
        record: dict[str, Any] = {"file_name": image.path, "image_id": image.image_id}
        if image.labels:
            several = has_several_labels(layout)
            record["sem_seg_file_name"] = image.labels if several else image.labels[0]
            if found.class_of:
                record["label_classes"] = _classes_of(image.labels, found.class_of, split)
        records.append({**record, "dataset": split, "layout": found.index})
    return records, True


def _classes_of(labels: Sequence[str], class_of: Mapping[str, int], split: str) -> tuple[int, ...]:
    for label in labels:
        if label not in class_of:
            raise InputError(
                f"{split}: the list names the label file {label}, but labels is a mask per class, found by "
                "the template; list the images alone"
            )
    return tuple(class_of[label] for label in labels)


def _load_panoptic_split(
    dataset: DatasetFile, split: str, found: FoundLayout
) -> tuple[list[dict[str, Any]], bool]:
    layout, fields = dataset.layouts[found.index], dataset.splits[split]
    image_root, json_file, png_root = (
        str(found.root / fill(template or "", fields))
        for template in (layout.images, layout.annotations, layout.panoptic)
    )
    _update_metadata(split, panoptic_json=json_file, panoptic_root=png_root)
    content = read_coco_json(json_file, "panoptic")
    with report_wrong_format(json_file, "panoptic"):
        index_of = _category_indices(dataset, content["categories"], json_file)
        dicts = _panoptic_dicts(dataset, content, index_of, json_file)
    remedy = _ADD_FILES.format("images", dataset.path.name)
    by_id = _images_by_id(layout, found.root, fields)
    image_fields: list[dict[str, str]] = [{} for _ in dicts]
    if by_id is None:
        names = [record["file_name"] for record in dicts]
        files = find_named_files(names, image_root, split, "images", remedy)
    else:
        ids = [str(record["image_id"]) for record in dicts]
        expected = [found.root / fill(layout.images, {**fields, "image_id": image_id}) for image_id in ids]
        pairs = [by_id.get(image_id, (str(path), {})) for image_id, path in zip(ids, expected, strict=True)]
        files, image_fields = [file for file, _ in pairs], [open_fields for _, open_fields in pairs]
        check_exist(files, split, "images")
    names = [record["pan_seg_file_name"] for record in dicts]
    remedy = _ADD_FILES.format("panoptic", dataset.path.name)
    pngs = find_named_files(names, png_root, split, "panoptic PNGs", remedy)
    for record, file, png, open_fields in zip(dicts, files, pngs, image_fields, strict=True):
        record["file_name"], record["pan_seg_file_name"] = file, png
        if layout.labels is not None:
            label = fill(layout.labels, {"stem": Path(file).stem, **fields, **open_fields})
            record["sem_seg_file_name"] = str(found.root / label)
        record.update(dataset=split, layout=found.index)
    if layout.labels is not None:
        check_exist((record["sem_seg_file_name"] for record in dicts), split, "semantic label files")
    all_given = read_missing_sizes(dicts, apply_exif=dataset.exif == "apply")
    if dataset.crowds_are_instances:
        _make_instances(segment for record in dicts for segment in record["segments_info"])
    return dicts, all_given


def _load_image_list(dataset: DatasetFile, split: str, found: FoundLayout) -> list[dict[str, Any]]:
    """Return the records of a split without labels whose images a JSON lists, with the JSON's ids."""
    layout, fields = dataset.layouts[found.index], dataset.splits[split]
    image_root, json_file = (
        str(found.root / fill(template or "", fields))
        for template in (layout.images, layout.annotations or layout.instances)
    )
    with report_wrong_format(json_file, "images"):
        records = list(read_images(read_image_list(json_file), json_file).values())
    remedy = _ADD_FILES.format("images", dataset.path.name)
    names = [record["file_name"] for record in records]
    for record, file in zip(
        records, find_named_files(names, image_root, split, "images", remedy), strict=True
    ):
        record.update(file_name=file, dataset=split, layout=found.index)
    return records


def _load_instance_split(
    dataset: DatasetFile, split: str, found: FoundLayout
) -> tuple[list[dict[str, Any]], bool]:
    layout, fields = dataset.layouts[found.index], dataset.splits[split]
    image_root, json_file = (
        str(found.root / fill(template or "", fields)) for template in (layout.images, layout.instances)
    )
    # Detectron2's name for it.
    _update_metadata(split, json_file=json_file)
    content = read_coco_json(json_file, "instances")
    with report_wrong_format(json_file, "instances"):
        categories = _without_groups(dataset, content)
        index_of = _category_indices(dataset, categories, json_file, needs_isthing=False)
        images = read_images(content, json_file)
        dicts = instance_dicts(content, images, index_of, dataset.space.ignore_label, json_file)
    ids = _json_ids(dataset, categories, index_of)
    things = {ids[index]: index for index, entry in enumerate(dataset.classes) if entry.isthing}
    _update_metadata(split, contiguous_id_to_dataset_id=ids, thing_dataset_id_to_contiguous_id=things)
    for record in dicts:
        if dataset.background is None:
            # They are only read with a background.
            record.pop("void_annotations", None)
        record.update(dataset=split, layout=found.index)
    remedy = _ADD_FILES.format("images", dataset.path.name)
    names = [record["file_name"] for record in dicts]
    for record, file in zip(dicts, find_named_files(names, image_root, split, "images", remedy), strict=True):
        record["file_name"] = file
    all_given = read_missing_sizes(dicts, apply_exif=dataset.exif == "apply")
    with report_wrong_format(json_file, "instances"):
        if dataset.has_relative_coordinates:
            scale_relative(dicts, json_file)
        else:
            check_polygons(dicts, json_file)
    if dataset.crowds_are_instances:
        _make_instances(annotation for record in dicts for annotation in record["annotations"])
    return dicts, all_given


def _without_groups(dataset: DatasetFile, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the categories of a JSON without those that only group others, as Roboflow writes them.

    A group is the supercategory of another category, is not a class, and has no annotation.
    """
    known = {*dataset.space.classes, *dataset.space.label_map}
    groups = {str(one.get("supercategory")) for one in content["categories"]}
    used = {str(one.get("category_id")) for one in content["annotations"]}
    return [
        one
        for one in content["categories"]
        if one.get("name") in known
        or str(one.get("name")) not in groups
        or str(one.get("id")) in used
        or one.get("supercategory") == one.get("name")
    ]


def _make_instances(segments: Iterable[dict[str, Any]]) -> None:
    for segment in segments:
        segment["iscrowd"] = 0


def _json_ids(
    dataset: DatasetFile, categories: list[dict[str, Any]], index_of: Mapping[int, int]
) -> list[int]:
    """Return the JSON's id of each class, with which predictions are saved.

    If label_map merges several categories into a class, the category that has the class's name counts. A
    class that the JSON lacks, such as a background, gets the YAML's id or, if that is taken, a free one.
    """
    found: dict[int, int] = {}
    named_last = sorted(categories, key=lambda one: one["name"] in dataset.space.classes)
    for category in named_last:
        index = index_of[category["id"]]
        if index != dataset.space.ignore_label:
            found[index] = category["id"]
    free = itertools.count(1 + max([*found.values(), *(entry.id for entry in dataset.classes)]))
    taken = set(found.values())
    for index, entry in enumerate(dataset.classes):
        if index not in found:
            found[index] = next(free) if entry.id in taken else entry.id
    return [found[index] for index in range(len(dataset.classes))]


def _images_by_id(
    layout: Layout, root: Path, fields: Mapping[str, str]
) -> dict[str, tuple[str, dict[str, str]]] | None:
    """Return {image id: (file, open fields of the template)}; None if the JSON names the files."""
    if not finds_images_by_id(layout):
        return None
    return {found["image_id"]: (path, found) for path, found in match(root, layout.images, fields)}


def _panoptic_dicts(
    dataset: DatasetFile, content: Mapping[str, Any], index_of: Mapping[int, int], json_file: str
) -> list[dict[str, Any]]:
    """Return a record per annotated image, with the JSON's file names; reuses and changes its dicts."""
    images = read_images(content, json_file)
    image_ids, categories = Ids(images), Ids(index_of)
    ignore_label = dataset.space.ignore_label
    is_thing = {index: entry.isthing for index, entry in enumerate(dataset.classes)}
    is_thing.setdefault(ignore_label, False)
    dicts = []
    for number, annotation in enumerate(content["annotations"], 1):
        image_id, png = annotation.get("image_id"), annotation.get("file_name")
        segments, void = annotation.get("segments_info"), []
        if not (isinstance(png, str) and isinstance(segments, list) and "image_id" in annotation):
            refuse_annotation(annotation, number, json_file)
        if type(image_id) is not int or image_id not in images:
            image_id = image_ids.find(image_id)
        record = images.get(image_id)
        if record is None:
            raise InputError(
                f"{json_file}: annotation {png} is of image {shown(annotation['image_id'])}, which is not in "
                "images; the file must list both"
            )
        for segment in segments:
            # COCO has a million segments: well-formed ones are read without a function call.
            try:
                segment_id, category, crowd = segment["id"], segment["category_id"], segment["iscrowd"]
                is_plain = type(segment_id) is type(category) is type(crowd) is int
            except (KeyError, TypeError):
                is_plain = False
            if not (is_plain and category in index_of and crowd in (0, 1)):
                category = check_segment(segment, index_of, categories, f"of {png}", json_file)
            segment["category_id"] = index = index_of[category]
            segment["isthing"] = is_thing[index]
            if index == ignore_label:
                void.append(segment["id"])
        record = {**record, "pan_seg_file_name": png, "segments_info": segments}
        if void:
            record["void_segments"] = void
            record["segments_info"] = [one for one in segments if one["category_id"] != ignore_label]
        dicts.append(record)
    check_different((record["image_id"] for record in dicts), json_file, "annotations are of image")
    return dicts


def refuse_annotation(annotation: Mapping[str, Any], number: int, json_file: str) -> NoReturn:
    """Raise InputError for an annotation of a panoptic JSON, the `number`-th from 1, with a wrong key."""
    for key, value_type in (("image_id", object), ("file_name", str), ("segments_info", list)):
        if key not in annotation or not isinstance(annotation[key], value_type):
            found = f"has the {key} {shown(annotation[key])}" if key in annotation else f"lacks {key!r}"
            break
    raise InputError(
        f"{json_file}: annotation {number} of the list (image {shown(annotation.get('image_id'))}) {found}; "
        "COCO's panoptic format has image_id, file_name (of the PNG) and segments_info (a list)"
    )


def check_segment(
    segment: Any, index_of: Mapping[int, int], categories: Ids, location: str, json_file: str
) -> int:
    """Convert `id` and `iscrowd` of a panoptic segment to numbers, in place, and return its category.

    Raises:
        InputError: a key is missing or is not such a number, or there is no such category.
    """
    if not isinstance(segment, dict):
        raise InputError(f"{json_file}: {location}, segments_info lists {shown(segment)}; expected segments")
    for key in ("id", "category_id"):
        if key not in segment:
            raise InputError(
                f"{json_file}: a segment {location} lacks {key!r}; COCO's panoptic format has it"
            )
    segment_id, category = as_integer(segment["id"]), segment["category_id"]
    if segment_id is None:
        raise InputError(
            f"{json_file}: a segment {location} has the id {shown(segment['id'])}; expected a whole number, "
            "R + 256 G + 65536 B of its color in the PNG"
        )
    segment["id"] = segment_id
    described = f"{json_file}: segment {segment_id} {location}"
    category = categories.find(category)
    if category is None:
        raise InputError(
            f"{described} has the category {shown(segment['category_id'])}, which is not among its "
            f"categories ({some(map(shown, index_of), 4)}); write one of these ids"
        )
    segment["iscrowd"] = read_flag(segment.get("iscrowd"), "iscrowd", described)
    return category


def _category_indices(
    dataset: DatasetFile, categories: list[dict[str, Any]], json_file: str, needs_isthing: bool = True
) -> dict[int, int]:
    """Return {category id of the JSON: class index, or the ignore label}, checked against the YAML's classes.

    Args:
        needs_isthing: the JSON is panoptic and says which categories are things.
    """
    space, source = dataset.space, dataset.path.name
    for number, category in enumerate(categories, 1):
        check_category(category, number, json_file, needs_isthing)
    labels = {label for one in categories for label in (one["name"], one["id"])}
    for label in space.label_map:
        if label not in labels:
            raise InputError(
                f"{source}: label_map source {label!r} is not a category of {json_file}"
                f"{did_you_mean(label, labels)}"
            )
    check_different((category["id"] for category in categories), json_file, "categories have the id")
    index_of = {}
    for category in categories:
        described = f"category {category['id']} {category['name']!r}"
        name = category["name"]
        if name not in (*space.classes, *space.label_map):
            # ADE20K's names are lists of synonyms, "road, route"; the YAML has the first.
            first = str(name).split(",")[0].strip()
            name = first if first in space.classes else name
        if name not in (*space.classes, *space.label_map, VOID) and category["id"] not in space.label_map:
            raise InputError(
                f"{json_file}: {described} is neither a class of {source} nor in its label_map"
                f"{did_you_mean(name, space.classes) or '; map it to a class or to void'}"
            )
        index = space.index(category["id"], name)
        index_of[category["id"]] = index
        if index == space.ignore_label or not needs_isthing:
            continue
        if category["isthing"] != dataset.classes[index].isthing:
            raise InputError(
                f"{json_file}: {described} has isthing {category['isthing']}, but {source} says "
                f"{int(dataset.classes[index].isthing)} for {space.classes[index]!r}; make them agree"
            )
    return index_of


def check_category(category: dict[str, Any], number: int, json_file: str, needs_isthing: bool) -> None:
    """Convert `id` and `isthing` of a category to numbers, in place.

    Args:
        number: position in the list, from 1.

    Raises:
        InputError: a key is missing or has a value of another type.
    """
    described = f"{json_file}: category {shown(category.get('id'))} {category.get('name')!r}"
    for key in ("id", "name", "isthing") if needs_isthing else ("id", "name"):
        if key not in category:
            raise InputError(f"{described} lacks {key!r}; COCO's format has it")
    category_id, name = as_integer(category["id"]), category["name"]
    if category_id is None or category_id < 0:
        raise InputError(
            f"{json_file}: category {number} of the list, {shown(name)}, has the id {shown(category['id'])}; "
            "expected a whole number from 0, which annotations refer to as category_id"
        )
    if not isinstance(name, str) or not name:
        raise InputError(
            f"{json_file}: category {category_id} has the name {shown(name)}; expected a string, the name of "
            "a class"
        )
    category["id"] = category_id
    if needs_isthing:
        category["isthing"] = read_flag(category["isthing"], "isthing", described)


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Disable garbage collection, which takes more than half of the time of parsing COCO's JSON."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _update_metadata(split: str, **values: Any) -> None:
    """Set the metadata that depends on the files; unlike Metadata.set, values may change when data moves."""
    from detectron2.data import MetadataCatalog  # here, as in `catalogs`

    MetadataCatalog.get(split).__dict__.update(values)
