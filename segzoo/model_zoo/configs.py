"""From a YAML file and `KEY VALUE` overrides to a complete, checked configuration."""

import importlib
import io
import os
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.utils.file_io import PathManager

import segzoo
import segzoo.projects
from segzoo.config import add_segzoo_config
from segzoo.data import register_dataset_file
from segzoo.errors import InputError, did_you_mean
from segzoo.paths import is_same_file, user_path
from segzoo.text_files import decode_text, read_text

from .config_paths import expand_homes
from .config_values import check_values, may_be_none
from .detectron2_keys import check_version_values, drop_version_defaults, explain_version_key

TASKS = ("semantic", "panoptic", "entity", "instance")

# What people write from habit, by the last part of the key.
_HABITS = {
    "VAL": "DATASETS.TEST",
    "VALIDATION": "DATASETS.TEST",
    "BATCH_SIZE": "SOLVER.IMS_PER_BATCH",
    "LR": "SOLVER.BASE_LR",
    "EPOCHS": "SOLVER.MAX_ITER",
    "ITERATIONS": "SOLVER.MAX_ITER",
    "RESUME": "(the flag) --resume",
    "OUTPUT": "OUTPUT_DIR",
}

# Detectron2's keys that nothing here reads, with what does their work; they must stay at their defaults.
_UNREAD = {
    "INPUT.RANDOM_FLIP": "INPUT.FLIP_PROB is the flip's probability, 0 for none",
    "INPUT.CROP.ENABLED": "INPUT.CROP_SIZE crops, or INPUT.DETR_CROP_SIZE with INPUT.AUGMENTATION detr",
    "INPUT.CROP.TYPE": "INPUT.CROP_SIZE is absolute, INPUT.DETR_CROP_SIZE an absolute range",
    "INPUT.CROP.SIZE": "INPUT.CROP_SIZE is (height, width) in pixels, INPUT.DETR_CROP_SIZE a range of pixels",
    "SOLVER.BASE_LR_END": "SOLVER.POLY_LR_CONSTANT_ENDING is the lowest factor of the learning rate",
    "TEST.PRECISE_BN.ENABLED": "running statistics are evaluated as trained; leave the key out",
    "VIS_PERIOD": (
        "TEST.NUM_PICTURES draws predictions into TensorBoard at every evaluation; "
        "tools/visualize_data.py shows training inputs"
    ),
}


def config_root() -> Path:
    """The folder of the configuration files, in a source tree and in an installed package alike."""
    for folder in segzoo.__path__:
        if (Path(folder) / "configs" / "_base_").is_dir():
            return Path(folder) / "configs"
    raise FileNotFoundError(f"no configs/_base_ in {list(segzoo.__path__)}; the installation is incomplete")


def new_config() -> CfgNode:
    """Detectron2's defaults with segzoo's keys and those of every project."""
    cfg = add_segzoo_config(get_cfg())
    segzoo.projects.add_projects_config(cfg)
    return cfg


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Reads a configuration file and completes it.

    Args:
        path: a YAML file, or a name below `configs/` without `.yaml`: `semantic/camvid/maskformer_r18`.
        overrides: alternating keys and values, as on a command line: `["SOLVER.MAX_ITER", "10"]`.

    Returns:
        The configuration, with the datasets of `DATASETS.FILES` registered and the values that follow from
        the dataset filled in. It is not frozen.

    Raises:
        InputError: file not found, unknown key, wrong type or value, unknown dataset, contradiction with the
            dataset.
    """
    return complete_config(read_config(path, overrides))


def read_config(path: str | Path | None, overrides: Sequence[str] = ()) -> CfgNode:
    """As `load_config`, but nothing is imported, registered or derived from a dataset; None: no file.

    Raises:
        InputError: file not found, unknown key, wrong type or value.
    """
    cfg = new_config()
    if path is not None:
        _merge_file(cfg, find_config(path))
    return _with_overrides(cfg, overrides)


def parse_config(text: str, source: str, overrides: Sequence[str] = ()) -> CfgNode:
    """As `read_config`, of the text of a saved configuration. `source`: what holds it, for errors.

    Raises:
        InputError: as above.
    """
    cfg = new_config()
    try:
        loaded = CfgNode.load_cfg(text)
    except Exception as error:  # YAML errors come in many classes
        raise InputError(f"{source}: not a valid YAML config: {' '.join(str(error).split())}") from None
    _merge(cfg, loaded, source)
    return _with_overrides(cfg, overrides)


def _with_overrides(cfg: CfgNode, overrides: Sequence[str]) -> CfgNode:
    defaults = dict(_flatten(new_config()))
    _merge_overrides(cfg, overrides)
    expand_homes(cfg)
    _refuse_unread(cfg)
    for key, value in _flatten(cfg):
        if value is None and defaults.get(key) is not None and not may_be_none(key):
            raise InputError(
                f"{key} has no value; give it one such as {defaults[key]!r}, or leave the key out"
            )
    check_values(cfg)
    return cfg


def complete_config(cfg: CfgNode) -> CfgNode:
    """Imports `IMPORTS`, registers `DATASETS.FILES`, fills what follows from the dataset. In place."""
    for module in cfg.IMPORTS:
        _import(module)
    for dataset_file in cfg.DATASETS.FILES:
        register_dataset_file(dataset_file)
    _check_choice("TASK", cfg.TASK, TASKS)
    cfg.TEST.TASKS = tuple(cfg.TEST.TASKS) or (cfg.TASK,)
    for task in cfg.TEST.TASKS:
        _check_choice("TEST.TASKS", task, TASKS)
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            _check_choice(f"DATASETS.{key}", name, DatasetCatalog.list())
    name = cfg.DATASETS.CLASSES_FROM or next(iter((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)), "")
    if name:
        _check_choice("DATASETS.CLASSES_FROM", name, DatasetCatalog.list())
        _take_from_dataset(cfg, name)
        _check_datasets(cfg, name)
    return cfg


def _import(module: str) -> None:
    folder = os.getcwd()
    if folder not in sys.path:
        # Where a script is started is not on Python's path, but where a user's own module mostly lies.
        sys.path.append(folder)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that it imports in turn may be the one that is missing.
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise InputError(
            f"IMPORTS: no module {module} in this folder or on PYTHONPATH; add its folder to that"
        ) from None


def _take_from_dataset(cfg: CfgNode, name: str) -> None:
    metadata = _segzoo_metadata(name)
    if cfg.TASK != "semantic" and metadata.evaluator_type == "sem_seg":
        raise InputError(
            f"TASK {cfg.TASK} needs panoptic ground truth, but {name} has semantic labels; use TASK semantic"
        )
    is_semantic = cfg.TASK == "semantic"
    has_classes = is_semantic and metadata.get("background") is not None
    if metadata.evaluator_type == "coco_instances" and cfg.TASK != "instance" and not has_classes:
        file = Path(metadata.get("dataset_file", "its YAML file")).name
        background = f"add a class for what no instance covers to classes in {file} and name it there: "
        remedy = f"{background}background: NAME" if is_semantic else "make them with tools/make_panoptic.py"
        raise InputError(
            f"TASK {cfg.TASK} needs {'semantic or ' * is_semantic}panoptic ground truth, but {name} has "
            f"instances; use TASK instance, or {remedy}"
        )
    head = cfg.MODEL.SEM_SEG_HEAD
    expected = {"entity": 1, "instance": len(metadata.thing_classes)}.get(cfg.TASK, len(metadata.classes))
    if head.NUM_CLASSES not in (0, expected):
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES={head.NUM_CLASSES} but {name} has {expected} ({cfg.TASK}); "
            "leave the key out, or name another dataset in DATASETS.CLASSES_FROM"
        )
    head.NUM_CLASSES = expected
    head.IGNORE_VALUE = metadata.ignore_label


def _segzoo_metadata(name: str) -> Metadata:
    metadata = MetadataCatalog.get(name)
    if not hasattr(metadata, "classes") or not hasattr(metadata, "evaluator_type"):
        raise InputError(
            f"DATASETS: {name} is a Detectron2 dataset without the class facts segzoo needs; "
            "describe it in a YAML file and list that in DATASETS.FILES"
        )
    return metadata


def _check_datasets(cfg: CfgNode, classes_from: str) -> None:
    """Every dataset has the classes that the model predicts, and ground truth for what is asked of it."""
    expected = MetadataCatalog.get(classes_from)
    # Entities have no class: a model that is scored for them alone may be tested on any segments.
    test = () if tuple(cfg.TEST.TASKS) == ("entity",) else cfg.DATASETS.TEST
    # Stuff is no instance: a panoptic model may be tested on the instances of its things.
    tested = "thing_classes" if tuple(cfg.TEST.TASKS) == ("instance",) else "classes"
    for key, names, kind in (("TRAIN", cfg.DATASETS.TRAIN, "classes"), ("TEST", test, tested)):
        for name in names:
            found, wanted = (list(one.get(kind, ())) for one in (_segzoo_metadata(name), expected))
            if found != wanted:
                raise InputError(
                    f"DATASETS.{key}: {name} has other classes than {classes_from} "
                    f"({_first_difference(found, wanted)}); map both to the same with label_map in their "
                    f"YAML files, or choose another DATASETS.CLASSES_FROM or DATASETS.{key}"
                )
    for name in cfg.DATASETS.TEST:
        panoptic = [task for task in cfg.TEST.TASKS if task != "semantic"]
        if panoptic and _segzoo_metadata(name).evaluator_type == "sem_seg":
            raise InputError(
                f"TEST.TASKS {panoptic[0]} needs panoptic ground truth, but {name} has semantic labels; "
                "choose another DATASETS.TEST, or TEST.TASKS \"('semantic',)\""
            )


def _first_difference(found: list[str], expected: list[str]) -> str:
    if len(found) != len(expected):
        return f"{len(found)} instead of {len(expected)}"
    index = next(i for i, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)
    return f"class {index} is {found[index]!r} instead of {expected[index]!r}"


def _refuse_unread(cfg: CfgNode) -> None:
    defaults = dict(_flatten(get_cfg()))
    for key, value in _flatten(cfg):
        if key in _UNREAD and value != defaults[key]:
            raise InputError(f"{key} {value!r} has no effect in segzoo; {_UNREAD[key]}")


def find_config(path: str | Path) -> Path:
    """The configuration file of that path, or of that name below `configs/`, from whatever folder.

    Raises:
        InputError: there is none.
    """
    root, given = config_root(), user_path(path)
    for candidate in (given, root / given, root / f"{path}.yaml", root.parent / given):
        if os.path.isfile(candidate):  # a Path's own raises for a name that is too long
            return candidate
    names = [str(file.relative_to(root))[: -len(".yaml")] for file in root.rglob("*.yaml")]
    wanted = str(path).removeprefix("configs/").removesuffix(".yaml")
    found = "is a folder; give one of its files" if os.path.isdir(given) else "does not exist"
    raise InputError(f"config file {path} {found}{_did_you_mean(wanted, names)}")


def is_config_name(name: str | Path) -> bool:
    """Whether it names a configuration below `configs/` without `.yaml`, and no file of the user's."""
    return os.path.isfile(config_root() / f"{name}.yaml") and not os.path.exists(user_path(name))


def zoo_name(path: str | Path) -> str:
    """The name in the zoo of a configuration, however its file is written; other files keep their path."""
    name = "/".join(Path(path).parts[-3:]).removesuffix(".yaml")
    ours, given = config_root() / f"{name}.yaml", user_path(path)
    return name if ours.is_file() and (not given.is_file() or is_same_file(given, ours)) else str(path)


class _FileReader(CfgNode):
    """Reads files in any encoding that they may have, and those that a link leads to with their own bases."""

    @classmethod
    def _open_cfg(cls, filename: str) -> Any:
        with PathManager.open(filename, "rb") as file:
            return io.StringIO(decode_text(file.read()))

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        try:
            return super().load_yaml_with_base(filename, allow_unsafe)
        except FileNotFoundError:
            # Bases are relative to the link, else to the file that it leads to.
            if not os.path.islink(filename):
                raise
            return cls.load_yaml_with_base(os.path.realpath(filename), allow_unsafe)


def read_with_bases(file: Path) -> dict[str, Any]:
    """The keys and values of a configuration file and its `_BASE_` files, not yet checked."""
    return _FileReader.load_yaml_with_base(str(file))


def _merge_file(cfg: CfgNode, file: Path) -> None:
    try:
        loaded = CfgNode(read_with_bases(file))
    except FileNotFoundError as error:
        raise InputError(f"{file}: _BASE_ {error.filename} does not exist (relative to the file)") from None
    except RecursionError:
        raise InputError(
            f"{file}: {_in_circle(file.resolve())} is among its own _BASE_ files; take it out there"
        ) from None
    except Exception as error:  # YAML errors come in many classes
        reason = " ".join(str(error).split())
        if isinstance(error, TypeError | AttributeError):
            reason = "it holds no keys with values"
        raise InputError(f"{file}: not a valid YAML config: {reason}") from None
    _merge(cfg, loaded, str(file))


def _merge(cfg: CfgNode, loaded: CfgNode, source: str) -> None:
    drop_version_defaults(loaded)
    check_version_values(loaded, cfg, source, _UNREAD)
    _check_keys(cfg, loaded, source)
    try:
        cfg.merge_from_other_cfg(loaded)
    except (ValueError, KeyError) as error:
        raise InputError(f"{source}: {_explained_type(error)}") from None


def _in_circle(file: Path, above: tuple[Path, ...] = ()) -> Path | None:
    """A file that is among its own bases."""
    if file in above:
        return file
    bases = yaml.safe_load(read_text(file)).get("_BASE_", [])
    folder = file.parent
    circles = (
        _in_circle((folder / user_path(base)).resolve(), (*above, file))
        for base in ([bases] if isinstance(bases, str) else bases)
    )
    return next(filter(None, circles), None)


_WRONG_TYPE = re.compile(
    r"Type mismatch \(<class '(\w+)'> vs. <class '([\w.]+)'>\) "
    r"with values \((.*) vs. (.*)\) for config key: ([\w.]+)"
)
_KEY_AND_VALUE = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*=")
_TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "str": "a text",
    "tuple": "a list",
    "list": "a list",
    "CfgNode": "a section with keys",
}


def _explained_type(error: Exception) -> str:
    """What yacs says of a value of another type than the key's default."""
    text = " ".join(str(error).split())
    match = _WRONG_TYPE.fullmatch(text)
    if match is None:
        return text
    wanted, found, default, value, key = match.groups()
    expected = _TYPE_NAMES.get(wanted, wanted)
    return f"{key} is {value} ({found}); expected {expected}, such as {default or repr('')}"


def _merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    joined = next((word for word in overrides[::2] if _KEY_AND_VALUE.match(str(word))), None)
    if joined is not None:
        key, _, value = joined.partition("=")
        raise InputError(f"{joined}: overrides come as KEY VALUE pairs; write {key} {shlex.quote(value)}")
    known = dict(_flatten(cfg))
    if len(overrides) % 2:
        raise InputError(f"overrides come as KEY VALUE pairs, but {_unpaired(overrides, known)}")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        if key not in known:
            remedy = "; give one of its keys" if any(name.startswith(f"{key}.") for name in known) else ""
            raise InputError(f"unknown key {key}{remedy or _did_you_mean(key, known)}")
        try:
            cfg.merge_from_list([key, _as_float_where_wanted(known[key], value)])
        except (ValueError, AssertionError) as error:
            text = _explained_type(error)
            raise InputError(text if text.startswith(key) else f"{key}: {text}") from None


def _unpaired(overrides: Sequence[str], known: Collection[str]) -> str:
    """What is wrong with an odd number of overrides."""
    index = next((index for index in range(0, len(overrides), 2) if overrides[index] not in known), -1)
    if index <= 0:
        return f"{overrides[-1]!r} has no value"
    before = " ".join(overrides[index - 2 : index])
    return f"{overrides[index]!r} after {before} is no key; give every key one value, with spaces in quotes"


def _check_keys(cfg: CfgNode, loaded: CfgNode, source: str) -> None:
    known = dict(_flatten(cfg))
    sections = {key.rsplit(".", count)[0] for key in known for count in range(1, key.count(".") + 1)}
    for key, value in list(_flatten(loaded)):
        if key in sections or (key not in known and not _inside_free_section(cfg, key)):
            raise InputError(f"{source}: unknown key {key}{_did_you_mean(key, known)}")
        if key in known:
            *path, leaf = key.split(".")
            node = loaded
            for part in path:
                node = node[part]
            node[leaf] = _as_float_where_wanted(known[key], value)


def _inside_free_section(cfg: CfgNode, key: str) -> bool:
    node: Any = cfg
    for part in key.split(".")[:-1]:
        node = node.get(part) if isinstance(node, CfgNode) else None
        if node is None:
            return False
        if node.is_new_allowed():
            return True
    return False


def _as_float_where_wanted(default: Any, value: Any) -> Any:
    """`1` is a fine learning rate; yacs alone would insist on `1.0`."""
    if not isinstance(default, float):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _flatten(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_choice(key: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        listed = f"; known: {', '.join(choices)}" if len(choices) < 8 else ""
        raise InputError(f"{key} {value!r} is unknown{_did_you_mean(value, choices)}{listed}")


def _did_you_mean(key: str, choices: Iterable[str]) -> str:
    if explain_version_key(key) and key not in _UNREAD:
        return explain_version_key(key)
    if key in _UNREAD:  # Not every release of Detectron2 has all of them.
        return f"; {_UNREAD[key]}"
    habit = _HABITS.get(key.rsplit(".", 1)[-1].upper())
    return f"; did you mean {habit}?" if habit else did_you_mean(key, choices)
