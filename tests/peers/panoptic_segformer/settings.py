"""Seeds, sizes and segments of the recorded cases; `make_cases.py` and the tests share them."""

from dataclasses import dataclass

from tests.peers.seeded import Adjustments, InferenceCase, Size

# Embeddings of unit variance; small residual branches, so that queries and places differ; masks of which a
# part exceeds 0.5.
ADJUSTMENTS: Adjustments = (
    (r"query_embedding", 32.0, 0.0),
    (r"stuff_query|level_embeds", 16.0, 0.0),
    (r"^backbone\.layer\d\.\d+\.bn3\.weight", 0.4, 0.0),
    (r"(output_proj|out_proj|ffns\.0\.layers\.1|_head\.blocks\..*(proj|fc2))\.weight", 0.4, 0.0),
    (r"cls_branches\.\d\.weight|cls_stuff_branches\.\d\.weight", 2.0, 0.0),
    (r"_head\..*\.attn(en)?\.k\.weight", 2.0, 0.0),
    (r"_head\..*\.linear\.0\.weight", 2.0, 0.0),
    (r"_head\..*\.linear\.0\.bias", 1.0, -0.7),
)


@dataclass(frozen=True)
class PanopticCase(InferenceCase):
    """An `InferenceCase` with another backbone of the authors' code and its channels; None: the usual one."""

    backbone: tuple[str, tuple[int, int, int]] | None = None


@dataclass(frozen=True)
class TrainingScene:
    """Segments to train on.

    Attributes:
        image: size of the image.
        classes: class of every segment: below 80 a thing.
        canvas: size after padding; None: no padding.
        void: leave pixels without segment.
    """

    image: Size
    classes: tuple[int, ...]
    canvas: Size | None = None
    void: bool = False


INFERENCE = {
    "r50_smaller": PanopticCase("panformer_r50_24e_coco_panoptic", 8, 8, (93, 141), (75, 118)),
    "r50_larger": PanopticCase("panformer_r50_24e_coco_panoptic", 8, 27, (101, 75), (121, 89)),
    "pvtv2_b0": PanopticCase(
        "panformer_pvtb5_24e_coco_panoptic", 12, 12, (93, 141), (75, 118), ("pvt_v2_b0", (64, 160, 256))
    ),
}
# Cases whose checkpoint is that of another case.
SAME_WEIGHTS = {"r50_larger": "r50_smaller"}
TRAINING_SEED = 8
SCENES = {
    "both": TrainingScene((93, 141), (3, 100, 3, 17, 79, 85, 132, 0)),
    "no_thing": TrainingScene((93, 141), (88, 120)),
    "no_stuff": TrainingScene((93, 141), (5, 6, 6, 60), void=True),
    "repeated_stuff": TrainingScene((93, 141), (90, 90, 12)),
    "padded": TrainingScene((77, 118), (1, 2, 2, 30, 44, 78, 99, 131), canvas=(93, 141)),
    "void": TrainingScene((93, 141), (100, 11), void=True),
}
