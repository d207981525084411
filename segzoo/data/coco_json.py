"""Reading a JSON of COCO's formats, with one line for whatever is wrong with it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segzoo.errors import InputError


def read_coco_json(json_file: str | Path, kind: str) -> dict[str, list[dict[str, Any]]]:
    """`images`, `annotations` and `categories` of a JSON, which are lists of dicts.

    Args:
        kind: "panoptic" or "instances": the format that it has to have.

    Raises:
        InputError: it cannot be read, or has another format.
    """
    try:
        facts = json.loads(Path(json_file).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{json_file}: cannot be read as JSON ({error}); download it again") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(facts, dict) or not isinstance(facts.get(key), list):
            raise InputError(f"{json_file}: lacks the list {key!r} of COCO's {kind} format")
        if not all(isinstance(one, dict) for one in facts[key]):
            raise InputError(f"{json_file}: {key!r} lists something else than COCO's {kind} format has")
    is_panoptic = bool(facts["annotations"]) and "segments_info" in facts["annotations"][0]
    if facts["annotations"] and kind == "panoptic" and not is_panoptic:
        raise InputError(f"{json_file}: annotations have no segments_info; is it an instances file?")
    if kind == "instances" and is_panoptic:
        raise InputError(
            f"{json_file}: annotations have segments_info, so it is a panoptic file; give it under "
            "annotations, and its PNGs under panoptic"
        )
    return facts


@contextmanager
def explained_shape(json_file: str | Path, kind: str) -> Iterator[None]:
    """Turns what a JSON of other keys or types leads to into one line."""
    try:
        yield
    except KeyError as error:
        raise InputError(f"{json_file}: an image, annotation or segment lacks {error}") from None
    except (TypeError, AttributeError) as error:
        raise InputError(
            f"{json_file}: holds something else than COCO's {kind} format has in that place ({error}); "
            "write it again"
        ) from None
