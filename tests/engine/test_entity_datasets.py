"""Entity models on datasets of different classes: trained on both at once, and tested on each."""

import json

import numpy as np
import pytest
import train_net

from segzoo.cli import evaluate
from segzoo.data import build_train_loader
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.data.data_trees import (  # noqa: F401  a fixture
    datasets_folder,
    write_panoptic,
    write_roads,
    write_yaml,
)

SIDE = 64
# Number of segments of an image, which tells the datasets apart.
SEGMENTS = {"few": 2, "many": 4}


def write_dataset(folder, name):
    """Write NAME_train and NAME_val of six images with SEGMENTS[name] stripes, each of its own class."""
    count = SEGMENTS[name]
    categories = [{"id": 5 + 3 * n, "name": f"{name} {n}", "isthing": n % 2} for n in range(count)]
    stripes = np.repeat(np.arange(1, count + 1), SIDE // count)
    maps, segments = {}, {}
    for number in range(6):
        maps[str(number)] = np.tile(stripes, (SIDE, 1))
        segments[str(number)] = [{"id": n + 1, "category_id": one["id"]} for n, one in enumerate(categories)]
    folder.mkdir()
    write_panoptic(folder, maps, segments, categories)
    content = {
        "splits": {f"{name}_train": "train", f"{name}_val": "val"},
        "images": "images",
        "panoptic": "panoptic",
        "annotations": "panoptic.json",
        "classes": [{**one, "isthing": bool(one["isthing"])} for one in categories],
    }
    return write_yaml(folder, content, f"{name}.yaml")


@pytest.fixture
def words(datasets_folder, tmp_path):  # noqa: F811
    files = tuple(str(write_dataset(tmp_path / name, name)) for name in SEGMENTS)
    overrides = {
        "TASK": "entity",
        "DATASETS.FILES": files,
        "DATASETS.TRAIN": ("few_train", "many_train"),
        "DATASETS.TEST": ("few_val", "many_val"),
        "TEST.TASKS": ("entity",),
        "TEST.BEST_METRIC": "few_val/entity_seg/AP",
        "INPUT.LSJ_SIZE": SIDE,
        "SOLVER.IMS_PER_BATCH": 12,
        "SOLVER.MAX_ITER": 1,
        "SOLVER.WARMUP_ITERS": 0,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": tmp_path / "out",
    }
    return [str(word) for pair in overrides.items() for word in pair]


def test_a_batch_has_entities_of_all_datasets(words):
    cfg = load_config("panoptic/shapes/mask2former_r18_quarter", words)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 1
    found = set()
    for batch, _ in zip(build_train_loader(cfg), range(4), strict=False):
        for sample in batch:
            name = sample["dataset"].removesuffix("_train")
            found.add(name)
            assert sample["segment_classes"].tolist() == [0] * SEGMENTS[name]
    assert found == set(SEGMENTS)


def test_a_model_of_two_datasets_is_trained_and_tested_on_each(words, tmp_path, capfd):
    config = ["--config-file", "configs/panoptic/shapes/mask2former_r18_quarter.yaml"]
    assert train_net.main([*config, *words]) == 0
    results = json.loads((tmp_path / "out/inference/results.json").read_text())["results"]
    assert results.keys() == {"few_val", "many_val"}
    assert all("AP50" in one["entity_seg"] for one in results.values())
    capfd.readouterr()
    # The classes of the tested dataset are neither those of the first nor of the same number.
    weights = str(tmp_path / "out/model_final.pth")
    arguments = ["--weights", weights, "--data", str(tmp_path / "many/many.yaml")]
    assert evaluate.main([*arguments, "OUTPUT_DIR", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again/inference/results.json").read_text())["results"]
    assert again == {"many_val": results["many_val"]}
    printed = "".join(capfd.readouterr())
    assert "classes" not in printed.lower().replace("classes_from", ""), printed


def test_other_tasks_and_other_labels_are_refused(words, tmp_path):
    with pytest.raises(InputError, match="many_train has other classes than few_train"):
        load_config("panoptic/shapes/mask2former_r18_quarter", [*words, "TASK", "panoptic"])
    roads = write_roads(tmp_path / "roads", np.zeros((4, 6), np.uint8))
    files = (*(str(tmp_path / name / f"{name}.yaml") for name in SEGMENTS), str(roads))
    third = ["DATASETS.FILES", str(files), "DATASETS.TRAIN", "('few_train', 'roads_train')"]
    with pytest.raises(InputError, match="TASK entity needs panoptic ground truth, but roads_train has sem"):
        load_config("panoptic/shapes/mask2former_r18_quarter", [*words, *third])
