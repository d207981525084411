"""DeepLabV3 and DeepLabV3+: the layouts of torchvision, mmsegmentation and NVIDIA."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segzoo.modeling.backbones import wide_resnet
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import random_image, shake
from tests.modeling.pixel_model_helpers import (
    count_operations,
    count_parameters,
    load_published,
    pixel_model,
    unallocated_model,
)
from tests.modeling.pixel_peers import (
    R50,
    R50_V1C,
    TINY,
    mmseg_logits,
    mmseg_model,
    patchy_image,
    worst_difference,
)
from tests.modeling.test_wide_resnet import SMALL, published_features, published_weights


def test_files_of_torchvision_load_as_published_and_predict_the_same(tmp_path):
    segmentation = pytest.importorskip("torchvision.models.segmentation")
    torch.manual_seed(1)
    options = {"weights": None, "weights_backbone": None, "num_classes": 21, "aux_loss": True}
    peer = shake(segmentation.deeplabv3_resnet50(**options).eval())
    model = pixel_model("deeplabv3", 21, *R50, "MODEL.SEM_SEG_HEAD.ALIGN_CORNERS", False)

    report = load_published(model, peer.state_dict(), tmp_path)

    assert report.source == "torchvision DeepLabV3"
    images = [patchy_image(72, 72), patchy_image(61, 83)]
    # The map is large enough for every dilation: 36 positions of stride 8 are 288 pixels.
    images.append(patchy_image(64, 400))
    assert worst_difference(model, lambda image: peer.classifier(peer.backbone(image)["out"]), images) < 1e-5


@pytest.mark.parametrize(
    ("method", "head", "sizes"),
    [
        ("deeplabv3_mmseg", "ASPPHead", {}),
        ("deeplabv3plus", "DepthwiseSeparableASPPHead", {"c1_in_channels": 256, "c1_channels": 48}),
    ],
)
def test_files_of_mmsegmentation_load_as_published_and_predict_the_same(tmp_path, method, head, sizes):
    peer = mmseg_model(7, head, channels=512, dilations=(1, 12, 24, 36), **sizes)
    with torch.no_grad():
        for name, value in peer.named_parameters():
            # Their initial values are so small that the branches would not affect the logits.
            if name.endswith("depthwise_conv.conv.weight"):
                value *= 100
    model = pixel_model(method, 7, *R50_V1C)

    load_published(model, peer.state_dict(), tmp_path)

    assert worst_difference(model, mmseg_logits(peer), [patchy_image(61, 83), patchy_image(64, 320)]) < 1e-5


def conv_norm_relu(in_channels, out_channels, kernel, dilation=1):
    padding = dilation * (kernel // 2)
    return [
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


class WideHead(nn.Module):
    """The head of NVIDIA's DeepLabV3+ from its description, with the published names."""

    def __init__(self, num_classes, coarse_channels, fine_channels):
        super().__init__()
        self.aspp = nn.Module()
        convolutions = [nn.Sequential(*conv_norm_relu(coarse_channels, 256, 1))]
        convolutions += [
            nn.Sequential(*conv_norm_relu(coarse_channels, 256, 3, rate)) for rate in (12, 24, 36)
        ]
        self.aspp.features = nn.ModuleList(convolutions)
        self.aspp.img_conv = nn.Sequential(*conv_norm_relu(coarse_channels, 256, 1))
        self.bot_fine = nn.Conv2d(fine_channels, 48, 1, bias=False)
        self.bot_aspp = nn.Conv2d(1280, 256, 1, bias=False)
        self.final = nn.Sequential(
            *conv_norm_relu(304, 256, 3),
            *conv_norm_relu(256, 256, 3),
            nn.Conv2d(256, num_classes, 1, bias=False),
        )

    def forward(self, fine, coarse):
        pooled = self.aspp.img_conv(coarse.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *coarse.shape[2:])
        pyramid = torch.cat([pooled, *(convolution(coarse) for convolution in self.aspp.features)], 1)
        pyramid = F.interpolate(self.bot_aspp(pyramid), fine.shape[2:], mode="bilinear", align_corners=True)
        return self.final(torch.cat([self.bot_fine(fine), pyramid], 1))


def test_files_of_nvidia_load_as_published_and_predict_the_same(tmp_path, monkeypatch):
    monkeypatch.setitem(wide_resnet.VARIANTS, "narrow", SMALL)
    backbone = ("MODEL.BACKBONE.NAME", "WideResNetBackbone", "MODEL.BACKBONE.VARIANT", "narrow")
    model = pixel_model("deeplabv3plus_vplr", 19, *backbone)
    backbone = {
        key: value
        for key, value in published_weights(SMALL).items()
        if not key.startswith(("bn_out", "classifier"))
    }
    torch.manual_seed(1)
    peer = shake(WideHead(19, coarse_channels=256, fine_channels=8).eval())

    state = {f"module.{key}": value for key, value in {**backbone, **peer.state_dict()}.items()}
    assert load_published(model, state, tmp_path).source == "NVIDIA DeepLabV3+ WideResNet38"

    def logits(image):
        maps = published_features(backbone, image, output_stride=8)
        return peer(maps[0], maps[-1])

    assert worst_difference(model, logits, [patchy_image(48, 64), patchy_image(37, 301)]) < 1e-5


@pytest.mark.parametrize(
    ("method", "variant", "millions", "billions"),
    [
        ("fcn", "r50", 35.322218, 152.717),
        ("fcn", "r101", 54.314346, 232.738),
        ("deeplabv3", "r50", 42.004074, 178.722),
        ("deeplabv3", "r101", 60.996202, 258.743),
    ],
)
def test_parameters_and_multiply_adds_are_those_that_torchvision_publishes(
    method, variant, millions, billions
):
    backbone = ("MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", variant)
    model = unallocated_model(method, 21, *backbone)
    assert count_parameters(model) == pytest.approx(millions, abs=1e-9)
    # torchvision also runs its auxiliary classifier in evaluation: 65 x 65 positions for 520 x 520 pixels.
    auxiliary = 65 * 65 * (9 * 1024 * 256 + 256 * 21) / 1e9
    assert count_operations(model, (520, 520)) + auxiliary == pytest.approx(billions, abs=2e-3)


@pytest.mark.parametrize(
    "method", ["pspnet", "deeplabv3", "deeplabv3_mmseg", "deeplabv3plus", "bisenet", "bisenet_mmseg"]
)
def test_one_image_per_process_with_a_norm_on_a_pooled_branch_is_a_clear_error(method):
    options = (*TINY, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 8)
    inputs = [
        {"image": random_image(64, 64, seed), "sem_seg": torch.zeros(64, 64, dtype=torch.int64)}
        for seed in (0, 1)
    ]
    model = pixel_model(method, 3, *options)
    with pytest.raises(InputError, match=r"SOLVER\.IMS_PER_BATCH gives this process 1 image"):
        model(inputs[:1])
    model(inputs)
    model.eval()(inputs[:1])
    pixel_model(method, 3, *options, "MODEL.SEM_SEG_HEAD.NORM", "FrozenBN")(inputs[:1])
