"""Peers of the convolutional per-pixel methods, and comparisons with them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.modeling.modeling_helpers import relative_difference, shake
from tests.modeling.peers import build_mmseg
from tests.modeling.pixel_model_helpers import normalized

# A residual network that runs in milliseconds, and those of the published files.
TINY = ("MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r18_quarter")
R50 = ("MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r50")
R50_V1C = ("MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r50_v1c")
R50_V1S = ("MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r50_v1s")


def mmseg_model(num_classes: int, head: str, seed: int = 0, **sizes: object) -> nn.Module:
    """Build mmsegmentation's model of a head on its ResNet50-D8, with an auxiliary head, in eval mode."""
    norm = {"type": "BN", "requires_grad": True}
    shared = {"num_classes": num_classes, "norm_cfg": norm, "align_corners": False}
    torch.manual_seed(seed)
    peer = build_mmseg(
        {
            "type": "EncoderDecoder",
            "backbone": {
                "type": "ResNetV1c",
                "depth": 50,
                "dilations": (1, 1, 2, 4),
                "strides": (1, 2, 1, 1),
                "norm_cfg": norm,
                "norm_eval": False,
                "contract_dilation": True,
            },
            "decode_head": dict(type=head, in_channels=2048, in_index=3, **sizes, **shared),
            "auxiliary_head": dict(
                type="FCNHead",
                in_channels=1024,
                in_index=2,
                channels=256,
                num_convs=1,
                concat_input=False,
                **shared,
            ),
        }
    )
    return shake(peer)


def mmseg_logits(peer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the function from a normalized image to the logits of mmsegmentation's decode head."""
    return lambda image: peer.decode_head(peer.backbone(image))


def patchy_image(height: int, width: int, seed: int = 0) -> Tensor:
    """Return (3, height, width) uint8 patches of 32 pixels, whose features differ more than with noise."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randint(
        0, 256, (3, -(-height // 32), -(-width // 32)), generator=generator, dtype=torch.uint8
    )
    return patches.repeat_interleave(32, dim=1).repeat_interleave(32, dim=2)[:, :height, :width]


def worst_difference(model: nn.Module, peer: Callable[[Tensor], Tensor], images: list[Tensor]) -> float:
    """Return the largest relative difference of a model's logits from a peer's over the images."""
    model.eval()
    differences = []
    with torch.no_grad():
        for image in images:
            logits = model.raw_outputs([{"image": image}])["sem_seg_logits"]
            differences.append(relative_difference(logits, peer(normalized(model, image))))
    return max(differences)
