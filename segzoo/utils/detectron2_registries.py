"""Add segzoo's methods to Detectron2's registries."""


def fill_detectron2_registries() -> None:
    """Make Detectron2's registries of models, backbones and heads find segzoo's entries.

    Then Detectron2's own `build_model(cfg)` builds every method. Called after `detectron2.modeling` is
    imported.
    """
    # Imported here, since `import segzoo` alone needs neither.
    from detectron2 import modeling

    from .filled_registry import FilledRegistry

    for registry in (
        modeling.META_ARCH_REGISTRY,
        modeling.BACKBONE_REGISTRY,
        modeling.SEM_SEG_HEADS_REGISTRY,
    ):
        # Other modules already hold these objects, so they are changed in place.
        registry.__class__ = FilledRegistry
