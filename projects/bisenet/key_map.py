"""Key map of mmsegmentation's BiSeNetV1 files, in which everything but the classifiers is the backbone."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import MMSEG_CLASSIFIER, MMSEG_RESNET

MMSEG_BISENET = KeyMap(
    name="mmsegmentation BiSeNetV1",
    recognize=(r"^backbone\.context_path\.arm16\.", r"^backbone\.spatial_path\.layer1\."),
    rules=(
        (r"^backbone\.context_path\.backbone\.", "backbone."),
        (r"^backbone\.(?=context_path\.|spatial_path\.|ffm\.)", "sem_seg_head."),
        *MMSEG_RESNET,
        *MMSEG_CLASSIFIER,
        (r"^sem_seg_head\.spatial_path\.layer1\.", "sem_seg_head.spatial_path.0."),
        (r"^sem_seg_head\.spatial_path\.layer2\.", "sem_seg_head.spatial_path.1."),
        (r"^sem_seg_head\.spatial_path\.layer3\.", "sem_seg_head.spatial_path.2."),
        (r"^sem_seg_head\.spatial_path\.layer4\.", "sem_seg_head.spatial_path.3."),
        (r"^sem_seg_head\.context_path\.gap_conv\.1\.", "sem_seg_head.global_context."),
        (r"^sem_seg_head\.context_path\.arm16\.", "sem_seg_head.refinements.res4."),
        (r"^sem_seg_head\.context_path\.arm32\.", "sem_seg_head.refinements.res5."),
        (r"\.conv_layer\.", ".conv."),
        (r"\.atten_conv_layer\.1\.", ".gate."),
        (r"^sem_seg_head\.context_path\.conv_head16\.", "sem_seg_head.enlarged.res4."),
        (r"^sem_seg_head\.context_path\.conv_head32\.", "sem_seg_head.enlarged.res5."),
        (r"^sem_seg_head\.ffm\.conv1\.", "sem_seg_head.fusion.conv."),
        (r"^sem_seg_head\.ffm\.conv_atten\.0\.", "sem_seg_head.fusion.gate."),
        (r"^decode_head\.convs\.0\.", "sem_seg_head.last."),
        (r"^auxiliary_head\.0\.", "sem_seg_head.auxiliary.res4."),
        (r"^auxiliary_head\.1\.", "sem_seg_head.auxiliary.res5."),
        (r"^(sem_seg_head\.auxiliary\.res\d)\.convs\.0\.", r"\1.0."),
        (r"^(sem_seg_head\.auxiliary\.res\d)\.conv_seg\.", r"\1.2."),
        (r"^(sem_seg_head\..+)\.conv\.weight$", r"\1.weight"),
        (r"^(sem_seg_head\..+)\.bn\.", r"\1.norm."),
    ),
    classifier=(
        r"^sem_seg_head\.predictor\.(weight|bias)$",
        r"^sem_seg_head\.auxiliary\.res\d\.2\.(weight|bias)$",
    ),
)

register_key_map(MMSEG_BISENET)
