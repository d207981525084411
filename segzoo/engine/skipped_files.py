"""Counting, recording and logging of files skipped by DATALOADER.ON_ERROR."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text

logger = logging.getLogger(__name__)

SKIPPED_FILE = "skipped_files.txt"


class SkippedFilesHook(HookBase):
    """Hook that lists the broken files of a training in OUTPUT_DIR/skipped_files.txt, one per line.

    Several processes write it every `period` iterations, a single one in every iteration. A resumed run
    extends the list of the run before.
    """

    def __init__(self, folder: str | Path, period: int):
        self._file = Path(folder, SKIPPED_FILE)
        self._period = period if comm.get_world_size() > 1 else 1
        self._times: Counter[str] = Counter()
        self._before: set[str] = set()

    def before_train(self) -> None:
        if not comm.is_main_process():
            return
        if self.trainer.start_iter > 0 and self._file.is_file():
            self._before = set(self._file.read_text(encoding="utf-8").splitlines())
        else:
            self._file.unlink(missing_ok=True)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            self._collect()

    def after_train(self) -> None:
        # No collective operation, as processes may have ended with an error: counts are those last collected.
        if self._times:
            logger.warning(
                "Skipped %d broken files, %d times in total, and used other images instead; %s lists them",
                len(self._times),
                self._times.total(),
                self._file,
            )

    def _collect(self) -> None:
        parts = comm.gather(dict(self.trainer.skipped))
        times = sum(map(Counter, parts), Counter())
        if times and times.keys() != self._times.keys():
            lines = sorted(self._before | set(times))
            write_text(self._file, "".join(f"{line}\n" for line in lines))
        self._times = times


def require_scored_images(loader: Any, done: int) -> None:
    """Raise if an evaluation skipped every image; every process has to call it.

    Args:
        loader: the exhausted loader of this process.
        done: number of images that this process evaluated.

    Raises:
        InputError: all images were skipped.
    """
    skipped = skipped_images(loader)
    if not sum(comm.all_gather(done)) and skipped:
        first = next(iter(skipped.values()))
        raise InputError(f"{first} (and none of the {len(skipped)} images can be used)")


def skipped_images(loader: Any) -> dict[str, str]:
    """Return the images that an evaluation skipped in all processes: {file: error message}, sorted.

    Every process has to call it.
    """
    parts = comm.all_gather(dict(getattr(loader, "skipped_images", {})))
    return dict(sorted((file, message) for part in parts for file, message in part.items()))


def describe_skipped(skipped: Mapping[str, Mapping[str, str]], images: Mapping[str, int]) -> dict:
    """Return the entries of results.json on skipped images, and warn that the metrics are not comparable.

    Args:
        skipped: {dataset: {file: error message}}.
        images: {dataset: number of scored images}.

    Returns:
        {} if none was skipped, else {"images_skipped": {dataset: number}, "skipped": `skipped`}.
    """
    counts = {name: len(files) for name, files in skipped.items() if files}
    for name, count in counts.items():
        logger.warning(
            "%s: %d of %d images skipped (DATALOADER.ON_ERROR skip): these metrics are not those of the "
            "whole set; results.json lists the files",
            name,
            count,
            count + images[name],
        )
    return {"images_skipped": counts, "skipped": {name: skipped[name] for name in counts}} if counts else {}
