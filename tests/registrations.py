"""What modules of tests and documents register is forgotten again, so that no other test sees it."""

import contextlib
from collections.abc import Iterator

from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from segzoo.config import extensions
from segzoo.data import TARGETS_REGISTRY
from segzoo.data.targets import GROUPS
from segzoo.engine import TRAINER_REGISTRY, Trainer
from segzoo.evaluation import registry as evaluation_registry
from segzoo.modeling import registry
from segzoo.solver import LR_SCHEDULER_REGISTRY, OPTIMIZER_REGISTRY
from segzoo.utils.methods import load_methods
from segzoo.utils.tasks import EVALUATOR_TYPES, TASKS

REGISTRIES = [
    *(BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, TARGETS_REGISTRY, TRAINER_REGISTRY),
    *(LR_SCHEDULER_REGISTRY, OPTIMIZER_REGISTRY, registry.NECK_REGISTRY, registry.PIXEL_DECODER_REGISTRY),
    *(registry.TRANSFORMER_DECODER_REGISTRY, registry.PIXEL_LOSS_REGISTRY, registry.CRITERION_REGISTRY),
    *(registry.LOSS_TERM_REGISTRY, registry.MATCHING_COST_REGISTRY),
]


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """Take back what is registered inside."""
    load_methods()
    assert Trainer.__name__ in TRAINER_REGISTRY  # as of here nothing of segzoo is registered any more
    tables = [*(one._obj_map for one in REGISTRIES), extensions._registered, GROUPS, TASKS]
    before = [dict(table) for table in tables]
    evaluators = {pair: list(known) for pair, known in evaluation_registry._EVALUATORS.items()}
    types = list(EVALUATOR_TYPES)
    try:
        yield
    finally:
        evaluation_registry._EVALUATORS.clear()
        evaluation_registry._EVALUATORS.update(evaluators)
        EVALUATOR_TYPES[:] = types
        for table, saved in zip(tables, before, strict=True):
            table.clear()
            table.update(saved)
