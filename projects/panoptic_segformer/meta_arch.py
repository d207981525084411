"""The meta-architecture of Panoptic SegFormer (Li et al., CVPR 2022, arXiv:2109.03814).

Shape shorthand: N images, Q queries, T thing classes, U stuff classes, K classes, n pairs of a query and a
class, C channels, h w size of the finest level.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from segzoo.layers.conv import fast_layout
from segzoo.layers.deformable_encoder import DeformableEncoder
from segzoo.layers.padded_levels import PaddedLevels
from segzoo.layers.runtime import PendingMeans, without_autocast
from segzoo.modeling.features import build_in_features
from segzoo.modeling.mask_classification.criterion import targets_from_inputs
from segzoo.modeling.segmentor import Batch, Segmentor, Sizes
from segzoo.utils.dataset_names import classes_dataset
from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS

from . import merging
from .boxes import edges
from .location_decoder import LocationDecoder, Locations
from .losses import PanopticSegFormerCriterion
from .mask_decoder import MaskDecoder, Pixels, StuffDecoder
from .merging import ScoredMasks, Thresholds
from .neck import LevelProjection, level_sizes
from .targets import ThingsAndStuff, separate, thing_and_stuff_indices


@META_ARCH_REGISTRY.register()
class PanopticSegFormer(Segmentor):
    """Locates things by queries with boxes, decodes masks of things and stuff, and merges them by score.

    Without thing classes there is no location decoder, without stuff classes no stuff decoder.

    The outputs of `network` in eval mode, without thing classes only the last two, without stuff classes only
    the others:
        pred_logits: (N, Q, T) float, class logits of the location decoder
        pred_boxes: (N, Q, 4) float in [0, 1], center x and y, width, height in units of the image
        thing_scores: (N, n) float in [0, 1], the n largest probabilities of a query and a class
        thing_classes: (N, n) int64 in [0, T)
        thing_boxes: (N, n, 4) float, as pred_boxes
        thing_masks: (N, n, h, w) float >= 0
        stuff_scores: (N, U) float in [0, 1]
        stuff_masks: (N, U, h, w) float >= 0
    """

    supported_tasks = ("panoptic", "semantic", "instance", "entity")
    mapper_targets = ("segments", "boxes")
    score_kind = "probabilities"
    semantic_resizing = "masks"
    optional_parts = ("location_decoder", "thing_decoder", "stuff_decoder")

    is_thing: Tensor
    index_within: Tensor
    thing_ids: Tensor
    stuff_ids: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        criterion: nn.Module,
        in_features: Sequence[str],
        is_thing: Sequence[bool],
        dim: int = 256,
        num_heads: int = 8,
        num_points: int = 4,
        hidden_dim: int = 1024,
        dropout: float = 0.1,
        encoder_layers: int = 6,
        location_layers: int = 6,
        num_queries: int = 300,
        thing_layers: int = 4,
        stuff_layers: int = 6,
        thresholds: Thresholds | None = None,
        entity_score_threshold: float = 0.0,
        detections_per_image: int = 100,
        **shared: Any,
    ):
        """
        Args:
            backbone: maps images to feature maps by name.
            criterion: a `PanopticSegFormerCriterion`.
            in_features: names of the feature maps, finest first; masks have the size of the first.
            is_thing: K flags, whether a class has instances.
            dim: C, a multiple of 32 and of `num_heads`.
            num_heads, num_points, hidden_dim, dropout: sizes of the attention and feed-forward networks.
            encoder_layers, location_layers, thing_layers, stuff_layers: number of layers; those of the mask
                decoders without their tails.
            num_queries: Q.
            thresholds: masks that panoptic and entity results leave out; None: those of R50.
            entity_score_threshold: entity: segments with a lower score are dropped.
            detections_per_image: n; also the maximum number of instances and entities.
            shared: num_classes, pixel_mean, pixel_std, input_format, tasks, see `Segmentor`.

        Raises:
            InputError: `is_thing` does not fit `num_classes`, or an unsupported task.
        """
        super().__init__(backbone=backbone, **shared)
        if len(is_thing) != self.num_classes:
            raise InputError(f"is_thing has {len(is_thing)} flags for {self.num_classes} classes")
        self.criterion = criterion
        self.in_features = tuple(in_features)
        self.thresholds = thresholds or Thresholds()
        self.entity_score_threshold = entity_score_threshold
        self.detections_per_image = detections_per_image
        ids = {
            flag: [index for index, one in enumerate(is_thing) if bool(one) is flag] for flag in (True, False)
        }
        for name, values in {
            "is_thing": torch.tensor(tuple(is_thing), dtype=torch.bool),
            "index_within": thing_and_stuff_indices(is_thing),
            "thing_ids": torch.tensor(ids[True], dtype=torch.int64),
            "stuff_ids": torch.tensor(ids[False], dtype=torch.int64),
        }.items():
            self.register_buffer(name, values, persistent=False)

        shapes = backbone.output_shape()
        self.neck = LevelProjection([shapes[name].channels for name in self.in_features], dim)
        num_levels = len(self.in_features) + 1
        deformable = {"num_heads": num_heads, "num_points": num_points, "hidden_dim": hidden_dim}
        self.transformer = DeformableEncoder(
            dim, encoder_layers, num_levels, position_offset=-0.5, dropout=dropout, **deformable
        )
        masks = {"num_heads": num_heads, "num_levels": num_levels - 1, "hidden_dim": hidden_dim}
        self.location_decoder = self.thing_decoder = self.stuff_decoder = None
        if len(self.thing_ids):
            self.location_decoder = LocationDecoder(
                num_classes=len(self.thing_ids),
                num_queries=num_queries,
                dim=dim,
                num_layers=location_layers,
                num_levels=num_levels,
                dropout=dropout,
                **deformable,
            )
            self.thing_decoder = MaskDecoder(dim=dim, num_layers=thing_layers, **masks)
        if len(self.stuff_ids):
            self.stuff_decoder = StuffDecoder(
                num_classes=len(self.stuff_ids), dim=dim, num_layers=stuff_layers, **masks
            )

    @classmethod
    def check_names(cls, cfg) -> None:
        super().check_names(cfg)
        if cfg.MODEL.NECK.NAME:
            raise InputError(
                f"MODEL.NECK.NAME {cfg.MODEL.NECK.NAME} has no effect here: PanopticSegFormer projects the "
                'maps of MODEL.SEM_SEG_HEAD.IN_FEATURES itself; set it to ""'
            )

    @classmethod
    def from_config(cls, cfg) -> dict:
        shared = super().from_config(cfg)
        node, test = cfg.MODEL.PANOPTIC_SEGFORMER, cfg.MODEL.PANOPTIC_SEGFORMER.TEST
        if node.HIDDEN_DIM % 32 or node.HIDDEN_DIM % node.NHEADS:
            raise InputError(
                f"MODEL.PANOPTIC_SEGFORMER.HIDDEN_DIM {node.HIDDEN_DIM}: expected a multiple of 32 and of "
                f"NHEADS {node.NHEADS}"
            )
        shapes = shared["backbone"].output_shape()
        names = build_in_features(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES, shapes)
        return {
            **shared,
            "criterion": PanopticSegFormerCriterion(
                class_weight=node.CLASS_WEIGHT,
                box_weight=node.BOX_WEIGHT,
                iou_weight=node.IOU_WEIGHT,
                mask_weight=node.MASK_WEIGHT,
                filter_rounds=node.FILTER_ROUNDS,
                stuff_class_images=node.STUFF_CLASS_LOSS,
            ),
            "in_features": sorted(set(names), key=lambda name: shapes[name].stride),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "is_thing": build_thing_flags(cfg),
            "dim": node.HIDDEN_DIM,
            "num_heads": node.NHEADS,
            "num_points": node.NUM_POINTS,
            "hidden_dim": node.DIM_FEEDFORWARD,
            "dropout": node.DROPOUT,
            "encoder_layers": node.ENC_LAYERS,
            "location_layers": node.DEC_LAYERS,
            "num_queries": node.NUM_OBJECT_QUERIES,
            "thing_layers": node.THING_LAYERS,
            "stuff_layers": node.STUFF_LAYERS,
            "thresholds": Thresholds(
                test.THING_THRESHOLD, test.STUFF_THRESHOLD, test.THING_OVERLAP, test.STUFF_OVERLAP
            ),
            "entity_score_threshold": cfg.TEST.ENTITY_SCORE_THRESHOLD,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def network(self, batch: Batch) -> dict[str, Any]:
        """Return the outputs described above, or in training the arguments of the criterion."""
        features = self.backbone(fast_layout(batch.images))
        # Boxes, sampled positions and masks need more than half precision.
        with without_autocast(batch.images.device):
            levels = self.neck([features[name] for name in self.in_features])
            sizes = level_sizes(levels)
            padded = PaddedLevels.of_batch(
                sizes, batch.image_sizes, batch.padded_size, device=batch.images.device
            )
            memory = self.transformer.encode(levels, padded)
            # Masks come from all levels but the last.
            count = sum(height * width for height, width in sizes[:-1])
            padding = None if padded is None else padded.padding()[:, :count]
            pixels = Pixels(memory[:, :count], sizes[:-1], padding)
            outputs: dict[str, Any] = {}
            if self.location_decoder is not None and self.thing_decoder is not None:
                locations = self.location_decoder(memory, sizes, padded)
                if self.training:
                    outputs.update(self._kept_things(locations, pixels, batch.targets))
                else:
                    outputs.update(self._best_things(locations, pixels))
            if self.stuff_decoder is not None:
                masks, logits = self.stuff_decoder.decode(pixels)
                if self.training:
                    outputs.update(stuff_masks=masks, stuff_logits=logits)
                else:
                    outputs.update(stuff_scores=logits[-1].sigmoid(), stuff_masks=masks[-1])
        return outputs

    def _kept_things(
        self,
        locations: Locations,
        pixels: Pixels,
        targets: Sequence[ThingsAndStuff],
    ) -> dict[str, Any]:
        """Match the queries with things and decode the masks of those that the query filter keeps."""
        matches = self.criterion.match(locations, targets)
        longest = max(len(kept) for kept in matches.kept)
        queries = [
            nn.functional.pad(hidden[kept], (0, 0, 0, longest - len(kept)))
            for hidden, kept in zip(locations.hidden, matches.kept, strict=True)
        ]
        decoded = self.thing_decoder(torch.stack(queries), pixels)
        return {"locations": locations, "matches": matches, "thing_masks": decoded.masks}

    def _best_things(self, locations: Locations, pixels: Pixels) -> dict[str, Tensor]:
        """Decode the masks of the most probable pairs of a query and a class."""
        logits, boxes = locations.logits[-1], locations.boxes[-1]
        num_classes = logits.shape[-1]
        probabilities = logits.sigmoid().flatten(1)
        count = min(self.detections_per_image, probabilities.shape[1])
        scores, pairs = probabilities.topk(count, dim=1)
        queries = (pairs // num_classes)[..., None]
        hidden = locations.hidden.gather(1, queries.expand(-1, -1, locations.hidden.shape[-1]))
        return {
            "pred_logits": logits,
            "pred_boxes": boxes,
            "thing_scores": scores,
            "thing_classes": pairs % num_classes,
            "thing_boxes": boxes.gather(1, queries.expand(-1, -1, 4)),
            "thing_masks": self.thing_decoder(hidden, pixels).masks[-1],
        }

    def prepare_targets(self, batch: Batch) -> list[ThingsAndStuff]:
        """Return the things and the stuff of each image."""
        targets = targets_from_inputs(batch.inputs, batch.padded_size, self.device)
        return [
            separate(target, size, self.is_thing, self.index_within)
            for target, size in zip(targets, batch.image_sizes, strict=True)
        ]

    def exchange(self, targets: list[ThingsAndStuff]) -> PendingMeans:
        """Start to exchange the numbers of things and stuff."""
        decoder = self.location_decoder
        return self.criterion.exchange(targets, 0 if decoder is None else decoder.num_queries)

    def losses(self, outputs: dict[str, Any], targets: list[ThingsAndStuff]) -> dict[str, Tensor]:
        return self.criterion(targets, **outputs)

    def postprocess(
        self, outputs: dict[str, Any], sizes: Sequence[Sizes], *, tasks: Sequence[str], semantic: str
    ) -> list[dict[str, Any]]:
        return [
            self._results(self._scored_masks(outputs, index, size), size.output, tasks, semantic)
            for index, size in enumerate(sizes)
        ]

    def _scored_masks(self, outputs: dict[str, Any], image: int, sizes: Sizes) -> ScoredMasks:
        """Return the masks of one image, things before stuff."""
        parts = []
        if self.thing_decoder is not None:
            parts.append(
                ScoredMasks(
                    masks=outputs["thing_masks"][image],
                    probabilities=outputs["thing_scores"][image].float(),
                    classes=self.thing_ids[outputs["thing_classes"][image]],
                    is_thing=torch.ones_like(outputs["thing_classes"][image], dtype=torch.bool),
                    boxes=edges(outputs["thing_boxes"][image].float()),
                )
            )
        if self.stuff_decoder is not None:
            probabilities = outputs["stuff_scores"][image].float()
            parts.append(
                ScoredMasks(
                    masks=outputs["stuff_masks"][image],
                    probabilities=probabilities,
                    classes=self.stuff_ids,
                    is_thing=torch.zeros_like(self.stuff_ids, dtype=torch.bool),
                    boxes=probabilities.new_zeros((len(probabilities), 4)),
                )
            )
        found = merging.joined(parts)
        return replace(found, masks=merging.cropped(found.masks, sizes).float())

    def _results(
        self, found: ScoredMasks, size: tuple[int, int], tasks: Sequence[str], semantic: str
    ) -> dict[str, Any]:
        results: dict[str, Any] = {}
        if "semantic" in tasks:
            name, function = {
                "scores": ("sem_seg", merging.semantic_scores),
                "labels": ("sem_seg_labels", merging.semantic_labels),
            }[semantic]
            results[name] = function(found, size, self.num_classes)
        if "panoptic" in tasks:
            results["panoptic_seg"] = merging.panoptic(found, size, self.thresholds)
        if "instance" in tasks:
            results["instances"] = merging.instances(found, size, self.detections_per_image)
        if "entity" in tasks:
            results["entity_seg"] = merging.entities(
                found, size, self.thresholds, self.entity_score_threshold, self.detections_per_image
            )
        return results


def build_thing_flags(cfg) -> tuple[bool, ...]:
    """Return whether each class of the model is a thing.

    The classes of a dataset without `isthing` are stuff; for the tasks instance and entity all are things.
    """
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if TASKS[cfg.TASK].classes != "all":
        return (True,) * count
    flags = tuple(MetadataCatalog.get(classes_dataset(cfg)).get("isthing", ()))
    return flags or (False,) * count
