"""Findings on the orientation, value range and brightness of a split's images."""

import math
from itertools import chain

from segzoo.data import PixelRange

from .checked import CheckedSplit, Finding
from .remedies import (
    Option,
    as_text,
)

# Images are almost black if no pixel of a split reaches this value, in 0..255.
DARK = 32


def image_findings(split: CheckedSplit) -> list[Finding]:
    """Return findings on the images as they are read: turned, of more than 8 bits, or dark."""
    found, report, source = [], split.report, split.dataset.path.name
    if report.orientations and split.dataset.exif == "apply":
        files = tuple(chain.from_iterable(report.orientations.values()))
        listed = ", ".join(f"{key} in {len(names)}" for key, names in sorted(report.orientations.items()))
        several = f"{len(files):,} images have" if len(files) > 1 else "1 image has"
        text = f"{several} an EXIF orientation ({listed}), which is applied"
        if split.has_labels:
            text += "; labels are taken to lie on the turned image"
        as_stored = Option({"exif": "ignore"}, "they lie on the pixels as stored")
        options = (as_stored,) if split.has_labels else ()
        found.append(Finding(False, split.name, text, as_text(options, source), files, options))
    given = [record["image_range"] for record in split.records[:1] if "image_range" in record]
    pixel_range = PixelRange(*given[0]) if given else None
    if pixel_range is not None and pixel_range.source:
        text = f"images of more than 8 bits are read with 0 as black and {pixel_range.high} as white"
        options = (Option({"image_range": [0, pixel_range.high]}),)
        remedy = f"that fits a sample of them; to be sure, {as_text(options, source)}"
        found.append(Finding(False, split.name, text, remedy, options=options))
    if report.sizes and report.brightest < DARK:
        text = f"the images are almost black: the brightest pixel of the split is {report.brightest} of 255"
        remedy, options = f"look at the files; values of fewer bits need image_range in {source}", ()
        low, high = (pixel_range or PixelRange(0, 255))[:2]
        # The stored value of the brightest pixel, and the largest value of as many bits.
        largest = (report.brightest + 1) * (high - low + 1) / 256 - 1
        if largest >= 1:
            all_bits = 2 ** math.ceil(math.log2(largest + 1)) - 1
            options = (Option({"image_range": [low, low + all_bits]}),)
            remedy = f"{as_text(options, source)}, so that they use all of 0..255"
        found.append(Finding(True, split.name, text, remedy, options=options))
    return found
