"""Registration with Detectron2's catalogs of datasets, which waits until `detectron2.data` is imported.

That import brings torchvision, and takes longer than all that a configuration needs. What has been registered
before it can be asked for here.
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
# Whether Detectron2's catalogs are there, with its own datasets in them.
_are_there = False


def register(name: str, load: Load, metadata: Mapping[str, Any], taken: str = "") -> None:
    """Register a dataset with DatasetCatalog and MetadataCatalog, in the place of another that waits.

    Args:
        name: of the dataset.
        load: returns its images, as Detectron2's dataset dicts.
        metadata: what MetadataCatalog says of it.
        taken: the error if Detectron2's catalogs have the name; "" replaces what they have.

    Raises:
        InputError: `taken`. Where the catalogs are not imported yet, their import raises it.
    """
    _waiting[name] = _Entry(load, dict(metadata), taken)
    if _are_there:
        _hand_over()


def is_registered(name: str) -> bool:
    """Return whether there is a dataset of this name, as far as is known without importing the catalogs."""
    if not _are_there:
        return name in _waiting
    from detectron2.data import DatasetCatalog

    return name in DatasetCatalog


def find_metadata(name: str) -> Mapping[str, Any]:
    """Return what is known of a dataset, by MetadataCatalog's names; {} where none is registered so."""
    if name in _waiting:
        return _waiting[name].metadata
    from detectron2.data import DatasetCatalog, MetadataCatalog

    return vars(MetadataCatalog.get(name)) if name in DatasetCatalog else {}


def _catalogs_are_there() -> None:
    global _are_there
    _are_there = True
    _hand_over()


def _hand_over() -> None:
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


after_import("detectron2.data", _catalogs_are_there)
