"""Comparisons with code bases that need an environment of their own."""
