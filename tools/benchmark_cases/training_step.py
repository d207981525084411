"""One training step of Mask2Former: losses of a batch and the gradients of all parameters, same weights.

Peers are transformers' network with its own loss, and the straightforward formulation of network and loss,
which draws the same points. transformers draws other points, so its losses are only close.
"""

from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from segzoo import model_zoo
from segzoo.modeling.mask_classification.criterion import UncertainPoints, targets_from_inputs

from . import Case, Pair, scenes
from .criterion import NUM_POINTS, POINT_WEIGHTS, OwnPoints, plain
from .mask2former import PEERS, transformers_pair
from .straightforward_mask2former import straightforward
from .straightforward_matcher import planes

NUM_SEGMENTS, NUM_CLASSES = 12, 133
# Relative differences. Over nine layers rounding moves a mask's edge, and with it which points are uncertain.
TOLERANCES = {"transformers": (5e-2, None), "straightforward": (1e-4, 2e-2)}


def batch(size: int) -> list[dict]:
    """Return one image with a segment map, as the mapper does."""
    torch.manual_seed(0)
    segment_map = torch.from_numpy(scenes.regions(np.random.default_rng(0), size, size, NUM_SEGMENTS))
    return [
        {
            "image": torch.randint(0, 256, (3, size, size), dtype=torch.uint8),
            "segment_map": segment_map.to(torch.int16),
            "segment_classes": torch.randint(0, NUM_CLASSES, (NUM_SEGMENTS,)),
        }
    ]


def labels(inputs: dict) -> tuple[Tensor, Tensor]:
    """Return (S, H, W) float planes and (S,) classes."""
    return planes(inputs["segment_map"], NUM_SEGMENTS), inputs["segment_classes"]


def beside_transformers(backbone: str, size: int) -> Pair:
    model, network = transformers_pair(backbone)
    inputs = batch(size)
    segment_planes, classes = labels(inputs[0])
    encoder = network.train().model.pixel_level_module.encoder.eval()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)

    def theirs() -> Tensor:
        pixels = ((inputs[0]["image"] - model.pixel_mean) / model.pixel_std)[None]
        return network(pixels, mask_labels=[segment_planes], class_labels=[classes]).loss

    return pair(model, inputs, theirs, network, "transformers")


def beside_the_straightforward(backbone: str, size: int) -> Pair:
    torch.manual_seed(0)
    model = model_zoo.get(f"panoptic/coco/mask2former_{backbone}", weights=None, device="cpu")
    inputs = batch(size)
    targets = targets_from_inputs(inputs, (size, size), "cpu")
    criterion = plain(POINT_WEIGHTS, "bce", UncertainPoints(NUM_POINTS))

    def theirs() -> Tensor:
        pixels = ((inputs[0]["image"] - model.pixel_mean) / model.pixel_std)[None]
        with straightforward(model):
            outputs = model.sem_seg_head(model.backbone(pixels))
        losses = criterion(outputs, targets, OwnPoints(seed=1))
        return sum(losses.values())

    return pair(model, inputs, theirs, model, "straightforward")


def pair(
    model: nn.Module, inputs: list[dict], theirs: Callable[[], Tensor], network: nn.Module, peer: str
) -> Pair:
    """Compare a training step; `theirs` returns the peer's loss, and `network` has its parameters."""
    model.train()
    # Stochastic depth would drop different blocks on the two sides.
    model.backbone.eval()

    def ours() -> tuple[Tensor, list[Tensor]]:
        with mock.patch.object(model.criterion, "new_points", return_value=OwnPoints(seed=1)):
            return step(model, sum(model(inputs).values()))

    def compare(result: tuple, expected: tuple) -> str:
        losses = abs(result[0].item() / expected[0].item() - 1)
        most, most_of_gradients = TOLERANCES[peer]
        verdict, same = f"loss {losses:.1e}", losses < most
        if most_of_gradients is not None:
            squares = [
                (one - other).square().sum() for one, other in zip(result[1], expected[1], strict=True)
            ]
            gradients = float((sum(squares) / sum(one.square().sum() for one in expected[1])).sqrt())
            verdict, same = f"{verdict}, gradients {gradients:.1e}", same and gradients < most_of_gradients
        else:
            verdict = f"{verdict}, each with its own points"
        return verdict if same else f"DIFFERENT: {verdict}"

    return Pair(ours, lambda: step(network, theirs()), compare)


def step(module: nn.Module, loss: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the loss and its gradients with respect to the trained parameters."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return loss.detach(), list(gradients)


MAKE = {"transformers": beside_transformers, "straightforward": beside_the_straightforward}

CASES = [
    Case(
        f"{backbone}-{size}-{peer}",
        f"Mask2Former {name}, training step, {size} x {size}, {NUM_SEGMENTS} segments; peer: {peer}",
        lambda peer=peer, backbone=backbone, size=size: MAKE[peer](backbone, size),
        goal=1.2,
        memory_goal=1.0,
        repeat=3,
        slow=True,
        needs=("transformers",) if peer == "transformers" else (),
        recorded=size == 512 and peer == "transformers",
    )
    for peer in PEERS
    for backbone, name in (("r50", "R50"), ("swin_tiny", "Swin-T"))
    for size in (512, 1024)
]
