"""PVTv2 against timm, with the same weights."""

import pytest
import torch
from torch import nn

from segzoo.checkpoint import load_checkpoint
from segzoo.modeling.backbones.mit import PVT_V2_VARIANTS, PyramidVariant, PyramidVisionTransformerV2
from tests.modeling.modeling_helpers import relative_difference, shake

timm = pytest.importorskip("timm")


class Model(nn.Module):
    """A model with the weight names of a complete one."""

    def __init__(self, variant: PyramidVariant):
        super().__init__()
        torch.manual_seed(1)
        self.backbone = PyramidVisionTransformerV2(variant=variant)


@pytest.mark.parametrize(("name", "depth"), [("b0", None), ("b5", (1, 2, 2, 1))])
def test_features_equal_those_of_timm_loaded_from_its_own_file(name, depth, tmp_path):
    variant = PVT_V2_VARIANTS[name]
    if depth:
        variant = PyramidVariant(variant.channels, depth, variant.num_heads, variant.mlp_ratios)
    torch.manual_seed(0)
    peer = shake(timm.create_model(f"pvt_v2_{name}", pretrained=False, depths=variant.depths)).eval()
    path = tmp_path / "pvt_v2.pth"
    torch.save(peer.state_dict(), path)
    model = Model(variant).eval()
    report = load_checkpoint(model, path)
    assert report.complete
    assert report.source == "timm PVTv2 ImageNet"
    assert report.extras == ["head.weight", "head.bias"]
    for size in [(64, 96), (33, 47)]:
        image = torch.randn(2, 3, *size)
        with torch.no_grad():
            features = model.backbone(image)
            expected = peer.forward_intermediates(image, intermediates_only=True)
        for feature, expected_feature in zip(features.values(), expected, strict=True):
            assert relative_difference(feature, expected_feature) < 1e-5


@pytest.mark.parametrize("name", list(PVT_V2_VARIANTS))
def test_backbones_have_exactly_the_parameters_of_timm_without_the_classifier(name):
    with torch.device("meta"):
        backbone = PyramidVisionTransformerV2(variant=PVT_V2_VARIANTS[name])
        peer = timm.create_model(f"pvt_v2_{name}", pretrained=False, num_classes=0)
    shapes = sorted(tuple(parameter.shape) for parameter in backbone.parameters())
    assert shapes == sorted(tuple(parameter.shape) for parameter in peer.parameters())
