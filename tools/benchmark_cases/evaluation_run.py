"""A complete evaluation: JPEGs, a small model, metrics of three tasks; peer: Detectron2's evaluators.

Both sides run the same model on the same dataset; the loop and the evaluators differ. The network is run for
its time, and its outputs are replaced by those of a good model: random weights would predict nothing, which
is cheap to score.

Shape shorthand: Q queries, K classes, h w a quarter of the image's sides.
"""

import contextlib
import io
import itertools
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator, inference_on_dataset
from detectron2.evaluation.evaluator import DatasetEvaluators
from PIL import Image
from pycocotools import mask as rle
from torch import nn

from segzoo.data import build_test_loader, register_dataset_file
from segzoo.engine import Trainer, evaluate
from segzoo.evaluation import build_evaluator, load_results, prediction_io
from segzoo.model_zoo import load_config
from segzoo.modeling import Batch

from . import Case, Pair, scenes

IMAGES = 200
SIZES = ((480, 640), (640, 480), (427, 640))  # COCO's most frequent
TASKS = ("semantic", "panoptic", "instance")
QUERIES = 100
BATCH = 8
SCORED_ALONE = 48  # images whose predictions are kept in memory, to time the evaluators alone
# In percentage points: the sums of PQ and AP have another order in Detectron2.
TOLERANCE = 1e-6
# Of the model.
DEVICE = "cpu"
_numbers = itertools.count()


class Guess(NamedTuple):
    """The prediction of a good model for an image: two maps of the query of each pixel, and class logits.

    regions, fragments: (h, w) uint8; logits: (Q, K + 1) float32.
    """

    regions: torch.Tensor
    fragments: torch.Tensor
    logits: torch.Tensor


def write_dataset(folder: Path, number: int) -> tuple[str, dict[str, Guess]]:
    """Write images, panoptic PNGs and JSON, and register them.

    Returns:
        The dataset's name, and {image file: its prediction}.
    """
    rng = np.random.default_rng(3)
    for name in ("images", "panoptic"):
        (folder / name).mkdir()
    images, annotations, guesses = [], [], {}
    for index in range(number):
        height, width = SIZES[int(rng.choice(len(SIZES), p=(0.5, 0.25, 0.25)))]
        (ids, segments), prediction = scenes.panoptic_scene(rng, height, width)
        image_file = folder / "images" / f"{index:04d}.jpg"
        write_image(rng, image_file, ids)
        guesses[str(image_file)] = make_guess(rng, *prediction)
        prediction_io.save_ids(folder / "panoptic" / f"{index:04d}.png", ids)
        numbered = [{**one, "category_id": one["category_id"] + 1} for one in segments]
        annotation = {"file_name": f"{index:04d}.png", "image_id": index, "segments_info": numbered}
        annotations.append(annotation)
        images.append({"id": index, "file_name": f"{index:04d}.jpg", "height": height, "width": width})
    count = scenes.THINGS + scenes.STUFF
    categories = [{"id": i + 1, "name": f"class{i}", "isthing": int(i < scenes.THINGS)} for i in range(count)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    name = f"benchmark_run_{next(_numbers)}"
    lines = [
        f"name: {name}",
        f"root: {folder}",
        f"splits: {{{name}: val}}",
        "images: images",
        "annotations: annotations.json",
        "panoptic: panoptic",
        "classes:",
        *(
            f"  - {{id: {one['id']}, name: {one['name']}, isthing: {str(bool(one['isthing'])).lower()}}}"
            for one in categories
        ),
    ]
    (folder / "dataset.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    register_dataset_file(folder / "dataset.yaml")
    return name, guesses


def make_guess(rng: np.random.Generator, ids: np.ndarray, segments: list[dict]) -> Guess:
    """Return confident queries for the segments, and uncertain ones for fragments of the image."""
    regions = np.ascontiguousarray(ids[::4, ::4]).astype(np.uint8) - 1  # 255: none
    first = int(ids.max())
    fragments = scenes.regions(rng, *regions.shape, QUERIES - first) + first
    logits = rng.normal(0, 1, (QUERIES, scenes.THINGS + scenes.STUFF + 1))
    logits[:, -1] += 6
    for segment in segments:
        logits[segment["id"] - 1, segment["category_id"]] += 14
    return Guess(
        *(torch.from_numpy(one) for one in (regions, fragments.astype(np.uint8))),
        torch.tensor(logits).float(),
    )


def write_image(rng: np.random.Generator, path: Path, ids: np.ndarray) -> None:
    """Write a JPEG with a color for each segment, shading and noise: as large a file as a photograph."""
    colors = rng.integers(0, 256, (4096, 3))[ids % 4096].astype(np.float32)
    light = cv2.resize(rng.normal(0, 25, (12, 16)).astype(np.float32), ids.shape[::-1])[..., None]
    noise = rng.normal(0, 8, (*ids.shape, 1))
    image = np.clip(colors + light + noise, 0, 255).astype(np.uint8)
    Image.fromarray(image).save(path, quality=92)


class GoodHead(nn.Module):
    """A head that is computed, but whose outputs are replaced by the guesses for the images of the batch."""

    wants = ("inputs",)

    def __init__(self, head: nn.Module, guesses: Mapping[str, Guess]):
        super().__init__()
        self.head, self.guesses = head, guesses

    def forward(self, features: dict[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        outputs = self.head(features)
        guesses = [self.guesses[inputs["file_name"]] for inputs in batch.inputs]
        masks = torch.full_like(outputs["pred_masks"], -7.0)
        numbers = torch.arange(QUERIES, dtype=torch.uint8)[:, None, None]
        for planes, guess in zip(masks, guesses, strict=True):
            height, width = guess.regions.shape
            inside = (guess.regions == numbers) | (guess.fragments == numbers)
            planes[:, :height, :width] += 14.0 * inside.to(masks.device)
        logits = torch.stack([guess.logits for guess in guesses]).to(masks.device)
        return {**outputs, "pred_masks": masks, "pred_logits": logits}


def with_guesses(model: nn.Module, guesses: Mapping[str, Guess]) -> nn.Module:
    """Make a MaskFormer predict the guesses, at the cost of its own predictions; return it."""
    model.sem_seg_head = GoodHead(model.sem_seg_head, guesses)
    return model


def configuration(name: str, folder: Path) -> CfgNode:
    """Return the quickstart's configuration with 100 queries, at the images' own size."""
    overrides = {
        "MODEL.DEVICE": DEVICE,
        "DATASETS.TRAIN": "()",
        "DATASETS.TEST": f"('{name}',)",
        "DATASETS.CLASSES_FROM": name,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": QUERIES,
        "INPUT.MIN_SIZE_TEST": 0,
        "TEST.TASKS": str(TASKS),
        "TEST.IMS_PER_BATCH": BATCH,
        "DATALOADER.NUM_WORKERS": 2,
        "OUTPUT_DIR": folder / "output",
    }
    words = [str(word) for pair in overrides.items() for word in pair]
    return load_config("panoptic/shapes/mask2former_r18_quarter", words)


def register_for_detectron2(name: str, folder: Path) -> str:
    """Write and register what Detectron2's evaluators read in addition; return the new dataset's name."""
    metadata, records = MetadataCatalog.get(name), DatasetCatalog.get(name)
    (folder / "semantic").mkdir()
    images, annotations, entries = [], [], []
    for record in records:
        size = {"height": record["height"], "width": record["width"]}
        images.append({"id": record["image_id"], **size})
        ids, segments = metadata.load_panoptic(record)
        png = folder / "semantic" / f"{record['image_id']:04d}.png"
        prediction_io.save_labels(png, metadata.load_sem_seg(record))
        entries.append({**record, "sem_seg_file_name": str(png)})
        for segment in segments:
            if segment["isthing"]:
                mask = rle.encode(np.asfortranarray(ids == segment["id"], np.uint8))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": record["image_id"],
                        "category_id": segment["category_id"] + 1,
                        "iscrowd": segment["iscrowd"],
                        "area": float(rle.area(mask)),
                        "bbox": rle.toBbox(mask).tolist(),
                        "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
                    }
                )
    categories = [{"id": i + 1, "name": metadata.classes[i]} for i in range(scenes.THINGS)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(document), encoding="utf-8")
    numbers = {number: index for index, number in enumerate(metadata.contiguous_id_to_dataset_id)}
    peer = f"{name}_detectron2"
    DatasetCatalog.register(peer, lambda: entries)
    MetadataCatalog.get(peer).set(
        stuff_classes=metadata.classes,
        thing_classes=metadata.thing_classes,
        ignore_label=metadata.ignore_label,
        thing_dataset_id_to_contiguous_id={i: numbers[i] for i in list(numbers)[: scenes.THINGS]},
        stuff_dataset_id_to_contiguous_id=numbers,
        panoptic_json=str(folder / "annotations.json"),
        panoptic_root=str(folder / "panoptic"),
        json_file=str(folder / "instances.json"),
    )
    return peer


def scoring_rate(cfg: CfgNode, model: nn.Module, name: str) -> float:
    """Return the images per second that the evaluators score without waiting for predictions."""
    loader = itertools.islice(build_test_loader(cfg, name), SCORED_ALONE // BATCH)
    with torch.no_grad():
        predicted = [(inputs, model(inputs, tasks=TASKS, semantic="labels")) for inputs in loader]
    classes = MetadataCatalog.get(name).classes
    evaluator = build_evaluator(name, TASKS, model_classes=classes, scoring_threads=cfg.TEST.SCORING_THREADS)
    rates = []
    for _ in range(3):
        evaluator.reset()
        started = time.perf_counter()
        for inputs, outputs in predicted:
            evaluator.process(inputs, outputs)
        evaluator.evaluate()
        rates.append(sum(len(inputs) for inputs, _ in predicted) / (time.perf_counter() - started))
    return max(rates)


def whole_run() -> Pair:
    temporary = tempfile.TemporaryDirectory()
    folder = Path(temporary.name)
    name, guesses = write_dataset(folder, IMAGES)
    peer_name = register_for_detectron2(name, folder)
    cfg = configuration(name, folder)
    torch.manual_seed(0)
    model = with_guesses(Trainer.build_model(cfg), guesses).eval()
    alone = scoring_rate(cfg, model, name)

    def segzoo_run(keep=temporary) -> dict:
        return evaluate(cfg, model)

    def peer_run() -> dict:
        evaluators = [
            SemSegEvaluator(peer_name, distributed=False),
            COCOPanopticEvaluator(peer_name),
            COCOEvaluator(peer_name, tasks=("segm",), distributed=False, use_fast_impl=False),
        ]
        single = cfg.clone()
        single.TEST.IMS_PER_BATCH = 1  # as Detectron2 evaluates
        loader = build_test_loader(single, name, dataset=DatasetCatalog.get(peer_name))
        with contextlib.redirect_stdout(io.StringIO()):
            return inference_on_dataset(model, loader, DatasetEvaluators(evaluators))

    def compare(ours: dict, theirs: dict) -> str:
        pairs = (("sem_seg", "mIoU"), ("panoptic_seg", "PQ"), ("segm", "AP"))
        worst = max(abs(ours[task][metric] - theirs[task][metric]) for task, metric in pairs)
        percent = load_results(folder / "output" / "inference")["protocol"]["wall_time_percent"][name]
        shares = ", ".join(f"{part} {share:.1f} %" for part, share in percent.items())
        return (
            f"{'' if worst < TOLERANCE else 'DIFFERENT, '}mIoU, PQ, AP to {worst:.0e}; {shares} of the wall "
            f"time; scoring alone {alone:.0f} images/s"
        )

    return Pair(segzoo_run, peer_run, compare)


CASES = [
    Case(
        f"coco-sized-{IMAGES}",
        f"semantic, panoptic and instance evaluation of {IMAGES} images of about 480 x 640, 133 classes; "
        "peer: the same small model in Detectron2's loop with its evaluators",
        whole_run,
        memory="numpy",
        repeat=1,
        slow=True,
        recorded=False,
    )
]
