"""Key maps of pytorch-cv's OCNet files."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import PYTORCH_CV_MODEL

# `f_query` is a second name of `f_key`.
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
    recognize=(r"^base1\.0\.weight$", r"^context\.3\.stages\.0\.f_key\.0\.weight$"),
    rules=(
        *PYTORCH_CV_MODEL,
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
    recognize=(r"^base1\.0\.weight$", r"^context\.0\.context\.3\.stages\.0\.f_key\.0\.weight$"),
    rules=(
        *PYTORCH_CV_MODEL,
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
