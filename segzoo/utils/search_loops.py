"""Binary search for compiled loops; imported only by modules of such loops."""

from segzoo.utils.compiled import compiled


@compiled
def position(ids, value):
    """Return the index of `value` in the sorted `ids`, or len(ids)."""
    low = 0
    high = ids.size
    while low < high:
        middle = (low + high) // 2
        if ids[middle] < value:
            low = middle + 1
        else:
            high = middle
    if low < ids.size and ids[low] == value:
        return low
    return ids.size
