"""The page on datasets, for a terminal.

`datasets.md` beside this file is a link to datasets/README.md, and in a wheel a copy of it.
"""

import re
from functools import cache
from pathlib import Path

from segzoo.utils.text_files import read_text

_HEADING = re.compile(r"^(#+) (.*)$")
_LINK = re.compile(r"\[([^\]]*)\]\([^)\s]*\)")


def section(title: str) -> str:
    """Return a section of the guide as plain text, without its heading.

    Args:
        title: the heading. "Human parsing: LIP" is the part of "Human parsing" that begins with **LIP.**,
            after the introduction of the section.

    Raises:
        KeyError: there is no such section, or part.
    """
    heading, _, part = title.partition(": ")
    text = _sections()[heading]
    if part:
        before, *parts = re.split(r"^(?=\*\*[^*]+\.\*\* From )", text, flags=re.MULTILINE)
        found = {re.match(r"\*\*(.+?)\.", one)[1]: one for one in parts}
        text = f"{before.strip()}\n\n{found[part].strip()}"
    return plain(text)


@cache
def _sections() -> dict[str, str]:
    """Return {heading: the text below it, with its sub-sections}."""
    lines = read_text(Path(__file__).with_name("datasets.md")).splitlines()
    # Lines of code may begin with # too.
    is_code, headings = False, []
    for number, line in enumerate(lines):
        is_code ^= line.startswith("```")
        match = None if is_code else _HEADING.match(line)
        if match:
            headings.append((number, len(match[1]), match[2]))
    found = {}
    for index, (start, level, title) in enumerate(headings):
        later = (number for number, other, _ in headings[index + 1 :] if other <= level)
        found[title] = "\n".join(lines[start + 1 : next(later, len(lines))]).strip()
    return found


def plain(text: str) -> str:
    """Return Markdown as text for a terminal: code is indented, links and bold type are plain text."""
    shown, is_code = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            is_code = not is_code
        elif is_code:
            shown.append(f"    {line}".rstrip())
        else:
            line = _LINK.sub(r"\1", line).replace("**", "")
            shown.append(re.sub(r"<(https?://[^>]+)>", r"\1", line))
    return "\n".join(shown)
