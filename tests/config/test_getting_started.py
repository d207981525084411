"""The worked examples of GETTING_STARTED.md do what the page says: they train, evaluate and give a number."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools"))

import train_net  # noqa: E402

EXAMPLE = re.compile(r"```(?:yaml|python)\n# file: (\S+)\n(.*?)```", re.DOTALL)
CONFIGS = ["maskformer_r18", "maskformer_plain", "last_feature_plain"]


def draw_roads(folder, count):
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in (split, f"{split}_labels"):
            (folder / kind).mkdir(parents=True)
        for index in range(count):
            horizon, verge = generator.integers(20, 40), generator.integers(10, 30)
            label = np.full((64, 96), 2, np.uint8)
            label[horizon:] = 0
            label[horizon:, :verge] = 1
            label[0, 0] = 255
            colours = np.array([[90, 90, 90], [40, 160, 40], [120, 180, 250]])[np.minimum(label, 2)]
            image = np.clip(colours + generator.normal(0, 20, colours.shape), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / split / f"{index}.jpg")
            Image.fromarray(label).save(folder / f"{split}_labels" / f"{index}.png")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("getting_started")
    shutil.copytree(REPOSITORY / "configs" / "_base_", folder / "configs" / "_base_")
    for name, text in EXAMPLE.findall((REPOSITORY / "GETTING_STARTED.md").read_text()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    draw_roads(folder / "country_roads", 4)
    return folder


@pytest.mark.parametrize("config", CONFIGS)
def test_the_example_trains_and_evaluates(workspace, monkeypatch, config):
    monkeypatch.chdir(workspace)
    monkeypatch.syspath_prepend(str(workspace))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(workspace))
    output = workspace / "output" / config
    overrides = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    overrides += ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output)]
    status = train_net.main(["--config-file", f"configs/semantic/country_roads/{config}.yaml", *overrides])
    assert status == 0
    results = json.loads((output / "inference" / "results.json").read_text())
    assert '"mIoU"' in json.dumps(results)
    assert (output / "model_final.pth").is_file()
