"""Mask R-CNN (He et al., ICCV 2017) with C4, dilated C5 or FPN features.

Shape shorthand: N images, K classes, P proposals and D detections of an image, m side of a predicted mask.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_proposal_generator
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from torch import Tensor, nn

from segzoo.layers.conv import tensor_core_layout
from segzoo.modeling.batch import Size
from segzoo.modeling.detection.checks import check_names, find_feature_maps
from segzoo.modeling.detection.counting import run_largest
from segzoo.modeling.detection.paste import paste_masks
from segzoo.modeling.detection.roi_heads import build_roi_heads
from segzoo.modeling.detection.shared_masks import SharedBitMasks
from segzoo.modeling.detection.storage import event_storage
from segzoo.modeling.lazy_instances import LazyInstances
from segzoo.modeling.necks import build_neck, find_neck
from segzoo.modeling.segmentor import Batch, Segmentor, Sizes
from segzoo.utils.errors import InputError
from segzoo.utils.lazy_masks import LazyMasks

from .gluon_paste import paste_in_pixels


@META_ARCH_REGISTRY.register()
class MaskRCNN(Segmentor):
    """Proposes boxes, then predicts a class, a box and a mask for each.

    Both stages are Detectron2's modules and read Detectron2's keys: MODEL.ANCHOR_GENERATOR, RPN, ROI_HEADS,
    ROI_BOX_HEAD and ROI_MASK_HEAD. The backbone and the neck are segzoo's.
    """

    supported_tasks = ("instance",)
    mapper_targets = ("instances",)
    fixed_shapes = False

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        neck: nn.Module | None = None,
        pasting: str = "detectron2",
        **shared: Any,
    ):
        """
        Args:
            backbone: maps images to feature maps by name.
            proposal_generator: Detectron2's RPN, or a module with its interface.
            roi_heads: Detectron2's ROIHeads.
            neck: maps feature maps to feature maps, or None.
            pasting: how masks become pixels, "detectron2" or "gluoncv".
            shared: num_classes, pixel_mean, pixel_std, input_format, size_divisibility, tasks, see
                `Segmentor`.
        """
        super().__init__(backbone=backbone, **shared)
        self.neck = neck
        self.at_size = _PASTING[pasting]
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads

    @classmethod
    def check_names(cls, cfg) -> None:
        super().check_names(cfg)
        if not cfg.MODEL.MASK_ON:
            raise InputError(
                "MODEL.MASK_ON False: MaskRCNN predicts masks; set it to True, or MODEL.META_ARCHITECTURE "
                "GeneralizedRCNN for Detectron2's detector of boxes"
            )
        find_neck(cfg)
        check_names(cfg)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        shared = super().from_config(cfg)
        neck, shape = build_neck(cfg, shared["backbone"].output_shape())
        find_feature_maps(cfg, shape)
        return {
            **shared,
            "neck": neck,
            "proposal_generator": build_proposal_generator(cfg, shape),
            "roi_heads": build_roi_heads(cfg, shape),
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "pasting": cfg.MODEL.MASK_RCNN.PASTING,
            "size_divisibility": getattr(neck, "size_divisibility", 0) * cfg.MODEL.MASK_RCNN.PAD_TO_STRIDE,
        }

    def network(self, batch: Batch) -> dict[str, Any]:
        """Return weighted losses, or the detections.

        Returns:
            In training: losses, weighted scalars by name.
            In eval mode: detections, N `Instances` at the size of the image in the batch, with `pred_boxes`,
            `scores`, `pred_classes`, and `pred_masks` (D, 1, m, m), probabilities inside the box. On the meta
            device, which has no values to select boxes by, the outputs of `run_largest`.
        """
        features = self.backbone(tensor_core_layout(batch.images))
        if self.neck is not None:
            features = self.neck(features)
        if batch.images.is_meta:
            return run_largest(self.proposal_generator, self.roi_heads, features)
        images = ImageList(batch.images, batch.image_sizes)
        if not self.training:
            proposals, _ = self.proposal_generator(images, features)
            detections, _ = self.roi_heads(images, features, proposals)
            return {"detections": detections}
        with event_storage():
            proposals, losses = self.proposal_generator(images, features, batch.targets)
            _, second_stage = self.roi_heads(images, features, proposals, batch.targets)
        return {"losses": {**second_stage, **losses}}

    def prepare_targets(self, batch: Batch) -> list[Instances]:
        """Return the mapper's `instances`, with `gt_boxes`, `gt_classes` and `gt_masks`.

        Bit masks are `SharedBitMasks`: the second stage selects masks of many samples.

        Raises:
            InputError: an image has none.
        """
        if not all("instances" in inputs for inputs in batch.inputs):
            raise InputError(
                "training images have no instances, which MaskRCNN learns from; add their target to "
                "INPUT.TARGETS: \"('instances',)\""
            )
        targets = [inputs["instances"].to(self.device) for inputs in batch.inputs]
        for one in targets:
            if one.has("gt_masks") and isinstance(one.gt_masks, BitMasks):
                one.gt_masks = SharedBitMasks(one.gt_masks.tensor)
        return targets

    def losses(self, outputs: dict[str, Any], targets: list[Instances]) -> dict[str, Tensor]:
        return outputs["losses"]

    def postprocess(
        self, outputs: dict[str, Any], sizes: Sequence[Sizes], *, tasks: Sequence[str], semantic: str
    ) -> list[dict[str, Any]]:
        """Return the detections at the requested size; their masks are pasted when they are read.

        `instances` are `LazyInstances`: `pred_masks` reads as Detectron2's (D, H, W) bool tensor.
        """
        return [
            {"instances": self.at_size(detections, image_sizes.output)}
            for detections, image_sizes in zip(outputs["detections"], sizes, strict=True)
        ]


def _by_gluoncv(detections: Instances, size: Size) -> LazyInstances:
    """Scale boxes to a size and paste the masks into it, as GluonCV's evaluation does."""
    boxes = Boxes(detections.pred_boxes.tensor.clone())
    boxes.clip(detections.image_size)
    # By the scale of the height, along both axes.
    corners = boxes.tensor / (detections.image_size[0] / size[0])
    result = LazyInstances(size)
    result.pred_boxes = Boxes(corners)
    result.scores, result.pred_classes = detections.scores, detections.pred_classes
    result.pred_masks = LazyMasks(paste_in_pixels, size, detections.pred_masks[:, 0], corners.clone())
    return result


def _by_detectron2(detections: Instances, size: Size) -> LazyInstances:
    """Scale boxes to a size and paste the masks into it, as Detectron2 does; empty boxes are left out."""
    height, width = detections.image_size
    boxes = Boxes(detections.pred_boxes.tensor.clone())
    boxes.scale(size[1] / width, size[0] / height)
    boxes.clip(size)
    kept = boxes.nonempty()
    result = LazyInstances(size)
    result.pred_boxes = boxes[kept]
    result.scores = detections.scores[kept]
    result.pred_classes = detections.pred_classes[kept]
    corners = result.pred_boxes.tensor.clone()
    result.pred_masks = LazyMasks(paste_masks, size, detections.pred_masks[kept, 0], corners)
    return result


# Values of MODEL.MASK_RCNN.PASTING.
_PASTING = {"detectron2": _by_detectron2, "gluoncv": _by_gluoncv}
