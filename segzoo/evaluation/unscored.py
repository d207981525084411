"""The warning that predictions of a split without labels are written and not scored."""

import functools
import logging
from pathlib import Path

logger = logging.getLogger(__name__)


@functools.cache
def warn_unscored(dataset_name: str, path: Path, what: str = "predictions") -> None:
    """Log it once for each dataset and file: evaluators are built to check them, and again to run."""
    logger.warning(
        "%s has no ground truth: its %s are written to %s and not scored", dataset_name, what, path
    )
