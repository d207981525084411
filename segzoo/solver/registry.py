"""Registries of optimizers and learning-rate schedules; other packages may add their own."""

from segzoo.utils.registries import NamedRegistry

OPTIMIZER_REGISTRY = NamedRegistry("OPTIMIZER")
OPTIMIZER_REGISTRY.__doc__ = """
Optimizers, by the value of SOLVER.OPTIMIZER in upper or lower case.

An entry is called with `cfg` and returns a class and its keyword arguments: `build_optimizer` calls the class
with the parameter groups, each with "params", their "names", "lr" and "weight_decay", or passes it to torch's
ZeroRedundancyOptimizer for SOLVER.SHARD_OPTIMIZER.
"""

LR_SCHEDULER_REGISTRY = NamedRegistry("LR_SCHEDULER")
LR_SCHEDULER_REGISTRY.__doc__ = """
Learning-rate schedules, by the value of SOLVER.LR_SCHEDULER_NAME.

An entry is called with `cfg` and returns a function of the iteration (0 for the first) that gives the factor
of every learning rate, or {name prefix of parameters: function} if parts of the model have other factors,
with "" for the rest. It is called several times before training, depends only on `cfg` and changes nothing.
"""
