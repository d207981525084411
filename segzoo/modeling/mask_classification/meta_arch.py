"""The meta-architecture of mask classification, shared by MaskFormer, Mask2Former and their like.

Shapes: N images, Q queries, K classes, H W size of an image, h w size of the mask logits (a quarter of the
padded image).
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    build_backbone,
    build_sem_seg_head,
)
from detectron2.structures import ImageList
from torch import nn

from segzoo.layers.conv import fast_layout
from segzoo.layers.runtime import transferred
from segzoo.utils.errors import InputError

from ..registry import registered
from .context import BatchContext, with_head_losses
from .criterion import build_criterion
from .postprocess import inference

TASKS = ("semantic", "panoptic", "instance", "entity")


@META_ARCH_REGISTRY.register()
class MaskFormer(nn.Module):
    """Predicts a set of masks, each with one class, and turns it into what each task asks for."""

    # What `score_maps` returns; a test protocol averages it as it is.
    score_kind = "probabilities"

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        criterion: nn.Module,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        size_divisibility: int = 32,
        tasks: Sequence[str] = ("semantic",),
        is_thing: Sequence[bool] = (),
        object_mask_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
        confident_pixels_only: bool = False,
        entity_score_threshold: float = 0.0,
        detections_per_image: int = 100,
        sem_seg_output: str = "scores",
    ):
        """
        Args:
            backbone: images to feature maps by name.
            sem_seg_head: feature maps to classes and masks, see `MaskFormerHead`.
            criterion: outputs of the head and targets to a dict of weighted losses.
            num_classes: K, without "no object".
            pixel_mean, pixel_std: per channel, in the order of `input_format`.
            input_format: "RGB" or "BGR", the channel order that the model expects.
            size_divisibility: after normalisation images are padded with zeros to a multiple of this; 0: only
                to the largest of the batch.
            tasks: what to return in eval mode, of "semantic", "panoptic", "instance", "entity".
            is_thing: K flags, whether a class has instances; needed for the task "panoptic". The task
                "instance" keeps such classes only, or all where there are no flags.
            object_mask_threshold: panoptic: queries of a lower score are dropped.
            overlap_threshold: panoptic: segments that keep a smaller share of their mask are dropped.
            confident_pixels_only: panoptic: of the pixels it won, a segment takes those where the probability
                of its mask is at least one half.
            entity_score_threshold: entity: queries of a lower score are dropped.
            detections_per_image: instance and entity: how many are kept at most.
            sem_seg_output: semantic: "scores" of every class, or "labels", the best class only, which takes
                far less memory. May be changed later by setting the attribute.

        Raises:
            InputError: unknown task or `sem_seg_output`, or `is_thing` does not fit `num_classes`.
        """
        super().__init__()
        for task in tasks:
            if task not in TASKS:
                raise InputError(f"TEST.TASKS {task!r}: expected some of {', '.join(TASKS)}")
        if sem_seg_output not in ("scores", "labels"):
            raise InputError(f"sem_seg_output {sem_seg_output!r}: expected 'scores' or 'labels'")
        if "panoptic" in tasks and len(is_thing) != num_classes:
            raise InputError(
                f"task panoptic: {len(is_thing)} thing/stuff flags for {num_classes} classes; take the "
                "classes from a dataset that has `isthing` (DATASETS.CLASSES_FROM)"
            )
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.num_classes = num_classes
        self.input_format = input_format
        self.size_divisibility = size_divisibility
        self.tasks = tuple(tasks)
        self.is_thing = tuple(is_thing)
        self.object_mask_threshold = object_mask_threshold
        self.overlap_threshold = overlap_threshold
        self.confident_pixels_only = confident_pixels_only
        self.entity_score_threshold = entity_score_threshold
        self.detections_per_image = detections_per_image
        self.sem_seg_output = sem_seg_output
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg) -> dict:
        registered(BACKBONE_REGISTRY, "MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME)
        registered(SEM_SEG_HEADS_REGISTRY, "MODEL.SEM_SEG_HEAD.NAME", cfg.MODEL.SEM_SEG_HEAD.NAME)
        backbone = build_backbone(cfg)
        node = cfg.MODEL.MASK_FORMER
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "criterion": build_criterion(cfg),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "size_divisibility": node.SIZE_DIVISIBILITY,
            "tasks": tuple(cfg.TEST.TASKS) or (cfg.TASK,),
            "is_thing": build_thing_flags(cfg),
            "object_mask_threshold": node.TEST.OBJECT_MASK_THRESHOLD,
            "overlap_threshold": node.TEST.OVERLAP_THRESHOLD,
            "confident_pixels_only": node.TEST.CONFIDENT_PIXELS_ONLY,
            "entity_score_threshold": cfg.TEST.ENTITY_SCORE_THRESHOLD,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def semantic_resizing(self) -> str:
        """What is stretched to the size of the image: the "scores", or the "masks" that make them.

        Published models that are semantic only were evaluated in the first way, others in the second.
        """
        return "scores" if self.tasks == ("semantic",) else "masks"

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Computes losses in training mode, predictions in eval mode.

        Args:
            batched_inputs: one dict per image:
                image: (3, H, W) uint8 or float in [0, 255], any size, channels ordered as `input_format`.
                height, width: size wanted for the predictions; the image's own where missing.
                segment_map (or segment_masks) and segment_classes: in training, see `targets_from_inputs`.

        Returns:
            In training: weighted scalar losses by name.
            In eval mode: for each image a dict with the results of `tasks`, at the size wanted:
                sem_seg: (K, H, W) float scores, or sem_seg_labels: (H, W) integer classes in [0, K)
                panoptic_seg: ((H, W) int32 segment ids, 0 for none; list of segments_info)
                instances: Detectron2's Instances
                entity_seg: ((H, W) int32 entity ids, 0 for none; list of entities)
            In eval mode a prediction does not depend on what else is in the batch: images run together only
            where they are padded to the same size.
        """
        images = self._normalised(batched_inputs)
        if self.training:
            batch = ImageList.from_tensors(images, self.size_divisibility)
            context = BatchContext(batch.tensor, batch.image_sizes, self.tasks, batched_inputs, training=True)
            outputs = self._outputs(batch.tensor, context)
            return with_head_losses(self.criterion(outputs, context.targets), outputs)

        groups = defaultdict(list)
        for index, image in enumerate(images):
            groups[self._padded_size(image)].append(index)
        results = [{}] * len(images)
        for indices in groups.values():
            batch = ImageList.from_tensors([images[index] for index in indices], self.size_divisibility)
            group = [batched_inputs[index] for index in indices]
            context = BatchContext(batch.tensor, batch.image_sizes, self.tasks, group)
            outputs = self._outputs(batch.tensor, context)
            predictions = zip(indices, outputs["pred_logits"], outputs["pred_masks"], strict=True)
            for index, logits, masks in predictions:
                image_size = tuple(images[index].shape[-2:])
                inputs = batched_inputs[index]
                output_size = (inputs.get("height", image_size[0]), inputs.get("width", image_size[1]))
                sizes = (tuple(batch.tensor.shape[-2:]), image_size, output_size)
                results[index] = self._postprocess(logits.float(), masks.float(), sizes)
        return results

    def raw_outputs(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor]:
        """The predictions of the last layer before post-processing. The model has to be in eval mode.

        Args:
            batched_inputs: as for `forward`; smaller images are padded to the largest.

        Returns:
            pred_logits: (N, Q, K + 1) float, the last class being "no object".
            pred_masks: (N, Q, h, w) float logits over the padded image.
        """
        batch = ImageList.from_tensors(self._normalised(batched_inputs), self.size_divisibility)
        context = BatchContext(batch.tensor, batch.image_sizes, self.tasks, batched_inputs)
        return self._outputs(batch.tensor, context)

    def batch_outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """`raw_outputs` of images of one size, as tensors throughout: the part to export or compile.

        Args:
            images: (N, 3, H, W) float in [0, 255], channels ordered as `input_format`.
        """
        padded_size = self._padded_size(images)
        height, width = images.shape[-2:]
        padding = (0, padded_size[1] - width, 0, padded_size[0] - height)
        batch = nn.functional.pad((images.to(self.device) - self.pixel_mean) / self.pixel_std, padding)
        return self._outputs(batch, BatchContext(batch, tasks=self.tasks))

    def score_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Semantic scores of images of one size, at that size. The model has to be in eval mode.

        Args:
            images: (N, 3, H, W) float in [0, 255], channels ordered as `input_format`.

        Returns:
            (N, K, H, W) float32, >= 0
        """
        outputs = self.batch_outputs(images)
        size = tuple(images.shape[-2:])
        sizes = (self._padded_size(images), size, size)
        scores = [
            inference.semantic_scores(logits.float(), masks.float(), *sizes, resize_scores=True)
            for logits, masks in zip(outputs["pred_logits"], outputs["pred_masks"], strict=True)
        ]
        return torch.stack(scores)

    def _normalised(self, batched_inputs: list[dict]) -> list[torch.Tensor]:
        images = [transferred(inputs["image"], self.device) for inputs in batched_inputs]
        return [(image - self.pixel_mean) / self.pixel_std for image in images]

    def _outputs(self, batch: torch.Tensor, context: BatchContext) -> dict:
        features = self.backbone(fast_layout(batch))
        if getattr(self.sem_seg_head, "wants", ()):
            return self.sem_seg_head(features, context)
        return self.sem_seg_head(features)

    def _padded_size(self, image: torch.Tensor) -> tuple[int, ...]:
        multiple = max(self.size_divisibility, 1)
        return tuple(side + -side % multiple for side in image.shape[-2:])

    def _postprocess(
        self, logits: torch.Tensor, masks: torch.Tensor, sizes: tuple[tuple[int, int], ...]
    ) -> dict:
        """(Q, K + 1) logits and (Q, h, w) mask logits of one image to its result."""
        result = {}
        if "semantic" in self.tasks:
            resize_scores = self.semantic_resizing == "scores"
            if self.sem_seg_output == "labels":
                result["sem_seg_labels"] = inference.semantic_labels(
                    logits, masks, *sizes, resize_scores=resize_scores
                )
            else:
                result["sem_seg"] = inference.semantic_scores(
                    logits, masks, *sizes, resize_scores=resize_scores
                )
        if "panoptic" in self.tasks:
            result["panoptic_seg"] = inference.panoptic(
                logits,
                masks,
                *sizes,
                is_thing=self.is_thing,
                object_mask_threshold=self.object_mask_threshold,
                overlap_threshold=self.overlap_threshold,
                confident_pixels_only=self.confident_pixels_only,
            )
        if "instance" in self.tasks:
            result["instances"] = inference.instances(
                logits,
                masks,
                *sizes,
                is_thing=self.is_thing or None,
                max_instances=self.detections_per_image,
            )
        if "entity" in self.tasks:
            result["entity_seg"] = inference.entities(
                logits,
                masks,
                *sizes,
                score_threshold=self.entity_score_threshold,
                max_entities=self.detections_per_image,
            )
        return result


def build_thing_flags(cfg) -> tuple[bool, ...]:
    """Which of the model's classes are things; () where its classes are not those of the dataset."""
    name = cfg.DATASETS.CLASSES_FROM or next(iter((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)), "")
    if not name or cfg.TASK in ("instance", "entity"):
        return ()
    return tuple(MetadataCatalog.get(name).get("isthing", ()))
