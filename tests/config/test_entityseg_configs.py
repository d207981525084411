"""EntitySeg's own configuration files, written from their keys, give the leaves."""

import pytest

from segzoo.config.files import find_config
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.config.test_their_files import differences
from tests.config.their_files import write_their_file

SHARED = {
    "MODEL.META_ARCHITECTURE": "EntityFPN",
    "MODEL.MASK_ON": False,
    "MODEL.FCOS.NUM_CLASSES": 1,
    "MODEL.CONDINST.CLASS_AGNOSTIC": True,
    "MODEL.CONDINST.TRAIN_MAX_PROPOSALS_PER_IMAGE": 120,
    "MODEL.CONDINST.MASK_BRANCH.SEMANTIC_LOSS_ON": False,
    "MODEL.CONDINST.MASK_BRANCH.IN_FEATURES": ["p3", "p4", "p5"],
    "MODEL.CONDINST.MASK_HEAD.CLUSTER_WEIGHT": 0.5,
    "MODEL.CONDINST.MASK_HEAD.DYNAMIC": ["111", "110", "101", "100", "011", "010", "001"],
    "MODEL.CONDINST.MASK_HEAD.DYNAMIC_WEIGHT": [1.0, 1.0, 1.0, 1.0, 0.25, 0.25, 0.25],
    "DATASETS.TRAIN": "('coco_2017_train_entity',)",
    "DATASETS.TEST": "('coco_2017_val_entity',)",
    "SOLVER.WARMUP_ITERS": 1500,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.STEPS": "(60000, 80000)",
    "SOLVER.MAX_ITER": 90000,
    "SOLVER.CHECKPOINT_PERIOD": 40000,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "INPUT.MIN_SIZE_TRAIN": "(640, 672, 704, 736, 768, 800)",
    "VERSION": 2,
    "TEST.CLASS_AGNOSTIC": True,
}
R50 = {
    **SHARED,
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.WEIGHTS": "pretrained_model/R-50.pkl",
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "SOLVER.BASE_LR": 0.01,
}
THREE = {"SOLVER.STEPS": "(180000, 250000)", "SOLVER.MAX_ITER": 270000}
ADAMW = {"SOLVER.OPTIMIZER": "adamw", "SOLVER.BASE_LR": 0.0001, "SOLVER.WEIGHT_DECAY": 0.05}
SWIN = {
    **SHARED,
    **ADAMW,
    "MODEL.BACKBONE.NAME": "build_retinanet_swin_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": -1,
    "MODEL.SWINT.EMBED_DIM": 96,
    "MODEL.SWINT.PATCH_SIZE": 4,
    "MODEL.SWINT.OUT_FEATURES": ["stage2", "stage3", "stage4", "stage5"],
    "MODEL.SWINT.DEPTHS": [2, 2, 6, 2],
    "MODEL.SWINT.NUM_HEADS": [3, 6, 12, 24],
    "MODEL.SWINT.WINDOW_SIZE": 7,
    "MODEL.SWINT.MLP_RATIO": 4,
    "MODEL.SWINT.DROP_PATH_RATE": 0.2,
    "MODEL.SWINT.APE": False,
    "MODEL.WEIGHTS": "pretrained_model/swin_tiny_patch4_window7_224_trans.pth",
    "MODEL.FPN.IN_FEATURES": ["stage2", "stage3", "stage4", "stage5"],
    "MODEL.FPN.TOP_LEVELS": 2,
}
LARGE = {
    "MODEL.SWINT.EMBED_DIM": 192,
    "MODEL.SWINT.DEPTHS": [2, 2, 18, 2],
    "MODEL.SWINT.NUM_HEADS": [6, 12, 24, 48],
    "MODEL.WEIGHTS": "pretrained_model/swin_large_patch4_window7_224_22k_trans.pth",
}
MIT = {
    **SHARED,
    **ADAMW,
    "MODEL.BACKBONE.NAME": "build_retinanet_mit_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": -1,
    "MODEL.MIT_BACKBONE.NAME": "b0",
    "MODEL.WEIGHTS": "pretrained_model/mit_b0_trans.pth",
    "MODEL.FPN.IN_FEATURES": ["mit1", "mit2", "mit3", "mit4"],
    "MODEL.FPN.TOP_LEVELS": 2,
}
B5 = {
    "MODEL.MIT_BACKBONE.NAME": "b5",
    "MODEL.WEIGHTS": "pretrained_model/mit_b5_trans.pth",
    "MODEL.CONDINST.TRAIN_MAX_PROPOSALS_PER_IMAGE": 80,
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.STEPS": "(120000, 160000)",
    "SOLVER.MAX_ITER": 180000,
}
BASELINE = {
    "MODEL.CONDINST.MASK_HEAD.CLUSTER_WEIGHT": 0.0,
    "MODEL.CONDINST.MASK_HEAD.DYNAMIC_WEIGHT": [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
}
R101 = {"MODEL.RESNETS.DEPTH": 101, "MODEL.WEIGHTS": "pretrained_model/R-101.pkl"}
DCN = {"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True], "MODEL.RESNETS.DEFORM_MODULATED": True}
FILES = {
    "r50": (R50,),
    "r50_baseline": (R50, BASELINE),
    "r50_3x": (R50, THREE),
    "r101": (R50, R101),
    "r101_dcnv2_3x": (R50, R101, THREE, DCN),
    "swin_tiny": (SWIN,),
    "swin_large_224_in21k": (SWIN, LARGE),
    "mit_b0": (MIT,),
    "mit_b5": (MIT, B5),
}
# How often a model is saved and evaluated; the kind of the clipping, which is off.
NOT_THEIRS = {
    *("SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD", "TEST.BEST_METRIC"),
    *("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_leaf(name, tmp_path):
    cfg = load_config(write_their_file(tmp_path / "theirs.yaml", *FILES[name]))
    different = differences(cfg, load_config(f"entity/coco/entityseg_{name}"))
    if name == "r50_baseline":  # paths of weight 0 are not computed
        pairs = different.pop("MODEL.ENTITYSEG.PATH_WEIGHTS")
        assert [{path: weight for path, weight in one if weight} for one in pairs] == [{"111": 1.0}] * 2
    different = {key: value for key, value in different.items() if key not in NOT_THEIRS}
    # Heads that the model does not have.
    assert {key: value for key, value in different.items() if not key.startswith("MODEL.SEM_SEG_HEAD.")} == {}
    assert not cfg.SOLVER.CLIP_GRADIENTS.ENABLED


def test_without_its_optimizer_a_file_has_the_one_of_their_code(tmp_path):
    values = {key: value for key, value in SWIN.items() if key != "SOLVER.OPTIMIZER"}
    cfg = load_config(write_their_file(tmp_path / "theirs.yaml", values, LARGE, THREE))
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR) == ("SGD", 0.0001)


def test_the_keys_of_their_demo_and_test_are_converted_with_the_file(tmp_path):
    file = write_their_file(tmp_path / "theirs.yaml", R50)
    rescore = ["MODEL.CONDINST.MASK_BRANCH.USE_MASK_RESCORE", "True", "MODEL.FCOS.POST_NMS_TOPK_TEST", "50"]
    cfg = load_config(file, rescore)
    assert cfg.MODEL.ENTITYSEG.TEST.MASK_RESCORE
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 50
    cfg = load_config("entity/coco/entityseg_r50", rescore)
    assert cfg.MODEL.ENTITYSEG.TEST.MASK_RESCORE
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 50
    assert load_config(file, ["INPUT.RANDOM_FLIP", "none"]).INPUT.FLIP_PROB == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MODEL.FCOS.LOC_LOSS_TYPE": "iou"}, "LOC_LOSS_TYPE 'iou' has no counterpart in EntitySeg here"),
        (
            {"MODEL.META_ARCHITECTURE": "EntityFPNRLE"},
            "known: EntityFPN, GeneralizedRCNN, MaskFormer, SemanticSegmentor",
        ),
        ({"MODEL.FCOS.NUM_CLS_CONVS": 2}, "both towers have MODEL.ENTITYSEG.NUM_CONVS"),
        ({"MODEL.FCOS.SIZES_OF_INTEREST": [[-1, 64], [32, 128]]}, "ranges that follow one another have"),
        ({"MODEL.CONDINST.MASK_HEAD.DYNAMIC": ["111"]}, "set MODEL.ENTITYSEG.PATH_WEIGHTS"),
    ],
)
def test_what_has_no_counterpart_is_one_line(change, message, tmp_path):
    with pytest.raises(InputError) as caught:
        load_config(write_their_file(tmp_path / "theirs.yaml", R50, change))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_their_keys_beside_segzoo_s_are_refused(tmp_path):
    file = write_their_file(tmp_path / "mixed.yaml", R50, {"TASK": "entity"})
    with pytest.raises(InputError, match="is a key of another code base, TASK one of segzoo"):
        load_config(file)
    base = str(find_config("entity/coco/entityseg_swin_tiny"))
    with pytest.raises(InputError, match=r"has no effect here; set MODEL.BACKBONE.VARIANT"):
        load_config(write_their_file(tmp_path / "mine.yaml", {"MODEL.SWINT.EMBED_DIM": 192}, base=base))
