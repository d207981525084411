"""A method written only for Detectron2, as GETTING_STARTED.md showed it before `Segmentor` existed."""

import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.structures import ImageList
from torch import nn


@META_ARCH_REGISTRY.register()
class PlainLastFeatureClassifier(nn.Module):
    """One 1x1 convolution on res5."""

    @configurable
    def __init__(self, *, backbone, num_classes, ignore_label):
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Conv2d(backbone.output_shape()["res5"].channels, num_classes, 1)
        self.ignore_label = ignore_label

    @classmethod
    def from_config(cls, cfg):
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "backbone": build_backbone(cfg),
            "num_classes": head.NUM_CLASSES,
            "ignore_label": head.IGNORE_VALUE,
        }

    def raw_outputs(self, batched_inputs):
        images = [inputs["image"].to(self.classifier.weight.device) / 255 for inputs in batched_inputs]
        return {
            "sem_seg_logits": self.classifier(self.backbone(ImageList.from_tensors(images).tensor)["res5"])
        }

    def forward(self, batched_inputs):
        logits = self.raw_outputs(batched_inputs)["sem_seg_logits"]
        if self.training:
            labels = [inputs["sem_seg"].to(logits.device) for inputs in batched_inputs]
            labels = ImageList.from_tensors(labels, pad_value=self.ignore_label).tensor
            logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear")
            return {"loss_ce": F.cross_entropy(logits, labels, ignore_index=self.ignore_label)}
        sizes = [(inputs["height"], inputs["width"]) for inputs in batched_inputs]
        return [
            {"sem_seg": F.interpolate(row[None], size, mode="bilinear")[0]}
            for row, size in zip(logits, sizes, strict=True)
        ]
