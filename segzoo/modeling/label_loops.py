"""The inner loop from logits to labels, compiled by numba; see `load_loops`."""

import numpy as np

from segzoo.utils.compiled import compiled

# Values of the resized rows of all classes that are held at a time: 256 KiB fit the second-level cache.
_HELD = 65536


@compiled
def best_of_resized(scores, rows, row_weights, columns, column_weights, start, stop, labels):
    """Set labels[r, c], start <= r < stop, to the first class with the largest resized score.

    Rows of the scores are resized along their width once for all results between them.

    Args:
        scores: (K, h, w) float32, contiguous.
        rows: (H,) first source row of each result; it and those after it have the weights row_weights,
            (H, T) float32.
        columns, column_weights: the same for columns, (W,) and (S, W).
        start, stop: range of rows.
        labels: (H, W) integers, output. NaN is larger than all numbers.
    """
    num_classes = scores.shape[0]
    taps = row_weights.shape[1]
    width = columns.size
    block = min(width, max(_HELD // (taps * num_classes), 64))
    wide = np.empty((taps, num_classes, block), np.float32)
    held = np.empty(taps, np.int64)
    value = np.empty(block, np.float32)
    best = np.empty(block, np.float32)
    winner = np.empty(block, np.int32)
    for left in range(0, width, block):
        count = min(block, width - left)
        held[:] = -1
        for r in range(start, stop):
            for t in range(taps):
                source = rows[r] + t
                slot = source % taps
                if held[slot] != source:
                    held[slot] = source
                    for k in range(num_classes):
                        line = scores[k, source]
                        target = wide[slot, k]
                        for c in range(count):
                            target[c] = line[columns[left + c]] * column_weights[0, left + c]
                        for s in range(1, column_weights.shape[0]):
                            for c in range(count):
                                target[c] += line[columns[left + c] + s] * column_weights[s, left + c]
            for k in range(num_classes):
                line = wide[rows[r] % taps, k]
                weight = row_weights[r, 0]
                for c in range(count):
                    value[c] = line[c] * weight
                for t in range(1, taps):
                    line = wide[(rows[r] + t) % taps, k]
                    weight = row_weights[r, t]
                    for c in range(count):
                        value[c] += line[c] * weight
                if k == 0:
                    for c in range(count):
                        best[c] = value[c]
                        winner[c] = 0
                    continue
                index = np.int32(k)
                for c in range(count):
                    one = value[c]
                    top = best[c]
                    take = (not (one <= top)) & (top == top)
                    best[c] = one if take else top
                    winner[c] = index if take else winner[c]
            for c in range(count):
                labels[r, left + c] = winner[c]
