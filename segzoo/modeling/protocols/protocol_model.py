"""Base class of test protocols: a semantic model that is tested one image at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segzoo.utils.errors import InputError

from ..segmentor import SegmentationModel, Segmentor, check_semantic


class ProtocolModel(SegmentationModel):
    """A model under a test protocol. A subclass defines `test`.

    Attributes:
        model: supports the task "semantic". Always in eval mode here.
        protocol: has a `name`.
        flip_pairs: classes that are swapped in a flipped image, such as left and right arm.
    """

    def __init__(self, model: Segmentor, protocol: Any, flip_pairs: Sequence[tuple[int, int]] = ()):
        """Raise InputError if the model does not support the task "semantic"."""
        super().__init__()
        model.check_tasks(("semantic",))
        self.model = model
        self.protocol = protocol
        self.flip_pairs = tuple(tuple(pair) for pair in flip_pairs)

    @property
    def input_format(self) -> str:
        return self.model.input_format

    @torch.no_grad()
    def forward(
        self, batched_inputs: list[dict], *, tasks: Sequence[str] | None = None, semantic: str = "scores"
    ) -> list[dict[str, Tensor]]:
        """Test the images one by one.

        Args:
            batched_inputs: one dict per image: `image` (3, H, W) uint8 or float in [0, 255] at its own size;
                `height`, `width` of the result, by default the image's own.
            tasks, semantic: see `Segmentor.forward`.

        Returns:
            For each image {"sem_seg": (K, H, W) float32} or {"sem_seg_labels": (H, W) int16 classes in
            [0, K)}, at the output size.

        Raises:
            InputError: a task other than "semantic" is requested.
        """
        if tasks is not None and tuple(tasks) != ("semantic",):
            raise InputError(
                f"tasks {tuple(tasks)}: the protocol {self.protocol.name} is for the semantic task; expected "
                "('semantic',)"
            )
        check_semantic(semantic)
        name = "sem_seg" if semantic == "scores" else "sem_seg_labels"
        return [{name: self.test(inputs, semantic)} for inputs in batched_inputs]

    def test(self, inputs: dict, semantic: str) -> Tensor:
        """Return the scores or the labels of one image."""
        raise NotImplementedError
