"""Checks of an installation, its datasets and a configuration.

Imports nothing but Python's own library until a check needs it: any library may be missing or broken.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from segzoo.utils.commands import is_source_tree
from segzoo.utils.paths import datasets_folder

REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "detectron2": "detectron2",
    "fvcore": "fvcore",
    "iopath": "iopath",
    "matplotlib": "matplotlib",
    "numba": "numba",
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "PIL": "Pillow",
    "pycocotools": "pycocotools",
    "yaml": "PyYAML",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "submitit": "submitit",
    "tabulate": "tabulate",
    "tensorboard": "tensorboard",
    "termcolor": "termcolor",
    "timm": "timm",
    "tqdm": "tqdm",
}
# The modules that a `make` target needs besides the required ones.
TARGET_NEEDS = {
    "test": {
        "pytest": "pytest",
        "xdist": "pytest-xdist",
        "hypothesis": "hypothesis",
        "panopticapi": "panopticapi-lite",
        "transformers": "transformers",
    },
    "lint": {
        "ruff": "ruff",
        "mypy": "mypy",
        "yaml-stubs": "types-PyYAML",
        "tabulate-stubs": "types-tabulate",
        "tqdm-stubs": "types-tqdm",
    },
    "docs": {"pdoc": "pdoc"},
}
TARGET_NEEDS["versions"] = TARGET_NEEDS["test"]
OPTIONAL = {
    "panopticapi": ("panopticapi-lite", "panopticapi's own evaluation, and the tests"),
    "transformers": ("transformers", "the tests"),
    "hotcoco": ("hotcoco", "the fastest mask and box AP"),
    "faster_coco_eval": ("faster-coco-eval", "faster boundary AP, and mask and box AP without hotcoco"),
    "kornia_rs": ("kornia-rs", "faster decoding of PNG files"),
    "zlib_ng": ("zlib-ng", "faster decoding of label maps"),
    "cityscapesscripts": ("cityscapesscripts", "the tests"),
}
# In the environment of `make venv`, this imports segzoo before the modules that need it.
STARTUP = "segzoo_startup"


class Item(NamedTuple):
    """One line of the report."""

    status: str  # ok | warn | FAIL
    name: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status:<4}  {self.name:<18} {self.text}{'; ' if self.remedy else ''}{self.remedy}"


def diagnose(config_file: str | None, overrides: list[str], data: str | None, trust: bool = False) -> int:
    """Print a line for each item; return 1 if one of them FAILed, else 0.

    Args:
        config_file: a configuration to check; None for none.
        overrides: those of the configuration, alternating keys and values.
        data: a dataset to run the configuration with; None for its own.
        trust: execute pickled code in a checkpoint given as the configuration.
    """
    failed = print_items(check_libraries)
    failed |= print_items(check_optional)
    failed |= print_items(check_limits)
    if failed:
        print(Item("warn", "datasets", "not checked", "install what FAILed first"))
    else:
        failed |= print_items(check_datasets)
        if config_file:
            failed |= print_items(lambda: check_config(config_file, overrides, data, trust))
    print("something FAILed, see above" if failed else "ready")
    return int(failed)


def print_items(check: Callable[[], Iterable[Item]]) -> bool:
    """Print the items of a check; return whether one FAILed."""
    failed = False
    for item in guarded(check):
        print(item, flush=True)
        failed |= item.status == "FAIL"
    return failed


def guarded(check: Callable[[], Iterable[Item]]) -> Iterator[Item]:
    """Yield the items of a check; an exception becomes an item, so that other checks still run."""
    try:
        yield from check()
    except Exception as error:  # whatever a broken installation raises
        yield Item("FAIL", "check", one_line(error), "see troubleshooting in segzoo's INSTALL.md")


def report_needs(targets: list[str]) -> int:
    """Print a line and return 1 if this Python cannot run the targets, for `PYTHON=... make`."""
    needs = dict(REQUIRED)
    for target in targets:
        needs.update(TARGET_NEEDS.get(target, {}))
    missing = [name for module, name in needs.items() if not importlib.util.find_spec(module)]
    if not missing:
        return 0
    packages = " ".join(name for name in missing if name != "detectron2")
    remedies = [f"{sys.executable} -m pip install {packages}"] if packages else []
    if "detectron2" in missing:
        remedies.append(f"{sys.executable} tools/install_detectron2.py")
    print(
        f"{sys.executable} lacks {', '.join(missing)}; install with `{' && '.join(remedies)}`, "
        "or leave PYTHON out to have make build its own .venv",
        file=sys.stderr,
    )
    return 1


def check_libraries() -> Iterator[Item]:
    found = platform.python_version()
    yield Item("ok", "python", f"{found} at {sys.executable}")
    missing = [module for module in REQUIRED if not importlib.util.find_spec(module)]
    for module in missing:
        remedy = how_to_install_detectron2() if module == "detectron2" else f"pip install {REQUIRED[module]}"
        yield Item("FAIL", module, "not installed", remedy)
    if "torch" not in missing:
        yield check_torch()
    if {"torch", "torchvision", "detectron2"} & set(missing):
        return
    compat = importlib.import_module("segzoo.compat")
    with_or_without = {True: "with compiled operators", False: "without compiled operators (not needed)"}
    for module, has_ops in {
        "torchvision": compat.torchvision_has_ops,
        "detectron2": compat.detectron2_has_ops,
    }.items():
        imported = importlib.import_module(module)
        order = "" if has_ops() or STARTUP in sys.modules else f", so import segzoo before {module}"
        text = f"{version(module)}, {with_or_without[has_ops()]}{order}, at {Path(imported.__file__).parent}"
        yield Item("ok", module, text)
    for module in REQUIRED:
        if module not in ("torch", "torchvision", "detectron2", *missing):
            yield check_import(module, REQUIRED[module])


def how_to_install_detectron2() -> str:
    if is_source_tree():
        return "run `python tools/install_detectron2.py` (INSTALL.md)"
    return importlib.import_module("segzoo.compat").COMPILE_DETECTRON2


def install_cuda() -> str:
    return "TORCH=cuda make venv" if is_source_tree() else "pip install a CUDA build of torch (pytorch.org)"


def check_torch() -> Item:
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Item("ok", "torch", f"{torch.__version__}, {len(names)} GPU: {', '.join(sorted(set(names)))}")
    text = f"{torch.__version__}, no GPU"
    if not Path("/proc/driver/nvidia/version").exists():
        return Item("ok", "torch", f"{text}, {torch.get_num_threads()} threads")
    if torch.version.cuda is None:
        return Item("warn", "torch", f"{text}, although there is an NVIDIA driver", install_cuda())
    remedy = "compare nvidia-smi's CUDA version, and check CUDA_VISIBLE_DEVICES"
    return Item("warn", "torch", f"{text} usable by its CUDA {torch.version.cuda}", remedy)


def check_import(module: str, name: str) -> Item:
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken installation raises
        return Item(
            "FAIL", module, f"does not import: {one_line(error)}", f"pip install --force-reinstall {name}"
        )
    return Item("ok", module, version(module))


def check_optional() -> Iterator[Item]:
    for module, (name, purpose) in OPTIONAL.items():
        if importlib.util.find_spec(module):
            yield Item("ok", module, f"{version(module)}, for {purpose}")
        else:
            yield Item("ok", module, f"not installed; only for {purpose}: pip install {name}")


def check_limits() -> Iterator[Item]:
    """Yield items on the resources that batches from data-loader workers use."""
    with contextlib.suppress(OSError):
        memory = shutil.disk_usage("/dev/shm")
        text = f"{memory.total / 2**20:.0f} MiB, {memory.free / 2**20:.0f} MiB free"
        if memory.free < 1 << 30:
            remedy = "docker run --shm-size 8g (or --ipc host), or train with DATALOADER.NUM_WORKERS 0"
            yield Item("warn", "/dev/shm", f"{text}; batches go through it", remedy)
        else:
            yield Item("ok", "/dev/shm", text)
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    status, remedy = "ok", ""
    if 0 <= limit < 1024:
        status, remedy = "warn", f"ulimit -n {max(limit, min(highest, 65536))}"
    yield Item(status, "open files", f"ulimit -n: {limit if limit >= 0 else 'unlimited'}", remedy)


def check_datasets() -> Iterator[Item]:
    root = datasets_folder()
    how = (
        "DETECTRON2_DATASETS" if "DETECTRON2_DATASETS" in os.environ else "the default of DETECTRON2_DATASETS"
    )
    if not root.is_dir():
        remedy = "export DETECTRON2_DATASETS=/folder/of/datasets (`segzoo prepare --list` names them)"
        yield Item("warn", "datasets", f"no folder {root.absolute()} ({how})", remedy)
        return
    yield Item("ok", "datasets", f"{root.absolute()} ({how})")
    catalog = importlib.import_module("segzoo.data.dataset_file").CATALOG
    missing = []
    for file in sorted(catalog.glob("*.yaml")):
        items = check_dataset(file)
        yield from items
        if not items:
            missing.append(file.stem)
    if missing:
        yield Item("ok", "  not found", ", ".join(missing))


def check_dataset(file: Path) -> list[Item]:
    """Return an item for each split that exists, and each that is broken where another one exists."""
    layouts = importlib.import_module("segzoo.data.layouts")
    dataset = importlib.import_module("segzoo.data").read_dataset_file(file)
    found: dict[str, str] = {}
    problems: dict[str, str] = {}
    for split in dataset.splits:
        try:
            layout = layouts.find_layout(dataset, split)
        except ValueError as error:
            if split not in dataset.without_labels:  # those are for submissions only
                problems[split] = one_line(error).removeprefix(f"{split}: ")
        else:
            found[split] = describe_split(layout, dataset.image_counts.get(split))
    if not found:
        return []
    return [
        *(Item("warn" if "expected" in text else "ok", f"  {split}", text) for split, text in found.items()),
        *(Item("warn", f"  {split}", problem) for split, problem in problems.items()),
    ]


def describe_split(layout: Any, expected: int | None) -> str:
    if not layout.images:
        return f"in {layout.root}"
    count = len(layout.images)
    text = f"{count} images in {layout.root}"
    return text if expected in (None, count) else f"{text}, expected {expected}"


def check_config(
    config_file: str, overrides: list[str], data: str | None = None, trust: bool = False
) -> Iterator[Item]:
    errors = importlib.import_module("segzoo.utils.errors")
    configuration = importlib.import_module("segzoo.cli.configuration")
    try:
        if data:
            option = importlib.import_module("segzoo.cli.dataset_option")
            # First, since the last of the others may lack its value.
            overrides = [*option.data_overrides(data, overrides), *overrides]
        cfg = configuration.load_any(config_file, overrides, trust=trust)
    except errors.InputError as error:
        yield Item("FAIL", "config", one_line(error))
        return
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    yield Item("ok", "config", f"{cfg.MODEL.META_ARCHITECTURE}, task {cfg.TASK}, {classes} classes")
    catalog = importlib.import_module("detectron2.data").DatasetCatalog
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        try:
            yield Item("ok", f"  {name}", f"{len(catalog.get(name))} images")
        except (errors.InputError, OSError) as error:
            yield Item("FAIL", f"  {name}", one_line(error).removeprefix(f"{name}: "))
    yield check_weights(cfg.MODEL.WEIGHTS)
    try:
        yield check_model(cfg)
    except errors.InputError as error:
        yield Item("FAIL", "  model", one_line(error))


def check_weights(weights: str) -> Item:
    if not weights:
        return Item("ok", "  weights", "none: training starts from random weights")
    if "://" in weights:
        return Item("ok", "  weights", f"{weights} (downloaded when needed; not checked now)")
    if Path(weights).is_file():
        return Item("ok", "  weights", f"{weights}, {Path(weights).stat().st_size / 1e6:.1f} MB")
    return Item("FAIL", "  weights", f"no file {weights}", "give MODEL.WEIGHTS a file, a URL, or ''")


def check_model(cfg: Any) -> Item:
    """Build the model without memory for its weights."""
    torch = importlib.import_module("torch")
    find_trainer = importlib.import_module("segzoo.engine").find_trainer
    importlib.import_module("segzoo.engine.names").check_names(cfg, find_trainer(cfg))
    build_model = importlib.import_module("detectron2.modeling").META_ARCH_REGISTRY.get
    with torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
        model = build_model(cfg.MODEL.META_ARCHITECTURE)(cfg)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Item("ok", "  model", f"builds, {parameters / 1e6:.1f} M parameters")


def version(module: str) -> str:
    imported = importlib.import_module(module)
    found = getattr(imported, "__version__", None)
    if found is None:
        names = importlib.metadata.packages_distributions().get(module, [])
        found = importlib.metadata.version(names[0]) if names else "version unknown"
    return str(found)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
