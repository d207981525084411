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
