#!/usr/bin/env python
"""Draws what a dataset holds, or what training sees of it after augmentation.

    python tools/visualize_data.py --config-file configs/semantic/camvid/maskformer_r18.yaml --output out/
    python tools/visualize_data.py --data camvid_val --output out/
    python tools/visualize_data.py --data roads.yaml --output out/

Writes a PNG per image, the picture beside its labels, and all of them small in sheet.png.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
import numpy as np
from command_line import EXIT_STATUS, CommandLine, end, explained, name_or_path, path_value, whole_number
from dataset_argument import data_overrides, given_splits, splits_of
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from tqdm import tqdm

from segzoo.data import build_train_loader, label_reader, load_image
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from segzoo.visualization.draw import draw_entity, draw_instances, draw_panoptic, draw_semantic
from segzoo.visualization.panels import stack, strip

SHEET_HEIGHT = 200
SHEET_COLUMNS = 3


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        description=__doc__, epilog=EXIT_STATUS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_config()
    parser.add_data()
    parser.add_argument(
        "--dataset", metavar="NAME", help="one split; default: all of --data, or the config's"
    )
    parser.add_argument("--dataset-file", type=name_or_path, metavar="FILE", help="the same as --data")
    parser.add_argument(
        "--source",
        choices=("mapper", "annotation"),
        help="what training sees (needs --config-file), or the files as they are; default: by --config-file",
    )
    parser.add_argument(
        "--output", type=path_value, required=True, metavar="DIR", help="folder for the pictures"
    )
    parser.add_argument("--number", type=whole_number(1), default=12, help="how many images (12)")
    parser.add_overrides()
    parsed = parser.parse_args(arguments)
    parsed.source = parsed.source or ("mapper" if parsed.config_file else "annotation")
    if parsed.source == "mapper" and not parsed.config_file:
        raise InputError("--source mapper needs --config-file, which says how images are augmented")
    return parsed


def training_samples(args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What the mapper yields: a name, the augmented image and its drawing, both (H, W, 3) uint8 RGB."""
    # Workers would read ahead of the few images wanted. A broken file shall be seen, not passed over.
    fixed = ["DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "1", "SOLVER.ACCUMULATE", "1"]
    data = args.dataset or args.data or args.dataset_file
    if args.dataset_file or args.data:
        splits_of(args.dataset_file or args.data)  # may register what --dataset names
    more = data_overrides(data, args.opts) if data else []
    cfg = load_config(args.config_file, [*args.opts, *more, *fixed])
    if cfg.SEED < 0:
        cfg.SEED = 0
    for number, (sample,) in zip(range(args.number), build_train_loader(cfg), strict=False):
        image = sample["image"].permute(1, 2, 0).numpy()
        image = np.ascontiguousarray(image if cfg.INPUT.FORMAT == "RGB" else image[:, :, ::-1])
        metadata = MetadataCatalog.get(sample["dataset"])
        drawn = _draw_targets(image, sample, cfg.TASK, metadata)
        yield f"{number:04d}_{Path(sample['file_name']).stem}", image, drawn


def _draw_targets(image: np.ndarray, sample: Mapping[str, Any], task: str, metadata: Any) -> np.ndarray:
    if task == "semantic":
        return draw_semantic(image, sample["sem_seg"].numpy(), metadata.classes, metadata.colors)
    if "segment_masks" in sample:  # instances that may overlap
        masks, categories = sample["segment_masks"].numpy(), sample["segment_classes"].tolist()
        # Large ones below, so that all are seen.
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


def annotated_images(args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The files as they are: a name, the image and its drawing, both (H, W, 3) uint8 RGB."""
    names = given_splits(args, args.dataset_file)
    if args.dataset:
        names = [args.dataset]
    if not names:
        raise InputError(
            "the dataset is missing; give --data with a dataset YAML or a name, or --config-file"
        )
    for name in names:
        reader, metadata = label_reader(name), MetadataCatalog.get(name)
        if name in reader.dataset.without_labels:
            continue
        records = DatasetCatalog.get(name)
        # Spread over the whole set: neighbours are often frames of one video.
        chosen = np.unique(np.linspace(0, len(records) - 1, min(args.number, len(records))).astype(int))
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


@explained
def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    output = args.output
    output.mkdir(parents=True, exist_ok=True)
    source = training_samples(args) if args.source == "mapper" else annotated_images(args)
    small = []
    for name, image, drawn in tqdm(source, unit="image", leave=False, delay=1):
        Image.fromarray(strip([image, drawn], [name, args.source])).save(output / f"{name}.png")
        small.append(strip([image, drawn], [name[-24:], ""], SHEET_HEIGHT, gap=2))
    if not small:
        raise InputError("nothing to draw: the dataset has no images with labels")
    rows = [
        strip(small[start : start + SHEET_COLUMNS], [""] * len(small[start : start + SHEET_COLUMNS]))
        for start in range(0, len(small), SHEET_COLUMNS)
    ]
    Image.fromarray(stack(rows)).save(output / "sheet.png")
    print(f"{len(small)} images in {output}, all of them in {output / 'sheet.png'}")
    return 0


if __name__ == "__main__":
    end(main())
