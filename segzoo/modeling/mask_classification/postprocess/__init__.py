"""Results of mask classification: semantic, panoptic, instance and entity segmentation.

These functions of the logits of one image need no model, and their memory is bounded.
"""

from .binary_masks import BinaryMasks
from .inference import entities, instances, panoptic, semantic_labels, semantic_scores

__all__ = ["BinaryMasks", "entities", "instances", "panoptic", "semantic_labels", "semantic_scores"]
