"""What goes through a model: a batch of images, their sizes, and class scores before the last resize.

Shape shorthand: N images, K classes, H W size of a padded image, h w size of a map of scores.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

Size = tuple[int, int]


class Sizes(NamedTuple):
    """(height, width) of an image on its way through a model.

    Attributes:
        padded: of the network's input, in whose upper left corner the image is.
        image: of the image as it was given to the model.
        output: wanted for the result.
    """

    padded: Size
    image: Size
    output: Size


class Batch:
    """Images that run together, and what is known of them.

    Attributes:
        images: (N, 3, H, W) float, normalized and padded: what the backbone receives.
        image_sizes: N pairs (height, width) of the images without padding.
        tasks: the results asked for; in training, those of the model.
        inputs: the mapper's dict of each image, with whatever a mapper adds to it; () where images come
            without (export, windows of a test protocol).
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
        """The ground truth as `Segmentor.prepare_targets` gives it; None outside of training."""
        return None if self._prepare_targets is None else self._prepare_targets(self)


class DenseScores(NamedTuple):
    """Class scores of a batch before the last resize.

    Attributes:
        scores: (N, K, h, w) float.
        size: (height, width) to which the scores are resized, bilinearly, before they are cut to the image.
        align_corners: of that resize.
    """

    scores: Tensor
    size: Size
    align_corners: bool


def size_of(image: Tensor) -> Size:
    """Return (height, width) of (..., H, W)."""
    height, width = image.shape[-2:]
    return height, width
