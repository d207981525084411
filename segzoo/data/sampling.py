"""Which image comes when, with which random numbers: a function of the seed and the position alone.

Training reads an endless stream of images. Position p of it is the p-th image of all processes together: with
W processes, process r takes the positions r, r + W, r + 2 W, ... So a batch over all processes holds the same
images, augmented alike, with any number of processes and of data-loading workers, and after a resume.
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

# How many other images are tried, each once, in place of one that cannot be read.
REPLACEMENTS = 1000


class Place(NamedTuple):
    """A place in the stream: its position, and the index of the image there."""

    position: int
    index: int  # type: ignore[assignment]  # replaces tuple.index, which nobody calls


class Failure(NamedTuple):
    """What a worker hands over instead of a batch, so that the error arrives in one line."""

    message: str


class Skipped(NamedTuple):
    """What a worker hands over instead of an image that evaluation passes over."""

    file_name: str
    message: str


class PositionedBatches(Sampler[list[Place]]):
    """This process's batches of an endless stream, from any batch on.

    Args:
        sampler: one of Detectron2's training samplers: yields this process's image indices.
        batch_size: images per batch of this process.
        start: batches to skip.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, start: int = 0) -> None:
        self.sampler, self.batch_size, self.start = sampler, batch_size, start
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[list[Place]]:
        first = self.start * self.batch_size
        indices = itertools.islice(self.sampler, first, None)
        positions = itertools.count(self.rank + first * self.world_size, self.world_size)
        places = (Place(position, index) for position, index in zip(positions, indices, strict=False))
        while True:
            yield list(itertools.islice(places, self.batch_size))


class AlikeBatches(Sampler[list[int]]):
    """Batches of images of one kind, then of what is left over: each image once.

    A model runs those images of a batch together that it pads to the same size.

    Args:
        indices: of this process's images.
        kinds: a hashable for every image of the dataset, by index; None for an unknown one.
        batch_size: images per batch; with 1, or with one kind, the order stays.
    """

    def __init__(self, indices: Iterable[int], kinds: Sequence[Hashable], batch_size: int) -> None:
        self.batches: list[list[int]] = []
        started: dict[Hashable, list[int]] = {}
        for index in indices:
            batch = started.setdefault(kinds[index], [])
            batch.append(index)
            if len(batch) == batch_size:
                self.batches.append(started.pop(kinds[index]))
        rest = list(itertools.chain(*started.values()))
        self.batches += [rest[start : start + batch_size] for start in range(0, len(rest), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def build_training_sampler(
    cfg: CfgNode, dataset_dicts: Sequence[Mapping[str, Any]], seed: int
) -> Sampler[int]:
    """Detectron2's sampler of DATALOADER.SAMPLER_TRAIN, with a seed that all processes share.

    Raises:
        InputError: unknown sampler, or one that needs segments where there are none.
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
    """Seed Python's, numpy's and torch's generators from numbers >= 0, and restores them afterwards."""
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
    """The mapped images at places of the stream.

    Args:
        records: dataset dicts, indexable.
        mapper: maps one of them.
        seed: of all randomness, >= 0.
        skip_broken: replace an image that cannot be read by another one, instead of handing over a Failure.
            Which one depends on the seed and the position alone.
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

    def __getitem__(self, place: Place) -> dict[str, Any] | Failure:
        """Return the sample; a replacement lists the messages of what it replaces under `skipped`."""
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
            f"{skipped[0]} (all of {others} images tried in its place cannot be used either)"
            if others
            else f"{skipped[0]} (and there is no other image)"
        )

    def _candidates(self, position: int, index: int) -> Iterator[int]:
        """Yield the image of a place, then those to try instead of it."""
        yield index
        if self.skip_broken:
            order = np.random.default_rng((self.seed, position)).permutation(len(self.records))
            yield from order[order != index][:REPLACEMENTS].tolist()


class EvaluationSamples(Dataset):
    """The mapped images of a dataset, by index; a Failure for one that cannot be read.

    Args:
        records: dataset dicts, indexable.
        mapper: maps one of them.
        check: raises InputError where the labels of a mapped image cannot be read; None does not look.
        skip_broken: hand over a Skipped instead of a Failure.
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
