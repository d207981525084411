"""Results of mask classification: semantic, panoptic, instance and entity segmentation.

Functions of the logits of one image, which need no model and bounded memory.
"""

from .inference import entities, instances, panoptic, semantic_labels, semantic_scores

__all__ = ["entities", "instances", "panoptic", "semantic_labels", "semantic_scores"]
