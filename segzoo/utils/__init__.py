"""Utilities for all parts of segzoo: errors, text, files, paths, processes."""
