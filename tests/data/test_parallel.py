"""Work on files in several processes: every result, in order, and no process where that takes longer."""

import os

import pytest

from segzoo.cli.parallel import map_files
from segzoo.utils.errors import InputError


def square_and_process(number):
    if number == 13:
        raise InputError("13.png: is broken")
    return number**2, os.getpid()


def results(count, workers, **options):
    return list(map_files(square_and_process, range(count), workers, "test", **options))


@pytest.mark.parametrize(
    ("count", "workers", "options", "is_alone"),
    [
        (12, 2, {}, False),
        (12, 2, {"least": 7}, True),
        (12, 1, {}, True),
        (12, 0, {}, True),
        (1, 2, {}, True),
        (0, 2, {}, True),
    ],
)
def test_results_come_in_order_from_as_many_processes_as_it_pays(count, workers, options, is_alone, capsys):
    found = results(count, workers, chunk=1, **options)
    assert [square for square, _ in found] == [number**2 for number in range(count)]
    processes = {process for _, process in found}
    assert processes <= {os.getpid()} if is_alone else os.getpid() not in processes
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_that_of_the_file(workers):
    with pytest.raises(InputError, match=r"^13\.png: is broken$"):
        results(20, workers)
