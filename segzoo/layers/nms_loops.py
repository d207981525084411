"""The inner loop of non-maximum suppression, compiled by numba; see `load_loops`."""

from segzoo.utils.compiled import compiled


@compiled
def suppress(sides, areas, iou_threshold, alive):
    """Set alive[j] to False where the IoU of box j with an earlier box that is alive is above the threshold.

    sides: (4, B) floats x1, y1, x2, y2; areas: (B,) floats; iou_threshold: float64; alive: (B,) bool, all
    True, output.
    """
    left, top, right, bottom = sides
    for i in range(areas.size):
        if not alive[i]:
            continue
        for j in range(i + 1, areas.size):
            width = min(right[i], right[j]) - max(left[i], left[j])
            height = min(bottom[i], bottom[j]) - max(top[i], top[j])
            if alive[j] and width > 0 and height > 0:
                intersection = width * height
                if intersection / (areas[i] + areas[j] - intersection) > iou_threshold:
                    alive[j] = False
