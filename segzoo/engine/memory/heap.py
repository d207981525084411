"""The resident memory that glibc's malloc needs for a sequence of allocations.

A process keeps more memory than its live blocks: freed blocks leave gaps that later blocks do not fill.
"""

import bisect
from collections.abc import Hashable

# Blocks from this size on are mapped on their own, and returned when they are freed: the largest value of
# M_MMAP_THRESHOLD, which glibc reaches once a block of this size was freed, as libraries do when they load.
_MAPPED_FROM = 32 << 20
# Free memory at the end of the heap that is returned to the system, in M_TRIM_THRESHOLD then.
_TRIMMED_FROM = 64 << 20
# PyTorch aligns to 64 bytes; a block has a header of 16.
_HEADER, _ALIGNMENT = 64 + 16, 16
_PAGE = 4096


class Heap:
    """A heap with the smallest block that fits first, and freed neighbors joined.

    Attributes:
        peak: the largest size of the heap and the mapped blocks so far, in bytes.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._mapped = 0
        self._end = 0
        self._blocks: dict[Hashable, tuple[int | None, int]] = {}  # place in the heap, None if mapped; size
        self._gaps: list[tuple[int, int]] = []  # size and place, sorted
        self._size_at: dict[int, int] = {}  # of a gap, by its first byte
        self._place_before: dict[int, int] = {}  # of a gap, by the byte after it

    def allocate(self, name: Hashable, size: int) -> None:
        """Allocate a block of `size` bytes; `name` is for `free`."""
        size = _rounded(size + _HEADER, _ALIGNMENT)
        if size >= _MAPPED_FROM:
            place, size = None, _rounded(size, _PAGE)
            self._mapped += size
        else:
            place = self._place_for(size)
        self._blocks[name] = place, size
        self.peak = max(self.peak, self._mapped + self._end)

    def free(self, name: Hashable) -> None:
        """Free the block of that name."""
        place, size = self._blocks.pop(name)
        if place is None:
            self._mapped -= size
            return
        if place in self._place_before:
            before = self._place_before[place]
            place, size = before, size + self._take(before)
        if place + size in self._size_at:
            size += self._take(place + size)
        if place + size == self._end and size > _TRIMMED_FROM:
            self._end = place
        else:
            self._leave(place, size)

    def _place_for(self, size: int) -> int:
        fitting = bisect.bisect_left(self._gaps, (size, -1))
        if fitting < len(self._gaps):
            place = self._gaps[fitting][1]
            rest = self._take(place) - size
            if rest:
                self._leave(place + size, rest)
            return place
        # At the end, from the gap there if there is one.
        place = self._end
        if place in self._place_before:
            place = self._place_before[place]
            self._take(place)
        self._end = place + size
        return place

    def _leave(self, place: int, size: int) -> None:
        bisect.insort(self._gaps, (size, place))
        self._size_at[place] = size
        self._place_before[place + size] = place

    def _take(self, place: int) -> int:
        size = self._size_at.pop(place)
        del self._place_before[place + size]
        del self._gaps[bisect.bisect_left(self._gaps, (size, place))]
        return size


def _rounded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
