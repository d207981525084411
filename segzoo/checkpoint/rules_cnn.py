"""Names of network parts that several code bases and methods share, as ordered (regex, replacement) rules.

A key map concatenates the rules for the parts of its files: `(*MMSEG_RESNET, *MMSEG_FCN_AUXILIARY, ...)`.
Rules for a backbone keep the prefix `backbone.` of a name that has it. In files without it, a separate rule
adds it for whole models (as in SEMSEG_RESNET), `KeyMap.prefix` for a backbone alone.

The model's names are Detectron2's: the norm of a convolution is `<convolution>.norm`, the parts of a ResNet
are `stem` and `res2` to `res5`, those of a block `conv1` to `conv3` and `shortcut`.
"""

import re
from collections.abc import Callable

# As `re.sub` takes it.
Replacement = str | Callable[[re.Match[str]], str]
Rules = tuple[tuple[str, Replacement], ...]

_STAGES: Rules = (
    (r"^((?:backbone\.)?)layer1\.(?=\d)", r"\1res2."),
    (r"^((?:backbone\.)?)layer2\.(?=\d)", r"\1res3."),
    (r"^((?:backbone\.)?)layer3\.(?=\d)", r"\1res4."),
    (r"^((?:backbone\.)?)layer4\.(?=\d)", r"\1res5."),
    (r"^((?:backbone\.)?res[2-5]\.\d+)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"^((?:backbone\.)?res[2-5]\.\d+)\.downsample\.0\.", r"\1.shortcut."),
    (r"^((?:backbone\.)?res[2-5]\.\d+)\.downsample\.1\.", r"\1.shortcut.norm."),
)

# A stem in one nn.Sequential of convolutions, norms and ReLUs: `stem` (mmsegmentation) or `layer0` (semseg).
_SEQUENTIAL_STEM: Rules = (
    (r"^((?:backbone\.)?)(?:stem|layer0)\.0\.", r"\1stem.conv1."),
    (r"^((?:backbone\.)?)(?:stem|layer0)\.1\.", r"\1stem.conv1.norm."),
    (r"^((?:backbone\.)?)(?:stem|layer0)\.3\.", r"\1stem.conv2."),
    (r"^((?:backbone\.)?)(?:stem|layer0)\.4\.", r"\1stem.conv2.norm."),
    (r"^((?:backbone\.)?)(?:stem|layer0)\.6\.", r"\1stem.conv3."),
    (r"^((?:backbone\.)?)(?:stem|layer0)\.7\.", r"\1stem.conv3.norm."),
)

# `conv1`, `bn1`, `layer1`, ...; the deep stem of semseg's ImageNet files also has `conv2`, `bn2`, `conv3` and
# `bn3`.
TORCHVISION_RESNET: Rules = (
    (r"^((?:backbone\.)?)conv([123])\.(?=[a-z])", r"\1stem.conv\2."),
    (r"^((?:backbone\.)?)bn([123])\.", r"\1stem.conv\2.norm."),
    *_STAGES,
)

# mmsegmentation and mmpretrain, with a deep stem (v1c) or without (then the names are torchvision's).
MMSEG_RESNET: Rules = (*_SEQUENTIAL_STEM, *TORCHVISION_RESNET)

# timm's v1c, v1d and v1s, as PyTorch-Encoding names them: the last norm of the stem is outside of it.
TIMM_DEEP_STEM_RESNET: Rules = (
    (r"^((?:backbone\.)?)conv1\.0\.", r"\1stem.conv1."),
    (r"^((?:backbone\.)?)conv1\.1\.", r"\1stem.conv1.norm."),
    (r"^((?:backbone\.)?)conv1\.3\.", r"\1stem.conv2."),
    (r"^((?:backbone\.)?)conv1\.4\.", r"\1stem.conv2.norm."),
    (r"^((?:backbone\.)?)conv1\.6\.", r"\1stem.conv3."),
    (r"^((?:backbone\.)?)bn1\.", r"\1stem.conv3.norm."),
    *_STAGES,
)

# Goes before any of the above for v1d, where `downsample.0` is the average pool; in other files
# `downsample.1` is the norm. Files of v1d are recognized by their `downsample.2`.
POOLED_SHORTCUT: Rules = (
    (r"^((?:backbone\.)?layer[1-4]\.\d+)\.downsample\.2\.", r"\1.shortcut.norm."),
    (r"^((?:backbone\.)?layer[1-4]\.\d+)\.downsample\.1\.", r"\1.shortcut."),
)

# A whole model of semseg: `layer0` to `layer4` beside `ppm`, `cls`, `aux`, ...
SEMSEG_RESNET: Rules = ((r"^(?=layer[0-4]\.)", "backbone."), *_SEQUENTIAL_STEM, *_STAGES)

# Parts of semseg's models beside the backbone: the classifier with the convolution before it, and the
# auxiliary FCNHead.
SEMSEG_CLASSIFIERS: Rules = (
    (r"^cls\.0\.", "sem_seg_head.bottleneck."),
    (r"^cls\.1\.", "sem_seg_head.bottleneck.norm."),
    (r"^cls\.4\.", "sem_seg_head.predictor."),
    (r"^aux\.0\.", "auxiliary_head.convs.0."),
    (r"^aux\.1\.", "auxiliary_head.convs.0.norm."),
    (r"^aux\.4\.", "auxiliary_head.predictor."),
)

# WideResNet38-A2 in NVIDIA's semantic-segmentation (VPLR), for files of the classifier and of whole models
# (with `aspp`, `bot_fine`, `final`, ...). A norm and its ReLU are one nn.Sequential there.
WIDE_RESNET38: Rules = (
    (r"^mod1\.conv1\.", "backbone.mod1."),
    (r"^(mod[2-7]\.block\d+)\.bn1\.0\.", r"backbone.\1.norm1."),
    (r"^(mod[2-7]\.block\d+)\.convs\.bn([23])\.0\.", r"backbone.\1.norm\2."),
    (r"^(mod[2-7]\.block\d+)\.convs\.conv([123])\.", r"backbone.\1.conv\2."),
    (r"^(mod[2-7]\.block\d+)\.proj_conv\.", r"backbone.\1.shortcut."),
)

# The authors' ConvNeXt in the names of timm's, below a TimmBackbone's `network`.
CONVNEXT: Rules = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.([1-3])\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"^(?=stem\.|stages\.)", "network."),
)

# Detectron2's FPN, which wraps the backbone; here it is a neck beside it.
DETECTRON2_FPN: Rules = (
    (r"^backbone\.fpn_lateral(\d)\.", r"neck.lateral.p\1."),
    (r"^backbone\.fpn_output(\d)\.", r"neck.output.p\1."),
    (r"^backbone\.top_block\.", "neck.top_block."),
    (r"^backbone\.bottom_up\.", "backbone."),
)

# The auxiliary FCNHead of mmsegmentation's models.
MMSEG_FCN_AUXILIARY: Rules = (
    (r"^auxiliary_head\.convs\.(\d+)\.conv\.", r"auxiliary_head.convs.\1."),
    (r"^auxiliary_head\.convs\.(\d+)\.bn\.", r"auxiliary_head.convs.\1.norm."),
    (r"^auxiliary_head\.conv_seg\.", "auxiliary_head.predictor."),
)

# The last convolution of most decode heads of mmsegmentation.
MMSEG_CLASSIFIER: Rules = ((r"^decode_head\.conv_seg\.", "sem_seg_head.predictor."),)

# pytorch-cv's models divide the backbone into `base1` (the stem, layer1, and the blocks of layer2 one by one:
# 4, or 8 in ResNet-152), `base2` and `base3` (the blocks of layer3 and of layer4).
_PYTORCH_CV_RESNET: Rules = (
    (r"^base1\.(?=[0-7]\.)", "backbone.stem."),
    (r"^base1\.10\.", "backbone.layer1."),
    *((rf"^base1\.{11 + block}\.", f"backbone.layer2.{block}.") for block in range(8)),
    (r"^base2\.", "backbone.layer3."),
    (r"^base3\.", "backbone.layer4."),
    *_SEQUENTIAL_STEM,
    *_STAGES,
)
# pytorch-cv's JPU, which concatenates its maps coarsest first.
_PYTORCH_CV_JPU: Rules = (
    (r"^JPU\.conv([345])\.0\.", r"neck.reduce.res\1."),
    (r"^JPU\.conv([345])\.1\.", r"neck.reduce.res\1.norm."),
    *((rf"^JPU\.dilation{index + 1}\.0\.conv1\.", f"neck.dilated.{index}.0.") for index in range(4)),
    *((rf"^JPU\.dilation{index + 1}\.0\.bn\.", f"neck.dilated.{index}.0.norm.") for index in range(4)),
    *((rf"^JPU\.dilation{index + 1}\.0\.pointwise\.", f"neck.dilated.{index}.1.") for index in range(4)),
    *((rf"^JPU\.dilation{index + 1}\.1\.", f"neck.dilated.{index}.1.norm.") for index in range(4)),
)
# The auxiliary FCNHead of pytorch-cv's and GluonCV's models.
PYTORCH_CV_AUXILIARY: Rules = (
    (r"^auxlayer\.block\.0\.", "auxiliary_head.convs.0."),
    (r"^auxlayer\.block\.1\.", "auxiliary_head.convs.0.norm."),
    (r"^auxlayer\.block\.4\.", "auxiliary_head.predictor."),
)

# All parts of pytorch-cv's models but the head.
PYTORCH_CV_MODEL: Rules = (*_PYTORCH_CV_RESNET, *_PYTORCH_CV_JPU, *PYTORCH_CV_AUXILIARY)

# The classifier of pytorch-cv's heads, after a 3 x 3 convolution in `head.block`.
PYTORCH_CV_CLASSIFIER: Rules = ((r"^head\.block\.4\.", "sem_seg_head.predictor."),)

# pytorch-cv's ImageNet files: all layers in one nn.Sequential, `features`.
PYTORCH_CV_IMAGENET: Rules = (
    (r"^features\.(?=[0-7]\.)", "stem."),
    *((rf"^features\.{10 + stage}\.(?=\d)", f"layer{stage + 1}.") for stage in range(4)),
    *_SEQUENTIAL_STEM,
    *_STAGES,
)
