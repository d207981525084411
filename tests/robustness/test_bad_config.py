"""A wrong config or override ends the tool with one line: key or file, what was found, what was expected."""

import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import META_ARCH_REGISTRY

from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.data.data_trees import write_roads

LEAF = "semantic/camvid/maskformer_r18"

VALUES = [
    ("SOLVER.IMS_PER_BATCH", "0", "SOLVER.IMS_PER_BATCH 0: expected at least 1"),
    (
        "SOLVER.IMS_PER_BATCH",
        "16.5",
        "SOLVER.IMS_PER_BATCH is 16.5 (float); expected an integer, such",
    ),
    ("SOLVER.IMS_PER_BATCH", "None", "SOLVER.IMS_PER_BATCH has no value; give it one such as 16"),
    ("SOLVER.WEIGHT_DECAY", "None", "SOLVER.WEIGHT_DECAY has no value; give it one such as 0.0001"),
    ("INPUT.IMAGE_RANGE", "None", "INPUT.IMAGE_RANGE has no value; give it one such as ()"),
    ("SOLVER.ACCUMULATE", "3", "SOLVER.IMS_PER_BATCH 16 is not divisible by 1 process x SOLVER.ACCUMULATE 3"),
    ("SOLVER.MAX_ITER", "-5", "SOLVER.MAX_ITER -5: expected at least 0"),
    ("SOLVER.MAX_ITER", "many", "SOLVER.MAX_ITER is many (str); expected an integer, such as"),
    ("SOLVER.BASE_LR", "nan", "SOLVER.BASE_LR nan: expected a finite number of at least 0"),
    ("SOLVER.BASE_LR", "-0.1", "SOLVER.BASE_LR -0.1: expected a finite number of at least 0"),
    ("SOLVER.BASE_LR", "fast", "SOLVER.BASE_LR is fast (str); expected a number, such as 0.000"),
    ("SOLVER.OPTIMIZER", "Adam", "SOLVER.OPTIMIZER 'Adam' is unknown; did you mean AdamW?"),
    ("SOLVER.LR_SCHEDULER_NAME", "Poly", "SOLVER.LR_SCHEDULER_NAME"),
    ("SOLVER.AMP.DTYPE", "half", "SOLVER.AMP.DTYPE 'half': expected float16 or bfloat16"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.0", "CLIP_VALUE 0.0: expected a finite number above 0"),
    ("SOLVER.LR_MULTIPLIERS", "[['bakbone', 2.0]]", "bakbone"),
    ("SOLVER.LR_MULTIPLIERS", "[['backbone', -1.0]]", "expected a finite factor of at least 0"),
    ("SOLVER.GAMMA", "nan", "SOLVER.GAMMA nan: expected a finite number of at least 0"),
    ("SOLVER.BATCH_SIZE", "16", "unknown key SOLVER.BATCH_SIZE; did you mean SOLVER.IMS_PER_BATCH?"),
    ("DATALOADER.NUM_WORKERS", "-1", "DATALOADER.NUM_WORKERS -1: expected at least 0"),
    ("DATALOADER.ON_ERROR", "skp", "DATALOADER.ON_ERROR 'skp': expected stop or skip; did you mean skip?"),
    ("DATALOADER.SAMPLER_TRAIN", "Sampler", "DATALOADER.SAMPLER_TRAIN 'Sampler' is one of TrainingSampler"),
    ("DATASETS.TEST", "('camvid_vall',)", "'camvid_vall' is unknown; did you mean camvid_val?"),
    ("DATASETS.TEST", "camvid_val", "DATASETS.TEST is camvid_val (str); expected a list"),
    ("DATASETS.TRAIN", "()", "DATASETS.TRAIN is empty; name a dataset to train on"),
    ("DATASETS.FILES", "('none.yaml',)", "dataset file none.yaml does not exist"),
    ("IMPORTS", "('no_such_module',)", "IMPORTS: no module no_such_module"),
    ("IMPORTS", "('os.nothing',)", "IMPORTS: no module os.nothing"),
    ("INPUT.FORMAT", "rgb", "INPUT.FORMAT 'rgb': expected RGB or BGR"),
    ("INPUT.CROP_SIZE", "(512,)", "INPUT.CROP_SIZE (512,): expected (height, width) of at least 1"),
    ("INPUT.CROP_SIZE", "(0, -4)", "INPUT.CROP_SIZE (0, -4): expected (height, width) of at least 1"),
    ("INPUT.CROP_SIZE", "(5.5, 7)", "INPUT.CROP_SIZE (5.5, 7): expected (height, width) of at least 1"),
    ("INPUT.MIN_SIZE_TRAIN", "()", "INPUT.MIN_SIZE_TRAIN (): expected one or more sizes in pixels"),
    ("INPUT.MIN_SIZE_TRAIN", "(0,)", "INPUT.MIN_SIZE_TRAIN (0,): expected one or more sizes in pixels"),
    ("INPUT.MIN_SIZE_TEST", "-1", "INPUT.MIN_SIZE_TEST -1: expected at least 0"),
    ("INPUT.FLIP_PROB", "1.5", "INPUT.FLIP_PROB 1.5: expected a number from 0 to 1"),
    ("INPUT.SCALE_RANGE", "(2.0, 0.5)", "INPUT.SCALE_RANGE (2.0, 0.5): expected (lowest, highest)"),
    ("INPUT.AUGMENTATION", "semantik", "INPUT.AUGMENTATION 'semantik'"),
    ("MODEL.DEVICE", "gpu", "MODEL.DEVICE 'gpu': expected cpu, cuda, or cuda:1 for one of several GPUs"),
    ("MODEL.DEVICE", "meta", "MODEL.DEVICE meta: tensors without data; expected cpu, cuda"),
    ("MODEL.DEVICE", "xpu:9", "MODEL.DEVICE xpu:9: not available; use MODEL.DEVICE cpu"),
    ("MODEL.DEVICE", "cuda:7", "MODEL.DEVICE cuda:7: 0 GPUs visible; use MODEL.DEVICE cpu or a lower number"),
    ("MODEL.PIXEL_STD", "[0.0, 1.0, 1.0]", "MODEL.PIXEL_STD [0.0, 1.0, 1.0]: expected three numbers above 0"),
    ("MODEL.PIXEL_MEAN", "[128.0]", "MODEL.PIXEL_MEAN [128.0]: expected three numbers"),
    ("MODEL.BACKBONE.NAME", "ResNetBackbon", "MODEL.BACKBONE.NAME 'ResNetBackbon' is unknown; did you mean"),
    ("MODEL.BACKBONE.VARIANT", "r19", "r19"),
    ("MODEL.BACKBONE.NORM", "XN", "MODEL.BACKBONE.NORM"),
    ("MODEL.BACKBONE.OUT_FEATURES", "('res9',)", "res9"),
    ("MODEL.BACKBONE.FREEZE_AT", "-1", "MODEL.BACKBONE.FREEZE_AT -1: expected 0 (nothing)"),
    (
        "MODEL.BACKBONE.DROP_PATH_RATE",
        "1.0",
        "DROP_PATH_RATE 1.0: expected a number from 0 to below 1",
    ),
    ("MODEL.SEM_SEG_HEAD.NUM_CONVS", "-1", "MODEL.SEM_SEG_HEAD.NUM_CONVS -1: expected at least 0"),
    ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "-1", "MODEL.SEM_SEG_HEAD.NUM_CLASSES -1: expected at least 0"),
    ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "150", "MODEL.SEM_SEG_HEAD.NUM_CLASSES=150 but roads_train has 5"),
    ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res7']", "res7"),
    ("MODEL.SEM_SEG_HEAD.NORM", "XN", "MODEL.SEM_SEG_HEAD.NORM"),
    ("MODEL.SEM_SEG_HEAD.CONVS_DIM", "0", "MODEL.SEM_SEG_HEAD.CONVS_DIM 0: expected at least 1"),
    (
        "MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS",
        "('a',)",
        "CLASS_WEIGHTS ('a',): expected finite numbers of at least 0",
    ),
    ("MODEL.MASK_FORMER.NHEADS", "7", "MODEL.MASK_FORMER.NHEADS"),
    ("MODEL.MASK_FORMER.HIDDEN_DIM", "30", "MODEL.MASK_FORMER.HIDDEN_DIM 30: expected a multiple of 4"),
    ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "0", "NUM_OBJECT_QUERIES 0: expected at least 1"),
    ("MODEL.MASK_FORMER.MASK_LOSS", "dice", "MODEL.MASK_FORMER.MASK_LOSS 'dice': expected focal or bce"),
    ("MODEL.META_ARCHITECTURE", "MaskFormr", "MODEL.META_ARCHITECTURE 'MaskFormr' is unknown; did you mean"),
    ("MODEL.BACKBONE.OUTPUT_STRIDE", "0", "OUTPUT_STRIDE 0: expected 4 or 8 or 16 or 32"),
    ("MODEL.PSPNET.BINS", "(0, 1)", "MODEL.PSPNET.BINS (0, 1): expected one or more numbers of at least 1"),
    ("MODEL.UPERNET.BINS", "()", "MODEL.UPERNET.BINS (): expected one or more numbers of at least 1"),
    ("MODEL.DEEPLABV3.DILATIONS", "(1.5,)", "DILATIONS (1.5,): expected one or more numbers of at least 1"),
    ("MODEL.DEEPLABV3.PROJECTION_KERNEL", "2", "PROJECTION_KERNEL 2: expected an odd number of at least 1"),
    ("MODEL.PSANET.MASK_SIZE", "(97,)", "MODEL.PSANET.MASK_SIZE (97,): expected (height, width) of at least"),
    (
        "MODEL.BISENET.SPATIAL_CHANNELS",
        "(64,)",
        "SPATIAL_CHANNELS (64,): expected four numbers of at least 1",
    ),
    ("MODEL.BISENET.UPSAMPLE", "area", "MODEL.BISENET.UPSAMPLE 'area': expected bilinear or nearest"),
    ("MODEL.DANET.POSITION_SOFTMAX", "rows", "POSITION_SOFTMAX 'rows': expected keys or queries"),
    ("MODEL.SEGFORMER.PROJECTION", "mlp", "MODEL.SEGFORMER.PROJECTION 'mlp': expected linear or conv"),
    ("MODEL.SEM_SEG_HEAD.DROPOUT_KIND", "row", "DROPOUT_KIND 'row': expected channel or element"),
    ("MODEL.SEM_SEG_HEAD.TOP_DOWN_UPSAMPLE", "area", "TOP_DOWN_UPSAMPLE 'area': expected nearest or bilin"),
    ("MODEL.SEM_SEG_HEAD.LOSS.ZOOM_FACTOR", "3", "LOSS.ZOOM_FACTOR 3: expected 1 or 2 or 4 or 8"),
    ("MODEL.SEM_SEG_HEAD.LOSS.OHEM_THRESHOLD", "70", "OHEM_THRESHOLD 70.0: expected a number from 0 to 1"),
    ("MODEL.CCNET.RECURRENCE", "0", "MODEL.CCNET.RECURRENCE 0: expected at least 1"),
    ("MODEL.JPU.DILATIONS", "(1, 2)", "unknown key MODEL.JPU.DILATIONS; it is always (1, 2, 4, 8) now"),
    ("INPUT.BLUR_KERNEL", "4", "INPUT.BLUR_KERNEL 4: expected an odd number of at least 1"),
    ("INPUT.PAD_VALUE", "256", "INPUT.PAD_VALUE 256: expected a number from 0 to 255"),
    ("SOLVER.STEPS", "(9, 3)", "SOLVER.STEPS (9, 3): expected iterations in rising order"),
    ("SOLVER.STEPS", "('a',)", "SOLVER.STEPS ('a',): expected iterations in rising order"),
    ("MODEL.WEIGHTS", "nothing.pth", "nothing.pth: does not exist; expected a checkpoint file"),
    ("TASK", "panoptical", "TASK 'panoptical' is unknown; did you mean panoptic?"),
    ("TEST.TASKS", "('pan',)", "TEST.TASKS 'pan' is unknown"),
    ("TEST.IMS_PER_BATCH", "0", "TEST.IMS_PER_BATCH 0: expected at least 1"),
    ("TEST.SCORING_THREADS", "-1", "TEST.SCORING_THREADS -1: expected at least 0"),
    ("TEST.NUM_PICTURES", "-1", "TEST.NUM_PICTURES -1: expected at least 0"),
    ("TEST.PROTOCOL", "semseg", "TEST.PROTOCOL"),
    (
        "TEST.BEST_METRIC",
        "panoptic_seg/PQ",
        "TEST.BEST_METRIC 'panoptic_seg/PQ' is not reported for TEST.TASKS",
    ),
    ("OUTPUT_DIR", "/proc/nothing", "OUTPUT_DIR /proc/nothing: "),
]


@pytest.fixture
def roads(tmp_path):
    """Overrides for training on a dataset of one image."""
    file = write_roads(tmp_path / "roads", np.zeros((8, 8), np.uint8))
    values = {
        "DATASETS.FILES": f"({str(file)!r},)",
        "DATASETS.TRAIN": "('roads_train',)",
        "DATASETS.TEST": "('roads_train',)",
        "DATALOADER.NUM_WORKERS": 0,
        "MODEL.DEVICE": "cpu",
        "SOLVER.IMS_PER_BATCH": 16,
        "SOLVER.MAX_ITER": 1,
    }
    return [part for pair in values.items() for part in pair]


@pytest.mark.parametrize(("key", "value", "message"), VALUES, ids=lambda value: str(value)[:40])
def test_a_wrong_value_is_one_line(refusal, roads, key, value, message):
    # The same key given last wins.
    line = refusal("train_net", "--config-file", LEAF, *roads, "OUTPUT_DIR", "{output}/run", key, value)
    assert message in line


FILES = {
    "empty": ("", "not a valid YAML config: it is not a mapping of keys to values"),
    "list": ("- a\n- b\n", "not a valid YAML config: it is not a mapping of keys to values"),
    "broken": ("SOLVER: [1\n", "not a valid YAML config: while parsing"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00", "not a valid YAML config: "),
    "unknown key": ("SOLVER:\n  BASE_RL: 0.1\n", "unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?"),
    "section": ("SOLVER: 3\n", "unknown key SOLVER"),
    "no value": ("SOLVER:\n  MAX_ITER:\n", "SOLVER.MAX_ITER has no value; give it one such as 40000"),
    "type": ("SOLVER:\n  MAX_ITER: 1e5\n", "SOLVER.MAX_ITER is 100000.0 (float); expected an integer"),
    "no dataset": ("SEED: 1\n", "DATASETS: TRAIN, TEST and CLASSES_FROM are empty"),
    "range": ("INPUT:\n  BASE_SIZE: 0\n", "INPUT.BASE_SIZE 0: expected at least 1"),
    "missing base": ("_BASE_: nothing.yaml\n", "nothing.yaml does not exist (relative to the file)"),
    "own base": ("_BASE_: config.yaml\n", "config.yaml is among its own _BASE_ files; remove it there"),
    "circle": ("_BASE_: [../fine.yaml, a/b.yaml]\n", "config.yaml is among its own _BASE_ files"),
    "code": ("SEED: !!python/object/apply:os.system ['touch {folder}/executed']\n", "could not determine a"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_config_file_is_one_line(refusal, tmp_path, name):
    content, message = FILES[name]
    folder = tmp_path / "configs"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "fine.yaml").write_text("SEED: 1\n")
    (folder / "a/b.yaml").write_text("_BASE_: ../config.yaml\n")
    if isinstance(content, str):
        content = content.replace("{folder}", str(folder)).encode()
    (folder / "config.yaml").write_bytes(content)
    line = refusal("train_net", "--config-file", folder / "config.yaml", "OUTPUT_DIR", "{output}/run")
    assert message in line
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    ("leaf", "key", "value", "message"),
    [
        (
            "semantic/ade20k/psanet_r50_v1s_100ep",
            "MODEL.SEM_SEG_HEAD.IN_FEATURES",
            "()",
            "is empty; expected",
        ),
        (
            "semantic/ade20k/psanet_r50_v1s_100ep",
            "MODEL.SEM_SEG_HEAD.IN_FEATURES",
            "(0,)",
            "has 0, but there",
        ),
        (
            "semantic/cityscapes/deeplabv3plus_wrn38",
            "MODEL.BOUNDARY_RELAXED.STRICT_CLASSES",
            "('a',)",
            "STRICT_CLASSES has 'a', expected indices in",
        ),
    ],
)
def test_a_wrong_value_of_a_method_is_explained(leaf, key, value, message):
    """Built without memory for the weights."""
    cfg = load_config(leaf, [key, value])
    with torch.device("meta"), pytest.raises(InputError) as error:
        META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    assert message in str(error.value)


def test_odd_values_that_are_legal_are_taken(tmp_path):
    cfg = load_config(LEAF, ["INPUT.CROP_SIZE", "(33, 47)", "SOLVER.BASE_LR", "1"])
    assert load_config(LEAF, ["MODEL.SEM_SEG_HEAD.NORM", "naiveSyncBN_N"])
    assert cfg.INPUT.CROP_SIZE == (33, 47)
    (tmp_path / "dumped.yaml").write_text(yaml.safe_dump({"SEED": 5}))
    assert load_config(tmp_path / "dumped.yaml").SEED == 5
