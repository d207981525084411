"""Single keys of Detectron2, MaskFormer and Mask2Former are translated, or refused with the key to set."""

import logging
import re
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

import segzoo.projects  # noqa: F401  fills the registries
from segzoo.config.keys import flatten
from segzoo.config.renamed.backbones import OUR_BACKBONES, SWIN_VARIANTS
from segzoo.config.renamed.heads import OUR_ARCHITECTURES
from segzoo.config.renamed.table import ROWS
from segzoo.config.renamed.unread import why_unread
from segzoo.model_zoo import load_config
from segzoo.modeling.backbones.swin import VARIANTS
from segzoo.utils.errors import InputError

REPOSITORY = Path(__file__).parents[2]

MASK2FORMER, SWIN = "panoptic/coco/mask2former_r50", "panoptic/coco/mask2former_swin_tiny"
MASKFORMER, PIXELS = "semantic/ade20k/maskformer_r50", "semantic/ade20k/fcn_r50_v1s_120ep"
R18B = "semantic/voc_2012/bisenet_r18_v1b"


def changes(leaf, *overrides):
    """What the overrides change in the resolved configuration."""
    before, after = (dict(flatten(load_config(leaf, words))) for words in ((), overrides))
    return {key: value for key, value in after.items() if value != before[key]}


@pytest.mark.parametrize(
    ("leaf", "overrides", "expected"),
    [
        (MASK2FORMER, "MODEL.RESNETS.DEPTH 101", {"MODEL.BACKBONE.VARIANT": "r101"}),
        (PIXELS, "MODEL.RESNETS.DEPTH 101", {"MODEL.BACKBONE.VARIANT": "r101_v1s"}),
        (MASK2FORMER, "MODEL.RESNETS.NORM SyncBN", {"MODEL.BACKBONE.NORM": "SyncBN"}),
        (MASK2FORMER, "MODEL.RESNETS.RES5_DILATION 2", {"MODEL.BACKBONE.OUTPUT_STRIDE": 16}),
        (
            MASK2FORMER,
            "MODEL.RESNETS.RES4_DILATION 2 MODEL.RESNETS.RES5_DILATION 4",
            {"MODEL.BACKBONE.OUTPUT_STRIDE": 8},
        ),
        (MASK2FORMER, "MODEL.RESNETS.STRIDE_IN_1X1 False", {}),
        (MASK2FORMER, "MODEL.RESNETS.STRIDE_IN_1X1 True", {"MODEL.BACKBONE.STRIDE_IN_1X1": True}),
        (
            MASK2FORMER,
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE [False,True,True,True] MODEL.RESNETS.DEFORM_MODULATED True "
            "MODEL.RESNETS.DEFORM_NUM_GROUPS 2",
            {
                "MODEL.BACKBONE.DEFORM_STAGES": ("res3", "res4", "res5"),
                "MODEL.BACKBONE.DEFORM_MODULATED": True,
                "MODEL.BACKBONE.DEFORM_GROUPS": 2,
            },
        ),
        (MASK2FORMER, "MODEL.RESNETS.STEM_OUT_CHANNELS 64 MODEL.RESNETS.RES5_MULTI_GRID [1,1,1]", {}),
        (R18B, "MODEL.RESNETS.DEPTH 34", {"MODEL.BACKBONE.VARIANT": "r34_v1b"}),
        (
            MASK2FORMER,  # its blocks have no 1x1 convolution to stride in
            "MODEL.BACKBONE.VARIANT r18 MODEL.RESNETS.STRIDE_IN_1X1 True MODEL.RESNETS.RES2_OUT_CHANNELS 64",
            {"MODEL.BACKBONE.VARIANT": "r18"},
        ),
        (
            MASK2FORMER,  # Detectron2's own backbone reads its own keys
            "MODEL.RESNETS.DEPTH 101 MODEL.BACKBONE.NAME build_resnet_backbone",
            {"MODEL.RESNETS.DEPTH": 101, "MODEL.BACKBONE.NAME": "build_resnet_backbone"},
        ),
        (
            SWIN,
            "MODEL.SWIN.EMBED_DIM 128 MODEL.SWIN.DEPTHS [2,2,18,2] MODEL.SWIN.NUM_HEADS [4,8,16,32] "
            "MODEL.SWIN.WINDOW_SIZE 12",
            {"MODEL.BACKBONE.VARIANT": "base_384"},
        ),
        (SWIN, "MODEL.SWIN.EMBED_DIM 96", {}),
        (SWIN, "MODEL.SWIN.DROP_PATH_RATE 0.2", {"MODEL.BACKBONE.DROP_PATH_RATE": 0.2}),
        (SWIN, "MODEL.SWIN.DROP_PATH_RATE 0", {"MODEL.BACKBONE.DROP_PATH_RATE": 0.0}),
        (SWIN, "MODEL.SWIN.USE_CHECKPOINT True", {"MODEL.BACKBONE.CHECKPOINT": True}),
        (MASK2FORMER, "INPUT.IMAGE_SIZE 640", {"INPUT.LSJ_SIZE": 640}),
        (MASK2FORMER, "INPUT.MIN_SCALE 0.5", {"INPUT.LSJ_SCALE": (0.5, 2.0)}),
        (MASK2FORMER, "INPUT.MAX_SCALE 1.5 INPUT.MIN_SCALE 0.5", {"INPUT.LSJ_SCALE": (0.5, 1.5)}),
        (MASKFORMER, "INPUT.COLOR_AUG_SSD False", {"INPUT.COLOR_AUG": False}),
        (
            MASKFORMER,
            "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA 0.75",
            {"INPUT.CROP_SINGLE_CATEGORY_MAX": 0.75},
        ),
        (MASKFORMER, "INPUT.SIZE_DIVISIBILITY -1", {"INPUT.PAD_TO_CROP": False}),
        (MASKFORMER, "INPUT.SIZE_DIVISIBILITY 512", {}),
        (MASKFORMER, "INPUT.SIZE_DIVISIBILITY 0", {"INPUT.PAD_TO_CROP": False}),
        (
            MASK2FORMER,
            "INPUT.DATASET_MAPPER_NAME coco_instance_lsj",
            {"TASK": "instance", "TEST.TASKS": ("instance",), "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 80},
        ),
        (MASK2FORMER, "INPUT.DATASET_MAPPER_NAME detr_panoptic", {"INPUT.AUGMENTATION": "detr"}),
        (MASK2FORMER, "MODEL.MASK_FORMER.TEST.SEMANTIC_ON False", {"TEST.TASKS": ("panoptic",)}),
        (
            MASK2FORMER,  # beside the task that the other key chooses
            "INPUT.DATASET_MAPPER_NAME coco_instance_lsj MODEL.MASK_FORMER.TEST.SEMANTIC_ON True",
            {
                "TASK": "instance",
                "TEST.TASKS": ("semantic", "instance"),
                "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 80,
            },
        ),
        (
            MASK2FORMER,
            "MODEL.MASK_FORMER.TEST.INSTANCE_ON True",
            {"TEST.TASKS": ("panoptic", "semantic", "instance")},
        ),
        (
            MASKFORMER,
            "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE True",
            {"MODEL.MASK_FORMER.TEST.SEMANTIC_RESIZING": "masks"},
        ),
        (MASKFORMER, "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE False", {}),
        (
            MASK2FORMER,
            "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES ['res4','res5']",
            {"MODEL.MASK_FORMER.DEFORMABLE_FEATURES": ("res4", "res5")},
        ),
        (
            MASK2FORMER,
            "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS 8",
            {"MODEL.MASK_FORMER.DEFORMABLE_POINTS": 8},
        ),
        (
            MASKFORMER,
            "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME TransformerEncoderPixelDecoder",
            {"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "TransformerFPNPixelDecoder"},
        ),
        (  # which has no encoder
            MASKFORMER,
            "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS 4",
            {},
        ),
        (MASK2FORMER, "SOLVER.OPTIMIZER ADAMW", {}),
        (MASK2FORMER, "MODEL.MASK_FORMER.ENC_LAYERS 0", {}),
        # Detectron2's own model with its own keys, and what a private package reads.
        (
            MASK2FORMER,
            "MODEL.META_ARCHITECTURE SemanticSegmentor MODEL.RETINANET.NUM_CONVS 2",
            {"MODEL.META_ARCHITECTURE": "SemanticSegmentor", "MODEL.RETINANET.NUM_CONVS": 2},
        ),
        (
            MASK2FORMER,
            "IMPORTS ('json',) MODEL.FPN.OUT_CHANNELS 128",
            {"IMPORTS": ("json",), "MODEL.FPN.OUT_CHANNELS": 128},
        ),
    ],
)
def test_a_key_that_means_the_same_is_translated(leaf, overrides, expected):
    assert changes(leaf, *overrides.split()) == expected


# Overrides that are refused, what the line says, and overrides that follow its advice.
REFUSED = [
    (MASK2FORMER, "MODEL.RESNETS.DEPTH 102", "known depths: 18, 34, 50, 101, 152", "MODEL.RESNETS.DEPTH 152"),
    (
        SWIN,
        "MODEL.RESNETS.DEPTH 101",
        "no effect for SwinTransformer; set MODEL.BACKBONE.NAME ResNetBackbone",
        "",
    ),
    (
        "panoptic/shapes/mask2former_r18_quarter",
        "MODEL.RESNETS.DEPTH 50",
        "no effect for MODEL.BACKBONE.VARIANT r18_quarter; set MODEL.BACKBONE.VARIANT",
        "MODEL.BACKBONE.VARIANT r50",
    ),
    (
        MASK2FORMER,
        "MODEL.RESNETS.STEM_OUT_CHANNELS 32",
        "MODEL.RESNETS.STEM_OUT_CHANNELS 32 has no effect here",
        "MODEL.RESNETS.STEM_OUT_CHANNELS 64",
    ),
    (
        MASK2FORMER,
        "MODEL.RESNETS.RES4_DILATION 2",
        "MODEL.RESNETS.RES4_DILATION 2 has no effect here; set MODEL.BACKBONE.OUTPUT_STRIDE 16 or 8",
        "MODEL.BACKBONE.OUTPUT_STRIDE 16",
    ),
    (
        MASK2FORMER,
        "MODEL.RESNETS.STEM_TYPE deeplab",
        "MODEL.BACKBONE.VARIANT r101c is DeepLab's",
        "MODEL.BACKBONE.VARIANT r101c",
    ),
    (
        MASK2FORMER,
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE [True,True]",
        "is not four values, for res2 to res5; use (False, False, True, True)",
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE (False,False,True,True)",
    ),
    (
        MASK2FORMER,
        "MODEL.RESNETS.NUM_GROUPS 32",
        "in ResNetBackbone; 1 has, or set MODEL.BACKBONE.NAME build_resnet_backbone, which reads it",
        "MODEL.RESNETS.NUM_GROUPS 32 MODEL.BACKBONE.NAME build_resnet_backbone",
    ),
    (
        SWIN,
        "MODEL.SWIN.EMBED_DIM 128",
        "set MODEL.BACKBONE.VARIANT base or base_384",
        "MODEL.BACKBONE.VARIANT base_384",
    ),
    (
        "panoptic/shapes/mask2former_r18_quarter",
        "MODEL.BACKBONE.NAME build_resnet_backbone",
        "ResNetBackbone is the same network: set MODEL.BACKBONE.NAME ResNetBackbone",
        "MODEL.BACKBONE.NAME ResNetBackbone",
    ),
    (
        SWIN,
        "MODEL.BACKBONE.NAME build_resnet_backbone",
        "set MODEL.BACKBONE.NAME ResNetBackbone MODEL.BACKBONE.VARIANT r50",
        "MODEL.BACKBONE.NAME ResNetBackbone MODEL.BACKBONE.VARIANT r50",
    ),
    (
        MASK2FORMER,
        "MODEL.BACKBONE.NAME build_resnet_deeplab_backbone",
        "set MODEL.BACKBONE.NAME ResNetBackbone MODEL.BACKBONE.VARIANT r101c",
        "MODEL.BACKBONE.NAME ResNetBackbone MODEL.BACKBONE.VARIANT r101c",
    ),
    (MASK2FORMER, "MODEL.SWIN.EMBED_DIM 96", "set MODEL.BACKBONE.NAME SwinTransformer", ""),
    (SWIN, "MODEL.SWIN.APE True", "has no counterpart in SwinTransformer; leave it out", ""),
    (
        MASK2FORMER,
        "MODEL.BACKBONE.VARIANT r50 MODEL.RESNETS.DEPTH 101",
        "MODEL.BACKBONE.VARIANT and MODEL.RESNETS.DEPTH are the same here; leave one of them out",
        "MODEL.RESNETS.DEPTH 101",
    ),
    (
        MASK2FORMER,
        "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS 4",
        "set MODEL.MASK_FORMER.NHEADS for both",
        "MODEL.MASK_FORMER.NHEADS 4",
    ),
    (
        MASK2FORMER,
        "MODEL.MASK_FORMER.ENC_LAYERS 6",
        "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS encodes res5",
        "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME TransformerFPNPixelDecoder "
        "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS 6",
    ),
    (
        MASK2FORMER,
        "MODEL.MASK_FORMER.TEST.PANOPTIC_ON False MODEL.MASK_FORMER.TEST.SEMANTIC_ON False",
        "leaves no task to evaluate; set TEST.TASKS \"('panoptic',)\"",
        "TEST.TASKS ('panoptic',)",
    ),
    (
        MASKFORMER,
        "INPUT.SIZE_DIVISIBILITY 640",
        "training images are padded to INPUT.CROP_SIZE (512, 512)",
        "INPUT.CROP_SIZE (640,640)",
    ),
    (
        MASK2FORMER,
        "INPUT.DATASET_MAPPER_NAME coco_instances",
        "known: mask_former_semantic, mask_former_panoptic, mask_former_instance, detr_panoptic, "
        "coco_panoptic_lsj, coco_instance_lsj",
        "INPUT.DATASET_MAPPER_NAME coco_instance_lsj",
    ),
    (PIXELS, "MODEL.SEM_SEG_HEAD.LOSS_TYPE hard_pixel_mining", "MODEL.SEM_SEG_HEAD.LOSS.NAME is", ""),
    (PIXELS, "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS [6,12,18]", "set MODEL.DEEPLABV3.DILATIONS", ""),
    (
        MASK2FORMER,
        "INPUT.IMAGE_SIZE big",
        "INPUT.IMAGE_SIZE is big (str); expected an integer",
        "INPUT.IMAGE_SIZE 512",
    ),
    (
        MASK2FORMER,  # in YAML it would be False; a text would count as True
        "MODEL.MASK_FORMER.TEST.SEMANTIC_ON false",
        "MODEL.MASK_FORMER.TEST.SEMANTIC_ON is false (str); expected True or False, such as True",
        "MODEL.MASK_FORMER.TEST.SEMANTIC_ON False",
    ),
    (MASKFORMER, "INPUT.SIZE_DIVISIBILITY none", "is none (str); expected an integer, such as -1", ""),
    (MASKFORMER, "INPUT.SIZE_DIVISIBILITY None", "has no value; give it one such as -1, or leave", ""),
    (MASK2FORMER, "INPUT.DATASET_MAPPER_NAME []", "is [] (list); expected a string, such as mask_", ""),
    (MASK2FORMER, "MODEL.MASK_FORMER.DEC_LAYERS None", "MODEL.MASK_FORMER.DEC_LAYERS has no value", ""),
    (MASK2FORMER, "MODEL.MASK_ON True", "MODEL.MASK_ON True has no effect in segzoo; TEST.TASKS says", ""),
    (MASK2FORMER, "MODEL.ROI_HEADS.NUM_CLASSES 5", "the classes follow from the dataset, DATASETS.TRAIN", ""),
    (MASK2FORMER, "MODEL.RPN.NMS_THRESH 0.5", "and MODEL.META_ARCHITECTURE is MaskFormer", ""),
    (MASK2FORMER, "MODEL.FPN.OUT_CHANNELS 128", "ResNetBackbone has no FPN", ""),
    (
        MASK2FORMER,
        "MODEL.PIXEL_MEAN [103.53,116.28,123.675]",
        "it is in BGR order, INPUT.FORMAT is RGB; give [123.675, 116.28, 103.53]",
        "MODEL.PIXEL_MEAN [103.53,116.28,123.675] INPUT.FORMAT BGR",
    ),
    (
        MASK2FORMER,
        "DATASETS.TEST ('coco_2017_val_panoptic_stuffonly',)",
        "without the class metadata that segzoo needs; describe it",
        "",
    ),
    (
        "instance/coco/mask2former_r50",
        "DATASETS.TEST ('coco_2017_val',)",
        "; coco_2017_val_instances is the same dataset here",
        "DATASETS.TEST ('coco_2017_val_instances',)",
    ),
    (
        MASK2FORMER,
        "MODEL.MASK_FORMER.TEST.SEMANTIC_OF False",
        "did you mean MODEL.MASK_FORMER.TEST.SEMANTIC_ON?",
        "",
    ),
    (MASK2FORMER, "INPUT.IMAGE_SIZE", "'INPUT.IMAGE_SIZE' has no value", ""),
]


def test_a_common_section_does_not_make_keys_similar():
    """A wrong hint is worse than none."""
    with pytest.raises(InputError, match=r"unknown key INPUT.POINT_SUP$"):
        load_config(MASK2FORMER, ["INPUT.POINT_SUP", "True"])


@pytest.mark.parametrize(("leaf", "overrides", "message", "remedy"), REFUSED)
def test_a_key_that_means_something_else_is_refused(leaf, overrides, message, remedy):
    with pytest.raises(InputError) as caught:
        load_config(leaf, overrides.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    load_config(leaf, remedy.split())


def test_decoder_layers_in_mask2formers_count_are_not_taken_for_ours(tmp_path, caplog):
    key = "MODEL.MASK_FORMER.DEC_LAYERS"
    with pytest.raises(
        InputError, match=r"DEC_LAYERS 10: Mask2Former also counts .* its 10 is 9 here.* YAML file"
    ):
        load_config(MASK2FORMER, [key, "10"])
    assert not caplog.records
    file = tmp_path / "ten.yaml"
    file.write_text(
        f"_BASE_: {REPOSITORY}/configs/{MASK2FORMER}.yaml\nMODEL:\n  MASK_FORMER:\n    DEC_LAYERS: 10\n"
    )
    assert load_config(file).MODEL.MASK_FORMER.DEC_LAYERS == 10
    with caplog.at_level(logging.WARNING):
        assert load_config(MASK2FORMER, [key, "7"]).MODEL.MASK_FORMER.DEC_LAYERS == 7
        assert "7 decoder layers; Mask2Former" in caplog.text
        assert "has 8" in caplog.text
    caplog.clear()
    # The decoder is another one than before: nothing to mistake.
    decoder = ["MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder"]
    assert load_config(MASKFORMER, [*decoder, key, "7"]).MODEL.MASK_FORMER.DEC_LAYERS == 7
    # MaskFormer counts as here.
    assert load_config(MASKFORMER, [key, "7"]).MODEL.MASK_FORMER.DEC_LAYERS == 7
    assert load_config(MASK2FORMER, [key, "9"]).MODEL.MASK_FORMER.DEC_LAYERS == 9
    assert not caplog.records


def table_of_the_document():
    """The rows below "### Renamed keys" of COMING_FROM.md, cell by cell."""
    text = (REPOSITORY / "COMING_FROM.md").read_text().partition("### Renamed keys")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_document_has_the_table_of_the_code():
    expected = [[", ".join(f"`{key}`" for key in row.keys), row.here or "none", row.note] for row in ROWS]
    assert table_of_the_document() == expected


def test_the_document_names_keys_that_exist_here():
    known = dict(flatten(load_config(MASK2FORMER)))
    for _, here, note in table_of_the_document():
        names = re.findall(r"`([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*)[ `]", f"{here} {note}")
        assert all(name in known for name in names if name != "APE"), names


def test_a_key_has_one_row():
    keys = [key for row in ROWS for key in row.keys]
    assert len(keys) == len(set(keys))


def test_names_of_this_package_are_those_of_the_registries():
    def ours(registry):
        return sorted(name for name, part in registry if part.__module__.startswith("segzoo."))

    assert ours(BACKBONE_REGISTRY) == sorted(OUR_BACKBONES)
    assert ours(META_ARCH_REGISTRY) == sorted(OUR_ARCHITECTURES)
    sizes = {
        name: (variant.embed_dim, variant.depths, variant.num_heads, variant.window_size)
        for name, variant in VARIANTS.items()
    }
    assert sizes == SWIN_VARIANTS


# Read by Detectron2's code, which this package calls, or of no meaning.
READ_ELSEWHERE = {
    "VERSION",
    "GLOBAL.HACK",
    "SOLVER.REFERENCE_WORLD_SIZE",  # DefaultTrainer.auto_scale_workers
    "TEST.PRECISE_BN.NUM_ITER",
    "FLOAT32_PRECISION",
}


def test_every_key_of_detectron2_is_read_or_refused():
    sources = [
        file.read_text()
        for folder in ("segzoo", "projects")
        for file in (REPOSITORY / folder).rglob("*.py")
        if "config" not in file.relative_to(REPOSITORY).parts
    ]
    words = set(re.findall(r"[A-Z][A-Z0-9_]+", " ".join(sources)))
    values = dict(flatten(load_config(MASK2FORMER)))
    silent = [
        key
        for key in dict(flatten(get_cfg()))
        if not why_unread(key, values) and key.rsplit(".", 1)[-1] not in words and key not in READ_ELSEWHERE
    ]
    assert not silent
