"""Registry of the evaluators for the tasks of a dataset; other packages may add their own."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from detectron2.data import MetadataCatalog

from segzoo.utils.errors import InputError
from segzoo.utils.tasks import EVALUATOR_TYPES, NO_GROUND_TRUTH, TASKS
from segzoo.utils.text import did_you_mean

from .base import BackgroundEvaluator

Evaluator = TypeVar("Evaluator", bound=type[BackgroundEvaluator])


class Registered(NamedTuple):
    """An evaluator, and its name in TEST.EVALUATORS; "" if it always runs."""

    evaluator: type[BackgroundEvaluator]
    name: str


# (the dataset's evaluator_type, the task) -> its evaluators; the first is the standard one.
_EVALUATORS: dict[tuple[str, str], list[Registered]] = {}


def register_evaluator(
    evaluator_type: str, task: str, evaluator: Evaluator | None = None, *, name: str = ""
) -> Evaluator | Callable[[Evaluator], Evaluator]:
    """Register an evaluator beside those of the same predictions, in a call or as a decorator.

    Args:
        evaluator_type: type of a dataset's ground truth, the key `evaluator` of its YAML file; a new one
            becomes a valid value of that key.
        task: task of the predictions that it scores.
        evaluator: a subclass of BackgroundEvaluator with its own `task_key`.
        name: its name in TEST.EVALUATORS; with "" it runs in every evaluation of the pair. The first
            evaluator of a pair is the standard one and has no name.

    Raises:
        TypeError: `evaluator` is not such a subclass.
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
    # A module that is imported again, as in a notebook, replaces its own evaluator.
    identity = (evaluator.__module__, evaluator.__qualname__)
    for position, (other, _) in enumerate(registered):
        if (other.__module__, other.__qualname__) == identity:
            registered[position] = Registered(evaluator, name)
            return evaluator
    registered.append(Registered(evaluator, name))
    return evaluator


def find_evaluator(dataset_name: str, task: str) -> type[BackgroundEvaluator] | None:
    """Return the standard evaluator of a task; None if the dataset has no ground truth for it."""
    found = _registered(dataset_name, task)
    return found[0].evaluator if found else None


def names_beside(dataset_name: str, task: str) -> set[str]:
    """Return the names of the evaluators that can run beside a task's standard one."""
    return {one.name for one in _registered(dataset_name, task)} - {""}


def find_evaluators(
    dataset_name: str, tasks: Iterable[str], names: Iterable[str] = ()
) -> list[type[BackgroundEvaluator]]:
    """Return the evaluators for the tasks of a dataset that always run or are in `names`.

    Raises:
        InputError: the dataset has no ground truth for a task, a name is unknown or scores none of the tasks
            of this dataset, or two evaluators would write the same key of the result.
    """
    tasks, names = list(tasks), list(names)
    evaluators: list[type[BackgroundEvaluator]] = []
    used: set[str] = set()
    for task in tasks:
        registered = _registered(dataset_name, task)
        if not registered:
            raise InputError(_cannot_score(dataset_name, task))
        chosen = [one for one in registered if not one.name or one.name in names]
        used.update(one.name for one in chosen)
        evaluators += [one.evaluator for one in chosen]
    check_names_beside(names)
    unused = [name for name in names if name not in used]
    if unused:
        raise InputError(_unknown_name(dataset_name, tasks, unused[0]))
    by_key: dict[str, type[BackgroundEvaluator]] = {}
    for evaluator in evaluators:
        for key in (evaluator.task_key, *evaluator.other_keys):
            other = by_key.setdefault(key, evaluator)
            if other is not evaluator:
                raise InputError(
                    f"TEST.EVALUATORS, IMPORTS: {other.__name__} and {evaluator.__name__} both report "
                    f"{key!r} on {dataset_name}; give one of them another task_key"
                )
    return list(dict.fromkeys(by_key.values()))


def check_names_beside(names: Iterable[str]) -> None:
    """Check that evaluators are registered under names in TEST.EVALUATORS, whatever they score.

    Raises:
        InputError: a name is unknown.
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
    pair = metadata.evaluator_type, task
    if pair == ("coco_instances", "semantic") and metadata.get("background") is None:
        return []
    found = _EVALUATORS.get(pair, [])
    if metadata.evaluator_type != NO_GROUND_TRUTH:
        return found
    return [one for one in found if one.evaluator.writes(metadata.get("submission", ""))]


def _cannot_score(dataset_name: str, task: str) -> str:
    evaluator_type = MetadataCatalog.get(dataset_name).evaluator_type
    possible = sorted(name for name in TASKS if _registered(dataset_name, name))
    remedy = ""
    if (evaluator_type, task) == ("coco_instances", "semantic"):
        remedy = ", or add a background class to classes in its YAML file, and name it there under background"
    return (
        f"TEST.TASKS: {dataset_name} (evaluator_type {evaluator_type}) cannot score {task!r}; "
        f"expected some of {', '.join(possible) or 'no task at all'}{remedy}"
    )


def _unknown_name(dataset_name: str, tasks: list[str], name: str) -> str:
    evaluator_type = MetadataCatalog.get(dataset_name).evaluator_type
    pairs = [pair for pair, registered in _EVALUATORS.items() if name in {one.name for one in registered}]
    possible = sorted({task for pair_type, task in pairs if pair_type == evaluator_type})
    remedy = f"add {' or '.join(possible)} to TEST.TASKS, or leave it out" if possible else "leave it out"
    return (
        f"TEST.EVALUATORS: {name!r} scores none of {', '.join(tasks)} on {dataset_name} (evaluator_type "
        f"{evaluator_type}); {remedy}"
    )
