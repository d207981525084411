"""Base class of per-pixel heads: a method defines its layers, the base everything around them.

Shape shorthand: N images, K classes, C channels, h w pixels of a feature map, H W pixels of the input.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn

from segzoo.layers import conv_norm_act
from segzoo.layers.dropout import DROPOUTS
from segzoo.layers.resize import resize
from segzoo.utils.errors import InputError

from ..features import build_in_features, check_in_features


class PixelHead(nn.Module):
    """Maps feature maps to class scores.

    A subclass defines its layers and `forward`; its last convolution is made by `classifier` and named
    `predictor`. Losses, auxiliary heads, resizing and padding are handled elsewhere.
    """

    # Loss weights of additional training outputs, by name.
    loss_weights: Mapping[str, float] = {}
    # At test time logits are upsampled by this factor and cropped to the image; None: resized to its size.
    upsample_factor: int | None = None

    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        in_features: Sequence[str],
        num_classes: int,
        channels: int,
        norm: str = "SyncBN",
        dropout: float = 0.1,
        dropout_kind: str = "channel",
        align_corners: bool = False,
    ):
        """
        Args:
            input_shape: channels and stride of the available feature maps.
            in_features: names of the feature maps that the head uses.
            num_classes: K.
            channels: C of the head's inner convolutions.
            norm: normalization of the head's convolutions, see `conv_norm_act`.
            dropout: dropout probability before the classifier.
            dropout_kind: "channel" drops whole feature maps, "element" single values.
            align_corners: for resizing feature maps in the head, and its logits to the image.

        Raises:
            InputError: no feature, or one that the backbone lacks; an invalid dropout or `dropout_kind`.
        """
        super().__init__()
        check_in_features(in_features, input_shape)
        if not 0 <= dropout <= 1:
            raise InputError(f"dropout {dropout}: expected a probability from 0 to 1")
        if dropout_kind not in DROPOUTS:
            raise InputError(f"dropout_kind {dropout_kind!r}: expected channel or element")
        self.input_shape = {name: input_shape[name] for name in in_features}
        self.in_features = tuple(in_features)
        self.num_classes = num_classes
        self.channels = channels
        self.norm = norm
        self.align_corners = align_corners
        self.dropout = DROPOUTS[dropout_kind](dropout)

    @classmethod
    def from_config(cls, cfg, input_shape: Mapping[str, ShapeSpec]) -> dict:
        """Return the arguments shared by all heads; a subclass adds its own."""
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": input_shape,
            # Subclasses look them up in their own `from_config`.
            "in_features": build_in_features(node.IN_FEATURES, input_shape),
            "num_classes": node.NUM_CLASSES,
            "channels": node.CONVS_DIM,
            "norm": node.NORM,
            "dropout": node.DROPOUT,
            "dropout_kind": node.DROPOUT_KIND,
            "align_corners": node.ALIGN_CORNERS,
        }

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Any]:
        """Map feature maps, (N, C, h, w) each, and "image", the normalized input (N, 3, H, W), to logits.

        Returns:
            logits: (N, K, h, w) float.
            In training there may be more entries:
            losses: weighted scalar losses by name, computed by the head.
            Any other: (N, K, h, w) float logits, supervised as a separate output with its weight in
            `loss_weights` (default 1).
        """
        raise NotImplementedError

    def check_crop(self, height: int, width: int) -> None:
        """Raise InputError, with the sizes that are accepted, if the head cannot take inputs of this size."""

    def conv(self, in_channels: int, out_channels: int, kernel_size: int = 1, **options) -> Conv2d:
        """Return `conv_norm_act` with the head's normalization."""
        return conv_norm_act(in_channels, out_channels, kernel_size, **{"norm": self.norm, **options})

    def classifier(self, in_channels: int, bias: bool = True) -> Conv2d:
        """Build the 1 x 1 convolution to K logits. The subclass applies `self.dropout` before it."""
        predictor = Conv2d(in_channels, self.num_classes, kernel_size=1, bias=bias)
        nn.init.normal_(predictor.weight, std=0.01)
        if bias:
            nn.init.zeros_(predictor.bias)
        return predictor

    def resize(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """Resize (N, C, h, w) bilinearly to (N, C, *size), with the head's `align_corners`."""
        return resize(maps, size, self.align_corners)

    def in_channels(self, name: str) -> int:
        """Return the number of channels of one of the head's feature maps."""
        return self.input_shape[name].channels
