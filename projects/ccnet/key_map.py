"""Key map of mmsegmentation's CCNet files."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import MMSEG_CLASSIFIER, MMSEG_FCN_AUXILIARY, MMSEG_RESNET

MMSEG_CCNET = KeyMap(
    name="mmsegmentation CCNet",
    recognize=(r"^decode_head\.cca\.query_conv\.",),
    rules=(
        *MMSEG_RESNET,
        *MMSEG_FCN_AUXILIARY,
        *MMSEG_CLASSIFIER,
        (r"^decode_head\.convs\.0\.", "sem_seg_head.reduce."),
        (r"^decode_head\.convs\.1\.", "sem_seg_head.refine."),
        (r"^decode_head\.conv_cat\.", "sem_seg_head.fuse."),
        (r"^(sem_seg_head\.(?:reduce|refine|fuse)\.)conv\.", r"\1"),
        (r"^(sem_seg_head\.(?:reduce|refine|fuse)\.)bn\.", r"\1norm."),
        (r"^decode_head\.cca\.(query|key|value)_conv\.", r"sem_seg_head.attention.\1."),
        (r"^decode_head\.cca\.gamma\.scale$", "sem_seg_head.attention.gamma"),
    ),
    extras=(r"^auxiliary_head\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

register_key_map(MMSEG_CCNET)
