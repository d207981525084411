"""Translate keys and values of Detectron2, MaskFormer or Mask2Former to segzoo's.

A whole file is read over the defaults of its code base, and all of it is converted. Single keys, on a command
line or in a file based on a configuration of the zoo, change the existing configuration.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from detectron2.config import CfgNode, get_cfg

from segzoo.config.keys import flatten
from segzoo.utils.errors import InputError

from ..keys import decode, equal
from ..value_types import with_default_type
from .backbones import OUR_BACKBONES
from .code_bases import (
    DETECTRON2,
    ENTITYSEG,
    ENTITYSEG_KEYS,
    MASK2FORMER,
    MASK2FORMER_KEYS,
    MASKFORMER,
    CodeBase,
)
from .heads import (
    DEC_LAYERS,
    DECODER,
    DETECTOR,
    ENTITY_FPN,
    MASK_RCNN,
    MASKED_DECODER,
    OTHER_ARCHITECTURES,
)
from .row import Context
from .table import CONVERTED, ROWS
from .training import VALUES

logger = logging.getLogger(__name__)

# Keys of segzoo that define a model or a training; a file has these or those of another code base.
_OURS = ("TASK", "INPUT.AUGMENTATION", "MODEL.BACKBONE.VARIANT", "MODEL.MASK_FORMER.MASK_LOSS")
_ADDED = MASK2FORMER.keys.keys() | ENTITYSEG_KEYS


def find_code_base(
    loaded: Mapping[str, Any], known: Iterable[str], on_zoo: Callable[[], bool]
) -> CodeBase | None:
    """Return the code base that a whole file is written for; None for segzoo.

    Args:
        loaded: the values of the file and its bases, by full key.
        known: segzoo's keys.
        on_zoo: returns whether a configuration of the zoo is among the bases.

    Raises:
        InputError: the file has keys of both, which is ambiguous.
    """
    theirs = (loaded.keys() - set(known)) & _ADDED
    ours = [key for key in _OURS if key in loaded]
    if not theirs and (ours or loaded.get("MODEL.META_ARCHITECTURE") not in OTHER_ARCHITECTURES):
        return None
    if on_zoo():
        return None
    if ours:
        row = next(row for row in ROWS if theirs & set(row.keys))
        key = next(key for key in row.keys if key in theirs)
        here = row.here.replace("`", "")
        remedy = f"{key} by {here}" if here else f"{key} has no counterpart"
        raise InputError(
            f"{key} is a key of another code base, {ours[0]} one of segzoo; leave out all of segzoo's keys, "
            f"or replace the other code base's keys (COMING_FROM.md): {remedy}"
        )
    if theirs & ENTITYSEG_KEYS or loaded.get("MODEL.META_ARCHITECTURE") == ENTITY_FPN:
        return ENTITYSEG
    if theirs & MASK2FORMER_KEYS or "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME" in loaded:
        return MASK2FORMER
    # DeepLab's keys, such as RESNETS.STEM_TYPE, are in all three.
    return MASKFORMER if theirs - DETECTRON2.keys.keys() else DETECTRON2


def translate_file(
    loaded: Mapping[str, Any], code_base: CodeBase, defaults: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Return the values of a whole file in segzoo's keys, by full key; unknown keys are kept.

    Args:
        loaded: the values of the file and its bases, by full key.
        code_base: the code base that it is written for.
        defaults: the values of a new configuration of segzoo.
        source: the file, for errors.

    Raises:
        InputError: a key or value has no counterpart.
    """
    if "MODEL.META_ARCHITECTURE" not in loaded:
        raise InputError(
            f"{source} has no MODEL.META_ARCHITECTURE: it is a base of other files, which define the model; "
            "give one of those"
        )
    known = {**dict(flatten(get_cfg())), **code_base.keys}
    try:
        _check_sections(loaded, known)
        theirs = {**known, **{key: _decode(key, value, known) for key, value in loaded.items()}}
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    result = {key: value for key, value in theirs.items() if key in defaults and key not in CONVERTED}
    if "OUTPUT_DIR" not in loaded:
        del result["OUTPUT_DIR"]
    result |= code_base.constants
    try:
        try:
            result |= _convert_all(theirs, {**defaults, **result}, MASK_RCNN)
        except InputError as error:
            if loaded["MODEL.META_ARCHITECTURE"] != DETECTOR:
                raise
            result |= _convert_all(theirs, {**defaults, **result}, DETECTOR)
            logger.info("%s: Detectron2's own %s is built: %s", source, DETECTOR, error)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    if result["MODEL.BACKBONE.NAME"] not in OUR_BACKBONES:  # Detectron2's backbone reads its own keys
        result |= {key: theirs[key] for key in defaults if key.startswith("MODEL.RESNETS.")}
    logger.info("%s is read as a file of %s; see COMING_FROM.md for its keys", source, code_base.name)
    # Keys of segzoo are kept as they are; unknown ones are refused later.
    return result | {key: value for key, value in loaded.items() if key not in known}


def _convert_all(theirs: Mapping[str, Any], ours: Mapping[str, Any], detector: str) -> dict[str, Any]:
    """Return what the rows of all tables give.

    Args:
        theirs: the values of a whole file and its defaults.
        ours: segzoo's values before.
        detector: see `Context`.
    """
    result: dict[str, Any] = {}
    for row in ROWS:
        given = {key: local_spelling(key, theirs[key]) for key in row.keys if key in theirs}
        if given:
            result |= row.convert(given, Context({**ours, **result}, whole=True, detector=detector))
    return result


def _check_sections(loaded: Iterable[str], known: Collection[str]) -> None:
    """Check that a file gives no section of another code base a value, and none of its keys a section."""
    sections = {key.rsplit(".", count)[0] for key in known for count in range(1, key.count(".") + 1)}
    for key in loaded:
        if key in sections:
            raise InputError(f"unknown key {key}; give one of its keys")
        above = {key.rsplit(".", count)[0] for count in range(1, key.count(".") + 1)}
        if section := next((name for name in above if name in known), ""):
            raise InputError(f"unknown key {key}; {section} has a value and no keys")


def _decode(key: str, value: Any, known: Mapping[str, Any]) -> Any:
    """Return the value of a key as yacs reads it, and a value to convert with its default's type.

    Raises:
        InputError: the value has another type.
    """
    value = decode(value)
    return with_default_type(key, value, known[key]) if key in CONVERTED and key in known else value


def needs_conversion(key: str, known: Collection[str], backbone: str) -> bool:
    """Return whether a single key of another code base has to be converted.

    Args:
        key: the full key.
        known: segzoo's keys.
        backbone: MODEL.BACKBONE.NAME; Detectron2's backbone reads MODEL.RESNETS itself.
    """
    if key not in CONVERTED:
        return False
    return key not in known or (key.startswith("MODEL.RESNETS.") and backbone in OUR_BACKBONES)


def translate_keys(
    given: Mapping[str, Any], cfg: Mapping[str, Any], beside: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the changes by single keys that `needs_conversion` selects.

    Args:
        given: their values by full key.
        cfg: the values of the configuration that they change, by full key.
        beside: values that the user gives beside them, by full key.

    Raises:
        InputError: a key has no counterpart, or none without other keys; or `beside` has another value.
    """
    result: dict[str, Any] = {}
    known = {**dict(flatten(get_cfg())), **ENTITYSEG.keys, **MASK2FORMER.keys}
    for row in ROWS:
        mine = {key: _decode(key, given[key], known) for key in row.keys if key in given}
        if mine:
            changes = row.convert(mine, Context({**cfg, **result}, whole=False))
            for key, value in changes.items():
                if key in beside and not equal(decode(beside[key]), value):
                    names = ", ".join(mine)
                    raise InputError(f"{key} and {names} are the same here; leave one of them out")
            here = ", ".join(f"{key} {value}" for key, value in changes.items()) or "what it is already"
            logger.info("%s: %s", ", ".join(f"{key} {value}" for key, value in mine.items()), here)
            result |= changes
    return result


def local_spelling(key: str, value: Any) -> Any:
    """Return a value in segzoo's spelling, if another code base's differs and is unambiguous."""
    return VALUES.get(key, {}).get(value, value) if isinstance(value, str) else value


def check_decoder_layers(before: Mapping[str, Any], cfg: CfgNode) -> None:
    """Warn that Mask2Former counts decoder layers differently if a single key changes their number.

    Args:
        before: the values of the configuration without the key, by full key.
        cfg: the configuration with the key.

    Raises:
        InputError: the number is Mask2Former's for the unchanged model.
    """
    decoder = cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME
    old, new = before[DEC_LAYERS], cfg.MODEL.MASK_FORMER.DEC_LAYERS
    if decoder != MASKED_DECODER or before[DECODER] != MASKED_DECODER:
        return
    if new in (old, None):  # None is refused later, as for every key
        return
    if new == old + 1:
        raise InputError(
            f"{DEC_LAYERS} {new}: Mask2Former also counts the prediction before the first layer, so its "
            f"{new} is {old} here, as already set; leave the key out, or set it in a YAML file for {new}"
        )
    logger.warning(
        "%s %d: %d decoder layers; Mask2Former, which counts the prediction before the first, has %d",
        DEC_LAYERS,
        new,
        new,
        new + 1,
    )
