"""What a job does before it builds anything: folder, log, device, seed, and what its checkpoints will say."""

import contextlib
import logging
import multiprocessing
import os
import random
import shutil
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from termcolor import colored

import segzoo
from segzoo.data import training_range
from segzoo.errors import InputError
from segzoo.evaluation.files import write_text_atomically
from segzoo.model_zoo.saved_config import saved_config
from segzoo.terminal import ScreenHandler, allow_any_character

from .output_folder import claimed
from .random_state import seed_everything
from .recording import fitted
from .run_folder import holds_training, settle_output_dir

logger = logging.getLogger(__name__)

LOGGED_PACKAGES = ("segzoo", "detectron2", "fvcore")
# Detectron2's remarks on packing a dataset in memory, at every evaluation: for log.txt only.
QUIET_ON_SCREEN = "detectron2.data.common"


def default_setup(cfg: CfgNode, args: Namespace | None = None) -> None:
    """Makes OUTPUT_DIR with log.txt and config.yaml, starts logging, picks the device, seeds all generators.

    The screen of the main process shows information and warnings; log.txt (log.txt.rank<n> of the others)
    also holds the environment and the whole config. A negative SEED is replaced in `cfg` by a random one,
    which config.yaml then shows, and so is an INPUT.IMAGE_RANGE that the training's images ask for. Without
    OUTPUT_DIR a folder is chosen, see `settle_output_dir`.

    Args:
        cfg: changed in place (OUTPUT_DIR, MODEL.DEVICE, SEED, INPUT.IMAGE_RANGE) and then frozen.
        args: the command line, for log.txt, and for what is to be done with an earlier run in OUTPUT_DIR.

    Raises:
        InputError: a process that a script has started runs the script once more; OUTPUT_DIR cannot be
            written, another training writes there, or it holds one that is neither to be resumed nor to be
            moved away; or MODEL.DEVICE does not exist.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(
            "the script that trains is run once more by a process that it has started (data loading by "
            'spawn or forkserver); put what starts the training below `if __name__ == "__main__":`'
        )
    rank = comm.get_rank()
    eval_only = getattr(args, "eval_only", False)
    cfg.defrost()
    notes = settle_output_dir(cfg, args)
    output_dir = Path(cfg.OUTPUT_DIR)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        # An evaluation may run beside the training that writes there.
        if not eval_only:
            with claimed(output_dir):
                pass  # Only asked: the trainer claims it. Nothing has been written yet.
        setup_logging(output_dir, rank)
    except FileExistsError:
        raise InputError(f"OUTPUT_DIR {output_dir}: {_in_its_place(output_dir)}") from None
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
    # Every process augments differently; data order and initial weights are shared by other means.
    seed_everything(cfg.SEED + rank)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK

    logger.debug("Command line: %s", " ".join(sys.argv))
    logger.debug("Arguments: %s", args)
    logger.debug("Environment:\n%s", collect_env_info())
    logger.debug("Config:\n%s", cfg.dump())
    if comm.is_main_process():
        # The configuration of a training stays beside it, whatever it is tested with.
        beside_training = eval_only and holds_training(output_dir)
        config_folder = output_dir / "inference" if beside_training else output_dir
        write_text_atomically(config_folder / "config.yaml", saved_config(cfg))
        processes = f", {comm.get_world_size()} processes" if comm.get_world_size() > 1 else ""
        logger.info(
            "segzoo %s on %s%s; results in %s", segzoo.__version__, cfg.MODEL.DEVICE, processes, output_dir
        )


def _in_its_place(folder: Path) -> str:
    """What is there where a folder cannot be made, and what to do."""
    if folder.is_symlink() and not folder.exists():
        return f"a link to {os.readlink(folder)}, which does not exist; make it, or choose another OUTPUT_DIR"
    return "a file, not a folder; choose another OUTPUT_DIR"


def resolve_device(cfg: CfgNode) -> str:
    """MODEL.DEVICE, or "cpu" where its default "cuda" is not there.

    Raises:
        InputError: a particular GPU, or a device of another kind, is asked for that is not there.
    """
    name = cfg.MODEL.DEVICE
    if not name.startswith("cuda"):
        if name.startswith("meta"):
            raise InputError(f"MODEL.DEVICE {name}: tensors without numbers; expected cpu, cuda, or cuda:1")
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError, ImportError):
            raise InputError(f"MODEL.DEVICE {name}: not there; use MODEL.DEVICE cpu") from None
        return name
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda":
        return "cuda" if visible else "cpu"
    if int(name.partition(":")[2]) >= visible:
        raise InputError(
            f"MODEL.DEVICE {name}: {visible} GPUs visible; use MODEL.DEVICE cpu or a lower number"
        )
    return name


def setup_logging(output_dir: Path | None, rank: int = 0) -> None:
    """Sends the log to the screen (rank 0) and to OUTPUT_DIR/log.txt, instead of where it went before."""
    handlers: list[logging.Handler] = []
    if rank == 0 and sys.stdout is not None:  # closed, as by >&-
        allow_any_character()
        screen = ScreenHandler(sys.stdout)
        screen.setLevel(logging.INFO)
        screen.addFilter(lambda record: record.levelno > logging.INFO or record.name != QUIET_ON_SCREEN)
        screen.setFormatter(_ScreenFormatter(sys.stdout.isatty()))
        handlers.append(screen)
    if output_dir is not None:
        name = "log.txt" if rank == 0 else f"log.txt.rank{rank}"
        file = _LogFile(output_dir / name, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(
            logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
        )
        handlers.append(file)
    for package in LOGGED_PACKAGES:
        package_logger = logging.getLogger(package)
        package_logger.setLevel(logging.DEBUG)
        package_logger.propagate = False
        for old in list(package_logger.handlers):
            package_logger.removeHandler(old)
            old.close()
        for handler in handlers:
            package_logger.addHandler(handler)


class _LogFile(WatchedFileHandler):
    """Silent where the disk is full: metrics.json and checkpoints are what a training ends for.

    It goes on in a new file where its own was removed.
    """

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # the folder was removed, too
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  its name in `logging`
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _ScreenFormatter(logging.Formatter):
    """Short lines: time and message, and the level where it is a warning or worse.

    On a terminal they are coloured, and lines of fields fit its width.
    """

    def __init__(self, coloured: bool):
        super().__init__("%(message)s", datefmt="%m/%d %H:%M:%S")
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        parts = [self._paint(f"[{self.formatTime(record, self.datefmt)}]", "green")]
        if record.levelno >= logging.WARNING:
            parts.append(self._paint(record.levelname, "red"))
        message = super().format(record)
        if self._coloured and hasattr(record, "fields"):
            indent = " " * len(f"[{self.formatTime(record, self.datefmt)}] ")
            width = shutil.get_terminal_size().columns - len(indent)
            message = f"\n{indent}".join(fitted(record.fields, width))
        return " ".join([*parts, message])

    def _paint(self, text: str, color: str) -> str:
        return colored(text, color, force_color=True) if self._coloured else text


def take_trained_range(cfg: CfgNode, description: Mapping[str, Any] | None) -> None:
    """Sets an empty INPUT.IMAGE_RANGE to the one that a checkpoint's self-description has, if any."""
    trained = (description or {}).get("image_range", ())
    if trained and not cfg.INPUT.IMAGE_RANGE:
        cfg.defrost()
        cfg.INPUT.IMAGE_RANGE = tuple(trained)
        cfg.freeze()


def describe(cfg: CfgNode, metadata: Metadata) -> dict[str, Any]:
    """What a checkpoint says about itself under the key "segzoo": what prediction needs beside the weights.

    Args:
        metadata: of the dataset whose classes the model predicts; see `segzoo.data`.

    Returns:
        Strings, numbers, lists and dicts only: version, task, dataset, classes, colors, isthing,
        ignore_label, label_map, image_format, image_range, pixel_mean, pixel_std.
    """
    return {
        "version": segzoo.__version__,
        "task": cfg.TASK,
        "dataset": metadata.get("described_as") or metadata.get("name", ""),
        "classes": plain(metadata.get("classes", [])),
        "colors": plain(metadata.get("colors", [])),
        "isthing": plain(metadata.get("isthing", [])),
        "ignore_label": int(metadata.get("ignore_label", cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)),
        "label_map": plain(metadata.get("label_map", {})),
        "image_format": cfg.INPUT.FORMAT,
        "image_range": plain(cfg.INPUT.IMAGE_RANGE),
        "pixel_mean": [float(value) for value in cfg.MODEL.PIXEL_MEAN],
        "pixel_std": [float(value) for value in cfg.MODEL.PIXEL_STD],
    }


def classes_metadata(cfg: CfgNode) -> Metadata:
    """Of the dataset whose classes the model predicts.

    Raises:
        InputError: none is configured.
    """
    name = classes_dataset(cfg)
    if not name:
        raise InputError(
            "DATASETS: TRAIN, TEST and CLASSES_FROM are empty, so the classes are unknown; name a dataset"
        )
    return MetadataCatalog.get(name)


def classes_dataset(cfg: CfgNode) -> str:
    """The dataset whose classes the model predicts, "" if none is configured."""
    names: Sequence[str] = (cfg.DATASETS.CLASSES_FROM, *cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    return next((name for name in names if name), "")


def plain(value: Any) -> Any:
    """Returns tuples as lists and numpy numbers as Python's, all the way down."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value
