#!/usr/bin/env python
"""Trains and evaluates any model of segzoo, on one or many GPUs or on the CPU."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from command_line import CommandLine, check_model, end, explained, whole_number
from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from segzoo.checkpoint import local_file
from segzoo.engine import NonFiniteLossError, Trainer, default_setup, evaluate, launch, resolve_device
from segzoo.engine.distributed.launch import place_from_environment
from segzoo.engine.distributed.peer_failure import LostProcessError
from segzoo.engine.distributed.signals import StoppedBySignal, StopSignals, stop_on_signals
from segzoo.engine.evaluation_loop import check_evaluation
from segzoo.engine.model_config import model_config
from segzoo.engine.model_description import take_trained_range
from segzoo.engine.run_folder import removed_where_unused
from segzoo.engine.shards import Shard, check_shards, evaluate_shard
from segzoo.model_zoo import load_config
from segzoo.utils.commands import python
from segzoo.utils.errors import InputError
from segzoo.utils.logging import setup_logging

EXAMPLES = """
examples:
  train on 8 GPUs:
    %(prog)s --num-gpus 8 --config-file configs/panoptic/coco/maskformer_swin_tiny.yaml
  go on after an interruption:
    %(prog)s --num-gpus 8 --config-file ... --resume
  on one GPU with the batch of eight, in eight passes:
    %(prog)s --config-file ... SOLVER.ACCUMULATE 8
  evaluate a published checkpoint:
    %(prog)s --config-file ... --eval-only --weights model_final_0b5f6c.pkl
  evaluate a checkpoint of segzoo, which holds its configuration:
    %(prog)s --eval-only --weights output/street/model_best.pth
  the same in four jobs, in any order; each goes on where it was interrupted, the last one merges:
    %(prog)s --config-file ... --eval-only --shard 1/4 MODEL.WEIGHTS ...
  two processes on a CPU:
    %(prog)s --num-gpus 2 --config-file ... MODEL.DEVICE cpu
  two machines (the same on both but for --machine-rank):
    %(prog)s --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT --config-file ...

KEY VALUE pairs override the config and come last. torchrun and srun start it too; their numbers of processes
count. OUTPUT_DIR gets config.yaml, log.txt, metrics.json, TensorBoard events, checkpoints and inference/.

without OUTPUT_DIR:
  a training   writes to output/<config>/<n>, n = 1, 2, ...
  --resume     goes on with the newest training of this configuration there that is not finished
  --eval-only  writes beside MODEL.WEIGHTS, to eval-<file>-<n>; for a URL to output/<config>/eval-<n>
An OUTPUT_DIR that holds a training is refused unless --resume or --overwrite is given; nothing is deleted.

exit status:
  0   done
  1   the loss was not finite, another process was lost, or an error with a traceback
  2   wrong input, or a disk or folder that cannot be written, explained in one line
  75  stopped by SIGUSR2, 79 by SIGTERM, 130 by SIGINT (Ctrl-C), 129 by SIGHUP (its terminal was closed):
      the iteration was finished and saved, --resume goes on; the same signal once more, a moment later,
      ends it at once, unsaved. Ctrl-C also ends the shell's loop or script that a training runs in; with
      nohup a training outlives its terminal.
"""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Raises:
        InputError: a flag after the overrides, no config file, or a shard of a training.
    """
    parser = CommandLine(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_config()
    parser.add_data()
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start anew in OUTPUT_DIR; a training that it holds is moved to OUTPUT_DIR.old-<n>",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS instead of training")
    parser.add_argument(
        "--shard",
        default="",
        metavar="I/N",
        help="with --eval-only: test the I-th of N parts of the test set, 1/N to N/N; semantic task",
    )
    parser.add_argument(
        "--num-gpus",
        type=whole_number(1),
        default=1,
        help="GPUs on each machine; without any, CPU processes (default 1)",
    )
    parser.add_argument("--num-machines", type=whole_number(1), default=1, help="machines in all (default 1)")
    parser.add_argument(
        "--machine-rank", type=whole_number(0), default=0, help="which of them this is, from 0"
    )
    parser.add_argument(
        "--dist-url", default="auto", help="tcp://HOST:PORT of machine 0; auto: a free port (one machine)"
    )
    parser.add_weights()
    parser.add_trust()
    parser.add_overrides(data_is_overrides=True)
    parsed = parser.parse_args(arguments)
    parsed.words = list(sys.argv[1:] if arguments is None else arguments)
    if parsed.eval_only:
        check_model(parsed)
    elif not parsed.config_file:
        raise InputError("--config-file is missing; give a YAML file or a name under configs/")
    if parsed.shard and not parsed.eval_only:
        raise InputError("--shard splits a test, not a training; add --eval-only")
    if parsed.overwrite and (parsed.resume or parsed.eval_only):
        other = "--resume" if parsed.resume else "--eval-only"
        raise InputError(f"--overwrite starts a training anew; leave it out, or {other}")
    return parsed


def run(args: argparse.Namespace) -> dict:
    """What each process does; returns the evaluation results (main process) or {}."""
    with stop_on_signals() as signals:
        signals.advice = "nothing had begun"
        cfg = configuration(args)
        with removed_where_unused(cfg):
            return train_or_evaluate(cfg, args, signals)


def configuration(args: argparse.Namespace) -> CfgNode:
    """The complete configuration: the file's, or the one that the checkpoint to be evaluated holds."""
    if args.eval_only:
        return model_config(args.config_file, args.opts, evaluates=True, trust=args.trust_checkpoint)
    return load_config(args.config_file, args.opts)


def train_or_evaluate(cfg: CfgNode, args: argparse.Namespace, signals: StopSignals) -> dict:
    default_setup(cfg, args)
    if args.eval_only:
        signals.advice = "nothing of the evaluation is kept"
        if args.shard:
            signals.advice = "the same command goes on with the shard"
        return evaluate_only(cfg, args)
    if not args.resume:
        signals.advice = "nothing was trained yet"
    trainer = Trainer(cfg, trust_checkpoint=args.trust_checkpoint)
    trainer.resume_or_load(resume=args.resume)
    signals.advice = StopSignals().advice
    signals.resume_command = resume_command(args, cfg.OUTPUT_DIR)
    trainer.train()
    return {}


def resume_command(args: argparse.Namespace, output_dir: str) -> str:
    """What to type to go on with a training, in the same folder; "" where a scheduler starts it again."""
    if "SUBMITIT_EXECUTOR" in os.environ:
        return ""
    words = ["--resume", *(word for word in args.words if word not in ("--resume", "--overwrite"))]
    if "OUTPUT_DIR" not in args.opts[::2]:
        words += ["OUTPUT_DIR", output_dir]
    return shlex.join([*started_by(), *words])


def started_by() -> list[str]:
    """The beginning of the command line, up to this tool."""
    script = sys.argv[0] if Path(sys.argv[0]).name == Path(__file__).name else "tools/train_net.py"
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("GROUP_WORLD_SIZE") == "1":
        return ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], script]
    if place_from_environment(os.environ) is not None:
        # Each of them was started by a command that this process does not see.
        return ["...", script]
    return [python(), script]


def evaluate_only(cfg, args: argparse.Namespace) -> dict:
    """Evaluates MODEL.WEIGHTS, or with --resume the last checkpoint in OUTPUT_DIR.

    Raises:
        InputError: there are no weights, or they do not fill the whole model; or DATASETS.TEST cannot be
            evaluated.
    """
    shard = Shard.parse(args.shard) if args.shard else None
    check_evaluation(cfg)
    if shard:
        check_shards(cfg)
    model = Trainer.build_model(cfg)
    checkpointer = Trainer.build_checkpointer(cfg, model, trust=args.trust_checkpoint)
    resuming = args.resume and checkpointer.has_checkpoint()
    weights = checkpointer.get_checkpoint_file() if resuming else cfg.MODEL.WEIGHTS
    if not weights:
        raise InputError(
            "--eval-only: MODEL.WEIGHTS is empty; give a checkpoint, or --resume for OUTPUT_DIR's last"
        )
    checkpointer.load(weights, checkpointables=[])
    checkpointer.report.require_complete("--eval-only")
    take_trained_range(cfg, checkpointer.report.description)
    if shard:
        results = evaluate_shard(cfg, model, shard, weights=weights)
    else:
        results = evaluate(cfg, model, weights=weights)
    if results and comm.is_main_process():
        verify_results(cfg, results)
    return results


@explained(also={NonFiniteLossError: 1, LostProcessError: 1})
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; returns its exit status, see --help."""
    args = parse_arguments(arguments)
    setup_logging(None)
    # Here a wrong config is reported once, before any process is started, and a file that is not there before
    # a folder is made for the run.
    cfg = configuration(args)
    device = resolve_device(cfg)
    if cfg.MODEL.WEIGHTS and "://" not in cfg.MODEL.WEIGHTS and not args.resume:
        local_file(cfg.MODEL.WEIGHTS)
    try:
        launch(
            run, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args,), device=device
        )
    except StoppedBySignal as stopped:
        return stopped.exit_status
    return 0


if __name__ == "__main__":
    end(main())
