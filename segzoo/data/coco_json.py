"""Reading a JSON of COCO's formats, with one line for whatever is wrong with it.

What can be measured, or has one meaning only, need not be right: sizes are read from the images where the
JSON has none, and ids may be written as texts.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.utils.logger import log_first_n

from segzoo.utils.errors import InputError
from segzoo.utils.json_values import as_whole, shown
from segzoo.utils.text_files import decode_text

from .checks import check_different
from .image_size import image_size

# Pixels: no side of an image is longer.
_LONGEST = 10**6


def read_coco_json(json_file: str | Path, kind: str) -> dict[str, list[dict[str, Any]]]:
    """Return `images`, `annotations` and `categories` of a JSON, which are lists of dicts.

    Args:
        kind: "panoptic" or "instances": the format that it has to have.

    Raises:
        InputError: it cannot be read, or has another format.
    """
    try:
        facts = _parsed(Path(json_file).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{json_file}: cannot be read as JSON ({error}); correct it there, or export or download it again"
        ) from None
    other = _format_of(facts)
    if other:
        raise InputError(
            f"{json_file}: is of {other}; expected COCO's {kind} format: export it as COCO, or convert it"
        )
    if not isinstance(facts, dict):
        raise InputError(
            f"{json_file}: holds {_kind_of(facts)}; expected COCO's {kind} format, "
            '{"images": [...], "annotations": [...], "categories": [...]}'
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(facts.get(key), list):
            raise InputError(
                f"{json_file}: lacks the list {key!r} of COCO's {kind} format"
                + (f" (it is {shown(facts[key])})" if key in facts else "")
            )
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


def _parsed(content: bytes) -> Any:
    """Return the value of a JSON in UTF-8 or another encoding of text files.

    Raises:
        ValueError: it is none.
    """
    if not content.strip():
        raise ValueError("it is empty")
    if content.startswith(b"\x1f\x8b"):
        raise ValueError("it is packed with gzip; unpack it")
    try:
        return json.loads(content)
    except UnicodeDecodeError:
        return json.loads(decode_text(content))


def _format_of(facts: Any) -> str:
    """Return the annotation tool whose own format it is, by its keys; "" for COCO's and unknown ones."""
    first = facts[0] if isinstance(facts, list) and facts else None
    if isinstance(first, dict) and "data" in first and first.keys() & {"annotations", "completions"}:
        return "Label Studio's own format"
    if not isinstance(facts, dict) or "images" in facts:
        return ""
    if {"shapes", "imagePath"} <= facts.keys():
        return "labelme's own format, of one image"
    if {"objects", "size"} <= facts.keys():
        return "Supervisely's own format, of one image"
    if facts.get("type") == "FeatureCollection":
        return "the format GeoJSON"
    files = facts.get("_via_img_metadata", facts)
    values = list(files.values()) if isinstance(files, dict) else []
    is_via = bool(values) and all(isinstance(one, dict) and "regions" in one for one in values)
    return "the VGG Image Annotator's own format" if is_via else ""


@contextmanager
def explained_shape(json_file: str | Path, kind: str) -> Iterator[None]:
    """Turn what a JSON of other keys or types leads to into one line."""
    try:
        yield
    except KeyError as error:
        raise InputError(f"{json_file}: an image, annotation or segment lacks {error}") from None
    except (TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{json_file}: holds something else than COCO's {kind} format has in that place ({error}); "
            "write it again"
        ) from None


def _kind_of(value: Any) -> str:
    return "a list (of results?)" if isinstance(value, list) else shown(value)


def read_images(facts: Mapping[str, Any], json_file: str) -> dict[Any, dict[str, Any]]:
    """Return the `images` of a JSON.

    Returns:
        {id: `file_name` as the JSON has it, `image_id`, and, where it has them, `height` and `width`}. An id
        is a text or a whole number.

    Raises:
        InputError: an image without an id or file name, or two with the same.
    """
    records, without = [], []
    for number, image in enumerate(facts["images"], 1):
        image_id, file_name = image.get("id"), image.get("file_name")
        height, width = image.get("height"), image.get("width")
        # COCO has a hundred thousand of them: what is as its format says is read without a call.
        are_plain = type(file_name) is str and type(image_id) is type(height) is type(width) is int
        if are_plain and file_name and 1 <= height <= _LONGEST and 1 <= width <= _LONGEST:
            record = {"file_name": file_name, "image_id": image_id, "height": height, "width": width}
            records.append(record)
            continue
        for key in ("id", "file_name"):
            if key not in image:
                described = f"image {shown(image_id)}" if key != "id" else f"the image {number} of the list"
                raise InputError(f"{json_file}: {described} lacks {key!r}; COCO's format has it")
        if not isinstance(image_id, str):
            image_id = as_whole(image_id)
        if image_id in (None, ""):
            raise InputError(
                f"{json_file}: the image {number} of the list has the id {shown(image['id'])}; expected a "
                "number of its own, which annotations have as image_id"
            )
        if not isinstance(file_name, str) or not file_name:
            raise InputError(
                f"{json_file}: image {shown(image_id)} has the file_name {shown(file_name)}; expected the "
                "name of a file"
            )
        record = {"file_name": file_name, "image_id": image_id}
        for key in ("height", "width"):
            side = as_whole(image.get(key)) if not isinstance(image.get(key), str) else None
            if side is not None and 1 <= side <= _LONGEST:
                record[key] = side
        missing = [key for key in ("height", "width") if key not in record]
        if missing:
            found = shown(image[missing[0]]) if missing[0] in image else "missing"
            without.append(f"image {shown(image_id)}, {missing[0]} {found}")
        records.append(record)
    # Evaluators tell images by their files.
    for key, name in (("image_id", "id"), ("file_name", "file_name")):
        check_different((record[key] for record in records), json_file, f"images have the {name}")
    if without:
        message = (
            f"{json_file}: {len(without)} of {len(records)} images have no usable size (first: {without[0]}; "
            "expected pixels): it is read from the image files"
        )
        log_first_n(logging.WARNING, message, key="message")
    return {record["image_id"]: record for record in records}


def read_missing_sizes(records: Sequence[dict[str, Any]], turned: bool = True) -> None:
    """Add the `height` and `width` that records lack, from the headers of their files.

    A file that cannot be read gets none: whoever reads it says so, or passes it over.
    """
    for record in records:
        if "height" in record and "width" in record:
            continue
        try:
            height, width = image_size(record["file_name"], turned)
        except InputError:
            continue
        record.setdefault("height", height)
        record.setdefault("width", width)
