"""How the images of an iteration are divided among processes and passes."""

from detectron2.config import CfgNode

from segzoo.utils.errors import InputError


def images_per_pass(cfg: CfgNode, processes: int) -> int:
    """Return the number of images that a process takes in one forward-backward pass.

    Raises:
        InputError: SOLVER.IMS_PER_BATCH is not divisible by the processes and SOLVER.ACCUMULATE.
    """
    batch, accumulate = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE
    if batch < 1 or accumulate < 1 or batch % (processes * accumulate):
        passes = f" x SOLVER.ACCUMULATE {accumulate}" if accumulate != 1 else ""
        what = "process" if processes == 1 else "processes"
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {batch} is not divisible by {processes} {what}{passes}; "
            "it is the number of images per update over all processes"
        )
    return batch // (processes * accumulate)
