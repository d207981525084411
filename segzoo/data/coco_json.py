"""Reading JSON files of COCO's formats, with one-line errors.

Missing image sizes are read from the images, and ids may be strings.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.utils.logger import log_first_n

from segzoo.utils.errors import InputError
from segzoo.utils.json_values import as_integer, shown
from segzoo.utils.text_files import decode_text

from .checks import check_different
from .image_size import image_size

# Largest valid side of an image, in pixels.
_LONGEST = 10**6


def read_coco_json(json_file: str | Path, json_format: str) -> dict[str, list[dict[str, Any]]]:
    """Return a JSON whose `images`, `annotations` and `categories` are lists of dicts.

    Args:
        json_format: the expected format, "panoptic" or "instances".

    Raises:
        InputError: the file cannot be read, or has another format.
    """
    try:
        content = _parsed(Path(json_file).read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{json_file}: there is no such file; expected COCO's {json_format} format"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{json_file}: cannot be read as JSON ({error}); correct it, or export or download it again"
        ) from None
    found_format = _format_of(content)
    if found_format:
        raise InputError(
            f"{json_file}: is in {found_format}; expected COCO's {json_format} format: export it as COCO, or "
            "convert it"
        )
    if not isinstance(content, dict):
        raise InputError(
            f"{json_file}: holds {_describe_type(content)}; expected COCO's {json_format} format, "
            '{"images": [...], "annotations": [...], "categories": [...]}'
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(
                f"{json_file}: lacks the list {key!r} of COCO's {json_format} format"
                + (f" (it is {shown(content[key])})" if key in content else "")
            )
        if not all(isinstance(one, dict) for one in content[key]):
            raise InputError(
                f"{json_file}: {key!r} must be a list of objects, as in COCO's {json_format} format"
            )
    is_panoptic = bool(content["annotations"]) and "segments_info" in content["annotations"][0]
    if content["annotations"] and json_format == "panoptic" and not is_panoptic:
        raise InputError(f"{json_file}: annotations have no segments_info; is it an instances file?")
    if json_format == "instances" and is_panoptic:
        raise InputError(
            f"{json_file}: annotations have segments_info, so it is a panoptic file; give it under "
            "annotations, and its PNGs under panoptic"
        )
    return content


def read_image_list(json_file: str | Path) -> dict[str, list[dict[str, Any]]]:
    """Return a JSON with a list `images`, such as COCO's image_info_test-dev2017.json.

    Raises:
        InputError: the file cannot be read, or has no such list.
    """
    try:
        content = _parsed(Path(json_file).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{json_file}: cannot be read as JSON ({error}); download it again") from None
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not all(isinstance(one, dict) for one in images):
        raise InputError(f"{json_file}: has no list 'images' of objects; download it again")
    return content


def _parsed(content: bytes) -> Any:
    """Parse a JSON in UTF-8 or another text encoding.

    Raises:
        ValueError: the content is not JSON.
    """
    if not content.strip():
        raise ValueError("it is empty")
    if content.startswith(b"\x1f\x8b"):
        raise ValueError("it is compressed with gzip; decompress it")
    try:
        return json.loads(content)
    except UnicodeDecodeError:
        return json.loads(decode_text(content))


def _format_of(content: Any) -> str:
    """Return the name of an annotation tool's own format, judging by the keys; "" for any other format."""
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and "data" in first and first.keys() & {"annotations", "completions"}:
        return "Label Studio's own format"
    if not isinstance(content, dict) or "images" in content:
        return ""
    if {"shapes", "imagePath"} <= content.keys():
        return "labelme's own format, of one image"
    if {"objects", "size"} <= content.keys():
        return "Supervisely's own format, of one image"
    if content.get("type") == "FeatureCollection":
        return "the format GeoJSON"
    files = content.get("_via_img_metadata", content)
    values = list(files.values()) if isinstance(files, dict) else []
    is_via = bool(values) and all(isinstance(one, dict) and "regions" in one for one in values)
    return "the VGG Image Annotator's own format" if is_via else ""


@contextmanager
def report_wrong_format(json_file: str | Path, json_format: str) -> Iterator[None]:
    """Turn exceptions caused by wrong keys or types in a JSON into one line."""
    try:
        yield
    except KeyError as error:
        raise InputError(f"{json_file}: an image, annotation or segment lacks {error}") from None
    except (TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{json_file}: has a value of another type than COCO's {json_format} format ({error}); export it "
            "again"
        ) from None


def _describe_type(value: Any) -> str:
    return "a list (of results?)" if isinstance(value, list) else shown(value)


def read_images(content: Mapping[str, Any], json_file: str) -> dict[Any, dict[str, Any]]:
    """Return the `images` of a JSON as records.

    Returns:
        {id: record with `file_name` as in the JSON, `image_id` and, if valid, `height` and `width`}. An id is
        a string or a whole number.

    Raises:
        InputError: an image lacks its id or file name, or shares it with another.
    """
    records, without = [], []
    for number, image in enumerate(content["images"], 1):
        image_id, file_name = image.get("id"), image.get("file_name")
        height, width = image.get("height"), image.get("width")
        # COCO has a hundred thousand images: well-formed ones are read without a function call.
        are_plain = type(file_name) is str and type(image_id) is type(height) is type(width) is int
        if are_plain and file_name and 1 <= height <= _LONGEST and 1 <= width <= _LONGEST:
            record = {"file_name": file_name, "image_id": image_id, "height": height, "width": width}
            records.append(record)
            continue
        for key in ("id", "file_name"):
            if key not in image:
                described = f"image {shown(image_id)}" if key != "id" else f"image {number} of the list"
                raise InputError(f"{json_file}: {described} lacks {key!r}; COCO's format has it")
        if not isinstance(image_id, str):
            image_id = as_integer(image_id)
        if image_id in (None, ""):
            raise InputError(
                f"{json_file}: image {number} of the list has the id {shown(image['id'])}; expected a unique "
                "number, which annotations refer to as image_id"
            )
        if not isinstance(file_name, str) or not file_name:
            raise InputError(
                f"{json_file}: image {shown(image_id)} has the file_name {shown(file_name)}; expected the "
                "name of a file"
            )
        record = {"file_name": file_name, "image_id": image_id}
        for key in ("height", "width"):
            side = as_integer(image.get(key)) if not isinstance(image.get(key), str) else None
            if side is not None and 1 <= side <= _LONGEST:
                record[key] = side
        missing = [key for key in ("height", "width") if key not in record]
        if missing:
            found = shown(image[missing[0]]) if missing[0] in image else "missing"
            without.append(f"image {shown(image_id)}, {missing[0]} {found}")
        records.append(record)
    # Evaluators identify images by their files.
    for key, name in (("image_id", "id"), ("file_name", "file_name")):
        check_different((record[key] for record in records), json_file, f"images have the {name}")
    if without:
        message = (
            f"{json_file}: {len(without)} of {len(records)} images have no usable size (first: {without[0]}; "
            "expected pixels): sizes are read from the image files"
        )
        log_first_n(logging.WARNING, message, key="message")
    return {record["image_id"]: record for record in records}


def read_missing_sizes(records: Sequence[dict[str, Any]], apply_exif: bool = True) -> bool:
    """Add missing `height` and `width` to records, from the headers of their image files.

    Files that cannot be read get none; loading the image reports or skips them.

    Returns:
        Whether no size was missing.
    """
    all_given = True
    for record in records:
        if "height" in record and "width" in record:
            continue
        all_given = False
        try:
            height, width = image_size(record["file_name"], apply_exif)
        except InputError:
            continue
        record.setdefault("height", height)
        record.setdefault("width", width)
    return all_given
