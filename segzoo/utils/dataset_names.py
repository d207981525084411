"""Choose the dataset that defines a model's classes."""

from typing import Any


def classes_dataset(cfg: Any) -> str:
    """Return the name of the dataset whose classes the model predicts; "" if none is configured."""
    names = (cfg.DATASETS.CLASSES_FROM, *cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    return next((name for name in names if name), "")
