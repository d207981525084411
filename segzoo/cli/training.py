"""`segzoo train` and `segzoo evaluate` up to the start of the processes."""

import argparse

from segzoo.utils.logging import setup_logging

from .run_config import run_config


def train_or_evaluate(args: argparse.Namespace) -> int:
    """Start the processes that train or, with `eval_only`, evaluate; return the exit status."""
    setup_logging(None)
    # Here a wrong config is reported once, before any process is started, and a missing file before a folder
    # is made for the run.
    cfg = run_config(args)

    # Imported here: a wrong key is reported without importing the parts of a training.
    from segzoo.checkpoint import local_file
    from segzoo.engine import find_trainer, launch, resolve_device
    from segzoo.engine.distributed.signals import StoppedBySignal
    from segzoo.engine.names import check_names

    from .training_process import run

    check_names(cfg, find_trainer(cfg), trains=not args.eval_only)
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
