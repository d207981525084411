"""Text files are UTF-8 on every system: whoever opens one says so."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# `Image.open` and the like have no mode, or one with a b.
FUNCTIONS = ("read_text", "write_text", "open", "fdopen", "NamedTemporaryFile", "FileHandler", "_LogFile")


def without_encoding(source: str) -> list[int]:
    """The lines of calls that open a text file in the encoding of the system."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and _opens_text(node) and not _has_encoding(node)
    ]


def _opens_text(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in FUNCTIONS:
        return False
    if name.endswith("_text"):
        return isinstance(call.func, ast.Attribute)
    if name in ("FileHandler", "_LogFile"):
        return True
    values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    modes = [mode for mode in modes if 0 < len(mode) < 4 and set(mode) <= set("rwaxbt+")]
    is_builtin = isinstance(call.func, ast.Name) and name == "open"
    return not any("b" in mode for mode in modes) and (is_builtin or bool(modes))


def _has_encoding(call: ast.Call) -> bool:
    return any(keyword.arg == "encoding" for keyword in call.keywords)


@pytest.mark.parametrize("folder", ["segzoo", "tools", "datasets", "projects"])
def test_text_files_are_utf_8(folder):
    sources = {file: file.read_text(encoding="utf-8") for file in (ROOT / folder).rglob("*.py")}
    found = {str(file.relative_to(ROOT)): without_encoding(source) for file, source in sources.items()}
    assert {file: lines for file, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("path.read_text()", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("path.open('w')", True),
        ("path.open('wb')", False),
        ("os.fdopen(handle, 'a')", True),
        ("Image.open(path)", False),
        ("logging.FileHandler(path)", True),
    ],
)
def test_what_counts(call, found):
    assert bool(without_encoding(call)) == found
