"""Every registered meta-architecture, the documented example and a plain model pass the model tests."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from detectron2.modeling import META_ARCH_REGISTRY

import segzoo.modeling  # noqa: F401  registers its meta-architectures
from segzoo.export.torch_export import export_program
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.models import plain_method  # noqa: F401  registers its model
from tests.models.model_tester import SIDE, ModelTester

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTED = "DocumentedLastFeatureClassifier"


def architectures() -> list[str]:
    """Return the meta-architectures of segzoo and its projects."""
    importlib.import_module("segzoo.projects").load_all()
    return sorted(name for name, cls in META_ARCH_REGISTRY if cls.__module__.startswith("segzoo."))


class TestRegistered(ModelTester):
    @pytest.fixture(scope="class", params=architectures())
    @classmethod
    def architecture_name(cls, request):
        return request.param


def test_architectures_are_found():
    assert {"MaskFormer", "PerPixelSegmentor"} <= set(architectures())


class WithPSPNetConfig(ModelTester):
    """Another model with PSPNet's data and schedule."""

    @classmethod
    def config(cls, architecture, overrides):
        head = ["MODEL.META_ARCHITECTURE", architecture, "MODEL.AUX_HEAD.NAME", ""]
        return load_config("semantic/shapes/pspnet_r18_quarter", [*overrides, *head])


class TestPlainModel(WithPSPNetConfig):
    """A model written for Detectron2, without any code for segzoo."""

    architecture = "PlainLastFeatureClassifier"

    def test_the_exported_program_computes_the_raw_outputs(self, job):
        """Detectron2's padding reads tensor values."""
        with pytest.raises(InputError, match=r"PlainLast\w+ cannot be traced .* derive it from .*Segmentor"):
            export_program(job.model.eval(), (SIDE, 80))


class TestDocumentedExample(WithPSPNetConfig):
    """The example "Your own method" of GETTING_STARTED.md."""

    architecture = DOCUMENTED

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def documented(cls, tmp_path_factory):
        pages = [REPOSITORY / "GETTING_STARTED.md", *sorted((REPOSITORY / "docs").glob("**/*.md"))]
        text = "\n".join(page.read_text(encoding="utf-8") for page in pages if page.is_file())
        (example,) = re.findall(r"```python\n# file: my_method\.py\n(.*?)```", text, re.DOTALL)
        folder = tmp_path_factory.mktemp("documented")
        # Under another name, because the test of the documents registers the original.
        (folder / "documented_method.py").write_text(example.replace("LastFeatureClassifier", DOCUMENTED))
        if DOCUMENTED not in META_ARCH_REGISTRY:
            patch = pytest.MonkeyPatch()
            patch.syspath_prepend(str(folder))
            importlib.import_module("documented_method")
            patch.undo()
        assert "documented_method" in sys.modules
