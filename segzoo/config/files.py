"""Find configuration files and their names."""

import functools
import logging
import os
from pathlib import Path, PurePath

import segzoo
from segzoo.utils.errors import InputError
from segzoo.utils.paths import is_same_file, user_path
from segzoo.utils.published_names import find_names, known_names
from segzoo.utils.text import did_you_mean

logger = logging.getLogger(__name__)

CONFIGURATIONS = (".yaml", ".yml")
# Files of weights, as authors publish them and as segzoo writes them.
_CHECKPOINTS = (".pth", ".pt", ".ckpt", ".pkl", ".bin", ".safetensors", ".params", ".zip", ".npz", ".tar")


def config_root() -> Path:
    """Return the folder of the configuration files, in a source tree or an installed package."""
    folder = Path(segzoo.__file__).parent / "configs"
    if not (folder / "_base_").is_dir():
        raise FileNotFoundError(f"no {folder / '_base_'}; the installation is incomplete")
    return folder


def find_config(path: str | Path) -> Path:
    """Return the configuration file with that path, or with that name below `configs/` or of its authors.

    Raises:
        InputError: there is no such file.
    """
    root, given = config_root(), user_path(path)
    for candidate in (given, root / given, root / f"{path}.yaml", root.parent / given):
        if os.path.isfile(candidate):  # Path.is_file raises for a name that is too long
            return candidate
    if name := _name_of_authors(str(path)):
        return root / f"{name}.yaml"
    names = [str(file.relative_to(root))[: -len(".yaml")] for file in root.rglob("*.yaml")]
    wanted = str(path).removeprefix("configs/").removesuffix(".yaml")
    found = "is a folder; give one of its files" if os.path.isdir(given) else "does not exist"
    if "/" not in wanted:
        names += known_names()
    hint = did_you_mean(wanted, names) or "; `segzoo zoo` lists the names"
    raise InputError(f"config file {path} {found}{hint}")


def names_checkpoint(name: str | Path) -> bool:
    """Return whether a path or URL is that of a weights file and not of a configuration."""
    text = str(name)
    suffix = PurePath(text.partition("#")[0]).suffix.lower()
    return suffix not in CONFIGURATIONS and ("://" in text or suffix in _CHECKPOINTS or _is_binary(text))


def _is_binary(name: str) -> bool:
    """Return whether a file starts as archives, pickles and safetensors do, and no text does."""
    path = user_path(name)
    if not os.path.isfile(path):
        return False
    with path.open("rb") as stream:
        start = stream.read(8)
    return b"\0" in start or start.startswith(b"\x80")


def is_config_name(name: str | Path) -> bool:
    """Return whether a name without `.yaml` is one of the zoo and not the path of a user's file."""
    if os.path.exists(user_path(name)):
        return False
    return os.path.isfile(config_root() / f"{name}.yaml") or bool(_name_of_authors(str(name)))


def zoo_name(path: str | Path) -> str:
    """Return a configuration's name in the zoo, however its path is written; other files keep their path.

    The name that the authors gave the model, such as GluonCV's `fcn_resnet50_ade`, is one, too.
    """
    name = "/".join(Path(path).parts[-3:]).removesuffix(".yaml")
    ours, given = config_root() / f"{name}.yaml", user_path(path)
    if ours.is_file() and (not given.is_file() or is_same_file(given, ours)):
        return name
    return str(path) if given.exists() else _name_of_authors(str(path)) or str(path)


@functools.cache
def _name_of_authors(name: str) -> str:
    """Return the zoo's name of a model that its authors call `name`, and log it once; "" for other names."""
    if "/" in name or "." in name:
        return ""
    found = find_names(name)
    if not found:
        return ""
    first, *others = found
    also = "".join(f"; {other.source}'s of that name is {other.configuration}" for other in others)
    logger.warning("%s, a name of %s, is %s here%s", name, first.source, first.configuration, also)
    return first.configuration
