"""Adapter that gives models which are no `Segmentor` the contract of one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS

from .labels import best_class
from .segmentor import DenseScores, SegmentationModel, Segmentor, check_semantic

# Names of the results in Detectron2's dicts, by task.
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
    """Return the model itself if it is a `Segmentor`, otherwise a `PlainModel` around it.

    Args:
        model: a meta-architecture.
        input_format, num_classes, pixel_mean: defaults for a model that is not a Segmentor and lacks them.
    """
    if isinstance(model, Segmentor):
        return model
    return PlainModel(model, input_format=input_format, num_classes=num_classes, pixel_mean=pixel_mean)


def as_segmentation_model(model: nn.Module, **options: Any) -> SegmentationModel:
    """Return the model as `as_segmentor` does, but leave a model under a test protocol as it is."""
    return model if isinstance(model, SegmentationModel) else as_segmentor(model, **options)


class PlainModel(Segmentor):
    """A model with Detectron2's interface: losses in training, a list of result dicts in eval mode.

    The attributes of Detectron2's meta-architectures (`input_format`, `num_classes`, `pixel_mean`) are read
    from the model if it has them. The results of the requested tasks are kept, and labels are computed from
    scores. `raw_outputs` and its users (export, counting operations) need a method of that name.
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
            model: a module with Detectron2's `forward(batched_inputs)`.
            input_format: "RGB" (the default) or "BGR".
            num_classes: K; 1 if unknown. It only decides how many windows run together.
            pixel_mean: padding value of test protocols, per channel; default: 0.
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
            results = [self._requested(result, tasks) for result in results]
        return results if semantic == "scores" else [_with_labels(result) for result in results]

    def _requested(self, result: dict[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
        """Return the results of the tasks; raise InputError if a task has none."""
        self.check_tasks(tasks)
        kept = {}
        for task in tasks:
            found = {name: value for name, value in result.items() if name in _NAMES.get(task, result)}
            if not found:
                raise InputError(
                    f"task {task!r}: {type(self.model).__name__} returns only {', '.join(result)}; "
                    "set TEST.TASKS to tasks that it has results for"
                )
            kept |= found
        return kept

    def raw_outputs(self, batched_inputs: list[dict]) -> dict[str, Any]:
        """Return the outputs of the model's `raw_outputs`; raise InputError if it has no such method."""
        if not callable(getattr(self.model, "raw_outputs", None)):
            raise InputError(
                f"{type(self.model).__name__} has no raw_outputs, so its network cannot run without its "
                "post-processing; derive it from segzoo.modeling.Segmentor"
            )
        return self.model.raw_outputs(batched_inputs)

    def batch_outputs(self, images: Tensor) -> dict[str, Tensor]:
        outputs = self.raw_outputs([{"image": image} for image in images])
        return {name: output for name, output in outputs.items() if isinstance(output, Tensor)}

    def dense_scores(self, images: Tensor) -> DenseScores:
        """Return `sem_seg` from the model's results."""
        height, width = images.shape[-2:]
        results = self.model([{"image": image, "height": height, "width": width} for image in images])
        if "sem_seg" not in results[0]:
            raise InputError(
                f"{type(self.model).__name__} returns no sem_seg, found {', '.join(results[0])}; use a "
                'semantic model, or TEST.PROTOCOL ""'
            )
        return DenseScores(torch.stack([result["sem_seg"] for result in results]), (height, width), False)


def _with_labels(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result with the best class of each pixel instead of scores."""
    if "sem_seg" not in result:
        return result
    others = {name: value for name, value in result.items() if name != "sem_seg"}
    return {**others, "sem_seg_labels": best_class([result["sem_seg"]])}
