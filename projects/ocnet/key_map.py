"""The names of weights in pytorch-cv's files of OCNet.

There the backbone is cut into `base1` (the stem, layer1, and the blocks of layer2 one by one), `base2` and
`base3` (the blocks of layer3 and of layer4). JPU joins its maps coarsest first.
"""

from segzoo.checkpoint import KeyMap, register_key_map

_BACKBONE = (
    (r"^base1\.0\.", "backbone.stem.conv1."),
    (r"^base1\.1\.", "backbone.stem.conv1.norm."),
    (r"^base1\.3\.", "backbone.stem.conv2."),
    (r"^base1\.4\.", "backbone.stem.conv2.norm."),
    (r"^base1\.6\.", "backbone.stem.conv3."),
    (r"^base1\.7\.", "backbone.stem.conv3.norm."),
    (r"^base1\.10\.(?=\d)", "backbone.res2."),
    *((rf"^base1\.{11 + block}\.", f"backbone.res3.{block}.") for block in range(8)),
    (r"^base2\.", "backbone.res4."),
    (r"^base3\.", "backbone.res5."),
    (r"^(backbone\.res\d\.\d+)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"^(backbone\.res\d\.\d+)\.downsample\.0\.", r"\1.shortcut."),
    (r"^(backbone\.res\d\.\d+)\.downsample\.1\.", r"\1.shortcut.norm."),
)
_JPU = (
    (r"^JPU\.conv([345])\.0\.", r"neck.reduce.res\1."),
    (r"^JPU\.conv([345])\.1\.", r"neck.reduce.res\1.norm."),
    *((rf"^JPU\.dilation{index + 1}\.0\.conv1\.", f"neck.dilated.{index}.0.") for index in range(4)),
    *((rf"^JPU\.dilation{index + 1}\.0\.bn\.", f"neck.dilated.{index}.0.norm.") for index in range(4)),
    *((rf"^JPU\.dilation{index + 1}\.0\.pointwise\.", f"neck.dilated.{index}.1.") for index in range(4)),
    *((rf"^JPU\.dilation{index + 1}\.1\.", f"neck.dilated.{index}.1.norm.") for index in range(4)),
)
_AUXILIARY = (
    (r"^auxlayer\.block\.0\.", "auxiliary_head.convs.0."),
    (r"^auxlayer\.block\.1\.", "auxiliary_head.convs.0.norm."),
    (r"^auxlayer\.block\.4\.", "auxiliary_head.predictor."),
)
# `f_query` is `f_key`, under a second name.
_ATTENTION = (
    (r"\.stages\.0\.f_key\.0\.", ".key."),
    (r"\.stages\.0\.f_key\.1\.", ".key.norm."),
    (r"\.stages\.0\.f_value\.", ".value."),
    (r"\.stages\.0\.W\.", ".output."),
)
_SHARED = {
    "extras": (r"\.stages\.0\.f_query\.", r"^auxlayer\."),
    "classifier": (r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
}

PYTORCH_CV_BASE = KeyMap(
    name="pytorch-cv OCNet-Base",
    recognise=(r"^base1\.0\.weight$", r"^context\.3\.stages\.0\.f_key\.0\.weight$"),
    rules=(
        *_BACKBONE,
        *_JPU,
        *_AUXILIARY,
        (r"^cls\.", "sem_seg_head.predictor."),
        (r"^context\.0\.", "sem_seg_head.reduce."),
        (r"^context\.1\.", "sem_seg_head.reduce.norm."),
        (r"^context\.3\.conv_bn_dropout\.0\.", "sem_seg_head.fuse."),
        (r"^context\.3\.conv_bn_dropout\.1\.", "sem_seg_head.fuse.norm."),
        (r"^context\.3(?=\.stages\.)", "sem_seg_head.context"),
        *_ATTENTION,
    ),
    **_SHARED,
)

PYTORCH_CV_ASP = KeyMap(
    name="pytorch-cv OCNet-ASP",
    recognise=(r"^base1\.0\.weight$", r"^context\.0\.context\.3\.stages\.0\.f_key\.0\.weight$"),
    rules=(
        *_BACKBONE,
        *_JPU,
        *_AUXILIARY,
        (r"^cls\.", "sem_seg_head.predictor."),
        (r"^context\.0\.context\.0\.", "sem_seg_head.reduce."),
        (r"^context\.0\.context\.1\.", "sem_seg_head.reduce.norm."),
        (r"^context\.0\.context\.3\.conv_bn_dropout\.0\.", "sem_seg_head.context_out."),
        (r"^context\.0\.context\.3\.conv_bn_dropout\.1\.", "sem_seg_head.context_out.norm."),
        (r"^context\.0\.context\.3(?=\.stages\.)", "sem_seg_head.context"),
        *_ATTENTION,
        *((rf"^context\.0\.conv{index + 2}\.0\.", f"sem_seg_head.branches.{index}.") for index in range(4)),
        *(
            (rf"^context\.0\.conv{index + 2}\.1\.", f"sem_seg_head.branches.{index}.norm.")
            for index in range(4)
        ),
        (r"^context\.0\.conv_bn_dropout\.0\.", "sem_seg_head.fuse."),
        (r"^context\.0\.conv_bn_dropout\.1\.", "sem_seg_head.fuse.norm."),
    ),
    **_SHARED,
)

register_key_map(PYTORCH_CV_BASE)
register_key_map(PYTORCH_CV_ASP)
