"""Adds segzoo's methods to Detectron2's registries."""


def fill_detectron2_registries() -> None:
    """Let Detectron2's registries of models, backbones and heads find what segzoo adds to them.

    So Detectron2's own `build_model(cfg)` builds every method. Called after
    `detectron2.modeling` is imported.
    """
    # Both are loaded by now; `import segzoo` alone needs neither.
    from detectron2 import modeling

    from .filled_registry import FilledRegistry

    for registry in (
        modeling.META_ARCH_REGISTRY,
        modeling.BACKBONE_REGISTRY,
        modeling.SEM_SEG_HEADS_REGISTRY,
    ):
        # Others hold these very objects already.
        registry.__class__ = FilledRegistry
