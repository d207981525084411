"""What each process of `segzoo train` and `segzoo evaluate` does."""

import argparse
import os
import shlex
import sys

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from segzoo.engine import default_setup, find_trainer
from segzoo.engine.distributed.launch import place_from_environment
from segzoo.engine.distributed.signals import StopSignals, stop_on_signals
from segzoo.engine.evaluation_loop import check_evaluation
from segzoo.engine.model_description import take_trained_range
from segzoo.engine.run_folder import removed_where_unused
from segzoo.engine.shards import Shard, check_shards, evaluate_shard
from segzoo.utils.commands import is_started_by_script, program, python
from segzoo.utils.errors import InputError

from .training import configuration


def run(args: argparse.Namespace) -> dict:
    """Do what each process does; return the evaluation results (main process) or {}."""
    with stop_on_signals() as signals:
        signals.advice = "nothing had begun"
        cfg = configuration(args)
        with removed_where_unused(cfg):
            return _train_or_evaluate(cfg, args, signals)


def _train_or_evaluate(cfg: CfgNode, args: argparse.Namespace, signals: StopSignals) -> dict:
    default_setup(cfg, args)
    if args.eval_only:
        signals.advice = "nothing of the evaluation is kept"
        if args.shard:
            signals.advice = "the same command goes on with the shard"
        return evaluate_only(cfg, args)
    if not args.resume:
        signals.advice = "nothing was trained yet"
    trainer = find_trainer(cfg)(cfg, trust_checkpoint=args.trust_checkpoint)
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
    return f"{started_by()} {shlex.join(words)}"


def started_by() -> str:
    """Return the beginning of the command line, up to the words of the command."""
    words = [sys.argv[0]] if is_started_by_script() else ["-m", "segzoo", "train"]
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("GROUP_WORLD_SIZE") == "1":
        return shlex.join(["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], *words])
    if place_from_environment(os.environ) is not None:
        # Each of them was started by a command that this process does not see.
        return shlex.join(["...", *words])
    return shlex.join([python(), *words]) if is_started_by_script() else f"{program()} train"


def evaluate_only(cfg, args: argparse.Namespace) -> dict:
    """Evaluates MODEL.WEIGHTS, or with --resume the last checkpoint in OUTPUT_DIR.

    Raises:
        InputError: there are no weights, or they do not fill the whole model; or DATASETS.TEST cannot be
            evaluated.
    """
    shard = Shard.parse(args.shard) if args.shard else None
    trainer = find_trainer(cfg)
    check_evaluation(cfg, trainer)
    if shard:
        check_shards()
    model = trainer.build_model(cfg)
    checkpointer = trainer.build_checkpointer(cfg, model, trust=args.trust_checkpoint)
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
        results = evaluate_shard(cfg, model, shard, weights=weights, trainer=trainer)
    else:
        results = trainer.evaluate(cfg, model, weights=weights)
    if results and comm.is_main_process():
        verify_results(cfg, results)
    return results
