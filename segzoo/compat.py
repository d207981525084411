"""Make the installed versions of torch, torchvision, Detectron2, numpy and Pillow work together.

`import segzoo` imports this module first. No library is imported early or changed for others: a patch belongs
to the module that needs it (`PATCHES`), and is applied when that module is imported, or at once if it already
was. The docstring of a patch says which versions need it, and why.

Version differences in training (launching, mixed precision, DDP on a CPU) are handled in `segzoo.engine`,
those in reading checkpoints in `segzoo.checkpoint`.
"""

import functools
import importlib
import importlib.abc
import importlib.util
import logging
import re
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segzoo.utils.import_hooks import Around, around_import
from segzoo.utils.threads import make_openmp_fork_safe

logger = logging.getLogger(__name__)

DETECTRON2_SOURCE = (
    "git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833"
)
# Its setup.py imports torch, hence no build isolation; its model zoo imports pkg_resources, which setuptools
# 82 removed.
COMPILE_DETECTRON2 = (
    f"pip install 'setuptools>=77.0.3,<82' wheel && pip install --no-build-isolation '{DETECTRON2_SOURCE}'"
)
# These commands must also be valid for an installed segzoo, without tools/ and INSTALL.md.
NO_DETECTRON2 = (
    f"detectron2 is not installed; with torch installed, `{COMPILE_DETECTRON2}` compiles it (git and a C++ "
    "compiler are needed), and in a source tree of segzoo `python tools/install_detectron2.py` does without"
)


@functools.cache
def detectron2_has_ops() -> bool:
    """Return whether Detectron2's compiled operators (rotated boxes, deformable convolution) can be used."""
    try:
        importlib.import_module("detectron2._C")
    except ModuleNotFoundError:
        return False
    except ImportError as error:
        logger.warning("detectron2's compiled operators cannot be loaded and are not used: %s", error)
        return False
    return True


def torchvision_has_ops() -> bool:
    """Return whether torchvision's compiled operators can be used, instead of segzoo's."""
    return importlib.import_module("torchvision.extension")._has_ops()


class _MissingOperators(types.ModuleType):
    """Substitute for `detectron2._C`: any operator can be accessed, none can be called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise NotImplementedError(
                f"{name} is a compiled operator of detectron2, and this detectron2 was built without them; "
                f"to compile it: {COMPILE_DETECTRON2}"
            )

        return missing


class _NumpyWithAliases(types.ModuleType):
    """numpy with the aliases of Python's types that numpy 1.24 removed."""

    bool, int, float, str, object = bool, int, float, str, object

    def __getattr__(self, name: "str") -> Any:
        return getattr(importlib.import_module("numpy"), name)


@contextmanager
def _temporary_attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute within the block, and restore it afterwards."""
    missing = object()
    before = getattr(owner, name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def _without_compiled_operators(module: types.ModuleType) -> Iterator[None]:
    """Patch Detectron2 v0.6 without compiled operators: the module runs `from detectron2 import _C`.

    The substitute exists during the import only: `detectron2.utils.collect_env`, in v0.6 and main, calls
    `detectron2._C` if it can be imported.
    """
    if detectron2_has_ops():
        yield
        return
    with _temporary_attribute(sys.modules["detectron2"], "_C", _MissingOperators("detectron2._C")):
        yield


@contextmanager
def _with_pycocotools_evaluation(module: types.ModuleType) -> Iterator[None]:
    """Patch v0.6 and main without compiled operators, which COCOeval_opt calls.

    v0.6 uses COCOeval_opt by default; pycocotools' COCOeval gives the same numbers.
    """
    with _without_compiled_operators(module):
        yield
    if not detectron2_has_ops():
        module.COCOeval_opt = module.COCOeval


@contextmanager
def _with_numpy_aliases(module: types.ModuleType) -> Iterator[None]:
    """Patch v0.6 with numpy 1.24 or later: the module uses np.bool, np.int, np.float or np.str.

    Only this module's `np` gets them, because other libraries probe numpy for these names.
    """
    yield
    module.np = _NumpyWithAliases("numpy")


@contextmanager
def _with_pillow_linear(module: types.ModuleType) -> Iterator[None]:
    """Patch v0.6 with Pillow 10 or later: a default argument is Image.LINEAR, an alias of BILINEAR."""
    image = importlib.import_module("PIL.Image")
    if hasattr(image, "LINEAR"):
        yield
        return
    with _temporary_attribute(image, "LINEAR", image.BILINEAR):
        yield


@contextmanager
def _with_package_resources(module: types.ModuleType) -> Iterator[None]:
    """Patch v0.6 and main: the module imports pkg_resources, which setuptools 82 removed.

    Before that it warns and is slow to import. Its two functions that are used are substituted.
    """

    def resource_filename(package: str, resource: str) -> str:
        return str(Path(importlib.import_module(package).__file__).parent / resource)

    def resource_exists(package: str, resource: str) -> bool:
        return Path(resource_filename(package, resource)).exists()

    substitute = types.ModuleType("pkg_resources")
    substitute.resource_filename = resource_filename
    substitute.resource_exists = resource_exists
    real = sys.modules.get("pkg_resources")
    sys.modules["pkg_resources"] = substitute
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
        if real is not None:
            sys.modules["pkg_resources"] = real
    # A module imported before segzoo may hold the real pkg_resources, which works too.
    if not hasattr(module, "pkg_resources"):
        module.pkg_resources = substitute


# torch.library keeps a definition only as long as its Library object exists.
_libraries: list[Any] = []


@contextmanager
def _with_nms_schema(module: types.ModuleType) -> Iterator[None]:
    """Patch torchvision if its operators cannot be loaded: its import needs the schemas of nms and qnms.

    This happens with PyPI's CUDA build of torchvision beside a CPU build of torch (seen with 0.28).
    """
    yield
    if module._has_ops():
        return
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    _libraries.append(library)
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.impl(name, _nms, "CompositeExplicitAutograd")


def _nms(*arguments: Any) -> Any:
    # Imported on the first call: segzoo.layers needs torchvision, which is being imported now.
    return importlib.import_module("segzoo.layers.nms").nms(*arguments)


@contextmanager
def _with_nms_allowed(module: types.ModuleType) -> Iterator[None]:
    """Patch torchvision if its operators cannot be loaded: `torchvision.ops.nms` refuses to call segzoo's."""
    yield
    if not torchvision_has_ops():
        module._assert_has_ops = _refuse_nothing


def _refuse_nothing() -> None:
    return None


@contextmanager
def _with_bounded_roi_align(module: types.ModuleType) -> Iterator[None]:
    """Patch torchvision if its operators cannot be loaded: its own substitute needs too much memory.

    It holds every sample of every box at once, and runs out of memory on a Panoptic FPN.
    """
    yield
    if module._has_ops():
        return

    def roi_align(*args: Any) -> Any:
        # Imported on the first call: segzoo.layers needs torchvision, which is being imported now.
        return importlib.import_module("segzoo.layers.roi_align").roi_align(*args)

    module._roi_align = roi_align


PATCHES: dict[str, Around] = {
    "detectron2.layers.rotated_boxes": _without_compiled_operators,
    "detectron2.layers.deform_conv": _without_compiled_operators,
    "detectron2.layers.roi_align_rotated": _without_compiled_operators,
    "detectron2.evaluation.fast_eval_api": _with_pycocotools_evaluation,
    "detectron2.evaluation.sem_seg_evaluation": _with_numpy_aliases,
    "detectron2.evaluation.pascal_voc_evaluation": _with_numpy_aliases,
    "detectron2.data.build": _with_numpy_aliases,
    "detectron2.data.datasets.pascal_voc": _with_numpy_aliases,
    "detectron2.structures.masks": _with_numpy_aliases,
    "detectron2.utils.visualizer": _with_numpy_aliases,
    "detectron2.utils.video_visualizer": _with_numpy_aliases,
    "detectron2.data.transforms.transform": _with_pillow_linear,
    "detectron2.model_zoo.model_zoo": _with_package_resources,
    "torchvision.extension": _with_nms_schema,
    "torchvision.ops.boxes": _with_nms_allowed,
    "torchvision.ops.roi_align": _with_bounded_roi_align,
}


class _WithoutDetectron2(importlib.abc.MetaPathFinder):
    """Finder that raises for modules that need Detectron2, with how to install it, if it is missing."""

    @staticmethod
    def find_spec(name: str, path: Any, target: Any = None) -> None:
        if re.match(r"segzoo\.(?!(utils|cli|compat|__main__)\b)", name):
            error = ModuleNotFoundError(NO_DETECTRON2, name="detectron2")
            # Commands print only the message and exit with this status.
            error.exit_status = 2
            raise error


def _install() -> None:
    """Apply the patches, now or on import; once per process."""
    if importlib.util.find_spec("detectron2") is None:
        sys.meta_path.insert(0, _WithoutDetectron2())
        return
    for name, patch in PATCHES.items():
        around_import(name, patch)
    # Raised by v0.6's anchor generator and DeepLab on every start; users cannot change it.
    warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")
    make_openmp_fork_safe()


_install()
