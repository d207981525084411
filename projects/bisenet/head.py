"""The head of BiSeNet (Yu et al., ECCV 2018, section 3)."""

from collections.abc import Mapping, Sequence

from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.modeling.configured import configurable_by
from segzoo.modeling.per_pixel import PixelHead
from segzoo.modeling.per_pixel.pooling import check_batch_norm
from segzoo.utils.errors import ArgumentError, InputError

from .paths import AttentionRefinement, FeatureFusion, SpatialPath


@SEM_SEG_HEADS_REGISTRY.register()
class BiSeNetHead(PixelHead):
    """Refines the coarse maps with global context, upsamples them to stride 8, and fuses the spatial path.

    `in_features` are the maps of strides 16 and 32, in this order.
    """

    @configurable_by({"in_features": "MODEL.SEM_SEG_HEAD.IN_FEATURES"})
    def __init__(
        self,
        *,
        spatial_channels: Sequence[int] = (64, 64, 64, 128),
        context_channels: int = 128,
        fusion_channels: int = 256,
        fusion_reduction: int = 4,
        refinement_relu: bool = False,
        upsample: str = "bilinear",
        auxiliary_channels: int = 256,
        auxiliary_loss_weight: float = 1.0,
        **shared,
    ):
        """
        Args:
            spatial_channels: channels of the four convolutions of the spatial path.
            context_channels: channels of the context path.
            fusion_channels: channels of the fused map.
            fusion_reduction, refinement_relu: see `FeatureFusion` and `AttentionRefinement`.
            upsample: interpolation of the context, "bilinear" or "nearest".
            auxiliary_channels: channels of the convolution before each auxiliary classifier.
            auxiliary_loss_weight: loss weight of each auxiliary classifier.
            shared: see `PixelHead`.

        Raises:
            InputError: other input features, or an unknown `upsample`.
        """
        super().__init__(**shared)
        strides = [self.input_shape[name].stride for name in self.in_features]
        if strides != [16, 32]:
            raise ArgumentError(
                "in_features",
                f" {list(self.in_features)} have strides {strides}, but BiSeNet needs 16 and 32; use "
                "['res4', 'res5'] of a backbone without dilation (output stride 32)",
            )
        if upsample not in ("bilinear", "nearest"):
            raise InputError(f"upsample {upsample!r}: expected bilinear or nearest")
        self.upsample = upsample
        self.loss_weights = dict.fromkeys(self.in_features, auxiliary_loss_weight)
        channels = context_channels
        self.spatial_path = SpatialPath(spatial_channels, self.norm)
        self.global_context = self.conv(self.in_channels(self.in_features[-1]), channels)
        self.refinements = nn.ModuleDict()
        self.enlarged = nn.ModuleDict()
        self.auxiliary = nn.ModuleDict()
        for name in self.in_features:
            self.refinements[name] = AttentionRefinement(
                self.in_channels(name), channels, self.norm, refinement_relu
            )
            self.enlarged[name] = self.conv(channels, channels, 3)
            self.auxiliary[name] = nn.Sequential(
                self.conv(channels, auxiliary_channels, 3), self.dropout, self.classifier(auxiliary_channels)
            )
        self.fusion = FeatureFusion(
            spatial_channels[-1] + channels, fusion_channels, self.norm, fusion_reduction
        )
        self.last = self.conv(fusion_channels, self.channels, 3)
        self.predictor = self.classifier(self.channels)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node = cfg.MODEL.BISENET
        return {
            **super().from_config(cfg, input_shape),
            "spatial_channels": tuple(node.SPATIAL_CHANNELS),
            "context_channels": node.CONTEXT_CHANNELS,
            "fusion_channels": node.FUSION_CHANNELS,
            "fusion_reduction": node.FUSION_REDUCTION,
            "refinement_relu": node.REFINEMENT_RELU,
            "upsample": node.UPSAMPLE,
            "auxiliary_channels": node.AUX_CONVS_DIM,
            "auxiliary_loss_weight": node.AUX_LOSS_WEIGHT,
        }

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        spatial = self.spatial_path(features["image"])
        average = F.adaptive_avg_pool2d(features[self.in_features[-1]], 1)
        # The norms of the gates also follow a global average.
        check_batch_norm(average, self.global_context)
        context = self.global_context(average)
        sizes = {
            self.in_features[1]: features[self.in_features[0]].shape[-2:],
            self.in_features[0]: spatial.shape[-2:],
        }
        outputs = {}
        for name, size in sizes.items():
            # Adding the global context, a single pixel, broadcasts.
            context = self.enlarged[name](
                self._upsample(self.refinements[name](features[name]) + context, size)
            )
            if self.training:
                outputs[name] = self.auxiliary[name](context)
        x = self.last(self.fusion(spatial, context))
        return {"logits": self.predictor(self.dropout(x)), **outputs}

    def _upsample(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        if self.upsample == "nearest":
            return F.interpolate(maps, size=tuple(size), mode="nearest")
        return self.resize(maps, size)
