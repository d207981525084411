"""Results of a function that threads compute ahead, in order."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


def map_ahead(function: Callable[..., Any], *arguments: Iterable[Any], threads: int) -> Iterator[Any]:
    """Yield `function` of one item of each iterable after the other, as `map` does, computed in threads.

    At most 2 `threads` results wait. An error of the function or of an iterable is raised in its turn, after
    the results before it. When the iterator ends or is closed, no thread is left.

    Args:
        threads: number of threads; below 2, nothing is computed ahead.
    """
    items = zip(*arguments, strict=True)
    if threads < 2:
        yield from itertools.starmap(function, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        futures = _submitted(pool, function, items)
        waiting = deque(itertools.islice(futures, 2 * threads))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(itertools.islice(futures, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(
    pool: ThreadPoolExecutor, function: Callable[..., Any], items: Iterator[tuple[Any, ...]]
) -> Iterator[Future[Any]]:
    """Yield the future of each item; an error of the items is that of one more future, the last."""
    try:
        for one in items:
            yield pool.submit(function, *one)
    except Exception as error:
        failed: Future[Any] = Future()
        failed.set_exception(error)
        yield failed
