"""CQL2 JSON as catalogs with the filter extension evaluate it: a filter against one item."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import shapely

from geostack_pipeline.sandbox.dialects.stac_query import BadRequestError, dig, instant

Item = Mapping[str, Any]

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def holds(expression: Any, item: Item) -> bool:
    """Tell whether an item satisfies a CQL2 JSON filter; a comparison with a property that is missing does not hold.

    Raises:
        BadRequestError: The filter is malformed or uses an operator that is not known here.
    """
    if isinstance(expression, bool):
        return expression
    if not isinstance(expression, Mapping) or not isinstance(expression.get("args"), list):
        raise BadRequestError("Invalid filter: an operator with args was expected")
    name, args = expression.get("op"), expression["args"]
    if name == "and":
        return all(holds(each, item) for each in args)
    if name == "or":
        return any(holds(each, item) for each in args)
    if name == "not" and len(args) == 1:
        return not holds(args[0], item)
    return _predicate(str(name), args, item)


def _predicate(name: str, args: Sequence[Any], item: Item) -> bool:
    if name == "s_intersects" and len(args) == 2:
        first, second = (_shape(each, item) for each in args)
        return bool(shapely.intersects(first, second))
    values = [_value(each, item) for each in args]
    if name == "isNull" and len(args) == 1:
        return values[0] is None
    if name in _COMPARISONS and len(args) == 2:
        return _compare(_COMPARISONS[name], values[0], values[1])
    if name == "between" and len(args) == 3:
        return _compare(operator.ge, values[0], values[1]) and _compare(operator.le, values[0], values[2])
    if name == "in" and len(args) == 2 and isinstance(args[1], list):
        return values[0] is not None and values[0] in values[1]
    if name == "like" and len(args) == 2:
        parts = [{"%": ".*", "_": "."}.get(letter, re.escape(letter)) for letter in str(values[1])]
        return isinstance(values[0], str) and re.fullmatch("".join(parts), values[0], re.DOTALL) is not None
    raise BadRequestError(f"Invalid filter: operator {name[:40]!r} with {len(args)} args")


def _value(argument: Any, item: Item) -> Any:
    if isinstance(argument, list):
        return [_value(each, item) for each in argument]
    if not isinstance(argument, Mapping):
        return argument
    if isinstance(argument.get("property"), str):
        return dig(item, argument["property"])
    if isinstance(argument.get("timestamp"), str):
        return argument["timestamp"]
    raise BadRequestError(f"Invalid filter: argument {str(argument)[:60]}")


def _compare(operation: Callable[[Any, Any], bool], left: Any, right: Any) -> bool:
    if left is None or right is None:
        return False
    if isinstance(left, str) and isinstance(right, str):
        try:
            return operation(instant(left), instant(right))
        except BadRequestError:
            pass  # plain texts
    try:
        return operation(left, right)
    except TypeError:
        return False


def _shape(argument: Any, item: Item) -> shapely.Geometry:
    if isinstance(argument, Mapping) and "property" in argument:
        argument = item.get("geometry")
    try:
        return shapely.geometry.shape(argument)
    except Exception as error:
        raise BadRequestError("Invalid filter: geometry") from error
