"""The program of each process of `segzoo train` and `segzoo evaluate`."""

import argparse
import os
import shlex
import sys

from detectron2.config import CfgNode

from segzoo.engine import default_setup, evaluate_checkpoint, find_trainer
from segzoo.engine.distributed.launch import place_from_environment
from segzoo.engine.distributed.signals import StopSignals, stop_on_signals
from segzoo.engine.run_folder import remove_if_unused
from segzoo.engine.shard_files import Shard
from segzoo.utils.commands import is_started_by_script, program, python

from .run_config import run_config


def run(args: argparse.Namespace) -> dict:
    """Train or evaluate in this process; return the evaluation results (main process) or {}."""
    with stop_on_signals() as signals:
        signals.advice = "nothing had begun"
        cfg = run_config(args)
        with remove_if_unused(cfg):
            return _train_or_evaluate(cfg, args, signals)


def _train_or_evaluate(cfg: CfgNode, args: argparse.Namespace, signals: StopSignals) -> dict:
    default_setup(cfg, args)
    if args.eval_only:
        signals.advice = "nothing of the evaluation is kept"
        if args.shard:
            signals.advice = "the same command resumes the shard"
        shard = Shard.parse(args.shard) if args.shard else None
        return evaluate_checkpoint(cfg, resume=args.resume, shard=shard, trust=args.trust_checkpoint)
    if not args.resume:
        signals.advice = "nothing was trained yet"
    trainer = find_trainer(cfg)(cfg, trust_checkpoint=args.trust_checkpoint)
    trainer.resume_or_load(resume=args.resume)
    signals.advice = signals.advice_to_continue()
    signals.resume_command = resume_command(args, cfg.OUTPUT_DIR)
    trainer.train()
    return {}


def resume_command(args: argparse.Namespace, output_dir: str) -> str:
    """Return the command that resumes a training in its folder; "" if a scheduler starts it again."""
    if "SUBMITIT_EXECUTOR" in os.environ:
        return ""
    words = ["--resume", *(word for word in args.words if word not in ("--resume", "--overwrite"))]
    if "OUTPUT_DIR" not in args.opts[::2]:
        words += ["OUTPUT_DIR", output_dir]
    return f"{started_by()} {shlex.join(words)}"


def started_by() -> str:
    """Return the beginning of the command line, up to the words of the command."""
    words = [sys.argv[0]] if is_started_by_script() else ["-m", "segzoo", "train"]
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("GROUP_WORLD_SIZE") == "1":
        return shlex.join(["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], *words])
    if place_from_environment(os.environ) is not None:
        # This process does not know the command that has started all of them.
        return shlex.join(["...", *words])
    return shlex.join([python(), *words]) if is_started_by_script() else f"{program()} train"
