"""Keys of Detectron2, MaskFormer and Mask2Former that are others here."""
