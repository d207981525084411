"""Augmentation of images together with their label maps."""
