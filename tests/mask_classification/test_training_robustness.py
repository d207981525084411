"""Difficult images in training, from file to gradient: mapper, model, losses."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo.config.files import config_root
from segzoo.data.mapper import SegmentationMapper
from segzoo.engine import Trainer
from segzoo.model_zoo import load_config
from tests.data.data_trees import STREET, STREET_CATEGORIES, forget, write_panoptic, write_yaml

SIDE, CROP = 64, 40
ROAD, CAR, SKY, PERSON = (one["id"] for one in STREET_CATEGORIES)
MANY = 400


def write_scenes(folder: Path) -> Path:
    """Write one image of each content, 64 x 64, with panoptic labels."""
    void = np.zeros((SIDE, SIDE), dtype=np.int64)
    maps, segments = {"empty": void, "ignored": np.full_like(void, 5), "one_class": np.full_like(void, 7)}, {}
    segments |= {"empty": [], "ignored": [{"id": 5, "category_id": PERSON, "iscrowd": 1}]}
    segments["one_class"] = [{"id": 7, "category_id": ROAD}]
    # Most crops do not contain it.
    maps["corner"] = void.copy()
    maps["corner"][:2, :2] = 9
    segments["corner"] = [{"id": 9, "category_id": CAR}]
    rows, columns = np.indices(void.shape)
    blocks = rows // 3 * 22 + columns // 3
    maps["many"] = np.where(blocks < MANY, blocks + 1, 0)
    categories = {index: (CAR, PERSON)[index % 2] for index in range(1, MANY + 1)}
    segments["many"] = [{"id": index, "category_id": category} for index, category in categories.items()]
    maps["usual"] = np.select([columns < 20, columns < 40, rows < 30], [1, 2, 3], 0)
    segments["usual"] = [
        {"id": index, "category_id": category} for index, category in ((1, ROAD), (2, CAR), (3, PERSON))
    ]
    write_panoptic(folder, maps, segments, STREET_CATEGORIES)
    content = {**STREET, "splits": {"hard_scenes": "train"}}
    return write_yaml(folder, content, "hard_scenes.yaml")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    yield write_scenes(tmp_path_factory.mktemp("scenes"))
    forget(["hard_scenes"])


NARROW = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "ResNetBackbone",
    "MODEL.BACKBONE.VARIANT": "r18_quarter",
    "MODEL.BACKBONE.NORM": "BN",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 16,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 20,
    "MODEL.MASK_FORMER.NHEADS": 4,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 32,
    "MODEL.MASK_FORMER.DEFORMABLE_FEEDFORWARD": 32,
    "MODEL.MASK_FORMER.DEC_LAYERS": 2,
    "MODEL.MASK_FORMER.DROPOUT": 0.0,
    "INPUT.MIN_SIZE_TRAIN": f"({SIDE},)",
    "DATASETS.TRAIN": "('hard_scenes',)",
}
METHODS = {"maskformer": {}, "mask2former": {"MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 112}}
TASKS = ("semantic", "panoptic", "instance", "entity")
IMAGES = ("empty", "ignored", "one_class", "corner", "many", "usual")


class Job:
    """A model of a task with its mapper; `batch` selects images by name."""

    def __init__(self, folder: Path, scenes: Path, method: str, task: str, **changes: object):
        base = {"_BASE_": str(config_root() / f"_base_/methods/{method}.yaml")}
        (folder / "model.yaml").write_text(yaml.safe_dump(base))
        keys = NARROW | METHODS[method] | {"TASK": task, "DATASETS.FILES": f"('{scenes}',)"} | changes
        cfg = load_config(folder / "model.yaml", [str(part) for pair in keys.items() for part in pair])
        torch.manual_seed(0)
        self.model = Trainer.build_model(cfg).train()
        self.mapper = SegmentationMapper(cfg, is_train=True)
        self.records = {Path(one["file_name"]).stem: one for one in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])}

    def batch(self, *names: str) -> list[dict]:
        return [self.mapper(self.records[name]) for name in names]

    def step(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        """Compute losses and gradients, and check that all are present and finite."""
        self.model.zero_grad()
        losses = self.model(batch)
        assert all(loss.isfinite() for loss in losses.values()), losses
        sum(losses.values()).backward()
        gradients = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        # Processes exchange gradients of all parameters: one missing gradient blocks all processes.
        assert [name for name, gradient in gradients.items() if gradient is None] == []
        assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
        return losses


@pytest.fixture
def make_job(tmp_path, scenes):
    return lambda method, task, **changes: Job(tmp_path, scenes, method, task, **changes)


def num_targets(batch: list[dict]) -> list[int]:
    return [len(image["segment_classes"]) for image in batch]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_any_images_alone_and_together_give_finite_losses_and_all_gradients(make_job, method, task):
    job = make_job(method, task)
    counts = {name: num_targets(job.batch(name))[0] for name in IMAGES}
    # Semantic targets are classes, crowds included; stuff is no instance.
    expected = {
        "semantic": {"empty": 0, "ignored": 1, "one_class": 1, "corner": 1, "many": 2, "usual": 3},
        "panoptic": {"empty": 0, "ignored": 0, "one_class": 1, "corner": 1, "many": MANY, "usual": 3},
        "instance": {"empty": 0, "ignored": 0, "one_class": 0, "corner": 1, "many": MANY, "usual": 2},
        "entity": {"empty": 0, "ignored": 0, "one_class": 1, "corner": 1, "many": MANY, "usual": 3},
    }
    assert counts == expected[task]
    for image in IMAGES:
        losses = job.step(job.batch(image, image))
        masks = [float(loss) for name, loss in losses.items() if "mask" in name or "dice" in name]
        assert all(value == 0 for value in masks) == (counts[image] == 0)
    job.step(job.batch(*IMAGES))


@pytest.mark.parametrize("method", METHODS)
def test_masks_emptied_by_a_crop_are_no_targets_and_training_continues(make_job, method):
    job = make_job(method, "panoptic", **{"INPUT.CROP_SIZE": f"({CROP}, {CROP})"})
    seen = Counter()
    for seed in range(6):
        np.random.seed(seed)
        batch = job.batch("corner", "usual", "many")
        assert batch[0]["image"].shape[-2:] == (CROP, CROP)
        for image in batch:
            present = image["segment_map"].unique()
            # Targets are numbered consecutively, and each has a pixel left.
            assert present[present >= 0].tolist() == list(range(len(image["segment_classes"])))
        seen[num_targets(batch)[0]] += 1
        assert num_targets(batch)[2] > 150
        if seed < 2 or num_targets(batch)[0] == 0:
            job.step(batch)
    assert seen[0] > 0


@pytest.mark.parametrize("method", METHODS)
def test_more_targets_than_queries_and_more_queries_than_targets_train(make_job, method):
    for num_queries in (3, MANY + 20):
        job = make_job(method, "entity", **{"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": num_queries})
        job.step(job.batch("many", "usual"))


@pytest.mark.parametrize("method", METHODS)
def test_a_dataset_of_one_class_trains(make_job, scenes, tmp_path, method):
    content = yaml.safe_load(scenes.read_text())
    content["splits"] = {"one_class_scenes": "train"}
    content["classes"] = content["classes"][:1]
    content["label_map"] = {"car": "void", "sky": "void", "person": "void"}
    file = write_yaml(tmp_path, {**content, "root": str(scenes.parent)}, "one.yaml")
    changes = {"DATASETS.FILES": f"('{file}',)", "DATASETS.TRAIN": "('one_class_scenes',)"}
    try:
        job = make_job(method, "panoptic", **changes)
        batch = job.batch("one_class", "empty", "usual", "corner")
    finally:
        forget(["one_class_scenes"])
    assert job.model.num_classes == 1
    assert num_targets(batch) == [1, 0, 1, 0]
    job.step(batch)


COMPUTED = ("aten::mm", "aten::addmm", "aten::bmm", "aten::sigmoid", "aten::softplus", "aten::_softmax")


class Dtypes(TorchDispatchMode):
    """Counts the dtypes in which products and activations are computed."""

    def __init__(self):
        super().__init__()
        self.seen: Counter = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.name().split(".")[0] in COMPUTED:
            self.seen[result.dtype] += 1
        return result


@pytest.mark.parametrize("method", METHODS)
def test_matching_costs_are_computed_in_float32_under_autocast(make_job, monkeypatch, method):
    job = make_job(method, "panoptic")
    matcher = job.model.criterion.matcher
    original, dtypes = matcher.forward, Dtypes()
    seen = set()

    def watched(outputs, *rest, **named):
        seen.add(outputs.layers[0]["pred_logits"].dtype)
        with dtypes:
            return original(outputs, *rest, **named)

    monkeypatch.setattr(matcher, "forward", watched)
    with torch.autocast("cpu", torch.bfloat16):
        losses = job.model(job.batch("usual", "many"))
    assert seen == {torch.bfloat16}  # the network's outputs
    assert set(dtypes.seen) == {torch.float32}
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in job.model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("images", [("empty", "ignored"), ("usual", "many"), ("empty", "one_class")])
@pytest.mark.parametrize("method", METHODS)
def test_non_finite_predictions_give_a_non_finite_loss_or_an_error(make_job, method, images, value):
    job = make_job(method, "panoptic")
    with torch.no_grad():
        job.model.sem_seg_head.predictor.class_embed.bias[0] = value
    message = ""
    try:
        total = sum(job.model(job.batch(*images)).values())
    except FloatingPointError as error:
        message = str(error)
    if message:
        assert "non-finite matching cost for image" in message
    elif value != -float("inf"):  # a class that is never predicted has no loss without a target
        assert not total.isfinite()
