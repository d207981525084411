"""The outputs of all decoder layers, as matching costs and loss terms read them.

Shape shorthand: L layers, N images, Q queries, h w pixels of a mask.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .mask_predictions import MaskPredictions

# Outputs of the decoder as a whole, not of its last layer.
_SHARED_OUTPUTS = ("aux_outputs", "losses", "exchanged")


class DecoderOutputs:
    """The outputs that `MaskFormerHead` describes, layer by layer.

    Attributes:
        layers: L mappings of outputs by name, first layer first, the main prediction last. In the factored
            form each has `mask_features`.
        masks: access to their masks without forming all of them.
        dtype: dtype of costs and losses: float32, or float64 if the masks are float64.
        device: device of the masks.
    """

    def __init__(self, outputs: Mapping):
        main = {name: value for name, value in outputs.items() if name not in _SHARED_OUTPUTS}
        shared = {"mask_features": main["mask_features"]} if "mask_features" in main else {}
        self.layers: list[Mapping] = [
            *({**shared, **layer} for layer in outputs.get("aux_outputs", ())),
            main,
        ]
        self.masks = _mask_predictions(self.layers)
        self.dtype = self.masks.dtype
        self.device = self.masks.device

    def stacked(self, name: str, image: int) -> Tensor:
        """Return an output of all layers for one image, (L, Q, ...), in `dtype`."""
        return torch.stack([layer[name][image] for layer in self.layers]).to(self.dtype)

    def stacked_layers(self, name: str) -> Tensor:
        """Return an output of all layers and images, (N, L, Q, ...), in `dtype`."""
        return torch.stack([layer[name] for layer in self.layers], 1).to(self.dtype)


def mask_logits(layer: Mapping) -> Tensor:
    """Return the masks of a layer, (N, Q, h, w), formed from their factors if the layer holds those."""
    if "pred_masks" in layer:
        return layer["pred_masks"]
    return torch.einsum("nqc,nchw->nqhw", layer["mask_embed"], layer["mask_features"])


def _mask_predictions(layers: list[Mapping]) -> MaskPredictions:
    if "pred_masks" in layers[-1]:
        return MaskPredictions([layer["pred_masks"] for layer in layers])
    return MaskPredictions([layer["mask_embed"] for layer in layers], layers[-1]["mask_features"])
