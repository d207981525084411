"""From keys and values of Detectron2, MaskFormer or Mask2Former to those here.

A whole file of theirs is read over the defaults of the code that it is written for, and all of it is
converted. Single keys of theirs, on a command line or in a file over a configuration of the zoo, change the
configuration that is there.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from detectron2.config import CfgNode, get_cfg

from segzoo.config.keys import flatten
from segzoo.utils.errors import InputError

from ..keys import decode
from .backbones import OUR_BACKBONES
from .heads import DEC_LAYERS, DECODER, MASKED_DECODER, OTHER_ARCHITECTURES
from .origins import DETECTRON2, MASK2FORMER, MASK2FORMER_KEYS, MASKFORMER, Origin
from .row import Scene
from .table import CONVERTED, ROWS
from .training import VALUES

logger = logging.getLogger(__name__)

# Keys of this package that say what a model or a training is; a file has these or those of another code base.
_OURS = ("TASK", "INPUT.AUGMENTATION", "MODEL.BACKBONE.VARIANT", "MODEL.MASK_FORMER.MASK_LOSS")
_ADDED = frozenset(MASK2FORMER.keys)


def find_origin(loaded: Mapping[str, Any], known: Iterable[str], on_zoo: Callable[[], bool]) -> Origin | None:
    """Return the code base that a file is written for as a whole; None for this one.

    Args:
        loaded: the values of the file and its bases, by full key.
        known: the keys here.
        on_zoo: whether a configuration of the zoo is among the bases.

    Raises:
        InputError: it has keys of both, and what the others mean is not known.
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
        remedy = row.here.replace("`", "") or "nothing"
        raise InputError(
            f"{key} is a key of another code base, {ours[0]} one of this; leave {ours[0]} and the like out "
            f"for a file of theirs, or write what their keys are here (COMING_FROM.md), {remedy} for {key}"
        )
    if theirs & MASK2FORMER_KEYS or "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME" in loaded:
        return MASK2FORMER
    # RESNETS.STEM_TYPE and the like are DeepLab's own, which both others have, too.
    return MASKFORMER if theirs - DETECTRON2.keys.keys() else DETECTRON2


def translate_file(
    loaded: Mapping[str, Any], origin: Origin, defaults: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Return what a whole file of theirs is here, by full key; keys that nobody knows stay.

    Args:
        loaded: the values of the file and its bases, by full key.
        defaults: the values of a new configuration here.
        source: the file, for errors.

    Raises:
        InputError: something in it has no counterpart.
    """
    if "MODEL.META_ARCHITECTURE" not in loaded:
        raise InputError(
            f"{source} has no MODEL.META_ARCHITECTURE: it is a base of other files, which say what the model "
            "is; give one of those"
        )
    known = {**dict(flatten(get_cfg())), **origin.keys}
    theirs = {**known, **{key: decode(value) for key, value in loaded.items()}}
    result = {key: value for key, value in theirs.items() if key in defaults and key not in CONVERTED}
    if "OUTPUT_DIR" not in loaded:
        del result["OUTPUT_DIR"]
    result |= origin.constants
    try:
        for row in ROWS:
            given = {key: spelled_here(key, theirs[key]) for key in row.keys if key in theirs}
            if given:
                result |= row.convert(given, Scene({**defaults, **result}, whole=True))
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    if result["MODEL.BACKBONE.NAME"] not in OUR_BACKBONES:  # Detectron2's own backbone reads its own keys
        result |= {key: theirs[key] for key in defaults if key.startswith("MODEL.RESNETS.")}
    logger.info("%s is read as a file of %s; see COMING_FROM.md for its keys", source, origin.name)
    # Keys of this package count as they are, and those that nobody knows are refused later.
    return result | {key: value for key, value in loaded.items() if key not in known}


def is_theirs(key: str, known: Collection[str], backbone: str) -> bool:
    """Whether a single key is one of theirs that is converted.

    Args:
        known: the keys here.
        backbone: MODEL.BACKBONE.NAME. Detectron2's own backbone reads MODEL.RESNETS itself.
    """
    if key not in CONVERTED:
        return False
    return key not in known or (key.startswith("MODEL.RESNETS.") and backbone in OUR_BACKBONES)


def translate_keys(given: Mapping[str, Any], cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return what single keys of theirs, for which `is_theirs` holds, change here.

    Args:
        given: their values by full key.
        cfg: the values of the configuration that they change, by full key.

    Raises:
        InputError: one of them has no counterpart, or none alone.
    """
    result: dict[str, Any] = {}
    for row in ROWS:
        mine = {key: decode(given[key]) for key in row.keys if key in given}
        if mine:
            changes = row.convert(mine, Scene({**cfg, **result}, whole=False))
            here = ", ".join(f"{key} {value}" for key, value in changes.items()) or "what it is already"
            logger.info("%s: %s", ", ".join(f"{key} {value}" for key, value in mine.items()), here)
            result |= changes
    return result


def spelled_here(key: str, value: Any) -> Any:
    """Return a value in its spelling here, where theirs is another and means nothing else here."""
    return VALUES.get(key, {}).get(value, value) if isinstance(value, str) else value


def check_decoder_layers(before: Mapping[str, Any], cfg: CfgNode) -> None:
    """Say how Mask2Former counts, where its decoder gets another number of layers by a single key.

    Args:
        before: the values of the configuration without the key, by full key.
        cfg: with it.

    Raises:
        InputError: the number is Mask2Former's for the model that is there already.
    """
    decoder = cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME
    old, new = before[DEC_LAYERS], cfg.MODEL.MASK_FORMER.DEC_LAYERS
    if decoder != MASKED_DECODER or before[DECODER] != MASKED_DECODER or new == old:
        return
    if new == old + 1:
        raise InputError(
            f"{DEC_LAYERS} {new}: Mask2Former counts the prediction before the first layer, too, so that its "
            f"{new} are {old} here, as it is; leave the key out, or for {new} layers set it in a YAML file"
        )
    logger.warning(
        "%s %d: %d decoder layers; Mask2Former, which counts the prediction before the first, says %d",
        DEC_LAYERS,
        new,
        new,
        new + 1,
    )
