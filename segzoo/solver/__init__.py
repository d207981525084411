"""Optimizers with checked parameter groups, gradient clipping, and learning-rate schedules by iteration."""

from .clipping import build_gradient_clipper
from .optimizer import build_optimizer, gather_optimizer_state, load_optimizer_state
from .parameter_groups import parameter_groups
from .schedules import ScheduledLR, build_lr_scheduler

__all__ = [
    "ScheduledLR",
    "build_gradient_clipper",
    "build_lr_scheduler",
    "build_optimizer",
    "gather_optimizer_state",
    "load_optimizer_state",
    "parameter_groups",
]
