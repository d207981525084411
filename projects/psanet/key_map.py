"""Key maps of semseg's and mmsegmentation's PSANet files."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import (
    MMSEG_CLASSIFIER,
    MMSEG_FCN_AUXILIARY,
    MMSEG_RESNET,
    SEMSEG_CLASSIFIERS,
    SEMSEG_RESNET,
)

SEMSEG_PSANET = KeyMap(
    name="semseg PSANet",
    recognize=(r"^layer0\.0\.weight$", r"^psa\.attention\.3\.weight$", r"^cls\.4\.weight$"),
    rules=(
        *SEMSEG_RESNET,
        *SEMSEG_CLASSIFIERS,
        (r"^psa\.(reduce|attention)\.", r"sem_seg_head.collect.\1."),
        (r"^psa\.(reduce|attention)_p\.", r"sem_seg_head.distribute.\1."),
        (r"^psa\.proj\.", "sem_seg_head.projection."),
        (r"^sem_seg_head\.(\w+)\.attention\.3\.", r"sem_seg_head.\1.scores."),
        (r"^(sem_seg_head\.(?:\w+\.)?(?:reduce|attention|projection))\.0\.", r"\1."),
        (r"^(sem_seg_head\.(?:\w+\.)?(?:reduce|attention|projection))\.1\.", r"\1.norm."),
    ),
    extras=(r"^aux\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

MMSEG_PSANET = KeyMap(
    name="mmsegmentation PSANet",
    recognize=(r"^decode_head\.attention_p\.1\.weight$", r"^decode_head\.conv_seg\.weight$"),
    rules=(
        *MMSEG_RESNET,
        *MMSEG_FCN_AUXILIARY,
        *MMSEG_CLASSIFIER,
        (r"^decode_head\.(reduce|attention)\.", r"sem_seg_head.collect.\1."),
        (r"^decode_head\.(reduce|attention)_p\.", r"sem_seg_head.distribute.\1."),
        (r"^(sem_seg_head\.\w+)\.attention\.1\.", r"\1.scores."),
        (r"^(sem_seg_head\.\w+\.attention)\.0\.", r"\1."),
        (r"^decode_head\.proj\.", "sem_seg_head.projection."),
        (r"^decode_head\.bottleneck\.", "sem_seg_head.bottleneck."),
        (r"^(sem_seg_head\..+)\.conv\.weight$", r"\1.weight"),
        (r"^(sem_seg_head\..+)\.bn\.", r"\1.norm."),
    ),
    extras=(r"^auxiliary_head\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

register_key_map(SEMSEG_PSANET)
register_key_map(MMSEG_PSANET)
