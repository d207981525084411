"""Parameters and GFLOPs of models as tables or JSON."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from segzoo.config.files import zoo_name
from segzoo.model_zoo.records import WeightsInfo
from segzoo.model_zoo.registry import known_models
from segzoo.utils.errors import InputError

from .configuration import load_any
from .weights_option import weights_in

if TYPE_CHECKING:
    from segzoo.engine.analysis import Complexity


def measure(
    name: str, overrides: Sequence[str], size: Sequence[int] | None, trust: bool = False
) -> dict[str, Any]:
    """Build a model without weights, and count as in the zoo's tables."""
    info = known_models().get(zoo_name(name))
    count_with = [str(item) for item in info.count_with] if info else []
    cfg = load_any(name, [*count_with, *overrides], trust=trust, needs_datasets=False)

    # Imported here: a wrong key is reported without importing models.
    from segzoo.engine.analysis import analyze_config
    from segzoo.model_zoo.measure import counted_size

    complexity = analyze_config(cfg, tuple(size) if size else counted_size(cfg, info))
    return as_dict(name, complexity, info)


def as_dict(name: str, complexity: "Complexity", info: WeightsInfo | None) -> dict[str, Any]:
    """Return the result in millions of parameters and 10^9 multiply-adds, with the published numbers."""
    result: dict[str, Any] = {
        "name": name,
        "size": list(complexity.size),
        "params_M": round(complexity.total_params / 1e6, 3),
        "gflops": round(complexity.total_flops / 1e9, 2),
        "parts": {
            part: {
                "params_M": round(complexity.params.get(part, 0) / 1e6, 3),
                "gflops": round(complexity.flops.get(part, 0) / 1e9, 2),
            }
            for part in {**complexity.params, **complexity.flops}
        },
    }
    if info:
        result["paper"] = {"params_M": info.params, "gflops": info.gflops}
        if (official := info.official_code) and official.size == complexity.size:
            result["official_code"] = {"params_M": official.params, "gflops": official.gflops}
        if info.only_official:
            result["only_official"] = {key: round(n / 1e6, 3) for key, n in info.only_official.items()}
    return result


def show(result: dict[str, Any]) -> str:
    """Return a result as a table with deviations in percent."""
    height, width = result["size"]
    rows = [(part, values["params_M"], values["gflops"]) for part, values in result["parts"].items()]
    rows.append(("total", result["params_M"], result["gflops"]))
    for module, millions in result.get("only_official", {}).items():
        rows.append((f"only in the official code: {module}", millions, "-"))
    for key, title in (("official_code", "official code, same size"), ("paper", "paper")):
        known = result.get(key)
        if known:
            rows.append(
                (title, *(with_deviation(result[unit], known[unit]) for unit in ("params_M", "gflops")))
            )
    table = tabulate(rows, ["", "parameters, M", f"GFLOPs @ {height}x{width}"], "pipe", disable_numparse=True)
    return f"{result['name']}\n{table}\n"


def with_deviation(found: float, known: float | None) -> str:
    return "-" if known is None else f"{known} ({100 * (found / known - 1):+.1f} %)"


def analyze(args: argparse.Namespace) -> int:
    """Print parameters and GFLOPs, or the peak memory, of the named models; return the exit status."""
    names = [*args.names, *args.config_file]
    if args.all:
        names += [name for name, info in known_models().items() if info.published]
    if not names and weights_in(args.opts):
        names = [weights_in(args.opts)]
    if args.memory:
        # Imported here: it is not needed to count.
        from .memory import show_memory

        return show_memory(args, names)
    if args.batch is not None or args.measure:
        raise InputError("--batch and --measure are options of --memory; add it")
    if not names:
        raise InputError("no model given; give a name that `segzoo zoo` lists, a YAML file, or --all")
    results = []
    for name in names:
        results.append(measure(name, args.opts, args.size, args.trust_checkpoint))
        if not args.json:
            print(show(results[-1]))
    if args.json:
        print(json.dumps(results, indent=2))
    return 0
