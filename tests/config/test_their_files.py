"""Configuration files of MaskFormer and Mask2Former load as they are, and give what the zoo's leaf gives."""

import re
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog

from segzoo.config.arithmetic import expand_expressions
from segzoo.config.files import find_config
from segzoo.config.keys import flatten
from segzoo.config.renamed.code_bases import MASK2FORMER as MASK2FORMER_CODE
from segzoo.config.renamed.table import CONVERTED
from segzoo.config.renamed.training import DATASETS, WEIGHTS
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.config.their_files import (
    DETECTORS,
    FILES,
    MASK2FORMER,
    MASKFORMER,
    RESNET,
    data,
    head,
    nested,
    write_their_file,
)

# Keys of the leaf that their files do not have: model_best.pth has no counterpart there.
NOT_THEIRS = {"TEST.BEST_METRIC"}
# Without effect on that model or training, and other there.
WITHOUT_EFFECT = {
    "panoptic/coco/mask2former_r50": {"INPUT.MIN_SIZE_TRAIN"},
    "panoptic/coco/mask2former_swin_large_in21k_100ep": {"INPUT.MIN_SIZE_TRAIN"},
    "semantic/ade20k/per_pixel_baseline_plus_r50": {"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"},
}


def as_lists(value):
    return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def differences(cfg, other):
    one, two = dict(flatten(cfg)), dict(flatten(other))
    assert one.keys() == two.keys()
    return {key: (one[key], two[key]) for key in one if as_lists(one[key]) != as_lists(two[key])}


# Keys of Detectron2's detectors that have no effect on them, and what every leaf of a dataset has.
NOT_OF_DETECTORS = re.compile(
    r"MODEL\.SEM_SEG_HEAD\.|SOLVER\.CLIP_GRADIENTS\.CLIP_|TEST\.(BEST_METRIC|EVAL_PERIOD)$"
)


@pytest.mark.parametrize("leaf", DETECTORS)
def test_a_published_file_of_a_detector_equals_the_leaf(leaf, tmp_path):
    cfg = load_config(write_their_file(tmp_path / "theirs.yaml", *DETECTORS[leaf]))
    expected = load_config(leaf)
    assert not cfg.SOLVER.CLIP_GRADIENTS.ENABLED
    if cfg.MODEL.NECK.NAME:  # empty: all of the backbone's maps
        assert list(cfg.MODEL.FPN.IN_FEATURES) == list(expected.MODEL.BACKBONE.OUT_FEATURES)
        expected.MODEL.FPN.IN_FEATURES = cfg.MODEL.FPN.IN_FEATURES
    different = differences(cfg, expected)
    assert {key: pair for key, pair in different.items() if not NOT_OF_DETECTORS.match(key)} == {}


@pytest.mark.parametrize("leaf", FILES)
def test_a_published_file_equals_the_leaf(leaf, tmp_path):
    cfg = load_config(write_their_file(tmp_path / "theirs.yaml", *FILES[leaf]))
    different = differences(cfg, load_config(leaf))
    assert not different.keys() - NOT_THEIRS - WITHOUT_EFFECT.get(leaf, set()), different


def test_a_saved_configuration_equals_the_leaf(tmp_path):
    """Their config.yaml has every key, defaults of detectors and of unused backbones included."""
    leaf = "panoptic/coco/mask2former_r50"
    complete = {**dict(flatten(get_cfg())), **MASK2FORMER_CODE.keys}
    for part in FILES[leaf]:
        complete |= part
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(nested(as_plain(complete))))
    cfg = load_config(tmp_path / "config.yaml", ["OUTPUT_DIR", ""])
    assert differences(cfg, load_config(leaf)).keys() <= NOT_THEIRS | WITHOUT_EFFECT[leaf]


def as_plain(values):
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def test_base_files_are_merged_before_conversion(tmp_path):
    *parts, last = FILES["semantic/ade20k/mask2former_r101"]
    write_their_file(tmp_path / "Base.yaml", *parts)
    file = write_their_file(tmp_path / "theirs.yaml", last, base="Base.yaml")
    assert (
        differences(load_config(file), load_config("semantic/ade20k/mask2former_r101")).keys() <= NOT_THEIRS
    )


def test_defaults_are_those_of_their_code(tmp_path):
    """A file says what differs from Detectron2's and MaskFormer's defaults, which are others than here."""
    file = write_their_file(
        tmp_path / "theirs.yaml",
        {key: value for key, value in RESNET.items() if not key.startswith(("MODEL.PIXEL", "INPUT.FORMAT"))},
        head(150),
        MASKFORMER,
        data("ade20k_sem_seg_{}", "mask_former_semantic"),
    )
    cfg = load_config(file)
    assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN) == ("BGR", [103.53, 116.28, 123.675])
    assert cfg.MODEL.PIXEL_STD == [1.0, 1.0, 1.0]
    assert (cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.STEPS) == ("WarmupMultiStepLR", (30000,))
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR) == (1000, 0.001)
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BACKBONE_MULTIPLIER) == ("AdamW", 0.1)
    assert not cfg.SOLVER.CLIP_GRADIENTS.ENABLED
    assert (cfg.INPUT.CROP_SIZE, cfg.INPUT.COLOR_AUG) == ((), False)
    assert cfg.MODEL.MASK_FORMER.MASK_LOSS == "focal"


def test_overrides_are_converted_with_their_file(tmp_path):
    leaf = "panoptic/coco/mask2former_r50"
    file = write_their_file(tmp_path / "theirs.yaml", *FILES[leaf])
    words = {
        "MODEL.MASK_FORMER.DEC_LAYERS": "7",
        "MODEL.RESNETS.DEPTH": "101",
        "INPUT.RANDOM_FLIP": "none",
        "SOLVER.IMS_PER_BATCH": "8",
        "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": "False",
        "TEST.IMS_PER_BATCH": "2",
    }
    changed = differences(
        load_config(file, [word for pair in words.items() for word in pair]), load_config(file)
    )
    assert {key: new for key, (new, _) in changed.items()} == {
        "MODEL.MASK_FORMER.DEC_LAYERS": 6,
        "MODEL.BACKBONE.VARIANT": "r101",
        "INPUT.FLIP_PROB": 0.0,
        "SOLVER.IMS_PER_BATCH": 8,
        "TEST.TASKS": ("panoptic",),
        "TEST.IMS_PER_BATCH": 2,
    }


def test_decoder_layers_are_mask2formers_count_only_in_its_decoder(tmp_path):
    parts = FILES["panoptic/coco/mask2former_r50"]
    plain = {
        "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "StandardTransformerDecoder",
        "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "transformer_encoder",
    }
    cfg = load_config(write_their_file(tmp_path / "masked.yaml", *parts))
    assert cfg.MODEL.MASK_FORMER.DEC_LAYERS == 9
    cfg = load_config(write_their_file(tmp_path / "plain.yaml", *parts, plain))
    assert cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME == "MaskFormerTransformerDecoder"
    assert cfg.MODEL.MASK_FORMER.DEC_LAYERS == 10
    # A per-pixel model has MaskFormer's decoder, whatever the name says.
    pixels = {
        "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL.SEM_SEG_HEAD.NAME": "PerPixelBaselinePlusHead",
    }
    parts = FILES["semantic/ade20k/mask2former_r101"]
    cfg = load_config(write_their_file(tmp_path / "pixels.yaml", *parts, pixels))
    assert cfg.MODEL.MASK_FORMER.DEC_LAYERS == 10


def test_a_file_with_one_key_of_mask2former_has_its_defaults(tmp_path):
    """The name of the decoder, which is a key here, too."""
    values = {"MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder"}
    plain = (RESNET, head(150), data("ade20k_sem_seg_{}", "mask_former_semantic"))
    cfg = load_config(write_their_file(tmp_path / "theirs.yaml", *plain, values))
    assert cfg.MODEL.MASK_FORMER.MASK_LOSS == "bce"
    assert cfg.MODEL.MASK_FORMER.DEC_LAYERS == 5  # 6 there
    cfg = load_config(write_their_file(tmp_path / "theirs.yaml", *plain))
    assert cfg.MODEL.MASK_FORMER.MASK_LOSS == "focal"
    assert cfg.MODEL.MASK_FORMER.CLASS_WEIGHT == 1.0
    assert not cfg.MODEL.MASK_FORMER.TEST.CONFIDENT_PIXELS_ONLY


def test_padding_of_their_networks_is_that_of_the_backbone(tmp_path):
    """-1 stands for 32 in their Swin Transformer and for 0 in Detectron2's ResNet."""
    key = "MODEL.MASK_FORMER.SIZE_DIVISIBILITY"
    for leaf, expected in (
        ("semantic/ade20k/maskformer_r50", 0),
        ("semantic/ade20k/maskformer_swin_tiny", 32),
    ):
        cfg = load_config(write_their_file(tmp_path / "theirs.yaml", *FILES[leaf], {key: -1}))
        assert expected == cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY


def test_a_pixel_decoder_without_an_encoder_has_no_layers(tmp_path):
    plain = {"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "BasePixelDecoder"}
    plain |= {"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "res5"}
    file = write_their_file(tmp_path / "theirs.yaml", *FILES["panoptic/ade20k/maskformer_r101"], plain)
    assert load_config(file).MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS == 0


def test_images_are_flipped_by_the_mappers_that_do_not_read_the_key(tmp_path):
    for leaf, expected in (("semantic/ade20k/maskformer_r50", 0.5), ("panoptic/coco/mask2former_r50", 0.0)):
        file = write_their_file(tmp_path / "theirs.yaml", *FILES[leaf], {"INPUT.RANDOM_FLIP": "none"})
        assert expected == load_config(file).INPUT.FLIP_PROB


def test_images_without_instances_are_left_out_for_instances_alone(tmp_path):
    """Their mappers of semantic and panoptic labels have no annotations that could be empty."""
    leaves = (
        "semantic/ade20k/maskformer_r50",
        "panoptic/coco/maskformer_r50",
        "instance/ade20k/mask2former_r50",
    )
    found = [
        load_config(
            write_their_file(tmp_path / "theirs.yaml", *FILES[leaf])
        ).DATALOADER.FILTER_EMPTY_ANNOTATIONS
        for leaf in leaves
    ]
    assert found == [False, False, True]


def test_names_of_datasets_and_files_of_weights_exist_here():
    assert all(name in DatasetCatalog.list() for name in DATASETS.values())
    names = ("tiny", "small", "base", "base_in21k", "large_in21k_100ep")
    leaves = [load_config(f"panoptic/coco/mask2former_swin_{name}") for name in names]
    expected = {cfg.MODEL.WEIGHTS for cfg in leaves}
    assert {url for file, url in WEIGHTS.items() if file.startswith("swin_")} == expected
    stems = {Path(file).stem.removesuffix("_trans"): url for file, url in WEIGHTS.items()}
    assert all(re.search(rf"/{stem}(_\d{{8}}-\w{{8}})?\.(pth|pkl)$", url) for stem, url in stems.items())


@pytest.mark.parametrize(
    ("leaf", "first", "panoptic", "instance", "expected"),
    [
        ("semantic/ade20k/mask2former_r101", False, False, False, ""),  # scores, as the task has it
        ("semantic/ade20k/mask2former_r101", True, False, False, "masks"),
        ("semantic/ade20k/mask2former_r101", False, True, False, "masks"),
        ("panoptic/coco/mask2former_r50", False, True, False, ""),  # masks, as the task has it
        ("panoptic/coco/mask2former_r50", False, False, False, "scores"),
        ("panoptic/coco/mask2former_r50", False, False, True, ""),
    ],
)
def test_what_is_resized_follows_from_three_keys(leaf, first, panoptic, instance, expected, tmp_path):
    section = "MODEL.MASK_FORMER.TEST."
    keys = {
        f"{section}SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": first,
        f"{section}PANOPTIC_ON": panoptic,
        f"{section}INSTANCE_ON": instance,
    }
    cfg = load_config(write_their_file(tmp_path / "theirs.yaml", *FILES[leaf], keys))
    assert expected == cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_RESIZING


def test_local_weights_come_first(tmp_path, monkeypatch):
    parts = FILES["semantic/ade20k/mask2former_r101"]
    monkeypatch.chdir(tmp_path)
    file = write_their_file(tmp_path / "theirs.yaml", *parts)
    assert load_config(file).MODEL.WEIGHTS.startswith("detectron2://")
    (tmp_path / "R-101.pkl").touch()
    assert load_config(file).MODEL.WEIGHTS == "R-101.pkl"


# Their file, what is changed in it, and what the line says.
WITHOUT_COUNTERPART = {
    "video": ({"MODEL.META_ARCHITECTURE": "VideoMaskFormer"}, "'VideoMaskFormer' has no counterpart here"),
    "another model": ({"MODEL.META_ARCHITECTURE": "MaskFormer3D"}, "'MaskFormer3D' has no counterpart here"),
    "mapper": ({"INPUT.DATASET_MAPPER_NAME": "mask_former_depth"}, "'mask_former_depth' has no counterpart"),
    "backbone": (
        {"MODEL.BACKBONE.NAME": "D2FocalNet"},
        "MODEL.BACKBONE.NAME 'D2FocalNet' has no counterpart",
    ),
    "groups": ({"MODEL.RESNETS.NUM_GROUPS": 32}, "MODEL.RESNETS.NUM_GROUPS 32 has no counterpart"),
    "dilation": ({"MODEL.RESNETS.RES5_DILATION": 4}, "MODEL.RESNETS.RES5_DILATION 4 has no effect here"),
    "stride of masks": (
        {"MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 8},
        "COMMON_STRIDE 8 has no counterpart here; 4",
    ),
    "head": (
        {"MODEL.SEM_SEG_HEAD.NAME": "PerPixelBaselineHead"},
        "'PerPixelBaselineHead' has no counterpart with MODEL.META_ARCHITECTURE MaskFormer",
    ),
    "layers": ({"MODEL.MASK_FORMER.DEC_LAYERS": 1}, "DEC_LAYERS 1 includes the prediction before the first"),
    "flip": ({"INPUT.RANDOM_FLIP": "vertical"}, "images are only flipped horizontally"),
    "detr without crops": (
        {"INPUT.DATASET_MAPPER_NAME": "detr_panoptic", "INPUT.CROP.ENABLED": False},
        "INPUT.CROP.ENABLED False has no counterpart: INPUT.AUGMENTATION detr crops",
    ),
    # Values that no code base takes.
    "text": ({"DATASETS.TRAIN": "ade20k"}, "DATASETS.TRAIN is ade20k (str); expected a list, such as ()"),
    "no value": ({"MODEL.WEIGHTS": None}, "MODEL.WEIGHTS has no value; give it one such as ''"),
    "list": ({"MODEL.BACKBONE.NAME": ["D2SwinTransformer"]}, "MODEL.BACKBONE.NAME is ['D2SwinTransformer'] "),
    "number": ({"INPUT.CROP.SIZE": 512}, "INPUT.CROP.SIZE is 512 (int); expected a list, such as [0.9, 0.9]"),
    "layers in a text": (
        {"MODEL.MASK_FORMER.DEC_LAYERS": "ten"},
        "DEC_LAYERS is ten (str); expected an integer",
    ),
    "encoder": ({"MODEL.MASK_FORMER.ENC_LAYERS": 6}, "MODEL.MASK_FORMER.ENC_LAYERS 6 has no counterpart"),
    "padding": ({"INPUT.SIZE_DIVISIBILITY": 640}, "padded to INPUT.CROP_SIZE (512, 512)"),
    "crop": ({"INPUT.CROP.TYPE": "relative"}, "INPUT.CROP.TYPE 'relative' has no counterpart"),
    "heads": (
        {"MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 4},
        "set MODEL.MASK_FORMER.NHEADS for both",
    ),
    "swin": (
        {"MODEL.BACKBONE.NAME": "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM": 97},
        "MODEL.SWIN.EMBED_DIM 97 has no effect alone; set MODEL.BACKBONE.VARIANT",
    ),
    "unknown key": ({"MODEL.MASK_FORMER.TEST.TASK": "semantic"}, "unknown key MODEL.MASK_FORMER.TEST.TASK"),
}


@pytest.mark.parametrize("name", WITHOUT_COUNTERPART)
def test_what_has_no_counterpart_is_one_line(name, tmp_path):
    change, message = WITHOUT_COUNTERPART[name]
    file = write_their_file(tmp_path / "theirs.yaml", *FILES["semantic/ade20k/mask2former_r101"], change)
    with pytest.raises(InputError) as caught:
        load_config(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "set MODEL.BACKBONE.NAME" not in str(caught.value)  # of no use in a file of theirs


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("RESNETS: 50", "unknown key MODEL.RESNETS; give one of its keys"),
        ("MASK_FORMER: ", "unknown key MODEL.MASK_FORMER; give one of its keys"),
        ("BACKBONE: {NAME: {A: 1}}", "unknown key MODEL.BACKBONE.NAME.A; MODEL.BACKBONE.NAME has a value"),
    ],
)
def test_sections_and_values_are_not_mistaken(model, message, tmp_path):
    file = tmp_path / "theirs.yaml"
    file.write_text(f"MODEL:\n  META_ARCHITECTURE: MaskFormer\n  {model}\nINPUT: {{COLOR_AUG_SSD: true}}\n")
    with pytest.raises(InputError) as caught:
        load_config(file)
    assert str(caught.value).startswith(f"{file}: {message}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"MODEL.META_ARCHITECTURE": "GeneralizedRCNN"},
            "MODEL.MASK_ON False has no counterpart here: the model",
        ),
        (
            {"MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.KEYPOINT_ON": True},
            "MODEL.KEYPOINT_ON True has no counterpart here",
        ),
        (
            {
                "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
                "MODEL.MASK_ON": True,
                "MODEL.LOAD_PROPOSALS": True,
            },
            "MODEL.LOAD_PROPOSALS True has no counterpart here",
        ),
        ({"MODEL.META_ARCHITECTURE": "RetinaNet"}, "it is a box detector"),
        ({"MODEL.META_ARCHITECTURE": "PanopticFPN"}, "it is Panoptic FPN"),
        ({"MODEL.META_ARCHITECTURE": "SemanticSegmentor"}, "'SemSegFPNHead' has no counterpart here"),
        (
            {
                "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
                "MODEL.SEM_SEG_HEAD.NAME": "DeepLabV3PlusHead",
                "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": [6, 12, 18],
            },
            "nearest is configs/_base_/methods/deeplabv3plus.yaml",
        ),
        ({"INPUT.DATASET_MAPPER_NAME": "coco_panoptic_lsj"}, "it is a base of other files"),
    ],
)
def test_files_of_detectron2_say_what_has_no_counterpart(values, message, tmp_path):
    with pytest.raises(InputError) as caught:
        load_config(write_their_file(tmp_path / "theirs.yaml", values))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_rcnn_of_detectron2_keeps_its_keys_and_its_defaults(tmp_path):
    values = {
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.MASK_ON": True,
        "MODEL.WEIGHTS": "model_final.pkl",
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.DEPTH": 101,
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "DATASETS.TRAIN": "('coco_2017_train',)",
        "DATASETS.TEST": "('coco_2017_val',)",
        "INPUT.MIN_SIZE_TRAIN": "(640, 800)",
        "SOLVER.BASE_LR": 0.02,
        "SOLVER.STEPS": "(60000, 80000)",
        "SOLVER.MAX_ITER": 90000,
        "VERSION": 2,
    }
    file = write_their_file(tmp_path / "mask_rcnn.yaml", values)
    detectron2 = get_cfg()
    detectron2.merge_from_file(str(file))
    theirs, cfg = dict(flatten(detectron2)), dict(flatten(load_config(file)))
    # The backbone has its keys here; the rest follows from the dataset, or has no effect.
    others = {
        "MODEL.META_ARCHITECTURE": "MaskRCNN",
        "MODEL.BACKBONE.NAME": "ResNetBackbone",
        "OUTPUT_DIR": "",
        "DATASETS.TRAIN": ("coco_2017_train_instances",),
        "DATASETS.TEST": ("coco_2017_val_instances",),
        "DATALOADER.ASPECT_RATIO_GROUPING": False,
    }
    different = {key for key in theirs if as_lists(theirs[key]) != as_lists(cfg[key])}
    different = {key for key in different if not key.startswith(("MODEL.SEM_SEG_HEAD.", "MODEL.RESNETS."))}
    assert {key: cfg[key] for key in different} == others
    here = ("TASK", "INPUT.AUGMENTATION", "INPUT.CROP_SIZE", "INPUT.FLIP_PROB", "SOLVER.OPTIMIZER")
    assert [cfg[key] for key in here] == ["instance", "semantic", (), 0.5, "SGD"]
    here = ("VARIANT", "NORM", "STRIDE_IN_1X1", "FREEZE_AT")
    assert [cfg[f"MODEL.BACKBONE.{key}"] for key in here] == ["r101", "FrozenBN", True, 2]
    assert (cfg["MODEL.NECK.NAME"], cfg["INPUT.MASK_FORMAT"]) == ("FPN", "polygon")
    assert load_config(file, ["INPUT.MASK_FORMAT", "bitmask"]).INPUT.MASK_FORMAT == "bitmask"
    assert load_config(file, ["INPUT.RANDOM_FLIP", "none"]).INPUT.FLIP_PROB == 0.0
    # A key of Detectron2's project DeepLab, which MaskFormer has, too.
    stem = {"MODEL.RESNETS.STEM_TYPE": "basic"}
    assert load_config(write_their_file(file, values, stem)).SOLVER.OPTIMIZER == "SGD"
    with pytest.raises(InputError, match=r"Detectron2 crops before it resizes"):
        load_config(file, ["INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute"])


@pytest.mark.parametrize(
    "change",
    [
        {"MODEL.RESNETS.NUM_GROUPS": 64, "MODEL.RESNETS.WIDTH_PER_GROUP": 4},
        {"MODEL.RESNETS.DEPTH": 152, "MODEL.RESNETS.NUM_GROUPS": 32, "MODEL.RESNETS.WIDTH_PER_GROUP": 8},
        {"MODEL.BACKBONE.NAME": "build_my_backbone"},
    ],
)
def test_a_mask_rcnn_whose_backbone_is_not_here_is_detectron2s_own(change, tmp_path):
    values = write_their_file(tmp_path / "theirs.yaml", *DETECTORS["instance/coco/mask_rcnn_fpn_r50"], change)
    cfg = load_config(values)
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.TASK) == ("GeneralizedRCNN", "instance")
    expected = {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH": 50} | change
    flat = dict(flatten(cfg))
    assert {key: flat[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("build_resnet_fpn_backbone", ("ResNetBackbone", "FPN", "max_pool", "")),
        ("build_retinanet_resnet_fpn_backbone", ("ResNetBackbone", "FPN", "p6p7", "res5")),
    ],
)
def test_a_backbone_with_a_feature_pyramid_is_a_backbone_with_a_neck(name, keys, tmp_path):
    pyramid = {
        "MODEL.BACKBONE.NAME": name,
        "MODEL.RESNETS.DEPTH": 101,
        "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
        "MODEL.FPN.OUT_CHANNELS": 128,
        "MODEL.FPN.NORM": "GN",
    }
    per_pixel = FILES["semantic/ade20k/per_pixel_baseline_plus_r50"]
    cfg = load_config(write_their_file(tmp_path / "theirs.yaml", *per_pixel, pyramid))
    fpn = cfg.MODEL.FPN
    assert keys == (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.NECK.NAME, fpn.TOP_BLOCK, fpn.TOP_IN_FEATURE)
    assert cfg.MODEL.BACKBONE.VARIANT == "r101"
    assert [fpn.OUT_CHANNELS, fpn.NORM, fpn.IN_FEATURES] == [128, "GN", ["res3", "res4", "res5"]]
    with pytest.raises(InputError, match=f"'{name}' has a feature pyramid, which MaskFormer has no place"):
        load_config(
            write_their_file(tmp_path / "other.yaml", *FILES["panoptic/coco/mask2former_r50"], pyramid)
        )


def test_detectron2s_own_models_are_built_where_a_file_of_this_package_names_them(tmp_path):
    values = {"TASK": "instance", "MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.MASK_ON": True}
    cfg = load_config(write_their_file(tmp_path / "ours.yaml", values))
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON) == ("GeneralizedRCNN", True)


def test_what_this_package_saves_is_never_converted(tmp_path):
    leaf = "panoptic/coco/mask2former_r50"
    cfg = load_config(leaf)
    # What an earlier version accepted without effect.
    cfg.MODEL.RESNETS.DEPTH = 101
    cfg.MODEL.RPN.NMS_THRESH = 0.5
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert not differences(load_config(tmp_path / "config.yaml"), cfg)
    with pytest.raises(InputError, match=r"MODEL.RPN.NMS_THRESH 0.6 has no effect"):
        load_config(tmp_path / "config.yaml", ["MODEL.RPN.NMS_THRESH", "0.6"])


def test_single_keys_over_the_zoo_change_its_leaf(tmp_path):
    leaf = "panoptic/coco/mask2former_swin_tiny"
    values = {
        "MODEL.SWIN.DROP_PATH_RATE": 0.1,
        "INPUT.IMAGE_SIZE": 640,
        "MODEL.MASK_FORMER.DEC_LAYERS": 6,
        "SOLVER.OPTIMIZER": "ADAMW",
    }
    file = write_their_file(tmp_path / "mine.yaml", values, base=str(find_config(leaf)))
    changed = differences(load_config(file), load_config(leaf))
    assert {key: new for key, (new, _) in changed.items()} == {
        "MODEL.BACKBONE.DROP_PATH_RATE": 0.1,
        "INPUT.LSJ_SIZE": 640,
        "MODEL.MASK_FORMER.DEC_LAYERS": 6,
    }
    file = write_their_file(tmp_path / "mine.yaml", {"MODEL.SWIN.APE": True}, base=str(find_config(leaf)))
    with pytest.raises(InputError, match=r"mine.yaml: MODEL.SWIN.APE True has no counterpart"):
        load_config(file)


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("MODEL.SWIN.EMBED_DIM", 96, r": MODEL.SWIN.EMBED_DIM by MODEL.BACKBONE.VARIANT"),
        ("MODEL.SWIN.PRETRAIN_IMG_SIZE", 224, r": MODEL.SWIN.PRETRAIN_IMG_SIZE has no counterpart"),
    ],
)
def test_a_key_beside_those_of_segzoo_has_its_remedy(tmp_path, key, value, remedy):
    file = write_their_file(tmp_path / "both.yaml", {key: value, "TASK": "entity"})
    with pytest.raises(InputError, match=remedy):
        load_config(file)


def test_mixed_keys_of_two_code_bases_are_refused(tmp_path):
    """The meaning is ambiguous: DEC_LAYERS 10 would be 10 layers or 9."""
    parts = FILES["panoptic/coco/mask2former_r50"]
    file = write_their_file(tmp_path / "both.yaml", *parts, {"TASK": "entity"})
    with pytest.raises(InputError, match=r"both.yaml: .* is a key of another code base, TASK one of segzoo"):
        load_config(file)
    assert load_config(write_their_file(file, *parts)).TASK == "panoptic"
    ours = {"TASK": "panoptic", "MODEL.META_ARCHITECTURE": "MaskFormer"}
    file = write_their_file(tmp_path / "both.yaml", ours, {"INPUT.COLOR_AUG_SSD": True})
    with pytest.raises(InputError, match=r"INPUT.COLOR_AUG_SSD by INPUT.COLOR_AUG$"):
        load_config(file)
    assert load_config(write_their_file(file, ours, {"INPUT.COLOR_AUG": True})).INPUT.COLOR_AUG


def test_a_published_file_is_trained_on_another_dataset_and_task(tmp_path):
    file = write_their_file(tmp_path / "theirs.yaml", *FILES["panoptic/coco/mask2former_r50"])
    words = ["DATASETS.TRAIN", "('shapes_train',)", "DATASETS.TEST", "('shapes_val',)", "DATASETS.FILES"]
    words += ["('shapes',)", "TASK", "entity", "TEST.TASKS", "('entity',)"]
    with pytest.raises(InputError, match=r"NUM_CLASSES=133 but shapes_train has 1 .* or set it to 0"):
        load_config(file, words)
    cfg = load_config(file, [*words, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "0"])
    assert (cfg.TASK, cfg.DATASETS.TRAIN, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (
        "entity",
        ("shapes_train",),
        1,
    )


def test_a_key_and_its_counterpart_with_another_value_are_refused(tmp_path):
    """Over the zoo, whose own value of LSJ_SIZE is no value of the user's."""
    base = str(find_config("panoptic/coco/mask2former_r50"))
    theirs = write_their_file(tmp_path / "theirs.yaml", {"INPUT.IMAGE_SIZE": 512}, base=base)
    assert load_config(theirs).INPUT.LSJ_SIZE == 512
    file = write_their_file(tmp_path / "mine.yaml", {"INPUT.LSJ_SIZE": 640, "SEED": 1}, base="theirs.yaml")
    message = r"mine.yaml: INPUT.LSJ_SIZE and INPUT.IMAGE_SIZE are the same here; leave one of them out"
    with pytest.raises(InputError, match=message):
        load_config(file)
    write_their_file(file, {"INPUT.LSJ_SIZE": 512}, base="theirs.yaml")
    assert load_config(file).INPUT.LSJ_SIZE == 512


def test_detectron2s_own_backbone_over_the_zoo_has_its_keys(tmp_path):
    values = {"MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.RESNETS.DEPTH": 101}
    base = str(find_config("panoptic/coco/mask2former_r50"))
    file = write_their_file(tmp_path / "mine.yaml", values, base=base)
    cfg = load_config(file)
    assert (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.DEPTH) == ("build_resnet_backbone", 101)
    with pytest.raises(InputError, match=r"DEPTH 101 has no effect in segzoo; set MODEL.BACKBONE.VARIANT"):
        load_config(file, ["MODEL.BACKBONE.NAME", "SwinTransformer"])


def test_other_keys_of_segzoo_apply_in_a_published_file(tmp_path):
    leaf = "panoptic/coco/mask2former_r50"
    ours = {"TEST.TASKS": "('panoptic',)", "TEST.IMS_PER_BATCH": 4, "INPUT.LSJ_SIZE": 640}
    file = write_their_file(tmp_path / "theirs.yaml", *FILES[leaf], ours)
    different = differences(load_config(file), load_config(leaf))
    assert {
        key: new for key, (new, _) in different.items() if key not in NOT_THEIRS | WITHOUT_EFFECT[leaf]
    } == {
        "TEST.TASKS": ("panoptic",),
        "TEST.IMS_PER_BATCH": 4,
        "INPUT.LSJ_SIZE": 640,
    }


@pytest.mark.parametrize(
    "expression",
    [
        "[int(x * 0.1 * 512) for x in range(5, 21)]",
        "[int(x*0.1*640) for x in range(5, 16)]",
        "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]",
        "[round(640 / x) - 1 for x in (1, 2, 3)]",
    ],
)
def test_computed_lists_are_what_python_computes(expression):
    text = expand_expressions(f'INPUT:\n  SIZES: !!python/object/apply:eval ["{expression}"]  # a comment\n')
    assert yaml.safe_load(text)["INPUT"]["SIZES"] == eval(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('pathlib').Path('proof').touch()",
        "[x for x in open('secret')]",
        "(1).__class__",
        "10 ** 10 ** 10",
        "[x for x in range(10 ** 9)]",
        "[x for x in range(100000)]",
        "[10 ** 5 * [x] for x in range(9)]",
        "[1 / x for x in range(3)]",
        "[x for x in",
    ],
)
def test_nothing_else_is_computed(expression, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("secret")
    file = tmp_path / "theirs.yaml"
    file.write_text(f'INPUT:\n  MIN_SIZE_TRAIN: !!python/object/apply:eval ["{expression}"]\n')
    with pytest.raises(InputError, match="not a valid YAML config"):
        load_config(file)
    assert not (tmp_path / "proof").exists()


def test_every_key_of_their_files_is_known_there():
    """A misspelled key in these tests would otherwise go unnoticed."""
    keys = {**dict(flatten(get_cfg())), **MASK2FORMER_CODE.keys}
    assert MASK2FORMER.keys() <= keys.keys()
    for parts in FILES.values():
        assert not {key for part in parts for key in part} - keys.keys()


def test_every_key_that_they_add_is_known():
    known = dict(flatten(load_config("panoptic/coco/mask2former_r50")))
    assert not MASK2FORMER_CODE.keys.keys() - known.keys() - CONVERTED
