"""The benchmark cases.

A module of this package that has `CASES`, a list of `Case`, is a subcommand of `tools/benchmark.py`, named as
the module, with one row per case. The other modules are helpers. A peer that is not
installed leaves its rows in the table, as "not installed".
"""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import segzoo  # noqa: F401  before the cases import Detectron2: makes the library versions work together

# The peers: the name that is imported, and what pip installs.
PEERS = {
    "transformers": "transformers",
    "mmseg": "mmsegmentation",
    "panopticapi": "panopticapi-lite",
    "pycocotools": "pycocotools",
    "hotcoco": "hotcoco",
    "faster_coco_eval": "faster-coco-eval",
    "torchmetrics": "torchmetrics",
}


class Pair(NamedTuple):
    """Two implementations to compare, which can be called repeatedly on the same input.

    `segzoo` and `peer` take no arguments and return the result of one complete run. `compare(ours, theirs)`
    gets both results and returns True or False, or a short text that says how close the results are
    ("gradients 2.4e-7"); a text that starts with "DIFFERENT" counts as a failure, like False.
    """

    segzoo: Callable[[], Any]
    peer: Callable[[], Any]
    compare: Callable[[Any, Any], bool | str]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: short and unique within its module, e.g. "semantic-512x683x150".
        description: what is measured and what the peer is, in one line.
        make: builds the input and returns the `Pair`; called once, not timed.
        goal: the ratio (peer time / segzoo time) to reach; None for a report only.
        memory: which allocations the peak counts: "torch" (CPU tensors) or "numpy" (Python and numpy).
        memory_goal: segzoo's peak as a share of the peer's, at most; None for no goal.
        repeat: number of timed pairs, if the default of the command line would take too long.
        slow: whether memory is measured in the warm-up runs instead of in separate ones.
        scene: what the images show, and of which dataset's images that is true; "" if it does not matter.
        peer: the other implementation; "" takes what the description says after "peer:".
        needs: the peers that have to be installed, by the names of `PEERS`.
        recorded: whether docs/speed.md has it; variants that add minutes and little else are left out.
    """

    name: str
    description: str
    make: Callable[[], Pair]
    goal: float | None = None
    memory: str = "torch"
    memory_goal: float | None = None
    repeat: int | None = None
    slow: bool = False
    scene: str = ""
    peer: str = ""
    needs: tuple[str, ...] = ()
    recorded: bool = True

    @property
    def peer_name(self) -> str:
        """The other implementation, in words."""
        return self.peer or self.description.partition("peer: ")[2]

    @property
    def what(self) -> str:
        """The description without the peer."""
        return self.description.partition("; peer: ")[0]

    @property
    def missing(self) -> str:
        """What pip has to install for this case; "" if nothing."""
        return " ".join(PEERS[name] for name in self.needs if not is_installed(name))


def is_installed(peer: str) -> bool:
    """Return whether a peer can be imported, without importing it."""
    return importlib.util.find_spec(peer) is not None


def peer_versions() -> dict[str, str]:
    """Return {distribution: version} of the installed peers and of Detectron2."""
    versions = {}
    for name in ["detectron2", *PEERS.values()]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def load_cases() -> dict[str, list[Case]]:
    """Return {module name: its cases}, in alphabetical order of the modules.

    A module whose import needs a peer that is not installed has one case, which says so.
    """
    modules: dict[str, list[Case]] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        try:
            cases = getattr(importlib.import_module(f"{__name__}.{name}"), "CASES", None)
        except ModuleNotFoundError as error:
            if error.name not in PEERS:
                raise
            cases = [Case("all", f"the cases of {name}", _unavailable, needs=(error.name,))]
        if cases is not None:
            modules[name] = cases
    return modules


def _unavailable() -> Pair:
    raise ModuleNotFoundError("a case of a peer that is not installed was made")
