"""Which evaluators score a task of a dataset: lists that a private package may add to."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from detectron2.data import MetadataCatalog

from segzoo.utils.errors import InputError
from segzoo.utils.tasks import EVALUATOR_TYPES, NO_GROUND_TRUTH, TASKS
from segzoo.utils.text import did_you_mean

from .base import BackgroundEvaluator

Evaluator = TypeVar("Evaluator", bound=type[BackgroundEvaluator])


class Registered(NamedTuple):
    """An evaluator, and the name by which TEST.EVALUATORS asks for it; "" where it always runs."""

    evaluator: type[BackgroundEvaluator]
    name: str


# (the dataset's evaluator_type, the task) -> its evaluators; the first is the standard one.
_EVALUATORS: dict[tuple[str, str], list[Registered]] = {}


def register_evaluator(
    evaluator_type: str, task: str, evaluator: Evaluator | None = None, *, name: str = ""
) -> Evaluator | Callable[[Evaluator], Evaluator]:
    """Add an evaluator beside those that score the same predictions; as a call, or as a decorator.

    Args:
        evaluator_type: what the ground truth of a dataset is, the key `evaluator` of its YAML file. A new
            one becomes a value of that key.
        task: whose predictions it scores.
        evaluator: a subclass of BackgroundEvaluator, with a `task_key` of its own.
        name: TEST.EVALUATORS asks for it by this name; "": it runs in every evaluation of the pair. The first
            of a pair is its standard one and has no name.

    Raises:
        TypeError: `evaluator` is not such a class.
        ValueError: the task is unknown, or the first evaluator of a pair has a name.
    """
    if evaluator is None:

        def decorate(decorated: Evaluator) -> Evaluator:
            register_evaluator(evaluator_type, task, decorated, name=name)
            return decorated

        return decorate
    if not (isinstance(evaluator, type) and issubclass(evaluator, BackgroundEvaluator)):
        raise TypeError(f"register_evaluator: {evaluator!r} is not a subclass of BackgroundEvaluator")
    if not evaluator.task_key:
        raise TypeError(f"register_evaluator: {evaluator.__qualname__} has no task_key")
    if task not in TASKS:
        raise ValueError(f"register_evaluator: task {task!r}; expected one of {', '.join(TASKS)}")
    registered = _EVALUATORS.setdefault((evaluator_type, task), [])
    if name and not registered:
        raise ValueError(
            f"register_evaluator: ({evaluator_type}, {task}) has no standard evaluator beside which "
            f"{evaluator.__qualname__} could run; register it without a name"
        )
    if evaluator_type not in (*EVALUATOR_TYPES, NO_GROUND_TRUTH):
        EVALUATOR_TYPES.append(evaluator_type)
    # A module that is imported again, as in a notebook, replaces its own.
    identity = (evaluator.__module__, evaluator.__qualname__)
    for position, (other, _) in enumerate(registered):
        if (other.__module__, other.__qualname__) == identity:
            registered[position] = Registered(evaluator, name)
            return evaluator
    registered.append(Registered(evaluator, name))
    return evaluator


def find_evaluator(dataset_name: str, task: str) -> type[BackgroundEvaluator] | None:
    """Return the standard evaluator of a task, None where the dataset has no ground truth for it."""
    found = _registered(dataset_name, task)
    return found[0].evaluator if found else None


def names_beside(dataset_name: str, task: str) -> set[str]:
    """Return the names of the evaluators that can run beside the standard one of a task."""
    return {one.name for one in _registered(dataset_name, task)} - {""}


def find_evaluators(
    dataset_name: str, tasks: Iterable[str], names: Iterable[str] = ()
) -> list[type[BackgroundEvaluator]]:
    """Return all evaluators that score the tasks of a dataset, those that always run and those named.

    Raises:
        InputError: the dataset has no ground truth for a task, a name is unknown, or scores none of the tasks
            of this dataset, or two evaluators would write one key of the result.
    """
    tasks, names = list(tasks), list(names)
    evaluators: list[type[BackgroundEvaluator]] = []
    used: set[str] = set()
    for task in tasks:
        registered = _registered(dataset_name, task)
        if not registered:
            raise InputError(_cannot_score(dataset_name, task))
        wanted = [one for one in registered if not one.name or one.name in names]
        used.update(one.name for one in wanted)
        evaluators += [one.evaluator for one in wanted]
    check_names_beside(names)
    unused = [name for name in names if name not in used]
    if unused:
        raise InputError(_unknown_name(dataset_name, tasks, unused[0]))
    by_key: dict[str, type[BackgroundEvaluator]] = {}
    for evaluator in evaluators:
        other = by_key.setdefault(evaluator.task_key, evaluator)
        if other is not evaluator:
            raise InputError(
                f"TEST.EVALUATORS, IMPORTS: {other.__name__} and {evaluator.__name__} both report "
                f"{evaluator.task_key!r} on {dataset_name}; give one of them another task_key"
            )
    return list(by_key.values())


def check_names_beside(names: Iterable[str]) -> None:
    """Check that evaluators are registered by names, values of TEST.EVALUATORS, whatever they score.

    Raises:
        InputError: none is by one of them.
    """
    known = sorted({one.name for registered in _EVALUATORS.values() for one in registered} - {""})
    for name in names:
        if name not in known:
            raise InputError(
                f"TEST.EVALUATORS: {name!r} is not registered; expected some of {', '.join(known)}, or name "
                f"the module that registers it in IMPORTS{did_you_mean(name, known)}"
            )


def _registered(dataset_name: str, task: str) -> list[Registered]:
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.evaluator_type
    if (kind, task) == ("coco_instances", "semantic") and metadata.get("background") is None:
        return []
    return _EVALUATORS.get((kind, task), [])


def _cannot_score(dataset_name: str, task: str) -> str:
    kind = MetadataCatalog.get(dataset_name).evaluator_type
    possible = sorted(name for name in TASKS if _registered(dataset_name, name))
    remedy = ""
    if (kind, task) == ("coco_instances", "semantic"):
        remedy = (
            ", or add a class for what no instance covers to classes in its YAML file, and name it "
            "there under background"
        )
    return (
        f"TEST.TASKS: {dataset_name} (evaluator_type {kind}) cannot score {task!r}; "
        f"expected some of {', '.join(possible) or 'no task at all'}{remedy}"
    )


def _unknown_name(dataset_name: str, tasks: list[str], name: str) -> str:
    kind = MetadataCatalog.get(dataset_name).evaluator_type
    pairs = [pair for pair, registered in _EVALUATORS.items() if name in {one.name for one in registered}]
    possible = sorted({task for pair_kind, task in pairs if pair_kind == kind})
    remedy = f"add {' or '.join(possible)} to TEST.TASKS, or leave it out" if possible else "leave it out"
    return (
        f"TEST.EVALUATORS: {name!r} scores none of {', '.join(tasks)} on {dataset_name} (evaluator_type "
        f"{kind}); {remedy}"
    )
