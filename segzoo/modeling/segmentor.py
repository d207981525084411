"""The contract of a model, and the part of every model that does not depend on its method.

Shape shorthand: N images, K classes, H W size of an image, h w size of a network's output.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from torch import Tensor, nn

from segzoo.layers.resize import resize
from segzoo.layers.runtime import transferred
from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS

from .batch import Batch, DenseScores, Size, Sizes, size_of
from .registry import registered

SEMANTIC_RESULTS = ("scores", "labels")


class SegmentationModel(nn.Module):
    """What is called as `Segmentor.forward` says: a `Segmentor`, or one under a test protocol.

    Attributes:
        input_format: "RGB" or "BGR", the channel order that it expects.
        semantic_resizing: see `Segmentor`.
    """

    semantic_resizing: str | None = None
    input_format: str


class Segmentor(SegmentationModel):
    """Base class of every model: normalizes, pads and batches images, and calls what a family defines.

    **What a family defines** (`PerPixelSegmentor` and `MaskFormer` are the examples to read):

    - `network(batch)`: the padded batch to raw outputs by name. Everything with parameters runs here.
    - `prepare_targets(batch)`: the mapper's dicts to targets on the device, in any form. In training
      `network` finds them in `batch.targets`, for methods that sample or match inside (proposals, query
      filters); they are made once, when they are first asked for.
    - `losses(outputs, targets)`: weighted scalar losses by name, summed by the trainer.
    - `postprocess(outputs, sizes, tasks=, semantic=)`: the results of the tasks asked for, one dict an image.
    - `supported_tasks`, and in `from_config` its own arguments beside those of `Segmentor.from_config`.

    The defaults of the following hold for most families:

    - `padded_size` and `pad`: a multiple of `size_divisibility`, zeros after normalization. A method that
      needs a fixed canvas overrides both.
    - `set_progress(iteration, max_iter)`: called before every training iteration, resumed runs included; for
      schedules inside the network such as mask annealing. It calls the method of the same name of every
      submodule that defines one (backbone, head, decoder, criterion, term of the loss, ...), so a part may
      have a schedule of its own; a family that overrides it calls `super()`. What is kept of it goes into a
      buffer with `persistent=False`, filled in place (then `torch.compile` does not recompile). Evaluation
      and export do not depend on it: in eval mode the network behaves as after the last iteration.
    - `batch_outputs`: the tensors among the outputs of `network`, for export and compilation.
    - `dense_scores`: the class scores that test protocols average, taken from `postprocess`.

    **What callers may use**, and nothing else: calling the model, `raw_outputs`, `batch_outputs`,
    `dense_scores`, `score_maps`, `set_progress`, `padded_size`, and the attributes below. What is wanted
    (tasks; scores or labels) is an argument; nobody sets a model's attributes. A model of Detectron2 that
    knows only `forward(batched_inputs)` is brought under the contract by `as_segmentor`.

    **Rules.** A prediction does not depend on what else is in the batch. Images and batches may have any
    size, and images may have no object. Post-processing uses bounded memory. No device is assumed. Names of
    parameters are those of checkpoints; buffers that the configuration determines are not persistent. The
    configuration is read in `from_config` and `build_*` functions only.

    Attributes:
        supported_tasks: of `TASKS`, what `postprocess` can give.
        mapper_targets: what the mapper is to add to the dicts of training images, names of its registry
            TARGETS; INPUT.TARGETS goes before.
        score_kind: "logits" or "probabilities": what `dense_scores` holds. A test protocol applies its
            softmax to logits only.
        coarse_scores: whether `dense_scores` is a map smaller than the image, which test protocols resize in
            bands; False: it has the size of the image.
        semantic_resizing: what is resized to the output size for the task "semantic": "scores" of classes or
            "masks"; None where the family does not say. It is recorded with results.
        backbone: feature extractor, None where the family has none of its own. SOLVER.BACKBONE_MULTIPLIER
            finds it by this name.
        tasks: given where a call does not ask for tasks.
        num_classes: K.
        input_format, size_divisibility: as the constructor's.
        pixel_mean, pixel_std: (3, 1, 1) float buffers.
        device: where images are moved to.
    """

    supported_tasks: Collection[str] = ("semantic",)
    mapper_targets: tuple[str, ...] = ("segments",)
    score_kind = "logits"
    coarse_scores = False

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: nn.Module | None,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        size_divisibility: int = 0,
        tasks: Sequence[str] | None = None,
    ):
        """
        Args:
            backbone: images to feature maps by name, or None.
            num_classes: K.
            pixel_mean, pixel_std: per channel, in the order of `input_format`.
            input_format: "RGB" or "BGR", the channel order that the model expects.
            size_divisibility: after normalization images are padded with zeros to a multiple of this; 0: only
                to the largest of the batch.
            tasks: given where a call does not ask for tasks; None: the first of `supported_tasks`.

        Raises:
            InputError: a task that the family does not support.
        """
        super().__init__()
        self.tasks = tuple(tasks or list(self.supported_tasks)[:1])
        # A subclass whose check needs attributes of its own calls it when they are set.
        Segmentor.check_tasks(self, self.tasks)
        self.num_classes = num_classes
        self.backbone = backbone
        self.input_format = input_format
        self.size_divisibility = size_divisibility
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        """Build the arguments that all families share, the backbone among them; a family adds its own.

        Raises:
            InputError: the family does not support TASK, and TEST.TASKS names no other.
        """
        tasks = tuple(cfg.TEST.TASKS) or (cfg.TASK,)
        if tasks == (cfg.TASK,) and cfg.TASK in TASKS and cfg.TASK not in cls.supported_tasks:
            gives, classes = list(cls.supported_tasks), TASKS[cfg.TASK].classes
            fitting = next((task for task in gives if TASKS[task].classes == classes), gives[0])
            raise InputError(
                f"TASK {cfg.TASK}: {cls.__name__} is trained for it, but gives {', '.join(gives)} only; say "
                f"which of these results are asked for: TEST.TASKS \"('{fitting}',)\""
            )
        registered(BACKBONE_REGISTRY, "MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME)
        return {
            "backbone": build_backbone(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "tasks": tasks,
        }

    # What a family defines.

    def network(self, batch: Batch) -> dict[str, Any]:
        """Run the network.

        Returns:
            Outputs by name: what `losses` needs in training, what `postprocess` needs in eval mode.
        """
        raise NotImplementedError

    def prepare_targets(self, batch: Batch) -> Any:
        """Bring the mapper's targets in `batch.inputs` to the device, padded like the images."""
        raise NotImplementedError

    def losses(self, outputs: dict[str, Any], targets: Any) -> dict[str, Tensor]:
        """Compute weighted scalar losses by name from the outputs of `network` in training."""
        raise NotImplementedError

    def postprocess(
        self, outputs: dict[str, Any], sizes: Sequence[Sizes], *, tasks: Sequence[str], semantic: str
    ) -> list[dict[str, Any]]:
        """Make results of the outputs of `network` in eval mode.

        Args:
            outputs: of N images.
            sizes: N.
            tasks, semantic: as for `forward`, checked.

        Returns:
            N dicts, as `forward` returns them.
        """
        raise NotImplementedError

    def set_progress(self, iteration: int, max_iter: int) -> None:
        """Take note of the next training iteration, counted from 0 over all runs, and of their number.

        Every submodule whose class defines `set_progress` is told, once.
        """
        told: set[nn.Module] = set()
        left = list(self.children())
        while left:
            module = left.pop()
            if module in told:
                continue
            told.add(module)
            # Of the class: wrappers such as that of torch.compile pass on what they wrap.
            if hasattr(type(module), "set_progress"):
                module.set_progress(iteration, max_iter)
            if isinstance(module, Segmentor):
                told.update(module.modules())  # by that model
            else:
                left.extend(module.children())

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise InputError unless the model can give all of these tasks."""
        for task in tasks:
            if task not in TASKS:
                raise InputError(f"task {task!r}: expected some of {', '.join(TASKS)}")
            if task not in self.supported_tasks:
                raise InputError(
                    f"task {task!r}: {type(self).__name__} gives {', '.join(self.supported_tasks)} only"
                )

    def padded_size(self, size: Size) -> Size:
        """Return (height, width) to which an image of this size is padded where it runs alone."""
        multiple = max(self.size_divisibility, 1)
        height, width = size
        return height + -height % multiple, width + -width % multiple

    def pad(self, images: Sequence[Tensor], value: float = 0) -> Tensor:
        """Pad normalized images, or labels, to the largest padded size among them.

        Args:
            images: (..., h, w) each.
            value: of the rows and columns that are added below and on the right.
        """
        sizes = [size_of(image) for image in images]
        height, width = (max(sides) for sides in zip(*map(self.padded_size, sizes), strict=True))
        padded = [
            F.pad(image, (0, width - w, 0, height - h), value=value)
            for image, (h, w) in zip(images, sizes, strict=True)
        ]
        return padded[0][None] if len(padded) == 1 else torch.stack(padded)

    # What callers use.

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict], *, tasks: Sequence[str] | None = None, semantic: str = "scores"
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Compute losses in training mode, predictions in eval mode.

        Args:
            batched_inputs: one dict per image:
                image: (3, H, W) uint8 or float in [0, 255], any size, channels ordered as `input_format`.
                height, width: size wanted for the predictions; the image's own where missing.
                In training, what `prepare_targets` of the family names.
            tasks: in eval mode, the results wanted; None: those of the attribute.
            semantic: in eval mode, "scores" of every class, or "labels", the class of largest score only,
                which takes far less memory.

        Returns:
            In training: weighted scalar losses by name.
            In eval mode: for each image a dict with the results of `tasks`, at the size wanted:
                sem_seg: (K, H, W) float scores; or sem_seg_labels: (H, W) integer classes in [0, K)
                panoptic_seg: ((H, W) int32 segment ids, 0 for none; list of segments_info)
                instances: Detectron2's Instances
                entity_seg: ((H, W) int32 entity ids, 0 for none; list of entities)
            Images run together only where they are padded to the same size, so that a prediction does not
            depend on what else is in the batch.

        Raises:
            InputError: a task that the model does not give, or an unknown value of `semantic`.
        """
        images = [self._normalized(inputs["image"]) for inputs in batched_inputs]
        if self.training:
            batch = self._batch(images, self.tasks, batched_inputs, prepare_targets=self.prepare_targets)
            outputs = self.network(batch)
            return self.losses(outputs, batch.targets)

        tasks = self.tasks if tasks is None else tuple(tasks)
        self.check_tasks(tasks)
        check_semantic(semantic)
        groups = defaultdict(list)
        for index, image in enumerate(images):
            groups[self.padded_size(size_of(image))].append(index)
        results: list[dict[str, Any]] = [{}] * len(images)
        for indices in groups.values():
            group = [batched_inputs[index] for index in indices]
            batch = self._batch([images[index] for index in indices], tasks, group)
            sizes = [
                Sizes(batch.padded_size, size, (inputs.get("height", size[0]), inputs.get("width", size[1])))
                for inputs, size in zip(group, batch.image_sizes, strict=True)
            ]
            found = self.postprocess(self.network(batch), sizes, tasks=tasks, semantic=semantic)
            for index, result in zip(indices, found, strict=True):
                results[index] = result
        return results

    def raw_outputs(self, batched_inputs: list[dict]) -> dict[str, Any]:
        """Return the outputs of `network` before post-processing. The model has to be in eval mode.

        Args:
            batched_inputs: as for `forward`; smaller images are padded to the largest.
        """
        images = [self._normalized(inputs["image"]) for inputs in batched_inputs]
        return self.network(self._batch(images, self.tasks, batched_inputs))

    def batch_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Return the raw outputs of images of one size, tensors only: the part to export or compile.

        Args:
            images: (N, 3, H, W) float in [0, 255], channels ordered as `input_format`.
        """
        outputs = self.network(self._batch(self._normalized(images).unbind(), self.tasks))
        return {name: output for name, output in outputs.items() if isinstance(output, Tensor)}

    def dense_scores(self, images: Tensor) -> DenseScores:
        """Return semantic scores of images of one size. The model has to be in eval mode.

        A family whose scores are a small map, resized, returns that map and sets `coarse_scores`.

        Args:
            images: (N, 3, H, W) float in [0, 255], channels ordered as `input_format`.
        """
        tasks, size = ("semantic",), size_of(images)
        batch = self._batch(self._normalized(images).unbind(), tasks)
        sizes = [Sizes(batch.padded_size, size, size)] * len(images)
        results = self.postprocess(self.network(batch), sizes, tasks=tasks, semantic="scores")
        return DenseScores(torch.stack([result["sem_seg"] for result in results]), size, False)

    def score_maps(self, images: Tensor) -> Tensor:
        """Return `dense_scores` at the size of the images: (N, 3, H, W) -> (N, K, H, W) float32."""
        scores, size, align_corners = self.dense_scores(images)
        height, width = images.shape[-2:]
        return resize(scores.float(), size, align_corners)[..., :height, :width]

    def _normalized(self, image: Tensor) -> Tensor:
        return (transferred(image, self.device) - self.pixel_mean) / self.pixel_std

    def _batch(
        self, images: Sequence[Tensor], tasks: Sequence[str], inputs: Sequence[dict] = (), **targets: Any
    ) -> Batch:
        return Batch(self.pad(images), [size_of(image) for image in images], tasks, inputs, **targets)


def check_semantic(semantic: str) -> None:
    """Raise InputError unless `semantic` says what to give for the task "semantic"."""
    if semantic not in SEMANTIC_RESULTS:
        raise InputError(f"semantic={semantic!r}: expected {' or '.join(map(repr, SEMANTIC_RESULTS))}")
