"""A wrong configuration stops with one line that names the key and the remedy."""

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from segzoo.engine import Trainer
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError

LEAF = "semantic/camvid/maskformer_r18"


def write(folder, text):
    file = folder / "config.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DATASETS:\n  VAL: ('x',)\n", "unknown key DATASETS.VAL; did you mean DATASETS.TEST?"),
        ("SOLVER:\n  BASE_RL: 0.1\n", "unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?"),
        ("SOLVER: 3\n", "config.yaml: unknown key SOLVER; give one of its keys"),
        ("MODEL:\n  MASK_FORMER:\n", "unknown key MODEL.MASK_FORMER; give one of its keys"),
        ("INPUT:\n  CROP_SIZE: {HEIGHT: 3}\n", "unknown key INPUT.CROP_SIZE.HEIGHT"),
        ("OUTPUT_DIR:\n", "OUTPUT_DIR has no value"),
        ("DATASETS:\n  FILES: [3]\n", "DATASETS.FILES (3,): expected a list of names"),
        ("DATASETS:\n  TRAIN: [[camvid_train]]\n", "DATASETS.TRAIN (['camvid_train'],): expected a list of"),
        ("IMPORTS:\n", "IMPORTS has no value; give it one such as (), or leave the key out"),
        ("_BASE_:\n", "config.yaml: _BASE_ None: expected a path, or a list of paths"),
        ("_BASE_: [3]\n", "config.yaml: _BASE_ [3]: expected a path, or a list of paths"),
        ("SOLVER:\n  MAX_ITER: many\n", "config.yaml"),
        ("TASK: panoptical\n", "TASK 'panoptical' is unknown; did you mean panoptic?"),
        ("DATASETS:\n  TRAIN: ('camvid_trian',)\n", "'camvid_trian' is unknown; did you mean camvid_train?"),
        ("_BASE_: nothing.yaml\n", "does not exist"),
        ("a: [1\n", "not a valid YAML config"),
        ("TASK: panoptic\nDATASETS:\n  TRAIN: ('camvid_train',)\n", "camvid_train has semantic labels"),
        (
            "MODEL:\n  SEM_SEG_HEAD:\n    NUM_CLASSES: 150\nDATASETS:\n  TRAIN: ('camvid_train',)\n",
            "NUM_CLASSES=150 but camvid_train has 11",
        ),
        (
            "INPUT:\n  CROP:\n    ENABLED: True\n",
            "INPUT.CROP.ENABLED True has no effect in segzoo; INPUT.CROP_SIZE",
        ),
        ("SOLVER:\n  BASE_LR_END: 0.1\n", "SOLVER.POLY_LR_CONSTANT_ENDING is the lowest factor"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        load_config(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.MAX_ITERS", "10"], "unknown key SOLVER.MAX_ITERS; did you mean SOLVER.MAX_ITER?"),
        (["SOLVER.MAX_ITER"], "'SOLVER.MAX_ITER' has no value"),
        (["SOLVER", "1"], "unknown key SOLVER; give one of its keys"),
        (["MODEL.WEIGHTS", "None"], "MODEL.WEIGHTS has no value; give it one such as '', or leave the key"),
        (["IMPORTS", "None"], "IMPORTS has no value"),
        (["IMPORTS", "[3]"], "IMPORTS 3: expected the name of a module, as after Python's import"),
        (["IMPORTS", "('a/b.py',)"], "IMPORTS 'a/b.py': expected the name of a module"),
        (["IMPORTS", "('.private',)"], "IMPORTS '.private': expected the name of a module"),
        (
            ["IMPORTS", "('private_method.py',)"],
            "no module private_method.py in this folder or on PYTHONPATH; give its name without .py",
        ),
        (["SOLVER.MAX_ITER", "ten"], "SOLVER.MAX_ITER"),
        (["INPUT.RANDOM_FLIP", "none"], "INPUT.RANDOM_FLIP 'none' has no effect in segzoo; INPUT.FLIP_PROB"),
        (
            ["DATASETS.TEST", "('ade20k_sem_seg_val',)"],
            "DATASETS.TEST: ade20k_sem_seg_val has other classes than camvid_train (150 instead of 11)",
        ),
        (
            ["DATASETS.TRAIN", "('camvid_train', 'ade20k_sem_seg_train')"],
            "DATASETS.TRAIN: ade20k_sem_seg_train has other classes than camvid_train",
        ),
        (
            ["DATASETS.CLASSES_FROM", "ade20k_sem_seg_val"],
            "DATASETS.TRAIN: camvid_train has other classes than ade20k_sem_seg_val",
        ),
        (["DATASETS.TEST", "('coco_2017_val',)"], "coco_2017_val is a Detectron2 dataset without"),
        (
            ["TEST.TASKS", "('semantic', 'entity')"],
            "TEST.TASKS entity needs panoptic ground truth, but camvid_val has semantic labels",
        ),
    ],
)
def test_a_wrong_override_is_explained(overrides, message):
    with pytest.raises(InputError) as caught:
        load_config(LEAF, overrides)
    assert message in str(caught.value)


def test_keys_below_what_is_a_value_in_a_base_are_explained(tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL: {BACKBONE: {NAME: ResNetBackbone}}\n")
    file = write(tmp_path, "_BASE_: base.yaml\nMODEL: {BACKBONE: {NAME: {DEPTH: 50}}}\n")
    with pytest.raises(InputError, match=r"config.yaml: MODEL.BACKBONE.NAME has keys, and a value in one of"):
        load_config(file)


def test_an_unknown_config_name_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean semantic/camvid/maskformer_r18"):
        load_config("semantic/camvid/maskformer_r81")


def test_values_of_unread_keys_that_are_detectron2s_defaults_are_accepted(tmp_path):
    cfg = load_config(LEAF)
    dumped = tmp_path / "config.yaml"
    dumped.write_text(cfg.dump())
    assert load_config(dumped, ["INPUT.CROP.ENABLED", "False"]).INPUT == cfg.INPUT


def test_classes_are_compared_by_name_but_not_for_entities():
    metadata = MetadataCatalog.get("rugs_val")
    try:
        DatasetCatalog.register("rugs_val", list)
        original = MetadataCatalog.get("coco_2017_val_panoptic")
        metadata.set(classes=[*original.classes[:-1], "rug"], evaluator_type="panoptic")
        overrides = ["DATASETS.TEST", "('rugs_val',)"]
        with pytest.raises(InputError, match="class 132 is 'rug' instead of"):
            load_config("panoptic/coco/maskformer_r50", overrides)
        assert load_config("entity/coco/maskformer_r50", overrides).DATASETS.TEST == ("rugs_val",)
    finally:
        DatasetCatalog.remove("rugs_val")
        MetadataCatalog.remove("rugs_val")


def test_a_panoptic_model_may_be_tested_on_instances_of_its_things():
    """For the published AP of panoptic models, whose ground truth is that of instances."""
    overrides = ["DATASETS.TEST", "('coco_2017_val_instances',)", "TEST.TASKS", "('instance',)"]
    cfg = load_config("panoptic/coco/mask2former_r50", overrides)
    assert (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.TASK) == (133, "panoptic")
    load_config(
        "panoptic/ade20k/mask2former_r50", [*overrides[:1], "('ade20k_instance_val',)", *overrides[2:]]
    )
    with pytest.raises(
        InputError, match=r"ade20k_instance_val has other classes than .* \(100 instead of 80"
    ):
        load_config(
            "panoptic/coco/mask2former_r50", ["DATASETS.TEST", "('ade20k_instance_val',)", *overrides[2:]]
        )
    with pytest.raises(
        InputError, match=r"coco_2017_val_instances has other classes than .* \(80 instead of 133"
    ):
        load_config("panoptic/coco/mask2former_r50", overrides[:2])


def test_an_integer_is_a_valid_learning_rate():
    assert load_config(LEAF, ["SOLVER.BASE_LR", "1"]).SOLVER.BASE_LR == 1.0


def test_later_bases_win_and_the_leaf_wins_over_all(tmp_path):
    (tmp_path / "first.yaml").write_text("SOLVER:\n  MAX_ITER: 1\n  BASE_LR: 0.1\n  WEIGHT_DECAY: 0.5\n")
    (tmp_path / "second.yaml").write_text("SOLVER:\n  MAX_ITER: 2\n  BASE_LR: 0.2\n")
    cfg = load_config(write(tmp_path, "_BASE_: [first.yaml, second.yaml]\nSOLVER:\n  MAX_ITER: 3\n"))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (3, 0.2, 0.5)


def test_classes_and_ignore_label_come_from_the_dataset():
    cfg = load_config(LEAF)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 11
    assert cfg.TEST.TASKS == ("semantic",)
    assert load_config("panoptic/coco/maskformer_r50").MODEL.SEM_SEG_HEAD.NUM_CLASSES == 133
    assert load_config("entity/coco/maskformer_r50").MODEL.SEM_SEG_HEAD.NUM_CLASSES == 1


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("MODEL.META_ARCHITECTURE", "MaskFormer"),
        ("MODEL.BACKBONE.NAME", "SwinTransformer"),
        ("MODEL.SEM_SEG_HEAD.NAME", "MaskFormerHead"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "FPNPixelDecoder"),
        ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MaskFormerTransformerDecoder"),
        ("MODEL.MASK_FORMER.CRITERION_NAME", "SetCriterion"),
    ],
)
def test_an_unknown_part_of_the_model_suggests_the_nearest(key, known):
    cfg = load_config(LEAF, [key, known + "s", "MODEL.DEVICE", "cpu"])
    with pytest.raises(InputError, match=f"{key} '{known}s' is unknown; did you mean {known}"):
        Trainer.build_model(cfg)


@pytest.mark.parametrize(("key", "kind"), [("LOSS_TERMS", "Term"), ("MATCHING_COSTS", "Cost")])
def test_names_of_loss_terms_and_costs_are_checked(key, kind):
    key = f"MODEL.MASK_FORMER.{key}"
    cfg = load_config(LEAF, [key, f"('Class{kind}', 'Mask{kind}s')", "MODEL.DEVICE", "cpu"])
    with pytest.raises(InputError, match=f"{key} 'Mask{kind}s' is unknown; did you mean Mask{kind}"):
        Trainer.build_model(cfg)
    for value in ("()", f"('Class{kind}', 'Class{kind}')"):
        with pytest.raises(InputError, match=rf"{key} \(.*\): expected one or more names, each of them once"):
            load_config(LEAF, [key, value])


def test_a_saved_configuration_with_a_retired_key_loads(tmp_path):
    sections = {"MODEL": {"JPU": {"DILATIONS": [1, 2, 4, 8]}, "BOUNDARY_RELAXED": {"RADIUS": 1}}}
    text = load_config(LEAF).dump()
    document, expected = yaml.safe_load(text), load_config(write(tmp_path, text))
    for name, keys in sections["MODEL"].items():
        document["MODEL"][name] |= keys
    assert load_config(write(tmp_path, yaml.safe_dump(document))) == expected
    by_hand = "MODEL:\n  JPU:\n    DILATIONS: (1, 2, 4, 8)\n"
    assert "DILATIONS" not in load_config(write(tmp_path, by_hand)).MODEL.JPU
    document["MODEL"]["JPU"]["DILATIONS"] = [1, 2]
    message = r"config.yaml: MODEL.JPU.DILATIONS \[1, 2\] cannot be set; it is always \(1, 2, 4, 8\) now"
    with pytest.raises(InputError, match=message):
        load_config(write(tmp_path, yaml.safe_dump(document)))


def test_precise_bn_is_reported_and_not_refused(caplog):
    """Detectron2's SyncBN model was published with it."""
    assert load_config(LEAF, ["TEST.PRECISE_BN.ENABLED", "True"]).TEST.PRECISE_BN.ENABLED
    assert "TEST.PRECISE_BN.ENABLED True has no effect in segzoo; PreciseBN is not run" in caplog.text
    caplog.clear()
    load_config(LEAF)
    assert not caplog.text


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ANCHOR_GENERATOR.SIZES", "[]", "numbers above 0 for each level"),
        ("ANCHOR_GENERATOR.SIZES", "[[32], 64]", "numbers above 0 for each level"),
        ("ANCHOR_GENERATOR.ASPECT_RATIOS", "[]", "numbers above 0 for each level"),
        ("ANCHOR_GENERATOR.ASPECT_RATIOS", "[[]]", "numbers above 0 for each level"),
        ("ANCHOR_GENERATOR.ASPECT_RATIOS", "[[-1.0]]", "numbers above 0 for each level"),
        ("ANCHOR_GENERATOR.OFFSET", "1.0", "from 0 to below 1"),
        ("RPN.CONV_DIMS", "[0]", "at least 1, or -1"),
        ("RPN.BATCH_SIZE_PER_IMAGE", "0", "at least 1"),
        ("RPN.BBOX_REG_LOSS_TYPE", "giu", "did you mean giou?"),
        ("RPN.BBOX_REG_WEIGHTS", "(1.0, 1.0)", "four numbers"),
        ("RPN.IOU_THRESHOLDS", "[0.7, 0.3]", "rising order"),
        ("RPN.NMS_THRESH", "7.0", "from 0 to 1"),
        ("RPN.POST_NMS_TOPK_TEST", "0", "at least 1"),
        ("ROI_HEADS.BATCH_SIZE_PER_IMAGE", "0", "at least 1"),
        ("ROI_HEADS.IOU_THRESHOLDS", "[]", "one or more numbers"),
        ("ROI_HEADS.IOU_LABELS", "[0, 2]", "one label for each range"),
        ("ROI_HEADS.POSITIVE_FRACTION", "2.0", "from 0 to 1"),
        ("ROI_BOX_HEAD.NORM", "XN", "expected BN, SyncBN"),
        ("ROI_MASK_HEAD.NORM", "XN", "expected BN, SyncBN"),
        ("ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignV3", "did you mean ROIAlignV2?"),
        ("ROI_MASK_HEAD.POOLER_RESOLUTION", "0", "at least 1"),
        ("ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "foo", "smooth_l1"),
        ("ROI_BOX_CASCADE_HEAD.IOUS", "()", "one or more numbers"),
        ("ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS", "((10.0, 10.0),)", "four numbers"),
    ],
)
def test_values_of_detectron2s_detectors_are_checked(key, value, expected):
    with pytest.raises(InputError) as caught:
        load_config("instance/coco/mask_rcnn_fpn_r50", [f"MODEL.{key}", value])
    assert str(caught.value).startswith(f"MODEL.{key} ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelled_name_of_another_code_base_gets_a_suggestion():
    with pytest.raises(InputError, match="fcn_resnet50_adee does not exist; did you mean fcn_resnet50_ade"):
        load_config("fcn_resnet50_adee")
