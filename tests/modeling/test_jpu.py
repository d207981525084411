"""The JPU neck: mmsegmentation's FastFCN, the order of its maps, and every head that it supports."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

from segzoo.projects.jpu import JPU
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import random_image, relative_difference, shake
from tests.modeling.peers import build_mmseg
from tests.modeling.pixel_model_helpers import METHODS, load_published, pixel_config
from tests.modeling.pixel_peers import R50_V1C, TINY, worst_difference

SMALL = ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 16, "MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.BACKBONE.NORM", "BN")
# Methods in which the neck replaces dilation, by the name of their head.
METHODS_BELOW = {
    "FCNHead": "fcn",
    "PSPHead": "pspnet",
    "ASPPHead": "deeplabv3",
    "DANetHead": "danet",
    "OCNetBaseHead": "ocnet_base",
    "OCNetASPHead": "ocnet_asp",
    "CCNetHead": "ccnet",
}


def with_jpu(method, num_classes, *overrides, jpu="jpu"):
    """Build the model of a configuration whose bases are the method's file and the neck's."""
    cfg = pixel_config(method, num_classes)
    cfg.merge_from_other_cfg(CfgNode(cfg.load_yaml_with_base(str(METHODS / f"{jpu}.yaml"))))
    cfg.merge_from_list(list(overrides))
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.mark.parametrize("name", sorted(METHODS_BELOW))
def test_any_head_gets_a_map_of_stride_8(name):
    model = with_jpu(
        METHODS_BELOW[name], 3, *TINY, *SMALL, "MODEL.JPU.CONVS_DIM", 8, "MODEL.AUX_HEAD.NAME", "FCNHead"
    )
    assert type(model.sem_seg_head).__name__ == name
    inputs = [
        {"image": random_image(64, 88, seed), "sem_seg": torch.randint(0, 3, (64, 88))} for seed in (0, 1)
    ]
    losses = model(inputs)
    assert {"loss_sem_seg", "loss_sem_seg_auxiliary"} <= losses.keys()
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    logits = model.eval().raw_outputs([{"image": random_image(61, 83)}])["sem_seg_logits"]
    assert logits.shape == (1, 3, 8, 11)


def test_the_auxiliary_head_gets_the_backbones_map():
    model = with_jpu("fcn", 3, *TINY, *SMALL).eval()
    raw = model.backbone(torch.randn(1, 3, 64, 96))
    features = model.neck(raw)
    assert features["res4"] is raw["res4"]
    assert features["res4"].shape == (1, 64, 4, 6)
    assert features["res5"].shape == (1, 4 * 512, 8, 12)
    shape = model.neck.output_shape()["res5"]
    assert (shape.channels, shape.stride) == (2048, 8)


def mmseg_fastfcn(num_classes, head):
    norm = {"type": "BN", "requires_grad": True}
    shared = {"num_classes": num_classes, "norm_cfg": norm, "align_corners": False}
    torch.manual_seed(1)
    peer = build_mmseg(
        {
            "type": "EncoderDecoder",
            "backbone": {
                "type": "ResNetV1c",
                "depth": 50,
                "dilations": (1, 1, 2, 4),
                "strides": (1, 2, 2, 2),
                "out_indices": (1, 2, 3),
                "norm_cfg": norm,
                "norm_eval": False,
                "contract_dilation": True,
            },
            "neck": {"type": "JPU", "in_channels": (512, 1024, 2048), "norm_cfg": norm},
            "decode_head": {"in_channels": 2048, "in_index": 2, "channels": 512, **head, **shared},
            "auxiliary_head": {
                **{"type": "FCNHead", "in_channels": 1024, "in_index": 1, "channels": 256},
                **{"num_convs": 1, "concat_input": False, **shared},
            },
        }
    )
    return shake(peer)


# Its DeepLabV3 head has 512 channels here.
@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("pspnet_mmseg", {"type": "PSPHead", "pool_scales": (1, 2, 3, 6)}),
        ("deeplabv3_mmseg", {"type": "ASPPHead", "dilations": (1, 12, 24, 36)}),
    ],
)
def test_files_of_mmsegmentation_load_as_published_and_predict_the_same(method, head, tmp_path):
    peer = mmseg_fastfcn(7, head)
    model = with_jpu(method, 7, *R50_V1C, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 512, jpu="jpu_mmseg")

    load_published(model, peer.state_dict(), tmp_path)

    def logits(image):
        return peer.decode_head(peer.neck(peer.backbone(image)))

    assert worst_difference(model, logits, [random_image(64, 64), random_image(61, 83)]) < 1e-5


def test_the_order_of_the_maps_only_permutes_weights():
    shapes = {
        name: ShapeSpec(channels=6, stride=stride)
        for name, stride in (("res3", 8), ("res4", 16), ("res5", 32))
    }
    finest, coarsest = (
        JPU(input_shape=shapes, channels=4, norm="BN", coarsest_first=first) for first in (False, True)
    )
    state = shake(finest.eval()).state_dict()
    for index in range(4):
        depthwise = [key for key in state if key.startswith(f"dilated.{index}.0.")]
        for key in (*depthwise, f"dilated.{index}.1.weight"):
            dimension = 1 if key.endswith("1.weight") else 0
            if state[key].dim():
                state[key] = torch.cat(state[key].split(4, dimension)[::-1], dimension)
    coarsest.eval().load_state_dict(state)
    features = {
        name: torch.randn(1, 6, 64 // shape.stride, 96 // shape.stride) for name, shape in shapes.items()
    }
    assert relative_difference(coarsest(features)["res5"], finest(features)["res5"].detach()) < 1e-6


def test_maps_that_do_not_fit_are_refused():
    message = "^MODEL.BACKBONE.OUT_FEATURES and OUTPUT_STRIDE: a JPU .* expected res4 of stride 16, found 8"
    with pytest.raises(InputError, match=message):
        with_jpu("pspnet", 3, *TINY, *SMALL, "MODEL.BACKBONE.OUTPUT_STRIDE", 8)
    with pytest.raises(InputError, match="JPU needs res3, but the backbone has res4, res5"):
        with_jpu("pspnet", 3, *TINY, *SMALL, "MODEL.BACKBONE.OUT_FEATURES", ["res4", "res5"])
