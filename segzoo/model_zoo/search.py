"""Find models of the zoo by task, dataset, name, size and license."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from segzoo.utils.text import did_you_mean

from .names import list_models
from .records import WeightsInfo
from .registry import known_models, sections


class Entry(NamedTuple):
    """A model in the list of the zoo.

    Attributes:
        name: name of the configuration.
        info: its row in the tables; None if it has none.
        title: dataset and task; "" without a row.
        metric: the first metric of its table; "" without a row.
    """

    name: str
    info: WeightsInfo | None = None
    title: str = ""
    metric: str = ""

    @property
    def value(self) -> float | None:
        """The published value of `metric` in percent."""
        return self.info.value(self.metric) if self.info else None

    @property
    def params(self) -> float | None:
        """Parameters in millions: counted by segzoo, else as published."""
        if self.info is None:
            return None
        return self.info.reproduced.params if self.info.reproduced else self.info.params

    @property
    def weights(self) -> str:
        """How to get the official weights: link (direct) | page (for a browser) | none."""
        if self.info is None:
            return "none"
        return "link" if self.info.url else "page" if self.info.page or self.info.folder else "none"


def all_entries() -> list[Entry]:
    """Return all models of the zoo, in the order of their names."""
    titles = {
        info.name: (section.title, next(iter(section.metrics), ""))
        for section in sections()
        for info in section.models
    }
    known = known_models()
    return [Entry(name, known.get(name), *titles.get(name, ("", ""))) for name in list_models()]


def find_models(
    entries: Iterable[Entry],
    *,
    task: str = "",
    dataset: str = "",
    text: str = "",
    license: str = "",
    max_params: float | None = None,
    with_weights: bool = False,
) -> list[Entry]:
    """Return the models that meet all conditions; empty conditions are ignored.

    Args:
        entries: the models to choose from.
        task: semantic | panoptic | instance | entity.
        dataset: as in names: ade20k, coco, ...
        text: words that the name, method or backbone contains, ignoring case, `-` and `_`.
        license: text that the license of the weights contains, ignoring case.
        max_params: largest number of parameters in millions; uncounted models are left out.
        with_weights: only models with a direct link to official weights.
    """
    words = _squeezed(text).split()

    def meets(entry: Entry) -> bool:
        own_task, own_dataset, _ = entry.name.split("/")
        searched = (
            entry.name if entry.info is None else f"{entry.name} {entry.info.method} {entry.info.backbone}"
        )
        return (
            task in ("", own_task)
            and dataset in ("", own_dataset)
            and all(word in _squeezed(searched) for word in words)
            and (not license or (entry.info is not None and license.lower() in entry.info.license.lower()))
            and (max_params is None or (entry.params is not None and entry.params <= max_params))
            and (not with_weights or entry.weights == "link")
        )

    return [entry for entry in entries if meets(entry)]


def similar_name(entries: Sequence[Entry], text: str) -> str:
    """Return "; did you mean ...?" with a name or method that begins so or is similar, else ""."""
    known = [entry.name.split("/")[-1] for entry in entries]
    known += [name for entry in entries if entry.info for name in (entry.info.method, entry.info.model_id)]
    longer = [name for name in known if text and name.lower().startswith(text.lower())]
    return did_you_mean(text, known) if not longer else f"; did you mean {longer[0]}?"


def _squeezed(text: str) -> str:
    return text.lower().replace("-", "").replace("_", "")
