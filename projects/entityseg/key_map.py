"""Key map of EntitySeg's published files, which hold Detectron2's training state."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import DETECTRON2_FPN

ENTITYSEG = KeyMap(
    name="EntitySeg",
    recognize=(r"^controller\.kernel_head\.", r"^det_head\.fcos_head\.", r"^mask_branch\.refine\."),
    rules=(
        *DETECTRON2_FPN,
        (r"^det_head\.fcos_head\.", "fcos_head."),
        (r"^fcos_head\.scales\.(\d)\.scale$", r"fcos_head.scales.\1"),
        *(
            (rf"^controller\.kernel_head\.kernel_head_head_{index + 1}\.", f"kernel_head.convs.{index}.")
            for index in range(3)
        ),
        (r"^controller\.out_conv\.", "kernel_head.predictor."),
        (r"^mask_branch\.(refine|tower)\.(\d)\.0\.", r"mask_branch.\1.\2."),
        (r"^mask_branch\.(refine|tower)\.(\d)\.1\.", r"mask_branch.\1.\2.norm."),
        (r"^mask_branch\.tower\.4\.(weight|bias)$", r"mask_branch.predictor.\1"),
        (r"^mask_head\.stable\.(\d)\.(?:0\.)?(weight|bias)$", r"mask_network.bank.\1.\2"),
    ),
    # Level p2 and the norm of Swin's first output are not used, the bank in training only; the numbers of
    # pixels by which offsets are divided follow from the strides.
    extras=(
        r"^backbone\.fpn_(lateral|output)2\.",
        r"^backbone\.bottom_up\.norm0\.",
        r"^mask_head\.stable\.",
        r"^mask_head\.sizes_of_interest$",
    ),
    training_only=(r"^mask_network\.bank\.",),
    # All of them, also those with a backbone that was pre-trained on normalized RGB images.
    description={
        "image_format": "BGR",
        "pixel_mean": [103.53, 116.28, 123.675],
        "pixel_std": [1.0, 1.0, 1.0],
    },
)

register_key_map(ENTITYSEG)
