"""Optimizers and learning-rate schedules by name; a private package may add its own."""

from segzoo.utils.registries import NamedRegistry

OPTIMIZER_REGISTRY = NamedRegistry("OPTIMIZER")
OPTIMIZER_REGISTRY.__doc__ = """
Optimizers, by the name that SOLVER.OPTIMIZER gives in upper or lower case.

Called with `cfg`. Returns a class and its keyword arguments: `build_optimizer` calls it with the parameter
groups, each with "params", their "names", "lr" and "weight_decay", or hands it to torch's
ZeroRedundancyOptimizer for SOLVER.SHARD_OPTIMIZER.
"""

LR_SCHEDULER_REGISTRY = NamedRegistry("LR_SCHEDULER")
LR_SCHEDULER_REGISTRY.__doc__ = """
Schedules of the learning rate, by the name that SOLVER.LR_SCHEDULER_NAME gives.

Called with `cfg`. Returns a function of the iteration, 0 for the first, by which every learning rate is
multiplied. Where parts of the model have other factors than the rest: {name prefix of parameters: function},
the rest under "". It is called several times before a training, depends on `cfg` alone and changes nothing.
"""
