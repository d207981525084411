"""The folder of a run, chosen so that no earlier run is overwritten.

Without OUTPUT_DIR a training gets `output/<config>/<n>`. A folder that holds a training is resumed (--resume)
or renamed (--overwrite); nothing is deleted.
"""

import contextlib
import glob
import itertools
import os
import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm

from segzoo.checkpoint import last_checkpoint
from segzoo.utils.errors import InputError

from .distributed.signals import StoppedBySignal
from .metrics_log import has_results, read_metrics
from .output_lock import LOCK_FILE, locked

DEFAULT_ROOT = Path("output")
_LAST = "last_checkpoint"
_FINAL = "model_final.pth"
_LEFT_BY_A_START = re.compile(
    rf"log\.txt(\.rank\d+)?|config\.yaml|metrics\.json|events\.out\.tfevents\..*|{re.escape(LOCK_FILE)}"
)


def choose_output_dir(cfg: CfgNode, args: Namespace | None = None) -> list[str]:
    """Set an empty OUTPUT_DIR in `cfg`, and keep earlier runs from being overwritten.

    Every process calls it; the main process decides. Where --overwrite moves a folder that holds
    MODEL.WEIGHTS, `cfg` gets their new path.

    Args:
        cfg: not frozen.
        args: the command line, of which `resume`, `overwrite`, `eval_only`, `shard`, `config_file` and `opts`
            are read. Without it a given folder is used as it is.

    Returns:
        Lines for the log, which may not exist yet.

    Raises:
        InputError: the folder holds a training and neither flag is given; there is nothing to resume; or the
            folder cannot be moved. In every process.
    """
    # Wait for all processes: they may still read what is moved.
    comm.synchronize()
    problem, notes = "", []
    folder = weights = ""
    if comm.is_main_process():
        try:
            folder, weights = _choose(cfg, args, notes)
        except InputError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}; choose an OUTPUT_DIR that can be written"
    folder, weights, problem = comm.all_gather((folder, weights, problem))[0]
    if problem:
        raise InputError(problem)
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = folder, weights
    return notes


@contextlib.contextmanager
def remove_if_unused(cfg: CfgNode) -> Iterator[None]:
    """Remove the folder chosen for a run if a one-line error ends it with only log and config written.

    A mistyped command thus leaves no folder. After other errors the log is kept.

    Args:
        cfg: its OUTPUT_DIR, if it is empty or belongs to the run that saved the configuration, is chosen
            inside.
    """
    given = cfg.OUTPUT_DIR and Path(cfg.OUTPUT_DIR)
    try:
        yield
    except (InputError, StoppedBySignal):
        if cfg.OUTPUT_DIR and Path(cfg.OUTPUT_DIR) != given and comm.is_main_process():
            _remove_unused(Path(cfg.OUTPUT_DIR))
        raise


def _remove_unused(folder: Path) -> None:
    with contextlib.suppress(OSError):
        files = list(folder.iterdir())
        if all(file.is_file() and _LEFT_BY_A_START.fullmatch(file.name) for file in files) and not (
            holds_training(folder)
        ):
            for file in files:
                file.unlink()
            folder.rmdir()


def holds_training(folder: str | Path) -> bool:
    """Tell whether a folder holds a checkpoint or records of a training; a log or an evaluation is none."""
    folder = Path(folder)
    if (folder / _LAST).exists() or any(folder.glob("model_*.pth")):
        return True
    metrics = folder / "metrics.json"
    return metrics.is_file() and metrics.stat().st_size > 0


def is_finished(folder: str | Path) -> bool:
    """Tell whether the training in a folder is finished, final evaluation included."""
    folder = Path(folder)
    try:
        saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        evaluated = bool(saved["DATASETS"]["TEST"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return False
    if last_checkpoint(folder) != _FINAL:
        return False
    lines = read_metrics(folder / "metrics.json")
    newest = max((line["iteration"] for line in lines), default=-1)
    return not evaluated or has_results(lines, newest)


def move_training_aside(folder: str | Path, weights: Sequence[str]) -> tuple[list[str], list[str]]:
    """Rename the folder of a training for --overwrite; return the new paths of weights in it, and log lines.

    Args:
        folder: OUTPUT_DIR.
        weights: MODEL.WEIGHTS of the new runs; paths, URLs, or "".

    Returns:
        The weights, with new paths where they have moved, and lines for the log.

    Raises:
        InputError: see `move_aside`.
    """
    before = Path(os.path.realpath(folder))
    aside = move_aside(folder)
    followed = [_followed(path, before, aside) for path in weights]
    notes = [f"--overwrite: the training that was in {folder} is now {aside}"]
    moved = dict.fromkeys(now for now, path in zip(followed, weights, strict=True) if now != path)
    return followed, [*notes, *(f"MODEL.WEIGHTS has moved with it: {now}" for now in moved)]


def _followed(weights: str, before: Path, aside: Path) -> str:
    """Return the path of weights after the folder `before`, a real path, was renamed to `aside`."""
    if not weights or "://" in weights:
        return weights
    # The path may reach the folder through links, which need not follow the rename.
    real = Path(os.path.realpath(weights))
    return str(aside / real.relative_to(before)) if real.is_relative_to(before) else weights


def move_aside(folder: str | Path) -> Path:
    """Rename a folder to `<folder>.old-<n>`, with the first free n, and return its new path.

    Where the folder is a link, its target is renamed, and the link points to a new, empty folder.

    Raises:
        InputError: another training writes there, it is the current folder, or it cannot be renamed.
    """
    folder = Path(os.path.realpath(folder))
    here = Path(os.path.realpath(os.curdir))
    if here.is_relative_to(folder):
        raise InputError(
            f"--overwrite: {folder} cannot be moved while the command runs in it; change to another folder"
        )
    with locked(folder):
        for number in itertools.count(1):
            aside = folder.with_name(f"{folder.name}.old-{number}")
            if aside.exists() or aside.is_symlink():
                continue
            try:
                os.rename(folder, aside)
                folder.mkdir()
            except OSError as error:
                raise InputError(
                    f"--overwrite: {folder} cannot be moved to {aside.name}: {error.strerror}; "
                    "choose another OUTPUT_DIR"
                ) from None
            return aside
    raise AssertionError("unreachable")


def new_folder(parent: Path, prefix: str = "") -> Path:
    """Create and return `<parent>/<prefix><n>`, with n one more than the highest, safe against races."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(max(_numbers(parent, prefix), default=0) + 1):
        folder = parent / f"{prefix}{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def config_name(config_file: str | Path) -> str:
    """Return the name of a configuration: its path below `configs`, or its file name, without .yaml.

    `configs/semantic/camvid/pspnet_r18.yaml` is `semantic/camvid/pspnet_r18`; `/home/me/roads.yaml` `roads`.
    """
    path = Path(config_file)
    parts = path.with_suffix("").parts if path.suffix in (".yaml", ".yml") else path.parts
    if "configs" in parts:
        parts = parts[len(parts) - parts[::-1].index("configs") :]
    elif path.suffix in (".yaml", ".yml") or path.is_absolute():
        parts = parts[-1:]
    return "/".join(part for part in parts if part not in (os.sep, "..", ".")) or "run"


def _choose(cfg: CfgNode, args: Namespace | None, notes: list[str]) -> tuple[str, str]:
    """Return OUTPUT_DIR and MODEL.WEIGHTS; called in the main process."""
    resume, overwrite, eval_only = (
        bool(getattr(args, name, False)) for name in ("resume", "overwrite", "eval_only")
    )
    name = config_name(getattr(args, "config_file", "") or "run")
    weights, output_dir = cfg.MODEL.WEIGHTS, _folder_of_saved_config(args) or cfg.OUTPUT_DIR
    if eval_only:
        return _evaluation_folder(cfg, args, name, notes)
    if not output_dir:
        folder = _newest_unfinished(name, notes) if resume else new_folder(DEFAULT_ROOT / name)
        return str(folder), weights
    folder = Path(output_dir)
    if args is None or resume or not holds_training(folder):
        return str(folder), weights
    if not overwrite:
        raise InputError(
            f"OUTPUT_DIR {folder} holds a training ({_status(folder)}); add --resume to continue it, "
            f"--overwrite to start again (it is then moved to {folder.name}.old-<n>), or choose another "
            "OUTPUT_DIR"
        )
    (weights,), moved = move_training_aside(folder, [weights])
    notes += moved
    return str(folder), weights


def _evaluation_folder(cfg: CfgNode, args: Namespace | None, name: str, notes: list[str]) -> tuple[str, str]:
    """Return folder and weights of an evaluation: beside the weights, to keep the training's own results."""
    resume, sharded = (bool(getattr(args, flag, "")) for flag in ("resume", "shard"))
    saved_run = _folder_of_saved_config(args)
    if cfg.OUTPUT_DIR and not saved_run:
        return cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS
    weights = cfg.MODEL.WEIGHTS
    if resume:
        run = Path(saved_run) if saved_run else _newest_with_checkpoint(name)
        last = last_checkpoint(run)
        if not last:
            raise InputError(
                f"--eval-only --resume: no checkpoint in {run}; continue training with --resume alone, or "
                "give MODEL.WEIGHTS in place of --resume"
            )
        weights = str(run / last)
        notes.append(f"--resume: evaluating {weights}")
    if not weights:
        # Loading them reports it.
        return cfg.OUTPUT_DIR or str(DEFAULT_ROOT / name), weights
    stem = Path(weights).stem
    if "://" not in weights and Path(weights).is_file():
        beside, prefix = Path(weights).parent, f"eval-{stem}-"
        if os.access(beside, os.W_OK):
            # Shards share one folder.
            return str(beside / prefix[:-1] if sharded else new_folder(beside, prefix)), weights
        notes.append(f"{beside} cannot be written: the results go to another folder")
    root = DEFAULT_ROOT / name
    return str(root / f"eval-{stem}" if sharded else new_folder(root, "eval-")), weights


def _folder_of_saved_config(args: Namespace | None) -> str:
    """Return the folder of the run whose config.yaml the command names, unless it sets OUTPUT_DIR; else "".

    The OUTPUT_DIR in the file is where the run started; the folder may have been moved since.
    """
    if "OUTPUT_DIR" in (getattr(args, "opts", None) or ())[::2]:
        return ""
    file = Path(getattr(args, "config_file", "") or "")
    is_saved = file.name == "config.yaml" and file.is_file() and holds_training(file.parent)
    return str(file.parent) if is_saved else ""


def _runs(name: str) -> Iterator[Path]:
    """Yield the trainings of a configuration in its default folder, the newest first."""
    parent = DEFAULT_ROOT / name
    for number in sorted(_numbers(parent), reverse=True):
        if holds_training(parent / str(number)):
            yield parent / str(number)


def _newest_unfinished(name: str, notes: list[str]) -> Path:
    finished = None
    for folder in _runs(name):
        if not is_finished(folder):
            notes.append(f"--resume: continuing {folder} ({_status(folder)})")
            return folder
        finished = finished or folder
    remedy = "leave --resume out to start one, or name its OUTPUT_DIR"
    if finished:
        remedy = (
            f"the newest, {finished}, is finished; leave --resume out to start another, or train it further "
            f"with OUTPUT_DIR {finished} and a higher SOLVER.MAX_ITER"
        )
    elif holds_training(DEFAULT_ROOT):
        remedy += f" ({DEFAULT_ROOT} itself holds one: OUTPUT_DIR {DEFAULT_ROOT})"
    raise InputError(
        f"--resume without OUTPUT_DIR: no unfinished training of {name} in {DEFAULT_ROOT / name}; {remedy}"
    )


def _newest_with_checkpoint(name: str) -> Path:
    for folder in _runs(name):
        if last_checkpoint(folder):
            return folder
    raise InputError(
        f"--eval-only --resume without OUTPUT_DIR: no training of {name} with a checkpoint in "
        f"{DEFAULT_ROOT / name}; give its OUTPUT_DIR, or MODEL.WEIGHTS in place of --resume"
    )


def _status(folder: Path) -> str:
    """Describe how far a training has come."""
    last = last_checkpoint(folder)
    checkpoint = f"last checkpoint {last}" if last else "no checkpoint"
    if is_finished(folder):
        return f"finished, {checkpoint}"
    newest = max((line["iteration"] for line in read_metrics(folder / "metrics.json")), default=None)
    return f"unfinished, {checkpoint}" + ("" if newest is None else f", records up to iteration {newest}")


def _numbers(parent: Path, prefix: str = "") -> Iterator[int]:
    for path in parent.glob(f"{glob.escape(prefix)}*"):
        rest = path.name[len(prefix) :]
        if rest.isascii() and rest.isdigit():
            yield int(rest)
