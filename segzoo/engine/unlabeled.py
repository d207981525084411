"""Warning about, and then ending, a training whose images have no labels to learn from."""

import logging
from collections.abc import Sequence

from detectron2.engine import HookBase
from detectron2.utils import comm

from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS

logger = logging.getLogger(__name__)

# Iterations before the warning, and before the training is ended (earlier only at its last iteration).
WARN_AFTER, STOP_AFTER = 10, 100
# Number of epochs before the training is ended: a random crop may miss the labels of an image.
_PASSES = 2


class UnlabeledHook(HookBase):
    """Hook that checks `trainer.saw_targets` until it is true in any process.

    Args:
        task: TASK, for the message.
        names: names of the training datasets.
        images_per_iteration: over all processes.
    """

    def __init__(self, task: str, names: Sequence[str], images_per_iteration: int):
        self._what = TASKS[task].target
        self._names = tuple(names)
        self._batch = images_per_iteration
        self._is_settled = False

    def before_train(self) -> None:
        left = self.trainer.max_iter - self.trainer.start_iter
        self._warn_at = min(WARN_AFTER, left)
        # None for a custom loader without length.
        images = self.trainer.num_images
        epochs = None if images is None else -(-_PASSES * images // self._batch)
        self._stop_at = None if epochs is None else max(STOP_AFTER, epochs)
        if epochs is not None and epochs <= left:
            # A training that ends without having learned anything has failed.
            self._stop_at = min(self._stop_at, left)

    def after_step(self) -> None:
        done = self.trainer.iter + 1 - self.trainer.start_iter
        if self._is_settled or done not in (self._warn_at, self._stop_at):
            return
        if any(comm.all_gather(self.trainer.saw_targets)):
            self._is_settled = True
            return
        found = (
            f"DATASETS.TRAIN {self._names}: no {self._what} in the {done * self._batch} images of "
            f"{done} iterations, so that nothing is learned"
        )
        advice = "`segzoo check-data` on the dataset's file shows what its labels hold"
        if done == self._stop_at:
            raise InputError(f"{found}; {advice}; compare it with encoding, classes and label_map there")
        end = "" if self._stop_at is None else f"; the training ends after {self._stop_at} such iterations"
        logger.warning("%s; %s%s", found, advice, end)
