"""Labels stored as one binary mask per class and image, as in Label Studio and many medical datasets.

The template of `labels` has the field `{class}`: `masks/{stem}-{class}.png`, `masks/{class}/{stem}.png`.

Shape shorthand: H, W pixels; K classes.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from segzoo.utils.errors import InputError
from segzoo.utils.label_png import label_array
from segzoo.utils.text import did_you_mean, some

from .encodings import ENCODINGS, GRAY_16_BIT, VOID, Encoding, LabelSpace
from .label_ops import count_values

# The field of a template that names the class of a file.
CLASS_FIELD = "class"
_SEPARATORS = re.compile(r"[\s_-]+")


class BinaryFilesEncoding(Encoding):
    """A mask per class, whose pixels are all that are not 0. `label_map` maps other names to classes.

    Options: `rest` is the class of pixels in no mask, `void` by default; `order` lists the classes from
    bottom to top, by default as in `classes`; `threshold` is the smallest value inside the mask, for masks of
    more than two values.
    """

    name = "binary_files"
    options = ("rest", "order", "threshold")
    modes = ("L", "P", "1", "LA", "RGB", "RGBA", *GRAY_16_BIT)

    def __init__(self, space: LabelSpace, options: Mapping[str, Any]) -> None:
        super().__init__(space, options)
        rest, order = options.get("rest", VOID), options.get("order", list(space.classes))
        for name in (rest, *(order if isinstance(order, list) else ())):
            if name not in (*space.classes, VOID):
                raise self._fail(f"{name!r} is not a class{did_you_mean(name, space.classes)}")
        if not isinstance(order, list) or len(set(order)) < len(order):
            raise self._fail(f"order is {order!r}; expected a list of classes, each once")
        missing = [name for name in space.classes if name not in (*order, rest)]
        if missing:
            raise self._fail(
                f"order lacks {some(missing)}; list all classes but the rest, from bottom to top"
            )
        self.threshold = options.get("threshold")
        if self.threshold is not None and not isinstance(self.threshold, int | float):
            raise self._fail(f"threshold is {self.threshold!r}; expected a number")
        self.rest = space.ignore_label if rest == VOID else space.classes.index(rest)
        # Masks mapped to void hide what lies below.
        ranked = [*([rest] if rest not in order else []), *order, *([VOID] if VOID not in order else [])]
        indices = [space.ignore_label if name == VOID else space.classes.index(name) for name in ranked]
        self.rank = {index: rank for rank, index in enumerate(indices)}
        self._names = {*space.classes, *(label for label in space.label_map if isinstance(label, str))}
        self.labels = set(self._names)
        self._known = {_plain(label): space.index(label) for label in self._names}

    def class_of(self, text: str) -> int | None:
        """Return the class index (or the ignore label) of a `{class}` in a file name; None if it is unknown.

        Letter case, and spaces, `_` and `-`, are ignored.
        """
        return self._known.get(_plain(text))

    @property
    def pattern(self) -> str:
        """A regular expression for the names that `class_of` recognizes."""
        longest_first = sorted(self._names, key=len, reverse=True)
        words = ([re.escape(word) for word in _SEPARATORS.split(label)] for label in longest_first)
        return "(?i:" + "|".join(r"[\s_-]*".join(parts) for parts in words) + ")"

    def inside(self, image: Image.Image, file_name: str) -> np.ndarray:
        """Return the mask, (H, W) bool.

        Raises:
            InputError: more than two values without a threshold, or a color image.
        """
        pixels = label_array(image.convert("L") if image.mode == "P" else image)
        if pixels.ndim == 3:
            bands = pixels[:, :, : 1 if image.mode == "LA" else 3]
            if (bands != bands[:, :, :1]).any():
                raise InputError(
                    f"{file_name}: is a color image ({image.mode}), expected the mask of one class, black "
                    "and white; if it holds all classes, remove {class} from labels and set encoding: rgb"
                )
            pixels = bands[:, :, 0]
        if pixels.dtype == bool:
            return pixels
        if self.threshold is not None:
            return pixels >= self.threshold
        self._check_values(pixels, file_name)
        return pixels != 0

    def _check_values(self, pixels: np.ndarray, file_name: str) -> None:
        is_small = pixels.dtype == np.uint8
        values = np.flatnonzero(count_values(pixels)) if is_small else np.unique(pixels)
        if np.count_nonzero(values) > 1:
            remedy = self.with_option("threshold", int(values[-1]) // 2 + 1)
            raise InputError(
                f"{file_name}: has the values {some(values, 4)}, expected the mask of one class: 0 and one "
                f"other; set encoding: {remedy} if it has soft edges"
            )

    def compose(self, masks: Iterable[tuple[int, np.ndarray]], size: tuple[int, int]) -> np.ndarray:
        """Return the (H, W) class map: the class of the topmost mask over each pixel, or the rest.

        Args:
            masks: (class index or ignore label, (H, W) bool) of each file.
            size: (H, W).
        """
        labels: np.ndarray = np.full(size, self.rest, dtype=self.space.dtype)
        ranks = np.full(size, -1, dtype=np.int32)
        for index, mask in masks:
            on_top = mask & (ranks < self.rank[index])
            labels[on_top] = index
            ranks[on_top] = self.rank[index]
        return labels


ENCODINGS[BinaryFilesEncoding.name] = BinaryFilesEncoding


def check_names(unknown: Sequence[tuple[str, str]], space: LabelSpace) -> None:
    """Raise InputError for the first of the files, (path, text of {class}), whose classes are unknown."""
    for path, text in unknown[:1]:
        raise InputError(
            f"{path}: {text!r} is neither a class nor in label_map{did_you_mean(text, space.classes)}; in "
            f"{space.source}, add it to classes, or map it: label_map: {{{text}: <class or void>}}"
        )


def _plain(text: str) -> str:
    return _SEPARATORS.sub("", unicodedata.normalize("NFC", text)).casefold()
