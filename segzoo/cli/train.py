"""`segzoo train`: train and evaluate any model of segzoo, on one or many GPUs or on the CPU."""

import argparse

from segzoo.utils.errors import InputError

from .command import command
from .parser import CommandLine, check_model, whole_number

EXAMPLES = """
examples:
  train on 8 GPUs:
    %(prog)s --num-gpus 8 --config-file panoptic/coco/maskformer_swin_tiny
  resume after an interruption:
    %(prog)s --num-gpus 8 --config-file ... --resume
  your own images and masks, which roads.yaml describes (segzoo check-data --keys):
    %(prog)s --config-file semantic/camvid/maskformer_r18 --data roads.yaml OUTPUT_DIR runs/roads
  on one GPU with the batch of eight, in eight passes:
    %(prog)s --config-file ... SOLVER.ACCUMULATE 8
  two processes on a CPU:
    %(prog)s --num-gpus 2 --config-file ... MODEL.DEVICE cpu
  two machines (the same on both but for --machine-rank):
    %(prog)s --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT --config-file ...
  evaluate instead (`segzoo evaluate` has more options):
    %(prog)s --config-file ... --eval-only --weights model_final_0b5f6c.pkl

KEY VALUE pairs override the config and come last. torchrun and srun can start it too; they then set the
number of processes. OUTPUT_DIR gets config.yaml, log.txt, metrics.json, TensorBoard events, checkpoints and
inference/.

without OUTPUT_DIR:
  a training   writes to output/<config>/<n>, n = 1, 2, ...
  --resume     continues the newest unfinished training of this configuration there
  --eval-only  writes beside MODEL.WEIGHTS, to eval-<file>-<n>; for a URL to output/<config>/eval-<n>
An OUTPUT_DIR that holds a training is refused unless --resume or --overwrite is given; nothing is deleted.

exit status:
  0   done
  1   the loss was not finite, another process was lost, or an error with a traceback
  2   wrong input, or a disk or folder that cannot be written, explained in one line
  75  stopped by SIGUSR2, 79 by SIGTERM, 130 by SIGINT (Ctrl-C), 129 by SIGHUP (its terminal was closed):
      the iteration was finished and saved, --resume continues; the same signal again, a moment later, ends
      it at once without saving. Ctrl-C also ends the shell's loop or script that a training runs in; with
      nohup a training outlives its terminal.
"""


def build_parser() -> CommandLine:
    """Return the parser of training and, with --eval-only, of evaluation."""
    parser = CommandLine(
        "train",
        description="Train any model, and evaluate it, on one or many GPUs or on the CPU.",
        epilog=EXAMPLES,
    )
    parser.add_model(trains=True)
    parser.add_data()
    training = parser.group("training")
    training.add_argument(
        "--resume", action="store_true", help="resume from the last checkpoint in OUTPUT_DIR"
    )
    training.add_argument(
        "--overwrite",
        action="store_true",
        help="start again in OUTPUT_DIR; a training that it holds is moved to OUTPUT_DIR.old-<n>",
    )
    training.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS instead, as `segzoo evaluate` does"
    )
    add_shard(parser)
    add_processes(parser)
    parser.add_overrides(data_is_overrides=True)
    parser.add_check(check_arguments)
    return parser


def add_shard(parser: CommandLine) -> None:
    """Add --shard, for commands that evaluate."""
    parser.group("evaluation").add_argument(
        "--shard",
        default="",
        metavar="I/N",
        help="test the I-th of N parts of the test set, 1/N to N/N",
    )


def add_processes(parser: CommandLine) -> None:
    """Add options for the number of processes and machines."""
    processes = parser.group("processes and machines")
    processes.add_argument(
        "--num-gpus",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="GPUs on each machine, or processes on a CPU (default 1)",
    )
    processes.add_argument(
        "--num-machines", type=whole_number(1), default=1, metavar="N", help="number of machines (default 1)"
    )
    processes.add_argument(
        "--machine-rank", type=whole_number(0), default=0, metavar="N", help="rank of this machine, from 0"
    )
    processes.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://HOST:PORT of machine 0; auto: a free port (one machine)",
    )


def check_arguments(parsed: argparse.Namespace) -> None:
    """Raise InputError if there is no configuration, or flags contradict each other."""
    if parsed.eval_only:
        check_model(parsed)
    elif not parsed.config_file:
        raise InputError(
            "--config-file is missing; give a YAML file or a name that `segzoo zoo` lists; --weights is what "
            "a training starts from"
        )
    if parsed.shard and not parsed.eval_only:
        raise InputError("--shard splits a test, not a training; add --eval-only")
    if parsed.overwrite and (parsed.resume or parsed.eval_only):
        other = "--resume" if parsed.resume else "--eval-only"
        raise InputError(f"--overwrite starts a new training; leave it out, or {other}")


def run(arguments: argparse.Namespace) -> int:
    from .training import train_or_evaluate

    return train_or_evaluate(arguments)


main = command(build_parser, run)
