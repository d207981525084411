"""Results of a function that threads compute ahead, in order."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def map_ahead(function: Callable[..., Any], *arguments: Iterable[Any], threads: int) -> Iterator[Any]:
    """Yield `function` of one item of each iterable after the other, as `map` does, computed in threads.

    At most 2 `threads` results wait. An error of the function is raised in its turn, after the results before
    it; one of the iterables as soon as it is met.

    Args:
        threads: number of threads; below 2, nothing is computed ahead.
    """
    items = zip(*arguments, strict=True)
    if threads < 2:
        yield from itertools.starmap(function, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        waiting = deque(pool.submit(function, *one) for one in itertools.islice(items, 2 * threads))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, *one) for one in itertools.islice(items, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
