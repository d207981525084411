"""The configuration of `segzoo train` and `segzoo evaluate`."""

import argparse

from detectron2.config import CfgNode

from segzoo.engine.model_config import model_config
from segzoo.model_zoo import load_config


def run_config(args: argparse.Namespace) -> CfgNode:
    """Return the complete configuration of the file or, to evaluate, of the checkpoint."""
    if args.eval_only:
        return model_config(args.config_file, args.opts, evaluates=True, trust=args.trust_checkpoint)
    return load_config(args.config_file, args.opts)
