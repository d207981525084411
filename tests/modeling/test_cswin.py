"""CSWin Transformer against a computation written from its definition, stripe by stripe and head by head."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from segzoo.modeling.backbones.cswin import VARIANTS, CSWinTransformer, CSWinVariant
from tests.modeling.modeling_helpers import relative_difference, shake

SMALL = CSWinVariant(16, (1, 2, 2, 1), (2, 4, 8, 16), (1, 2, 3))
# The classifier's head and final norm, and UPerNet of 150 classes with its auxiliary head.
CLASSES = 150


def small_cswin(**keywords) -> CSWinTransformer:
    torch.manual_seed(0)
    return shake(CSWinTransformer(variant=SMALL, **keywords)).eval()


class NaiveCSWin:
    """The forward pass from a state dict alone, in loops over stripes, heads and pixels.

    Maps are (H, W, C) of one image.
    """

    def __init__(self, state: dict[str, torch.Tensor], variant: CSWinVariant):
        self.state = state
        self.variant = variant

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        centered = x - x.mean(dim=-1, keepdim=True)
        spread = (centered.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return centered / spread * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def convolve(self, name: str, x: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
        image = x.permute(2, 0, 1)[None]
        result = F.conv2d(image, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride, padding)
        return result[0].permute(1, 2, 0)

    def stripe(self, name: str, query, key, value, head_dim: int) -> torch.Tensor:
        """Compute attention and position encoding of one stripe; query, key, value: (rows, columns, C)."""
        rows, columns, channels = value.shape
        out = torch.zeros_like(value)
        for start in range(0, channels, head_dim):
            q, k, v = (x[..., start : start + head_dim].reshape(-1, head_dim) for x in (query, key, value))
            weights = torch.exp(q @ k.T / head_dim**0.5)
            weights = weights / weights.sum(dim=1, keepdim=True)
            out[..., start : start + head_dim] = (weights @ v).reshape(rows, columns, head_dim)
        kernel, bias = self.state[f"{name}.get_v.weight"], self.state[f"{name}.get_v.bias"]
        for row in range(rows):
            for column in range(columns):
                out[row, column] += bias
                for i in (-1, 0, 1):
                    for j in (-1, 0, 1):
                        if 0 <= row + i < rows and 0 <= column + j < columns:
                            out[row, column] += kernel[:, 0, i + 1, j + 1] * value[row + i, column + j]
        return out

    def attention(self, name: str, qkv, width: int, axis: int, head_dim: int) -> torch.Tensor:
        """Compute all stripes of one direction; axis: along which they are adjacent."""
        length = qkv[0].shape[axis]
        missing = -length % width
        before = missing // 2

        def padded(x: torch.Tensor) -> torch.Tensor:
            shape = list(x.shape)
            shape[axis] = before
            first = torch.zeros(shape, dtype=x.dtype)
            shape[axis] = missing - before
            return torch.cat([first, x, torch.zeros(shape, dtype=x.dtype)], dim=axis)

        stripes = zip(*(padded(x).split(width, dim=axis) for x in qkv), strict=True)
        out = [self.stripe(name, *stripe, head_dim) for stripe in stripes]
        return torch.cat(out, dim=axis).narrow(axis, before, length)

    def block(self, name: str, x: torch.Tensor, stage: int) -> torch.Tensor:
        channels = x.shape[-1]
        head_dim = channels // self.variant.num_heads[stage]
        qkv = self.linear(f"{name}.qkv", self.norm(f"{name}.norm1", x)).split(channels, dim=-1)
        if stage == 3:
            attended = self.stripe(f"{name}.attns.0", *qkv, head_dim)
        else:
            width, half = self.variant.stripes[stage], channels // 2
            # The first half of the channels: stripes of full height; the second half: of full width.
            vertical = self.attention(f"{name}.attns.0", [x[..., :half] for x in qkv], width, 1, head_dim)
            horizontal = self.attention(f"{name}.attns.1", [x[..., half:] for x in qkv], width, 0, head_dim)
            attended = torch.cat([vertical, horizontal], dim=-1)
        x = x + self.linear(f"{name}.proj", attended)
        hidden = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", x))
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        return x + self.linear(f"{name}.mlp.fc2", hidden)

    def __call__(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Compute res2 to res5, (C, h, w), of an image (3, H, W)."""
        x = self.convolve("stage1_conv_embed.0", image.permute(1, 2, 0), 4, 2)
        x = self.norm("stage1_conv_embed.2", x)
        outputs = []
        for stage in range(4):
            if stage:
                x = self.convolve(f"merge{stage}.conv", x, 2, 1)
                x = self.norm(f"merge{stage}.norm", x)
            for block in range(self.variant.depths[stage]):
                x = self.block(f"stage{stage + 1}.{block}", x, stage)
            outputs.append(self.norm(f"norm{stage + 1}", x).permute(2, 0, 1))
        return outputs


# 0 to 3 pixels more than whole patches, and images as small as the embedding's kernel.
@pytest.mark.parametrize("size", [(32, 48), (52, 20), (33, 47), (50, 35), (3, 6)])
def test_features_equal_those_of_the_definition(size):
    backbone = small_cswin().double()
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = NaiveCSWin(backbone.state_dict(), SMALL)(image[0])
    with torch.no_grad():
        features = backbone(image)
    for feature, expected_feature in zip(features.values(), expected, strict=True):
        assert relative_difference(feature[0], expected_feature) < 1e-10


def test_a_pixel_depends_only_on_its_stripes_in_both_directions():
    # The first stage, with stripes of one pixel and a single block.
    backbone = small_cswin()
    x = torch.randn(1, 10, 12, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(backbone.stage1[0](x)[0, 4, 7].sum(), x)
    seen = gradient[0].abs().amax(dim=-1) > 0
    expected = torch.zeros(10, 12, dtype=torch.bool)
    expected[4, :] = expected[:, 7] = True
    assert torch.equal(seen, expected)


def upernet_parameters(channels: list[int]) -> int:
    """Count the parameters of UPerNet with 512 channels, four grids, and an auxiliary head of 256."""
    norm, last, width = 2 * 512, channels[-1], 512
    pooled = 4 * (last * width + norm)
    bottleneck = 9 * (last + 4 * width) * width + norm
    lateral = sum(channels[:3]) * width + 3 * norm
    smoothing = 3 * (9 * width * width + norm)
    fusion = 9 * 4 * width * width + norm
    classifier = width * CLASSES + CLASSES
    auxiliary = 9 * channels[2] * 256 + 2 * 256 + 256 * CLASSES + CLASSES
    return pooled + bottleneck + lateral + smoothing + fusion + classifier + auxiliary


@pytest.mark.parametrize(
    ("variant", "millions"), [("tiny", 52.12), ("small", 64.44), ("base", 109.04), ("large_384", 207.7)]
)
def test_whole_models_with_upernet_have_the_sizes_of_the_official_ones(variant, millions):
    # Measured on the official implementation; the published number of the large one is 208.
    with torch.device("meta"):
        backbone = CSWinTransformer(variant=VARIANTS[variant])
    channels = [shape.channels for shape in backbone.output_shape().values()]
    count = sum(parameter.numel() for parameter in backbone.parameters()) + upernet_parameters(channels)
    assert count / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(("variant", "billions"), [("tiny", 4.3), ("small", 6.9), ("base", 15.0)])
def test_multiply_adds_are_those_of_the_published_classifiers(variant, billions):
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        CSWinTransformer(variant=VARIANTS[variant])(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, rel=0.03)


def test_drop_path_rate_grows_linearly_to_the_last_block():
    backbone = small_cswin(drop_path_rate=0.5)
    blocks = [block for index in range(1, 5) for block in getattr(backbone, f"stage{index}")]
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0.1 * index for index in range(6)])
