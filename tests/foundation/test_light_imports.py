"""Import cost: reading names, keys and help imports no model, and models are found when needed."""

import functools
import importlib
import json
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from segzoo import compat
from segzoo.utils import import_hooks
from segzoo.utils.errors import InputError
from segzoo.utils.filled_registry import FilledRegistry
from segzoo.utils.lazy_exports import deferred_imports, lazy_exports
from segzoo.utils.registries import NamedRegistry

ROOT = Path(__file__).resolve().parent.parent.parent


def fresh(code: str, *flags: str) -> list:
    """What code that prints JSON prints in a new process, where nothing is imported yet."""
    command = [sys.executable, *flags, "-c", f"import json, sys\n{code}"]
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


def test_names_of_the_zoo_are_listed_without_torch():
    code = """
from segzoo.config.files import find_config
from segzoo.model_zoo import list_models, official_weights
from segzoo.utils.errors import InputError
try:
    find_config("semantic/camvid/maskformer_r17")
except InputError as error:
    line = str(error)
counts = [len(list_models()) > 100, official_weights("panoptic/coco/maskformer_r50").url[:8], line[-46:]]
heavy = {"torch", "numpy", "detectron2", "PIL", "cv2"}
print(json.dumps([*counts, sorted(heavy & set(sys.modules))]))
"""
    assert fresh(code) == [True, "https://", "; did you mean semantic/camvid/maskformer_r18?"[-46:], []]


def test_help_and_wrong_options_of_every_command_come_without_torch():
    """Nothing but the standard library and segzoo's own light modules: no third party's."""
    code = """
import contextlib, importlib, io
from segzoo.cli.commands import COMMANDS
from segzoo.cli.main import main

def run(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as ended:
            status = ended.code
    return status, out.getvalue(), err.getvalue()

results = {"overview": run("--help")[1], "unknown": run("trian")[2]}
for name in COMMANDS:
    status, text, _ = run(name, "--help")
    wrong, _, line = run(name, "--no-such-flag")
    results[name] = [status, text.startswith("usage: "), wrong, line.count("\\n"), line.startswith("error: ")]
heavy = {"torch", "numpy", "detectron2", "PIL", "cv2", "yaml"}
print(json.dumps([results, sorted(heavy & set(sys.modules))]))
"""
    results, heavy = fresh(code)
    assert heavy == []
    assert "train" in results.pop("overview")
    assert "did you mean train?" in results.pop("unknown")
    assert len(results) > 1
    assert {name: found for name, found in results.items() if found != [0, True, 2, 1, True]} == {}


# What takes long to import beside torch, and no configuration needs.
HEAVY = (
    "detectron2.data",
    "detectron2.modeling",
    "matplotlib",
    "numba",
    "scipy",
    "segzoo.engine.evaluation_loop",
    "segzoo.data.build",
    "segzoo.engine.trainer",
    "segzoo.evaluation",
    "segzoo.layers",
    "segzoo.modeling",
    "segzoo.solver",
    "timm",
    "torchvision",
    "transformers",
)


# Those that read a configuration, with what they need.
COMMANDS_OF_MODELS = (
    "train --data camvid",
    "evaluate --weights x.pth",
    "predict --weights x.pth --input x.jpg --output x",
    "submit --cluster local --",
    "check-data",
    "visualize-data --output x",
    "export --weights x.pth --size 64 64 --output x.pt2",
    "convert-checkpoint --input x.pth --output y.pth",
    "analyze",
)


def test_configurations_are_read_without_models_and_their_datasets_reach_detectron2(tmp_path):
    """Datasets are known before Detectron2's catalogs are imported, and stand there when they are."""
    classes = "classes: [{name: road, color: [1, 2, 3]}, {name: rest, color: [4, 5, 6]}]"
    layout = "root: .\nimages: 'x/{stem}.png'\nlabels: 'y/{stem}.png'\nencoding: {type: index}"
    for file, split in (("mine", "mine_val"), ("taken", "lvis_v1_val")):
        text = f"name: {file}\nsplits: {{{split}: {{}}}}\n{layout}\n{classes}\n"
        (tmp_path / f"{file}.yaml").write_text(text)
    code = f"""
import contextlib, io
from segzoo.cli.main import main
from segzoo.data import register_dataset_file
from segzoo.model_zoo import get_config, load_config
from segzoo.utils.errors import InputError

lines = []
def refused(function):
    try:
        function()
    except InputError as error:
        lines.append(str(error))

cfg = get_config("semantic/camvid/maskformer_r18")
refused(lambda: load_config("semantic/camvid/maskformer_r18", ["SOLVER.BASE_RL", "1"]))
split = ["DATASETS.TRAIN", "()", "DATASETS.TEST", "('mine_val',)"]
own = load_config("semantic/camvid/maskformer_r18", ["DATASETS.FILES", "['{tmp_path}/mine.yaml']", *split])
register_dataset_file("{tmp_path}/taken.yaml")
for command in {list(COMMANDS_OF_MODELS)!r}:
    with contextlib.redirect_stderr(io.StringIO()) as screen:
        words = ["--config-file", "semantic/camvid/maskformer_r18", "SOLVER.BASE_RL", "1"]
        lines.append([main([*command.split(), *words]), screen.getvalue()])
heavy = sorted({set(HEAVY)!r} & set(sys.modules))

def catalogs():
    from detectron2.data import DatasetCatalog, MetadataCatalog
    return DatasetCatalog, MetadataCatalog

refused(catalogs)
datasets, metadata = catalogs()
found = [metadata.get(name).classes[0] for name in ("camvid_val", "mine_val", "ade20k_sem_seg_val")]
sizes = [one.MODEL.SEM_SEG_HEAD.NUM_CLASSES for one in (cfg, own)]
print(json.dumps([sizes, heavy, lines, found, "lvis_v1_val" in datasets, "mine_val" in datasets]))
"""
    sizes, heavy, lines, found, detectron2_s_own, mine = fresh(code)
    assert (sizes, heavy, found) == ([11, 2], [], ["sky", "road", "wall"])
    assert lines == [
        "unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?",
        *[[2, "error: unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?\n"]] * len(COMMANDS_OF_MODELS),
        "taken.yaml: 'lvis_v1_val' is built in; register under a new name",
    ]
    assert detectron2_s_own
    assert mine


def test_libraries_may_be_imported_before_segzoo():
    """Without the start-up file of `make venv`, which would import segzoo.compat first."""
    # A torchvision whose operators do not load cannot be imported so.
    others = ", timm, torchvision" if compat.torchvision_has_ops() else ""
    folders = [str(ROOT), str(Path(importlib.util.find_spec("torch").origin).parent.parent)]
    code = f"""
sys.path[:0] = {folders!r}
import detectron2.config{others}
late = not any(name.startswith("segzoo") for name in sys.modules)
import segzoo
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
import segzoo.data
print(json.dumps([late, "MaskFormer" in META_ARCH_REGISTRY, MetadataCatalog.get("camvid_val").classes[0]]))
"""
    assert fresh(code, "-S") == [True, True, "sky"]


def test_parts_with_the_same_name_are_reported_with_their_modules():
    registry = FilledRegistry("THING")
    registry.register(type("Part", (), {"__module__": "segzoo.projects.a.head"}))
    with pytest.raises(InputError) as error:
        registry.register(type("Part", (), {"__module__": "my_head"}))
    assert str(error.value) == (
        "Part is registered in THING by segzoo.projects.a.head and by my_head; give one of them another name"
    )
    assert registry.get("Part").__module__ == "segzoo.projects.a.head"


def test_a_part_of_a_module_that_is_imported_again_replaces_the_earlier_one():
    registry = FilledRegistry("THING")
    first, second = (type("Part", (), {"__module__": "my_head"}) for _ in range(2))
    registry.register(first)
    registry.register(second)
    assert registry.get("Part") is second
    # Calls have no name of their own: two are two parts, even of one module.
    registry = NamedRegistry("THING")
    registry.register(functools.partial(int, base=2), name="parse")
    with pytest.raises(InputError, match="parse is registered in THING by functools"):
        registry.register(functools.partial(int, base=8), name="parse")
    assert registry.get("parse")("10") == 2


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
            "else:\n"
            "    __getattr__, __dir__ = lazy_exports(__name__)\n"
            "__all__ = ['RENAMED', 'function', 'part']\n"
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
        monkeypatch.setattr(pkgutil, "get_data", lambda package, name: source.encode())
        with pytest.raises(SyntaxError, match="lazy_one, line 3: expected `from MODULE import NAME`"):
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
        assert getattr(module, name) is not None
    for name, (_, attribute) in deferred_imports(package):
        assert name in module.__all__
        assert (importlib.util.find_spec(f"{package}.{name}") is None) == bool(attribute), name


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
