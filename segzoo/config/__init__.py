"""Configuration: keys with defaults, loading of files and overrides, and checks of values."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .extensions import register_config
    from .rule_types import (
        AMOUNT,
        AMOUNT_OR_NONE,
        BELOW_1,
        COUNT,
        COUNTS,
        ODD,
        POSITIVE,
        POSITIVE_RANGE,
        RANGE,
        SHARE,
        Rule,
        at_least,
        one_of,
    )
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = [
    "AMOUNT",
    "AMOUNT_OR_NONE",
    "BELOW_1",
    "COUNT",
    "COUNTS",
    "ODD",
    "POSITIVE",
    "POSITIVE_RANGE",
    "RANGE",
    "SHARE",
    "Rule",
    "at_least",
    "one_of",
    "register_config",
]
