"""The keys of MODEL.BACKBONE that all backbones share."""

from segzoo.utils.errors import InputError


def build_options(cfg, features: tuple[str, ...]) -> dict:
    """Return the arguments `drop_path_rate`, `out_features`, `freeze_at`, `activation_checkpointing`.

    Args:
        cfg: the complete configuration.
        features: names of the outputs that the backbone supports.

    Raises:
        InputError: no output, or an unsupported one.
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
        "activation_checkpointing": node.CHECKPOINT,
    }
