"""Imports in the documents of version 0.1 work, and the warning names the replacement."""

import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from segzoo.utils.moved import MOVED

ROOT = Path(__file__).resolve().parents[2]
# Every import of segzoo, and every name of it, in README.md and GETTING_STARTED.md of version 0.1.0.
DOCUMENTED = """
from segzoo import model_zoo
from segzoo.engine import Predictor
from segzoo.modeling.mask_classification import postprocess
import segzoo.layers, segzoo.modeling
import segzoo
segzoo.engine.signals.stop_on_signals
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-W", "default::DeprecationWarning:__main__", "-c", code]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def test_imports_in_the_documents_of_version_0_1_work():
    code = "import sys\nfrom importlib import import_module\n" + DOCUMENTED
    # By either way of import it is the module of the new name.
    code += "from segzoo.engine.signals import stop_on_signals as first\n"
    code += "from segzoo.engine import signals\n"
    code += "from segzoo.engine.distributed.signals import stop_on_signals as second\n"
    code += "assert first is second is signals.stop_on_signals, first\n"
    result = run(code)
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if "is now" in line]
    assert len(said) == 1
    assert said[0].startswith("<string>:")  # whoever imports it, not the machinery of imports
    assert "segzoo.engine.signals is now segzoo.engine.distributed.signals; import that" in said[0]


@pytest.mark.parametrize("old", MOVED)
def test_a_moved_module_is_the_module_of_its_new_name(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=re.escape(f"{old} is now {MOVED[old]}")) as caught:
        module = importlib.import_module(old)
    assert module is sys.modules[MOVED[old]]
    assert module.__name__ == MOVED[old]
    # What it imports in its turn may warn too.
    assert [one.filename for one in caught if "is now segzoo" in str(one.message)] == [__file__]
    # The second import finds it without a word.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.import_module(old)


def test_existing_modules_are_not_listed_as_moved():
    for old in MOVED:
        path = ROOT.joinpath(*old.split("."))
        assert not path.with_suffix(".py").exists()
        assert not path.is_dir()


@pytest.mark.skipif(not (ROOT / "CHANGELOG.md").is_file(), reason="not a source tree")
def test_the_changelog_shows_the_same_table():
    rows = re.findall(
        r"^\| `(segzoo\.[\w.]+)` \| `(segzoo\.[\w.]+)` \|$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert dict(rows) == MOVED
