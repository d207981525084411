"""Look up published weights, from the tables in `weights/*.yaml`, by the configuration's name."""

import functools
import re
from pathlib import Path

from segzoo.config.files import zoo_name
from segzoo.utils.errors import InputError
from segzoo.utils.published_names import Named

from .records import Section, WeightsInfo
from .table_reader import read_table

TABLES = Path(__file__).parent / "weights"


def official_weights(name: str) -> WeightsInfo:
    """Return the record of a configuration's official weights.

    Raises:
        InputError: the zoo has no official weights for it, or no direct link.
    """
    info = known_models().get(zoo_name(name))
    if info is not None and info.url:
        return info
    place = (info.page or info.folder) if info else ""
    if place:
        raise InputError(
            f"{name} has no direct link to its official weights; download them from {place} and give the path"
        )
    reason = f" ({info.note})" if info and info.note else ""
    raise InputError(f"{name} has no official weights{reason}; give a checkpoint of your own, path or URL")


@functools.cache
def known_models() -> dict[str, WeightsInfo]:
    """Return all models of the tables, with and without official weights, by configuration name.

    Raises:
        InputError: a table is not valid, or two rows have the same name.
    """
    models: dict[str, WeightsInfo] = {}
    for section in sections():
        for info in section.models:
            if info.name in models:
                raise InputError(f"{TABLES}: {info.name} has two rows; a configuration has one")
            models[info.name] = info
    return models


def published_hashes(url: str) -> tuple[str, str]:
    """Return the first hex digits of the md5 and sha256 of an official file, "" if none is published."""
    if not url.startswith(("http://", "https://")):  # as all links of the tables, whose reading takes time
        return "", ""
    found = next((info for info in known_models().values() if info.url == url), None)
    return (found.md5_prefix, found.sha256_prefix) if found else ("", "")


# `fcn_resnet50_ade`, and not the number of a training run.
_NAME = re.compile(r"[a-z]+[a-z0-9]*(_[a-z0-9]+)+")


def published_names(name: str) -> tuple[Named, ...]:
    """Return the models that their authors call so, those with a direct link to their weights first."""
    if not _NAME.fullmatch(name):
        return ()
    found = [
        (info, section.source or section.method)
        for section in sections()
        for info in section.models
        if info.model_id == name
    ]
    return tuple(Named(info.name, source) for info, source in sorted(found, key=lambda pair: not pair[0].url))


def all_published_names() -> tuple[str, ...]:
    """Return all names that `published_names` knows."""
    return tuple(info.model_id for info in known_models().values() if _NAME.fullmatch(info.model_id))


@functools.cache
def sections() -> tuple[Section, ...]:
    """Return the sections of all tables, in alphabetical order of their files.

    Raises:
        InputError: a table is not valid.
    """
    return tuple(section for file in sorted(TABLES.glob("*.yaml")) for section in read_table(file))
