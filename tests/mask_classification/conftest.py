"""Small scenes, and the plain formulations of matching and post-processing from the benchmarks."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from segzoo.modeling.mask_classification.criterion import SegmentTargets

BENCHMARK_CASES = Path(__file__).resolve().parents[2] / "tools" / "benchmark_cases"


def _load(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCHMARK_CASES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def plain_matcher():
    return _load("straightforward_matcher").StraightforwardMatcher


@pytest.fixture(scope="session")
def plain_postprocess():
    return _load("straightforward_postprocess")


class Scene:
    """Random predictions of `layers` layers and blocky targets for a batch of two images."""

    num_queries, num_classes, channels = 9, 5, 6

    def __init__(self, layers=3, size=(32, 40), mask_size=(8, 10), num_segments=(3, 5), dtype=torch.float32):
        self.generator = torch.Generator().manual_seed(3)
        self.features = self.random(
            len(num_segments), self.channels, *mask_size, dtype=dtype
        ).requires_grad_()
        self.layers = [
            {
                "pred_logits": self.random(
                    len(num_segments), self.num_queries, self.num_classes + 1, dtype=dtype
                ).requires_grad_(),
                "mask_embed": self.random(
                    len(num_segments), self.num_queries, self.channels, dtype=dtype
                ).requires_grad_(),
            }
            for _ in range(layers)
        ]
        self.targets = [self.target(count, size) for count in num_segments]

    def random(self, *shape, dtype=torch.float32):
        return torch.randn(*shape, generator=self.generator).to(dtype)

    def target(self, count: int, size: tuple[int, int]) -> SegmentTargets:
        """Return blocks of `count` segments and of no segment; each segment has a pixel."""
        blocks = torch.randint(-1, count, (1, 1, 6, 7), generator=self.generator).float()
        segment_map = F.interpolate(blocks, size=size)[0, 0].to(torch.int16)
        segment_map[-1, : min(count, size[1])] = torch.arange(min(count, size[1]), dtype=torch.int16)
        classes = torch.randint(0, self.num_classes, (count,), generator=self.generator)
        return SegmentTargets(classes, segment_map=segment_map)

    @property
    def outputs(self) -> dict:
        return {**self.layers[-1], "mask_features": self.features, "aux_outputs": self.layers[:-1]}

    @property
    def outputs_with_masks(self) -> dict:
        def finished(layer):
            masks = torch.einsum("nqc,nchw->nqhw", layer["mask_embed"], self.features)
            return {"pred_logits": layer["pred_logits"], "pred_masks": masks}

        return {**finished(self.layers[-1]), "aux_outputs": [finished(layer) for layer in self.layers[:-1]]}

    @property
    def leaves(self) -> list[torch.Tensor]:
        return [self.features, *(tensor for layer in self.layers for tensor in layer.values())]

    def planes(self) -> list[torch.Tensor]:
        """Return (S, H, W) floats for each image."""
        return [
            (target.segment_map == torch.arange(len(target))[:, None, None]).float()
            for target in self.targets
        ]

    def targets_as_planes(self) -> list[SegmentTargets]:
        return [
            SegmentTargets(target.classes, masks=planes.bool())
            for target, planes in zip(self.targets, self.planes(), strict=True)
        ]


@pytest.fixture
def make_scene():
    return Scene
