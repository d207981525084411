"""CCNet: criss-cross attention against its definition, its reach, mmsegmentation's layout."""

import pytest
import torch
from torch import nn

from segzoo.projects.ccnet.criss_cross_attention import CrissCrossAttention
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import random_image, relative_difference, shake
from tests.modeling.peers import mmseg_models
from tests.modeling.pixel_model_helpers import load_published, pixel_model
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


def make_attention(channels, key_channels, seed=0):
    torch.manual_seed(seed)
    attention = CrissCrossAttention(channels, key_channels)
    with torch.no_grad():
        attention.gamma.fill_(0.7)
    return attention


def by_definition(attention, x):
    """Attend pixel by pixel to the explicit list of the H + W - 1 pixels of its row and column."""
    query, key, value = attention.query(x), attention.key(x), attention.value(x)
    images, _, height, width = x.shape
    result = torch.empty_like(x)
    for image in range(images):
        for row in range(height):
            for column in range(width):
                seen = {(row, other) for other in range(width)} | {(other, column) for other in range(height)}
                assert len(seen) == height + width - 1
                keys = torch.stack([key[image, :, y, x] for y, x in sorted(seen)])
                values = torch.stack([value[image, :, y, x] for y, x in sorted(seen)])
                weights = (keys @ query[image, :, row, column]).softmax(dim=0)
                result[image, :, row, column] = weights @ values
    return attention.gamma * result + x


@pytest.mark.parametrize("size", [(4, 6), (6, 4), (1, 5), (5, 1), (1, 1)])
def test_attention_and_its_gradients_are_those_of_the_definition(size):
    # A number of channels that no slice divides.
    attention = make_attention(11, 3).double()
    x = torch.randn(2, 11, *size, dtype=torch.double, requires_grad=True)
    actual, expected = attention(x), by_definition(attention, x)
    torch.testing.assert_close(actual, expected)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), expected)
    leaves, direction = [x, *attention.parameters()], torch.randn_like(x)
    torch.testing.assert_close(
        torch.autograd.grad(actual, leaves, direction), torch.autograd.grad(expected, leaves, direction)
    )


def test_gradients_are_those_of_finite_differences():
    attention = make_attention(4, 2).double()
    x = torch.randn(2, 4, 3, 2, dtype=torch.double, requires_grad=True)
    names, parameters = zip(*attention.named_parameters(), strict=True)

    def function(x, *values):
        return torch.func.functional_call(attention, dict(zip(names, values, strict=True)), x)

    values = [parameter.detach().clone().requires_grad_() for parameter in parameters]
    assert torch.autograd.gradcheck(function, (x, *values))


def test_results_and_gradients_are_those_of_mmcv():
    mmseg_models()
    peer = pytest.importorskip("mmcv.ops.cc_attention").CrissCrossAttention(32)
    attention = make_attention(32, 4)
    with torch.no_grad():
        for name in ("query", "key", "value"):
            getattr(peer, f"{name}_conv").load_state_dict(getattr(attention, name).state_dict())
        peer.gamma.scale.copy_(attention.gamma)
    x = torch.randn(2, 32, 9, 13, requires_grad=True)
    # Not contiguous, like a cropped batch, and of its size.
    actual, expected = attention(x[..., 1:-1]), peer(x[..., 1:-1])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_lower_precision_stays_close():
    attention = make_attention(32, 4)
    x = torch.randn(1, 32, 7, 9)
    expected = attention(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = attention(x)
        actual.float().sum().backward()
    assert actual.dtype == torch.bfloat16
    assert attention.value.weight.grad.dtype == torch.float32
    assert relative_difference(actual.detach().float(), expected.detach()) < 0.01


@pytest.mark.parametrize(("recurrence", "everywhere"), [(1, False), (2, True)])
def test_two_passes_reach_every_pixel_and_one_does_not(recurrence, everywhere):
    """The head without the layers around the attention, because convolutions extend its reach."""
    model = pixel_model(
        "ccnet", 3, *SMALL, "MODEL.CCNET.RECURRENCE", recurrence, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 128
    )
    head = shake(model).double().eval().sem_seg_head

    class OnlyAttended(nn.Module):
        def forward(self, joined):
            return joined[:, 128:]

    head.reduce, head.refine, head.fuse = nn.Identity(), nn.Identity(), OnlyAttended()
    with torch.no_grad():
        head.attention.gamma.fill_(1.0)
    x = torch.randn(1, 128, 5, 7, dtype=torch.double, requires_grad=True)
    logits = head({"res5": x})["logits"]
    reached = torch.autograd.grad(logits[0, :, 1, 2].sum(), x)[0].abs().sum(dim=1)[0] > 0
    expected = torch.ones(5, 7, dtype=torch.bool)
    if not everywhere:
        expected = torch.zeros(5, 7, dtype=torch.bool)
        expected[1, :] = expected[:, 2] = True
    assert torch.equal(reached, expected)


def test_files_of_mmsegmentation_load_as_published_and_predict_the_same(tmp_path):
    mmseg_models()
    peer = mmseg_model(7, "CCHead", channels=512, recurrence=2)
    with torch.no_grad():
        peer.decode_head.cca.gamma.scale.fill_(0.8)
    model = pixel_model("ccnet_mmseg", 7, *R50_V1C, "MODEL.SEM_SEG_HEAD.NORM", "BN")

    load_published(model, peer.state_dict(), tmp_path)

    images = [random_image(72, 72), random_image(61, 83)]
    assert worst_difference(model, mmseg_logits(peer), images) < 1e-5


def test_every_parameter_is_trained():
    model = shake(pixel_model("ccnet", 3, *SMALL))
    inputs = [
        {"image": random_image(32, 40, seed), "sem_seg": torch.randint(0, 3, (32, 40))} for seed in (0, 1)
    ]
    sum(model(inputs).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.sem_seg_head.attention.query.weight.grad.any()


def test_the_presets_differ_in_the_passes():
    assert pixel_model("ccnet", 3, *SMALL).sem_seg_head.recurrence == 2
    assert pixel_model("ccnet_pytorch_cv", 3, *SMALL).sem_seg_head.recurrence == 1
    with pytest.raises(InputError, match=r"recurrence 0: expected 1 or more"):
        pixel_model("ccnet", 3, *SMALL, "MODEL.CCNET.RECURRENCE", 0)
