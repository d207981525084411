"""Evaluation of a checkpoint."""

from detectron2.config import CfgNode
from torch import nn

from segzoo.utils.errors import InputError

from .evaluation_loop import check_evaluation
from .model_description import take_trained_range
from .shards import Shard, check_shards, evaluate_shard
from .trainer import Trainer
from .trainers import find_trainer


def evaluate(
    cfg: CfgNode,
    model: nn.Module,
    *,
    weights: str = "",
    iteration: int | None = None,
    trainer: type[Trainer] | None = None,
) -> dict:
    """Evaluate `model` on every dataset of DATASETS.TEST and write OUTPUT_DIR/inference/results.json.

    Args:
        model, weights, iteration: see `segzoo.engine.evaluation_loop.evaluate`, also for results and errors.
        trainer: builds the loaders and evaluators; None: the one that TRAINER names.
    """
    trainer = trainer or find_trainer(cfg)
    return trainer.evaluate(cfg, model, weights=weights, iteration=iteration)


def evaluate_checkpoint(
    cfg: CfgNode, *, resume: bool = False, shard: Shard | None = None, trust: bool = False
) -> dict:
    """Build the model, load MODEL.WEIGHTS and evaluate on DATASETS.TEST; every process has to call it.

    Args:
        cfg: complete, as `load_config` returns it.
        resume: evaluate the last checkpoint in OUTPUT_DIR, if there is one, instead of MODEL.WEIGHTS.
        shard: the part of the test set to evaluate; None for all of it.
        trust: execute pickled code in the file, where it holds more than weights.

    Returns:
        As `evaluate`; for a shard, {} until all shards are complete.

    Raises:
        InputError: there are no weights, they do not fill the whole model, or they are of other classes; or
            DATASETS.TEST cannot be evaluated.
    """
    trainer = find_trainer(cfg)
    check_evaluation(cfg, trainer)
    if shard:
        check_shards()
    model = trainer.build_model(cfg)
    checkpointer = trainer.build_checkpointer(cfg, model, trust=trust)
    resuming = resume and checkpointer.has_checkpoint()
    weights = checkpointer.get_checkpoint_file() if resuming else cfg.MODEL.WEIGHTS
    if not weights:
        raise InputError(
            "evaluation: MODEL.WEIGHTS is empty; give a checkpoint: --weights FILE, or --resume for the last "
            "in OUTPUT_DIR"
        )
    checkpointer.load(weights, checkpointables=[])
    checkpointer.report.require_complete()
    take_trained_range(cfg, checkpointer.report.description)
    if shard:
        return evaluate_shard(cfg, model, shard, weights=weights, trainer=trainer)
    return trainer.evaluate(cfg, model, weights=weights)
