"""Seeds, sizes and segments of the recorded cases; `make_cases.py` and the tests share them."""

from dataclasses import dataclass

import numpy as np

from tests.peers.seeded import Adjustments, InferenceCase, Scene, Size, seeded_scene

# Inputs are not divided by a standard deviation; small residual branches; boxes that are not all empty; a
# share of the locations above the score threshold.
ADJUSTMENTS: Adjustments = (
    (r"stem\.conv1\.weight|patch_embed1?\.proj\.weight", 0.02, 0.0),
    (r"res\d\.\d+\.conv3\.norm\.weight", 0.4, 0.0),
    (r"res\d\.\d+\.conv2_offset\.", 0.5, 0.0),
    (r"fcos_head\.cls_logits\.weight", 2.0, 0.0),
    (r"fcos_head\.cls_logits\.bias", 1.0, -4.0),
    (r"fcos_head\.bbox_pred\.weight", 2.0, 0.0),
    (r"mask_branch\.tower\.4\.weight", 8.0, 0.0),
    (r"controller\.out_conv\.weight", 1.5, 0.0),
    (r"controller\.out_conv\.bias", 1.0, -0.3),
)


@dataclass(frozen=True)
class EntityCase(InferenceCase):
    """An `InferenceCase` with keys of the authors' configuration, and with adjustments of the weights."""

    overrides: tuple = ()
    adjustments: Adjustments = ()


@dataclass(frozen=True)
class TrainingBatch:
    """Images to train on.

    Attributes:
        images: sizes of the images.
        segments: number of entities of each.
        void: leave pixels without entity.
        overrides: keys and values of the authors' configuration.
    """

    images: tuple[Size, ...]
    segments: tuple[int, ...]
    void: bool = False
    overrides: tuple = ()


INFERENCE = {
    "r50_smaller": EntityCase("entity_r50_1x", 5, 5, (101, 157), (75, 118)),
    "r50_larger": EntityCase("entity_r50_1x", 5, 16, (133, 97), (170, 124)),
    # More than 1000 candidates in a level, with small boxes, of which more than 100 stay.
    "r50_many": EntityCase(
        "entity_r50_1x",
        5,
        5,
        (288, 352),
        (144, 176),
        adjustments=((r"cls_logits\.bias", 1.0, 4.0), (r"bbox_pred\.weight", 0.3, 0.0)),
    ),
    "swin_tiny": EntityCase("entity_swin_t_1x", 6, 6, (101, 157), (101, 157)),
    "mit_b0": EntityCase("entity_mit_b0_1x", 5, 5, (101, 157), (75, 118)),
    "r50_dcnv2": EntityCase("entity_r101_dcnv2_3x", 6, 6, (101, 157), (75, 118), ("MODEL.RESNETS.DEPTH", 50)),
}
# Cases whose checkpoint has the same names, or the same weights, as that of another case.
SAME_WEIGHTS = {"r50_larger": "r50_smaller"}
SAME_NAMES = {**SAME_WEIGHTS, "r50_many": "r50_smaller"}
TRAINING_SEED = 5
SIZES = ((96, 128), (64, 101))
CAP = "MODEL.CONDINST.TRAIN_MAX_PROPOSALS_PER_IMAGE"
BATCHES = {
    "void": TrainingBatch(SIZES, (5, 4), void=True),
    "full": TrainingBatch(SIZES, (6, 3)),
    "one_entity": TrainingBatch(SIZES, (1, 1)),
    "one_empty": TrainingBatch(SIZES, (0, 4)),
    "all_empty": TrainingBatch(SIZES, (0, 0)),
    "capped": TrainingBatch(SIZES, (6, 5), overrides=(CAP, 10)),
    "twice_capped": TrainingBatch(SIZES, (6, 5), overrides=(CAP, 10, "MODEL.CONDINST.MAX_PROPOSALS", 13)),
}
# Short side after the mapper's resize, and whether it flips.
MAPPED = ((150, False), (150, True), (97, False), (97, True), (60, True))


def mapped_scene() -> Scene:
    """Return the scene that the mapper is tested with; the last two entities are one column and one row."""
    scene = seeded_scene(3, 120, 171, [0] * 5, void=True)
    ids = scene.ids.copy()
    ids[10:60, 90], ids[100, 20:80] = 6, 7
    return Scene(ids, np.zeros(7, int))
