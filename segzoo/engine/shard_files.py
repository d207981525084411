"""What the shards of an evaluation keep on disk: a file for every TEST.SHARD_PERIOD images."""

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
from segzoo.utils.unpickling import unpickled


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` parts of a test set, counted from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "i/n".

        Raises:
            InputError: not of that form, or not 1 <= i <= n.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--shard {text}: expected i/n with 1 <= i <= n, such as 1/4, 2/4, 3/4 and 4/4")
        return cls(int(match[1]), int(match[2]))

    def part(self, records: Sequence[Mapping]) -> list[Mapping]:
        """Return a run of consecutive records; the shards' lengths differ by one record at most."""
        bounds = [len(records) * index // self.count for index in (self.index - 1, self.index)]
        return list(records[slice(*bounds)])


class Part(NamedTuple):
    """What a shard scored between two times of saving, complete in itself.

    Attributes:
        protocol: how the images were scored; parts are merged only where they agree.
        images: file names.
        skipped: {file name: what is wrong} of those that DATALOADER.ON_ERROR skip passed over.
        seconds: spent on "data", "compute" and "scoring".
        scored: {task_key: what the evaluator's `partial` returned}.
    """

    protocol: dict[str, Any]
    images: list[str]
    skipped: dict[str, str]
    seconds: dict[str, float]
    scored: dict[str, Any]


@dataclass
class ShardFiles:
    """The parts of all shards of a dataset.

    Attributes:
        folder: of the dataset; it has a folder <i>_of_<n> for each shard.
        protocol: how images are scored now.
        modules: those that the classes of the evaluators' records may come from.
    """

    folder: Path
    protocol: dict[str, Any]
    modules: set[str]

    def write(self, shard: Shard, position: int, part: Part) -> None:
        """Save a part whose first image has a position in the shard.

        Raises:
            InputError: an evaluator's records are of classes that `read` refuses; nothing is written.
        """
        data = zlib.compress(self._pickled(part), 1)
        write_atomically(self.path(shard) / f"{position:08d}.part", lambda stream: stream.write(data))

    def read(self, *shards: Shard) -> Iterator[Part]:
        """Yield the parts of shards, one in memory at a time.

        Raises:
            InputError: a file is damaged, or its images were scored in another way.
        """
        for shard in shards:
            for file in sorted(self.path(shard).glob("*.part")):
                try:
                    part = unpickled(zlib.decompress(file.read_bytes()), self.modules)
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
                unpickled(pickle.dumps(records), self.modules)
            except (pickle.PickleError, AttributeError, TypeError) as error:
                raise InputError(
                    f"--shard: the records of the evaluator {key} cannot be kept in a file ({error}); let "
                    "them be numbers, text, containers, numpy arrays, NamedTuples and dataclasses of its "
                    "package, or use --num-gpus, which splits every test"
                ) from None
        return pickle.dumps(part)

    def _check(self, file: Path, found: Mapping) -> None:
        for key, expected in self.protocol.items():
            if found.get(key) != expected:
                raise InputError(
                    f"{file}: was made with {key} {json.dumps(found.get(key))}, now it is "
                    f"{json.dumps(expected)}; delete {self.folder} to test anew, or choose another OUTPUT_DIR"
                )
