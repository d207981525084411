"""Planning the runs of a job: configurations and values are combined, checked and named."""

import argparse
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from segzoo.config.files import find_config
from segzoo.utils.errors import InputError

from ..run_config import run_config
from ..train import build_parser
from ..weights_option import weights_in
from .files import Run
from .snapshot import frozen_config, frozen_datasets

# {option of a training that the job sets itself: default}.
SET_BY_JOB = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}


def plan_runs(
    words: Sequence[str], configs: Sequence[str], sweeps: Sequence[Sequence[str]], job_dir: Path
) -> list[Run]:
    """Return the runs of a job: every configuration with every combination of swept values.

    Args:
        words: arguments of `segzoo train`.
        configs: configurations that replace --config-file.
        sweeps: lists of a key and its values.
        job_dir: absolute; results go to its folder output unless OUTPUT_DIR is given. In an array, each run
            has a folder with its name below either.

    Returns:
        Runs whose arguments still name the user's configuration files.

    Raises:
        InputError: `segzoo train` would refuse the arguments, or an OUTPUT_DIR holds a training.
    """
    for flag in ("--config-file", "--model"):
        if configs and flag in words:
            raise InputError(f"--array names the configurations; leave out {flag} after --")
    for key, *values in sweeps:
        if not values:
            raise InputError(
                f"--sweep {key}: no values; give them after the key: --sweep SOLVER.BASE_LR 0.01 0.02"
            )
    runs: list[Run] = []
    choices = [[(key, value) for value in values] for key, *values in sweeps]
    array = len(configs) > 1 or bool(sweeps)
    for config, *pairs in itertools.product(configs or [""], *choices):
        chosen = ["--config-file", config, *words] if config else list(words)
        runs.append(_plan(len(runs), [*chosen, *itertools.chain(*pairs)], pairs, runs, job_dir, array))
    return runs


def freeze(run: Run, snapshot: Path) -> None:
    """Make a run read its configuration and its dataset files from the snapshot."""
    args = build_parser().parse_args(run.arguments)
    cfg = run_config(args)
    if args.config_file:  # else the weights hold it
        position = run.arguments.index("--config-file") + 1
        run.arguments[position] = frozen_config(snapshot, find_config(args.config_file))
    if cfg.DATASETS.FILES:
        run.arguments += ["DATASETS.FILES", str(frozen_datasets(snapshot, cfg.DATASETS.FILES))]


def make_room(runs: Sequence[Run]) -> Iterator[str]:
    """Move the trainings that --overwrite replaces, once: a requeued run must not move its own.

    Yields:
        Messages on what was moved.
    """
    from segzoo.engine.run_folder import holds_training, move_training_aside

    overwriting = [run for run in runs if "--overwrite" in run.arguments]
    given = [run_config(build_parser().parse_args(run.arguments)).MODEL.WEIGHTS for run in overwriting]
    weights = given
    for run in overwriting:
        run.arguments[:] = [word for word in run.arguments if word != "--overwrite"]
        if holds_training(run.output):
            # The weights of one run may lie in the folder of another.
            weights, notes = move_training_aside(run.output, weights)
            yield from notes
    for run, before, now in zip(overwriting, given, weights, strict=True):
        if now != before:
            run.arguments[:] = [*_without_flag(run.arguments, "--weights"), "MODEL.WEIGHTS", now]


def _plan(
    index: int,
    words: list[str],
    pairs: Sequence[tuple[str, str]],
    before: Sequence[Run],
    job_dir: Path,
    array: bool,
) -> Run:
    words = [part for word in words for part in _separated(word)]
    args = build_parser().parse_args(words)
    if args.model:
        words = ["--config-file", args.config_file, *_without_flag(words, "--model")]
    if args.data:
        words = _as_overrides(words, args.opts)
    for name, value in SET_BY_JOB.items():
        if getattr(args, name) != value:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(
                f"{flag} after --: the job sets the number of processes; use --nodes and --gpus-per-node"
                " (or --tasks-per-node) before --"
            )
    cfg = run_config(args)

    # Imported here: a wrong key is reported without importing the parts of a training.
    from segzoo.engine import find_trainer
    from segzoo.engine.names import check_names
    from segzoo.engine.run_folder import holds_training

    # As at the start of the run, which may wait for hours in the queue.
    check_names(cfg, find_trainer(cfg), trains=not args.eval_only)
    name = _name(args, pairs, {run.name for run in before})
    output = Path(cfg.OUTPUT_DIR).absolute() if "OUTPUT_DIR" in args.opts[::2] else job_dir / "output"
    output = output / name if array else output
    if not (args.resume or args.overwrite or args.eval_only) and holds_training(output):
        raise InputError(
            f"OUTPUT_DIR {output} holds a training; add --resume to continue it, --overwrite to move it to "
            f"{output.name}.old-<n>, or choose another folder"
        )
    return Run(
        index,
        name,
        [*words, "OUTPUT_DIR", str(output)],
        str(output),
        0 if args.eval_only else cfg.SOLVER.MAX_ITER,
        cfg.TEST.BEST_METRIC,
    )


def _separated(word: str) -> list[str]:
    """Split --config-file=a.yaml, --model=a, --data=b.yaml and --weights=c.pth into two words."""
    flag, equals, value = word.partition("=")
    return [flag, value] if flag in ("--config-file", "--model", "--data", "--weights") and equals else [word]


def _as_overrides(words: list[str], opts: Sequence[str]) -> list[str]:
    """Replace --data by the keys that it sets, since a job reads a copy of the dataset file."""
    last = dict(zip(opts[::2], opts[1::2], strict=True))
    pairs = [(key, last[key]) for key in last if key.startswith("DATASETS.")]
    return [*_without_flag(words, "--data"), *itertools.chain(*pairs)]


def _without_flag(words: Sequence[str], flag: str) -> list[str]:
    """Return the words without any occurrence of a flag and its value."""
    before = ["", *words]
    return [word for word, last in zip(words, before, strict=False) if flag not in (word, last)]


def _name(args: argparse.Namespace, pairs: Sequence[tuple[str, str]], taken: set[str]) -> str:
    """Return a run's name: its configuration or checkpoint and swept values, `pspnet_r18,BASE_LR=0.01`."""
    what = args.config_file or weights_in(args.opts)
    parts = [Path(what).stem, *(f"{key.rpartition('.')[2]}={value}" for key, value in pairs)]
    name = re.sub(r"[^\w.,=+-]+", "_", ",".join(parts)).strip("_")[:100]
    numbers = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
    return next(f"{name}{number}" for number in numbers if f"{name}{number}" not in taken)
