"""BiSeNet: mmsegmentation's layout, the description's variant, the auxiliary outputs."""

import pytest
import torch
from torch.nn import functional as F

from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import random_image, shake
from tests.modeling.peers import build_mmseg
from tests.modeling.pixel_model_helpers import load_published, normalized, pixel_model
from tests.modeling.pixel_peers import TINY, worst_difference

R18 = ("MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r18_v1b")
R50 = ("MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r50_v1b")
BN = ("MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.BACKBONE.NORM", "BN")
NARROW = (
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 8, "MODEL.BISENET.SPATIAL_CHANNELS", (4, 4, 4, 8)),
    *(
        "MODEL.BISENET.CONTEXT_CHANNELS",
        8,
        "MODEL.BISENET.FUSION_CHANNELS",
        16,
        "MODEL.BISENET.AUX_CONVS_DIM",
        8,
    ),
)


def mmseg_bisenet(num_classes, depth):
    """Build BiSeNetV1 as in mmsegmentation's configs."""
    norm = {"type": "BN", "requires_grad": True}
    sizes = {"context_channels": (128, 256, 512), "spatial_channels": (64, 64, 64, 128), "out_channels": 256}
    context, auxiliary = 128, 64
    if depth == 50:
        sizes = {"context_channels": (512, 1024, 2048), "spatial_channels": (256, 256, 256, 512)}
        sizes["out_channels"] = 1024
        context, auxiliary = 512, 256
    head = {
        "type": "FCNHead",
        "num_convs": 1,
        "concat_input": False,
        "num_classes": num_classes,
        "norm_cfg": norm,
    }
    auxiliary_heads = [
        {**head, "in_channels": context, "channels": auxiliary, "in_index": index} for index in (1, 2)
    ]
    torch.manual_seed(1)
    return shake(
        build_mmseg(
            {
                "type": "EncoderDecoder",
                "backbone": {
                    "type": "BiSeNetV1",
                    **sizes,
                    "backbone_cfg": {
                        "type": "ResNet",
                        "depth": depth,
                        "out_indices": (0, 1, 2, 3),
                        "dilations": (1, 1, 1, 1),
                        "strides": (1, 2, 2, 2),
                        "norm_cfg": norm,
                        "norm_eval": False,
                        "contract_dilation": True,
                    },
                    "norm_cfg": norm,
                },
                "decode_head": {
                    **head,
                    "in_channels": sizes["out_channels"],
                    "channels": sizes["out_channels"],
                    "in_index": 0,
                },
                "auxiliary_head": auxiliary_heads,
            }
        )
    )


@pytest.mark.parametrize(
    ("method", "backbone", "depth"), [("bisenet_mmseg", R18, 18), ("bisenet_mmseg_bottleneck", R50, 50)]
)
def test_files_of_mmsegmentation_load_as_published_and_predict_the_same(method, backbone, depth, tmp_path):
    peer = mmseg_bisenet(7, depth)
    model = pixel_model(method, 7, *backbone, *BN)

    load_published(model, peer.state_dict(), tmp_path)

    def logits(image):
        return peer.decode_head(peer.backbone(image))

    images = [random_image(64, 64), random_image(61, 83)]
    assert worst_difference(model, logits, images) < 1e-5
    # The auxiliary outputs in training, with all randomness switched off.
    image = normalized(model, images[1])
    head = model.sem_seg_head
    head.training = True
    with torch.no_grad():
        outputs = head({**model.backbone(image), "image": image})
        features = peer.backbone(image)
        for auxiliary, name in zip(peer.auxiliary_head, ("res4", "res5"), strict=True):
            torch.testing.assert_close(outputs[name], auxiliary(features), rtol=1e-3, atol=1e-4)


def test_the_default_follows_the_description():
    """Sizes of the paths come from the weights, everything else is written out again."""
    model = shake(pixel_model("bisenet", 3, *TINY, *NARROW, *BN).eval())
    head, image = model.sem_seg_head, torch.randn(2, 3, 61, 83)
    weights = head.state_dict()

    def block(x, name, stride=1, relu=True):
        weight = weights[f"{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        norm = (weights[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *norm)
        return x.relu() if relu else x

    def biased(x, name):
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def mean(x):
        return x.mean((2, 3), keepdim=True)

    features = model.backbone(image)
    spatial = image
    for index, stride in enumerate((2, 2, 2, 1)):
        spatial = block(spatial, f"spatial_path.{index}", stride)
    context = block(mean(features["res5"]), "global_context")
    for name, size in (("res5", (4, 6)), ("res4", (8, 11))):
        refined = block(features[name], f"refinements.{name}.conv")
        gate = block(mean(refined), f"refinements.{name}.gate", relu=False).sigmoid()
        summed = refined * gate + context
        context = F.interpolate(summed, size, mode="bilinear", align_corners=True)
        context = block(context, f"enlarged.{name}")
    fused = block(torch.cat([spatial, context], 1), "fusion.conv")
    gate = biased(biased(mean(fused), "fusion.gate.0").relu(), "fusion.gate.1").sigmoid()
    expected = biased(block(fused + fused * gate, "last"), "predictor")

    assert weights["fusion.gate.0.weight"].shape[0] == 16 // 4
    with torch.no_grad():
        actual = head({**features, "image": image})["logits"]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_the_gate_of_the_pytorch_cv_preset_is_at_least_a_half():
    channels = torch.randn(2, 128, 4, 6)
    lowest = {}
    for method in ("bisenet", "bisenet_pytorch_cv"):
        refinement = shake(pixel_model(method, 3, *TINY, *NARROW, *BN).eval()).sem_seg_head.refinements[
            "res5"
        ]
        lowest[method] = refinement.gate(channels[:, :8, :1, :1]).sigmoid().min()
    assert lowest["bisenet"] < 0.5
    assert lowest["bisenet_pytorch_cv"] == 0.5


def test_all_outputs_are_supervised_and_every_parameter_is_trained():
    model = shake(pixel_model("bisenet", 3, *TINY, *NARROW, *BN))
    inputs = [
        {"image": random_image(64, 72, seed), "sem_seg": torch.randint(0, 3, (64, 72))} for seed in (0, 1)
    ]
    losses = model(inputs)
    assert losses.keys() == {"loss_sem_seg", "loss_sem_seg_res4", "loss_sem_seg_res5"}
    assert set(model.sem_seg_head.loss_weights.values()) == {1.0}
    sum(losses.values()).backward()
    # Including the feature fusion, which pytorch-cv's optimizer omits.
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_dilated_backbone_is_refused():
    with pytest.raises(InputError, match=r"have strides \[16, 16\], but BiSeNet needs 16 and 32"):
        pixel_model("bisenet", 3, *TINY, "MODEL.BACKBONE.OUTPUT_STRIDE", 16)
    with pytest.raises(InputError, match=r"upsample 'area': expected bilinear or nearest"):
        pixel_model("bisenet", 3, *TINY, *NARROW, "MODEL.BISENET.UPSAMPLE", "area")
