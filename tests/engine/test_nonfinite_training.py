"""Trainings whose learning rate is far too high: a line, a capsule, and its replay elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segzoo.cli import nonfinite_replay as replay
from segzoo.cli.prepare.shapes import make_shapes
from segzoo.cli.train import main as segzoo_train
from segzoo.config.load import new_config
from segzoo.engine import NonFiniteLossError, Trainer
from segzoo.engine.nonfinite_dump import save_nonfinite_capsule
from segzoo.model_zoo import load_config

REPOSITORY = Path(__file__).resolve().parents[2]
PANOPTIC = "panoptic/shapes/mask2former_r18_quarter"
SHORT = [
    *(
        "DATASETS.TEST",
        "()",
        "SOLVER.IMS_PER_BATCH",
        "2",
        "SOLVER.MAX_ITER",
        "20",
        "SOLVER.WARMUP_ITERS",
        "0",
    ),
    *("DATALOADER.NUM_WORKERS", "0", "SOLVER.CLIP_GRADIENTS.ENABLED", "False"),
]
DENSE = [
    *("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MaskFormerTransformerDecoder"),
    *("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res5", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "0"),
    *("MODEL.MASK_FORMER.MASK_LOSS", "focal"),
]
# Configurations, and learning rates that are too high for them.
TRAININGS = {
    "points": (PANOPTIC, "1e10", []),
    "dense": (PANOPTIC, "1e10", DENSE),
    "points in bfloat16": (PANOPTIC, "1e10", ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"]),
    "per pixel": ("semantic/shapes/pspnet_r18_quarter", "1e25", []),
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder of datasets with a few generated images."""
    folder = tmp_path_factory.mktemp("datasets")
    before = os.environ.get("DETECTRON2_DATASETS")
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    make_shapes(folder / "shapes", train=4, val=1, size=64, workers=0)
    yield folder
    if before is None:
        del os.environ["DETECTRON2_DATASETS"]
    else:
        os.environ["DETECTRON2_DATASETS"] = before


def train(name: str, rate: str, more: list[str], folder: Path, capsys) -> str:
    """Train until it stops; return the line that says why."""
    overrides = [*SHORT, *more, "SOLVER.BASE_LR", rate, "OUTPUT_DIR", str(folder)]
    assert segzoo_train(["--config-file", name, *overrides]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("case", TRAININGS)
def test_the_line_gives_iteration_reason_rate_and_images_and_the_file_reproduces_the_losses(
    shapes, tmp_path, capsys, case
):
    name, rate, more = TRAININGS[case]
    line = train(name, rate, more, tmp_path, capsys)
    found = re.search(
        r"error: non-finite loss at iteration (\d+): batch and state saved to (\S+\.pth) \((.+); "
        r"learning rates? (\S+).*; images (\S+), (\S+)\)",
        line,
    )
    assert found, line
    capsule = replay.read_capsule(found[2])
    assert capsule["iteration"] == int(found[1]) < 20
    assert min(capsule["learning_rates"]) == pytest.approx(float(found[4]), rel=0.01)
    assert float(found[4]) > 0.4 * float(rate)
    assert [Path(name).name for name in capsule["file_names"]] == [found[5], found[6]]
    lines = dict(replay.replay(capsule))
    assert lines["as in the training"] == "yes"
    assert lines["precision"] == ("bfloat16" if more and "AMP" in more[0] else "float32")


def test_the_line_names_the_first_images_of_a_large_batch_and_counts_the_others(tmp_path):
    message = save_nonfinite_capsule(
        str(tmp_path),
        iteration=7,
        rank=1,
        reason="loss_ce is nan",
        losses={"loss_ce": float("nan")},
        batch=[{"file_name": f"/data/train/{index}.jpg"} for index in range(11)],
        random_state={},
        model=torch.nn.Linear(1, 1),
        learning_rates=[0.1, 0.1],
        cfg=new_config(),
    )
    assert message == (
        f"non-finite loss at iteration 7: batch and state saved to {tmp_path}/nonfinite_7_rank1.pth "
        "(loss_ce is nan; learning rate 0.1; images 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, 5.jpg, 6.jpg, 7.jpg "
        "and 3 more)"
    )


def test_a_new_process_reproduces_the_losses_without_the_dataset_in_another_folder(tmp_path, shapes, capsys):
    text = (REPOSITORY / "segzoo/data/catalog/shapes.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(
        text.replace("shapes_train", "mine_train").replace("shapes_val", "mine_val")
    )
    more = ["DATASETS.FILES", f"('{tmp_path}/mine.yaml',)", "DATASETS.TRAIN", "('mine_train',)"]
    train(PANOPTIC, "1e10", more, tmp_path / "out", capsys)
    (tmp_path / "mine.yaml").unlink()
    capsule = next((tmp_path / "out").glob("nonfinite_*.pth"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(capsule, elsewhere / "capsule.pth")
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "DETECTRON2_DATASETS": "/nowhere",
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        [sys.executable, str(REPOSITORY / "tools" / "replay.py"), "capsule.pth"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"^as in the training +yes$", result.stdout, re.MULTILINE), result.stdout
    assert re.search(r"^images +\S+\.jpg", result.stdout, re.MULTILINE)


def test_losses_that_are_not_reproduced_are_reported(shapes, tmp_path, capsys):
    train(PANOPTIC, "1e10", [], tmp_path, capsys)
    capsule = replay.read_capsule(str(next(tmp_path.glob("nonfinite_*.pth"))))
    model = Trainer.build_model(load_config(PANOPTIC, ["MODEL.DEVICE", "cpu"]))
    healthy = dict(replay.replay({**capsule, "model": model.state_dict()}))
    assert healthy["as in the training"].startswith("no")
    assert healthy["non-finite gradients"] == "none"
    lost = {key: value for key, value in capsule["model"].items() if "query_feat" not in key}
    with pytest.raises(
        ValueError, match=r"not those of the model of its configuration \(1 differ, first .*query"
    ):
        replay.replay({**capsule, "model": lost})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("broken", ["class_embed.bias", "mask_embed.layers.2.bias"])
def test_weights_that_are_not_finite_are_named(shapes, tmp_path, capsys, broken, value):
    cfg = load_config(PANOPTIC, [*SHORT, "OUTPUT_DIR", str(tmp_path)])
    trainer = Trainer(cfg)
    with torch.no_grad():
        dict(trainer.model.named_parameters())[f"sem_seg_head.predictor.{broken}"][1] = value
    with pytest.raises(NonFiniteLossError) as error:
        trainer.train()
    assert f"1 weights were already non-finite, first sem_seg_head.predictor.{broken}" in str(error.value)
    lines = dict(replay.replay(replay.read_capsule(str(tmp_path / "nonfinite_0.pth"))))
    assert lines["as in the training"] == "yes"
    assert lines["first non-finite output"].startswith("sem_seg_head.predictor")
