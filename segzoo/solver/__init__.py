"""Optimizers, parameter groups, gradient clipping and learning-rate schedules."""

from .clipping import build_gradient_clipper
from .optimizer import build_optimizer, find_optimizer
from .optimizer_state import (
    gather_optimizer_state,
    load_optimizer_state,
    optimizer_name,
    restore_scheduled,
)
from .parameter_groups import parameter_groups
from .registry import LR_SCHEDULER_REGISTRY, OPTIMIZER_REGISTRY
from .schedules import ScheduledLR, build_lr_scheduler, find_schedule, learning_rate_factor

__all__ = [
    "LR_SCHEDULER_REGISTRY",
    "OPTIMIZER_REGISTRY",
    "ScheduledLR",
    "build_gradient_clipper",
    "build_lr_scheduler",
    "build_optimizer",
    "find_optimizer",
    "find_schedule",
    "gather_optimizer_state",
    "learning_rate_factor",
    "load_optimizer_state",
    "optimizer_name",
    "parameter_groups",
    "restore_scheduled",
]
