"""The table of per-class numbers that evaluators log."""

import math
from collections.abc import Iterable, Sequence

from tabulate import tabulate


def class_table(names: Sequence[str], columns: Sequence[str], rows: Iterable[Sequence[float]]) -> str:
    """A pipe table of the classes that have numbers, and a line that counts those that do not.

    Args:
        names: of the K classes.
        columns: what the numbers are.
        rows: K rows of len(columns) numbers; a class that does not occur has NaN in all.
    """
    present = [
        [name, *row] for name, row in zip(names, rows, strict=True) if not all(math.isnan(v) for v in row)
    ]
    table = tabulate(present, ["class", *columns], tablefmt="pipe", floatfmt=".2f")
    absent = len(names) - len(present)
    note = f"\n({absent} classes that do not occur are left out)" if absent else ""
    return table + note
