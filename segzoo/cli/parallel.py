"""Work on many files, in several processes and with a progress bar."""

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from segzoo.data.workers import as_worker

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
        function: to be called in other processes: of a module, or a `partial` of such a one.
        items: sent to these processes.
        workers: number of processes; with fewer than two, all is done in this one.
        title: of the progress bar, which shows the time left.
        unit: what an item is.
        chunk: number of items that are sent together.
        least: items of a process; with fewer, starting it takes longer than the work.
    """
    workers = min(workers, len(items) // least)
    # Where it goes to a file, a bar is a line each time.
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    pace = {"mininterval": seconds, "maxinterval": seconds, "delay": seconds}

    def watched(results: Iterator[Result]) -> Iterator[Result]:
        return iter(tqdm(results, title, len(items), unit=unit, leave=False, **pace))

    if workers < 2:
        yield from watched(map(function, items))
        return
    with multiprocessing.Pool(workers, initializer=as_worker) as pool:
        yield from watched(pool.imap(function, items, chunksize=chunk))
