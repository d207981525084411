"""Any timm model with feature maps, as a backbone.

The weights keep timm's names, under `network.`, so that timm's own files load (key map "timm").

Shape shorthand: N images, C channels, H W size of the image, h w size of a map.
"""

import bisect
import contextlib
import functools
import inspect
import math
import re
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d
from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segzoo.utils.errors import ArgumentError, InputError
from segzoo.utils.text import did_you_mean

from ..configured import configurable_by
from .layer_depths import LayerDepths
from .options import build_options

# Name of a feature map by its stride without dilation.
NAMES = {2: "res1", 4: "res2", 8: "res3", 16: "res4", 32: "res5"}


def _freeze_norms(network: nn.Module) -> nn.Module:
    """Replace batch norms by frozen ones, without zeroing the residual branches that end in one."""
    for module in network.modules():
        # timm initializes the last norm of a branch to 0; frozen, it would stay 0 if no file is loaded.
        trains = isinstance(module, _BatchNorm) and module.affine and not module.weight.is_meta
        if trains and not module.weight.any():
            nn.init.ones_(module.weight)
    return freeze_batch_norm_2d(network)


_KEYS = {
    "variant": "MODEL.BACKBONE.VARIANT",
    "norm": "MODEL.BACKBONE.NORM",
    "output_stride": "MODEL.BACKBONE.OUTPUT_STRIDE",
    "drop_path_rate": "MODEL.BACKBONE.DROP_PATH_RATE",
    "out_features": "MODEL.BACKBONE.OUT_FEATURES",
    "freeze_at": "MODEL.BACKBONE.FREEZE_AT",
    "activation_checkpointing": "MODEL.BACKBONE.CHECKPOINT",
}
NORMS = {"BN": lambda network: network, "FrozenBN": _freeze_norms, "SyncBN": convert_sync_batchnorm}


@BACKBONE_REGISTRY.register()
class TimmBackbone(Backbone):
    """A convolutional network or transformer from timm.

    Outputs "res1" to "res5" at strides 2 to 32, if the model has them and they are requested; for several
    maps of one stride, the last. Images are not padded, so that maps have timm's sizes, with two exceptions,
    which pad with zeros at the bottom and right: for a model that takes only whole patches or windows (a
    map's side is then the image's divided by the stride, rounded up), and for images smaller than the model
    accepts.
    """

    @configurable_by(_KEYS)
    def __init__(
        self,
        *,
        variant: str,
        in_channels: int = 3,
        norm: str = "FrozenBN",
        output_stride: int = 32,
        drop_path_rate: float = 0.0,
        out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5"),
        freeze_at: int = 0,
        activation_checkpointing: bool = False,
    ):
        """
        Args:
            variant: timm's model name, e.g. "convnext_tiny".
            in_channels: channels of the image.
            norm: BN, FrozenBN or SyncBN, for the model's batch norms, if it has any.
            output_stride: 8 or 16 if the model can dilate, otherwise 32.
            drop_path_rate: rate of the last block if the model has stochastic depth, otherwise 0.
            out_features: names of the outputs; modules after the last of them are not built.
            freeze_at: 0 nothing, 1 everything before res2, 2 also res2, ..., 5 all.
            activation_checkpointing: recompute activations in the backward pass to save memory.

        Raises:
            InputError: timm has no such model, or the model does not support an option.
        """
        super().__init__()
        if norm not in NORMS:
            raise ArgumentError("norm", f" {norm!r}: a TimmBackbone can have {', '.join(NORMS)}")
        self.variant = variant
        plain = _create(variant, in_channels, {}, "meta")
        index_of = _index_by_name(plain)
        options = _options(variant, type(plain), output_stride, drop_path_rate)
        self.sizes = _input_sizes(variant, in_channels, tuple(options.items()))
        network = _create(variant, in_channels, options)
        strides = _strides(network)
        missing = [name for name in out_features if name not in index_of]
        if missing:
            has = ", ".join(f"{name} (stride {strides[index]})" for name, index in index_of.items())
            raise ArgumentError(
                "out_features",
                f": {variant} has no {', '.join(missing)}; it has "
                f"{has or f'maps of stride {max(strides)} only'}",
            )
        self.index_of = {name: index for name, index in index_of.items() if name in out_features}
        self._shapes = {
            name: ShapeSpec(channels=_infos(network)[index]["num_chs"], stride=strides[index])
            for name, index in self.index_of.items()
        }
        network.prune_intermediate_layers(list(self.index_of.values()), prune_norm=True, prune_head=True)
        self.network = NORMS[norm](network)
        self.frozen = _first_modules(variant, self.network, index_of, freeze_at)
        for module in self.frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        self.activation_checkpointing = activation_checkpointing
        # Batch norms with their momentum, collected at first use: a trainer may replace norms before.
        self.averaging: list[tuple[_BatchNorm, float]] = []
        if activation_checkpointing:
            self._checkpoint_activations()

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        node = cfg.MODEL.BACKBONE
        return {
            "variant": node.VARIANT,
            "in_channels": input_shape.channels,
            "norm": node.NORM,
            "output_stride": node.OUTPUT_STRIDE,
            **build_options(cfg, tuple(NAMES.values())),
        }

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute feature maps by name, (N, C, h, w), of normalized images, (N, 3, H, W) float.

        Raises:
            InputError: the model takes images of one size only, and this is another.
        """
        height, width = image.shape[-2:]
        only = self.sizes.only
        if only and (height, width) != only:
            raise InputError(
                f"{self.variant} of timm takes images of {only[0]} x {only[1]} pixels only, "
                f"not of {height} x {width}; choose another model"
            )
        bottom, right = (self.sizes.padded(side) - side for side in (height, width))
        if bottom or right:
            image = F.pad(image, (0, right, 0, bottom))
        # With activation checkpointing, batch norms would otherwise update their statistics twice.
        checkpointing = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        if checkpointing and not self.averaging:
            norms = [module for module in self.network.modules() if isinstance(module, _BatchNorm)]
            self.averaging = [(norm, norm.momentum) for norm in norms]
        for norm, momentum in self.averaging if checkpointing else ():
            norm.momentum = momentum
        maps = self.network.forward_intermediates(
            image, indices=list(self.index_of.values()), output_fmt="NCHW", intermediates_only=True
        )
        for norm, _ in self.averaging if checkpointing else ():
            norm.momentum = 0.0
        outputs = {}
        for (name, shape), feature in zip(self._shapes.items(), maps, strict=True):
            # Drop the rows and columns that come from padding alone.
            rows = -(-height // shape.stride) if bottom else feature.shape[2]
            columns = -(-width // shape.stride) if right else feature.shape[3]
            outputs[name] = feature[..., :rows, :columns].contiguous()
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    def layer_depths(self) -> LayerDepths:
        """Return depths from timm's own table of layers; a norm after the last block belongs to no layer.

        Raises:
            InputError: timm has no such table for the model.
        """
        matcher = getattr(self.network, "group_matcher", None)
        if matcher is None:
            raise InputError(
                f"layer-wise decay: timm {timm.__version__} has no table of the layers of {self.variant}; "
                "turn it off, or choose another model"
            )
        layers = group_parameters(self.network, matcher(coarse=False), reverse=True)
        total = 1 + max(layers.values())
        return LayerDepths(
            {
                f"network.{name}": total if re.match(r"(fc_)?norm\.", name) else layer
                for name, layer in layers.items()
            },
            total,
        )

    def train(self, mode: bool = True):
        """Set the mode, but keep frozen modules in eval mode (batch statistics, stochastic depth)."""
        super().train(mode)
        for module in self.frozen:
            module.training = False
        return self

    def _checkpoint_activations(self) -> None:
        try:
            self.network.set_grad_checkpointing(True)
        except (AssertionError, NotImplementedError):
            raise ArgumentError(
                "activation_checkpointing",
                f" True: {self.variant} does not support it; use False",
            ) from None


def _create(variant: str, in_channels: int, options: dict, device: str | None = None) -> nn.Module:
    """Build timm's model with random weights; on the device "meta", without memory for them."""
    name = variant.split(".")[0]  # the tag in resnet50.a1_in1k names pretrained weights
    if not timm.is_model(name):
        known = timm.list_models()
        raise ArgumentError(
            "variant",
            f" {variant!r} is not a model of timm {timm.__version__}{did_you_mean(name, known)}; "
            f"timm.list_models() has all {len(known)}",
        )
    try:
        with torch.device(device) if device else contextlib.nullcontext():
            model = timm.create_model(variant, pretrained=False, in_chans=in_channels, **options)
    except (AssertionError, NotImplementedError, ValueError) as error:
        raise ArgumentError(
            "variant",
            f" {variant!r}: timm {timm.__version__} cannot build it with {options}: "
            f"{str(error) or type(error).__name__}",
        ) from None
    if not (hasattr(model, "forward_intermediates") and hasattr(model, "prune_intermediate_layers")):
        raise ArgumentError(
            "variant",
            f" {variant!r}: timm {timm.__version__} has no feature maps for it; choose another one, or "
            "install a newer timm",
        )
    return model


def _options(variant: str, model: type[nn.Module], output_stride: int, drop_path_rate: float) -> dict:
    """Return the keyword arguments of `timm.create_model` that configure a model of this class."""
    accepted = inspect.signature(model.__init__).parameters
    options = {}
    if output_stride != 32:
        if "output_stride" not in accepted or output_stride not in (8, 16):
            possible = "8, 16 or 32" if "output_stride" in accepted else "32"
            raise ArgumentError("output_stride", f" {output_stride}: {variant} can only have {possible}")
        options["output_stride"] = output_stride
    if "drop_path_rate" in accepted:
        options["drop_path_rate"] = drop_path_rate
    elif drop_path_rate:
        raise ArgumentError(
            "drop_path_rate", f" {drop_path_rate}: {variant} has no stochastic depth; use 0.0"
        )
    # Let transformers interpolate position embeddings and make window masks for every image size.
    if "strict_img_size" in accepted:
        options["strict_img_size"] = False
    elif "dynamic_img_size" in accepted:
        options["dynamic_img_size"] = True
    return options


def _infos(network: nn.Module) -> list[dict]:
    """Return timm's entry for each feature map: "num_chs", "reduction" (stride), "module" (its name)."""
    return list(getattr(network.feature_info, "info", network.feature_info))


def _strides(network: nn.Module) -> list[int]:
    return [info["reduction"] for info in _infos(network)]


def _index_by_name(network: nn.Module) -> dict[str, int]:
    """Return the indices of the feature maps res1, ..., res5, by name."""
    last = {NAMES[stride]: index for index, stride in enumerate(_strides(network)) if stride in NAMES}
    return dict(sorted(last.items()))


class InputSizes(NamedTuple):
    """Image sizes that a model accepts.

    Attributes:
        multiple: sides must be multiples of this; 1: any size.
        least: the smallest side.
        only: the only (height, width) that the model accepts, or None.
    """

    multiple: int
    least: int
    only: tuple[int, int] | None = None

    def padded(self, side: int) -> int:
        """Return the side to which an image is padded."""
        return max(side + -side % self.multiple, self.least)


@functools.cache
def _input_sizes(variant: str, in_channels: int, options: tuple[tuple[str, Any], ...]) -> InputSizes:
    """Return the image sizes that the model accepts.

    timm does not record them; they are found by trial on the meta device.

    Args:
        variant: timm's model name.
        in_channels: channels of the image.
        options: keyword arguments of `timm.create_model`.

    Raises:
        InputError: the maps' sides are not the image's divided by their strides.
    """
    network = _create(variant, in_channels, dict(options), "meta").eval()
    strides = _strides(network)
    native = tuple(network.default_cfg["input_size"][-2:])

    def maps(height: int, width: int) -> list[tuple[int, int]] | None:
        image = torch.zeros(1, in_channels, height, width, device="meta")
        try:
            features = network.forward_intermediates(image, output_fmt="NCHW", intermediates_only=True)
        except Exception:  # models reject a size with various exceptions
            return None
        return [tuple(feature.shape[-2:]) for feature in features]

    def whole(height: int, width: int) -> bool:
        return maps(height, width) == [(height // stride, width // stride) for stride in strides]

    coarsest = max(strides)
    for multiple in sorted({1, *strides, max(native)}):
        unit = math.lcm(multiple, coarsest)
        odd = ((2 * unit + multiple, 3 * unit - multiple), (3 * unit + 3 * multiple, 2 * unit + unit // 2))
        if not whole(2 * unit, 3 * unit) or (multiple < unit and not all(maps(*size) for size in odd)):
            continue
        if multiple == max(native) and multiple not in strides:
            return InputSizes(multiple, multiple)
        # Small images: a model that accepts a size accepts all larger ones.
        least = bisect.bisect_left(
            range(multiple, 2 * unit, multiple), True, key=lambda side: maps(side, side) is not None
        )
        return InputSizes(multiple, multiple * (1 + least))
    if maps(*native) == [(-(-native[0] // stride), -(-native[1] // stride)) for stride in strides]:
        return InputSizes(1, 1, native)
    raise ArgumentError(
        "variant",
        f" {variant!r}: its maps do not have the image's size divided by {strides}; choose another one",
    )


def _first_modules(
    variant: str, network: nn.Module, index_of: dict[str, int], freeze_at: int
) -> list[nn.Module]:
    """Return the modules up to the end of a stage, to be frozen; timm registers modules in order of use."""
    if not freeze_at:
        return []
    stage = f"res{max(freeze_at, 2)}"
    if stage not in index_of:
        raise ArgumentError(
            "freeze_at", f" {freeze_at}: {variant} has no {stage}, it has {', '.join(index_of)}"
        )
    prefix = _infos(network)[index_of[stage]]["module"]
    modules = list(network.named_modules())
    inside = [place for place, (name, _) in enumerate(modules) if f"{name}.".startswith(f"{prefix}.")]
    if not inside:
        raise ArgumentError("freeze_at", f" {freeze_at}: {variant} has no stages to freeze; use 0")
    end = inside[0] if freeze_at == 1 else inside[-1] + 1
    # Leave out a container that extends beyond the stage, except the model: it may own position embeddings.
    unfrozen = [f"{name}." for name, _ in modules[end:]]
    return [
        module
        for name, module in modules[:end]
        if not name or not any(other.startswith(f"{name}.") for other in unfrozen)
    ]
