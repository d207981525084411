"""Results of mask classification: semantic, panoptic, instance and entity segmentation."""
