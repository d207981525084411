"""The keys of MODEL.BACKBONE that backbones read alike."""

from segzoo.utils.errors import InputError


def build_options(cfg, features: tuple[str, ...]) -> dict:
    """The arguments `drop_path_rate`, `out_features`, `freeze_at` and `recompute` of a backbone.

    Args:
        cfg: the whole configuration.
        features: the outputs that such a backbone can have.

    Raises:
        InputError: no output, or one that such a backbone has not.
    """
    node = cfg.MODEL.BACKBONE
    unknown = [name for name in node.OUT_FEATURES if name not in features]
    if unknown or not node.OUT_FEATURES:
        raise InputError(
            f"MODEL.BACKBONE.OUT_FEATURES {list(node.OUT_FEATURES)}: expected some of {', '.join(features)}"
        )
    return {
        "drop_path_rate": node.DROP_PATH_RATE,
        "out_features": tuple(node.OUT_FEATURES),
        "freeze_at": node.FREEZE_AT,
        "recompute": node.CHECKPOINT,
    }
