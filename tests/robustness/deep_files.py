"""Images of more than 8 bits, and datasets of them."""

import numpy as np

from tests.data.data_trees import ROADS, save, write_yaml

LABELS = (np.arange(24).reshape(4, 6) % 5).astype(np.uint8)


def gray_ramp(brightest):
    """(4, 6) whole numbers from 0 to `brightest`."""
    return np.linspace(0, brightest, 24).astype(np.uint16).reshape(4, 6)


def gray_of(pixels):
    """The one channel of an image whose channels are equal."""
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0]


def gray_roads(folder, brightest_of, name="roads", **keys):
    """Splits <name>_<split> of 16-bit images with these brightest values, and labels."""
    for split, values in brightest_of.items():
        for index, brightest in enumerate(values):
            save(folder / f"images/{split}/{index}.png", gray_ramp(brightest))
            save(folder / f"masks/{split}/{index}.png", LABELS)
    splits = {f"{name}_{split}": split for split in brightest_of}
    return write_yaml(folder, {**ROADS, "splits": splits, **keys}, f"{name}.yaml")
