"""Work on many files, in several processes and with a progress bar."""

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from segzoo.data.workers import init_worker

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_files(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    title: str,
    *,
    unit: str = "image",
    chunk: int = 4,
    least: int = 1,
) -> Iterator[Result]:
    """Yield `function(item)` of each item, in order.

    Args:
        function: called in other processes: a function of a module, or a `partial` of one.
        items: sent to these processes.
        workers: number of processes; with fewer than two, everything is done in this one.
        title: title of the progress bar, which shows the time left.
        unit: name of an item in the progress bar.
        chunk: number of items that are sent together.
        least: minimum number of items for a process; with fewer, starting it takes longer than the work.
    """
    workers = min(workers, len(items) // least)
    # In a file, each update of the bar is a line.
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    pace = {"mininterval": seconds, "maxinterval": seconds, "delay": seconds}

    def with_progress(results: Iterator[Result]) -> Iterator[Result]:
        return iter(tqdm(results, title, len(items), unit=unit, leave=False, **pace))

    if workers < 2:
        yield from with_progress(map(function, items))
        return
    with multiprocessing.Pool(workers, initializer=init_worker) as pool:
        yield from with_progress(pool.imap(function, items, chunksize=chunk))
