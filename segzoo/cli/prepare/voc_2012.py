"""Make VOC 2012 "train_aug", the 10,582 training images of most papers: VOC train and SBD, without VOC val.

    segzoo prepare voc_2012                        # looks for SBD below $DETECTRON2_DATASETS
    segzoo prepare voc_2012 --sbd benchmark_RELEASE/dataset
    segzoo prepare voc_2012 --check                # only count; find val images in training splits

Unpack VOCtrainval_11-May-2012.tar (VOCdevkit/VOC2012) and SBD's benchmark.tgz
(benchmark_RELEASE/dataset/cls/*.mat). Writes VOC2012/SegmentationClassAug/*.png, palette images of 0..20,
with 255 on the borders that VOC has and SBD lacks, and VOC2012/ImageSets/Segmentation/train_aug.txt. Images
that have VOC's own labels keep them. Can be interrupted and started again; until it is complete, the folder
is called SegmentationClassAug.partial.
"""

import argparse
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from segzoo.data import read_dataset_file
from segzoo.data.palettes import viewing_palette
from segzoo.utils.errors import InputError
from segzoo.utils.paths import datasets_folder

from .common import (
    at_root,
    atomic_path,
    check_splits,
    fill_folder,
    find_root,
    read_lines,
    read_mat,
    save_labels,
    save_lines,
)

LABELS, LISTS = "SegmentationClassAug", "ImageSets/Segmentation"
SBD_FOLDERS = (
    *("benchmark_RELEASE/dataset", "VOCaug/dataset", "VOCdevkit/VOCaug/dataset", "SBD/dataset", "SBD", "sbd"),
    *("VOCdevkit/benchmark_RELEASE/dataset", "voc/VOCaug/dataset"),
)
TRAIN, VAL = ("voc_2012_sem_seg_train_aug", "voc_2012_sem_seg_train"), "voc_2012_sem_seg_val"
CLASSES = 21


def find_sbd(given: str | None) -> Path:
    """Return the folder cls/ of SBD."""
    candidates = [Path(given)] if given else [datasets_folder() / folder for folder in SBD_FOLDERS]
    for candidate in candidates:
        for folder in (candidate / "cls", candidate):
            if any(folder.glob("*.mat")):
                return folder
    raise InputError(
        f"no cls/*.mat in {' or '.join(map(str, candidates))}; unpack SBD's benchmark.tgz there or give --sbd"
    )


def convert(source: Path, target: Path, palette: Sequence[Sequence[int]]) -> None:
    """Write one label file, from SBD's .mat or as a copy of VOC's PNG."""
    if source.suffix == ".png":
        if not source.is_file():
            raise InputError(f"{source}: does not exist; unpack VOCtrainval_11-May-2012.tar again")
        with atomic_path(target, durable=False) as file:
            shutil.copyfile(source, file)
        return
    labels = getattr(read_mat(source, "GTcls").flat[0], "Segmentation", None)
    if labels is None:
        raise InputError(f"{source}: its GTcls has no Segmentation; is it a file of SBD's folder cls/?")
    if labels.ndim != 2 or labels.max() >= CLASSES:
        raise InputError(f"{source}: label {labels.max()} is outside [0, {CLASSES}); unpack it again")
    save_labels(labels.astype("uint8"), target, palette)


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the labels and the list; return whether all images of the published set are there."""
    root = find_root(
        "voc_2012", arguments.root, f"{LISTS}/val.txt", "unpack VOCtrainval_11-May-2012.tar there"
    )
    if not arguments.check:
        sbd = find_sbd(arguments.sbd)
        train, val = (
            read_lines(root / LISTS / f"{split}.txt", "unpack VOCtrainval_11-May-2012.tar again")
            for split in ("train", "val")
        )
        sources = {file.stem: file for file in sbd.glob("*.mat")}
        sources.update({name: root / "SegmentationClass" / f"{name}.png" for name in train})
        names = sorted(sources.keys() - set(val))
        jobs = {f"{name}.png": sources[name] for name in names}
        make = partial(convert, palette=viewing_palette(256).tolist())
        if not fill_folder(root / LABELS, jobs, make, arguments.workers, "train_aug"):
            return False
        save_lines(names, root / LISTS / "train_aug.txt")
    return check(root)


def check(root: Path) -> bool:
    """Count images; raise InputError if a training split has images of val."""
    dataset = at_root(read_dataset_file("voc_2012"), root)
    found, complete = check_splits(dataset, skip=sorted(dataset.without_labels))
    names = {split: {Path(image.path).name for image in layout.images} for split, layout in found.items()}
    for split in TRAIN:
        common = sorted(names.get(VAL, set()) & names.get(split, set()))
        if common:
            raise InputError(
                f"{split}: {len(common)} of its images are in VOC val, first {common[0]}; a score on val "
                f"would be wrong. Remove the list and {LABELS}/, and run `segzoo prepare voc_2012` again"
            )
    return complete
