"""Data loaders from a configuration."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList, MetadataCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n
from torch.utils.data import DataLoader

from segzoo.utils.errors import InputError

from .augmentation.build import build_test_augmentations
from .batch_size import images_per_pass
from .handover import LOOK_UP, hand_over, received
from .images import range_remark
from .label_reader import check_labels
from .labeled import check_labeled
from .mapper import SegmentationMapper
from .register import label_reader
from .sampling import (
    AlikeBatches,
    EvaluationSamples,
    Failure,
    PositionedBatches,
    Skipped,
    TrainingSamples,
    build_training_sampler,
)
from .workers import as_worker

logger = logging.getLogger(__name__)

# To a multiple of this most models pad images.
_SIZE_STEP = 32
# Seconds of waiting for a batch until it is said.
FIRST_REMARK = 8.0


class Loader:
    """Batches of a torch DataLoader, each a list of mapped dicts.

    Attributes:
        skipped: {file's message: how often} of broken files that were passed over so far.
        skipped_images: {image file: message} of the images that evaluation passed over so far.
        while_waiting: called every few seconds of a longer wait for a batch, with the seconds so far.
    """

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self.skipped: dict[str, int] = {}
        self.skipped_images: dict[str, str] = {}
        self.while_waiting: Callable[[float], None] = lambda seconds: None
        self._handed_over = 0
        self._said = 0.0

    def __len__(self) -> int:
        """Batches per pass of this process; a training loader has no end and no length."""
        return len(self._loader)

    @property
    def dataset(self) -> Any:
        """What is indexed: `records` holds the dataset dicts."""
        return self._loader.dataset

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Raise InputError for a file that is broken, or wrong, unless such are to be skipped."""
        for batch in received(self._loader, self._waiting):
            self._said = 0.0
            self._handed_over += 1
            usable = []
            for sample in batch:
                if isinstance(sample, Failure):
                    raise InputError(sample.message)
                if isinstance(sample, Skipped):
                    self.skipped_images[sample.file_name] = sample.message
                    self._note(sample.message)
                    continue
                for message in sample.pop("skipped", ()):
                    self._note(message)
                usable.append(sample)
            if usable:
                yield usable

    def _waiting(self, seconds: float) -> None:
        # After a while, and again after a longer one.
        if seconds > max(FIRST_REMARK, 3 * self._said):
            self._said = seconds
            which = "a batch" if self._handed_over else "the first batch"
            workers = self._loader.num_workers
            logger.info("Waiting for %s: %.0f s, %d processes are loading", which, seconds, workers)
        self.while_waiting(seconds)

    def _note(self, message: str) -> None:
        count = self.skipped[message] = self.skipped.get(message, 0) + 1
        if count == 1:
            logger.warning("Skipped, %d broken files so far: %s", len(self.skipped), message)


def build_train_loader(
    cfg: CfgNode, start_iteration: int = 0, mapper: Any = None, dataset: Sequence[Mapping] | None = None
) -> Loader:
    """This process's endless batches for training.

    The batch of an iteration, taken over all processes, depends on the seed and the iteration alone: not on
    the number of processes or workers, nor on where a run was interrupted. Every epoch has another order.

    Args:
        cfg: DATASETS.TRAIN, SOLVER.IMS_PER_BATCH (images per update over all processes), SOLVER.ACCUMULATE,
            SEED (negative: another one each time), DATALOADER.{NUM_WORKERS,SAMPLER_TRAIN,ON_ERROR}, INPUT.
        start_iteration: updates done already; their images are passed over.
        mapper: instead of `SegmentationMapper(cfg)`.
        dataset: dataset dicts instead of those of DATASETS.TRAIN.

    Returns:
        A loader of lists of IMS_PER_BATCH / processes / ACCUMULATE mapped dicts.

    Raises:
        InputError: impossible batch size, missing data, datasets of different classes. In iteration also for
            a broken file, with DATALOADER.ON_ERROR stop.
    """
    batch_size = images_per_pass(cfg, comm.get_world_size())
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        raise InputError(
            "DATALOADER.ASPECT_RATIO_GROUPING True is not supported: a batch would depend on more than "
            "the seed and the iteration; set it to False"
        )
    skips = skips_broken(cfg)
    records = list(dataset) if dataset is not None else _training_records(cfg)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    sampler = build_training_sampler(cfg, records, seed)
    samples = TrainingSamples(
        DatasetFromList(records, copy=False),
        mapper or SegmentationMapper(cfg, True),
        seed=seed,
        skip_broken=skips,
    )
    batches = PositionedBatches(sampler, batch_size, start_iteration * cfg.SOLVER.ACCUMULATE)
    return Loader(_torch_loader(cfg, samples, batch_sampler=batches))


def build_test_loader(
    cfg: CfgNode, dataset_name: str, mapper: Any = None, dataset: Sequence[Mapping] | None = None
) -> Loader:
    """This process's share of a dataset, every image once over all processes.

    Images come in order, but for batches of several: those then have like sizes, as far as the dataset tells.

    Args:
        cfg: TEST.IMS_PER_BATCH (images per batch of a process), INPUT.{MIN_SIZE_TEST,MAX_SIZE_TEST,FORMAT},
            DATALOADER.{NUM_WORKERS,ON_ERROR}, TEST.TASKS (whose labels are read beforehand, to skip).
        dataset_name: registered name.
        mapper: instead of `SegmentationMapper(cfg, False)`.
        dataset: dataset dicts instead of all of the dataset's.

    Returns:
        A loader, with a length, of lists of mapped dicts. With DATALOADER.ON_ERROR skip it leaves out images
        that cannot be read or scored, and lists them.

    Raises:
        InputError: missing data, a batch of no image; in iteration also for a broken image.
    """
    if cfg.TEST.IMS_PER_BATCH < 1:
        raise InputError(f"TEST.IMS_PER_BATCH {cfg.TEST.IMS_PER_BATCH}: expected at least 1")
    records = DatasetCatalog.get(dataset_name) if dataset is None else list(dataset)
    if not records:
        raise InputError(f"DATASETS.TEST: {dataset_name} has no images")
    skips = skips_broken(cfg)
    _say_range(dataset_name, records, cfg)
    samples = EvaluationSamples(
        DatasetFromList(records, copy=False),
        mapper or SegmentationMapper(cfg, False),
        check=_label_check(cfg, dataset_name) if skips else None,
        skip_broken=skips,
    )
    kinds = [_tested_size(cfg, record) for record in records]
    batches = AlikeBatches(InferenceSampler(len(records)), kinds, cfg.TEST.IMS_PER_BATCH)
    return Loader(_torch_loader(cfg, samples, batch_sampler=batches))


def skips_broken(cfg: CfgNode) -> bool:
    """Return whether images that cannot be used are passed over; raises InputError for an unknown ON_ERROR."""
    if cfg.DATALOADER.ON_ERROR not in ("stop", "skip"):
        raise InputError(f"DATALOADER.ON_ERROR {cfg.DATALOADER.ON_ERROR!r} is stop or skip")
    return cfg.DATALOADER.ON_ERROR == "skip"


def _label_check(cfg: CfgNode, dataset_name: str) -> Callable[[Mapping[str, Any]], None] | None:
    """Read an image's labels as scoring will, in the workers; None where nothing is scored."""
    reader = MetadataCatalog.get(dataset_name).get("label_reader")
    if reader is None or dataset_name in reader.dataset.without_labels:
        return None
    return partial(check_labels, reader, cfg.TEST.TASKS or (cfg.TASK,))


def _tested_size(cfg: CfgNode, record: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return about the size at which a model sees an image, (height, width) in steps of 32; None if not known."""
    height, width = record.get("height"), record.get("width")
    # A wrong one of an annotation file is found when the image is read.
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        return None
    size = height, width
    for resize in build_test_augmentations(cfg):
        size = ResizeShortestEdge.get_output_shape(*size, resize.short_edge_length[0], resize.max_size)
    return tuple(-(-side // _SIZE_STEP) for side in size)


def _training_records(cfg: CfgNode) -> list[dict[str, Any]]:
    names = cfg.DATASETS.TRAIN
    if not names:
        raise InputError("DATASETS.TRAIN is empty; name a dataset to train on")
    readers = [label_reader(name) for name in names]
    first = MetadataCatalog.get(names[0]).classes
    for name in names:
        if MetadataCatalog.get(name).classes != first:
            raise InputError(
                f"DATASETS.TRAIN: {name} has other classes than {names[0]}; "
                "map both to the same with label_map"
            )
    of_names = [DatasetCatalog.get(name) for name in names]
    records = [record for of_name in of_names for record in of_name]
    if not records:
        raise InputError(f"DATASETS.TRAIN {tuple(names)} has no images")
    for name, of_name in zip(names, of_names, strict=True):
        _say_range(name, of_name, cfg)
    check_labeled(records, cfg.TASK, readers[0].is_thing, names)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        count, records = len(records), [record for record in records if _has_annotation(record)]
        if not records:
            raise InputError(
                f"DATASETS.TRAIN {tuple(names)}: none of {count} images has an annotation that is no crowd; "
                "set DATALOADER.FILTER_EMPTY_ANNOTATIONS False to train on them"
            )
    logger.info("Training on %d images of %s", len(records), ", ".join(reader.split for reader in readers))
    return records


def _say_range(name: str, records: Sequence[Mapping[str, Any]], cfg: CfgNode) -> None:
    """Say once where INPUT.IMAGE_RANGE replaces the range that the dataset's images ask for."""
    remark = range_remark(records[0], cfg.INPUT.IMAGE_RANGE) if records else ""
    if remark:
        log_first_n(logging.WARNING, f"{name}: {remark}", key="message", name=__name__)


def _has_annotation(record: Mapping[str, Any]) -> bool:
    """Return whether there is a segment that is no crowd; semantic labels are not opened to find out."""
    segments = record.get("segments_info", record.get("annotations"))
    return segments is None or any(not segment["iscrowd"] for segment in segments)


def _torch_loader(cfg: CfgNode, samples: Any, **batching: Any) -> DataLoader:
    return DataLoader(
        samples,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=hand_over,
        timeout=LOOK_UP if cfg.DATALOADER.NUM_WORKERS else 0,
        worker_init_fn=as_worker,
        # Its own: starting an iteration must not draw from the generator that dropout uses.
        generator=torch.Generator(),
        **batching,
    )
