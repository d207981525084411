"""The contents of a split: every file is read by the readers of training, and counted.

Shape shorthand: H, W pixels; K classes.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segzoo.data.encodings import UnknownLabelError
from segzoo.data.image_files import BrokenFileError, LossyLabelsError, UnsuitableFileError
from segzoo.data.images import OrientationError, WrongSizeError, check_annotated_size, load_with_orientation
from segzoo.data.label_ops import count_values
from segzoo.data.label_reader import IndexMap, LabelReader
from segzoo.data.palettes import PaletteError
from segzoo.utils.errors import InputError

from .geometry import wrong_geometry
from .stored import StoredLabels, StoredSummary, observer

# What can be wrong with an image or its labels.
UNREADABLE_IMAGE = "unreadable image"
UNREADABLE_LABEL = "unreadable label file"
WRONG_SIZE = "size of image and labels differs"
UNKNOWN_LABEL = "labels that are no class"
WRONG_LABEL = "wrong label file"
PALETTE = "palettes that draw classes in the colors of others"
LOSSY_LABEL = "labels in a lossy format"
TURNED = "EXIF orientations of images and labels that do not match"
UNSUITABLE = "intact files that cannot be used as they are"
# Not an error: training reads such an image, but learns nothing from it.
ALL_VOID = "nothing labeled"
# One for each annotation; training is not affected.
WRONG_GEOMETRY = "areas or boxes that do not match their masks"


# The kind of problem for each error of labels; `WRONG_LABEL` for all others.
_KINDS = {
    BrokenFileError: UNREADABLE_LABEL,
    LossyLabelsError: LOSSY_LABEL,
    PaletteError: PALETTE,
    OrientationError: TURNED,
    UnknownLabelError: UNKNOWN_LABEL,
    UnsuitableFileError: UNSUITABLE,
    WrongSizeError: WRONG_SIZE,
}


class Problem(NamedTuple):
    """A problem of an image or its labels.

    Attributes:
        kind: one of the constants above.
        message: one line that names the file and the remedy.
        labels: the values or colors that are no class, for `UNKNOWN_LABEL`.
    """

    kind: str
    message: str
    labels: tuple[Any, ...] = ()


class ImageReport(NamedTuple):
    """The contents of one image and its labels.

    Attributes:
        file_name: the image.
        size: (width, height), or None where it cannot be read.
        pixels: (K + 1,) int64: pixels of each class, then void; None where the labels cannot be read.
        segments: (K,) int64: panoptic segments, or instances, of each class, or None.
        crowds: (K,) int64: crowds among these, or None.
        empty: number of segments without a pixel.
        stored: what the semantic label files hold.
        problems: what is wrong.
        digest: hash of the image file's bytes, or "".
        orientation: of its EXIF data, 1 (upright) to 8.
        brightest: the largest value of a channel as the image is read, in 0..255.
    """

    file_name: str
    size: tuple[int, int] | None = None
    pixels: np.ndarray | None = None
    segments: np.ndarray | None = None
    crowds: np.ndarray | None = None
    empty: int = 0
    stored: tuple[StoredLabels, ...] = ()
    problems: tuple[Problem, ...] = ()
    digest: str = ""
    orientation: int = 1
    brightest: int = 0


@dataclass
class SplitReport:
    """The contents of all images of a split.

    Attributes:
        images: number of images.
        sizes: {(width, height): number of images}.
        pixels, segments, crowds, empty, stored: as in `ImageReport`, of all images.
        images_with: (K + 1,) int64: images with each class, then with void.
        problems: {kind: its problems}.
        files_of: {digest: images with these bytes}.
        orientations: {EXIF orientation other than upright: the images}.
        brightest: as in `ImageReport`, of all images.
    """

    num_classes: int
    images: int = 0
    sizes: Counter = field(default_factory=Counter)
    pixels: np.ndarray = field(init=False)
    segments: np.ndarray | None = None
    crowds: np.ndarray | None = None
    empty: int = 0
    stored: StoredSummary = field(default_factory=StoredSummary)
    images_with: np.ndarray = field(init=False)
    problems: dict[str, list[Problem]] = field(default_factory=lambda: defaultdict(list))
    files_of: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    orientations: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    brightest: int = 0

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.num_classes + 1, dtype=np.int64)
        self.images_with = np.zeros(self.num_classes + 1, dtype=np.int64)

    def add(self, report: ImageReport) -> None:
        self.images += 1
        if report.size is not None:
            self.sizes[report.size] += 1
        if report.pixels is not None:
            self.pixels += report.pixels
            self.images_with += report.pixels > 0
        if report.segments is not None:
            self.segments = report.segments + (0 if self.segments is None else self.segments)
            self.crowds = report.crowds + (0 if self.crowds is None else self.crowds)
        self.empty += report.empty
        for one in report.stored:
            self.stored.add(one)
        for problem in report.problems:
            self.problems[problem.kind].append(problem)
        if report.orientation > 1:
            self.orientations[report.orientation].append(report.file_name)
        self.brightest = max(self.brightest, report.brightest)
        if report.digest:
            self.files_of[report.digest].append(report.file_name)

    @property
    def absent(self) -> list[int]:
        """Return the indices of classes without a pixel."""
        return np.flatnonzero(self.pixels[:-1] == 0).tolist()


def inspect_image(record: Mapping[str, Any], reader: LabelReader, with_digest: bool = False) -> ImageReport:
    """Read one image and its labels; report problems instead of raising them."""
    file_name = record["file_name"]
    try:
        pixels, orientation = load_with_orientation(record)
        height, width = pixels.shape[:2]
        digest = file_digest(file_name) if with_digest else ""
    except (BrokenFileError, OSError) as error:
        kind = UNSUITABLE if isinstance(error, UnsuitableFileError) else UNREADABLE_IMAGE
        return ImageReport(file_name, problems=(Problem(kind, str(error)),))
    except InputError as error:  # a pixel format or value range that needs a key in the YAML
        return ImageReport(file_name, problems=(Problem(UNSUITABLE, str(error)),))
    report = ImageReport(
        file_name, (width, height), digest=digest, orientation=orientation, brightest=int(pixels.max())
    )
    if reader.split in reader.dataset.without_labels:
        return report
    try:
        check_annotated_size(record, (height, width))
    except WrongSizeError as error:
        return report._replace(problems=(Problem(_KINDS[type(error)], str(error)),))
    record = {**record, "height": height, "width": width}
    stored: list[StoredLabels] = []
    reader = copy(reader)
    reader.observe = observer(reader.encoding_of(record), stored)
    try:
        counted, index_map = _count(record, reader)
    except InputError as error:
        problem = Problem(_KINDS.get(type(error), WRONG_LABEL), str(error), getattr(error, "labels", ()))
        return report._replace(stored=tuple(stored), problems=(problem,))
    problems = [Problem(WRONG_GEOMETRY, line) for line in wrong_geometry(record, reader, index_map)]
    if not counted["pixels"][:-1].any():
        problems.append(Problem(ALL_VOID, f"{file_name}: all of its pixels are void"))
    return report._replace(**counted, stored=tuple(stored), problems=tuple(problems))


def _count(record: Mapping[str, Any], reader: LabelReader) -> tuple[dict[str, Any], IndexMap | None]:
    """Count the labels of an image.

    Returns:
        `pixels`, and for labels with segments also `segments`, `crowds` and `empty`, see `ImageReport`; and
        the segments, or None.

    Raises:
        InputError: the labels cannot be read.
    """
    num_classes, counts, index_map = len(reader.is_thing), {}, None
    if "pan_seg_file_name" in record or "annotations" in record or reader.encodes_instances(record):
        index_map = reader.load_index_map(record)
        classes, is_crowd = index_map.segments
        counts["segments"] = np.bincount(classes, minlength=num_classes)
        counts["crowds"] = np.bincount(classes[is_crowd], minlength=num_classes)
        if index_map.members is not None:
            counts["empty"] = int(np.count_nonzero(~index_map.members.any(axis=0)))
        labels = reader.class_map(index_map)
        if "pan_seg_file_name" in record and "sem_seg_file_name" in record:
            reader.load_sem_seg(record)
        if "annotations" in record and reader.dataset.background is not None:
            labels = reader.load_sem_seg(record)
    else:
        labels = reader.load_sem_seg(record)
    pixels = count_values(labels)
    return {"pixels": np.append(pixels[:num_classes], pixels[reader.ignore_label]), **counts}, index_map


def file_digest(file_name: str) -> str:
    """Return a hash of a file's bytes."""
    return hashlib.blake2b(Path(file_name).read_bytes(), digest_size=16).hexdigest()


def shared_images(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    digests: tuple[Mapping[str, Sequence[str]], Mapping[str, Sequence[str]]] = ({}, {}),
) -> list[tuple[str, str]]:
    """Return the images that two splits share: the same file, or files with equal bytes.

    Equal names alone say nothing: many datasets number the images of each split from 1.

    Args:
        first, second: the splits' dataset dicts.
        digests: {digest: files} of both, where the files were hashed.

    Returns:
        (file of the first, file of the second) of each, sorted.
    """
    files = {str(record["image_id"]): record["file_name"] for record in first}
    pairs = set()
    for record in second:
        file_name, other = record["file_name"], files.get(str(record["image_id"]))
        if other is not None and (other == file_name or _same_bytes(other, file_name)):
            pairs.add((other, file_name))
    known = {file_name for _, file_name in pairs}
    for digest in digests[0].keys() & digests[1].keys():
        others = (file_name for file_name in digests[1][digest] if file_name not in known)
        pairs.update((digests[0][digest][0], file_name) for file_name in others)
    return sorted(pairs)


def _same_bytes(first: str, second: str) -> bool:
    one, other = Path(first), Path(second)
    try:
        return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
    except OSError:
        return False


def unknown_labels(problems: Iterable[Problem]) -> dict[Any, int]:
    """Return {value or color that is no class: number of files with it}, the most frequent first."""
    return dict(Counter(label for problem in problems for label in problem.labels).most_common())
