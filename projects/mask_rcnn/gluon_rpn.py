"""Region proposals as in GluonCV: all levels of a pyramid compete, and each image has its own mean loss."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.structures import Boxes, Instances, pairwise_iou
from fvcore.nn import smooth_l1_loss
from torch import Tensor

from segzoo.utils.errors import InputError

from .gluon_boxes import box_coder, label_anchors, select_proposals


@PROPOSAL_GENERATOR_REGISTRY.register()
class JointRPN(RPN):
    """Detectron2's RPN with GluonCV's selection of proposals, labels of anchors and losses.

    The boxes of all levels are sorted together, by probability, and suppressed together. Proposals that are
    missing are filled up by boxes of -1, which the second stage treats like others in testing; they are
    equal, so one goes through it, and `copies`, (P,) int64, says how many each proposal of a test stands for.
    Anchors that leave the image are ignored. Losses of an image are divided by the number of its sampled
    anchors.
    """

    @configurable
    def __init__(self, **arguments):
        """See `RPN`; `box2box_transform` is GluonCV's."""
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg, input_shape):
        weights, kind = cfg.MODEL.RPN.BBOX_REG_WEIGHTS, cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE
        if kind != "smooth_l1":
            raise InputError(
                f"MODEL.RPN.BBOX_REG_LOSS_TYPE {kind} has no effect with MODEL.PROPOSAL_GENERATOR.NAME "
                "JointRPN; leave it out, or set the name to RPN"
            )
        return {**super().from_config(cfg, input_shape), "box2box_transform": box_coder(weights)}

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        boxes = torch.cat(self._decode_proposals(anchors, pred_anchor_deltas), 1)
        probabilities = torch.cat(pred_objectness_logits, 1).sigmoid()
        proposals = []
        for index, size in enumerate(image_sizes):
            chosen, scores = select_proposals(
                boxes[index],
                probabilities[index],
                size,
                min_side=self.min_box_size,
                pre_nms=self.pre_nms_topk[self.training],
                post_nms=self.post_nms_topk[self.training],
                nms_thresh=self.nms_thresh,
            )
            found = int((scores > 0).sum())
            last = found if self.training else min(found + 1, len(chosen))
            result = Instances(size)
            result.proposal_boxes, result.objectness_logits = Boxes(chosen[:last]), scores[:last]
            if not self.training:
                result.copies = torch.ones(last, dtype=torch.int64, device=chosen.device)
                result.copies[found:] = len(chosen) - found
            proposals.append(result)
        return proposals

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        all_anchors = Boxes.cat(anchors)
        # Between infinite ones; a single threshold is both.
        negative, positive = self.anchor_matcher.thresholds[1], self.anchor_matcher.thresholds[-2]
        labels, boxes = [], []
        for targets in gt_instances:
            height, width = targets.image_size
            corners = all_anchors.tensor
            limits = corners.new_tensor([width, height])
            inside = (corners[:, :2] >= 0).all(1) & (corners[:, 2:] < limits).all(1)
            ious = pairwise_iou(targets.gt_boxes, all_anchors)
            matched, of_image = label_anchors(ious, inside, positive, negative)
            labels.append(self._subsample_labels(of_image))
            true = targets.gt_boxes.tensor
            boxes.append(true[matched] if len(true) else torch.zeros_like(corners))
        return labels, boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        corners = Boxes.cat(anchors).tensor
        logits, deltas = torch.cat(pred_objectness_logits, 1), torch.cat(pred_anchor_deltas, 1)
        objectness, localization = logits.new_zeros(()), logits.new_zeros(())
        for index, labels in enumerate(gt_labels):
            sampled, positive = labels >= 0, labels == 1
            count = sampled.sum().clamp(min=1)
            objectness = objectness + (
                F.binary_cross_entropy_with_logits(
                    logits[index][sampled], labels[sampled].to(logits.dtype), reduction="sum"
                )
                / count
            )
            target = self.box2box_transform.get_deltas(corners[positive], gt_boxes[index][positive])
            found = deltas[index][positive]
            localization = (
                localization + smooth_l1_loss(found, target, self.smooth_l1_beta, reduction="sum") / count
            )
        losses = {"loss_rpn_cls": objectness, "loss_rpn_loc": localization}
        return {
            name: value / len(gt_labels) * self.loss_weight.get(name, 1.0) for name, value in losses.items()
        }
