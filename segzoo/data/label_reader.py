"""Reading semantic labels, panoptic labels and instances, with checks of every file.

Shape shorthand: H, W pixels; S segments of an image; K classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as mask_tools

from segzoo.utils.errors import InputError
from segzoo.utils.json_values import is_box, is_positive, shown
from segzoo.utils.text import some

from .class_files import BinaryFilesEncoding
from .coco_instances import Overlaps, annotation_rle, paint, split_overlaps
from .dataset_file import DatasetFile
from .encodings import Encoding, InstanceIdEncoding, Regions
from .image_files import QUARTER_TURNS, BrokenFileError, opened_image, opened_labels, stored_orientation
from .images import OrientationError, WrongSizeError, load_image, read_image, wrong_size
from .label_ops import index_codes, look_up, rgb_codes

__all__ = [
    "BrokenFileError",
    "IndexMap",
    "LabelReader",
    "Segments",
    "WrongSizeError",
    "check_labels",
    "class_map",
    "opened_image",
    "opened_labels",
    "read_image",
]


class Segments(NamedTuple):
    """The segments of one image.

    Attributes:
        classes: (S,) int64 contiguous class of each.
        is_crowd: (S,) bool, whether it is a group whose members are not separated.
    """

    classes: np.ndarray
    is_crowd: np.ndarray


class IndexMap(NamedTuple):
    """The segment of each pixel, as an index in the smallest integer type that fits.

    Attributes:
        indices: (H, W) uint8 or uint16: s + 1 for segment s, 0 for void.
        segments: the S segments. For semantic labels: one per class of the dataset, present or not.
        members: None, or, for segments that overlap, (A + 1, S) bool: pixels with index a are covered by
            exactly the segments of row a. Row 0 has none.
    """

    indices: np.ndarray
    segments: Segments
    members: np.ndarray | None = None


class LabelReader:
    """Reads the annotations of one registered split. It can be pickled.

    Args:
        dataset: the dataset's description.
        split: the registered name.
    """

    def __init__(self, dataset: DatasetFile, split: str) -> None:
        self.dataset = dataset
        self.split = split
        self.ignore_label = dataset.space.ignore_label
        self.is_thing = np.array([entry.isthing for entry in dataset.classes], dtype=bool)
        # Called with each semantic label file as stored.
        self.observe: Callable[[Image.Image], None] | None = None

    def load_sem_seg(self, dataset_dict: Mapping[str, Any]) -> np.ndarray:
        """Return the class of every pixel, from the semantic label file or else from the segments.

        Args:
            dataset_dict: record of the split; see `register.load_split`.

        Returns:
            (H, W) uint8 (uint16 for more than 255 classes): class index, or the dataset's ignore label.
            Crowd segments count as their class. Where instances overlap, the first one in the JSON counts; if
            the dataset has a background, it fills the pixels that no instance covers, and crowds lie below
            instances. With several label files, a pixel takes the first class that is not class 0, the
            background.

        Raises:
            InputError: missing, broken or wrong file, or a split without labels.
        """
        file_names = dataset_dict.get("sem_seg_file_name")
        if self.dataset.background is not None and "annotations" in dataset_dict:
            return self._paint_instances(dataset_dict, self.dataset.background)
        if file_names is None:
            return self.class_map(self.load_index_map(dataset_dict))
        if isinstance(file_names, str):
            return self._read_labels(file_names, dataset_dict)
        if "label_classes" in dataset_dict:
            return self._compose_labels(file_names, dataset_dict)
        merged = self._read_labels(file_names[0], dataset_dict)
        for file_name in file_names[1:]:
            labels = self._read_labels(file_name, dataset_dict)
            if labels.shape != merged.shape:
                raise WrongSizeError(
                    f"{file_name}: is {_size_text(labels)}, but {file_names[0]} of the same image is "
                    f"{_size_text(merged)}; replace the wrong one"
                )
            np.copyto(merged, labels, where=merged == 0)
        return merged

    def _paint_instances(self, dataset_dict: Mapping[str, Any], background: int) -> np.ndarray:
        """Paint, from bottom to top: background, annotations without a class (void), crowds, instances."""
        labels: np.ndarray = np.full(
            self._image_size(dataset_dict), background, dtype=self.dataset.space.dtype
        )
        annotations = dataset_dict["annotations"]
        layers = [
            dataset_dict.get("void_annotations", ()),
            [one for one in annotations if one["iscrowd"]],
            [one for one in annotations if not one["iscrowd"]],
        ]
        for layer in layers:
            paint(labels, self._rles(dataset_dict, layer), [one["category_id"] for one in layer])
        return labels

    def _read_labels(self, file_name: str, dataset_dict: Mapping[str, Any]) -> np.ndarray:
        with self._opened_labels(file_name, dataset_dict) as (image, encoding):
            labels = encoding.decode(image, file_name)
        _check_size(file_name, labels, dataset_dict)
        return labels

    def _compose_labels(self, file_names: Sequence[str], dataset_dict: Mapping[str, Any]) -> np.ndarray:
        """Return the class map composed of one mask per class."""
        masks = []
        for file_name, index in zip(file_names, dataset_dict["label_classes"], strict=True):
            with self._opened_labels(file_name, dataset_dict) as (image, encoding):
                assert isinstance(encoding, BinaryFilesEncoding)
                masks.append((index, encoding.inside(image, file_name)))
            _check_size(file_name, masks[-1][1], dataset_dict)
            if masks[-1][1].shape != masks[0][1].shape:
                raise WrongSizeError(
                    f"{file_name}: is {_size_text(masks[-1][1])}, but {file_names[0]} of the same image "
                    f"is {_size_text(masks[0][1])}; replace the wrong one"
                )
        assert isinstance(encoding, BinaryFilesEncoding)
        height, width = masks[0][1].shape
        return encoding.compose(masks, (height, width))

    @contextmanager
    def _opened_labels(
        self, file_name: str, dataset_dict: Mapping[str, Any]
    ) -> Iterator[tuple[Image.Image, Encoding]]:
        """Yield a label image and its encoding."""
        encoding = self.encoding_of(dataset_dict)
        assert encoding is not None
        with self._opened(file_name, dataset_dict) as image:
            if self.observe is not None:
                self.observe(image)
            if image.mode not in encoding.modes:
                raise InputError(f"{file_name}: {self._wrong_mode(image, encoding)}")
            yield image, encoding

    @contextmanager
    def _opened(self, file_name: str, dataset_dict: Mapping[str, Any]) -> Iterator[Image.Image]:
        """Yield a label image with exact values, in the orientation in which its image is read."""
        as_stored = self.dataset.exif == "ignore"
        # `observe` is given a decoded image.
        with opened_labels(file_name, as_stored, decoded=self.observe is not None) as (image, orientation):
            if orientation > 1 and not as_stored:
                self._check_label_orientation(file_name, image, orientation, dataset_dict)
            yield image

    def _check_label_orientation(
        self, file_name: str, image: Image.Image, orientation: int, dataset_dict: Mapping[str, Any]
    ) -> None:
        """Raise WrongSizeError for a label file with an EXIF orientation, unless it fits only as stored.

        Raises:
            OrientationError: image and labels may have to be read as stored.
            WrongSizeError: the labels fit once their orientation is applied.
        """
        size = dataset_dict.get("width"), dataset_dict.get("height")
        # The same EXIF data as in the image suggests that the stored pixels correspond.
        is_copy = stored_orientation(dataset_dict.get("file_name", "")) > 1
        if not is_copy and orientation in QUARTER_TURNS and image.size == size != size[::-1]:
            return
        found = f"{file_name}: has {'an' if is_copy else 'the'} EXIF orientation "
        found += "as its image has" if is_copy else f"{orientation}, which its image does not have"
        found += ", but labels are read without it; "
        if not is_copy and orientation in QUARTER_TURNS and image.size == size[::-1] != size:
            raise WrongSizeError(f"{found}rotated by it they fit the image: save them rotated, without EXIF")
        remedy = f"if their stored pixels correspond, set exif: ignore in {self.dataset.path.name}"
        if not is_copy:
            remedy += ", else save the labels rotated, without EXIF"
        raise OrientationError(found + remedy)

    def encoding_of(self, dataset_dict: Mapping[str, Any]) -> Encoding | None:
        """Return the encoding of the semantic label files of an image; None if it has none."""
        return self.dataset.layouts[dataset_dict.get("layout", 0)].encoding

    def load_panoptic(self, dataset_dict: Mapping[str, Any]) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Return the segments of the image.

        Returns:
            (H, W) int32 segment ids, 0 for void, and a dict for each segment with `id`, `category_id` (class
            index), `isthing`, `iscrowd`, `area` (number of pixels) and, if the JSON has another area or none,
            `stated_areas`, a list of `StatedArea`. The JSON's box is left out.

        Raises:
            InputError: not a panoptic dataset, or a missing, broken or wrong file.
        """
        codes, indices, areas = self._read_panoptic(dataset_dict)
        listed = dataset_dict["segments_info"]
        segments_info = [
            _with_measured_area(one, area) for one, area in zip(listed, areas.tolist(), strict=True)
        ]
        ids = codes.view(np.int32)  # below 2**24
        if dataset_dict.get("void_segments"):
            ids[indices > len(segments_info)] = 0
        if not self.dataset.space.label_map:
            return ids, segments_info
        table = np.zeros(len(segments_info) + 2, dtype=np.int32)
        merged = _merge_stuff(segments_info, table)
        return table[indices], merged

    def load_index_map(self, dataset_dict: Mapping[str, Any], semantic: bool = False) -> IndexMap:
        """Return the annotation in the form that training augments: see `IndexMap`.

        Args:
            semantic: classes suffice; reads the semantic label file, if there is one, instead of instances.

        Raises:
            InputError: see `load_panoptic`, or the task needs instances and there are only semantic labels.
        """
        has_background = self.dataset.background is not None and "annotations" in dataset_dict
        if semantic and ("sem_seg_file_name" in dataset_dict or has_background):
            # Void is the largest value: adding 1 makes it 0, and class k the index of segment k.
            classes = np.arange(len(self.is_thing))
            return IndexMap(
                self.load_sem_seg(dataset_dict) + self.dataset.space.dtype(1),
                Segments(classes, np.zeros(len(classes), dtype=bool)),
            )
        if "annotations" in dataset_dict:
            return self._overlapping_index_map(dataset_dict)
        if "pan_seg_file_name" not in dataset_dict and self.encodes_instances(dataset_dict):
            return self._numbered_index_map(self.load_regions(dataset_dict))
        _, indices, _ = self._read_panoptic(dataset_dict)
        segments_info = dataset_dict["segments_info"]
        if dataset_dict.get("void_segments"):
            indices[indices > len(segments_info)] = 0
        return IndexMap(
            indices,
            Segments(
                np.array([segment["category_id"] for segment in segments_info], dtype=np.int64),
                np.array([segment["iscrowd"] for segment in segments_info], dtype=bool),
            ),
        )

    def load_regions(self, dataset_dict: Mapping[str, Any]) -> Regions:
        """Return the regions of a label file with the encoding `instance_id`, void included: see `Regions`.

        Raises:
            InputError: missing, broken or wrong file, or another encoding.
        """
        if not self.encodes_instances(dataset_dict):
            raise InputError(
                f"{self.split}: has no instances in its label files; instances need the encoding instance_id "
                f"in {self.dataset.path.name}"
            )
        file_name = dataset_dict["sem_seg_file_name"]
        with self._opened_labels(file_name, dataset_dict) as (image, encoding):
            assert isinstance(encoding, InstanceIdEncoding)
            regions = encoding.regions(image, file_name)
        _check_size(file_name, regions.indices, dataset_dict)
        return regions

    def encodes_instances(self, dataset_dict: Mapping[str, Any]) -> bool:
        """Return whether the semantic label files number instances."""
        if "sem_seg_file_name" not in dataset_dict:
            return False
        return isinstance(self.encoding_of(dataset_dict), InstanceIdEncoding)

    def _numbered_index_map(self, regions: Regions) -> IndexMap:
        """Return the map of the regions without void ones; a thing region without a number is a crowd."""
        kept = regions.classes != self.ignore_label
        table = np.zeros(np.iinfo(regions.indices.dtype).max + 1, dtype=np.uint16)
        table[: len(kept)] = np.cumsum(kept) * kept
        if np.count_nonzero(kept) <= 255:
            table = table.astype(np.uint8)
        classes = regions.classes[kept]
        is_crowd = self.is_thing[classes] & ~regions.is_instance[kept]
        return IndexMap(look_up(table, regions.indices), Segments(classes, is_crowd))

    def load_instances(self, dataset_dict: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the instances of an image of a COCO JSON, as pycocotools takes ground truth.

        Returns:
            A dict for each, with `category_id` (class index), `iscrowd`, `area` and `bbox` (the JSON's if
            finite and positive, else measured from the mask) and `segmentation` (compressed RLE).

        Raises:
            InputError: a mask that cannot be decoded.
        """
        if "annotations" not in dataset_dict:
            raise InputError(f"{self.split}: has no instances; they need the key instances in its YAML file")
        instances, annotations = [], dataset_dict["annotations"]
        for annotation, code in zip(annotations, self._rles(dataset_dict, annotations), strict=True):
            instance = {key: annotation[key] for key in ("category_id", "iscrowd")}
            area, box = annotation.get("area"), annotation.get("bbox")
            instance["area"] = area if is_positive(area) else float(mask_tools.area(code))
            instance["bbox"] = box if is_box(box) else mask_tools.toBbox(code).tolist()
            instances.append({**instance, "segmentation": code})
        return instances

    def _rles(
        self, dataset_dict: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        size, name = self._image_size(dataset_dict), dataset_dict["file_name"]
        return [annotation_rle(annotation, size, name) for annotation in annotations]

    @staticmethod
    def _image_size(dataset_dict: Mapping[str, Any]) -> tuple[int, int]:
        if "height" in dataset_dict and "width" in dataset_dict:
            return dataset_dict["height"], dataset_dict["width"]
        # The header could not be read: reading the image raises the error.
        height, width = load_image(dataset_dict).shape[:2]
        return height, width

    def polygons_alone(self, dataset_dict: Mapping[str, Any], size: tuple[int, int]) -> IndexMap | None:
        """Return the segments of an image whose masks are polygons, without pixels; None for other labels.

        Args:
            size: (H, W) of the map, which is void and takes no memory.

        Raises:
            InputError: polygons that cannot be read.
        """
        annotations = dataset_dict.get("annotations")
        if annotations is None:
            return None
        single = [one for one in annotations if not one["iscrowd"]]
        if not all(isinstance(one["segmentation"], list) for one in single):
            return None
        self._rles(dataset_dict, single)  # for its errors
        segments = _segments_of(annotations)
        void = np.broadcast_to(np.uint8(0), size)
        return IndexMap(void, segments, np.zeros((1, len(annotations)), dtype=bool))

    def _overlapping_index_map(self, dataset_dict: Mapping[str, Any]) -> IndexMap:
        annotations = dataset_dict["annotations"]
        rles = self._rles(dataset_dict, annotations)
        overlaps: Overlaps = split_overlaps(rles, self._image_size(dataset_dict), dataset_dict["file_name"])
        return IndexMap(overlaps.indices, _segments_of(annotations), overlaps.members)

    def class_map(self, index_map: IndexMap) -> np.ndarray:
        """Return (H, W) uint8 or uint16: the class of each pixel's segment, or the ignore label."""
        return class_map(index_map, self.ignore_label, self.dataset.space.dtype)

    def _read_panoptic(self, dataset_dict: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return segment ids, indices and areas of a panoptic PNG.

        Returns:
            (H, W) uint32 ids; (H, W) uint8 or uint16 position in segments_info + 1, with 0 for id 0 and S + 1
            for void segments; (S,) int64 number of pixels of each segment.
        """
        if self.split in self.dataset.without_labels:
            raise InputError(
                f"{self.split}: has no ground truth, only images; use it for inference and submission, not "
                "for training or evaluation"
            )
        if "pan_seg_file_name" not in dataset_dict:
            raise InputError(
                f"{self.split}: has semantic labels only; entity, instance and panoptic tasks need the keys "
                f"panoptic and annotations in {self.dataset.path.name}"
            )
        file_name = dataset_dict["pan_seg_file_name"]
        with self._opened(file_name, dataset_dict) as image:
            codes = segment_codes(image, file_name)
        _check_size(file_name, codes, dataset_dict)
        segment_ids = [segment["id"] for segment in dataset_dict["segments_info"]]
        indices, areas = segment_indices(codes, segment_ids, dataset_dict.get("void_segments", ()), file_name)
        return codes, indices, areas

    def _wrong_mode(self, image: Image.Image, encoding: Any) -> str:
        source = self.dataset.path.name
        if image.mode in ("RGB", "RGBA"):
            problem = f"is a color image ({image.mode})"
            bands = np.asarray(image)[:, :, :3]
            if (bands == bands[:, :, :1]).all():
                problem += " with three equal channels"
                remedy = "save one of them"
                if "channel" in encoding.options:
                    remedy = f"set encoding: {encoding.with_option('channel', 0)} to read one of them"
                return f"{problem}, but {source} says encoding {encoding.name}; {remedy}"
            return f"{problem}, but {source} says encoding {encoding.name}; set encoding: rgb with its colors"
        return (
            f"has the mode {image.mode}, but {source} says encoding {encoding.name}, which reads "
            f"{some(dict.fromkeys(encoding.modes), 12)}; choose another encoding"
        )


def _segments_of(annotations: Sequence[Mapping[str, Any]]) -> Segments:
    return Segments(
        np.array([one["category_id"] for one in annotations], dtype=np.int64),
        np.array([one["iscrowd"] for one in annotations], dtype=bool),
    )


def check_labels(reader: LabelReader, tasks: Sequence[str], dataset_dict: Mapping[str, Any]) -> None:
    """Raise InputError if the labels of an image cannot be read as evaluating the tasks does."""
    if "semantic" in tasks:
        reader.load_sem_seg(dataset_dict)
    if set(tasks) - {"semantic"}:
        reader.load_index_map(dataset_dict)


def class_map(index_map: IndexMap, ignore_label: int, dtype: npt.DTypeLike) -> np.ndarray:
    """Return (H, W) `dtype`, the class of each pixel's segment; `ignore_label` for void, unknown indices."""
    return look_up(class_table(index_map, ignore_label, dtype), index_map.indices)


def class_table(index_map: IndexMap, ignore_label: int, dtype: npt.DTypeLike) -> np.ndarray:
    """Return the class of every possible index of a map, (256,) or (65536,) `dtype`: see `class_map`."""
    indices, segments, members = index_map
    table: np.ndarray = np.full(np.iinfo(indices.dtype).max + 1, ignore_label, dtype=dtype)
    if members is None:
        table[1 : len(segments.classes) + 1] = segments.classes
    elif len(segments.classes):
        # The first of the segments that cover a pixel counts.
        table[1 : len(members)] = segments.classes[members[1:].argmax(axis=1)]
    return table


def segment_codes(image: Image.Image, file_name: str) -> np.ndarray:
    """Return the segment ids R + 256 G + 65536 B of a panoptic PNG, (H, W) uint32.

    Raises:
        InputError: its pixels are not colors.
    """
    # PNG optimizers write a palette if there are few colors; its colors are the ids.
    if image.mode not in ("RGB", "RGBA", "P"):
        raise InputError(
            f"{file_name}: a panoptic PNG holds segment ids as RGB, found mode {image.mode}; "
            "write R + 256 G + 65536 B = id"
        )
    return rgb_codes(image)


def segment_indices(
    codes: np.ndarray,
    segment_ids: Sequence[int],
    void_ids: Sequence[int],
    file_name: str,
    *,
    empty_allowed: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the listed segments each pixel of a panoptic PNG belongs to, and the segments' areas.

    Args:
        codes: (H, W) segment ids, 0 for void.
        segment_ids: the S ids that the JSON lists.
        void_ids: further ids, whose pixels are void.
        file_name: name of the PNG in messages.
        empty_allowed: accept listed ids that no pixel has; their area is 0.

    Returns:
        (H, W) uint8 or uint16 position in `segment_ids` + 1, with 0 for id 0 and S + 1 for `void_ids`; (S,)
        int64 number of pixels of each segment.

    Raises:
        InputError: an id of the PNG is not listed, or a listed id has no pixel and `empty_allowed` is False.
    """
    count = len(segment_ids)
    listed = (*segment_ids, *void_ids)
    wrong = [repr(one) for one in listed if not isinstance(one, int) or not 0 < one < 1 << 24]
    if wrong:
        raise InputError(f"{file_name}: the panoptic JSON has segment ids {some(wrong)}; expected 1..2**24-1")
    if len(set(listed)) < len(listed):
        twice = some(sorted({one for one in listed if listed.count(one) > 1}))
        raise InputError(
            f"{file_name}: the panoptic JSON lists the segment ids {twice} twice; ids must be unique"
        )
    places = [0, *range(1, count + 1), *(count + 1 for _ in void_ids)]
    indices, areas = index_codes(codes, (0, *listed), places, np.uint8 if count < 255 else np.uint16)
    if indices is None:
        unlisted = np.setdiff1d(codes, (0, *listed))
        remedy = "PNG and JSON must come from the same export"
        reversed_ids = (unlisted & 255) << 16 | unlisted & 0xFF00 | unlisted >> 16
        if np.isin(reversed_ids, listed).all():
            remedy = "with red and blue exchanged they are: write the PNG as RGB (OpenCV takes BGR)"
        raise InputError(
            f"{file_name}: segment ids {some(unlisted)} are not in the segments_info of the panoptic JSON; "
            f"{remedy}"
        )
    empty = np.flatnonzero(areas[1 : count + 1] == 0)
    if len(empty) and not empty_allowed:
        raise InputError(
            f"{file_name}: no pixel has the segment ids {some(segment_ids[index] for index in empty)}, which "
            "the panoptic JSON lists; PNG and JSON must come from the same export"
        )
    return indices, areas[1 : count + 1]


class StatedArea(NamedTuple):
    """A segment's area in the panoptic JSON that differs from its pixels in the PNG.

    Attributes:
        segment_id: id of the segment.
        found: the JSON's value, or "missing".
        measured: number of pixels in the PNG.
    """

    segment_id: int
    found: str
    measured: int


def _with_measured_area(segment: Mapping[str, Any], area: int) -> dict[str, Any]:
    """Return the segment with its area in the PNG."""
    measured = {key: value for key, value in segment.items() if key != "bbox"}
    measured["area"] = area
    stated = segment.get("area")
    if isinstance(stated, bool) or stated != area:
        found = shown(stated) if "area" in segment else "missing"
        measured["stated_areas"] = [StatedArea(segment["id"], found, area)]
    return measured


def _merge_stuff(segments_info: Sequence[Mapping[str, Any]], table: np.ndarray) -> list[dict[str, Any]]:
    """Return the segments with those of a stuff class that label_map has merged combined into one.

    Args:
        table: (S + 2,) filled in place with the new id of each position + 1.
    """
    merged: list[dict[str, Any]] = []
    by_class: dict[int, dict[str, Any]] = {}
    for position, segment in enumerate(segments_info, 1):
        is_stuff = not segment["isthing"] and not segment["iscrowd"]
        first = by_class.get(segment["category_id"]) if is_stuff else None
        if first is None:
            first = dict(segment)
            merged.append(first)
            if is_stuff:
                by_class[segment["category_id"]] = first
        else:
            first["area"] += segment["area"]
            stated = [*first.get("stated_areas", ()), *segment.get("stated_areas", ())]
            if stated:
                first["stated_areas"] = stated
        table[position] = first["id"]
    return merged


def _check_size(file_name: str, labels: np.ndarray, dataset_dict: Mapping[str, Any]) -> None:
    if "height" in dataset_dict and labels.shape != (dataset_dict["height"], dataset_dict["width"]):
        raise wrong_size(
            f"{file_name}: is {_size_text(labels)}, but its image {dataset_dict['file_name']} is "
            f"{dataset_dict['width']}x{dataset_dict['height']}; ",
            "image and labels must match pixel by pixel",
            dataset_dict,
            (labels.shape[0], labels.shape[1]),
            (dataset_dict["height"], dataset_dict["width"]),
        )


def _size_text(labels: np.ndarray) -> str:
    return f"{labels.shape[1]}x{labels.shape[0]}"
