"""Reading text files that people write, on whatever system and in whatever encoding."""

import codecs
from pathlib import Path

# The longer first: that of UTF-16 begins that of UTF-32.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, UTF-16, UTF-32 or, if it is none of them, Windows' Latin alphabet.

    PowerShell's > writes UTF-16. Lines end as on Unix.

    Raises:
        OSError: it cannot be read.
    """
    content = Path(path).read_bytes()
    return decode_text(content).replace("\r\n", "\n").replace("\r", "\n")


def decode_text(content: bytes) -> str:
    """The text of the bytes of a file, see `read_text`, with the ends of lines as they are."""
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    # Half of UTF-16 without a mark is zeros, in text of this kind; no other encoding has any.
    if b"\0" in content:
        is_big_endian = content[:1] == b"\0"
        return content.decode("utf-16-be" if is_big_endian else "utf-16-le", errors="replace")
    for encoding in ("utf-8", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1")
