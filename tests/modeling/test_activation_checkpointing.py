"""Activation checkpointing does not update batch statistics twice."""

import copy

import pytest
import torch
from torch import nn

from segzoo.layers.runtime import checkpointed
from segzoo.modeling.backbones.resnet import VARIANTS, ResNetBackbone
from segzoo.modeling.backbones.timm_backbone import TimmBackbone
from segzoo.modeling.backbones.wide_resnet import WideResNetBackbone, WideResNetVariant


def backbone(name, checkpointing):
    torch.manual_seed(0)
    if name == "timm":
        return TimmBackbone(variant="test_resnet", norm="BN", activation_checkpointing=checkpointing)
    if name == "wide":
        variant = WideResNetVariant((1, 1, 1, 1, 1, 1), width=4)
        network = WideResNetBackbone(variant=variant, norm="BN", activation_checkpointing=checkpointing)
        for module in network.modules():
            if isinstance(module, nn.Dropout2d):
                module.p = 0.0
        return network
    return ResNetBackbone(variant=VARIANTS["r18_quarter"], norm="BN", activation_checkpointing=checkpointing)


def step(network, image):
    sum((feature**2).mean() for feature in network(image).values()).backward()


@pytest.mark.parametrize("name", ["resnet", "wide", "timm"])
def test_batch_norms_update_their_statistics_once_per_batch(name):
    images = torch.randn(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain, checkpointing = (backbone(name, enabled).train() for enabled in (False, True))
    for network in (plain, checkpointing):
        for image in images:
            step(network, image)
    averages = {key: value for key, value in plain.named_buffers() if ".running_" in f".{key}"}
    assert averages
    for key, value in checkpointing.named_buffers():
        if key in averages:
            torch.testing.assert_close(value, averages[key], rtol=1e-4, atol=1e-5)


def test_statistics_are_updated_with_the_momentum_of_one_batch():
    norm = nn.BatchNorm2d(2, momentum=0.25).train()
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    checkpointed(norm, x).square().sum().backward()
    torch.testing.assert_close(norm.running_mean, 0.25 * x.mean(dim=(0, 2, 3)))
    assert norm.momentum == 0.25


def test_a_timm_backbone_uses_a_momentum_set_for_a_pass_without_gradients():
    """Detectron2's PreciseBN sets it."""
    network = backbone("timm", True).train()
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    step(network, image)
    copied = copy.deepcopy(network)
    norm = next(module for module in copied.modules() if isinstance(module, nn.BatchNorm2d))
    norm.momentum = 1.0
    seen = []
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].mean(dim=(0, 2, 3))))
    with torch.no_grad():
        copied(image)
    torch.testing.assert_close(norm.running_mean, seen[0])
