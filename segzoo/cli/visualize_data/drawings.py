"""Drawing training samples, or the files of a dataset, with their labels."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from tqdm import tqdm

from segzoo.data import label_reader, load_image
from segzoo.engine.trainers import find_trainer
from segzoo.utils.errors import InputError
from segzoo.visualization.draw import draw_entity, draw_instances, draw_panoptic, draw_semantic
from segzoo.visualization.panels import stack, strip

SHEET_HEIGHT = 200
SHEET_COLUMNS = 3


def training_samples(cfg: CfgNode, number: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield a name, the image of the mapper and its drawing, both (H, W, 3) uint8 RGB."""
    cfg.INPUT.TARGETS = ("segments",)  # whatever else the model is given
    loader = find_trainer(cfg).build_train_loader(cfg)
    for index, (sample,) in zip(range(number), loader, strict=False):
        image = sample["image"].permute(1, 2, 0).numpy()
        image = np.ascontiguousarray(image if cfg.INPUT.FORMAT == "RGB" else image[:, :, ::-1])
        metadata = MetadataCatalog.get(sample["dataset"])
        drawn = _draw_targets(image, sample, cfg.TASK, metadata)
        yield f"{index:04d}_{Path(sample['file_name']).stem}", image, drawn


def _draw_targets(image: np.ndarray, sample: Mapping[str, Any], task: str, metadata: Any) -> np.ndarray:
    if task == "semantic":
        return draw_semantic(image, sample["sem_seg"].numpy(), metadata.classes, metadata.colors)
    if "segment_masks" in sample:  # instances that may overlap
        masks, categories = sample["segment_masks"].numpy(), sample["segment_classes"].tolist()
        # Larger ones below, so that all are visible.
        order = np.argsort(-masks.sum(axis=(1, 2)), kind="stable")
        scores = np.ones(len(masks))
        scores[order] = np.linspace(0.5, 1, len(masks))
        return draw_instances(image, masks, categories, scores, metadata.thing_classes)
    ids = sample["segment_map"].numpy().astype(np.int32) + 1
    things = {"instance": [True] * len(metadata.thing_classes)}.get(task, metadata.isthing)
    info = [
        {"id": index + 1, "category_id": category, "isthing": things[category]}
        for index, category in enumerate(sample["segment_classes"].tolist())
    ]
    if task == "entity":
        return draw_entity(image, ids, info)
    if task == "instance":
        return draw_panoptic(image, ids, info, metadata.thing_classes, metadata.thing_colors)
    return draw_panoptic(image, ids, info, metadata.classes, metadata.colors)


def annotated_images(names: Sequence[str], number: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield a name, the image as it is on disk and its drawing, both (H, W, 3) uint8 RGB."""
    for name in names:
        reader, metadata = label_reader(name), MetadataCatalog.get(name)
        if name in reader.dataset.without_labels:
            continue
        records = DatasetCatalog.get(name)
        # Spread over the whole set: neighbors are often frames of one video.
        chosen = np.unique(np.linspace(0, len(records) - 1, min(number, len(records))).astype(int))
        for index in chosen:
            record = records[index]
            image = load_image(record)
            if "pan_seg_file_name" in record:
                ids, info = reader.load_panoptic(record)
                drawn = draw_panoptic(image, ids, info, metadata.classes, metadata.colors)
            else:
                labels = reader.load_sem_seg({**record, "height": image.shape[0], "width": image.shape[1]})
                drawn = draw_semantic(image, labels, metadata.classes, metadata.colors)
            yield f"{name}_{Path(record['file_name']).stem}", image, drawn


def draw(arguments: argparse.Namespace, chosen: CfgNode | Sequence[str]) -> None:
    """Write the drawings.

    Args:
        chosen: a configuration, whose training samples are drawn, or names of splits, whose files are.

    Raises:
        InputError: there are no labels to draw.
    """
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    draws = training_samples if arguments.source == "mapper" else annotated_images
    small = []
    for name, image, drawn in tqdm(draws(chosen, arguments.number), unit="image", leave=False, delay=1):
        Image.fromarray(strip([image, drawn], [name, arguments.source])).save(output / f"{name}.png")
        small.append(strip([image, drawn], [name[-24:], ""], SHEET_HEIGHT, gap=2))
    if not small:
        raise InputError("nothing to draw: the dataset has no images with labels")
    rows = [
        strip(small[start : start + SHEET_COLUMNS], [""] * len(small[start : start + SHEET_COLUMNS]))
        for start in range(0, len(small), SHEET_COLUMNS)
    ]
    Image.fromarray(stack(rows)).save(output / "sheet.png")
    print(f"{len(small)} images in {output}, all of them in {output / 'sheet.png'}")
