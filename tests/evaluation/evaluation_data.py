"""A small panoptic dataset on disk, with void, crowd, empty images and predictions.

It reads its own files with PIL and numpy only, independent of the code under test.
"""

import json
import uuid
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

IGNORE = 255


def write_rgb_ids(path: Path, ids: np.ndarray) -> None:
    channels = [ids % 256, ids // 256 % 256, ids // 65536]
    Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(path)


def blobs(rng: np.random.Generator, height: int, width: int, count: int) -> np.ndarray:
    """(H, W) labels in [0, count): the nearest of random centers, so that segments are compact."""
    centers = rng.random((count, 2)) * (height, width)
    rows, columns = np.mgrid[:height, :width]
    distance = (rows[..., None] - centers[:, 0]) ** 2 + (columns[..., None] - centers[:, 1]) ** 2
    return distance.argmin(axis=-1)


class PanopticData:
    """A registered dataset of `num_images` images and a prediction for each.

    Attributes: name, dataset_dicts, predictions (list of (ids, segments) with contiguous categories),
    ground_truths (the same with iscrowd and area), gt_json, gt_folder.
    """

    def __init__(
        self, folder: Path, num_images: int = 8, num_classes: int = 7, seed: int = 0, max_segments=12
    ):
        self.rng = np.random.default_rng(seed)
        self.num_classes = num_classes
        self.name = f"evaluation_{uuid.uuid4().hex}"
        self.folder = folder
        self.gt_folder = folder / "panoptic"
        self.sem_folder = folder / "semantic"
        for path in (self.gt_folder, self.sem_folder):
            path.mkdir(parents=True)
        self.isthing = [category < num_classes // 2 for category in range(num_classes)]
        self.dataset_ids = [3 * category + 2 for category in range(num_classes)]
        self.max_segments = max_segments
        self.dataset_dicts, self.ground_truths, self.predictions = [], [], []
        for index in range(num_images):
            self._add_image(index)
        self.gt_json = folder / "panoptic.json"
        self._write_json()
        self._register()

    def _add_image(self, index: int) -> None:
        rng = self.rng
        height, width = (int(side) for side in rng.integers(24, 40, 2))
        truth = blobs(rng, height, width, int(rng.integers(1, self.max_segments)))
        regions = truth.copy()
        ids, segments = np.zeros((height, width), np.int32), []
        seen_crowd = set()
        for region in np.unique(truth):
            kind = rng.random()
            mask = truth == region
            if kind < 0.15 or index == 1:  # void; image 1 has no segment at all
                continue
            segment_id = int(rng.integers(1, 1 << 24))
            category = int(rng.integers(self.num_classes))
            crowd = kind < 0.3 and category not in seen_crowd
            if crowd:
                seen_crowd.add(category)
            ids[mask] = segment_id
            fields = {
                "id": segment_id,
                "category_id": category,
                "iscrowd": int(crowd),
                "area": int(mask.sum()),
            }
            segments.append({**fields, "isthing": self.isthing[category]})
        order = rng.permutation(len(segments))
        segments = [segments[i] for i in order]
        file_name = self.folder / "images" / f"{index:04d}.jpg"
        png = f"{index:04d}.png"
        write_rgb_ids(self.gt_folder / png, ids)
        semantic = np.full((height, width), IGNORE, np.uint8)
        for segment in segments:
            if not segment["iscrowd"]:
                semantic[ids == segment["id"]] = segment["category_id"]
        Image.fromarray(semantic).save(self.sem_folder / png)
        self.dataset_dicts.append(
            {
                "file_name": str(file_name),
                "image_id": 100 + index,
                "height": height,
                "width": width,
                "sem_seg_file_name": str(self.sem_folder / png),
                "pan_seg_file_name": str(self.gt_folder / png),
                "segments_info": segments,
            }
        )
        self.ground_truths.append((ids, segments))
        self.predictions.append(self._predict(regions, ids, segments, index))

    def _predict(self, regions, true_ids, true_segments, index):
        """Shifts the true regions, and gives most predictions the class of the segment they lie on."""
        rng = self.rng
        shifted = np.roll(regions, rng.integers(-3, 4, 2), axis=(0, 1))
        category_of = {segment["id"]: segment["category_id"] for segment in true_segments}
        ids, segments = np.zeros(regions.shape, np.int32), []
        for number, region in enumerate(np.unique(shifted)):
            if rng.random() < 0.1 or index == 2:  # nothing predicted; image 2 has no prediction at all
                continue
            mask = shifted == region
            values, counts = np.unique(true_ids[mask], return_counts=True)
            below = values[counts.argmax()]
            category = category_of.get(int(below), int(rng.integers(self.num_classes)))
            if rng.random() < 0.2:
                category = int(rng.integers(self.num_classes))
            segment_id = number + 1 if index % 2 else int(rng.integers(1, 1 << 24))
            ids[mask] = segment_id
            score = float(np.float32(rng.integers(1, 20) / 20))  # few values: ties
            segments.append({"id": segment_id, "category_id": category, "isthing": True, "score": score})
        return ids, segments

    def outputs(self, key: str) -> list[dict]:
        """What a model returns for all images under "panoptic_seg", "entity_seg" or "sem_seg_labels"."""
        if key == "sem_seg_labels":
            return [{key: torch.from_numpy(labels)} for labels in self.semantic_predictions()]
        return [{key: (torch.from_numpy(ids), segments)} for ids, segments in self.predictions]

    def semantic_predictions(self) -> list[np.ndarray]:
        """(H, W) uint8 labels: the panoptic prediction's classes, class 0 where there is none."""
        maps = []
        for ids, segments in self.predictions:
            labels = np.zeros(ids.shape, np.uint8)
            for segment in segments:
                labels[ids == segment["id"]] = segment["category_id"]
            maps.append(labels)
        return maps

    def _write_json(self) -> None:
        annotations = []
        for entry, (_, segments) in zip(self.dataset_dicts, self.ground_truths, strict=True):
            infos = [
                {**segment, "category_id": self.dataset_ids[segment["category_id"]]} for segment in segments
            ]
            name = Path(entry["pan_seg_file_name"]).name
            annotations.append({"image_id": entry["image_id"], "file_name": name, "segments_info": infos})
        document = {"annotations": annotations, "categories": self.categories()}
        self.gt_json.write_text(json.dumps(document))

    def categories(self) -> list[dict]:
        return [
            {"id": number, "name": f"class{index}", "isthing": int(self.isthing[index])}
            for index, number in enumerate(self.dataset_ids)
        ]

    def _register(self) -> None:
        DatasetCatalog.register(self.name, lambda: self.dataset_dicts)
        names = [f"class{index}" for index in range(self.num_classes)]
        numbers = {number: index for index, number in enumerate(self.dataset_ids)}
        MetadataCatalog.get(self.name).set(
            classes=names,
            stuff_classes=names,
            colors=[(index % 256, 2 * index % 256, 40) for index in range(self.num_classes)],
            isthing=self.isthing,
            ignore_label=IGNORE,
            evaluator_type="panoptic",
            contiguous_id_to_dataset_id=self.dataset_ids,
            stuff_dataset_id_to_contiguous_id=numbers,
            thing_dataset_id_to_contiguous_id={n: i for n, i in numbers.items() if self.isthing[i]},
            panoptic_json=str(self.gt_json),
            panoptic_root=str(self.gt_folder),
            load_sem_seg=lambda entry: np.asarray(Image.open(entry["sem_seg_file_name"])),
            load_panoptic=self._load_panoptic,
        )

    @staticmethod
    def _load_panoptic(entry: dict) -> tuple[np.ndarray, list[dict]]:
        rgb = np.asarray(Image.open(entry["pan_seg_file_name"])).astype(np.int32)
        return rgb @ np.array([1, 256, 65536], np.int32), entry["segments_info"]
