"""For tools that still look for this file: everything about the package is in pyproject.toml."""

from setuptools import setup

setup()
