"""Building data loaders from a configuration."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n
from torch.utils.data import DataLoader

from segzoo.utils.dataset_records import dataset_records
from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS

from .augmentation.build import build_test_augmentations
from .augmentation.pillow_resize import prepare_resize
from .batch_size import images_per_pass
from .handover import POLL_INTERVAL, hand_over, received_batches
from .images import range_override_message
from .joined_records import chosen_records, compact_records, joined_records
from .label_reader import check_labels
from .labeled import check_labeled
from .mapper import SegmentationMapper
from .register import label_reader
from .sampling import (
    EvaluationSamples,
    Failure,
    ResumableBatchSampler,
    SameSizeBatchSampler,
    Skipped,
    TrainingSamples,
    build_training_sampler,
)
from .workers import init_worker

logger = logging.getLogger(__name__)

# Most models pad images to a multiple of this.
_SIZE_STEP = 32
# Seconds of waiting for a batch before it is logged.
FIRST_WAIT_LOG = 8.0


class Loader:
    """The batches of a torch DataLoader, each a list of mapped dicts.

    Attributes:
        skipped: {error message: count} of the broken files skipped so far.
        skipped_images: {image file: error message} of the images that evaluation skipped so far.
        while_waiting: called every few seconds of a longer wait for a batch, with the seconds so far.
    """

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self.skipped: dict[str, int] = {}
        self.skipped_images: dict[str, str] = {}
        self.while_waiting: Callable[[float], None] = lambda seconds: None
        self._handed_over = 0
        self._last_log = 0.0

    def __len__(self) -> int:
        """Return this process's number of batches; a training loader is endless and has no length."""
        return len(self._loader)

    @property
    def dataset(self) -> Any:
        """The torch dataset; its `records` are the dataset dicts."""
        return self._loader.dataset

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Yield the batches; raise InputError for a broken or wrong file unless such files are skipped."""
        for batch in received_batches(self._loader, self._waiting):
            self._last_log = 0.0
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
        # Logged after a while, and again at growing intervals.
        if seconds > max(FIRST_WAIT_LOG, 3 * self._last_log):
            self._last_log = seconds
            which = "a batch" if self._handed_over else "the first batch"
            workers = self._loader.num_workers
            logger.info("Waiting for %s: %.0f s, %d data-loader workers", which, seconds, workers)
        self.while_waiting(seconds)

    def _note(self, message: str) -> None:
        count = self.skipped[message] = self.skipped.get(message, 0) + 1
        if count == 1:
            logger.warning("Skipped, %d broken files so far: %s", len(self.skipped), message)


def build_train_loader(
    cfg: CfgNode,
    start_iteration: int = 0,
    mapper: Any = None,
    dataset: Sequence[dict[str, Any]] | None = None,
) -> Loader:
    """Build the loader of this process's endless training batches.

    The batch of an iteration, taken over all processes, depends on the seed and the iteration alone: not on
    the number of processes or data-loader workers, nor on where a run was interrupted. The order changes
    every epoch.

    Args:
        cfg: DATASETS.TRAIN, SOLVER.IMS_PER_BATCH (images per update over all processes), SOLVER.ACCUMULATE,
            SEED (negative: a random one), DATALOADER.{NUM_WORKERS,SAMPLER_TRAIN,ON_ERROR}, INPUT.
        start_iteration: number of updates done already, whose images are skipped.
        mapper: replaces `SegmentationMapper(cfg)`.
        dataset: records to use instead of those of DATASETS.TRAIN.

    Returns:
        A loader of lists of IMS_PER_BATCH / processes / ACCUMULATE mapped dicts.

    Raises:
        InputError: invalid batch size, missing data, datasets with different classes; during iteration also a
            broken file, with DATALOADER.ON_ERROR stop.
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
        compact_records(records),
        mapper or SegmentationMapper(cfg, True),
        seed=seed,
        skip_broken=skips,
    )
    batches = ResumableBatchSampler(sampler, batch_size, start_iteration * cfg.SOLVER.ACCUMULATE)
    return Loader(_torch_loader(cfg, samples, batch_sampler=batches))


def build_test_loader(
    cfg: CfgNode, dataset_name: str, mapper: Any = None, dataset: Sequence[dict[str, Any]] | None = None
) -> Loader:
    """Build the loader of this process's share of a dataset; over all processes, every image comes once.

    Images are in order, except that batches of several images have similar sizes, if the sizes are known.

    Args:
        cfg: TEST.IMS_PER_BATCH (images per batch of a process), INPUT.{MIN_SIZE_TEST,MAX_SIZE_TEST,FORMAT},
            DATALOADER.{NUM_WORKERS,ON_ERROR}, TEST.TASKS (with ON_ERROR skip, whose labels are checked).
        dataset_name: registered name.
        mapper: replaces `SegmentationMapper(cfg, False)`.
        dataset: records to use instead of all records of the dataset.

    Returns:
        A loader, with a length, of lists of mapped dicts. With DATALOADER.ON_ERROR skip it leaves out images
        that cannot be read or scored, and lists them.

    Raises:
        InputError: missing data, an invalid batch size; during iteration also a broken image.
    """
    if cfg.TEST.IMS_PER_BATCH < 1:
        raise InputError(f"TEST.IMS_PER_BATCH {cfg.TEST.IMS_PER_BATCH}: expected at least 1")
    records = dataset_records(dataset_name) if dataset is None else list(dataset)
    if not records:
        raise InputError(f"DATASETS.TEST: {dataset_name} has no images")
    skips = skips_broken(cfg)
    _log_range_override(dataset_name, records, cfg)
    samples = EvaluationSamples(
        compact_records(records),
        mapper or SegmentationMapper(cfg, False),
        check=_label_check(cfg, dataset_name) if skips else None,
        skip_broken=skips,
    )
    resizes = build_test_augmentations(cfg)
    sizes = [_tested_size(resizes, record) for record in records]
    batches = SameSizeBatchSampler(InferenceSampler(len(records)), sizes, cfg.TEST.IMS_PER_BATCH)
    return Loader(_torch_loader(cfg, samples, batch_sampler=batches))


def skips_broken(cfg: CfgNode) -> bool:
    """Return whether images that cannot be used are skipped; raise InputError for an unknown ON_ERROR."""
    if cfg.DATALOADER.ON_ERROR not in ("stop", "skip"):
        raise InputError(f"DATALOADER.ON_ERROR {cfg.DATALOADER.ON_ERROR!r}; expected stop or skip")
    return cfg.DATALOADER.ON_ERROR == "skip"


def _label_check(cfg: CfgNode, dataset_name: str) -> Callable[[Mapping[str, Any]], None] | None:
    """Return the check of an image's labels for data-loader workers; None if nothing is scored."""
    reader = MetadataCatalog.get(dataset_name).get("label_reader")
    if reader is None or dataset_name in reader.dataset.without_labels:
        return None
    return partial(check_labels, reader, cfg.TEST.TASKS or (cfg.TASK,))


def _tested_size(resizes: Sequence[ResizeShortestEdge], record: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the approximate input size of an image, (height, width) in steps of 32; None if unknown."""
    height, width = record.get("height"), record.get("width")
    # Reading the image reports a wrong size in an annotation file.
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        return None
    size = height, width
    for resize in resizes:
        size = ResizeShortestEdge.get_output_shape(*size, resize.short_edge_length[0], resize.max_size)
    return tuple(-(-side // _SIZE_STEP) for side in size)


def _training_records(cfg: CfgNode) -> Sequence[dict[str, Any]]:
    names = cfg.DATASETS.TRAIN
    if not names:
        raise InputError("DATASETS.TRAIN is empty; name a dataset to train on")
    readers = [label_reader(name) for name in names]
    first = MetadataCatalog.get(names[0]).classes
    for name in names if TASKS[cfg.TASK].classes != "one" else ():
        if MetadataCatalog.get(name).classes != first:
            raise InputError(
                f"DATASETS.TRAIN: {name} has other classes than {names[0]}; "
                "map both to the same classes with label_map"
            )
    of_datasets = [dataset_records(name) for name in names]
    records = joined_records(of_datasets)
    if not records:
        raise InputError(f"DATASETS.TRAIN {tuple(names)} has no images")
    for name, listed in zip(names, of_datasets, strict=True):
        _log_range_override(name, listed, cfg)
    things = [reader.is_thing for reader in readers]
    check_labeled(list(zip(of_datasets, things, strict=True)), cfg.TASK, names)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        count = len(records)
        records = chosen_records(records, [_has_annotation(record) for record in records])
        if not records:
            raise InputError(
                f"DATASETS.TRAIN {tuple(names)}: none of {count} images has an annotation except crowds; "
                "set DATALOADER.FILTER_EMPTY_ANNOTATIONS False to train on them"
            )
    logger.info("Training on %d images of %s", len(records), ", ".join(reader.split for reader in readers))
    return records


def _log_range_override(name: str, records: Sequence[Mapping[str, Any]], cfg: CfgNode) -> None:
    """Log once if INPUT.IMAGE_RANGE replaces the range estimated from the dataset's images."""
    message = range_override_message(records[0], cfg.INPUT.IMAGE_RANGE) if records else ""
    if message:
        log_first_n(logging.WARNING, f"{name}: {message}", key="message", name=__name__)


def _has_annotation(record: Mapping[str, Any]) -> bool:
    """Return whether an image has a segment that is not a crowd; assume so for semantic labels."""
    segments = record.get("segments_info", record.get("annotations"))
    return segments is None or any(not segment["iscrowd"] for segment in segments)


def copies_to_gpu(cfg: CfgNode) -> bool:
    """Return whether the batches of a loader go to a CUDA device."""
    return torch.device(cfg.MODEL.DEVICE).type == "cuda" and torch.cuda.is_available()


def _torch_loader(cfg: CfgNode, samples: Any, **batching: Any) -> DataLoader:
    if cfg.DATALOADER.NUM_WORKERS:
        # Compiled once, not in each worker.
        prepare_resize()
    return DataLoader(
        samples,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=hand_over,
        timeout=POLL_INTERVAL if cfg.DATALOADER.NUM_WORKERS else 0,
        worker_init_fn=init_worker,
        pin_memory=copies_to_gpu(cfg),
        # A separate one: starting an iteration must not draw from the generator that dropout uses.
        generator=torch.Generator(),
        **batching,
    )
