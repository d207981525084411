"""Load a complete, checked configuration from a YAML file and `KEY VALUE` overrides."""

import difflib
import logging
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from .bases import is_based_on_zoo, read_with_bases, read_without_zoo
from .defaults import default_config
from .extensions import add_registered_config, import_extensions
from .files import find_config, names_checkpoint
from .keys import equal, existing_section, flatten
from .paths import expand_homes
from .renamed.apply import convert_foreign_keys, is_saved, pop_foreign_keys, translate_whole_file
from .renamed.backbones import check_backbone_name
from .renamed.heads import DEC_LAYERS
from .renamed.table import CONVERTED
from .renamed.translate import check_decoder_layers, local_spelling, needs_conversion
from .renamed.unread import IGNORED, UNREAD, why_unread
from .retired_keys import drop_retired_keys, explain_retired_key
from .rules import check_values, may_be_none
from .value_types import match_float_default, no_value_message, type_message, with_default_type
from .version_keys import check_version_values, drop_version_defaults, explain_version_key

logger = logging.getLogger(__name__)

# Keys that users of other code bases write, by the last part of the key.
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


def new_config() -> CfgNode:
    """Return Detectron2's defaults with the keys of segzoo, its projects and imported modules."""
    cfg = default_config()
    add_registered_config(cfg)
    return cfg


def read_config(path: str | Path | None, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a configuration file, import the modules of its IMPORTS, and check keys and values.

    Datasets are not registered, and no key is derived from them.

    Args:
        path: a YAML file, or a name below `configs/` without `.yaml`: `semantic/camvid/maskformer_r18`; None
            for the defaults.
        overrides: alternating keys and values, as on a command line: `["SOLVER.MAX_ITER", "10"]`.

    Raises:
        InputError: the file does not exist, or a key is unknown or has a wrong type or value.
    """
    if path is None:
        return _configuration(CfgNode(), "", overrides)
    file = find_config(path)
    if names_checkpoint(file):
        raise InputError(
            f"{path} is a checkpoint, not a configuration; give the one it was trained with, "
            f"{_saved_beside(file)}, and the checkpoint as --weights (MODEL.WEIGHTS)"
        )
    return _configuration(_read_file(file), str(file), overrides, file.resolve())


def _saved_beside(checkpoint: Path) -> str:
    """Return where the configuration of a checkpoint's training is."""
    saved = checkpoint.parent / "config.yaml"
    return str(saved) if saved.is_file() else "which is config.yaml in its OUTPUT_DIR"


def parse_config(text: str, source: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Return a configuration from the text of a saved one, as `read_config` does from a file.

    Args:
        text: YAML.
        source: the file that holds it, for errors.
        overrides: alternating keys and values.

    Raises:
        InputError: as `read_config`.
    """
    try:
        loaded = CfgNode.load_cfg(text)
    except Exception as error:  # YAML errors come in many classes
        raise InputError(f"{source}: not a valid YAML config: {' '.join(str(error).split())}") from None
    return _configuration(loaded, source, overrides)


def _configuration(
    loaded: CfgNode, source: str, overrides: Sequence[str], file: Path | None = None
) -> CfgNode:
    # These modules may add keys, so they are imported before keys are checked.
    import_extensions(_imports(loaded, source, overrides))
    cfg = new_config()
    loaded, overrides = translate_whole_file(
        loaded, overrides, cfg, source, lambda: file is None or is_based_on_zoo(file)
    )
    saved = is_saved(loaded)  # what this package wrote needs no conversion
    renamed = {} if saved else pop_foreign_keys(loaded, cfg)
    _merge(cfg, loaded, source)
    if renamed:
        own = dict(flatten(CfgNode(read_without_zoo(file)))) if file else {}
        _merge(cfg, convert_foreign_keys(renamed, cfg, own, source), source)
    return _with_overrides(cfg, overrides, dict(flatten(cfg if saved else get_cfg())))


def _imports(loaded: CfgNode, source: str, overrides: Sequence[str]) -> list[str]:
    """Return the modules of IMPORTS, in the file or the last override, as for all keys."""
    cfg = CfgNode({"IMPORTS": default_config().IMPORTS})
    if "IMPORTS" in loaded:
        _merge(cfg, CfgNode({"IMPORTS": loaded.IMPORTS}), source)
    given = [value for key, value in zip(overrides[::2], overrides[1::2], strict=False) if key == "IMPORTS"]
    if given:
        _merge_overrides(cfg, ["IMPORTS", given[-1]])
    return with_default_type("IMPORTS", cfg.IMPORTS, ())


def _with_overrides(cfg: CfgNode, overrides: Sequence[str], unread: Mapping[str, Any]) -> CfgNode:
    """Apply the overrides and check the result.

    Args:
        unread: the values at which keys without effect are accepted.
    """
    defaults = dict(flatten(new_config()))
    _merge_overrides(cfg, overrides)
    values = dict(flatten(cfg))
    for key, value in values.items():
        if key in unread and not equal(value, unread[key]) and (remedy := why_unread(key, values)):
            raise InputError(f"{key} {value!r} has no effect in segzoo; {remedy}")
        if value is None and defaults.get(key) is not None and not may_be_none(key):
            raise InputError(no_value_message(key, defaults[key]))
    for key in IGNORED.keys() & unread.keys():
        if not equal(values[key], unread[key]):
            logger.warning("%s %r has no effect in segzoo; %s", key, values[key], IGNORED[key])
    check_values(cfg)
    expand_homes(cfg)
    return cfg


def _read_file(file: Path) -> CfgNode:
    try:
        return CfgNode(read_with_bases(file))
    except FileNotFoundError as error:
        raise InputError(f"{file}: _BASE_ {error.filename} does not exist (relative to the file)") from None
    except InputError:
        raise
    except Exception as error:  # YAML errors come in many classes
        reason = " ".join(str(error).split())
        if isinstance(error, TypeError | AttributeError):
            reason = "it is not a mapping of keys to values"
        raise InputError(f"{file}: not a valid YAML config: {reason}") from None


def _merge(cfg: CfgNode, loaded: CfgNode, source: str) -> None:
    drop_version_defaults(loaded)
    drop_retired_keys(loaded, source)
    check_version_values(loaded, cfg, source, UNREAD)
    _check_keys(cfg, loaded, source)
    try:
        cfg.merge_from_other_cfg(loaded)
    except (ValueError, KeyError) as error:
        raise InputError(f"{source}: {type_message(error)}") from None


_KEY_AND_VALUE = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*=")


def _merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    joined = next((word for word in overrides[::2] if _KEY_AND_VALUE.match(str(word))), None)
    if joined is not None:
        key, _, value = joined.partition("=")
        raise InputError(f"{joined}: overrides are KEY VALUE pairs; write {key} {shlex.quote(value)}")
    known = dict(flatten(cfg))
    if len(overrides) % 2:
        raise InputError(f"overrides are KEY VALUE pairs, but {_unpaired(overrides, {*known, *CONVERTED})}")
    pairs = list(zip(overrides[::2], overrides[1::2], strict=True))
    backbone = {**known, **dict(pairs)}.get("MODEL.BACKBONE.NAME", "")
    renamed = {key: value for key, value in pairs if needs_conversion(key, known, backbone)}
    for key, value in pairs:
        if key in renamed:
            continue
        if key not in known:
            raise InputError(f"unknown key {key}{_did_you_mean(key, known)}")
        try:
            cfg.merge_from_list([key, match_float_default(known[key], local_spelling(key, value))])
        except (ValueError, AssertionError) as error:
            text = type_message(error)
            raise InputError(text if text.startswith(key) else f"{key}: {text}") from None
    check_backbone_name(dict(pairs), known)
    if any(key == DEC_LAYERS for key, _ in pairs):
        check_decoder_layers(known, cfg)
    if renamed:
        _merge(cfg, convert_foreign_keys(renamed, cfg, dict(pairs), ""), ", ".join(renamed))


def _unpaired(overrides: Sequence[str], known: Collection[str]) -> str:
    """Return what is wrong with an odd number of overrides."""
    index = next((index for index in range(0, len(overrides), 2) if overrides[index] not in known), -1)
    if index <= 0:
        return f"{overrides[-1]!r} has no value"
    before = " ".join(overrides[index - 2 : index])
    return f"{overrides[index]!r} after {before} is not a key; give each key one value, with spaces in quotes"


def _check_keys(cfg: CfgNode, loaded: CfgNode, source: str) -> None:
    known = dict(flatten(cfg))
    sections = {key.rsplit(".", count)[0] for key in known for count in range(1, key.count(".") + 1)}
    for key, value in list(flatten(loaded)):
        if key in sections or (key not in known and not _inside_free_section(cfg, key)):
            raise InputError(f"{source}: unknown key {key}{_did_you_mean(key, known)}")
        if key in known:
            *path, leaf = key.split(".")
            existing_section(loaded, path)[leaf] = match_float_default(known[key], value)


def _inside_free_section(cfg: CfgNode, key: str) -> bool:
    node = cfg
    for part in key.split(".")[:-1]:
        node = node.get(part)
        if not isinstance(node, CfgNode):
            return False
        if node.is_new_allowed():
            return True
    return False


def _did_you_mean(key: str, choices: Collection[str]) -> str:
    if any(choice.startswith(f"{key}.") for choice in (*choices, *CONVERTED)):
        return "; give one of its keys"
    if retired := explain_retired_key(key):
        return retired
    if explain_version_key(key) and key not in UNREAD:
        return explain_version_key(key)
    if key in UNREAD:  # not every release of Detectron2 has all of these keys
        return f"; {UNREAD[key]}"
    habit = _HABITS.get(key.rsplit(".", 1)[-1].upper())
    if habit:
        return f"; did you mean {habit}?"
    # Full keys of one section all look similar, so the last parts are compared first.
    by_name: dict[str, list[str]] = {}
    for choice in (*choices, *CONVERTED):
        by_name.setdefault(choice.rsplit(".", 1)[-1], []).append(choice)
    similar = difflib.get_close_matches(key.rsplit(".", 1)[-1].upper(), by_name, n=10)
    return did_you_mean(key, [choice for name in similar for choice in by_name[name]])
