"""PSANet: its attention against the definition, the layouts of semseg and mmsegmentation, sizes, crops."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segzoo.config.rules import check_values
from segzoo.projects.psanet.attention import compact_attention, offset_attention
from segzoo.projects.psanet.head import mask_size
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import random_image, relative_difference, shake
from tests.modeling.pixel_model_helpers import (
    count_operations,
    count_parameters,
    load_published,
    pixel_config,
    pixel_model,
    unallocated_model,
)
from tests.modeling.pixel_peers import (
    R50_V1C,
    R50_V1S,
    TINY,
    mmseg_logits,
    mmseg_model,
    patchy_image,
    worst_difference,
)
from tests.modeling.semseg_reference import SemsegNetwork, block

SMALL = (*TINY, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 8)


def expanded_by_loops(maps, mask_height, mask_width, direction):
    """Compute the published operator: (N, Mh Mw, h, w) maps of offsets to (N, h w, h, w)."""
    images, _, height, width = maps.shape
    matrix = maps.new_zeros(images, height * width, height, width)
    for y in range(height):
        for x in range(width):
            for row in range(mask_height):
                for column in range(mask_width):
                    other_y, other_x = y + row - (mask_height - 1) // 2, x + column - (mask_width - 1) // 2
                    if not (0 <= other_y < height and 0 <= other_x < width):
                        continue
                    score = maps[:, row * mask_width + column, y, x]
                    if direction == "collect":
                        matrix[:, other_y * width + other_x, y, x] = score
                    else:
                        matrix[:, y * width + x, other_y, other_x] = score
    return matrix


def attend_by_definition(values, positions, weight, direction):
    maps = torch.einsum("abc,nchw->nabhw", weight, positions).flatten(1, 2)
    shares = expanded_by_loops(maps, *weight.shape[:2], direction).flatten(2).softmax(dim=1)
    return (values.flatten(2) @ shares).view(values.shape)


def random_input(mask, height, width, images=2):
    generator = torch.Generator().manual_seed(0)
    shapes = [(images, 3, height, width), (images, 5, height, width), (*mask, 5)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


# The full map, smaller ones whose uncovered offsets have score 0, larger ones than the image, and ones
# with even sides, which extend farther on one side.
@pytest.mark.parametrize("mask", [(5, 7), (3, 3), (1, 7), (9, 5), (4, 6), (8, 10)])
@pytest.mark.parametrize("direction", ["collect", "distribute"])
def test_the_attention_and_its_gradients_are_those_of_the_definition(direction, mask):
    inputs = random_input(mask, 3, 4)
    actual = offset_attention(*inputs, direction)
    expected = attend_by_definition(*inputs, direction)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)

    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((actual * weights).sum(), inputs)
    for gradient, expected_gradient in zip(
        gradients, torch.autograd.grad((expected * weights).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("direction", ["collect", "distribute"])
def test_blocks_of_several_rows_and_a_short_last_one_agree_with_numerical_gradients(direction):
    # 18 rows make six blocks of three; 10 rows five of two; 17 rows five of three and one of two.
    for height, mask in ((10, (19, 3)), (17, (33, 3))):
        inputs = random_input(mask, height, 2, images=1)
        torch.testing.assert_close(
            offset_attention(*inputs, direction), attend_by_definition(*inputs, direction), rtol=0, atol=1e-12
        )
        assert torch.autograd.gradcheck(
            lambda *inputs: offset_attention(*inputs, direction), inputs, fast_mode=True
        )


def test_a_gather_with_the_offsets_gives_the_same_attention():
    values, positions, weight = random_input((11, 13), 6, 7)
    place = torch.arange(42)
    row, column = place // 7, place % 7
    offsets = (row[:, None] - row + 5) * 13 + column[:, None] - column + 6
    maps = torch.einsum("abc,nchw->nabhw", weight, positions).flatten(3).flatten(1, 2)
    matrix = maps.gather(1, offsets.expand(2, -1, -1))
    for direction, sources_by_targets in (("collect", matrix), ("distribute", matrix.transpose(1, 2))):
        expected = values.flatten(2) @ sources_by_targets.softmax(dim=1)
        torch.testing.assert_close(
            offset_attention(values, positions, weight, direction).flatten(2), expected
        )


def test_compact_maps_hold_locations_and_distribute_uses_the_transpose():
    values, positions, _ = random_input((1, 1), 3, 4)
    weight = torch.randn(12, 5, dtype=torch.float64)
    maps = F.conv2d(positions, weight[:, :, None, None]).flatten(2)  # (N, place, position)
    for direction, sources_by_targets in (("collect", maps), ("distribute", maps.transpose(1, 2))):
        expected = values.flatten(2) @ sources_by_targets.softmax(dim=1)
        actual = compact_attention(values, positions, weight, direction)
        torch.testing.assert_close(actual.flatten(2), expected)


@pytest.mark.parametrize("direction", ["collect", "distribute"])
def test_mixed_precision_stays_close(direction):
    exact = [tensor.detach().float().requires_grad_() for tensor in random_input((11, 13), 6, 7)]
    values, positions, weight = (tensor.detach().clone().requires_grad_() for tensor in exact)

    expected = offset_attention(*exact, direction)
    # As under autocast: values and weights in float32, positions from a convolution in half precision.
    actual = offset_attention(values, positions.bfloat16(), weight, direction)

    assert actual.dtype == torch.bfloat16
    assert relative_difference(actual.float(), expected) < 0.01
    gradients = torch.autograd.grad(actual.float().square().sum(), (values, positions, weight))
    for gradient, expected_gradient in zip(
        gradients, torch.autograd.grad(expected.square().sum(), exact), strict=True
    ):
        assert gradient.dtype == torch.float32
        assert relative_difference(gradient, expected_gradient) < 0.03


class PointwiseSpatialAttention(nn.Module):
    """semseg's `psa`, from the description."""

    def __init__(self, mask, compact):
        super().__init__()
        self.mask, self.compact = mask, compact
        for suffix in ("", "_p"):
            self.add_module(f"reduce{suffix}", nn.Sequential(*block(2048, 512, 1)))
            scores = nn.Conv2d(512, mask[0] * mask[1], 1, bias=False)
            self.add_module(f"attention{suffix}", nn.Sequential(*block(512, 512, 1), scores))
        self.proj = nn.Sequential(*block(1024, 2048, 1))

    def branch(self, x, suffix, direction):
        x = getattr(self, f"reduce{suffix}")(x)
        size = [(side - 1) // 2 + 1 for side in x.shape[2:]]
        x = F.interpolate(x, size, mode="bilinear", align_corners=True)
        matrix = getattr(self, f"attention{suffix}")(x)
        if not self.compact:
            matrix = expanded_by_loops(matrix, *self.mask, direction)
        matrix = matrix.flatten(2)
        if self.compact and direction == "distribute":
            matrix = matrix.transpose(1, 2)
        return (x.flatten(2) @ matrix.softmax(dim=1)).view_as(x)

    def forward(self, x):
        attended = torch.cat([self.branch(x, "", "collect"), self.branch(x, "_p", "distribute")], 1)
        attended = self.proj(attended)
        size = [2 * (side - 1) + 1 for side in attended.shape[2:]]
        return torch.cat([x, F.interpolate(attended, size, mode="bilinear", align_corners=True)], 1)


@pytest.mark.parametrize("compact", [False, True])
def test_files_of_semseg_load_as_published_and_predict_the_same(tmp_path, compact):
    # A feature map of 9 x 11, downsampled to 5 x 6.
    crop = (65, 81)
    options = ("INPUT.CROP_SIZE", crop, "MODEL.PSANET.COMPACT", compact)
    model = pixel_model("psanet", 7, *R50_V1S, *options)
    torch.manual_seed(1)
    attention = PointwiseSpatialAttention((5, 6) if compact else (9, 11), compact)
    peer = shake(SemsegNetwork("psa", attention, 7).eval())

    load_published(model, {f"module.{key}": value for key, value in peer.state_dict().items()}, tmp_path)

    assert worst_difference(model, peer, [patchy_image(*crop)]) < 1e-4


class LoopingMask(nn.Module):
    def __init__(self, direction, mask):
        super().__init__()
        self.mask, self.direction = mask, direction

    def forward(self, maps):
        return expanded_by_loops(maps, *self.mask, self.direction)


def test_files_of_mmsegmentation_load_as_published_and_predict_the_same(tmp_path, monkeypatch):
    pytest.importorskip("mmseg")
    from tests.modeling.peers import mmseg_models

    mmseg_models()
    # The compiled operator of the head.
    monkeypatch.setattr("mmseg.models.decode_heads.psa_head.PSAMask", LoopingMask)
    peer = mmseg_model(7, "PSAHead", channels=512, mask_size=(9, 8))
    model = pixel_model("psanet_mmseg", 7, *R50_V1C, "MODEL.PSANET.MASK_SIZE", (9, 8))

    load_published(model, peer.state_dict(), tmp_path)

    # Feature maps of even and of odd sides are resized differently.
    images = [patchy_image(64, 80), patchy_image(65, 81), patchy_image(64, 81)]
    assert worst_difference(model, mmseg_logits(peer), images) < 1e-4


def test_parameters_and_multiply_adds_are_those_of_semseg():
    model = unallocated_model("psanet", 150, *R50_V1S, "INPUT.CROP_SIZE", (465, 465))
    assert count_parameters(model) == pytest.approx(53.27, rel=0.005)
    assert count_operations(model, (465, 465)) == pytest.approx(170.6, rel=0.05)


def test_maps_of_offsets_have_the_published_sizes():
    assert mask_size((465, 465), 8, 2) == (59, 59)
    assert mask_size((705, 705), 8, 2) == (89, 89)
    assert mask_size((465, 705), 8, 2, compact=True) == (30, 45)


def test_crops_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r"709 x 709: 709 is not 8 k \+ 1.*use 705 or 713"):
        pixel_model("psanet", 3, *SMALL, "INPUT.CROP_SIZE", (709, 709))
    with pytest.raises(InputError, match=r"set INPUT\.CROP_SIZE"):
        pixel_model("psanet", 3, *SMALL)

    model = pixel_model("psanet", 3, *SMALL, "INPUT.CROP_SIZE", (65, 81))
    labels = torch.zeros(65, 65, dtype=torch.int64)
    with pytest.raises(InputError, match=r"built for inputs of 65 x 81 \(INPUT.CROP_SIZE\), found 65 x 65"):
        model([{"image": random_image(65, 65), "sem_seg": labels}])
    with pytest.raises(InputError, match="found 73 x 81"):
        model.eval().score_maps(torch.zeros(1, 3, 73, 81))


@pytest.mark.parametrize("compact", [False, True])
def test_every_weight_of_the_head_is_trained(compact):
    options = ("INPUT.CROP_SIZE", (65, 81), "MODEL.PSANET.COMPACT", compact)
    model = pixel_model("psanet", 3, *SMALL, *options)
    labels = torch.randint(0, 3, (65, 81), generator=torch.Generator().manual_seed(0))
    losses = model([{"image": random_image(65, 81, seed), "sem_seg": labels} for seed in range(2)])
    sum(losses.values()).backward()
    assert [name for name, value in model.named_parameters() if not value.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.PSANET.MASK_SIZE", (7,), r"MASK_SIZE \(7,\): expected \(height, width\) of at least 1"),
        ("MODEL.PSANET.MASK_SIZE", (0, 7), r"MASK_SIZE \(0, 7\): expected \(height, width\) of at least 1"),
        ("INPUT.CROP_SIZE", (65,), r"INPUT.CROP_SIZE \(65,\): expected \(height, width\) of at least 1"),
        ("MODEL.PSANET.SHRINK_FACTOR", 0, "SHRINK_FACTOR 0: expected at least 1"),
    ],
)
def test_invalid_sizes_are_named(key, value, message):
    with pytest.raises(InputError, match=message):
        check_values(pixel_config("psanet", 3, *TINY, "INPUT.CROP_SIZE", (65, 65), key, value))
