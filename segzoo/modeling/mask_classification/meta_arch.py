"""The meta-architecture of mask classification, shared by MaskFormer, Mask2Former and their like.

Shape shorthand: N images, Q queries, K classes, H W size of an image, h w size of the mask logits (a quarter
of the padded image).
"""

from collections.abc import Sequence
from typing import Any

from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_sem_seg_head
from torch import Tensor, nn

from segzoo.layers.conv import fast_layout
from segzoo.utils.dataset_names import classes_dataset
from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS

from ..losses import joined
from ..registry import registered
from ..segmentor import Batch, Segmentor, Sizes
from . import postprocess
from .criterion import SegmentTargets, build_criterion, targets_from_inputs


@META_ARCH_REGISTRY.register()
class MaskFormer(Segmentor):
    """Predicts a set of masks, each with one class, and turns it into what each task asks for."""

    supported_tasks = ("semantic", "panoptic", "instance", "entity")
    score_kind = "probabilities"

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        criterion: nn.Module,
        size_divisibility: int = 32,
        semantic_resizing: str = "scores",
        is_thing: Sequence[bool] = (),
        object_mask_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
        confident_pixels_only: bool = False,
        entity_score_threshold: float = 0.0,
        detections_per_image: int = 100,
        **shared: Any,
    ):
        """
        Args:
            backbone: images to feature maps by name.
            sem_seg_head: feature maps to classes and masks, see `MaskFormerHead`.
            criterion: outputs of the head and targets to a dict of weighted losses.
            size_divisibility: see `Segmentor`.
            semantic_resizing: semantic: what is resized to the size of the result, the "scores" of the
                classes or the "masks" that make them.
            is_thing: K flags, whether a class has instances; needed for the task "panoptic". The task
                "instance" keeps such classes only, or all where there are no flags.
            object_mask_threshold: panoptic: queries of a lower score are dropped.
            overlap_threshold: panoptic: segments that keep a smaller share of their mask are dropped.
            confident_pixels_only: panoptic: of the pixels it won, a segment takes those where the probability
                of its mask is at least one half.
            entity_score_threshold: entity: queries of a lower score are dropped.
            detections_per_image: instance and entity: how many are kept at most.
            shared: num_classes (without "no object"), pixel_mean, pixel_std, input_format, tasks, see
                `Segmentor`.

        Raises:
            InputError: unknown task or `semantic_resizing`, or `is_thing` does not fit `num_classes`.
        """
        if semantic_resizing not in ("scores", "masks"):
            raise InputError(f"semantic_resizing {semantic_resizing!r}: expected 'scores' or 'masks'")
        super().__init__(backbone=backbone, size_divisibility=size_divisibility, **shared)
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.semantic_resizing = semantic_resizing
        self.is_thing = tuple(is_thing)
        self.object_mask_threshold = object_mask_threshold
        self.overlap_threshold = overlap_threshold
        self.confident_pixels_only = confident_pixels_only
        self.entity_score_threshold = entity_score_threshold
        self.detections_per_image = detections_per_image
        self.check_tasks(self.tasks)

    @classmethod
    def from_config(cls, cfg) -> dict:
        registered(SEM_SEG_HEADS_REGISTRY, "MODEL.SEM_SEG_HEAD.NAME", cfg.MODEL.SEM_SEG_HEAD.NAME)
        shared = super().from_config(cfg)
        node = cfg.MODEL.MASK_FORMER
        return {
            **shared,
            "sem_seg_head": build_sem_seg_head(cfg, shared["backbone"].output_shape()),
            "criterion": build_criterion(cfg),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "size_divisibility": node.SIZE_DIVISIBILITY,
            # As the published models were evaluated: scores of those for semantic segmentation only.
            "semantic_resizing": node.TEST.SEMANTIC_RESIZING
            or ("scores" if cfg.TASK == "semantic" else "masks"),
            "is_thing": build_thing_flags(cfg),
            "object_mask_threshold": node.TEST.OBJECT_MASK_THRESHOLD,
            "overlap_threshold": node.TEST.OVERLAP_THRESHOLD,
            "confident_pixels_only": node.TEST.CONFIDENT_PIXELS_ONLY,
            "entity_score_threshold": cfg.TEST.ENTITY_SCORE_THRESHOLD,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def check_tasks(self, tasks: Sequence[str]) -> None:
        super().check_tasks(tasks)
        if "panoptic" in tasks and len(self.is_thing) != self.num_classes:
            raise InputError(
                f"task panoptic: {len(self.is_thing)} thing/stuff flags for {self.num_classes} classes; "
                "take the classes from a dataset that has `isthing` (DATASETS.CLASSES_FROM)"
            )

    def network(self, batch: Batch) -> dict[str, Any]:
        """Return the outputs of `MaskFormerHead`."""
        features = self.backbone(fast_layout(batch.images))
        if getattr(self.sem_seg_head, "wants", ()):
            return self.sem_seg_head(features, batch)
        return self.sem_seg_head(features)

    def prepare_targets(self, batch: Batch) -> list[SegmentTargets]:
        """Bring segment_map (or segment_masks) and segment_classes over; see `targets_from_inputs`."""
        return targets_from_inputs(batch.inputs, batch.padded_size, self.device)

    def losses(self, outputs: dict[str, Any], targets: list[SegmentTargets]) -> dict[str, Tensor]:
        return joined((self.criterion(outputs, targets), outputs.get("losses", {})))

    def postprocess(
        self, outputs: dict[str, Any], sizes: Sequence[Sizes], *, tasks: Sequence[str], semantic: str
    ) -> list[dict[str, Any]]:
        predictions = zip(outputs["pred_logits"], outputs["pred_masks"], sizes, strict=True)
        return [
            self._results(logits.float(), masks.float(), one, tasks, semantic)
            for logits, masks, one in predictions
        ]

    def _results(
        self, logits: Tensor, masks: Tensor, sizes: Sizes, tasks: Sequence[str], semantic: str
    ) -> dict[str, Any]:
        """(Q, K + 1) logits and (Q, h, w) mask logits of one image to its results."""
        results: dict[str, Any] = {}
        if "semantic" in tasks:
            name, function = {
                "scores": ("sem_seg", postprocess.semantic_scores),
                "labels": ("sem_seg_labels", postprocess.semantic_labels),
            }[semantic]
            results[name] = function(logits, masks, *sizes, resize_scores=self.semantic_resizing == "scores")
        if "panoptic" in tasks:
            results["panoptic_seg"] = postprocess.panoptic(
                logits,
                masks,
                *sizes,
                is_thing=self.is_thing,
                object_mask_threshold=self.object_mask_threshold,
                overlap_threshold=self.overlap_threshold,
                confident_pixels_only=self.confident_pixels_only,
            )
        if "instance" in tasks:
            results["instances"] = postprocess.instances(
                logits,
                masks,
                *sizes,
                is_thing=self.is_thing or None,
                max_instances=self.detections_per_image,
            )
        if "entity" in tasks:
            results["entity_seg"] = postprocess.entities(
                logits,
                masks,
                *sizes,
                score_threshold=self.entity_score_threshold,
                max_entities=self.detections_per_image,
            )
        return results


def build_thing_flags(cfg) -> tuple[bool, ...]:
    """Which of the model's classes are things; () where its classes are not those of the dataset."""
    name = classes_dataset(cfg)
    if not name or TASKS[cfg.TASK].classes != "all":
        return ()
    return tuple(MetadataCatalog.get(name).get("isthing", ()))
