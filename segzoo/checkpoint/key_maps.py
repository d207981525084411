"""Map the parameter names of other code bases by ordered (regex, replacement) rules, kept as data."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.utils.methods import load_methods

from . import rules_cnn

# Maps a weight and the model's shape to the weight in that shape, or to None if it cannot be resized.
Resize = Callable[[Tensor, torch.Size], Tensor | None]


@dataclass(frozen=True)
class KeyMap:
    """The layout of a published file: how its keys and values map to the model's.

    Attributes:
        name: name of the layout in reports.
        recognize: regexes; a file has this layout if each of them is found in at least one of its keys.
            A regex that starts with `!` must be found in none.
        rules: (regex, replacement) pairs; each is applied in turn, with `re.sub`, to every key of the file.
            The replacement may be a function of the match.
        extras: regexes of the file's keys (before renaming) that are not loaded, by design.
        absent: regexes of the model's keys that such a file lacks by design and that keep their value.
        training_only: likewise for keys that predictions do not depend on.
        prefix: put before every renamed key if the model has keys that start with it. A layout with the
            prefix `backbone.` holds a backbone only: the rest of the model keeps its initial values.
        classifier: regexes of the model's keys with one row per class; they are reported as re-initialized
            where the file has another number of classes.
        queries: likewise for keys with one row per object query.
        resize: (regex, function) pairs for model keys whose shape follows the input or window size.
        splits: (regex, replacements) pairs: before renaming, a weight whose key matches is split along its
            first dimension into one equal part per replacement; parts with the same name are concatenated.
        joins: (regexes, replacement) pairs: before renaming, weights whose keys differ only in the regex
            they match are concatenated along the first dimension, in the order of the regexes.
        transforms: (regex, function) pairs for model keys whose values the file stores in another order.
        description: what predictions with such files depend on besides weights, with the keys of
            `compare_description`, such as `image_format`; None if they differ or are not known.
    """

    name: str
    recognize: tuple[str, ...]
    rules: rules_cnn.Rules = ()
    extras: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    training_only: tuple[str, ...] = ()
    prefix: str = ""
    classifier: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    resize: tuple[tuple[str, Resize], ...] = ()
    splits: tuple[tuple[str, tuple[str, ...]], ...] = ()
    joins: tuple[tuple[tuple[str, ...], str], ...] = ()
    transforms: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = ()
    description: Mapping[str, Any] | None = None

    def fits(self, keys: Collection[str]) -> bool:
        """Return whether a file with these keys has this layout."""
        for pattern in self.recognize:
            wanted = not pattern.startswith("!")
            regex = re.compile(pattern.removeprefix("!"))
            if any(regex.search(key) for key in keys) != wanted:
                return False
        return True

    def rename(self, key: str) -> str:
        """Return the model's name for a file's key, without `prefix`."""
        for pattern, replacement in self.rules:
            key = re.sub(pattern, replacement, key)
        return key

    def regroup(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the file's weights after `splits` and `joins`."""
        for pattern, replacements in self.splits:
            weights = _split(weights, pattern, replacements)
        for patterns, replacement in self.joins:
            weights = _join(weights, patterns, replacement)
        return weights

    def transform(self, key: str, value: Tensor) -> Tensor:
        """Return a file's value in the order that the model's key expects."""
        for pattern, function in self.transforms:
            if re.search(pattern, key):
                value = function(value)
        return value


def _split(weights: dict[str, Tensor], pattern: str, replacements: tuple[str, ...]) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {}
    for key, value in weights.items():
        if re.search(pattern, key) and value.dim() and value.shape[0] % len(replacements) == 0:
            for replacement, part in zip(replacements, value.chunk(len(replacements)), strict=True):
                parts.setdefault(re.sub(pattern, replacement, key), []).append(part)
        else:
            parts.setdefault(key, []).append(value)
    return {key: values[0] if len(values) == 1 else torch.cat(values) for key, values in parts.items()}


def _join(weights: dict[str, Tensor], patterns: tuple[str, ...], replacement: str) -> dict[str, Tensor]:
    members: dict[str, list[str]] = {}  # joined key -> keys of its parts, in the order of the patterns
    for pattern in patterns:
        for key in weights:
            if re.search(pattern, key):
                members.setdefault(re.sub(pattern, replacement, key), []).append(key)
    # Incomplete groups stay as they are, and are reported as unexpected keys.
    whole = {joined: keys for joined, keys in members.items() if len(keys) == len(patterns)}
    used = {key for keys in whole.values() for key in keys}
    rest = {key: value for key, value in weights.items() if key not in used}
    return rest | {joined: torch.cat([weights[key] for key in keys]) for joined, keys in whole.items()}


def resize_relative_position_bias(table: Tensor, shape: torch.Size) -> Tensor | None:
    """Interpolate a Swin bias table to another window size, bicubically over the two offsets.

    Args:
        table: ((2 w - 1)^2, heads) of window size w.
        shape: ((2 v - 1)^2, heads) of window size v.
    """
    old_side, new_side = round(table.shape[0] ** 0.5), round(shape[0] ** 0.5)
    square = old_side**2 == table.shape[0] and new_side**2 == shape[0]
    if table.ndim != 2 or len(shape) != 2 or table.shape[1] != shape[1] or not square:
        return None
    grid = table.float().T.reshape(1, -1, old_side, old_side)
    grid = F.interpolate(grid, size=(new_side, new_side), mode="bicubic", align_corners=False)
    return grid.reshape(-1, new_side**2).T.contiguous()


# Weights that any file may hold or lack: counters, and buffers that follow from the architecture or the
# configuration.
DERIVED = (
    r"(^|\.)num_batches_tracked$",
    r"^pixel_(mean|std)$",
    r"^criterion\.empty_weight$",
    r"(^|\.)relative_position_index$",
    r"(^|\.)attn_mask$",
    r"(^|\.)anchor_generator\.cell_anchors\.\d+$",
)

# Parameters of losses, on which predictions do not depend: any file may lack them, or hold other ones.
LOSS_KEYS = (r"^(criterion|loss)\.",)

RESNET_CLASSIFIER = (r"^(stem\.)?fc\.",)
# Modules of timm's models after their last feature map.
_TIMM_CLASSIFIER = (
    r"^(head|heads|head_dist|fc|classif|classifier|pre_classifier|last_linear|conv_head|in_conv)\.",
    r"^(downsamp_modules|final_layer|final_conv|aggregate|norm[234]?|fc_norm|bn2|blocks\.[89])\.",
    r"^features\.(conv5_bn_ac|norm5)\.",
)
# Networks with deformable convolutions start from plain ones; their offsets start at 0.
_OFFSETS = (r"\.conv2_offset\.(weight|bias)$",)
# Excludes ResNet v1d, whose shortcuts have other names.
_NO_POOL = r"!\.downsample\.2\."

_SWIN = (r"^patch_embed\.proj\.weight$", r"^layers\.0\.blocks\.0\.attn\.qkv\.weight$")
_STAGE_STARTS_BY_MERGING = r"^layers\.3\.downsample\."
_SWIN_IMAGENET = {
    "extras": (r"^head\.", r"^norm\."),
    "absent": (r"^(backbone\.)?norm[0-3]\.(weight|bias)$",),
    "prefix": "backbone.",
    "resize": ((r"\.relative_position_bias_table$", resize_relative_position_bias),),
}

# The model's own names, as segzoo's checkpoints have them.
NATIVE = KeyMap(name="native", recognize=())

_BUILT_IN = (
    NATIVE,
    # Detectron2's ImageNetPretrained/torchvision/R-*.pkl and DeepLab/R-103.pkl.
    KeyMap(
        name="Detectron2 ImageNet ResNet",
        recognize=(r"^stem\.conv1\.weight$", r"^res2\.0\.conv1\.weight$"),
        extras=RESNET_CLASSIFIER,
        absent=_OFFSETS,
        prefix="backbone.",
    ),
    # ImageNetPretrained/MSRA/R-*.pkl: batch norm is folded into scale and offset; no running statistics.
    KeyMap(
        name="Caffe2 ImageNet ResNet",
        recognize=(r"^conv1_w$", r"^res2_0_branch2a_w$"),
        rules=(
            (r"^(res_)?conv1_", "stem.conv1_"),
            (r"^(res\d)_(\d+)_", r"\1.\2."),
            (r"\.branch1_", ".shortcut_"),
            (r"\.branch2a_", ".conv1_"),
            (r"\.branch2b_", ".conv2_"),
            (r"\.branch2c_", ".conv3_"),
            (r"_[bg]n_s$", ".norm.weight"),
            (r"_[bg]n_b$", ".norm.bias"),
            (r"_bn_rm$", ".norm.running_mean"),
            (r"_bn_riv$", ".norm.running_var"),
            (r"_w$", ".weight"),
            (r"_b$", ".bias"),
        ),
        extras=(r"^fc1000_", r"^pred_", r"^conv1_b$", r"_momentum$"),
        absent=(r"\.norm\.running_(mean|var)$", *_OFFSETS),
        prefix="backbone.",
    ),
    # torchvision's and timm's plain ResNets, semseg's with its deep base (resnet50_v2.pth).
    KeyMap(
        name="torchvision ResNet",
        recognize=(r"^conv1\.weight$", r"^bn1\.weight$", r"^layer1\.0\.conv1\.weight$", _NO_POOL),
        rules=rules_cnn.TORCHVISION_RESNET,
        extras=RESNET_CLASSIFIER,
        absent=_OFFSETS,
        prefix="backbone.",
    ),
    # timm's v1c and v1s (GluonCV's weights) and, with the pool in the shortcuts, v1d.
    KeyMap(
        name="timm ResNet with a deep stem",
        recognize=(r"^conv1\.6\.weight$", r"^layer1\.0\.conv1\.weight$", _NO_POOL),
        rules=rules_cnn.TIMM_DEEP_STEM_RESNET,
        extras=RESNET_CLASSIFIER,
        absent=_OFFSETS,
        prefix="backbone.",
    ),
    KeyMap(
        name="timm ResNet v1d",
        recognize=(r"^conv1\.6\.weight$", r"^layer1\.0\.conv1\.weight$", r"\.downsample\.2\."),
        rules=(*rules_cnn.POOLED_SHORTCUT, *rules_cnn.TIMM_DEEP_STEM_RESNET),
        extras=RESNET_CLASSIFIER,
        absent=_OFFSETS,
        prefix="backbone.",
    ),
    # pytorch-cv's resnet50_v1s and resnet101_v1s.
    KeyMap(
        name="pytorch-cv ImageNet ResNet",
        recognize=(r"^features\.0\.weight$", r"^features\.10\.0\.conv1\.weight$"),
        rules=rules_cnn.PYTORCH_CV_IMAGENET,
        extras=RESNET_CLASSIFIER,
        absent=_OFFSETS,
        prefix="backbone.",
    ),
    # OpenMMLab's classifiers (resnet50_v1c-2cccc1ad.pth, ...), with or without `backbone.` in front.
    KeyMap(
        name="OpenMMLab ImageNet ResNet",
        recognize=(r"^(backbone\.)?(stem\.0|conv1)\.weight$", r"^(backbone\.)?layer1\.0\.conv1\.", _NO_POOL),
        rules=((r"^backbone\.", ""), *rules_cnn.MMSEG_RESNET),
        extras=(*RESNET_CLASSIFIER, r"^head\.fc\."),
        absent=_OFFSETS,
        prefix="backbone.",
    ),
    KeyMap(
        name="OpenMMLab ImageNet ResNet v1d",
        recognize=(r"^(backbone\.)?stem\.0\.weight$", r"^(backbone\.)?layer\d\.0\.downsample\.2\."),
        rules=((r"^backbone\.", ""), *rules_cnn.POOLED_SHORTCUT, *rules_cnn.MMSEG_RESNET),
        extras=(*RESNET_CLASSIFIER, r"^head\.fc\."),
        absent=_OFFSETS,
        prefix="backbone.",
    ),
    # wider_resnet38.pth.tar of NVIDIA's semantic-segmentation.
    KeyMap(
        name="WideResNet38 ImageNet",
        recognize=(r"^mod1\.conv1\.weight$", r"^mod7\.block1\.convs\.conv3\.weight$"),
        rules=(*rules_cnn.WIDE_RESNET38, (r"^backbone\.", "")),
        extras=(r"^bn_out\.", r"^classifier\.fc\."),
        prefix="backbone.",
    ),
    # facebookresearch's ConvNeXt (convnext_tiny_1k_224_ema.pth, ...) for timm's.
    KeyMap(
        name="ConvNeXt ImageNet",
        recognize=(r"^downsample_layers\.0\.0\.weight$", r"^stages\.0\.0\.dwconv\.weight$"),
        rules=rules_cnn.CONVNEXT,
        extras=(r"^head\.", r"^norm\."),
        prefix="backbone.",
    ),
    # The file of any model of timm for a TimmBackbone; only such a model has a place for its names.
    KeyMap(
        name="timm",
        recognize=(),
        rules=((r"^(?!backbone\.)", "network."),),
        extras=_TIMM_CLASSIFIER,
        prefix="backbone.",
    ),
    # swin_*_patch4_window*.pth of the Swin repository. Dense prediction norms each output: norm0..norm3.
    KeyMap(
        name="Swin ImageNet",
        recognize=(*_SWIN, rf"!{_STAGE_STARTS_BY_MERGING}"),
        **_SWIN_IMAGENET,
    ),
    # timm's, where the downsampling between two stages is part of the second.
    KeyMap(
        name="timm Swin ImageNet",
        recognize=(*_SWIN, _STAGE_STARTS_BY_MERGING),
        rules=tuple(
            (rf"^layers\.{stage}\.downsample\.", f"layers.{stage - 1}.downsample.") for stage in (1, 2, 3)
        ),
        **_SWIN_IMAGENET,
    ),
)

_registered: dict[str, KeyMap] = {key_map.name: key_map for key_map in _BUILT_IN}


def register_key_map(key_map: KeyMap) -> None:
    """Register a layout for `load_checkpoint`; registering the same map twice is harmless.

    Raises:
        ValueError: another map has that name, or a pattern is not a valid regular expression.
    """
    if _registered.get(key_map.name, key_map) != key_map:
        raise ValueError(f"a different key map named {key_map.name!r} is already registered")
    patterns = (*key_map.recognize, *key_map.extras, *key_map.absent, *key_map.training_only)
    patterns += (*key_map.classifier, *key_map.queries)
    joined = (pattern for patterns, _ in key_map.joins for pattern in patterns)
    paired = (pair[0] for pair in (*key_map.rules, *key_map.splits, *key_map.transforms))
    for pattern in (*patterns, *paired, *joined):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"key map {key_map.name!r}: {pattern!r} is not a regular expression: {error}"
            ) from None
    _registered[key_map.name] = key_map


def key_maps() -> tuple[KeyMap, ...]:
    """Return all known layouts, the native one first, then in the order of registration."""
    load_methods()
    return tuple(_registered.values())


def classifier_keys() -> tuple[str, ...]:
    """Return the patterns that match classifier keys of the model, from all layouts."""
    return tuple(pattern for known in key_maps() for pattern in known.classifier)


def query_keys() -> tuple[str, ...]:
    """Return the patterns that match object-query keys of the model, from all layouts."""
    return tuple(pattern for known in key_maps() for pattern in known.queries)


def matches(key: str, patterns: Iterable[str]) -> bool:
    """Return whether a key contains a match of any of the patterns."""
    return any(re.search(pattern, key) for pattern in patterns)
