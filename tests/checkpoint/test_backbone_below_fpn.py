"""ImageNet weights of a ResNet load into Detectron2's backbones with an FPN on top."""

import pytest
import torch
from torch import nn

from segzoo.checkpoint import load_checkpoint
from segzoo.utils.errors import InputError


def network() -> nn.Module:
    """A ResNet's first convolutions, by Detectron2's names."""
    resnet = nn.Module()
    resnet.stem, block = nn.Module(), nn.Module()
    resnet.stem.conv1, block.conv1 = nn.Conv2d(3, 4, 7, bias=False), nn.Conv2d(4, 4, 1, bias=False)
    resnet.res2 = nn.ModuleList([block])
    return resnet


def detector() -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.bottom_up = network()
    model.backbone.fpn_lateral2 = nn.Conv2d(4, 8, 1)
    return model


def test_the_network_is_filled_and_the_pyramid_keeps_its_initial_values(tmp_path):
    weights = network().state_dict()
    torch.save({"model": {**weights, "stem.fc.weight": torch.zeros(10, 4)}}, tmp_path / "resnet.pth")
    model = detector()
    before = model.backbone.fpn_lateral2.weight.clone()
    load_checkpoint(model, tmp_path / "resnet.pth")
    loaded = model.backbone.bottom_up.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())
    assert torch.equal(model.backbone.fpn_lateral2.weight, before)


def test_a_missing_weight_of_the_network_is_an_error(tmp_path):
    weights = network().state_dict()
    torch.save({"model": weights}, tmp_path / "resnet.pth")
    model = detector()
    model.backbone.bottom_up.res2[0].conv2 = nn.Conv2d(4, 4, 3)
    with pytest.raises(InputError, match=r"backbone.bottom_up.res2.0.conv2.weight"):
        load_checkpoint(model, tmp_path / "resnet.pth")
