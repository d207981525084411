"""Conversion of keys of Detectron2, MaskFormer and Mask2Former that differ in segzoo."""
