"""EntitySeg: class-agnostic segments that do not overlap (Qi et al., Open-World Entity Segmentation).

Shape shorthand: N images, L locations of all levels of an image, M positive locations of all images, P
parameters of a mask network, h w size of the mask features (an eighth of the padded image).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from segzoo.layers.conv import fast_layout
from segzoo.layers.runtime import without_autocast
from segzoo.modeling import Batch, Segmentor, Sizes
from segzoo.modeling.configured import configurable_by
from segzoo.modeling.mask_classification.criterion import SegmentTargets, targets_from_inputs
from segzoo.modeling.necks import build_neck, find_neck
from segzoo.utils.errors import ArgumentError, InputError
from segzoo.utils.tasks import TASKS

from .assignment import Entities, assign
from .candidates import find_candidates, visible_boxes
from .config import CHANNEL_GROUPS, PATHS
from .detection_losses import detection_losses
from .fcos_head import FCOSHead, KernelHead, Locations, locations
from .mask_branch import MaskBranch
from .mask_losses import bank_losses, overlap_loss, upsampled
from .mask_network import MaskNetwork
from .painting import paint_entities
from .true_masks import have_area, true_masks

# Levels of the mask features.
_MASK_LEVELS = 3
# Factor from the mask logits to the masks, whose stride is half as large.
_UPSAMPLING = 2
# Entities whose mask networks are computed together in inference.
_ENTITIES_AT_ONCE = 8


class Positives(NamedTuple):
    """The positive locations of a batch, image by image.

    Attributes:
        images: (M,) int64 in [0, N).
        positions: (M,) int64 in [0, L).
        segments: (M,) int64, the target segment of the image that each is responsible for.
        distances: (M, 4) float32 to the sides of its box, in strides of its level.
    """

    images: Tensor
    positions: Tensor
    segments: Tensor
    distances: Tensor


@META_ARCH_REGISTRY.register()
class EntitySeg(Segmentor):
    """Predicts entities from the locations of a feature pyramid, each with a mask network of its own."""

    supported_tasks = ("entity",)
    mapper_targets = ("segments", "entities")
    # Published files and segzoo's own have different inputs with the same backbone.
    same_input = True

    strides: Tensor
    ranges: Tensor

    @configurable_by({"neck": "MODEL.FPN.OUT_FEATURES", "size_ranges": "MODEL.ENTITYSEG.SIZE_RANGES"})
    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        num_convs: int = 4,
        kernel_channels: int = 256,
        kernel_num_convs: int = 3,
        mask_channels: int = 128,
        mask_num_convs: int = 4,
        mask_norm: str = "BN",
        size_ranges: Sequence[float] = (64, 128, 256, 512),
        center_radius: float = 1.5,
        path_weights: Mapping[str, float] | None = None,
        overlap_weight: float = 0.5,
        max_masks_per_image: int = 120,
        max_masks: int = 500,
        score_threshold: float = 0.05,
        candidates_per_level: int = 1000,
        nms_threshold: float = 0.6,
        detections_per_image: int = 100,
        mask_rescore: bool = False,
        entity_score_threshold: float = 0.0,
        size_divisibility: int = 32,
        **shared: Any,
    ):
        """
        Args:
            backbone: maps images to feature maps by name.
            neck: maps these to at least three levels of a pyramid, finest first, with strides that double.
            num_convs: convolutions of the towers, see `FCOSHead`.
            kernel_channels, kernel_num_convs: see `KernelHead`.
            mask_channels, mask_num_convs, mask_norm: see `MaskBranch`.
            size_ranges: sizes in pixels between the levels, one number less than there are levels.
            center_radius: see `assign`.
            path_weights: weights of the mask loss by path, see `MaskNetwork`; None: 1 for those that begin
                with 1, else 0.25.
            overlap_weight: weight of the loss that suppresses overlaps.
            max_masks_per_image, max_masks: maximum number of positive locations with masks in training, as a
                mean over the images of a process, and in total.
            score_threshold, candidates_per_level, nms_threshold: see `find_candidates`.
            detections_per_image: maximum number of entities.
            mask_rescore: multiply scores by the mean probability over the visible pixels.
            entity_score_threshold: entities with a lower score are dropped at the end.
            size_divisibility: see `Segmentor`.
            shared: pixel_mean, pixel_std, input_format, tasks, num_classes, see `Segmentor`.

        Raises:
            InputError: the neck has too few levels or other strides, or another number of `size_ranges`.
        """
        super().__init__(backbone=backbone, size_divisibility=size_divisibility, **shared)
        self.neck = neck
        shapes = sorted(neck.output_shape().items(), key=lambda item: item[1].stride)
        self.level_names = tuple(name for name, _ in shapes)
        strides = self.level_strides = tuple(shape.stride for _, shape in shapes)
        doubling = all(2 * fine == coarse for fine, coarse in pairwise(strides))
        if len(shapes) < _MASK_LEVELS or not doubling:
            found = ", ".join(f"{name} {shape.stride}" for name, shape in shapes)
            raise ArgumentError(
                "neck", f": EntitySeg needs three or more levels whose strides double; found {found}"
            )
        if len(size_ranges) != len(shapes) - 1:
            raise ArgumentError(
                "size_ranges",
                f" {tuple(size_ranges)}: expected {len(shapes) - 1} sizes for the {len(shapes)} levels "
                f"{', '.join(self.level_names)}",
            )
        width = shapes[0][1].channels
        if path_weights is None:
            path_weights = dict(zip(PATHS, (1, 1, 1, 1, 0.25, 0.25, 0.25), strict=True))
        self.path_weights = {path: weight for path, weight in path_weights.items() if weight}
        self.mask_network = MaskNetwork(
            scales=[8 * stride for stride in strides], bank=any("0" in path for path in self.path_weights)
        )
        self.fcos_head = FCOSHead(width, len(shapes), num_convs)
        self.kernel_head = KernelHead(
            width, kernel_channels, self.mask_network.num_parameters, kernel_num_convs
        )
        self.mask_branch = MaskBranch(
            width, num_levels=_MASK_LEVELS, channels=mask_channels, num_convs=mask_num_convs, norm=mask_norm
        )
        self.register_buffer("strides", torch.tensor(strides, dtype=torch.float32), persistent=False)
        ends = torch.tensor([-1, *size_ranges, 1e8], dtype=torch.float32)
        self.register_buffer("ranges", torch.stack((ends[:-1], ends[1:]), 1), persistent=False)
        self.center_radius = center_radius
        self.overlap_weight = overlap_weight
        self.max_masks_per_image = max_masks_per_image
        self.max_masks = max_masks
        self.score_threshold = score_threshold
        self.candidates_per_level = candidates_per_level
        self.nms_threshold = nms_threshold
        self.detections_per_image = detections_per_image
        self.mask_rescore = mask_rescore
        self.entity_score_threshold = entity_score_threshold

    @classmethod
    def check_names(cls, cfg) -> None:
        super().check_names(cfg)
        find_neck(cfg)
        if TASKS[cfg.TASK].classes != "one":
            raise InputError(
                f"TASK {cfg.TASK}: EntitySeg has a single class and is trained for entities; set TASK entity"
            )
        channels = cfg.MODEL.FPN.OUT_CHANNELS
        if cfg.MODEL.NECK.NAME == "FPN" and channels % CHANNEL_GROUPS:
            raise InputError(
                f"MODEL.FPN.OUT_CHANNELS {channels}: the heads of EntitySeg have GroupNorm; expected a "
                f"multiple of {CHANNEL_GROUPS}"
            )

    @classmethod
    def from_config(cls, cfg) -> dict:
        shared = super().from_config(cfg)
        node = cfg.MODEL.ENTITYSEG
        return {
            **shared,
            "neck": build_pyramid(cfg, shared["backbone"]),
            "num_convs": node.NUM_CONVS,
            "kernel_channels": node.KERNEL_CONVS_DIM,
            "kernel_num_convs": node.KERNEL_NUM_CONVS,
            "mask_channels": node.MASK_CONVS_DIM,
            "mask_num_convs": node.MASK_NUM_CONVS,
            "mask_norm": node.MASK_NORM,
            "size_ranges": node.SIZE_RANGES,
            "center_radius": node.CENTER_RADIUS,
            "path_weights": dict(node.PATH_WEIGHTS),
            "overlap_weight": node.OVERLAP_WEIGHT,
            "max_masks_per_image": node.MAX_MASKS_PER_IMAGE,
            "max_masks": node.MAX_MASKS,
            "score_threshold": node.TEST.SCORE_THRESHOLD,
            "candidates_per_level": node.TEST.CANDIDATES_PER_LEVEL,
            "nms_threshold": node.TEST.NMS_THRESHOLD,
            "mask_rescore": node.TEST.MASK_RESCORE,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "entity_score_threshold": cfg.TEST.ENTITY_SCORE_THRESHOLD,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    def network(self, batch: Batch) -> dict[str, Any]:
        """Return the predictions of all locations, and the features that masks are computed from.

        Returns:
            class_logits, centerness_logits: (N, L) float
            distances: (N, L, 4) float, to the left, top, right and bottom of the box in strides of the level
            kernels: (N, L, P) float, the parameters of each location's mask network
            mask_features: (N, 8, h, w) float
            points: (L, 2) float32 x, y of the locations in pixels
            levels: (L,) int64 index of the level of each location
        """
        features = self.neck(self.backbone(fast_layout(batch.images)))
        pyramid = [features[name] for name in self.level_names]
        predictions, box_features = self.fcos_head(pyramid)
        sizes = [(level.shape[-2], level.shape[-1]) for level in pyramid]
        return {
            **predictions,
            "kernels": self.kernel_head(box_features),
            "mask_features": self.mask_branch(pyramid[:_MASK_LEVELS]),
            **locations(sizes, self.level_strides, self.device)._asdict(),
        }

    def prepare_targets(self, batch: Batch) -> list[SegmentTargets]:
        """Return the segments of each image, with `entity_boxes` and `entity_centers`, see `add_entities`."""
        return targets_from_inputs(batch.inputs, batch.padded_size, self.device)

    def losses(self, outputs: dict[str, Any], targets: list[SegmentTargets]) -> dict[str, Tensor]:
        """Return the losses of scores, boxes and centerness of all locations, and of the sampled masks."""
        with without_autocast(self.device):
            outputs = _in_float32(outputs)
            places = Locations(outputs["points"], outputs["levels"])
            positives = self._positives(places, targets)
            index = positives.images * len(places.points) + positives.positions
            losses = detection_losses(
                outputs["class_logits"].flatten(),
                outputs["centerness_logits"].flatten(),
                outputs["distances"].flatten(0, 1),
                index,
                positives.distances,
            )
            return losses | self._mask_losses(
                outputs, places, self._sampled(positives, len(targets)), targets
            )

    def _positives(self, places: Locations, targets: list[SegmentTargets]) -> Positives:
        found = []
        for image, target in enumerate(targets):
            boxes = target.extras["entity_boxes"]
            (kept,) = have_area(boxes).nonzero(as_tuple=True)
            entities = Entities(boxes[kept], target.extras["entity_centers"][kept], kept)
            positions, segments, distances = assign(
                places, entities, self.strides, self.ranges, self.center_radius
            )
            distances = distances / self.strides[places.levels[positions]][:, None]
            found.append(Positives(torch.full_like(positions, image), positions, segments, distances))
        return Positives(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _sampled(self, positives: Positives, num_images: int) -> Positives:
        """Return a random choice of the positive locations, as many as have masks."""
        for limit in (self.max_masks_per_image * num_images, self.max_masks):
            count = len(positives.images)
            if count > limit:
                chosen = torch.randperm(count, device=positives.images.device)[:limit]
                positives = Positives(*(part[chosen] for part in positives))
        return positives

    def _mask_losses(
        self,
        outputs: dict[str, Any],
        places: Locations,
        positives: Positives,
        targets: list[SegmentTargets],
    ) -> dict[str, Tensor]:
        kernels, features = outputs["kernels"], outputs["mask_features"]
        names = [f"loss_mask_bank_{path}" for path in self.path_weights]
        names += ["loss_mask_cluster"] if self.overlap_weight else []
        if not len(positives.images):
            zero = 0 * (kernels.sum() + features.sum()) + self._no_loss()
            return dict.fromkeys(names, zero)
        images, positions, segments, _ = positives
        points, levels = places.points[positions], places.levels[positions]
        stride = self.level_strides[0]
        inputs = self.mask_network.inputs(features, images, points, levels, stride)
        paths = dict.fromkeys((*self.path_weights, *(["111"] if self.overlap_weight else [])))
        logits = self.mask_network(inputs, kernels[images, positions], tuple(paths))
        entities, groups = torch.stack((images, segments), 1).unique(dim=0, return_inverse=True)
        masks, covered = true_masks(targets, entities, stride // _UPSAMPLING)
        losses = bank_losses(logits, self.path_weights, masks[groups], _UPSAMPLING)
        if self.overlap_weight:
            suppressed = overlap_loss(logits["111"], groups, entities[:, 0], masks, covered, _UPSAMPLING)
            losses["loss_mask_cluster"] = self.overlap_weight * suppressed
        # Layers of the bank may be on none of the chosen paths; see `_no_loss`.
        losses[names[0]] = losses[names[0]] + self._no_loss()
        return losses

    def _no_loss(self) -> Tensor | int:
        """Return 0, with a gradient for the whole bank, which data-parallel training waits for."""
        return sum(0 * parameter.sum() for parameter in self.mask_network.parameters())

    def postprocess(
        self, outputs: dict[str, Any], sizes: Sequence[Sizes], *, tasks: Sequence[str], semantic: str
    ) -> list[dict[str, Any]]:
        """Return `entity_seg` of each image, see `paint_entities`, by descending score before rescoring."""
        outputs = _in_float32(outputs)
        return [
            {"entity_seg": self._entities(outputs, image, one)} if "entity" in tasks else {}
            for image, one in enumerate(sizes)
        ]

    def _entities(self, outputs: dict[str, Any], image: int, sizes: Sizes) -> tuple[Tensor, list[dict]]:
        places = Locations(outputs["points"], outputs["levels"])
        positions, scores, boxes = find_candidates(
            outputs["class_logits"][image],
            outputs["centerness_logits"][image],
            outputs["distances"][image],
            places,
            self.strides,
            score_threshold=self.score_threshold,
            candidates_per_level=self.candidates_per_level,
            nms_threshold=self.nms_threshold,
            max_candidates=self.detections_per_image,
        )
        seen = visible_boxes(boxes, sizes.image, sizes.output)
        positions, scores = positions[seen], scores[seen]
        return paint_entities(
            self._probabilities(outputs, image, places, positions),
            scores,
            sizes,
            rescore=self.mask_rescore,
            score_threshold=self.entity_score_threshold,
        )

    def _probabilities(
        self, outputs: dict[str, Any], image: int, places: Locations, positions: Tensor
    ) -> Tensor:
        """Return the masks of K locations, (K, h, w) probabilities, computed a few at a time."""
        features = outputs["mask_features"][image : image + 1]
        height, width = (_UPSAMPLING * side for side in features.shape[-2:])
        masks = features.new_empty((len(positions), height, width))
        for start in range(0, len(positions), _ENTITIES_AT_ONCE):
            part = positions[start : start + _ENTITIES_AT_ONCE]
            inputs = self.mask_network.inputs(
                features,
                torch.zeros_like(part),
                places.points[part],
                places.levels[part],
                self.level_strides[0],
            )
            logits = self.mask_network(inputs, outputs["kernels"][image, part])["111"]
            masks[start : start + _ENTITIES_AT_ONCE] = upsampled(logits, _UPSAMPLING).sigmoid()
        return masks


def build_pyramid(cfg, backbone: nn.Module) -> nn.Module:
    """Build the neck of MODEL.NECK.

    Raises:
        InputError: there is none.
    """
    neck, _ = build_neck(cfg, backbone.output_shape())
    if neck is None:
        raise InputError("MODEL.NECK.NAME is empty, but EntitySeg needs a feature pyramid; set it to FPN")
    return neck


def _in_float32(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: one.float() if one.is_floating_point() else one for name, one in outputs.items()}
