"""Detectron2's `configurable`, with errors that name the configuration key of an argument."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.config import CfgNode, configurable

from segzoo.utils.errors import ArgumentError, InputError


def configurable_by(keys: Mapping[str, str]) -> Callable[[Callable], Callable]:
    """Decorate a constructor like `configurable`, with errors that name the key of a configured argument.

    This is for arguments that cannot be checked with the configuration alone, such as the name of a timm
    model. The values that a key may have are in `segzoo.config.rules`.

    Args:
        keys: {argument: key}. The message of an `ArgumentError` about one of them begins with the key.
    """

    def decorate(init: Callable) -> Callable:
        construct = configurable(init)

        @functools.wraps(init)
        def wrapped(self, *args: Any, **kwargs: Any) -> None:
            try:
                construct(self, *args, **kwargs)
            except ArgumentError as error:
                configured = isinstance(args[0] if args else kwargs.get("cfg"), CfgNode)
                if not configured or error.argument not in keys:
                    raise
                raise InputError(f"{keys[error.argument]}{error.problem}") from None

        return wrapped

    return decorate
