"""Registry of trainers, which build everything that training, evaluation and prediction use."""

from segzoo.utils.registries import NamedRegistry

TRAINER_REGISTRY = NamedRegistry("TRAINER")
TRAINER_REGISTRY.__doc__ = """
Subclasses of `segzoo.engine.Trainer`, by the name that TRAINER gives.

All commands build their parts by the class methods of the configuration's trainer: `build_model`,
`build_mapper`, `build_test_loader`, `build_evaluators`, ...
"""
