"""Assign a learning rate and weight decay to each parameter.

Rules, in rising priority: the base values; a bias (Detectron2's BIAS keys); the type of the owning module
(norm, embedding); the weight decay of the first regular expression found in the name. The learning rate is
multiplied by the factor of the first regular expression found in the name or else of the longest matching
name prefix, and by the layer-wise decay. Parameters with equal settings share a group: few groups let the
optimizer update hundreds of tensors with one call.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from segzoo.utils.errors import InputError

logger = logging.getLogger(__name__)

NORM_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)
# Position tables that are parameters of their module instead of an nn.Embedding, by their last name part.
# Other such parameters decay like weights, as in the published training; so does Mask2Former's level_embed.
EMBEDDING_NAMES = ("relative_position_bias_table", "absolute_pos_embed", "pos_embed")


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float | None = None,
    weight_decay_embed: float | None = None,
    weight_decay_bias: float | None = None,
    weight_decay_head_norm: float | None = None,
    weight_decay_by_name: Sequence[tuple[str, float | None]] = (),
    bias_lr_factor: float = 1.0,
    lr_multipliers: Mapping[str, float] | None = None,
    lr_multipliers_by_name: Sequence[tuple[str, float]] = (),
    layer_decay: float = 1.0,
    schedules: Sequence[str] = (),
) -> list[dict]:
    """Assign every trainable parameter of `model` to exactly one group of equal settings.

    Args:
        model: the model.
        base_lr, weight_decay: for parameters without another rule.
        weight_decay_norm, weight_decay_embed, weight_decay_bias: for normalization layers, for embeddings and
            position tables, and for biases outside normalization layers; None means `weight_decay`.
        weight_decay_head_norm: for normalization layers outside "backbone"; None means `weight_decay_norm`.
        weight_decay_by_name: pairs of a regular expression and a decay (None means `weight_decay`); the first
            one found in a parameter's name applies, whatever its module.
        bias_lr_factor: factor on the learning rate of biases outside normalization layers.
        lr_multipliers: name prefix (whole name parts: "backbone" matches "backbone.stem") to learning-rate
            factor; only the longest matching prefix applies.
        lr_multipliers_by_name: pairs of a regular expression and a learning-rate factor; the first one found
            in a parameter's name replaces `lr_multipliers`.
        layer_decay: the learning rate is also multiplied by layer_decay^(number of layers from the
            parameter's to the end of the backbone), from the `layer_depths()` of modules.
        schedules: name prefixes of parameters with a separate schedule, and therefore separate groups.

    Returns:
        Groups for a torch optimizer, each with "params", their "names", "lr" and "weight_decay", and
        "schedule" if one of `schedules` matches, in order of first appearance in the model.

    Raises:
        InputError: a learning-rate prefix or expression matches no trainable parameter, or no module of the
            model has `layer_depths()`.
        RuntimeError: the groups do not hold every trainable parameter exactly once.
    """
    multipliers = dict(lr_multipliers or {})
    groups: dict[tuple[float, float, str], dict] = {}
    unmatched = set(multipliers)
    decays, factors = FirstMatch(weight_decay_by_name), FirstMatch(lr_multipliers_by_name)
    layers_after = _layers_after(model, layer_decay) if layer_decay != 1.0 else {}
    for name, parameter, owner in _named_trainable_parameters(model):
        lr, decay = base_lr, weight_decay
        last_part = name.rpartition(".")[2]
        if isinstance(owner, NORM_LAYERS):
            decay = weight_decay if weight_decay_norm is None else weight_decay_norm
            if weight_decay_head_norm is not None and not _is_prefix("backbone", name):
                decay = weight_decay_head_norm
        elif isinstance(owner, nn.Embedding) or last_part in EMBEDDING_NAMES:
            decay = weight_decay if weight_decay_embed is None else weight_decay_embed
        elif last_part == "bias":
            lr = base_lr * bias_lr_factor
            decay = weight_decay if weight_decay_bias is None else weight_decay_bias
        if decays.find(name):
            decay = weight_decay if decays.found is None else decays.found
        matching = [prefix for prefix in multipliers if _is_prefix(prefix, name)]
        unmatched.difference_update(matching)
        if factors.find(name):
            lr *= factors.found
        elif matching:
            lr *= multipliers[max(matching, key=len)]
        if name in layers_after:
            lr *= layer_decay ** layers_after[name]
        schedule = max((prefix for prefix in schedules if _is_prefix(prefix, name)), key=len, default="")
        settings = {"lr": lr, "weight_decay": decay, **({"schedule": schedule} if schedule else {})}
        group = groups.setdefault((lr, decay, schedule), {"params": [], "names": [], **settings})
        group["params"].append(parameter)
        group["names"].append(name)
    if unmatched:
        children = ", ".join(name for name, _ in model.named_children())
        raise InputError(
            f"SOLVER.LR_MULTIPLIERS: no trainable parameter's name begins with "
            f"{' or '.join(sorted(unmatched))}; the model's modules are {children}"
        )
    for pattern in decays.unused:
        logger.warning("SOLVER.WEIGHT_DECAY_BY_NAME: %r applies to no trainable parameter", pattern)
    if factors.unused:
        raise InputError(
            f"SOLVER.LR_MULTIPLIERS_BY_NAME: {factors.unused[0]!r} applies to no trainable parameter: it "
            "matches none of their names, or earlier expressions do; correct it, or leave it out"
        )
    result = list(groups.values())
    check_groups(model, result)
    return result


class FirstMatch:
    """Pairs of a regular expression and a value; the first one found in a name applies.

    Attributes:
        found: the value of the last match of `find`.
    """

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        self._pairs = [(re.compile(expression), value) for expression, value in pairs]
        self._unused = [expression for expression, _ in pairs]
        self.found: Any = None

    def find(self, name: str) -> bool:
        """Return whether an expression is found in the name, and keep its value."""
        for expression, value in self._pairs:
            if expression.search(name):
                self.found = value
                self._unused = [pattern for pattern in self._unused if pattern != expression.pattern]
                return True
        return False

    @property
    def unused(self) -> list[str]:
        """The expressions that have applied to no name."""
        return self._unused


def _layers_after(model: nn.Module, layer_decay: float) -> dict[str, int]:
    """Return {parameter name: number of layers to the end}, for modules with `layer_depths()`."""
    layers: dict[str, int] = {}
    for module_name, module in model.named_modules():
        prefix = f"{module_name}." if module_name else ""
        if hasattr(module, "layer_depths") and not any(name.startswith(prefix) for name in layers):
            depths, total = module.layer_depths()
            layers |= {f"{prefix}{name}": total - depth for name, depth in depths.items()}
    if not layers:
        raise InputError(
            f"SOLVER.LAYER_DECAY {layer_decay}: no module of the model has layer_depths(), which returns the "
            "depth of its parameters; set it to 1.0, or choose another MODEL.BACKBONE"
        )
    return layers


def check_groups(model: nn.Module, groups: Iterable[Mapping]) -> None:
    """Check that `groups` hold every trainable parameter of `model` exactly once and nothing else.

    Raises:
        RuntimeError: it lists the parameters that are missing, repeated or not trainable in the model.
    """
    count: dict[int, int] = {}
    for group in groups:
        for parameter in group["params"]:
            count[id(parameter)] = count.get(id(parameter), 0) + 1
    trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    problems = {
        "in no group": [name for key, name in trainable.items() if key not in count],
        "in several groups": [name for key, name in trainable.items() if count.get(key, 0) > 1],
        "not trainable in the model": [f"{key:#x}" for key in count if key not in trainable],
    }
    found = "; ".join(f"{problem}: {', '.join(names)}" for problem, names in problems.items() if names)
    if found:
        raise RuntimeError(f"every trainable parameter must be in exactly one group; {found}")


def _named_trainable_parameters(model: nn.Module):
    """Yield (full name, parameter, owning module) once for each trainable parameter, also if it is shared."""
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield (f"{module_name}.{name}" if module_name else name), parameter, module


def _is_prefix(prefix: str, name: str) -> bool:
    prefix = prefix.rstrip(".")
    return name == prefix or name.startswith(prefix + ".")
