"""The names of weights in mmsegmentation's files of DANet."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.layouts import MMSEG_CLASSIFIER, MMSEG_FCN_AUXILIARY, MMSEG_RESNET

MMSEG_DANET = KeyMap(
    name="mmsegmentation DANet",
    recognise=(r"^decode_head\.pam_in_conv\.", r"^decode_head\.cam_in_conv\."),
    rules=(
        *MMSEG_RESNET,
        *MMSEG_FCN_AUXILIARY,
        *MMSEG_CLASSIFIER,
        (r"^decode_head\.pam_", "sem_seg_head.position_"),
        (r"^decode_head\.cam_", "sem_seg_head.channel_"),
        (r"^(sem_seg_head\.(?:position|channel)_(?:in|out))_conv\.conv\.", r"\1."),
        (r"^(sem_seg_head\.(?:position|channel)_(?:in|out))_conv\.bn\.", r"\1.norm."),
        (r"^(sem_seg_head\.(?:position|channel))_conv_seg\.", r"\1_predictor."),
        (r"^decode_head\.pam\.(query|key|value)_project\.", r"sem_seg_head.position_attention.\1."),
        (r"^decode_head\.pam\.gamma\.scale$", "sem_seg_head.position_attention.gamma"),
        (r"^decode_head\.cam\.gamma\.scale$", "sem_seg_head.channel_attention.gamma"),
    ),
    extras=(r"^auxiliary_head\.",),
    classifier=(
        r"^sem_seg_head\.(position_|channel_)?predictor\.(weight|bias)$",
        r"^auxiliary_head\.predictor\.(weight|bias)$",
    ),
)

register_key_map(MMSEG_DANET)
