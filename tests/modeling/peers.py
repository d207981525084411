"""Independent implementations that tests compare with. A test skips if its implementation is missing."""

import importlib
import sys
import types
from typing import Any

import pytest


class WithoutOperators(types.ModuleType):
    """A stand-in for mmcv's compiled operators, missing in mmcv-lite: each fails when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: object, **kwargs: object) -> None:
            raise NotImplementedError(f"mmcv's compiled operator {name}")

        return missing


def mmseg_models() -> types.ModuleType:
    """Import mmsegmentation's `mmseg.models` with mmcv-lite; skip the test if they are not installed."""
    pytest.importorskip("mmengine")
    pytest.importorskip("mmcv")
    if "mmcv._ext" not in sys.modules:
        try:
            importlib.import_module("mmcv._ext")
        except ImportError:
            sys.modules["mmcv._ext"] = WithoutOperators("mmcv._ext")
    return pytest.importorskip("mmseg.models")


def build_mmseg(config: dict[str, Any]) -> Any:
    """Build a model of mmsegmentation in eval mode, from its config's `model` dict."""
    models = mmseg_models()
    config = {"data_preprocessor": None, "train_cfg": {}, "test_cfg": {"mode": "whole"}, **config}
    return models.build_segmentor(config).eval()
