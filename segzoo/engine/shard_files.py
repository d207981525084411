"""Files of the shards of an evaluation: one for every TEST.SHARD_PERIOD images."""

import json
import pickle
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_atomically
from segzoo.utils.unpickling import unpickle_data


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a test set; `index` counts from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "i/n".

        Raises:
            InputError: not of this form, or not 1 <= i <= n.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--shard {text}: expected i/n with 1 <= i <= n, such as 1/4, 2/4, 3/4 and 4/4")
        return cls(int(match[1]), int(match[2]))

    def part(self, records: Sequence[Mapping]) -> list[Mapping]:
        """Return the shard's consecutive records; the sizes of shards differ by at most one record."""
        bounds = [len(records) * index // self.count for index in (self.index - 1, self.index)]
        return list(records[slice(*bounds)])


class Part(NamedTuple):
    """Results of a shard between two saves, complete in themselves.

    Attributes:
        protocol: how the images were scored; only parts with the same protocol are merged.
        images: file names.
        skipped: {file name: error message} of files skipped by DATALOADER.ON_ERROR.
        seconds: time spent on "data", "compute" and "scoring".
        scored: {task_key: records from the evaluator's `partial`}.
    """

    protocol: dict[str, Any]
    images: list[str]
    skipped: dict[str, str]
    seconds: dict[str, float]
    scored: dict[str, Any]


@dataclass
class ShardFiles:
    """Parts of all shards of a dataset.

    Attributes:
        folder: folder of the dataset, with a subfolder <i>_of_<n> for each shard.
        protocol: how images are scored now.
        modules: modules that may define the classes of the evaluators' records.
    """

    folder: Path
    protocol: dict[str, Any]
    modules: set[str]

    def write(self, shard: Shard, position: int, part: Part) -> None:
        """Save a part; `position`: that of its first image in the shard.

        Raises:
            InputError: `read` would refuse the classes of an evaluator's records; nothing is written.
        """
        data = zlib.compress(self._pickled(part), 1)
        write_atomically(self.path(shard) / f"{position:08d}.part", lambda stream: stream.write(data))

    def read(self, *shards: Shard) -> Iterator[Part]:
        """Yield the parts of shards, one in memory at a time.

        Raises:
            InputError: a file is damaged, or its images were scored by another protocol.
        """
        for shard in shards:
            for file in sorted(self.path(shard).glob("*.part")):
                try:
                    part = unpickle_data(zlib.decompress(file.read_bytes()), self.modules)
                except (zlib.error, pickle.UnpicklingError, EOFError, AttributeError, ValueError) as error:
                    raise InputError(f"{file}: not a part of a shard ({error}); delete it") from None
                self._check(file, part.protocol)
                yield part

    def done(self, shard: Shard) -> set[str]:
        """Return the file names of the images that need not be scored again."""
        return {name for part in self.read(shard) for name in (*part.images, *part.skipped)}

    def path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.index}_of_{shard.count}"

    def _pickled(self, part: Part) -> bytes:
        for key, records in part.scored.items():
            try:
                unpickle_data(pickle.dumps(records), self.modules)
            except (pickle.PickleError, AttributeError, TypeError) as error:
                raise InputError(
                    f"--shard: the records of the evaluator {key} cannot be saved ({error}); use numbers, "
                    "strings, containers, numpy arrays, NamedTuples and dataclasses of its package, or "
                    "--num-gpus, which splits every test"
                ) from None
        return pickle.dumps(part)

    def _check(self, file: Path, found: Mapping) -> None:
        for key, expected in self.protocol.items():
            if found.get(key) != expected:
                raise InputError(
                    f"{file}: was made with {key} {json.dumps(found.get(key))}, now it is "
                    f"{json.dumps(expected)}; delete {self.folder} to restart, or choose another OUTPUT_DIR"
                )
