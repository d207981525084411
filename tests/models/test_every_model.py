"""Every registered meta-architecture, the documented example and a plain model pass the model tests."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances

import segzoo.modeling  # noqa: F401  registers its meta-architectures
from segzoo.data import build_train_loader
from segzoo.data.labeled import holds_targets
from segzoo.export.torch_export import export_program
from segzoo.model_zoo import load_config
from segzoo.modeling.mask_classification.criterion.target_masks import ExtraTargets
from segzoo.utils.errors import InputError
from tests.models import plain_method  # noqa: F401  registers its model
from tests.models.model_tester import SIDE, ModelTester

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTED = "DocumentedLastFeatureClassifier"


def architectures() -> list[str]:
    """Return the meta-architectures of segzoo and its projects."""
    importlib.import_module("segzoo.projects").load_all()
    return sorted(name for name, cls in META_ARCH_REGISTRY if cls.__module__.startswith("segzoo."))


class Watched(dict):
    """A dict that notes which of its values are asked for."""

    def __init__(self, values, read):
        super().__init__(values)
        self.read = read

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)


class TestRegistered(ModelTester):
    @pytest.fixture(scope="class", params=architectures())
    @classmethod
    def architecture_name(cls, request):
        return request.param

    def test_every_tensor_of_a_training_sample_is_read(self, job, monkeypatch):
        """What nobody reads would be made by data-loader workers and sent to the main process and the GPU."""
        read = set()

        def watched_extra(extras, name):
            read.add(f"segment_{name}")
            return dict.__getitem__(extras, name)

        monkeypatch.setattr(ExtraTargets, "__getitem__", watched_extra, raising=False)
        batch = [Watched(sample, read) for sample in next(iter(build_train_loader(job.cfg)))]
        assert holds_targets(batch)  # as the training step asks
        job.model.train()(batch)
        job.model.eval()
        sent = {
            key
            for sample in batch
            for key, value in sample.items()
            if isinstance(value, torch.Tensor | Instances)
        }
        assert "image" in sent
        assert sent - read == set()


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
