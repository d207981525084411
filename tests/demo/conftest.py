"""A small Mask2Former with random weights, made to find something in every image."""

import numpy as np
import pytest
import torch

from segzoo.engine import Predictor
from segzoo.model_zoo import load_config
from tests.demo.demo_helpers import CONFIG, OVERRIDES


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> str:
    """A checkpoint whose class head never says "no object"."""
    torch.manual_seed(0)
    model = Predictor(load_config(CONFIG, OVERRIDES)).model
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[-1] = -20.0
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save({"model": model.state_dict()}, path)
    return str(path)


@pytest.fixture(scope="session")
def make_predictor(weights):
    def make(*overrides: str, **options) -> Predictor:
        return Predictor(load_config(CONFIG, (*OVERRIDES, *overrides)), weights, **options)

    return make


@pytest.fixture
def images() -> list[np.ndarray]:
    """Three BGR images of different sizes."""
    generator = np.random.default_rng(0)
    sizes = ((96, 128), (150, 100), (64, 64))
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
