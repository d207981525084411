"""The registry of trainers: what a configuration is trained, evaluated and tested with."""

from segzoo.utils.registries import NamedRegistry

TRAINER_REGISTRY = NamedRegistry("TRAINER")
TRAINER_REGISTRY.__doc__ = """
Subclasses of `segzoo.engine.Trainer`, by the name that TRAINER gives.

Whatever runs a configuration builds its parts by the class methods of its trainer: `build_model`,
`build_mapper`, `build_test_loader`, `build_evaluators`, ...
"""
