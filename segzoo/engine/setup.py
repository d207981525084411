"""Setup of a job before it builds anything: folder, log, device, seed."""

import logging
import multiprocessing
import os
import random
import sys
from argparse import Namespace
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info

import segzoo
from segzoo.data import training_range
from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text
from segzoo.utils.logging import setup_logging

from .output_lock import claimed
from .rng_state import seed_everything
from .run_folder import choose_output_dir, holds_training
from .saved_config import saved_config

logger = logging.getLogger(__name__)

LOGGED_PACKAGES = ("segzoo", "detectron2", "fvcore")
# Detectron2's messages about serializing a dataset, at every evaluation: for log.txt only.
QUIET_ON_SCREEN = "detectron2.data.common"


def default_setup(cfg: CfgNode, args: Namespace | None = None) -> None:
    """Create OUTPUT_DIR with log.txt and config.yaml, start logging, pick the device, seed all generators.

    The screen of the main process shows information and warnings; log.txt (log.txt.rank<n> in the others)
    also holds the environment and the whole config. A negative SEED is replaced in `cfg` by a random one, and
    an empty INPUT.IMAGE_RANGE by the one of the training images; config.yaml shows both. Without OUTPUT_DIR a
    folder is chosen, see `choose_output_dir`.

    Args:
        cfg: changed in place (OUTPUT_DIR, MODEL.DEVICE, SEED, INPUT.IMAGE_RANGE) and then frozen.
        args: the command line, for log.txt, and to decide about an earlier run in OUTPUT_DIR.

    Raises:
        InputError: a process started by the training script runs the script again; OUTPUT_DIR cannot be
            written, another training writes there, or it holds one that is neither to be resumed nor moved;
            or MODEL.DEVICE does not exist.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(
            "the training script is run again by a process that it has started (data loading by spawn or "
            'forkserver); put what starts the training below `if __name__ == "__main__":`'
        )
    rank = comm.get_rank()
    eval_only = getattr(args, "eval_only", False)
    cfg.defrost()
    notes = choose_output_dir(cfg, args)
    output_dir = Path(cfg.OUTPUT_DIR)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        # An evaluation may run beside a training.
        if not eval_only:
            with claimed(output_dir):
                pass  # Only a check before anything is written; the trainer claims it.
        setup_logging(output_dir, rank)
    except FileExistsError:
        raise InputError(f"OUTPUT_DIR {output_dir}: {_obstacle(output_dir)}") from None
    except OSError as error:
        raise InputError(
            f"OUTPUT_DIR {output_dir}: {error.strerror}; choose a folder that can be written"
        ) from None
    for note in notes:
        logger.info("%s", note)
    device = resolve_device(cfg)
    if device != cfg.MODEL.DEVICE:
        logger.info("no CUDA device: running on the CPU, as with MODEL.DEVICE cpu")
        cfg.MODEL.DEVICE = device
    if cfg.SEED < 0:
        cfg.SEED = comm.all_gather(random.SystemRandom().randrange(2**31))[0]
        logger.info("SEED is negative: using %d; set SEED %d to repeat this run", cfg.SEED, cfg.SEED)
    if not cfg.INPUT.IMAGE_RANGE and not getattr(args, "eval_only", False):
        cfg.INPUT.IMAGE_RANGE = training_range(cfg.DATASETS.TRAIN)
    cfg.freeze()
    # Every process augments differently; data order and initial weights are synchronized separately.
    seed_everything(cfg.SEED + rank)

    logger.debug("Command line: %s", " ".join(sys.argv))
    logger.debug("Arguments: %s", args)
    logger.debug("Environment:\n%s", collect_env_info())
    logger.debug("Config:\n%s", cfg.dump())
    if comm.is_main_process():
        # An evaluation must not overwrite the configuration of a training.
        beside_training = eval_only and holds_training(output_dir)
        config_folder = output_dir / "inference" if beside_training else output_dir
        write_text(config_folder / "config.yaml", saved_config(cfg))
        processes = f", {comm.get_world_size()} processes" if comm.get_world_size() > 1 else ""
        logger.info(
            "segzoo %s on %s%s; results in %s", segzoo.__version__, cfg.MODEL.DEVICE, processes, output_dir
        )


def _obstacle(folder: Path) -> str:
    """Describe what is in the way of creating a folder, and the remedy."""
    if folder.is_symlink() and not folder.exists():
        return f"a link to {os.readlink(folder)}, which does not exist; make it, or choose another OUTPUT_DIR"
    return "a file, not a folder; choose another OUTPUT_DIR"


def resolve_device(cfg: CfgNode) -> str:
    """Return MODEL.DEVICE, or "cpu" where its default "cuda" is not available.

    Raises:
        InputError: a particular GPU, or a device of another type, is not available.
    """
    name = cfg.MODEL.DEVICE
    if not name.startswith("cuda"):
        if name.startswith("meta"):
            raise InputError(f"MODEL.DEVICE {name}: tensors without data; expected cpu, cuda, or cuda:1")
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError, ImportError):
            raise InputError(f"MODEL.DEVICE {name}: not available; use MODEL.DEVICE cpu") from None
        return name
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda":
        return "cuda" if visible else "cpu"
    if int(name.partition(":")[2]) >= visible:
        raise InputError(
            f"MODEL.DEVICE {name}: {visible} GPUs visible; use MODEL.DEVICE cpu or a lower number"
        )
    return name
