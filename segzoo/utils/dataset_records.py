"""The records of a registered dataset, shared by processes where that is possible."""

from collections.abc import Sequence
from typing import Any


def dataset_records(name: str) -> Sequence[dict[str, Any]]:
    """Return the records of DatasetCatalog, in little memory and without reading them again if they are many.

    They need not be a list: every access may give a new dict.
    """
    from detectron2.data import DatasetCatalog  # a slow import

    # segzoo registers objects with this method, see `SplitLoader`.
    shared = getattr(DatasetCatalog[name], "shared", None) if name in DatasetCatalog else None
    return DatasetCatalog.get(name) if shared is None else shared()
