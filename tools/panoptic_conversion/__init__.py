"""Parts of tools/make_panoptic.py."""
