"""Evaluate the lists of numbers that files of MaskFormer, Mask2Former and Detectron2 write as Python.

For example `!!python/object/apply:eval ["[int(x * 0.1 * 512) for x in range(5, 21)]"]`. Only arithmetic is
evaluated; no code in a file is executed.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

_EXPRESSION = re.compile(r"!!python/object/apply:eval\s*\[\s*([\"'])(.*?)\1\s*\]")
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: lambda base, exponent: float(base) ** exponent,
}
# Sizes of images and anchors need no larger numbers and no longer lists.
_LARGEST, _LONGEST = 10**6, 1000


def _range(*arguments: Any) -> range:
    numbers = range(*arguments)
    if len(numbers) > _LONGEST:
        raise ValueError(f"more than {_LONGEST} numbers")
    return numbers


_FUNCTIONS: dict[str, Callable[..., Any]] = {"float": float, "int": int, "range": _range, "round": round}


def expand_expressions(text: str) -> str:
    """Return the text of a YAML file with its computed lists of numbers replaced by their values.

    Other expressions stay, and are refused when the text is parsed.
    """
    return _EXPRESSION.sub(_expanded, text)


def _expanded(match: re.Match[str]) -> str:
    try:
        return str(_value(ast.parse(match[2], mode="eval").body, {}))
    except (ArithmeticError, SyntaxError, TypeError, ValueError):
        return match[0]


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float()):
            return node.value
        case ast.Name() if node.id in names:
            return names[node.id]
        case ast.List() | ast.Tuple():
            return [_value(item, names) for item in node.elts]
        case ast.BinOp() if type(node.op) in _OPERATORS:
            left, right = _value(node.left, names), _value(node.right, names)
            return _OPERATORS[type(node.op)](_number(left), _number(right))
        case ast.Call(func=ast.Name(id=called)) if called in _FUNCTIONS and not node.keywords:
            arguments = [_number(_value(item, names)) for item in node.args]
            return _FUNCTIONS[called](*arguments)
        case ast.ListComp(generators=[ast.comprehension(target=ast.Name(id=name), ifs=[]) as loop]):
            return [_value(node.elt, {**names, name: item}) for item in _value(loop.iter, names)]
    raise ValueError(f"not arithmetic: {ast.dump(node)}")


def _number(value: Any) -> Any:
    if not isinstance(value, int | float) or abs(value) > _LARGEST:
        raise ValueError(f"not a number of at most {_LARGEST}: {value!r}")
    return value
