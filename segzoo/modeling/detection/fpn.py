"""Feature pyramid network (Lin et al., arXiv:1612.03144, section 3), with the options of Detectron2's FPN.

Shape shorthand: N images, C channels of the pyramid, h w size of a level.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from segzoo.layers.conv import pyramid_convolution
from segzoo.utils.errors import ArgumentError

from ..configured import configurable_by
from ..features import build_in_features
from ..registry import NECK_REGISTRY

FUSE_TYPES = ("sum", "avg")
# Number of levels that a top block adds.
TOP_BLOCKS = {"": 0, "max_pool": 1, "p6": 1, "p6p7": 2}


@NECK_REGISTRY.register()
class FPN(nn.Module):
    """Adds the upsampled coarser level to a 1 x 1 convolution of each map; a 3 x 3 convolution follows.

    Level l has stride 2^l and is called `p<l>`. Its parameters are `lateral.p<l>` and `output.p<l>`; those
    of a convolutional level above the backbone's are `top_block.p<l>`.
    """

    @configurable_by(
        {
            "input_shape": "MODEL.FPN.IN_FEATURES",
            "fuse": "MODEL.FPN.FUSE_TYPE",
            "top_block": "MODEL.FPN.TOP_BLOCK",
            "top_in_feature": "MODEL.FPN.TOP_IN_FEATURE",
            "out_features": "MODEL.FPN.OUT_FEATURES",
        }
    )
    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        in_features: Sequence[str] = (),
        out_channels: int = 256,
        norm: str = "",
        fuse: str = "sum",
        top_block: str = "",
        top_in_feature: str = "",
        out_features: Sequence[str] = (),
    ):
        """
        Args:
            input_shape: channels and stride of the backbone's maps.
            in_features: the maps of which the pyramid is made, in any order; their strides are consecutive
                powers of two. Empty: all.
            out_channels: C.
            norm: see `norm_layer`; convolutions have a bias only without normalization.
            fuse: "sum" or "avg" of the lateral and the upsampled map.
            top_block: levels above the coarsest map: "max_pool" keeps every second pixel of `top_in_feature`
                (FPN); "p6" is a 3 x 3 convolution of stride 2; "p6p7" is two of them with a ReLU between
                (RetinaNet); "" for none.
            top_in_feature: what the top block gets: a map of the backbone, a level of the pyramid, or
                "lateral", the lateral map of the coarsest level. "": the coarsest level of the pyramid.
            out_features: the maps to return: levels of the pyramid, or maps of the backbone, which are passed
                on. Layers that none of them needs are not built. Empty: all levels.

        Raises:
            InputError: a map is missing, strides are not consecutive powers of two, an unknown option, or a
                top block without the channels or the levels that are asked for.
        """
        super().__init__()
        if fuse not in FUSE_TYPES:
            raise ArgumentError("fuse", f" {fuse!r}: expected {' or '.join(FUSE_TYPES)}")
        if top_block not in TOP_BLOCKS:
            known = ", ".join(repr(name) for name in TOP_BLOCKS)
            raise ArgumentError("top_block", f" {top_block!r}: expected one of {known}")
        sources = _sources({name: input_shape[name] for name in in_features or input_shape})
        coarsest = max(sources)
        added = [coarsest + 1 + index for index in range(TOP_BLOCKS[top_block])]
        self.strides = {f"p{level}": 2**level for level in (*sources, *added)}
        self.size_divisibility = 2**coarsest
        self.out_channels = out_channels
        self.out_features = tuple(out_features or self.strides)
        self.passed = {name: input_shape[name] for name in self.out_features if name in input_shape}
        for name in self.out_features:
            if name not in self.strides and name not in self.passed:
                known = ", ".join([*self.strides, *input_shape])
                raise ArgumentError("out_features", f" has {name!r}, but there are {known}")
        self.fuse = fuse
        self.pools = top_block == "max_pool"

        # The levels above the backbone's up to the last that is returned, and those that have an output.
        returned = [level for level in (*sources, *added) if f"p{level}" in self.out_features]
        self.top = tuple(f"p{level}" for level in added if level <= max(returned, default=0))
        self.top_in_feature = (top_in_feature or f"p{coarsest}") if self.top else ""
        outputs = [level for level in sources if level in returned or f"p{level}" == self.top_in_feature]
        finest = min(outputs, default=coarsest if self.top_in_feature == "lateral" else coarsest + 1)
        # By level, from coarse to fine, the order of the computation.
        self.sources = {f"p{level}": sources[level] for level in reversed(sources) if level >= finest}
        self.lateral = nn.ModuleDict()
        for level, name in self.sources.items():
            self.lateral[level] = pyramid_convolution(input_shape[name].channels, out_channels, 1, norm)
        self.output = nn.ModuleDict()
        for level in outputs:
            self.output[f"p{level}"] = pyramid_convolution(out_channels, out_channels, 3, norm)
        self.top_block = nn.ModuleDict()
        channels = self._top_channels(input_shape)
        for name in self.top if not self.pools else ():
            self.top_block[name] = nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)
            c2_xavier_fill(self.top_block[name])
            channels = out_channels

    @classmethod
    def from_config(cls, cfg, input_shape: Mapping[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.FPN
        names = node.IN_FEATURES or list(input_shape)
        return {
            "input_shape": input_shape,
            "in_features": build_in_features(names, input_shape, "MODEL.FPN.IN_FEATURES"),
            "out_channels": node.OUT_CHANNELS,
            "norm": node.NORM,
            "fuse": node.FUSE_TYPE,
            "top_block": node.TOP_BLOCK,
            "top_in_feature": node.TOP_IN_FEATURE,
            "out_features": node.OUT_FEATURES,
        }

    def _top_channels(self, input_shape: Mapping[str, ShapeSpec]) -> int:
        """Return the channels of the top block's input; raise ArgumentError if there is no such map."""
        name = self.top_in_feature
        if not name or name == "lateral" or name in self.output:
            return self.out_channels
        if name not in input_shape:
            known = ", ".join([*(name for name in self.strides if name not in self.top), *input_shape])
            raise ArgumentError("top_in_feature", f" {name!r}: expected lateral or one of {known}")
        channels = input_shape[name].channels
        if self.pools and channels != self.out_channels:
            raise ArgumentError(
                "top_in_feature",
                f" {name!r} has {channels} channels, which max_pool keeps, and the pyramid "
                f"{self.out_channels}; expected a level of the pyramid",
            )
        return channels

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of the returned maps, by name."""
        return {
            name: self.passed.get(name) or ShapeSpec(channels=self.out_channels, stride=self.strides[name])
            for name in self.out_features
        }

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the maps of `out_features`, (N, C, h, w) each.

        Args:
            features: the backbone's maps, (N, ., h, w) float each.
        """
        maps: dict[str, Tensor] = {}
        x = None
        for level, name in self.sources.items():
            lateral = self.lateral[level](features[name])
            if x is None:
                x = maps["lateral"] = lateral
            else:
                x = lateral + upsampled(x, lateral.shape[-2:])
                x = x / 2 if self.fuse == "avg" else x
            if level in self.output:
                maps[level] = self.output[level](x)
        if self.top:
            name = self.top_in_feature
            maps |= self._above(maps[name] if name in maps else features[name])
        return {name: features[name] if name in self.passed else maps[name] for name in self.out_features}

    def _above(self, x: Tensor) -> dict[str, Tensor]:
        """Return the levels above the backbone's, computed from x, (N, ., h, w)."""
        maps = {}
        for index, name in enumerate(self.top):
            if self.pools:
                x = F.max_pool2d(x, kernel_size=1, stride=2)
            else:
                x = self.top_block[name](F.relu(x) if index else x)
            maps[name] = x
        return maps


def upsampled(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Repeat each pixel of (N, C, h, w) maps twice along each axis, and fit them to `size`.

    A level of a backbone that rounds up has half the size of the finer one, or half a pixel more, which is
    cut; after one that rounds down, the last pixels are repeated once more.

    Args:
        maps: (N, C, h, w) float.
        size: (height, width) of the finer level.
    """
    height, width = size
    maps = F.interpolate(maps, scale_factor=2.0, mode="nearest")
    missing = max(height - maps.shape[-2], 0), max(width - maps.shape[-1], 0)
    if any(missing):
        maps = F.pad(maps, (0, missing[1], 0, missing[0]), mode="replicate")
    return maps[..., :height, :width]


def _sources(input_shape: Mapping[str, ShapeSpec]) -> dict[int, str]:
    """Return the names of the maps by level, the logarithm of their stride to base 2, from fine to coarse.

    Raises:
        ArgumentError: strides are not consecutive powers of two.
    """
    strides = {name: shape.stride for name, shape in input_shape.items()}
    names = sorted(strides, key=lambda name: strides[name])
    levels = [round(math.log2(strides[name])) for name in names]
    rising = all(fine + 1 == coarse for fine, coarse in itertools.pairwise(levels))
    if not rising or any(2**level != strides[name] for level, name in zip(levels, names, strict=True)):
        found = ", ".join(f"{name} {strides[name]}" for name in names)
        raise ArgumentError(
            "input_shape",
            ": a pyramid needs maps whose strides double from one to the next, such as 4, 8, 16, 32; found "
            f"{found}; use other maps, or a backbone of output stride 32",
        )
    return dict(zip(levels, names, strict=True))
