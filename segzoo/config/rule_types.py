"""Types of rules for the values of configuration keys, of this package and others."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """A condition on the value of a key.

    Attributes:
        expected: text for messages, such as "expected an odd number".
        holds: whether a value meets the condition; a TypeError or ValueError counts as False.
    """

    expected: str
    holds: Callable[[Any], bool]

    def allows(self, value: Any) -> bool:
        """Return whether the key may have the value."""
        try:
            return bool(self.holds(value))
        except (TypeError, ValueError):
            return False


def at_least(lowest: int) -> Rule:
    """Return the rule for a number that is `lowest` or more."""
    return Rule(f"expected at least {lowest}", lambda value: value >= lowest)


def one_of(*choices: Any) -> Rule:
    """Return the rule for a key with a fixed set of values; messages suggest the nearest one."""
    named = " or ".join(str(choice) or '""' for choice in choices)
    return Rule(f"expected {named}", lambda value: value in choices)


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_range(value: Any) -> bool:
    """Return whether a value is a pair (lowest, highest) of finite numbers."""
    low, high = value
    return math.isfinite(low) and math.isfinite(high) and low <= high


COUNT = at_least(1)
AMOUNT = Rule("expected a finite number of at least 0", lambda value: 0 <= value < math.inf)
AMOUNT_OR_NONE = Rule(
    "expected None or a finite number of at least 0",
    lambda value: value is None or 0 <= value < math.inf,
)
POSITIVE = Rule("expected a finite number above 0", lambda value: 0 < value < math.inf)
SHARE = Rule("expected a number from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_1 = Rule("expected a number from 0 to below 1", lambda value: 0 <= value < 1)
RANGE = Rule("expected (lowest, highest)", is_range)
POSITIVE_RANGE = Rule(
    "expected (lowest, highest), both above 0", lambda value: is_range(value) and value[0] > 0
)
COUNTS = Rule(
    "expected one or more numbers of at least 1",
    lambda value: len(value) > 0 and all(is_whole(number) and number > 0 for number in value),
)
ODD = Rule("expected an odd number of at least 1", lambda value: value > 0 and value % 2 == 1)
