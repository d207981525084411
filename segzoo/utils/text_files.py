"""Read text files of any system and common encodings."""

import codecs
from pathlib import Path

# The mark of UTF-32 comes first, since it begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: str | Path) -> str:
    r"""Return the text of a file in UTF-8, UTF-16, UTF-32 or, if it is none of them, Windows-1252.

    PowerShell's > writes UTF-16. Line ends are converted to "\n".

    Raises:
        OSError: the file cannot be read.
    """
    content = Path(path).read_bytes()
    return decode_text(content).replace("\r\n", "\n").replace("\r", "\n")


def decode_text(content: bytes) -> str:
    """Decode the bytes of a file as `read_text` does, without converting line ends."""
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    # Half the bytes of such text in UTF-16 without a mark are zeros; other encodings have none.
    if b"\0" in content:
        is_big_endian = content[:1] == b"\0"
        return content.decode("utf-16-be" if is_big_endian else "utf-16-le", errors="replace")
    for encoding in ("utf-8", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1")
