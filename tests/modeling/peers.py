"""Independent implementations that tests compare with. They are optional: a test without its own skips."""

import importlib
import sys
import types
from typing import Any

import pytest


class _WithoutOperators(types.ModuleType):
    """Stands for mmcv's compiled operators, which its lite distribution lacks: each fails when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: object, **kwargs: object) -> None:
            raise NotImplementedError(f"mmcv's compiled operator {name}")

        return missing


def mmseg_models() -> types.ModuleType:
    """mmsegmentation's `mmseg.models`, with mmcv-lite; skips the test where they are not installed."""
    pytest.importorskip("mmengine")
    pytest.importorskip("mmcv")
    if "mmcv._ext" not in sys.modules:
        try:
            importlib.import_module("mmcv._ext")
        except ImportError:
            sys.modules["mmcv._ext"] = _WithoutOperators("mmcv._ext")
    return pytest.importorskip("mmseg.models")


def build_mmseg(config: dict[str, Any]) -> Any:
    """A model of mmsegmentation in eval mode, from the dict its configs call `model`."""
    models = mmseg_models()
    config = {"data_preprocessor": None, "train_cfg": {}, "test_cfg": {"mode": "whole"}, **config}
    return models.build_segmentor(config).eval()
