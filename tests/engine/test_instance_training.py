"""Instance segmentation from a COCO JSON and from panoptic labels: training, evaluation, saved results."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import train_net
from detectron2.utils.events import EventStorage
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segzoo.cli import check_data, visualize_data
from segzoo.cli.prepare.shapes import make_shapes
from segzoo.data import build_train_loader
from segzoo.engine import Trainer, evaluate
from segzoo.model_zoo import load_config
from segzoo.solver import build_optimizer
from segzoo.utils.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]

SIDE = 64
DATASET = """
splits: {boxes_train: train, boxes_val: val}
images: images
instances: instances_{split}.json
classes: [box, card]
"""
CONFIG = f"""
_BASE_: {REPOSITORY}/configs/_base_/methods/mask2former.yaml
TASK: instance
DATASETS:
  FILES: ["FOLDER/boxes.yaml"]
  TRAIN: ("boxes_train",)
  TEST: ("boxes_val",)
MODEL:
  DEVICE: cpu
  BACKBONE: {{NAME: ResNetBackbone, VARIANT: r18_quarter, NORM: BN}}
  SEM_SEG_HEAD: {{CONVS_DIM: 32, MASK_DIM: 32, TRANSFORMER_ENC_LAYERS: 1}}
  MASK_FORMER:
    {{HIDDEN_DIM: 32, NUM_OBJECT_QUERIES: 12, NHEADS: 2, DIM_FEEDFORWARD: 32, DEC_LAYERS: 2,
      TRAIN_NUM_POINTS: 256}}
INPUT:
  {{AUGMENTATION: lsj, LSJ_SIZE: {SIDE}, LSJ_SCALE: [0.5, 1.5], MIN_SIZE_TEST: {SIDE}, MAX_SIZE_TEST: {SIDE}}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 2, OPTIMIZER: AdamW, BASE_LR: 0.002}}
DATALOADER: {{NUM_WORKERS: 0}}
TEST: {{TASKS: ["instance"], BEST_METRIC: segm/AP}}
SEED: 1
"""


def draw_boxes(folder, split, count):
    """Draw two or three overlapping quadrilaterals per image, as polygons; the last image has none."""
    generator = np.random.default_rng(count)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        image = Image.new("RGB", (SIDE, SIDE), (20, 30, 40))
        for _ in range(0 if number == count else generator.integers(2, 4)):
            category = int(generator.integers(1, 3))
            left, top = (int(side) for side in generator.integers(4, 24, 2))
            right, bottom = (int(side) for side in np.add((left, top), generator.integers(16, 36, 2)))
            polygon = [left, top, right, top + 3, right, bottom, left + 3, bottom]
            ImageDraw.Draw(image).polygon(polygon, fill=[(220, 60, 60), (60, 60, 220)][category - 1])
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": category,
                "iscrowd": 0,
            }
            annotations.append({**annotation, "segmentation": [[float(one) for one in polygon]]})
        image.save(folder / f"images/{split}{number}.png")
        entry = {"id": number, "file_name": f"{split}{number}.png", "height": SIDE, "width": SIDE}
        images.append(entry)
    categories = [{"id": 1, "name": "box"}, {"id": 2, "name": "card"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"instances_{split}.json").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with a dataset of overlapping instances and the output of two iterations on it."""
    folder = tmp_path_factory.mktemp("boxes")
    draw_boxes(folder, "train", 4)
    draw_boxes(folder, "val", 3)
    (folder / "boxes.yaml").write_text(DATASET)
    (folder / "config.yaml").write_text(CONFIG.replace("FOLDER", str(folder)))
    arguments = ["--config-file", str(folder / "config.yaml"), "OUTPUT_DIR", str(folder / "out")]
    assert train_net.main(arguments) == 0
    return folder


def test_training_on_overlapping_polygons_ends_with_instance_ap(job):
    lines = [json.loads(line) for line in (job / "out/metrics.json").read_text().splitlines()]
    assert {"loss_ce", "loss_mask", "loss_dice"} <= lines[-1].keys()
    metrics = json.loads((job / "out/inference/results.json").read_text())["results"]["boxes_val"]["segm"]
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-box", "AP-card"} <= metrics.keys()
    assert "Skip" not in (job / "out/log.txt").read_text()


def test_box_ap_of_masks_is_reported_and_chosen_by_if_asked_for(job, tmp_path):
    words = ["--config-file", str(job / "config.yaml"), "--eval-only"]
    words += ["MODEL.WEIGHTS", str(job / "out/model_final.pth"), "TEST.SAVE_PREDICTIONS", "True"]
    results = {}
    for name, override in (("plain", []), ("always", ["TEST.BOX_AP", "always"])):
        assert train_net.main([*words, *override, "OUTPUT_DIR", str(tmp_path / name)]) == 0
        document = json.loads((tmp_path / name / "inference/results.json").read_text())
        results[name] = document["results"]["boxes_val"]
    for shard in ("2/2", "1/2"):
        folder = ["OUTPUT_DIR", str(tmp_path / "shards"), "TEST.BEST_METRIC", "bbox/AP"]
        assert train_net.main(["--shard", shard, *words, *folder]) == 0
    document = json.loads((tmp_path / "shards/inference/results.json").read_text())
    assert document["results"]["boxes_val"] == results["always"]
    assert results["plain"] == {"segm": results["always"]["segm"]}
    assert {"AP", "AP50", "APs", "AP-box", "AP-card"} <= results["always"]["bbox"].keys()


def test_best_metric_bbox_needs_box_ap(job, tmp_path, capsys):
    words = ["--config-file", str(job / "config.yaml"), "OUTPUT_DIR", str(tmp_path)]
    assert train_net.main([*words, "TEST.BEST_METRIC", "bbox/AP", "TEST.BOX_AP", "never"]) == 2
    assert "TEST.BEST_METRIC 'bbox/AP' is not reported" in capsys.readouterr().err


def test_eval_only_writes_predictions_that_pycocotools_scores_alike(job, tmp_path):
    weights = str(job / "out/model_final.pth")
    overrides = ["MODEL.WEIGHTS", weights, "TEST.SAVE_PREDICTIONS", "True", "OUTPUT_DIR", str(tmp_path)]
    assert train_net.main(["--config-file", str(job / "config.yaml"), "--eval-only", *overrides]) == 0
    metrics = json.loads((tmp_path / "inference/results.json").read_text())["results"]["boxes_val"]["segm"]
    results = json.loads((tmp_path / "inference/coco_instances_results.json").read_text())
    assert len(results) == 3 * 24  # every pair of query and class
    truth = COCO(str(job / "instances_val.json"))
    for annotation in truth.anns.values():
        annotation["area"] = float(truth.annToMask(annotation).sum())
    for result in results:
        del result["bbox"]
    peer = COCOeval(truth, truth.loadRes(results), "segm")
    peer.evaluate()
    peer.accumulate()
    peer.summarize()
    assert metrics["AP"] == pytest.approx(100 * peer.stats[0])
    assert metrics["AR100"] == pytest.approx(100 * peer.stats[8])


def test_images_without_an_instance_are_trained_on_only_if_configured(job):
    for filtered, count in ((True, 3), (False, 4)):
        overrides = ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", str(filtered)]
        cfg = load_config(job / "config.yaml", overrides)
        assert len(build_train_loader(cfg).dataset.records) == count


def test_training_inputs_can_be_drawn(job, tmp_path):
    for source in ("mapper", "annotation"):
        arguments = ["--config-file", str(job / "config.yaml"), "--source", source, "--number", "2"]
        assert visualize_data.main([*arguments, "--output", str(tmp_path / source)]) == 0
        assert len(list((tmp_path / source).glob("*.png"))) >= 3


def test_the_dataset_can_be_checked(job, tmp_path, capsys):
    arguments = [str(job / "boxes.yaml"), "--workers", "0", "--output", str(tmp_path)]
    assert check_data.main(arguments) == 1  # the empty images of both splits are equal
    text = capsys.readouterr().out
    count = len(json.loads((job / "instances_val.json").read_text())["annotations"])
    assert f"labels   instances of {job}/instances_val.json" in text
    assert f"3 images, {count} instances" in text
    assert "pixels are void" not in text


@pytest.mark.parametrize("task", ["semantic", "panoptic", "entity"])
def test_instances_cannot_train_another_task(job, task):
    with pytest.raises(InputError, match=f"TASK {task} needs .* but boxes_train has instances"):
        load_config(job / "config.yaml", ["TASK", task])


def train(cfg, steps):
    """Return the losses of some steps on one batch, and the trained model."""
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    batch = next(iter(build_train_loader(cfg)))
    losses = []
    with EventStorage():
        for _ in range(steps):
            loss = sum(model(batch).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, model


def test_shapes_are_learned_as_instances(job, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    make_shapes(tmp_path / "shapes", train=2, val=1, size=SIDE, workers=0)
    overrides = ["DATASETS.TRAIN", "('shapes_train',)", "DATASETS.TEST", "('shapes_train',)"]
    overrides += ["INPUT.LSJ_SCALE", "(1.0, 1.0)", "INPUT.FLIP_PROB", "0.0", "OUTPUT_DIR", str(tmp_path)]
    cfg = load_config(job / "config.yaml", overrides)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 6  # the things
    losses, model = train(cfg, 60)
    assert losses[-1] < 0.6 * losses[0]
    metrics = evaluate(cfg, model)["segm"]
    assert metrics["AP50"] > 5
