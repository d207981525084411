"""Samplers and datasets whose order and random numbers depend on the seed and the position alone.

Training reads an endless stream of images. Position p is the p-th image over all processes: with W processes,
rank r takes the positions r, r + W, r + 2 W, ... A batch over all processes therefore holds the same images,
with the same augmentation, for any number of processes and data-loader workers, and after a resume.
"""

import itertools
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from segzoo.utils.errors import InputError

# Number of other images that are tried, each once, in place of one that cannot be read.
MAX_REPLACEMENTS = 1000


class SamplePosition(NamedTuple):
    """A position in the stream, and the index of the image there."""

    position: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which is not used


class Failure(NamedTuple):
    """Returned by a data-loader worker in place of a sample or batch, so that the error is one line."""

    message: str


class Skipped(NamedTuple):
    """Returned by a data-loader worker in place of an image that evaluation skips."""

    file_name: str
    message: str


class ResumableBatchSampler(Sampler[list[SamplePosition]]):
    """Batch sampler of this process over the endless stream, starting at any batch.

    Args:
        sampler: one of Detectron2's training samplers: yields this process's image indices.
        batch_size: images per batch of this process.
        start: batches to skip.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, start: int = 0) -> None:
        self.sampler, self.batch_size, self.start = sampler, batch_size, start
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[list[SamplePosition]]:
        first = self.start * self.batch_size
        indices = itertools.islice(self.sampler, first, None)
        positions = itertools.count(self.rank + first * self.world_size, self.world_size)
        places = (
            SamplePosition(position, index) for position, index in zip(positions, indices, strict=False)
        )
        while True:
            yield list(itertools.islice(places, self.batch_size))


class SameSizeBatchSampler(Sampler[list[int]]):
    """Batches of images of the same size, then batches of the remaining ones: each image once.

    A model runs those images of a batch together that it pads to the same size.

    Args:
        indices: of this process's images.
        sizes: a hashable for every image of the dataset, by index; None if unknown.
        batch_size: images per batch; with 1, or if all sizes are equal, the order stays.
    """

    def __init__(self, indices: Iterable[int], sizes: Sequence[Hashable], batch_size: int) -> None:
        self.batches: list[list[int]] = []
        started: dict[Hashable, list[int]] = {}
        for index in indices:
            batch = started.setdefault(sizes[index], [])
            batch.append(index)
            if len(batch) == batch_size:
                self.batches.append(started.pop(sizes[index]))
        rest = list(itertools.chain(*started.values()))
        self.batches += [rest[start : start + batch_size] for start in range(0, len(rest), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def build_training_sampler(
    cfg: CfgNode, dataset_dicts: Sequence[Mapping[str, Any]], seed: int
) -> Sampler[int]:
    """Return Detectron2's sampler named by DATALOADER.SAMPLER_TRAIN, with a seed that all processes share.

    Raises:
        InputError: unknown sampler, or one that needs segments for datasets without.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset_dicts), seed=seed)
    if name == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        return RandomSubsetTrainingSampler(len(dataset_dicts), ratio, seed_shuffle=seed, seed_subset=seed)
    if name == "RepeatFactorTrainingSampler":
        listed = [record.get("segments_info", record.get("annotations")) for record in dataset_dicts]
        if any(segments is None for segments in listed):
            raise InputError(
                f"DATALOADER.SAMPLER_TRAIN {name} needs panoptic or instance datasets; use TrainingSampler"
            )
        annotated = [{"annotations": segments} for segments in listed]
        threshold = cfg.DATALOADER.REPEAT_THRESHOLD
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(annotated, threshold)
        return RepeatFactorTrainingSampler(factors, seed=seed)
    raise InputError(
        f"DATALOADER.SAMPLER_TRAIN {name!r} is one of TrainingSampler, RandomSubsetTrainingSampler, "
        "RepeatFactorTrainingSampler"
    )


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's generators from numbers >= 0, and restore them afterwards."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seeds = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1:3])
    torch.default_generator.manual_seed(int(seeds[3]))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


class TrainingSamples(Dataset):
    """The mapped images at positions of the stream.

    Args:
        records: dataset dicts, indexable.
        mapper: maps one of them.
        seed: of all randomness, >= 0.
        skip_broken: replace an image that cannot be read by another one, instead of returning a Failure. The
            choice depends on the seed and the position alone.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        mapper: Callable[[Mapping[str, Any]], dict[str, Any]],
        seed: int = 0,
        skip_broken: bool = False,
    ) -> None:
        self.records, self.mapper, self.seed, self.skip_broken = records, mapper, seed, skip_broken

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: SamplePosition) -> dict[str, Any] | Failure:
        """Return the sample; a replacement lists the errors of the images it replaces under `skipped`."""
        position, index = place
        skipped: list[str] = []
        for attempt, candidate in enumerate(self._candidates(position, index)):
            try:
                with seeded(self.seed, position, attempt):
                    sample = self.mapper(self.records[candidate])
            except InputError as error:
                skipped.append(str(error))
                continue
            return {**sample, "skipped": skipped} if skipped else sample
        if not self.skip_broken:
            return Failure(f"{skipped[0]}; DATALOADER.ON_ERROR skip trains without such files")
        others = len(skipped) - 1
        return Failure(
            f"{skipped[0]} (none of {others} images tried in its place can be used either)"
            if others
            else f"{skipped[0]} (and there is no other image)"
        )

    def _candidates(self, position: int, index: int) -> Iterator[int]:
        """Yield the index of the image at a position, then those of its replacements."""
        yield index
        if self.skip_broken:
            order = np.random.default_rng((self.seed, position)).permutation(len(self.records))
            yield from order[order != index][:MAX_REPLACEMENTS].tolist()


class EvaluationSamples(Dataset):
    """The mapped images of a dataset, by index; a Failure for one that cannot be read.

    Args:
        records: dataset dicts, indexable.
        mapper: maps one of them.
        check: raises InputError if the labels of a mapped image cannot be read; None: labels are not checked.
        skip_broken: return a Skipped instead of a Failure.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        mapper: Callable[[Mapping[str, Any]], dict[str, Any]],
        check: Callable[[Mapping[str, Any]], None] | None = None,
        skip_broken: bool = False,
    ) -> None:
        self.records, self.mapper, self.check, self.skip_broken = records, mapper, check, skip_broken

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any] | Failure | Skipped:
        record = self.records[index]
        try:
            sample = self.mapper(record)
            if self.check is not None:
                self.check(sample)
        except InputError as error:
            return Skipped(record["file_name"], str(error)) if self.skip_broken else Failure(str(error))
        return sample
