"""Names of network parts in GluonCV's `.params` files, as ordered (regex, replacement) rules.

GluonCV's files spell a parameter in four ways:

    structural      layer1.0.conv1.weight                        save_parameters
    block names     resnetv1s_layers1_conv0_weight               older files, without the network's own prefix
    exported        arg:fcn0_resnetv1s_layers1_conv0_weight      export; aux: for running statistics
    symbol blocks   features.resnetv1b_layers1_conv0_weight      the backbone of its FPN detectors

The rules for block names turn the last three into structural names, and leave those unchanged. A key map of a
network concatenates them with the rules for the structural names:
`rules=(*block_names("fcn[0-9]+_"), *resnet_block_names(...), *its head's block names, *GLUON_NORMS, ...)`.

The networks number the blocks of each kind within a part, so a block name shows the position of a convolution
among those of its stage, and no block boundaries.
"""

import re
from collections.abc import Sequence

from .key_maps import RESNET_CLASSIFIER, KeyMap, register_key_map
from .rules_cnn import PYTORCH_CV_AUXILIARY, TIMM_DEEP_STEM_RESNET, TORCHVISION_RESNET, Rules

# The leaf names of a norm, after the rules that need them. DANet's attention weights keep the name gamma.
GLUON_NORMS: Rules = ((r"(?<!^head\.s[ac])\.gamma$", ".weight"), (r"\.beta$", ".bias"))

# The shortcut of a block: average pool (v1d only), convolution, norm. Only the leaf names say whether
# `downsample.1` is the convolution.
_SHORTCUT: Rules = (
    (r"^((?:backbone\.)?layer[1-4]\.\d+)\.downsample\.[01]\.(?=weight$)", r"\1.shortcut."),
    (
        r"^((?:backbone\.)?layer[1-4]\.\d+)\.downsample\.[12]\.(?=(?:gamma|beta|running_mean|running_var)$)",
        r"\1.shortcut.norm.",
    ),
)
# Structural names of a ResNet with a stem of one convolution (v1b), and of three (v1c, v1d, v1s).
GLUON_RESNET: Rules = (*_SHORTCUT, *GLUON_NORMS, *TORCHVISION_RESNET)
GLUON_DEEP_STEM_RESNET: Rules = (*_SHORTCUT, *GLUON_NORMS, *TIMM_DEEP_STEM_RESNET)


def block_names(network: str = "") -> Rules:
    """Return the rules that every file with block names needs, before all others.

    They remove `arg:` and `aux:` and the network's prefix, and separate the leaf name by a colon, which
    structural names never have: `conv0_weight` is then `conv0:weight`.

    Args:
        network: a regex for the prefix, `fcn[0-9]+_`; "" for none.
    """
    return (
        (r"^(?:arg|aux):", ""),
        *(((rf"^{network}", ""),) if network else ()),
        (r"^([^.]+|features\.[^.]+)_(weight|bias|gamma|beta|running_mean|running_var)$", r"\1:\2"),
    )


def resnet_block_names(prefix: str, convs_per_block: int, deep_stem: bool) -> Rules:
    """Return the rules from a ResNet's block names to its structural names, after those of `block_names`.

    Args:
        prefix: a regex for what precedes the names: `resnetv1s_`, or `features\\.resnetv1b_` in an FPN
            detector. It must not contain groups.
        convs_per_block: 2 in ResNet-18 and 34, 3 in the deeper ones.
        deep_stem: whether the stem has three convolutions.
    """

    def layer(match: re.Match[str]) -> str:
        block, index = divmod(int(match[3]), convs_per_block)
        return f"layer{match[1]}.{block}.{'conv' if match[2] == 'conv' else 'bn'}{index + 1}."

    stem = ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1") if deep_stem else ("conv1", "bn1")
    return (
        (rf"^{prefix}layers([1-4])_(conv|batchnorm)(\d+):", layer),
        (rf"^{prefix}down([1-4])_conv0:", r"layer\1.0.downsample.0."),
        (rf"^{prefix}down([1-4])_batchnorm0:", r"layer\1.0.downsample.1."),
        *numbered(rf"{prefix}conv", stem[::2]),
        *numbered(rf"{prefix}batchnorm", stem[1::2]),
        (rf"^{prefix}dense0:", "fc."),
    )


def numbered(prefix: str, parts: Sequence[str]) -> Rules:
    """Return the rule that replaces the block name `<prefix><n>` by the n-th of the names, counted from 0.

    Args:
        prefix: a regex without groups.
        parts: names; a number beyond them is left unchanged.
    """

    def part(match: re.Match[str]) -> str:
        index = int(match[1])
        return f"{parts[index]}." if index < len(parts) else match[0]

    return ((rf"^{prefix}(\d+):", part),)


# The parts of a segmentation network besides its head: a dilated v1s below `backbone.`, and the auxiliary
# head.
GLUON_BACKBONE_BLOCKS: Rules = resnet_block_names("resnetv1s_", convs_per_block=3, deep_stem=True)
GLUON_SEGMENTATION: Rules = (
    (r"^(?=(?:conv1|bn1|layer[1-4])\.)", "backbone."),
    *GLUON_DEEP_STEM_RESNET,
    *PYTORCH_CV_AUXILIARY,
)


def auxiliary_block_names(index: int) -> Rules:
    """Return the rules for the auxiliary head's block names; `index` counts the network's FCN heads."""
    return fcn_head_block_names(rf"_fcnhead{index}_", "auxlayer")


def fcn_head_block_names(prefix: str, part: str) -> Rules:
    """Return the rules from an FCN head's block names to its structural names, below `part`."""
    return (
        *numbered(rf"{prefix}hybridsequential0_conv", (f"{part}.block.0", f"{part}.block.4")),
        *numbered(rf"{prefix}hybridsequential0_batchnorm", (f"{part}.block.1",)),
    )


# Names of an ImageNet file, whose own prefix (`resnetv1b_`) is only left in exported ones.
_CLASSIFIER_PREFIX = r"(?:resnetv1[a-z]_)?"
_CLASSIFIER = rf"^(?:arg:)?{_CLASSIFIER_PREFIX}"
_DEEP_STEM = rf"^conv1\.4\.gamma$|{_CLASSIFIER}conv2_weight$"
_BOTTLENECK = rf"{_CLASSIFIER}down1_conv0_weight$"


def register_gluon_layouts() -> None:
    """Register the layouts of GluonCV's ImageNet files, resnet50_v1s-25a187fa.params and the like."""
    for name, recognize, convs_per_block, deep_stem in (
        ("v1b", (rf"^bn1\.gamma$|{_BOTTLENECK}", f"!{_DEEP_STEM}"), 3, False),
        (
            "v1b of basic blocks, block names",
            (rf"{_CLASSIFIER}layers4_conv1_weight$", f"!{_BOTTLENECK}"),
            2,
            False,
        ),
        ("v1c, v1d or v1s", (_DEEP_STEM,), 3, True),
    ):
        register_key_map(
            KeyMap(
                name=f"GluonCV ImageNet ResNet {name}",
                recognize=recognize,
                rules=(
                    *block_names(),
                    *resnet_block_names(_CLASSIFIER_PREFIX, convs_per_block, deep_stem),
                    *(GLUON_DEEP_STEM_RESNET if deep_stem else GLUON_RESNET),
                ),
                extras=(*RESNET_CLASSIFIER, rf"{_CLASSIFIER}dense0_(weight|bias)$"),
                prefix="backbone.",
            )
        )
