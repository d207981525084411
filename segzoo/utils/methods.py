"""Import the methods of `segzoo.projects`, which fills the registries, when a name is first looked up.

A method registers its heads, losses and key maps when its modules are imported. That takes seconds, and is
not needed to read a configuration or list models.
"""

import importlib

# Importing this package adds the configuration keys of all methods; its `load_all()` imports the rest.
PROJECTS = "segzoo.projects"


def load_methods() -> None:
    """Import every method, which registers its parts; after the first call this does nothing."""
    importlib.import_module(PROJECTS).load_all()
