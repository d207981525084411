"""Two processes equal one with the same total batch: losses, weights, and results of an evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from panopticapi.utils import rgb2id
from PIL import Image

from segzoo.cli.prepare.shapes import make_shapes
from segzoo.config.files import config_root
from segzoo.engine import Trainer, default_setup, evaluate, launch
from segzoo.model_zoo import load_config

REPOSITORY = Path(__file__).resolve().parents[2]
SEEDS = (1, 2, 3)
STEPS = 3
IS_THING = [True] * 6 + [False] * 5  # Categories of Shapes.
IMAGES = 5  # Does not divide by two.
# Without batch statistics and random points, which differ between processes.
SETTINGS = {
    "MODEL.BACKBONE.NORM": "FrozenBN",
    "MODEL.SEM_SEG_HEAD.NORM": "",
    "MODEL.MASK_FORMER.MASK_LOSS": "focal",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 0,
    # AdamW divides a gradient by its magnitude, which amplifies the rounding errors of small ones.
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.MAX_ITER": STEPS,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.LOG_PERIOD": 1,
    "TEST.IMS_PER_BATCH": 2,
    "TEST.TASKS": ("semantic", "panoptic"),
    "DATALOADER.NUM_WORKERS": 0,
}


def configured(folder: Path, seed: int):
    overrides = [item for pair in SETTINGS.items() for item in pair]
    file = config_root() / "panoptic" / "shapes" / "mask2former_r18_quarter.yaml"
    return load_config(file, [*overrides, "SEED", seed, "OUTPUT_DIR", str(folder / f"seed_{seed}")])


class HalfRight(torch.nn.Module):
    """A model that returns the ground truth, with an error that depends on the image."""

    def forward(self, batched_inputs):
        return [self.spoiled(image) for image in batched_inputs]

    def spoiled(self, image):
        ids = rgb2id(np.array(Image.open(image["pan_seg_file_name"])))
        number = image["image_id"]
        ids[: 7 * number + 3] = 0
        segments, labels = [], np.zeros(ids.shape, np.int64)
        for new_id, segment in enumerate(image["segments_info"], start=1):
            pixels = ids == segment["id"]
            if not pixels.any():
                continue
            category = (segment["category_id"] + (new_id + number) % 3 // 2) % len(IS_THING)
            ids[pixels], labels[pixels] = new_id, category
            segments.append({"id": new_id, "category_id": category, "isthing": IS_THING[category]})
        scores = torch.nn.functional.one_hot(torch.from_numpy(labels), len(IS_THING))
        return {
            "sem_seg": scores.permute(2, 0, 1).float(),
            "panoptic_seg": (torch.from_numpy(ids.astype(np.int32)), segments),
        }


def train_and_test(folder: Path) -> None:
    """For `launch`: train once per seed, without evaluation, then run `evaluate` once."""
    for seed in SEEDS:
        cfg = configured(folder, seed)
        cfg.defrost()
        cfg.DATASETS.TEST = ()
        default_setup(cfg)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
    evaluate(configured(folder, SEEDS[0]), HalfRight())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of one process and of two."""
    root = tmp_path_factory.mktemp("equality")
    make_shapes(root / "shapes", train=12, val=IMAGES, size=64, workers=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        for processes in (1, 2):
            launch(train_and_test, processes, args=(root / str(processes),), device="cpu")
    return {processes: root / str(processes) for processes in (1, 2)}


@pytest.mark.parametrize("seed", SEEDS)
def test_losses_and_weights_are_equal_to_rounding(folders, seed):
    one, two = (folders[processes] / f"seed_{seed}" for processes in (1, 2))
    losses = [
        [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        for folder in (one, two)
    ]
    assert len(losses[0]) == STEPS
    for line, expected in zip(*losses, strict=True):
        for name in (name for name in expected if "loss" in name):
            assert line[name] == pytest.approx(expected[name], rel=1e-5), (expected["iteration"], name)
    assert len({round(line["loss_ce"], 2) for line in losses[0]}) > 1, "nothing was learned"
    first, second = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (one, two)
    )
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=1e-5, atol=1e-6, msg=name)


def test_an_evaluation_counts_each_image_once_and_gives_the_same_numbers(folders):
    one, two = (
        json.loads((folders[n] / f"seed_{SEEDS[0]}" / "inference" / "results.json").read_text())
        for n in (1, 2)
    )
    assert one["protocol"].pop("processes") == 1
    assert two["protocol"].pop("processes") == 2
    assert one["protocol"]["datasets"] == two["protocol"]["datasets"]
    assert list(one["protocol"]["datasets"].values()) == [IMAGES]
    assert one["results"] == two["results"]
    (metrics,) = one["results"].values()
    assert 0 < metrics["sem_seg"]["mIoU"] < 100
    assert 0 < metrics["panoptic_seg"]["PQ"] < 100
