"""The command line of training: flags, errors in one line, and a whole small job on the Shapes dataset."""

import io
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import train_net
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segzoo.cli import evaluate
from segzoo.cli.prepare.shapes import make_shapes
from segzoo.cli.train import build_parser
from segzoo.engine import evaluate_checkpoint
from segzoo.engine.evaluation_loop import describe_protocol
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError

CONFIG = """
TASK: panoptic
DATASETS:
  TRAIN: ("shapes_train",)
  TEST: ("shapes_val",)
MODEL:
  META_ARCHITECTURE: MaskFormer
  DEVICE: cpu
  BACKBONE:
    NAME: ResNetBackbone
    VARIANT: r18
    NORM: SyncBN
  SEM_SEG_HEAD:
    NAME: MaskFormerHead
    NORM: BN
    CONVS_DIM: 16
    MASK_DIM: 16
  MASK_FORMER:
    HIDDEN_DIM: 16
    NUM_OBJECT_QUERIES: 8
    NHEADS: 2
    DIM_FEEDFORWARD: 16
    DEC_LAYERS: 2
    TEST:
      OBJECT_MASK_THRESHOLD: 0.0
      OVERLAP_THRESHOLD: 0.0
INPUT:
  MIN_SIZE_TRAIN: [64]
  CROP_SIZE: [64, 64]
  MIN_SIZE_TEST: 64
  MAX_SIZE_TEST: 64
SOLVER:
  IMS_PER_BATCH: 4
  MAX_ITER: 4
  CHECKPOINT_PERIOD: 2
  LOG_PERIOD: 1
DATALOADER:
  NUM_WORKERS: 0
TEST:
  TASKS: ("semantic", "panoptic", "entity")
  EVAL_PERIOD: 2
  BEST_METRIC: panoptic_seg/PQ
SEED: 1
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config-file", "a.yaml", "SEED", "1", "--dist-url", "x"],
            "Move --dist-url before KEY VALUE overrides.",
        ),
        (["--config-file", "a.yaml", "SEED", "1", "--resume"], "Move --resume before KEY VALUE overrides."),
        (
            ["--num-gpus", "1"],
            "--config-file is missing; give a YAML file or a name that `segzoo zoo` lists; --weights is what "
            "a training starts from",
        ),
    ],
)
def test_wrong_command_lines_give_the_remedy(arguments, message):
    with pytest.raises(InputError) as error:
        build_parser().parse_args(arguments)
    assert str(error.value) == message


def test_detectron2s_flags_are_read():
    words = (
        "--config-file a.yaml --num-gpus 8 --num-machines 2 --machine-rank 1 --dist-url tcp://a:1 --resume"
    )
    args = build_parser().parse_args([*words.split(), "--eval-only", "MODEL.DEVICE", "cpu", "SEED", "-1"])
    assert (args.config_file, args.num_gpus, args.num_machines, args.machine_rank) == ("a.yaml", 8, 2, 1)
    assert (args.dist_url, args.resume, args.eval_only) == ("tcp://a:1", True, True)
    assert args.opts == ["MODEL.DEVICE", "cpu", "SEED", "-1"]


def test_wrong_input_is_one_line_and_status_2_and_a_traceback_only_with_debug(capsys):
    arguments = ["--config-file", "no_such.yaml"]
    assert train_net.main(arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: config file no_such.yaml does not exist")
    assert output.err.count("\n") == 1
    with pytest.raises(InputError):
        train_net.main(["--debug", *arguments])


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--help"])
    text = capsys.readouterr().out
    assert "--eval-only --weights" in text
    assert "KEY VALUE" in text


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with config.yaml for the generated dataset, and the output of four iterations on it."""
    folder = tmp_path_factory.mktemp("job")
    patch = pytest.MonkeyPatch()
    patch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
    make_shapes(folder / "datasets" / "shapes", train=8, val=3, size=64, workers=0)
    (folder / "shapes.yaml").write_text(CONFIG)
    assert run(folder, "OUTPUT_DIR", str(folder / "out")) == 0
    yield folder
    patch.undo()


def run(folder, *arguments):
    flags = [word for word in arguments if word.startswith("--")]
    overrides = [word for word in arguments if not word.startswith("--")]
    return train_net.main(["--config-file", str(folder / "shapes.yaml"), *flags, *overrides])


def test_a_job_trains_evaluates_and_writes_the_files_detectron2_users_expect(job):
    out = job / "out"
    names = {path.name for path in out.iterdir()}
    assert {
        "config.yaml",
        "log.txt",
        "metrics.json",
        "last_checkpoint",
        "model_final.pth",
        "model_best.pth",
    } <= names
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1, 2, 3]
    assert {"loss_ce", "loss_mask", "loss_dice", "total_loss", "lr", "time"} <= lines[-1].keys()
    assert {"sem_seg/mIoU", "panoptic_seg/PQ", "entity_seg/AP"} <= lines[1].keys()
    log = (out / "log.txt").read_text()
    assert "copypaste: Task: panoptic_seg" in log


def test_the_command_at_the_end_evaluates_the_best_model_beside_it(job, monkeypatch):
    log = (job / "out" / "log.txt").read_text()
    (command,) = re.findall("To evaluate: segzoo evaluate (.*)", log)
    monkeypatch.chdir(job)
    before = (job / "out" / "inference" / "results.json").read_bytes()
    assert evaluate.main(shlex.split(command)) == 0
    document = json.loads((job / "out" / "eval-model_best-1" / "inference" / "results.json").read_text())
    best = json.loads((job / "out" / "best.json").read_text())
    assert document["results"]["shapes_val"]["panoptic_seg"]["PQ"] == pytest.approx(best["value"], abs=1e-9)
    assert (job / "out" / "inference" / "results.json").read_bytes() == before


def test_tensorboard_shows_images_with_ground_truth_and_prediction_at_each_evaluation(job):
    shown = EventAccumulator(str(job / "out"), size_guidance={"images": 0}).Reload()
    records = json.loads((job / "datasets/shapes/annotations/panoptic_val.json").read_text())
    stems = sorted(Path(image["file_name"]).stem for image in records["images"])
    assert sorted(shown.Tags()["images"]) == [f"predictions/{stem}" for stem in stems]
    for stem in stems:
        events = shown.Images(f"predictions/{stem}")
        assert [event.step for event in events] == [1, 3]
        figure = np.asarray(Image.open(io.BytesIO(events[-1].encoded_image_string)))
        image = np.asarray(Image.open(job / f"datasets/shapes/images/val/{stem}.jpg").convert("RGB"))
        truth = np.asarray(Image.open(job / f"datasets/shapes/panoptic/val/{stem}.png"))
        # Three tasks with three panels each, 64 x 64, with gaps in between; titles are above.
        rows = [row for row in range(len(figure) - 63) if np.array_equal(figure[row : row + 64, :64], image)]
        assert len(rows) == 3
        assert figure.shape[1] == 3 * 64 + 2 * 8
        for row in rows:
            drawn = figure[row : row + 64, 72:136].astype(int)
            # Ground truth has one color per segment over the gray image: hues agree within it.
            assert not np.array_equal(drawn, image)
            inside = (truth == truth[32, 32]).all(-1)
            gray = image @ np.array([0.299, 0.587, 0.114])
            light = drawn[inside] - 0.4 * gray[inside][:, None]
            darkest = np.median(light, axis=0)
            assert (np.abs(light - darkest).max(1) < 3).mean() > 0.5


def test_results_hold_their_protocol(job):
    document = json.loads((job / "out" / "inference" / "results.json").read_text())
    assert document["protocol"]["weights"] == f"{job}/out/model at iteration 3"
    assert document["protocol"]["iteration"] == 3
    assert document["protocol"]["datasets"] == {"shapes_val": 3}
    assert document["protocol"]["input_size"] == {"short_edge": 64, "long_edge_max": 64}
    assert document["protocol"]["seconds_per_image"]["shapes_val"].keys() == {"data", "compute", "scoring"}
    assert 0 <= document["results"]["shapes_val"]["panoptic_seg"]["PQ"] <= 100


def test_evaluating_the_final_checkpoint_repeats_the_final_metrics(job, tmp_path):
    weights = str(job / "out" / "model_final.pth")
    assert run(job, "--eval-only", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path)) == 0
    documents = [
        json.loads((folder / "inference" / "results.json").read_text()) for folder in (job / "out", tmp_path)
    ]
    assert documents[0]["results"] == documents[1]["results"]
    assert documents[1]["protocol"]["weights"] == weights
    # Only --resume looks for a checkpoint in OUTPUT_DIR.
    shutil.copy(job / "out" / "model_0000001.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    # TEST.BEST_METRIC belongs to another task and is not used.
    semantic = ("TEST.TASKS", "('semantic',)", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path))
    assert run(job, "--eval-only", *semantic) == 0
    assert len(documents[1]["protocol"]["weights_sha256"]) == 64
    document = json.loads((tmp_path / "inference" / "results.json").read_text())
    assert document["protocol"]["weights"] == weights


def test_a_checkpoint_is_evaluated_with_the_range_of_pixel_values_of_its_training(job, tmp_path):
    checkpoint = torch.load(job / "out" / "model_final.pth", weights_only=True)
    checkpoint["segzoo"]["image_range"] = [0, 4095]
    torch.save(checkpoint, tmp_path / "deep.pth")
    words = ["MODEL.WEIGHTS", str(tmp_path / "deep.pth"), "OUTPUT_DIR", str(tmp_path)]
    cfg = load_config(job / "shapes.yaml", [*words, "TEST.TASKS", "('semantic',)"])
    evaluate_checkpoint(cfg)
    assert tuple(cfg.INPUT.IMAGE_RANGE) == (0, 4095)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("TEST.TASKS", "('instance',)"), "begins with bbox/ or segm/"),
        (
            ("TEST.BEST_METRIC", "panoptic/PQ"),
            "TEST.BEST_METRIC 'panoptic/PQ' is not reported for TEST.TASKS "
            "('semantic', 'panoptic', 'entity'); "
            "expected a name that begins with entity_seg/ or panoptic_seg/ or sem_seg/",
        ),
        (("TEST.BEST_METRIC", "sem_seg/mIoU", "TEST.TASKS", "('panoptic',)"), "begins with panoptic_seg/"),
        (("DATASETS.TEST", "('coco_2017_val_panoptic',)", "DATASETS.TRAIN", "()"), "coco"),
    ],
)
def test_an_evaluation_that_cannot_succeed_stops_the_training_before_it_begins(
    job, tmp_path, capsys, overrides, message
):
    assert run(job, "OUTPUT_DIR", str(tmp_path), *overrides) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "BEST_METRIC" in error or error.endswith('(DATASETS.TEST "()" trains without evaluation)\n')
    assert not (tmp_path / "metrics.json").exists()


def test_evaluating_on_no_dataset_is_an_input_error(job, tmp_path, capsys):
    assert run(job, "--eval-only", "DATASETS.TEST", "()", "OUTPUT_DIR", str(tmp_path)) == 2
    assert "DATASETS.TEST is empty; give the dataset to evaluate on: --data" in capsys.readouterr().err


def test_the_protocol_holds_the_sizes_of_test_time_augmentation():
    cfg = load_config(
        "semantic/camvid/maskformer_r18",
        ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(100, 200)", "INPUT.MIN_SIZE_TEST", "0"],
    )
    protocol = describe_protocol(cfg, "", None)
    sizes = {"resized_from": "original", "short_edges": [100, 200], "long_edge_max": cfg.TEST.AUG.MAX_SIZE}
    assert protocol["input_size"] == sizes
    assert protocol["flip"] is True
    cfg.INPUT.MIN_SIZE_TEST = 100
    assert describe_protocol(cfg, "", None)["scales"] == [1.0, 2.0]
    cfg.TEST.AUG.ENABLED = False
    assert describe_protocol(cfg, "", None)["scales"] == [1.0]


def test_evaluating_without_a_loaded_head_is_refused(job, tmp_path, capsys):
    checkpoint = torch.load(job / "out" / "model_final.pth", weights_only=True)
    for name, weight in checkpoint["model"].items():
        if "class_embed" in name:
            checkpoint["model"][name] = torch.cat([weight, weight])
    torch.save(checkpoint, tmp_path / "other_classes.pth")
    arguments = ("MODEL.WEIGHTS", str(tmp_path / "other_classes.pth"), "OUTPUT_DIR", str(tmp_path))
    assert run(job, "--eval-only", *arguments) == 2
    assert "refusing to report metrics" in capsys.readouterr().err
    assert not (tmp_path / "inference" / "results.json").exists()


def test_evaluating_without_weights_is_an_input_error(job, tmp_path, capsys):
    assert run(job, "--eval-only", "OUTPUT_DIR", str(tmp_path)) == 2
    assert "evaluation: MODEL.WEIGHTS is empty" in capsys.readouterr().err


def test_a_resumed_job_equals_the_uninterrupted_one(job, tmp_path):
    output = ("OUTPUT_DIR", str(tmp_path))
    assert run(job, *output) == 0
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    assert run(job, "--resume", *output) == 0
    first, second = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"]
        for folder in (job / "out", tmp_path)
    )
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


def test_a_job_killed_before_it_named_its_checkpoint_is_resumed_and_evaluated(job, tmp_path):
    output = ("OUTPUT_DIR", str(tmp_path))
    shutil.copy(job / "out" / "model_0000001.pth", tmp_path)
    assert run(job, "--resume", *output, "DATASETS.TEST", "()") == 0
    assert "Training from iteration 2 to 4" in (tmp_path / "log.txt").read_text()
    (tmp_path / "last_checkpoint").unlink()
    assert run(job, "--resume", "--eval-only", *output) == 0
    expected, found = (
        json.loads((folder / "inference" / "results.json").read_text())["results"]["shapes_val"]
        for folder in (job / "out", tmp_path)
    )
    assert found["panoptic_seg"]["PQ"] == pytest.approx(expected["panoptic_seg"]["PQ"], abs=1e-9)
