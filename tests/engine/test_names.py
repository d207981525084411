"""Names of parts are checked for what a run builds by them, and left to a trainer that builds otherwise."""

import pytest

from segzoo.config.keys import existing_section
from segzoo.engine import TRAINER_REGISTRY, Trainer, find_trainer
from segzoo.engine.names import check_names
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.registrations import forgotten

# Keys of names, and the methods of a trainer that read them.
ALWAYS = [
    ("MODEL.META_ARCHITECTURE", "build_model"),
    ("MODEL.BACKBONE.NAME", "build_model"),
    ("MODEL.SEM_SEG_HEAD.LOSS.NAME", "build_model"),
    ("TEST.EVALUATORS", "build_evaluators"),
    ("TEST.EVALUATORS", "build_evaluator"),
]
IN_TRAINING = [
    ("SOLVER.OPTIMIZER", "build_optimizer"),
    ("SOLVER.LR_SCHEDULER_NAME", "build_lr_scheduler"),
    ("INPUT.AUGMENTATION", "build_mapper"),
    ("INPUT.TARGETS", "build_mapper"),
]


def with_unknown(key, leaf="semantic/shapes/pspnet_r18_quarter"):
    cfg = load_config(leaf)
    *path, leaf = key.split(".")
    section = existing_section(cfg, path)
    section[leaf] = "nosuch" if isinstance(section[leaf], str) else ("nosuch",)
    return cfg


def trainer_with(method):
    return type("Mine", (Trainer,), {method: classmethod(lambda cls, *arguments: None)})


@pytest.mark.parametrize(("key", "method"), ALWAYS + IN_TRAINING)
def test_names_are_left_to_a_trainer_that_replaces_their_method(key, method):
    cfg = with_unknown(key)
    with pytest.raises(InputError, match=rf"{key}:? 'nosuch' is (unknown|not registered)"):
        check_names(cfg, Trainer)
    others = {name for _, name in ALWAYS + IN_TRAINING if not name.startswith(method.rstrip("s"))}
    for other in others:
        with pytest.raises(InputError, match=key):
            check_names(cfg, trainer_with(other))
    check_names(cfg, trainer_with(method))


def test_evaluation_does_not_need_the_names_of_training():
    for key, _ in IN_TRAINING:
        check_names(with_unknown(key), Trainer, trains=False)
    for key in ("TEST.PROTOCOL", *(key for key, _ in ALWAYS)):
        with pytest.raises(InputError, match=key):
            check_names(with_unknown(key), Trainer, trains=False)


@pytest.mark.parametrize(
    ("leaf", "key"),
    [
        ("per_pixel_baseline_r50", "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME"),
        ("per_pixel_baseline_plus_r50", "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME"),
        ("per_pixel_baseline_plus_r50", "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"),
        ("maskformer_r50", "MODEL.MASK_FORMER.CRITERION_NAME"),
    ],
)
def test_names_of_the_parts_of_a_head_are_checked(leaf, key):
    with pytest.raises(InputError, match=rf"{key} 'nosuch' is unknown"):
        check_names(with_unknown(key, f"semantic/ade20k/{leaf}"), Trainer)


def test_a_model_without_a_check_is_left_alone():
    cfg = with_unknown("MODEL.SEM_SEG_HEAD.NAME")
    with pytest.raises(InputError, match=r"MODEL.SEM_SEG_HEAD.NAME 'nosuch' is unknown"):
        check_names(cfg, Trainer)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"  # Detectron2's
    check_names(cfg, Trainer)


def test_only_subclasses_of_trainer_are_trainers():
    cfg = load_config("semantic/shapes/pspnet_r18_quarter")
    cfg.TRAINER = "Loop"
    with forgotten():
        TRAINER_REGISTRY.register(type("Loop", (), {}))
        with pytest.raises(InputError, match=r"TRAINER Loop: expected a subclass of segzoo.engine.Trainer"):
            find_trainer(cfg)
        TRAINER_REGISTRY.register(lambda cfg: Trainer(cfg), name="build_loop")
        cfg.TRAINER = "build_loop"
        with pytest.raises(InputError, match="TRAINER build_loop: expected a subclass"):
            find_trainer(cfg)
