"""Imports the methods of `segzoo.projects`, which fills the registries, when a name is first looked up.

A method registers its heads, losses and key maps when its modules are imported. That takes seconds, which
whoever reads a configuration or lists models need not wait.
"""

import importlib

# Importing this package brings the configuration keys of all methods; its `load_all()` brings the rest.
PROJECTS = "segzoo.projects"


def load_methods() -> None:
    """Import every method, which registers what it has; after the first time this does nothing."""
    importlib.import_module(PROJECTS).load_all()


def fill_detectron2_registries() -> None:
    """Let Detectron2's registries of models, backbones and heads find what segzoo adds to them.

    So Detectron2's own `build_model(cfg)` builds every method. Called after
    `detectron2.modeling` is imported.
    """
    from detectron2 import modeling

    from .filled_registry import FilledRegistry

    for registry in (
        modeling.META_ARCH_REGISTRY,
        modeling.BACKBONE_REGISTRY,
        modeling.SEM_SEG_HEADS_REGISTRY,
    ):
        # Others hold these very objects already.
        registry.__class__ = FilledRegistry
