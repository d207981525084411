"""Stub for tools that require setup.py; pyproject.toml defines the package."""

from setuptools import setup

setup()
