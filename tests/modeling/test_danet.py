"""DANet: its two attentions against their definition, mmsegmentation's layout, the three outputs."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo.layers import pixel_attention as module
from segzoo.layers.pixel_attention import pixel_attention
from segzoo.model_zoo import load_config
from segzoo.projects.danet.attention import ChannelAttention, PositionAttention
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import random_image, shake
from tests.modeling.pixel_model_helpers import load_published, normalized, pixel_model
from tests.modeling.pixel_peers import R50_V1C, TINY, mmseg_logits, mmseg_model, worst_difference

SMALL = (
    *TINY,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM",
    16,
    "MODEL.SEM_SEG_HEAD.NORM",
    "BN",
    "MODEL.BACKBONE.NORM",
    "BN",
)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def plain_attention(query, key, value, scale, over):
    """Compute the definition; `over` is the dimension of the softmax: 1 queries, 2 keys."""
    weights = torch.einsum("ndp,ndq->npq", query, key).mul(scale).softmax(dim=over)
    return torch.einsum("npq,ncq->ncp", weights, value)


# With 7 value channels attention is computed in parts, with 5 by PyTorch's kernel.
@pytest.mark.parametrize("value_channels", [5, 7])
@pytest.mark.parametrize("normalize_queries", [False, True])
def test_attention_and_its_gradients_are_those_of_the_definition(
    value_channels, normalize_queries, monkeypatch
):
    # Weights of two or three rows at a time.
    monkeypatch.setattr(module, "_PART_BYTES", 700)
    torch.manual_seed(0)
    shapes = (2, 5, 31), (2, 5, 17), (2, value_channels, 17)
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    actual = pixel_attention(*inputs, 0.3, normalize_queries=normalize_queries)
    expected = plain_attention(*inputs, 0.3, over=1 if normalize_queries else 2)
    torch.testing.assert_close(actual, expected)
    direction = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, direction), torch.autograd.grad(expected, inputs, direction)
    )


@pytest.mark.parametrize("normalize_queries", [False, True])
def test_the_complete_weight_matrix_is_never_in_memory(normalize_queries, monkeypatch):
    monkeypatch.setattr(module, "_PART_BYTES", 1 << 18)
    pixels = 1024
    inputs = [torch.randn(1, channels, pixels, requires_grad=True) for channels in (4, 4, 8)]
    with LargestTensor() as largest:
        pixel_attention(*inputs, normalize_queries=normalize_queries).sum().backward()
    assert 0 < largest.elements <= pixels * pixels // 16


@pytest.mark.parametrize("over", ["keys", "queries"])
def test_position_attention_weights_values_and_adds_the_input(over):
    torch.manual_seed(0)
    attention = PositionAttention(16, 2, normalize_queries=over == "queries").double()
    x = torch.randn(2, 16, 3, 4, dtype=torch.double)
    torch.testing.assert_close(attention(x), x, rtol=0, atol=0)
    with torch.no_grad():
        attention.gamma.fill_(0.7)
    actual = attention(x)
    for image, result in zip(x.flatten(2), actual.flatten(2), strict=True):
        query, key, value = (
            projection.weight[..., 0, 0] @ image + projection.bias[:, None]
            for projection in (attention.query, attention.key, attention.value)
        )
        for position in range(12):
            total = torch.zeros(16, dtype=torch.double)
            for other in range(12):
                energy = (query[:, position] @ key[:, other]).exp()
                if over == "keys":
                    norm = sum((query[:, position] @ key[:, index]).exp() for index in range(12))
                else:
                    norm = sum((query[:, index] @ key[:, other]).exp() for index in range(12))
                total = total + energy / norm * value[:, other]
            torch.testing.assert_close(result[:, position], 0.7 * total + image[:, position])


def test_channel_attention_prefers_the_channels_that_differ():
    torch.manual_seed(0)
    attention = ChannelAttention()
    with torch.no_grad():
        attention.gamma.fill_(0.7)
    x = torch.randn(2, 5, 3, 4)
    pixels = x.flatten(2)
    affinity = torch.einsum("ncp,ndp->ncd", pixels, pixels)
    weights = (affinity.max(dim=2, keepdim=True).values - affinity).softmax(dim=2)
    expected = 0.7 * torch.einsum("ncd,ndp->ncp", weights, pixels).view_as(x) + x
    torch.testing.assert_close(attention(x), expected)
    # Affinities that float16 cannot represent.
    large = 300 * torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention(large).isfinite().all()


def mmseg_danet(num_classes):
    peer = mmseg_model(num_classes, "DAHead", channels=512, pam_channels=64)
    with torch.no_grad():
        peer.decode_head.pam.gamma.scale.fill_(0.8)
        peer.decode_head.cam.gamma.scale.fill_(-0.6)
    return peer


def test_files_of_mmsegmentation_load_as_published_and_predict_the_same(tmp_path):
    peer = mmseg_danet(7)
    model = pixel_model("danet_mmseg", 7, *R50_V1C, "MODEL.SEM_SEG_HEAD.NORM", "BN")

    load_published(model, peer.state_dict(), tmp_path)

    def fused(image):
        return mmseg_logits(peer)(image)[0]

    assert worst_difference(model, fused, [random_image(72, 72), random_image(61, 83)]) < 1e-5
    # The outputs of the branches in training, with all randomness switched off.
    image = normalized(model, random_image(72, 72))
    head = model.sem_seg_head
    head.training = True
    head.dropout.p = 0.0
    with torch.no_grad():
        outputs = head(model.backbone(image))
        _, position, channel = mmseg_logits(peer)(image)
    torch.testing.assert_close(outputs["position"], position, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(outputs["channel"], channel, rtol=1e-3, atol=1e-4)


def test_all_three_outputs_are_supervised_and_every_parameter_is_trained():
    inputs = [
        {"image": random_image(32, 40, seed), "sem_seg": torch.randint(0, 3, (32, 40))} for seed in (0, 1)
    ]
    losses = {}
    for weight in (1.0, 0.25):
        model = pixel_model("danet", 3, *SMALL, "MODEL.DANET.BRANCH_LOSS_WEIGHT", weight)
        model.sem_seg_head.dropout.p = 0.0
        losses[weight] = model(inputs)
    assert losses[1.0].keys() == {"loss_sem_seg", "loss_sem_seg_position", "loss_sem_seg_channel"}
    for branch in ("position", "channel"):
        ratio = losses[0.25][f"loss_sem_seg_{branch}"] / losses[1.0][f"loss_sem_seg_{branch}"]
        assert ratio.item() == pytest.approx(0.25)
    torch.testing.assert_close(losses[0.25]["loss_sem_seg"], losses[1.0]["loss_sem_seg"])

    shake(model)
    sum(model(inputs).values()).backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] in (
        [],
        # A softmax over keys does not depend on the key's bias, which is added to all of them.
        ["sem_seg_head.position_attention.key.bias"],
    )


def test_the_presets_differ_in_the_axis_of_the_softmax():
    assert not pixel_model("danet", 3, *SMALL).sem_seg_head.position_attention.normalize_queries
    assert pixel_model("danet_pytorch_cv", 3, *SMALL).sem_seg_head.position_attention.normalize_queries
    with pytest.raises(InputError, match=r"position_softmax 'rows': expected keys or queries"):
        pixel_model("danet", 3, *SMALL, "MODEL.DANET.POSITION_SOFTMAX", "rows")
    assert isinstance(pixel_model("danet_mmseg", 3, *SMALL).auxiliary_head, nn.Module)


@pytest.mark.parametrize(
    ("name", "probabilities"),
    [("danet_r50_v1s_240ep", set()), ("danet_r101_v1s_240ep", set()), ("danet_jpu_r101_v1s", {0.1})],
)
def test_nothing_is_dropped_in_gluoncvs_recipe(name, probabilities):
    cfg = load_config(f"semantic/cityscapes/{name}", ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    dropouts = [module for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
    assert {dropout.p for dropout in dropouts if dropout.p} == probabilities
