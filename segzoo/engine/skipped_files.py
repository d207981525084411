"""What DATALOADER.ON_ERROR skip passed over: counted, listed, and said aloud."""

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
    """Lists the broken files of a training in OUTPUT_DIR/skipped_files.txt, a line each, and counts them.

    Every `period` iterations, which one process alone need not wait for, and at the end. A resumed run goes
    on with the list of the run before.
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
        # Processes that end with an error do not meet here: what is known must do.
        if self._times:
            logger.warning(
                "Skipped %d broken files, %d times in all, for other images in their places; %s lists them",
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
    """Ends an evaluation that passed over every image. Every process has to call it.

    Args:
        loader: that of this process, at its end. done: images that this process evaluated.

    Raises:
        InputError: all were passed over.
    """
    skipped = skipped_images(loader)
    if not sum(comm.all_gather(done)) and skipped:
        first = next(iter(skipped.values()))
        raise InputError(f"{first} (and none of the {len(skipped)} images can be used)")


def skipped_images(loader: Any) -> dict[str, str]:
    """The images that an evaluation passed over, of all processes: {file: what is wrong}, sorted.

    Every process has to call it.
    """
    parts = comm.all_gather(dict(getattr(loader, "skipped_images", {})))
    return dict(sorted((file, message) for part in parts for file, message in part.items()))


def describe_skipped(skipped: Mapping[str, Mapping[str, str]], images: Mapping[str, int]) -> dict:
    """For results.json, of the images that were passed over; said aloud, as the numbers are not comparable.

    Args:
        skipped: {dataset: {file: what is wrong}}. images: {dataset: images that were scored}.

    Returns:
        {} if none was, else {"images_skipped": {dataset: how many}, "skipped": `skipped`}.
    """
    counts = {name: len(files) for name, files in skipped.items() if files}
    for name, count in counts.items():
        logger.warning(
            "%s: %d of %d images skipped (DATALOADER.ON_ERROR skip): these numbers are not those of the "
            "whole set; results.json lists the files",
            name,
            count,
            count + images[name],
        )
    return {"images_skipped": counts, "skipped": {name: skipped[name] for name in counts}} if counts else {}
