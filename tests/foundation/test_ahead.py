"""Tests that results which threads compute ahead come in order, with the errors in their turn."""

import threading
import time

import pytest

from segzoo.utils.ahead import map_ahead


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_results_are_in_order_and_an_error_comes_after_those_before_it(threads):
    def slower_first(number, word):
        time.sleep((7 - number) % 4 / 500)
        if number == 5:
            raise ValueError("the fifth")
        return f"{word}{number}"

    results = map_ahead(slower_first, range(9), "abcdefghi", threads=threads)
    assert [next(results) for _ in range(5)] == ["a0", "b1", "c2", "d3", "e4"]
    with pytest.raises(ValueError, match="the fifth"):
        next(results)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_few_results_wait_and_no_thread_is_left(threads):
    started, before = [], set(threading.enumerate())
    results = map_ahead(started.append, range(1000), threads=threads)
    for number in range(20):
        next(results)
        assert len(started) <= number + 1 + 2 * threads
    results.close()
    assert len(started) < 40
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
@pytest.mark.parametrize("good", [0, 3, 12])
def test_an_error_of_the_items_comes_after_the_results_before_it(threads, good):
    def items():
        yield from range(good)
        raise OSError("no more items")

    before = set(threading.enumerate())
    results = map_ahead(lambda item: -item, items(), threads=threads)
    assert [next(results) for _ in range(good)] == [-item for item in range(good)]
    with pytest.raises(OSError, match="no more items"):
        next(results)
    assert list(results) == []
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("threads", [1, 3])
def test_a_consumer_that_stops_before_an_error_of_the_items_never_sees_it(threads):
    def items():
        yield from range(4)
        raise OSError("no more items")

    before = set(threading.enumerate())
    results = map_ahead(lambda item: -item, items(), threads=threads)
    assert next(results) == 0
    results.close()
    assert set(threading.enumerate()) <= before


def test_items_of_different_number_are_refused():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        list(map_ahead(max, range(9), range(8), threads=2))


def test_two_threads_work_at_a_time():
    both = threading.Barrier(2, timeout=30)
    assert len(list(map_ahead(lambda _: both.wait(), range(4), threads=2))) == 4
