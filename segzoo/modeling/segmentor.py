"""The contract of a model, and the part of a model that does not depend on its method.

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
    """A model with the interface of `Segmentor.forward`: a `Segmentor`, or one under a test protocol.

    Attributes:
        input_format: "RGB" or "BGR", the expected channel order.
        semantic_resizing: see `Segmentor`.
    """

    semantic_resizing: str | None = None
    input_format: str


class Segmentor(SegmentationModel):
    """Base class of models: normalizes, pads and batches images, and calls what a family defines.

    **What a family defines** (`PerPixelSegmentor` and `MaskFormer` are the examples to read):

    - `network(batch)`: maps the padded batch to raw outputs by name. Everything with parameters runs here.
    - `prepare_targets(batch)`: moves the targets in the mapper's dicts to the device, in any form. In
      training `network` finds them in `batch.targets`, for methods that sample or match inside (proposals,
      query filters); they are prepared once, at the first access.
    - `losses(outputs, targets)`: weighted scalar losses by name, which the trainer sums.
    - `postprocess(outputs, sizes, tasks=, semantic=)`: the requested results, one dict per image.
    - `supported_tasks`, and in `from_config` its own arguments besides those of `Segmentor.from_config`.

    The defaults of the following suit most families:

    - `exchange(targets)`: starts the collective call for what losses are divided by, before the network.
    - `padded_size` and `pad`: a multiple of `size_divisibility`, zeros after normalization. A method that
      needs a fixed canvas overrides both.
    - `set_progress(iteration, max_iter)`: called before every training iteration, also in resumed runs; for
      schedules inside the network such as mask annealing. It calls the method of the same name of every
      submodule that defines one (backbone, head, decoder, criterion, loss term, ...), so a part may have its
      own schedule; a family that overrides it calls `super()`. Store any state in a buffer with
      `persistent=False`, filled in place (then `torch.compile` does not recompile). Evaluation and export do
      not depend on it: in eval mode the network behaves as after the last iteration.
    - `batch_outputs`: the tensors in the outputs of `network`, for export and compilation.
    - `dense_scores`: the class scores that test protocols average, taken from `postprocess`.

    **What callers may use**, and nothing else: calling the model, `raw_outputs`, `batch_outputs`,
    `dense_scores`, `score_maps`, `set_progress`, `padded_size`, and the attributes below. Tasks, and scores
    or labels, are selected by arguments; callers do not set a model's attributes. `as_segmentor` adapts a
    Detectron2 model that has only `forward(batched_inputs)` to this contract.

    **Rules.** A prediction does not depend on the rest of the batch. Images and batches may have any size,
    and images may have no object. Post-processing uses bounded memory. No device is assumed. Parameter names
    are those of checkpoints; buffers that the configuration determines are not persistent. The configuration
    is read in `from_config` and `build_*` functions only.

    Attributes:
        supported_tasks: the tasks, from `TASKS`, that `postprocess` supports.
        mapper_targets: targets that the mapper adds to the dicts of training images, by name in the registry
            TARGETS; INPUT.TARGETS overrides them.
        score_kind: what `dense_scores` holds, "logits" or "probabilities". A test protocol applies its
            softmax to logits only.
        coarse_scores: whether `dense_scores` is a map smaller than the image, which test protocols resize in
            bands; False: it has the size of the image.
        fixed_shapes: whether the shapes of the raw outputs follow from the size of the image alone, as export
            and compilation need; False for a model that selects boxes between its stages.
        optional_parts: attributes that only some configurations of the family have. Weights in a file for one
            that the model lacks are left out.
        same_input: whether training from a file whose model had other channels, mean or standard deviation is
            refused; False: there is a warning.
        semantic_resizing: what is resized to the output size for the task "semantic": class "scores" or
            "masks"; None if unspecified. It is recorded with results.
        backbone: feature extractor, None for a family without one. SOLVER.BACKBONE_MULTIPLIER finds it by
            this name.
        tasks: default tasks of a call.
        num_classes: K.
        input_format, size_divisibility: the constructor's.
        pixel_mean, pixel_std: (3, 1, 1) float buffers.
        device: the device that images are moved to.
    """

    supported_tasks: Collection[str] = ("semantic",)
    mapper_targets: tuple[str, ...] = ("segments",)
    score_kind = "logits"
    coarse_scores = False
    fixed_shapes = True
    optional_parts: tuple[str, ...] = ()
    same_input = False

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
            backbone: maps images to feature maps by name, or None.
            num_classes: K.
            pixel_mean, pixel_std: per channel, in the order of `input_format`.
            input_format: "RGB" or "BGR", the expected channel order.
            size_divisibility: after normalization images are padded with zeros to a multiple of this; 0: only
                to the largest of the batch.
            tasks: default tasks of a call; None: the first of `supported_tasks`.

        Raises:
            InputError: a task that the family does not support.
        """
        super().__init__()
        self.tasks = tuple(tasks or list(self.supported_tasks)[:1])
        # A subclass whose check needs its own attributes calls it again after setting them.
        Segmentor.check_tasks(self, self.tasks)
        self.num_classes = num_classes
        self.backbone = backbone
        self.input_format = input_format
        self.size_divisibility = size_divisibility
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def check_names(cls, cfg) -> None:
        """Check the names of the registered parts that `from_config` builds; a family adds its own.

        It is called before a run makes a folder, and before anything is built.

        Raises:
            InputError: nothing is registered under one of the names.
        """
        registered(BACKBONE_REGISTRY, "MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        """Build the arguments shared by all families, including the backbone; a family adds its own.

        Raises:
            InputError: the family does not support TASK, and TEST.TASKS names no other task.
        """
        tasks = tuple(cfg.TEST.TASKS) or (cfg.TASK,)
        if tasks == (cfg.TASK,) and cfg.TASK in TASKS and cfg.TASK not in cls.supported_tasks:
            supported, classes = list(cls.supported_tasks), TASKS[cfg.TASK].classes
            fitting = next((task for task in supported if TASKS[task].classes == classes), supported[0])
            raise InputError(
                f"TASK {cfg.TASK}: {cls.__name__} is trained for it, but predicts {', '.join(supported)}; "
                f"select one of them: TEST.TASKS \"('{fitting}',)\""
            )
        cls.check_names(cfg)
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
            Outputs by name: those that `losses` needs in training, or `postprocess` in eval mode.
        """
        raise NotImplementedError

    def prepare_targets(self, batch: Batch) -> Any:
        """Move the mapper's targets in `batch.inputs` to the device, padded like the images."""
        raise NotImplementedError

    def exchange(self, targets: Any) -> Any:
        """Start to exchange with other processes what losses are divided by, where the targets determine it.

        It is called before the network, so that no process waits within a step for a slower network of
        another one. `losses` finds the result as `outputs["exchanged"]`. None: `losses` exchanges by itself.
        """
        return None

    def losses(self, outputs: dict[str, Any], targets: Any) -> dict[str, Tensor]:
        """Compute weighted scalar losses by name from the training outputs of `network`."""
        raise NotImplementedError

    def postprocess(
        self, outputs: dict[str, Any], sizes: Sequence[Sizes], *, tasks: Sequence[str], semantic: str
    ) -> list[dict[str, Any]]:
        """Convert the outputs of `network` in eval mode to results.

        Args:
            outputs: outputs for N images.
            sizes: the sizes of the N images.
            tasks, semantic: as for `forward`, already checked.

        Returns:
            N dicts, as `forward` returns them.
        """
        raise NotImplementedError

    def set_progress(self, iteration: int, max_iter: int) -> None:
        """Set the next training iteration, counted from 0 over all runs, and the total number of iterations.

        The method of every submodule whose class defines `set_progress` is called once.
        """
        notified: set[nn.Module] = {self}
        # A model within this one notifies its own submodules, also those that are shared with this one.
        for module in sorted(self.modules(), key=lambda one: not isinstance(one, Segmentor)):
            if module in notified:
                continue
            # On the class: wrappers such as torch.compile's forward attributes of the wrapped module.
            if hasattr(type(module), "set_progress"):
                module.set_progress(iteration, max_iter)
            notified.update(module.modules() if isinstance(module, Segmentor) else [module])

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise InputError unless the model supports all of these tasks."""
        for task in tasks:
            if task not in TASKS:
                raise InputError(f"task {task!r}: expected some of {', '.join(TASKS)}")
            if task not in self.supported_tasks:
                raise InputError(
                    f"task {task!r}: {type(self).__name__} supports {', '.join(self.supported_tasks)} only"
                )

    def padded_size(self, size: Size) -> Size:
        """Return (height, width) to which a single image of this size is padded."""
        multiple = max(self.size_divisibility, 1)
        height, width = size
        return height + -height % multiple, width + -width % multiple

    def pad(self, images: Sequence[Tensor], value: float = 0) -> Tensor:
        """Pad normalized images, or labels, to the largest padded size among them.

        Args:
            images: (..., h, w) each.
            value: value of the rows and columns added below and on the right.
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
                height, width: size of the predictions, by default the image's own.
                In training, also the entries that `prepare_targets` of the family reads.
            tasks: in eval mode, the requested results; None: those of the attribute `tasks`.
            semantic: in eval mode, "scores" of every class, or "labels", only the class of largest score,
                which takes far less memory.

        Returns:
            In training: weighted scalar losses by name.
            In eval mode: for each image a dict with the results of `tasks`, at the requested size:
                sem_seg: (K, H, W) float scores; or sem_seg_labels: (H, W) integer classes in [0, K)
                panoptic_seg: ((H, W) int32 segment ids, 0 for none; list of segments_info)
                instances: Detectron2's Instances; `LazyInstances` draw the masks when they are read
                entity_seg: ((H, W) int32 entity ids, 0 for none; list of entities)
            Only images that are padded to the same size run together, so that a prediction does not depend on
            the rest of the batch.

        Raises:
            InputError: a task that the model does not support, or an unknown value of `semantic`.
        """
        images = [self._normalized(inputs["image"]) for inputs in batched_inputs]
        if self.training:
            batch = self._batch(images, self.tasks, batched_inputs, prepare_targets=self.prepare_targets)
            # First, so that their copies do not wait for a network that is queued before them.
            targets = batch.targets
            exchanged = self.exchange(targets)
            outputs = self.network(batch)
            return self.losses(outputs if exchanged is None else {**outputs, "exchanged": exchanged}, targets)

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
            batch_results = self.postprocess(self.network(batch), sizes, tasks=tasks, semantic=semantic)
            for index, result in zip(indices, batch_results, strict=True):
                results[index] = result
        return results

    def raw_outputs(self, batched_inputs: list[dict]) -> dict[str, Any]:
        """Return the outputs of `network` before post-processing. The model must be in eval mode.

        Args:
            batched_inputs: as for `forward`; smaller images are padded to the largest.
        """
        images = [self._normalized(inputs["image"]) for inputs in batched_inputs]
        return self.network(self._batch(images, self.tasks, batched_inputs))

    def batch_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Return the raw outputs, tensors only, of images of one size: the part to export or compile.

        Args:
            images: (N, 3, H, W) float in [0, 255], channels ordered as `input_format`.
        """
        outputs = self.network(self._batch(self._normalized(images).unbind(), self.tasks))
        return {name: output for name, output in outputs.items() if isinstance(output, Tensor)}

    def dense_scores(self, images: Tensor) -> DenseScores:
        """Return semantic scores of images of one size. The model must be in eval mode.

        A family whose scores are a small map that is resized returns that map and sets `coarse_scores`.

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
        # In place: the image of 2000 x 1500 takes 36 MB as float numbers.
        return (transferred(image, self.device) - self.pixel_mean).div_(self.pixel_std)

    def _batch(
        self, images: Sequence[Tensor], tasks: Sequence[str], inputs: Sequence[dict] = (), **targets: Any
    ) -> Batch:
        return Batch(self.pad(images), [size_of(image) for image in images], tasks, inputs, **targets)


def check_semantic(semantic: str) -> None:
    """Raise InputError unless `semantic` is a known result of the task "semantic"."""
    if semantic not in SEMANTIC_RESULTS:
        raise InputError(f"semantic={semantic!r}: expected {' or '.join(map(repr, SEMANTIC_RESULTS))}")
