"""Look up the zoo's configuration of a model by the name that its authors gave it.

As with `published_hashes`, the module that knows the names is in a higher layer than those that need them.
"""

import importlib
from typing import NamedTuple


class Named(NamedTuple):
    """A configuration of the zoo whose model has a name in another code base.

    Attributes:
        configuration: its name in the zoo.
        source: the code base, as the zoo's tables call it, or the method if there is only one.
    """

    configuration: str
    source: str


_sources: list[str] = []


def register_names(module: str) -> None:
    """Register a module whose `published_names(name)` returns the configurations with that name.

    They are listed in order of preference; unknown names give (). Its `all_published_names()` returns the
    known ones.
    """
    _sources.append(module)


def find_names(name: str) -> list[Named]:
    """Return the configurations whose authors call the model so, the preferred one first."""
    return [found for module in _sources for found in importlib.import_module(module).published_names(name)]


def known_names() -> list[str]:
    """Return the names of models in other code bases, such as GluonCV's `fcn_resnet50_ade`."""
    return [name for module in _sources for name in importlib.import_module(module).all_published_names()]
