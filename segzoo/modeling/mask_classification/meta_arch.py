"""Meta-architecture of mask classification, shared by MaskFormer, Mask2Former and similar methods.

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
from ..registry import check_names, registered
from ..segmentor import Batch, Segmentor, Sizes
from . import postprocess
from .criterion import SegmentTargets, build_criterion, find_criterion, targets_from_inputs


@META_ARCH_REGISTRY.register()
class MaskFormer(Segmentor):
    """Predicts a set of masks with one class each and converts it to the results of each task."""

    mapper_targets = ("segment_map",)
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
            backbone: maps images to feature maps by name.
            sem_seg_head: maps feature maps to classes and masks, see `MaskFormerHead`.
            criterion: maps outputs of the head and targets to a dict of weighted losses.
            size_divisibility: see `Segmentor`.
            semantic_resizing: semantic: what is resized to the output size, the "scores" of the classes or
                the "masks" that they are computed from.
            is_thing: K flags, whether a class has instances; required for the task "panoptic". The task
                "instance" keeps only such classes, or all classes without flags.
            object_mask_threshold: panoptic: queries with a lower score are dropped.
            overlap_threshold: panoptic: segments that keep a smaller fraction of their mask are dropped.
            confident_pixels_only: panoptic: a segment keeps only those of its pixels where its mask's
                probability is at least one half.
            entity_score_threshold: entity: queries with a lower score are dropped.
            detections_per_image: instance and entity: maximum number of results.
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
    def check_names(cls, cfg) -> None:
        super().check_names(cfg)
        head = registered(SEM_SEG_HEADS_REGISTRY, "MODEL.SEM_SEG_HEAD.NAME", cfg.MODEL.SEM_SEG_HEAD.NAME)
        check_names(head, cfg)
        check_names(find_criterion(cfg), cfg)

    @classmethod
    def from_config(cls, cfg) -> dict:
        shared = super().from_config(cfg)
        node = cfg.MODEL.MASK_FORMER
        return {
            **shared,
            "sem_seg_head": build_sem_seg_head(cfg, shared["backbone"].output_shape()),
            "criterion": build_criterion(cfg),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "size_divisibility": node.SIZE_DIVISIBILITY,
            # The published models were evaluated with "scores" for semantic segmentation only.
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
        """Return the segments of each image as targets; see `targets_from_inputs`."""
        return targets_from_inputs(batch.inputs, batch.padded_size, self.device)

    def exchange(self, targets: list[SegmentTargets]) -> Any:
        """Start to exchange the counts of the criterion, if the head tells its number of queries."""
        exchange = getattr(self.criterion, "exchange", None)
        num_queries = getattr(self.sem_seg_head, "num_queries", None)
        return None if exchange is None or num_queries is None else exchange(targets, num_queries)

    def losses(self, outputs: dict[str, Any], targets: list[SegmentTargets]) -> dict[str, Tensor]:
        return joined((self.criterion(outputs, targets), outputs.get("losses", {})))

    def postprocess(
        self, outputs: dict[str, Any], sizes: Sequence[Sizes], *, tasks: Sequence[str], semantic: str
    ) -> list[dict[str, Any]]:
        predictions = zip(outputs["pred_logits"], outputs["pred_masks"], sizes, strict=True)
        return [
            self._results(logits.float(), masks.float(), image_sizes, tasks, semantic)
            for logits, masks, image_sizes in predictions
        ]

    def _results(
        self, logits: Tensor, masks: Tensor, sizes: Sizes, tasks: Sequence[str], semantic: str
    ) -> dict[str, Any]:
        """Return the results of one image from (Q, K + 1) class logits and (Q, h, w) mask logits."""
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
    """Return which of the model's classes are things; () if its classes are not those of the dataset."""
    name = classes_dataset(cfg)
    if not name or TASKS[cfg.TASK].classes != "all":
        return ()
    return tuple(MetadataCatalog.get(name).get("isthing", ()))
