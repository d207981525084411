"""Registration with Detectron2's dataset catalogs, deferred until `detectron2.data` is imported.

That import loads torchvision and takes longer than everything that a configuration needs. Datasets registered
before it can be queried here.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from segzoo.utils.errors import InputError
from segzoo.utils.import_hooks import after_import

Load = Callable[[], list[dict[str, Any]]]


class _Entry(NamedTuple):
    load: Load
    metadata: dict[str, Any]
    taken: str


_waiting: dict[str, _Entry] = {}
# Whether Detectron2's catalogs are imported, with its own datasets.
_are_imported = False


def register(name: str, load: Load, metadata: Mapping[str, Any], taken: str = "") -> None:
    """Register a dataset with DatasetCatalog and MetadataCatalog, now or when they are imported.

    Args:
        name: name of the dataset.
        load: returns its records (Detectron2's dataset dicts).
        metadata: its entries in MetadataCatalog.
        taken: error message if Detectron2's catalogs have the name already; "": replace their entry.

    Raises:
        InputError: `taken`. If the catalogs are not imported yet, their import raises it.
    """
    _waiting[name] = _Entry(load, dict(metadata), taken)
    if _are_imported:
        _register_waiting()


def is_registered(name: str) -> bool:
    """Return whether a dataset of this name is registered, without importing the catalogs."""
    if not _are_imported:
        return name in _waiting
    from detectron2.data import DatasetCatalog

    return name in DatasetCatalog


def find_metadata(name: str) -> Mapping[str, Any]:
    """Return the metadata of a dataset, as in MetadataCatalog; {} if it is not registered."""
    if name in _waiting:
        return _waiting[name].metadata
    from detectron2.data import DatasetCatalog, MetadataCatalog

    return vars(MetadataCatalog.get(name)) if name in DatasetCatalog else {}


def _register_waiting_on_import() -> None:
    global _are_imported
    _are_imported = True
    _register_waiting()


def _register_waiting() -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    for name in list(_waiting):
        entry = _waiting.pop(name)
        if name in DatasetCatalog and entry.taken:
            raise InputError(entry.taken)
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.pop(name)
        DatasetCatalog.register(name, entry.load)
        MetadataCatalog.get(name).set(**entry.metadata)


after_import("detectron2.data", _register_waiting_on_import)
