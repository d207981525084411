"""The layers of DESIGN: which part of segzoo may import which, read from the import statements."""

import ast
import graphlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from segzoo.utils.lazy_exports import deferred_imports

ROOT = Path(__file__).resolve().parent.parent.parent

ANYWHERE = {"segzoo.utils", "segzoo.compat"}
# Parts of one level do not import each other; each may import itself.
MAY_IMPORT = {
    "segzoo.utils": set(),
    # compat hands torchvision the RoIAlign and the NMS of layers, on their first call.
    "segzoo.compat": {"segzoo.layers.nms", "segzoo.layers.roi_align"},
    "segzoo.config": set(),
    "segzoo.layers": set(),
    "segzoo.modeling": {"segzoo.layers"},
    "segzoo.data": {"segzoo.config"},
    "segzoo.solver": {"segzoo.config"},
    "segzoo.evaluation": {"segzoo.config"},
    "segzoo.checkpoint": {"segzoo.config"},
    "segzoo.visualization": {"segzoo.config"},
}
_UP_TO_LEVEL_4 = set(MAY_IMPORT)
MAY_IMPORT["segzoo.engine"] = _UP_TO_LEVEL_4
MAY_IMPORT["segzoo.export"] = _UP_TO_LEVEL_4 | {"segzoo.engine.model_description"}
MAY_IMPORT["segzoo.model_zoo"] = _UP_TO_LEVEL_4 | {"segzoo.projects", "segzoo.engine.analysis"}
MAY_IMPORT["segzoo.cli"] = {"segzoo"}
MAY_IMPORT["segzoo.__main__"] = {"segzoo.cli"}
PROJECT_MAY_IMPORT = {"segzoo.modeling", "segzoo.layers", "segzoo.config"}
# A project registers its key map, and imports from checkpoint the rules that maps share.
CHECKPOINT_NAMES_FOR_PROJECTS = {"KeyMap", "register_key_map"}
CHECKPOINT_RULES = {
    "segzoo.checkpoint.rules_cnn",
    "segzoo.checkpoint.rules_gluon",
    "segzoo.checkpoint.rules_transformer",
}
DETECTRON2_FOR = {
    # Its models, whose registries are filled by importing them; its catalog, for `dataset_records`, which the
    # data and the evaluators look up.
    "segzoo.utils": {"detectron2.modeling", "detectron2.data"},
    "segzoo.config": {"detectron2.config", "detectron2.utils.file_io"},
    "segzoo.layers": {"detectron2.layers"},
}
# Modules that import segzoo.projects at run time, so that methods are registered: lookups of names and the
# collection of keys.
IMPORT_METHODS = {"segzoo.utils.methods", "segzoo.config.extensions"}
# Packages whose modules are private: others import only the names in `__init__`.
CLOSED = {
    "segzoo.modeling.mask_classification.criterion",
    "segzoo.modeling.mask_classification.postprocess",
}
NOWHERE = {"mmcv", "mmseg", "mmengine", "mmdet", "tools", "tests", "datasets"}
# Modules whose errors may name configuration keys although they read no configuration: the error occurs when
# the model runs, is not caused by an argument, and the remedy is a key.
KEYS_AS_REMEDIES = {
    # One image per process, and batch statistics.
    "segzoo/modeling/per_pixel/pooling.py": {"SOLVER.IMS_PER_BATCH", "MODEL.SEM_SEG_HEAD.NORM"},
    # Crops of a size that the loss or the head does not support.
    "segzoo/modeling/per_pixel/losses.py": {"INPUT.CROP_SIZE"},
    "projects/pspnet/head.py": {"INPUT.CROP_SIZE", "TEST.PROTOCOL"},
    "projects/psanet/head.py": {"INPUT.CROP_SIZE", "MODEL.PSANET.MASK_SIZE"},
    # A dataset without things and stuff; another package's model without a requested output.
    "segzoo/modeling/mask_classification/meta_arch.py": {"DATASETS.CLASSES_FROM"},
    # The model, a loss term or a matching cost reads what the mapper has not added.
    "segzoo/modeling/mask_classification/criterion/target_masks.py": {"INPUT.TARGETS"},
    "projects/mask_rcnn/meta_arch.py": {"INPUT.TARGETS"},
    "segzoo/modeling/plain_model.py": {"TEST.TASKS", "TEST.PROTOCOL"},
}
CONFIG_KEY = re.compile(r"\b(?:[A-Z][A-Z0-9_]+\.)+[A-Z][A-Z0-9_]+")
CFG_FUNCTIONS = re.compile(r"_?(from_config|check_names|(build|find)_\w+|add_\w*config)")


class Import(NamedTuple):
    line: int
    module: str
    name: str | None  # of `from module import name`


def source_files() -> list[Path]:
    return sorted([*ROOT.glob("segzoo/**/*.py"), *ROOT.glob("projects/**/*.py")])


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = ("segzoo", *parts) if parts[0] == "projects" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[Import]:
    """Import statements, and calls of `import_module` with a name that is written down."""
    package = module_name(file) if file.name == "__init__.py" else module_name(file).rpartition(".")[0]
    tree = ast.parse(file.read_text())
    brought: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                module = f"{base}.{module}".rstrip(".")
            for alias in node.names:
                yield Import(node.lineno, module, alias.name)
                brought[alias.asname or alias.name] = (module, alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and called_name(node) == "import_module":
            argument = node.args[0]
            name = constant_text(argument)
            if isinstance(argument, ast.Name) and argument.id in brought:
                name = constant_of_module(*brought[argument.id])
            elif isinstance(argument, ast.Name):
                name = constants_of(tree).get(argument.id)
            if name is not None:
                yield Import(node.lineno, importlib.util.resolve_name(name, package), None)


def constants_of(tree: ast.Module) -> dict[str, str]:
    """The texts that a module gives a name."""
    return {
        target.id: text
        for node in tree.body
        if isinstance(node, ast.Assign) and (text := constant_text(node.value)) is not None
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def constant_of_module(module: str, name: str) -> str | None:
    source = ROOT / f"{module.replace('.', '/')}.py"
    return constants_of(ast.parse(source.read_text())).get(name) if source.exists() else None


def constant_text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def called_name(call: ast.Call) -> str:
    return getattr(call.func, "attr", "") or getattr(call.func, "id", "")


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def part_of(module: str) -> str:
    """segzoo.modeling.backbones.swin -> segzoo.modeling; segzoo.projects.maskformer.x -> its project."""
    return ".".join(module.split(".")[: 3 if is_in(module, "segzoo.projects") else 2])


def imported_modules(entry: Import) -> Iterator[str]:
    """`from segzoo import data` imports segzoo.data; `from segzoo import __version__`, segzoo."""
    packages = ("detectron2", "segzoo", "segzoo.projects")
    if entry.module in packages and entry.name and not entry.name.startswith("_"):
        yield f"{entry.module}.{entry.name}"
    else:
        yield entry.module


def may_import(importer: str, entry: Import, module: str) -> bool:
    part = part_of(importer)
    if module.split(".")[0] in NOWHERE:
        return False
    if module == "segzoo.projects" and importer in IMPORT_METHODS:
        return True
    if is_in(module, "detectron2"):
        allowed = DETECTRON2_FOR.get(part, {"detectron2"})
        # The package itself brings nothing but its version.
        return (module == "detectron2" and entry.name in (None, "__version__")) or any(
            is_in(module, package) for package in allowed
        )
    # `import segzoo` alone brings nothing but compat.
    if module == "segzoo" or not is_in(module, "segzoo"):
        return True
    if any(is_in(module, package) for package in ANYWHERE | {part}):
        return True
    if importer == "segzoo.projects":
        return is_in(module, "segzoo.projects") or module == "segzoo.config"
    if is_in(importer, "segzoo.projects"):
        if is_in(module, "segzoo.checkpoint"):
            return entry.module in CHECKPOINT_RULES or entry.name in CHECKPOINT_NAMES_FOR_PROJECTS
        return any(is_in(module, package) for package in PROJECT_MAY_IMPORT)
    return module in MAY_IMPORT[part] or any(
        is_in(module, package) for package in MAY_IMPORT[part] - {"segzoo.projects"}
    )


def violations(file: Path) -> list[str]:
    importer = module_name(file)
    if importer == "segzoo":
        # The rest is imported when it is used.
        allowed = {"segzoo.compat", "typing", *(module for _, (module, _) in deferred_imports("segzoo"))}
        return [
            str(entry)
            for entry in imports(file)
            for name in imported_modules(entry)
            if name not in allowed and not is_in(name, "segzoo.utils")
        ]
    return [
        f"{file.relative_to(ROOT)}:{entry.line}: {part_of(importer)} may not import {module}"
        for entry in imports(file)
        for module in imported_modules(entry)
        if not may_import(importer, entry, module)
    ]


def test_every_part_has_a_place_in_the_layers():
    parts = {part_of(module_name(file)) for file in source_files()}
    known = {"segzoo", "segzoo.projects", *MAY_IMPORT}
    assert {part for part in parts if not is_in(part, "segzoo.projects")} <= known


def test_imports_respect_the_layers():
    assert [line for file in source_files() for line in violations(file)] == []


def definer(module: str, name: str | None) -> str | None:
    """The module in which `from module import name` finds what it takes, behind those that re-export it."""
    if name is not None and source_of(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    source = source_of(module)
    if source is None:
        return None
    if source.name == "__init__.py":
        for entry in imports(source):
            if entry.name == name and entry.module != module:
                return definer(entry.module, name)
    return module


def source_of(module: str) -> Path | None:
    parts = module.split(".")
    place = ROOT.joinpath(*(parts[1:] if parts[:2] == ["segzoo", "projects"] else parts))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()), None)


def import_graph(files: list[Path]) -> dict[str, set[str]]:
    """Module -> those that it imports, inside functions and for type checkers too."""
    graph: dict[str, set[str]] = {}
    for file in files:
        name = module_name(file)
        if name in IMPORT_METHODS or file.name == "__init__.py":
            # What a package re-exports is followed to its place; methods are imported to register themselves.
            continue
        found = {definer(entry.module, entry.name) for entry in imports(file)}
        graph[name] = {module for module in found if module is not None}
    return graph


def test_no_modules_import_each_other_in_a_circle(tmp_path, monkeypatch):
    graphlib.TopologicalSorter(import_graph(source_files())).prepare()

    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "segzoo" / "layers").mkdir(parents=True)
    (tmp_path / "segzoo" / "layers" / "__init__.py").write_text("from .b import f\n")
    (tmp_path / "segzoo" / "a.py").write_text("from segzoo.layers import f\n")
    (tmp_path / "segzoo" / "layers" / "b.py").write_text("def f():\n    from ..a import g\n")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(import_graph(source_files())).prepare()


def reaches_inside(importer: str, entry: Import) -> bool:
    """Whether an import from outside takes what a closed package does not export."""
    for package in CLOSED:
        if is_in(importer, package) or not is_in(entry.module, package):
            continue
        names = importlib.import_module(package).__all__
        return entry.module != package or entry.name not in names
    return False


def test_closed_packages_are_used_by_the_names_they_export():
    found = [
        f"{file.relative_to(ROOT)}:{entry.line}"
        for file in source_files()
        for entry in imports(file)
        if reaches_inside(module_name(file), entry)
    ]
    assert found == []
    criterion = "segzoo.modeling.mask_classification.criterion"
    assert reaches_inside("segzoo.projects.unet.head", Import(1, f"{criterion}.dense_loss", "DenseLoss"))
    assert reaches_inside("segzoo.projects.unet.head", Import(1, criterion, "dense_loss"))
    assert not reaches_inside("segzoo.projects.unet.head", Import(1, criterion, "LossTerm"))
    assert not reaches_inside(
        f"{criterion}.fused_criterion", Import(1, f"{criterion}.dense_loss", "DenseLoss")
    )


@pytest.mark.parametrize(
    ("importer", "statement", "allowed"),
    [
        ("segzoo.modeling.head", Import(1, "segzoo.layers", "MLP"), True),
        ("segzoo.modeling.head", Import(1, "segzoo.data", "read_image"), False),
        ("segzoo.modeling.head", Import(1, "segzoo", "projects"), False),
        ("segzoo.data.mapper", Import(1, "segzoo.evaluation.prediction_io", "save"), False),
        ("segzoo.layers.mlp", Import(1, "detectron2.structures", "Boxes"), False),
        ("segzoo.projects.a.head", Import(1, "segzoo.projects.b.head", "Head"), False),
        ("segzoo.projects.a.key_map", Import(1, "segzoo.checkpoint", "register_key_map"), True),
        ("segzoo.projects.a.key_map", Import(1, "segzoo.checkpoint", "load_checkpoint"), False),
        ("segzoo.engine.trainer", Import(1, "segzoo.data", "build_train_loader"), True),
        ("segzoo.engine.trainer", Import(1, "segzoo.projects.maskformer", "Head"), False),
        ("segzoo.engine.trainer", Import(1, "segzoo.model_zoo", "get"), False),
        ("segzoo.solver.optimizer", Import(1, "mmcv", None), False),
        ("segzoo.utils.methods", Import(1, "segzoo.projects", None), True),
        ("segzoo.utils.files", Import(1, "segzoo.projects", None), False),
        ("segzoo.utils.files", Import(1, "detectron2.structures", "Boxes"), False),
    ],
)
def test_the_rules_say_what_the_design_says(importer, statement, allowed):
    (module,) = imported_modules(statement)
    assert may_import(importer, statement, module) is allowed


def test_relative_imports_are_resolved(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "segzoo" / "modeling" / "heads" / "head.py"
    file.parent.mkdir(parents=True)
    file.write_text("from . import a\nfrom ..registry import B\nfrom ...data.mapper import C\nimport d.e\n")
    assert [entry.module for entry in imports(file)] == [
        "segzoo.modeling.heads",
        "segzoo.modeling.registry",
        "segzoo.data.mapper",
        "d.e",
    ]


def test_imports_by_name_are_seen(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    folder = tmp_path / "segzoo" / "layers"
    folder.mkdir(parents=True)
    (folder / "names.py").write_text('ABOVE = "segzoo.projects"\n')
    file = folder / "resize.py"
    file.write_text(
        "import importlib\nfrom .names import ABOVE as METHODS\nfrom importlib import import_module\n"
        'HERE = "segzoo.data"\n\n\ndef late(other):\n    import_module("segzoo.engine")\n'
        "    import_module(HERE)\n    importlib.import_module(METHODS)\n"
        '    import_module(".gelu", __package__)\n    import_module(other)\n'
    )
    assert [entry.module for entry in imports(file)][3:] == [
        "segzoo.engine",
        "segzoo.data",
        "segzoo.projects",
        "segzoo.layers.gelu",
    ]
    assert [line.partition(": ")[2] for line in violations(file)] == [
        f"segzoo.layers may not import segzoo.{part}" for part in ("engine", "data", "projects")
    ]


def test_only_commands_print():
    calls = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in source_files()
        if part_of(module_name(file)) != "segzoo.cli"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


def uses_of_cfg(tree: ast.AST, inside: bool = False) -> Iterator[int]:
    """Lines that name `cfg` outside the functions that are there to read it."""
    for node in ast.iter_child_nodes(tree):
        allowed = inside
        if isinstance(node, ast.FunctionDef):
            allowed = inside or CFG_FUNCTIONS.fullmatch(node.name) is not None
        name = getattr(node, "id", None) if isinstance(node, ast.Name) else getattr(node, "arg", None)
        if name == "cfg" and not allowed:
            yield node.lineno
        yield from uses_of_cfg(node, allowed)


def test_models_read_the_configuration_only_where_they_are_built():
    files = [
        file
        for file in source_files()
        if part_of(module_name(file)).startswith(("segzoo.mod", "segzoo.proj"))
    ]
    files = [file for file in files if not is_in(module_name(file), "segzoo.model_zoo")]
    uses = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in files
        for line in uses_of_cfg(ast.parse(file.read_text()))
    ]
    assert uses == []
    assert list(uses_of_cfg(ast.parse("def __init__(self, cfg):\n    self.size = cfg.SIZE"))) == [1, 2]


def keys_in_errors(tree: ast.AST, raises: bool = False) -> Iterator[tuple[int, str]]:
    """Lines and configuration keys of errors raised outside the functions that are there to read `cfg`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and CFG_FUNCTIONS.fullmatch(node.name):
            continue
        inside = raises or isinstance(node, ast.Raise)
        if inside and isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from ((node.lineno, key) for key in CONFIG_KEY.findall(node.value))
        yield from keys_in_errors(node, inside)


def test_constructors_raise_about_their_own_arguments():
    found = [
        f"{name}:{line}: {key}"
        for name, tree in (
            (str(file.relative_to(ROOT)), ast.parse(file.read_text()))
            for folder in ("segzoo/layers", "segzoo/modeling", "projects")
            for file in sorted(ROOT.glob(f"{folder}/**/*.py"))
        )
        for line, key in keys_in_errors(tree)
        if key not in KEYS_AS_REMEDIES.get(name, ())
    ]
    assert found == []


def test_keys_are_seen_in_every_string_of_an_error():
    code = """
def check(size, norm):
    if size:
        raise InputError(f"MODEL.UNET.DEPTH {size}: {'see SOLVER.BASE_LR' if norm else norm} a.B or NORM")
    return "MODEL.MASK_ON"

def build_unet(cfg):
    raise InputError("MODEL.UNET.WIDTH")
"""
    assert {key for _, key in keys_in_errors(ast.parse(code))} == {"MODEL.UNET.DEPTH", "SOLVER.BASE_LR"}
