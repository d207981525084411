"""Key map of Detectron2's files of detectors with a feature pyramid.

The names of models without one, C4 and dilated C5, are segzoo's own.
"""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import DETECTRON2_FPN

DETECTRON2 = KeyMap(
    name="Detectron2 Mask R-CNN",
    recognize=(r"^backbone\.bottom_up\.", r"^backbone\.fpn_lateral\d\.", r"^roi_heads\."),
    rules=DETECTRON2_FPN,
    classifier=(
        r"(^|\.)roi_heads\.box_predictor\.(cls_score|bbox_pred)\.(weight|bias)$",
        r"(^|\.)roi_heads\.mask_head\.predictor\.(weight|bias)$",
    ),
)

register_key_map(DETECTRON2)
