"""Training images from files to tensors: segzoo's mapper, mmsegmentation's pipeline, Detectron2's transforms.

The pictures are drawn: smooth noise in JPEGs about as large as CamVid's, with label maps of 11 classes or
panoptic PNGs of 11 segments.
"""

import itertools
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances
from PIL import Image

from segzoo.data.mapper import SegmentationMapper
from segzoo.data.register import register_dataset_file
from segzoo.data.sampling import seeded
from segzoo.model_zoo import get_config

from . import Case, Pair, scenes
from .model import allow_missing_operators

IMAGES = 24
CLASSES = 11
CROP = 352
_numbers = itertools.count()


def semantic(leaf: str, targets: str) -> Pair:
    """Compare a recipe for CamVid with MMSegmentation's steps, with the same sizes, on images of 480x360."""
    folder = tempfile.TemporaryDirectory()
    records, name = _semantic_dataset(Path(folder.name))
    cfg = get_config(leaf)
    cfg.merge_from_list(["DATASETS.TRAIN", (name,), "INPUT.TARGETS", (targets,)])
    mapper = SegmentationMapper(cfg, True)
    pipeline = _mmsegmentation()
    rounds = itertools.count()

    def segzoo(keep=folder) -> list[dict]:
        number = next(rounds)
        return [_mapped(mapper, record, number, index) for index, record in enumerate(records)]

    def peer() -> list[dict]:
        return [pipeline(record) for record in records]

    # Both start from the same pixels; what they draw differs.
    ours = [np.asarray(Image.open(record["file_name"])) for record in records]
    theirs = [cv2.imread(record["file_name"])[:, :, ::-1] for record in records]
    decoded = all(map(np.array_equal, ours, theirs))

    def compare(ours: list[dict], theirs: list[dict]) -> str:
        shapes = {tuple(sample["image"].shape) for sample in ours} | {
            tuple(sample["inputs"].shape) for sample in theirs
        }
        return "same files and sizes" if decoded and shapes == {(3, CROP, CROP)} else f"DIFFERENT: {shapes}"

    return Pair(segzoo, peer, compare)


def panoptic(side: int) -> Pair:
    """Compare large-scale jitter with Detectron2's transforms and a mask of each segment."""
    folder = tempfile.TemporaryDirectory()
    records, name = _panoptic_dataset(Path(folder.name))
    cfg = get_config("panoptic/coco/mask2former_r50")
    cfg.merge_from_list(
        ["DATASETS.TRAIN", (name,), "INPUT.LSJ_SIZE", side, "INPUT.TARGETS", ("segment_map",)]
    )
    mapper = SegmentationMapper(cfg, True)
    augmentations = T.AugmentationList(
        [T.RandomFlip(), T.ResizeScale(*cfg.INPUT.LSJ_SCALE, side, side), T.FixedSizeCrop((side, side))]
    )

    def segzoo(keep=folder) -> list[dict]:
        return [_mapped(mapper, record, 0, index) for index, record in enumerate(records)]

    def peer() -> list[dict]:
        samples = []
        for index, record in enumerate(records):
            with seeded(0, index):
                samples.append(_by_detectron2(augmentations, record))
        return samples

    def compare(ours: list[dict], theirs: list[dict]) -> bool:
        return all(map(_same_sample, ours, theirs))

    return Pair(segzoo, peer, compare)


def _mapped(mapper: SegmentationMapper, record: dict, number: int, index: int) -> dict:
    with seeded(number, index):
        return mapper(record)


def _by_detectron2(augmentations: T.AugmentationList, record: dict) -> dict:
    augmented = T.AugInput(np.array(Image.open(record["file_name"]).convert("RGB")))
    transforms = augmentations(augmented)
    colors = transforms.apply_segmentation(np.array(Image.open(record["pan_seg_file_name"]))).astype(np.int64)
    ids = colors[:, :, 0] + 256 * colors[:, :, 1] + 65536 * colors[:, :, 2]
    masks = [ids == segment["id"] for segment in record["segments_info"]]
    instances = Instances(ids.shape)
    instances.gt_classes = torch.tensor([segment["category_id"] for segment in record["segments_info"]])
    masks = BitMasks(torch.stack([torch.from_numpy(np.ascontiguousarray(mask)) for mask in masks]))
    instances.gt_masks, instances.gt_boxes = masks.tensor, masks.get_bounding_boxes()
    image = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
    return {"image": image, "instances": instances}


def _same_sample(ours: dict, theirs: dict) -> bool:
    instances = theirs["instances"]
    instances = instances[instances.gt_masks.any(dim=(1, 2))]
    numbers = torch.arange(len(ours["segment_classes"]))[:, None, None]
    masks = ours["segment_map"] == numbers
    return (
        torch.equal(ours["image"], theirs["image"])
        and torch.equal(ours["segment_classes"], instances.gt_classes)
        and torch.equal(masks, instances.gt_masks)
    )


def _picture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    noise = [
        cv2.resize(rng.integers(0, 256, (height // step, width // step, 3), dtype=np.uint8), (width, height))
        for step in (24, 6, 2)
    ]
    return Image.fromarray(np.average(noise, axis=0, weights=(5, 3, 2)).astype(np.uint8))


def _semantic_dataset(root: Path) -> tuple[list[dict], str]:
    rng, name = np.random.default_rng(0), f"benchmark_loading_{next(_numbers)}"
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for number in range(IMAGES):
        _picture(rng, 360, 480).save(root / "images" / f"{number:03}.jpg", quality=90)
        truth, _ = scenes.semantic_scene(rng, CLASSES, 360, 480)
        Image.fromarray(truth).save(root / "labels" / f"{number:03}.png")
    classes = "\n".join(f"  - c{index}" for index in range(CLASSES))
    description = (
        f"name: {name}\nroot: {root}\nsplits: {{{name}: all}}\nimages: images/{{stem}}.jpg\n"
        f"labels: labels/{{stem}}.png\nencoding: index\nclasses:\n{classes}\n"
    )
    return _registered(root, name, description), name


def _panoptic_dataset(root: Path) -> tuple[list[dict], str]:
    rng, name = np.random.default_rng(0), f"benchmark_loading_{next(_numbers)}"
    for folder in ("images", "panoptic"):
        (root / folder).mkdir()
    classes = [{"id": index + 1, "name": f"c{index}", "isthing": int(index < 7)} for index in range(CLASSES)]
    content: dict = {"images": [], "annotations": [], "categories": classes}
    for number in range(1, IMAGES + 1):
        _picture(rng, 480, 640).save(root / "images" / f"{number:03}.jpg", quality=90)
        present, positions = np.unique(scenes.regions(rng, 480, 640, CLASSES), return_inverse=True)
        ids = 1000 * (present + 1) + number
        codes = ids[positions].reshape(480, 640)
        colors = np.stack([codes & 255, codes >> 8 & 255, codes >> 16], axis=2).astype(np.uint8)
        Image.fromarray(colors).save(root / "panoptic" / f"{number:03}.png")
        image = {"id": number, "file_name": f"{number:03}.jpg", "height": 480, "width": 640}
        segments = [
            {"id": int(one), "category_id": int(index) + 1, "iscrowd": 0, "area": int((codes == one).sum())}
            for one, index in zip(ids, present, strict=True)
        ]
        content["images"].append(image)
        content["annotations"].append(
            {"image_id": number, "file_name": f"{number:03}.png", "segments_info": segments}
        )
    (root / "panoptic.json").write_text(json.dumps(content), encoding="utf-8")
    listed = "\n".join(
        f"  - {{id: {one['id']}, name: {one['name']}, isthing: {str(bool(one['isthing'])).lower()}}}"
        for one in classes
    )
    description = (
        f"name: {name}\nroot: {root}\nsplits: {{{name}: all}}\nimages: images\n"
        f"annotations: panoptic.json\npanoptic: panoptic\nclasses:\n{listed}\n"
    )
    return _registered(root, name, description), name


def _registered(root: Path, name: str, description: str) -> list[dict]:
    (root / "dataset.yaml").write_text(description, encoding="utf-8")
    register_dataset_file(root / "dataset.yaml")
    return DatasetCatalog.get(name)


def _mmsegmentation() -> Callable[[dict], dict]:
    """Return MMSegmentation's training steps, with the sizes of segzoo's recipes for CamVid."""
    allow_missing_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings for the peer's own users
        import mmseg.datasets.transforms  # noqa: F401  registers them
        from mmcv.transforms import Compose
        from mmengine.registry import init_default_scope
        from mmseg.registry import TRANSFORMS

        init_default_scope("mmseg")
        steps = [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations"},
            {"type": "RandomResize", "scale": (480, 360), "ratio_range": (0.5, 2.0), "keep_ratio": True},
            {"type": "RandomCrop", "crop_size": (CROP, CROP), "cat_max_ratio": 0.75},
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PhotoMetricDistortion"},
        ]
        # Segzoo pads in the mapper; here the model's preprocessor does it, after a collate of unequal sizes.
        pad = {"type": "Pad", "size": (CROP, CROP), "pad_val": {"img": 128, "seg": 255}}
        pipeline = Compose([TRANSFORMS.build(step) for step in (*steps, pad, {"type": "PackSegInputs"})])

    def load(record: dict) -> dict:
        return pipeline(
            {
                "img_path": record["file_name"],
                "seg_map_path": record["sem_seg_file_name"],
                "reduce_zero_label": False,
                "seg_fields": [],
                "label_map": None,
            }
        )

    return load


SEMANTIC = f"loading {IMAGES} images: resize, crop 352, color jitter, flip"

CASES = [
    Case(
        name="semantic-480x360-pillow",
        description=f"{SEMANTIC}, resize by Pillow's filter; peer: mmsegmentation's pipeline (OpenCV)",
        scene="as large as CamVid's: 480 x 360",
        needs=("mmseg",),
        make=lambda: semantic("semantic/camvid/maskformer_r18", "segment_map"),
        goal=1.0,
        memory="numpy",
    ),
    Case(
        name="semantic-480x360-opencv",
        description=f"{SEMANTIC}, resize by OpenCV as in SegFormer's recipe; peer: mmsegmentation's pipeline",
        scene="as large as CamVid's: 480 x 360",
        needs=("mmseg",),
        make=lambda: semantic("semantic/camvid/segformer_mit_b0", "class_map"),
        goal=1.0,
        memory="numpy",
    ),
    Case(
        name="panoptic-lsj-1024",
        description=f"loading {IMAGES} panoptic images, large-scale jitter to 1024; peer: Detectron2's "
        "transforms, a mask of each segment",
        scene="480 x 640 with 11 segments, as in COCO",
        make=lambda: panoptic(1024),
        goal=2.0,
        memory="numpy",
    ),
]
