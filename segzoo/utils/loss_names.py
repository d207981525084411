"""Group the names of losses by term, across decoder layers."""

import re
from collections.abc import Iterable

# Losses of earlier decoder layers: loss_ce_0, ... beside loss_ce of the last one.
_LAYER_SUFFIX = re.compile(r"_\d+$")


def loss_terms(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the losses that add up to total_loss by term; the losses of all decoder layers are one term.

    Returns:
        {"loss_ce (3 layers)": ["loss_ce", "loss_ce_0", "loss_ce_1"], "loss_dice": ["loss_dice"]}, in the
        order of `names`; names that are not losses are left out.
    """
    terms: dict[str, list[str]] = {}
    for name in names:
        if "loss" in name and name != "total_loss" and "/" not in name:
            terms.setdefault(_LAYER_SUFFIX.sub("", name), []).append(name)
    return {
        f"{term} ({len(parts)} layers)" if len(parts) > 1 else term: parts for term, parts in terms.items()
    }
