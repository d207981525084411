"""The meta-architecture of per-pixel methods: backbone, neck, head, and what is around them.

Letters: N images, K classes, H W size of the (padded) input, h w size of the head's feature map.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    build_backbone,
    build_sem_seg_head,
)
from detectron2.structures import ImageList
from torch import Tensor, nn

from segzoo.utils.errors import InputError

from ..features import check_in_features
from ..registry import NECK_REGISTRY, PIXEL_LOSS_REGISTRY, registered
from .head import PixelHead, resize

# Classes whose scores are at full size together while labels are made of them.
_CLASSES_AT_ONCE = 8


@META_ARCH_REGISTRY.register()
class PerPixelSegmentor(nn.Module):
    """Gives every pixel a score for each class."""

    # What `score_maps` and the head return; a test protocol applies the softmax itself.
    score_kind = "logits"
    # What is stretched to the size of the image; see MaskFormer.
    semantic_resizing = "scores"

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: PixelHead,
        loss: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        neck: nn.Module | None = None,
        auxiliary_head: PixelHead | None = None,
        loss_weight: float = 1.0,
        auxiliary_loss_weight: float = 0.4,
        input_format: str = "RGB",
        size_divisibility: int = 0,
        ignore_label: int = 255,
        sem_seg_output: str = "scores",
    ):
        """
        Args:
            backbone: images to feature maps by name.
            sem_seg_head: feature maps to logits.
            loss: (N, K, h, w) logits and (N, H, W) labels to a scalar; see `losses`.
            pixel_mean, pixel_std: per channel, in the order of `input_format`.
            neck: feature maps to feature maps, or None.
            auxiliary_head: a second head, supervised like the first in training; or None.
            loss_weight, auxiliary_loss_weight: of the two heads.
            input_format: "RGB" or "BGR", the channel order that the model expects.
            size_divisibility: after normalisation images are padded with zeros to a multiple of this; 0: only
                to the largest of the batch.
            ignore_label: of pixels that do not count, and of the padding.
            sem_seg_output: "scores" of every class, or "labels", the best class only, which takes far less
                memory. May be changed later by setting the attribute.

        Raises:
            InputError: unknown `sem_seg_output`.
        """
        super().__init__()
        if sem_seg_output not in ("scores", "labels"):
            raise InputError(f"sem_seg_output {sem_seg_output!r}: expected 'scores' or 'labels'")
        self.backbone = backbone
        self.neck = neck
        self.sem_seg_head = sem_seg_head
        self.auxiliary_head = auxiliary_head
        self.loss = loss
        self.loss_weight = loss_weight
        self.auxiliary_loss_weight = auxiliary_loss_weight
        self.num_classes = sem_seg_head.num_classes
        self.input_format = input_format
        self.size_divisibility = size_divisibility
        self.ignore_label = ignore_label
        self.sem_seg_output = sem_seg_output
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg) -> dict:
        if tuple(cfg.TEST.TASKS or (cfg.TASK,)) != ("semantic",):
            raise InputError(
                f"PerPixelSegmentor is for TASK semantic; found TASK {cfg.TASK}, TEST.TASKS "
                f"{tuple(cfg.TEST.TASKS)}; set TEST.TASKS \"('semantic',)\" and a semantic dataset"
            )
        registered(BACKBONE_REGISTRY, "MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME)
        backbone = build_backbone(cfg)
        neck = build_neck(cfg, backbone.output_shape())
        shape = neck.output_shape() if neck is not None else backbone.output_shape()
        check_pixel_head("MODEL.SEM_SEG_HEAD.NAME", cfg.MODEL.SEM_SEG_HEAD.NAME)
        return {
            "backbone": backbone,
            "neck": neck,
            "sem_seg_head": build_sem_seg_head(cfg, shape),
            "auxiliary_head": build_auxiliary_head(cfg, shape),
            "loss": build_pixel_loss(cfg),
            "loss_weight": cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT,
            "auxiliary_loss_weight": cfg.MODEL.AUX_HEAD.LOSS_WEIGHT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "size_divisibility": cfg.MODEL.SEM_SEG_HEAD.SIZE_DIVISIBILITY,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def align_corners(self) -> bool:
        """How the logits are resized."""
        return self.sem_seg_head.align_corners

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Computes losses in training mode, predictions in eval mode.

        Args:
            batched_inputs: one dict per image:
                image: (3, H, W) uint8 or float in [0, 255], any size, channels ordered as `input_format`.
                height, width: size wanted for the predictions; the image's own where missing.
                sem_seg: in training, (H, W) int64 labels in [0, K) or `ignore_label`.

        Returns:
            In training: weighted scalar losses by name.
            In eval mode: for each image, at the size wanted, {"sem_seg": (K, H, W) float logits} or
            {"sem_seg_labels": (H, W) integer classes in [0, K)}. Images run together only where they are
            padded to the same size, so that a prediction does not depend on what else is in the batch.
        """
        images = [self._normalised(inputs["image"]) for inputs in batched_inputs]
        if self.training:
            batch = ImageList.from_tensors(images, self.size_divisibility).tensor
            labels = [inputs["sem_seg"].to(self.device) for inputs in batched_inputs]
            for inputs, image, label in zip(batched_inputs, images, labels, strict=True):
                size = tuple(image.shape[-2:])
                if label.shape != size:
                    raise InputError(
                        f"{inputs.get('file_name', 'an image')}: labels of {tuple(label.shape)} pixels "
                        f"beside an image of {size}; both have to go through the same augmentation"
                    )
            labels = ImageList.from_tensors(labels, self.size_divisibility, self.ignore_label).tensor
            return self._losses(batch, labels)

        groups = defaultdict(list)
        for index, image in enumerate(images):
            groups[self._padded_size(image)].append(index)
        results = [{}] * len(images)
        for padded_size, indices in groups.items():
            batch = ImageList.from_tensors([images[index] for index in indices], self.size_divisibility)
            for index, logits in zip(indices, self._logits(batch.tensor), strict=True):
                inputs, image_size = batched_inputs[index], tuple(images[index].shape[-2:])
                output_size = (inputs.get("height", image_size[0]), inputs.get("width", image_size[1]))
                results[index] = self._postprocess(logits.float(), padded_size, image_size, output_size)
        return results

    def raw_outputs(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """The head's logits before any resizing. The model has to be in eval mode.

        Args:
            batched_inputs: as for `forward`; smaller images are padded to the largest.

        Returns:
            sem_seg_logits: (N, K, h, w) float
        """
        images = [self._normalised(inputs["image"]) for inputs in batched_inputs]
        return {"sem_seg_logits": self._logits(ImageList.from_tensors(images, self.size_divisibility).tensor)}

    def batch_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """`raw_outputs` of images of one size, as tensors throughout: the part to export or compile.

        Args:
            images: (N, 3, H, W) float in [0, 255], channels ordered as `input_format`.
        """
        padded_size = self._padded_size(images)
        height, width = images.shape[-2:]
        padding = (0, padded_size[1] - width, 0, padded_size[0] - height)
        return {"sem_seg_logits": self._logits(nn.functional.pad(self._normalised(images), padding))}

    def score_maps(self, images: Tensor) -> Tensor:
        """The logits of images of one size, at that size. The model has to be in eval mode.

        Args:
            images: (N, 3, H, W) float in [0, 255], channels ordered as `input_format`.

        Returns:
            (N, K, H, W) float32
        """
        logits = self.batch_outputs(images)["sem_seg_logits"]
        height, width = images.shape[-2:]
        size = self._full_size(logits, self._padded_size(images))
        return resize(logits.float(), size, self.align_corners)[..., :height, :width]

    def _normalised(self, image: Tensor) -> Tensor:
        return (image.to(self.device) - self.pixel_mean) / self.pixel_std

    def _padded_size(self, image: Tensor) -> tuple[int, int]:
        multiple = max(self.size_divisibility, 1)
        return tuple(side + -side % multiple for side in image.shape[-2:])

    def _full_size(self, logits: Tensor, padded_size: Sequence[int]) -> Sequence[int]:
        """The size to which logits are resized before they are cut to the image."""
        factor = self.sem_seg_head.enlargement
        if factor is None:
            return padded_size
        # A backbone that rounds down, or has no level so fine, leaves less than the image: that is stretched.
        enlarged = (factor * side for side in logits.shape[-2:])
        return tuple(max(sides) for sides in zip(enlarged, padded_size, strict=True))

    def _features(self, batch: Tensor) -> dict[str, Tensor]:
        self.sem_seg_head.check_crop(*batch.shape[-2:])
        features = self.backbone(batch)
        if self.neck is not None:
            features = self.neck(features)
        return {**features, "image": batch}

    def _logits(self, batch: Tensor) -> Tensor:
        return self.sem_seg_head(self._features(batch))["logits"]

    def _losses(self, batch: Tensor, labels: Tensor) -> dict[str, Tensor]:
        features = self._features(batch)
        losses = {}
        for name, logits in self.sem_seg_head(features).items():
            weight = self.loss_weight * self.sem_seg_head.loss_weights.get(name, 1.0)
            suffix = "" if name == "logits" else f"_{name}"
            losses[f"loss_sem_seg{suffix}"] = weight * self.loss(logits, labels)
        if self.auxiliary_head is not None:
            logits = self.auxiliary_head(features)["logits"]
            losses["loss_sem_seg_auxiliary"] = self.auxiliary_loss_weight * self.loss(logits, labels)
        return losses

    def _postprocess(
        self,
        logits: Tensor,
        padded_size: Sequence[int],
        image_size: Sequence[int],
        output_size: Sequence[int],
    ) -> dict[str, Tensor]:
        """(K, h, w) logits of one image to its result: resized to the input, cut to the image, resized."""

        def to_output(planes: Tensor) -> Tensor:
            planes = resize(planes[None], self._full_size(planes, padded_size), self.align_corners)
            planes = planes[..., : image_size[0], : image_size[1]]
            return resize(planes, output_size, self.align_corners)[0]

        if self.sem_seg_output == "scores":
            return {"sem_seg": to_output(logits)}
        return {"sem_seg_labels": best_class(to_output(part) for part in logits.split(_CLASSES_AT_ONCE))}


def best_class(parts: Iterator[Tensor]) -> Tensor:
    """The class of the highest score in each pixel, the first of equals.

    Args:
        parts: (k, H, W) scores of some classes each, in the order of the classes.

    Returns:
        (H, W) int16 class indices.
    """
    best_score = best = None
    offset = 0
    for part in parts:
        # On a CPU max is faster than argmax over the first dimension, with the same result.
        score, index = part.max(dim=0)
        index = index.to(torch.int16) + offset
        if best is None:
            best_score, best = score, index
        else:
            better = score > best_score
            best = torch.where(better, index, best)
            best_score = torch.where(better, score, best_score)
        offset += len(part)
    return best


def build_neck(cfg, input_shape: dict) -> nn.Module | None:
    """The neck named by MODEL.NECK.NAME, or None."""
    name = cfg.MODEL.NECK.NAME
    return registered(NECK_REGISTRY, "MODEL.NECK.NAME", name)(cfg, input_shape) if name else None


def build_pixel_loss(cfg) -> nn.Module:
    """The loss named by MODEL.SEM_SEG_HEAD.LOSS.NAME."""
    name = cfg.MODEL.SEM_SEG_HEAD.LOSS.NAME
    return registered(PIXEL_LOSS_REGISTRY, "MODEL.SEM_SEG_HEAD.LOSS.NAME", name)(cfg)


def check_pixel_head(key: str, name: str) -> None:
    """Raises InputError, naming the configuration's key, unless a per-pixel head is registered as `name`."""
    head = registered(SEM_SEG_HEADS_REGISTRY, key, name)
    if isinstance(head, type) and not issubclass(head, PixelHead):
        known = [known for known, other in SEM_SEG_HEADS_REGISTRY if issubclass(other, PixelHead)]
        raise InputError(
            f"{key} {name!r} is not a head of PerPixelSegmentor; choose one of {', '.join(sorted(known))}"
        )


def build_auxiliary_head(cfg, input_shape: dict) -> nn.Module | None:
    """The head of MODEL.AUX_HEAD, or None: its keys in place of those of MODEL.SEM_SEG_HEAD."""
    node = cfg.MODEL.AUX_HEAD
    if not node.NAME:
        return None
    check_pixel_head("MODEL.AUX_HEAD.NAME", node.NAME)
    check_in_features("MODEL.AUX_HEAD.IN_FEATURES", node.IN_FEATURES, input_shape)
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in node.items():
        cfg.MODEL.SEM_SEG_HEAD[key] = value
    return build_sem_seg_head(cfg, input_shape)
