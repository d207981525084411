"""Configuration: the keys, how files and overrides become one configuration, and what values are allowed."""

from .extensions import register_config

__all__ = ["register_config"]
