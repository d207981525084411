"""Data that a model passes on: a batch of images, their sizes, and class scores before the last resize.

Shape shorthand: N images, K classes, H W size of a padded image, h w size of a map of scores.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

Size = tuple[int, int]


class Sizes(NamedTuple):
    """The sizes, (height, width), of an image in a model.

    Attributes:
        padded: size of the network's input, which has the image in its upper left corner.
        image: size of the image that was given to the model.
        output: size of the result.
    """

    padded: Size
    image: Size
    output: Size


class Batch:
    """Images that run together, with their sizes, tasks and inputs.

    Attributes:
        images: (N, 3, H, W) float, normalized and padded: the backbone's input.
        image_sizes: N pairs (height, width) of the images without padding.
        tasks: the requested results; in training, those of the model.
        inputs: the mapper's dict of each image, including anything that a mapper adds; () for images without
            one (export, windows of a test protocol).
    """

    def __init__(
        self,
        images: Tensor,
        image_sizes: Sequence[Size],
        tasks: Sequence[str],
        inputs: Sequence[dict] = (),
        prepare_targets: "Callable[[Batch], Any] | None" = None,
    ):
        self.images = images
        self.image_sizes = list(image_sizes)
        self.tasks = tuple(tasks)
        self.inputs = inputs
        self._prepare_targets = prepare_targets

    @property
    def padded_size(self) -> Size:
        """(H, W)"""
        return size_of(self.images)

    @cached_property
    def targets(self) -> Any:
        """The ground truth from `Segmentor.prepare_targets`; None outside of training."""
        return None if self._prepare_targets is None else self._prepare_targets(self)


class DenseScores(NamedTuple):
    """Class scores of a batch before the last resize.

    Attributes:
        scores: (N, K, h, w) float.
        size: (height, width) to which the scores are resized, bilinearly, before they are cropped to the
            image.
        align_corners: for that resize.
    """

    scores: Tensor
    size: Size
    align_corners: bool


def size_of(image: Tensor) -> Size:
    """Return (height, width) of (..., H, W)."""
    height, width = image.shape[-2:]
    return height, width
