"""Models that know nothing of segzoo under its contract."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS

from .labels import best_class
from .segmentor import DenseScores, SegmentationModel, Segmentor, check_semantic

# The names of results in Detectron2's dicts, by task.
_NAMES = {
    "semantic": ("sem_seg", "sem_seg_labels"),
    "panoptic": ("panoptic_seg",),
    "instance": ("instances",),
    "entity": ("entity_seg",),
}


def as_segmentor(
    model: nn.Module,
    *,
    input_format: str | None = None,
    num_classes: int | None = None,
    pixel_mean: Sequence[float] | None = None,
) -> Segmentor:
    """Return the model itself where it is a `Segmentor`, otherwise a `PlainModel` around it.

    Args:
        model: a meta-architecture.
        input_format, num_classes, pixel_mean: of a model that is not a Segmentor, where it does not say.
    """
    if isinstance(model, Segmentor):
        return model
    return PlainModel(model, input_format=input_format, num_classes=num_classes, pixel_mean=pixel_mean)


def as_segmentation_model(model: nn.Module, **options: Any) -> SegmentationModel:
    """Do as `as_segmentor` does, and leave models under a test protocol as they are."""
    return model if isinstance(model, SegmentationModel) else as_segmentor(model, **options)


class PlainModel(Segmentor):
    """A model with Detectron2's interface: losses in training, a list of result dicts in eval mode.

    The attributes that Detectron2's meta-architectures have (`input_format`, `num_classes`, `pixel_mean`) are
    read from the model where it has them. The results of the tasks asked for are kept of what it returns, and
    labels are made of its scores. `raw_outputs` and what uses it (export, counting operations) need a method
    of that name.
    """

    supported_tasks = TASKS

    def __init__(
        self,
        model: nn.Module,
        *,
        input_format: str | None = None,
        num_classes: int | None = None,
        pixel_mean: Sequence[float] | None = None,
    ):
        """
        Args:
            model: `forward(batched_inputs)` as Detectron2 has it.
            input_format: "RGB" (the default) or "BGR".
            num_classes: K; 1 where nothing is known, it only decides how many windows run together.
            pixel_mean: per channel, with which a test protocol pads; default: 0.
        """
        super().__init__(
            backbone=None,
            num_classes=getattr(model, "num_classes", num_classes or 1),
            pixel_mean=[0.0] * 3 if pixel_mean is None else pixel_mean,
            pixel_std=[1.0] * 3,
            input_format=getattr(model, "input_format", input_format or "RGB"),
        )
        self.model = model
        if isinstance(mean := getattr(model, "pixel_mean", None), Tensor):
            # Its values are not read: the model may be on the meta device.
            self.pixel_mean = mean.detach().view(-1, 1, 1)

    @property
    def device(self) -> torch.device:
        tensor = next(self.model.parameters(), next(self.model.buffers(), None))
        return torch.device("cpu") if tensor is None else tensor.device

    def forward(
        self, batched_inputs: list[dict], *, tasks: Sequence[str] | None = None, semantic: str = "scores"
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        check_semantic(semantic)
        results = self.model(batched_inputs)
        if self.model.training:
            return results
        if tasks is not None:
            results = [self._asked_for(result, tasks) for result in results]
        return results if semantic == "scores" else [_with_labels(result) for result in results]

    def _asked_for(self, result: dict[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
        """Keep what belongs to the tasks; raises InputError where one has no result."""
        self.check_tasks(tasks)
        kept = {}
        for task in tasks:
            found = {name: value for name, value in result.items() if name in _NAMES.get(task, result)}
            if not found:
                raise InputError(
                    f"task {task!r}: {type(self.model).__name__} gives {', '.join(result)} only; "
                    "ask for what it gives (TEST.TASKS)"
                )
            kept |= found
        return kept

    def raw_outputs(self, batched_inputs: list[dict]) -> dict[str, Any]:
        """Return those of the model; raises InputError where it has no `raw_outputs`."""
        if not callable(getattr(self.model, "raw_outputs", None)):
            raise InputError(
                f"{type(self.model).__name__} has no raw_outputs, so its network cannot be told from its "
                "post-processing; derive it from segzoo.modeling.Segmentor"
            )
        return self.model.raw_outputs(batched_inputs)

    def batch_outputs(self, images: Tensor) -> dict[str, Tensor]:
        outputs = self.raw_outputs([{"image": image} for image in images])
        return {name: output for name, output in outputs.items() if isinstance(output, Tensor)}

    def dense_scores(self, images: Tensor) -> DenseScores:
        """Return `sem_seg` of the model's results."""
        height, width = images.shape[-2:]
        results = self.model([{"image": image, "height": height, "width": width} for image in images])
        if "sem_seg" not in results[0]:
            raise InputError(
                f"{type(self.model).__name__} gives no sem_seg, found {', '.join(results[0])}; use a "
                'semantic model, or TEST.PROTOCOL ""'
            )
        return DenseScores(torch.stack([result["sem_seg"] for result in results]), (height, width), False)


def _with_labels(result: dict[str, Any]) -> dict[str, Any]:
    """The result with the best class of each pixel in the place of scores."""
    if "sem_seg" not in result:
        return result
    others = {name: value for name, value in result.items() if name != "sem_seg"}
    return {**others, "sem_seg_labels": best_class([result["sem_seg"]])}
