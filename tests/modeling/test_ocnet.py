"""OCNet's two heads against an implementation from the description with pytorch-cv's names."""

import pytest
import torch
from detectron2.modeling import build_model

from segzoo.projects.ocnet.attention import ObjectContext
from tests.modeling.modeling_helpers import random_image, shake
from tests.modeling.pixel_model_helpers import load_published, normalized, pixel_config, pixel_model
from tests.modeling.pixel_peers import R50_V1S, TINY, worst_difference
from tests.modeling.pytorch_cv_reference import OCNet

SMALL = (
    *TINY,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM",
    16,
    "MODEL.SEM_SEG_HEAD.NORM",
    "BN",
    "MODEL.BACKBONE.NORM",
    "BN",
)


# 61 pixels are 8 at stride 8, 83 are 11: an odd number to pool. OCNet-Base: test_pytorch_cv_files.py.
def test_files_of_ocnet_asp_load_as_published_and_predict_the_same(tmp_path):
    torch.manual_seed(1)
    peer = shake(OCNet("asp", 7).eval())
    cfg = pixel_config("ocnet_asp", 7, *R50_V1S, "MODEL.SEM_SEG_HEAD.NORM", "BN")
    cfg.merge_from_list(["MODEL.NECK.NAME", "JPU", "MODEL.BACKBONE.OUTPUT_STRIDE", 32])
    model = build_model(cfg)

    load_published(model, peer.state_dict(), tmp_path)

    assert worst_difference(model, peer, [random_image(64, 64), random_image(61, 83)]) < 1e-5
    image = normalized(model, random_image(61, 83))
    with torch.no_grad():
        auxiliary = model.auxiliary_head(model.neck(model.backbone(image)))["logits"]
        torch.testing.assert_close(auxiliary, peer.auxiliary(image), rtol=1e-3, atol=1e-4)


def test_context_is_a_mean_of_values_weighted_by_similarity():
    torch.manual_seed(0)
    context = shake(ObjectContext(8, 4, 6, "BN").eval())
    torch.nn.init.normal_(context.output.weight)
    x = torch.randn(1, 8, 3, 5)
    key = context.key(x)[0].flatten(1)
    value = context.value(x)[0].flatten(1)
    rows = []
    for position in range(15):
        weights = torch.tensor([float(key[:, position] @ key[:, other]) / 2 for other in range(15)]).softmax(
            0
        )
        rows.append((value * weights).sum(1))
    expected = context.output(torch.stack(rows, 1).view(1, 6, 3, 5))
    torch.testing.assert_close(context(x), expected, rtol=1e-4, atol=1e-5)


def test_context_is_initially_zero_and_supports_maps_of_one_pixel():
    context = ObjectContext(8, 4, 8, "", pooling=2)
    assert not context(torch.randn(2, 8, 5, 7)).any()
    assert context(torch.randn(2, 8, 1, 3)).shape == (2, 8, 1, 3)


@pytest.mark.parametrize("method", ["ocnet_base", "ocnet_asp"])
def test_every_parameter_is_trained(method):
    model = shake(pixel_model(method, 3, *SMALL))
    torch.nn.init.normal_(model.sem_seg_head.context.output.weight)
    inputs = [
        {"image": random_image(64, 72, seed), "sem_seg": torch.randint(0, 3, (64, 72))} for seed in (0, 1)
    ]
    losses = model(inputs)
    assert losses.keys() == {"loss_sem_seg", "loss_sem_seg_auxiliary"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.sem_seg_head.context.key.weight.grad.any()


def test_dropout_is_that_of_the_paper():
    assert pixel_model("ocnet_base", 3, *SMALL).sem_seg_head.dropout.p == 0.05
    assert pixel_model("ocnet_asp", 3, *SMALL).sem_seg_head.dropout.p == 0.1
