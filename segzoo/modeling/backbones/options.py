"""The keys of MODEL.BACKBONE that backbones read alike."""

from segzoo.utils.errors import InputError


def build_options(cfg, features: tuple[str, ...]) -> dict:
    """The arguments `drop_path_rate`, `out_features`, `freeze_at` and `recompute` of a backbone.

    Args:
        cfg: the whole configuration.
        features: the outputs that such a backbone can have.

    Raises:
        InputError: a value that none of the backbones can have.
    """
    node = cfg.MODEL.BACKBONE
    unknown = [name for name in node.OUT_FEATURES if name not in features]
    if unknown or not node.OUT_FEATURES:
        raise InputError(
            f"MODEL.BACKBONE.OUT_FEATURES {list(node.OUT_FEATURES)}: expected some of {', '.join(features)}"
        )
    if not 0 <= node.FREEZE_AT <= 5:
        raise InputError(
            f"MODEL.BACKBONE.FREEZE_AT {node.FREEZE_AT}: expected 0 (nothing), 1 (the stem), 2 (that and "
            "res2), ..., 5 (all)"
        )
    if not 0 <= node.DROP_PATH_RATE < 1:
        raise InputError(f"MODEL.BACKBONE.DROP_PATH_RATE {node.DROP_PATH_RATE}: expected at least 0, below 1")
    return {
        "drop_path_rate": node.DROP_PATH_RATE,
        "out_features": tuple(node.OUT_FEATURES),
        "freeze_at": node.FREEZE_AT,
        "recompute": node.CHECKPOINT,
    }
