"""Meta-architecture of per-pixel methods: backbone, neck, head.

Shape shorthand: N images, K classes, H W size of the (padded) input, h w size of the head's feature map.
"""

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_sem_seg_head
from torch import Tensor, nn

from segzoo.layers.conv import tensor_core_layout
from segzoo.layers.resize import resize
from segzoo.layers.runtime import transferred
from segzoo.utils.errors import InputError

from ..features import build_in_features
from ..labels import best_class
from ..losses import joined
from ..necks import build_neck, find_neck
from ..registry import PIXEL_LOSS_REGISTRY, check_names, registered
from ..resized_labels import resized_labels
from ..segmentor import Batch, DenseScores, Segmentor, Sizes
from .head import PixelHead

# Number of classes whose scores are at full size at a time while labels are computed.
_CLASSES_AT_ONCE = 8


@META_ARCH_REGISTRY.register()
class PerPixelSegmentor(Segmentor):
    """Predicts a score of each class for every pixel."""

    mapper_targets = ("class_map",)
    coarse_scores = True
    semantic_resizing = "scores"

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: PixelHead,
        loss: nn.Module,
        neck: nn.Module | None = None,
        auxiliary_head: PixelHead | None = None,
        loss_weight: float = 1.0,
        auxiliary_loss_weight: float = 0.4,
        ignore_label: int = 255,
        **shared: Any,
    ):
        """
        Args:
            backbone: maps images to feature maps by name.
            sem_seg_head: maps feature maps to logits.
            loss: maps (N, K, h, w) logits and (N, H, W) labels to a scalar; see `losses`.
            neck: maps feature maps to feature maps, or None.
            auxiliary_head: a second head, supervised like the first in training, or None.
            loss_weight, auxiliary_loss_weight: loss weights of the two heads.
            ignore_label: label of ignored pixels and of the padding.
            shared: pixel_mean, pixel_std, input_format, size_divisibility, tasks, see `Segmentor`.
        """
        super().__init__(backbone=backbone, num_classes=sem_seg_head.num_classes, **shared)
        self.neck = neck
        self.sem_seg_head = sem_seg_head
        self.auxiliary_head = auxiliary_head
        self.loss = loss
        self.loss_weight = loss_weight
        self.auxiliary_loss_weight = auxiliary_loss_weight
        self.ignore_label = ignore_label

    @classmethod
    def check_names(cls, cfg) -> None:
        super().check_names(cfg)
        find_neck(cfg)
        check_names(find_pixel_head("MODEL.SEM_SEG_HEAD.NAME", cfg.MODEL.SEM_SEG_HEAD.NAME), cfg)
        if cfg.MODEL.AUX_HEAD.NAME:
            find_pixel_head("MODEL.AUX_HEAD.NAME", cfg.MODEL.AUX_HEAD.NAME)
        find_pixel_loss(cfg)

    @classmethod
    def from_config(cls, cfg) -> dict:
        shared = super().from_config(cfg)
        backbone = shared["backbone"]
        neck, shape = build_neck(cfg, backbone.output_shape())
        return {
            **shared,
            "neck": neck,
            "sem_seg_head": build_sem_seg_head(cfg, shape),
            "auxiliary_head": build_auxiliary_head(cfg, shape),
            "loss": find_pixel_loss(cfg)(cfg),
            "loss_weight": cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT,
            "auxiliary_loss_weight": cfg.MODEL.AUX_HEAD.LOSS_WEIGHT,
            "size_divisibility": cfg.MODEL.SEM_SEG_HEAD.SIZE_DIVISIBILITY,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    @property
    def align_corners(self) -> bool:
        """Whether logits are resized with aligned corners."""
        return self.sem_seg_head.align_corners

    def network(self, batch: Batch) -> dict[str, Any]:
        """Return the heads' logits.

        Returns:
            sem_seg_logits: (N, K, h, w) float
            In training also
            supervised: the head's additional logits by name, (N, K, h, w) each
            auxiliary_logits: (N, K, h, w) float from the auxiliary head, if there is one
            losses: weighted scalar losses by name, computed by the heads; names from the auxiliary head end
                with `_auxiliary`
        """
        self.sem_seg_head.check_crop(*batch.padded_size)
        features = self.backbone(tensor_core_layout(batch.images))
        if self.neck is not None:
            features = self.neck(features)
        features = {**features, "image": batch.images}
        logits = dict(self.sem_seg_head(features))
        outputs: dict[str, Any] = {"sem_seg_logits": logits.pop("logits")}
        if self.training:
            losses = logits.pop("losses", {})
            outputs["supervised"] = logits
            if self.auxiliary_head is not None:
                auxiliary = self.auxiliary_head(features)
                outputs["auxiliary_logits"] = auxiliary["logits"]
                own = {f"{name}_auxiliary": loss for name, loss in auxiliary.get("losses", {}).items()}
                losses = joined((losses, own))
            outputs["losses"] = losses
        return outputs

    def prepare_targets(self, batch: Batch) -> Tensor:
        """Stack the inputs' `sem_seg`, (H, W) integers in [0, K) or `ignore_label`, into (N, H, W) int64.

        Raises:
            InputError: labels and image differ in size.
        """
        labels = [transferred(inputs["sem_seg"], self.device).long() for inputs in batch.inputs]
        for inputs, size, label in zip(batch.inputs, batch.image_sizes, labels, strict=True):
            if label.shape != size:
                raise InputError(
                    f"{inputs.get('file_name', 'an image')}: labels of {tuple(label.shape)} pixels "
                    f"for an image of {tuple(size)}; both have to go through the same augmentation"
                )
        return self.pad(labels, self.ignore_label)

    def exchange(self, targets: Tensor) -> Any:
        """Start to exchange what the loss of each supervised output is divided by, see `PixelLoss`."""
        exchange = getattr(self.loss, "exchange", None)
        pending = None if exchange is None else exchange(targets)
        return None if pending is None else (targets, pending)

    def losses(self, outputs: dict[str, Any], targets: Tensor) -> dict[str, Tensor]:
        """Compute the loss of each supervised output, and add the losses that the heads computed.

        Raises:
            ValueError: two losses have the same name.
        """
        labels, pending = outputs.get("exchanged") or (None, None)
        # A derived class may give other targets, and a loss of another package may take nothing else.
        compared = (targets, pending) if labels is targets else (targets,)
        losses = {"loss_sem_seg": self.loss_weight * self.loss(outputs["sem_seg_logits"], *compared)}
        for name, logits in outputs["supervised"].items():
            weight = self.loss_weight * self.sem_seg_head.loss_weights.get(name, 1.0)
            losses[f"loss_sem_seg_{name}"] = weight * self.loss(logits, *compared)
        if "auxiliary_logits" in outputs:
            loss = self.loss(outputs["auxiliary_logits"], *compared)
            losses["loss_sem_seg_auxiliary"] = self.auxiliary_loss_weight * loss
        return joined((losses, outputs["losses"]))

    def postprocess(
        self, outputs: dict[str, Any], sizes: Sequence[Sizes], *, tasks: Sequence[str], semantic: str
    ) -> list[dict[str, Tensor]]:
        """Resize logits to the input, crop them to the image, and resize them to the output size."""
        results: list[dict[str, Tensor]] = []
        for logits, image_sizes in zip(outputs["sem_seg_logits"], sizes, strict=True):
            if not tasks:
                results.append({})
            elif semantic == "scores":
                results.append({"sem_seg": self._resized(logits.float(), image_sizes)})
            else:
                results.append({"sem_seg_labels": self._labels(logits.float(), image_sizes)})
        return results

    def _labels(self, logits: Tensor, sizes: Sizes) -> Tensor:
        """Return the class of each pixel of the output, (H, W) int16, of (K, h, w) float32 logits."""
        full_size = self._full_size(logits, sizes.padded)
        labels = resized_labels(logits, full_size, sizes.image, sizes.output, self.align_corners)
        if labels is None:
            labels = best_class(self._resized(part, sizes) for part in logits.split(_CLASSES_AT_ONCE))
        return labels

    def dense_scores(self, images: Tensor) -> DenseScores:
        """Return the logits and the size to which they are resized."""
        logits = self.batch_outputs(images)["sem_seg_logits"]
        height, width = images.shape[-2:]
        size = self._full_size(logits, self.padded_size((height, width)))
        return DenseScores(logits, size, self.align_corners)

    def _full_size(self, logits: Tensor, padded_size: tuple[int, int]) -> tuple[int, int]:
        """Return the size to which logits are resized before they are cropped to the image."""
        factor = self.sem_seg_head.upsample_factor
        if factor is None:
            return padded_size
        # A backbone that rounds down or lacks this level can give less than the image: resize that instead.
        height, width = logits.shape[-2:]
        return max(factor * height, padded_size[0]), max(factor * width, padded_size[1])

    def _resized(self, logits: Tensor, sizes: Sizes) -> Tensor:
        """Resize (k, h, w) logits of some classes to (k, *sizes.output)."""
        planes = resize(logits[None], self._full_size(logits, sizes.padded), self.align_corners)
        planes = planes[..., : sizes.image[0], : sizes.image[1]]
        return resize(planes, sizes.output, self.align_corners)[0]


def find_pixel_loss(cfg) -> Callable[..., nn.Module]:
    """Return the loss class that MODEL.SEM_SEG_HEAD.LOSS.NAME names."""
    key = "MODEL.SEM_SEG_HEAD.LOSS.NAME"
    return registered(PIXEL_LOSS_REGISTRY, key, cfg.MODEL.SEM_SEG_HEAD.LOSS.NAME)


def find_pixel_head(key: str, name: str) -> Callable[..., nn.Module]:
    """Return the per-pixel head that is registered as `name`, the value of the configuration's `key`.

    Raises:
        InputError: no head is registered as `name`, or one of another family.
    """
    head = registered(SEM_SEG_HEADS_REGISTRY, key, name)
    # What a registered function builds is not known before it is called.
    if isinstance(head, type) and not issubclass(head, PixelHead):
        classes = [(name, other) for name, other in SEM_SEG_HEADS_REGISTRY if isinstance(other, type)]
        known = [name for name, other in classes if issubclass(other, PixelHead)]
        raise InputError(
            f"{key} {name!r} is not a head of PerPixelSegmentor; choose one of {', '.join(sorted(known))}"
        )
    return head


def build_auxiliary_head(cfg, input_shape: dict) -> nn.Module | None:
    """Build the head of MODEL.AUX_HEAD, whose keys override those of MODEL.SEM_SEG_HEAD, or return None."""
    node = cfg.MODEL.AUX_HEAD
    if not node.NAME:
        return None
    build_in_features(node.IN_FEATURES, input_shape, "MODEL.AUX_HEAD.IN_FEATURES")
    # A head's `from_config` derives more than its arguments from these keys, e.g. PSANet its mask size.
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in node.items():
        cfg.MODEL.SEM_SEG_HEAD[key] = value
    return build_sem_seg_head(cfg, input_shape)
