"""What is imported when: reading names, keys and help imports no model, and models are found when needed."""

import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from segzoo.utils import import_hooks
from segzoo.utils.lazy_exports import lazy_exports

ROOT = Path(__file__).resolve().parent.parent.parent


def fresh(code: str) -> list:
    """What code that prints JSON prints in a new process, where nothing is imported yet."""
    command = [sys.executable, "-c", f"import json, sys\n{code}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_detectron2_builds_segzoo_s_models_whichever_is_imported_first():
    """No part of segzoo is named: `import segzoo` alone lets Detectron2 find them."""
    code = """
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
import segzoo
early = any(name.startswith("segzoo.modeling") for name in sys.modules)
"GeneralizedRCNN" in META_ARCH_REGISTRY  # Detectron2's own needs nothing of segzoo
early |= any(name.startswith("segzoo.modeling") for name in sys.modules)
found = SEM_SEG_HEADS_REGISTRY.get("PSPHead").__module__
print(json.dumps([early, found, "SwinTransformer" in dict(BACKBONE_REGISTRY)]))
"""
    assert fresh(code) == [False, "segzoo.projects.pspnet.head", True]


class TestLazyExports:
    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        folder = tmp_path / "lazy_one"
        folder.mkdir()
        (folder / "__init__.py").write_text(
            "from typing import TYPE_CHECKING\n"
            "from segzoo.utils.lazy_exports import lazy_exports\n"
            "if TYPE_CHECKING:\n"
            "    from . import part\n"
            "    from .other import VALUE as RENAMED, function\n"
            "__all__ = ['RENAMED', 'function', 'part']\n"
            "__getattr__, __dir__ = lazy_exports(__name__)\n"
        )
        (folder / "part.py").write_text("")
        (folder / "other.py").write_text("VALUE = 3\ndef function(): return 4\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        yield importlib.import_module("lazy_one")
        for name in [name for name in sys.modules if name.partition(".")[0] == "lazy_one"]:
            del sys.modules[name]

    def test_names_are_imported_when_they_are_used(self, package):
        assert set(package.__all__) < set(dir(package))
        assert [name for name in sys.modules if name.startswith("lazy_one.")] == []
        assert (package.RENAMED, package.function()) == (3, 4)
        assert "lazy_one.part" not in sys.modules
        assert isinstance(package.part, types.ModuleType)

    def test_other_names_are_refused_as_python_does(self, package):
        with pytest.raises(AttributeError, match="module 'lazy_one' has no attribute 'absent'"):
            _ = package.absent
        with pytest.raises(ImportError, match="cannot import name 'absent' from 'lazy_one'"):
            exec("from lazy_one import absent")

    def test_only_imports_of_names_may_stand_in_the_block(self, package, monkeypatch):
        source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import os\n"
        monkeypatch.setattr(package.__spec__.loader, "get_source", lambda name: source, raising=False)
        with pytest.raises(SyntaxError, match=r"__init__\.py:3: expected `from MODULE import NAME`"):
            lazy_exports("lazy_one")[0]("os")


def lazy_packages() -> list[str]:
    """All packages of segzoo that export lazily."""
    files = [*ROOT.glob("segzoo/**/__init__.py"), *ROOT.glob("projects/**/__init__.py")]
    folders = [
        file.parent.relative_to(ROOT) for file in files if "lazy_exports(__name__)" in file.read_text()
    ]
    return sorted(
        {".".join(("segzoo", *folder.parts)).replace("segzoo.segzoo", "segzoo") for folder in folders}
    )


@pytest.mark.parametrize("package", lazy_packages())
def test_every_exported_name_exists_and_none_hides_behind_a_module(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        is_module = importlib.util.find_spec(f"{package}.{name}") is not None
        assert isinstance(value, types.ModuleType) == is_module, f"{package}.{name}"


class TestHooks:
    @pytest.fixture
    def name(self, tmp_path, monkeypatch):
        (tmp_path / "hooked_one.py").write_text("value = 1\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        yield "hooked_one"
        sys.modules.pop("hooked_one", None)
        import_hooks._hooks.pop("hooked_one", None)

    def test_a_function_is_called_when_the_module_is_complete(self, name):
        seen = []
        import_hooks.after_import(name, lambda: seen.append(sys.modules[name].value))
        assert seen == []
        importlib.import_module(name)
        import_hooks.after_import(name, lambda: seen.append("at once"))
        assert seen == [1, "at once"]
