"""Switching automatic mixed precision off for the parts of a network that must not have it."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which operations keep the types of their inputs, on any device, also on `meta`."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def autocast_type(device: torch.device) -> torch.dtype | None:
    """What automatic mixed precision casts to on this device; None where it is off."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return None
