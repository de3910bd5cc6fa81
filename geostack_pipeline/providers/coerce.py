"""Loosely typed JSON to declared types, losing nothing.

Catalogs drift: a cloud cover is a number in one item and ``"72"`` in the next, and a
column of a scene table can hold only one type.  A :data:`Shape` declares what a value
must become.  What fits, or can be converted without doubt, is converted; everything
else is handed back as a leftover under its JSON pointer, to be kept as text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal, TypeAlias

Kind = Literal["str", "float", "int", "bool", "time"]
Shape: TypeAlias = "Kind | list[Shape] | dict[str, Shape]"
"""A kind, a list of one shape, or an object of named shapes."""

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,30}))?\s?(?:([Zz])|([+-])(\d\d):?(\d\d))?",
    re.ASCII,
)
_FLOAT = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_INT = re.compile(r"\s*[+-]?\d{1,19}\s*", re.ASCII)
_INT64 = 2**63
_EXACT = 2**53


class _Missing:
    """The absence of a value; JSON null, an empty list and an empty object are absences too."""


MISSING = _Missing()


def coerce(value: Any, shape: Shape, pointer: str, leftovers: dict[str, Any]) -> Any:
    """Return ``value`` in ``shape``, or :data:`MISSING`; what does not fit is added to ``leftovers``.

    Numbers become floats where a float is declared, digits in a string become numbers,
    numbers become strings, times become ``YYYY-MM-DDTHH:MM:SS.ffffffZ``.  Null, empty
    lists and empty objects are absent: a table cannot tell them apart.

    Args:
        value: A JSON value.
        shape: What it has to become.
        pointer: JSON pointer of the value, the key of its leftover.
        leftovers: JSON pointer -> value as it came; added to.
    """
    if value is None or value in ([], {}):
        return MISSING
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            leftovers[pointer] = value
            return MISSING
        return _object(value, shape, pointer, leftovers)
    if isinstance(shape, list):
        if not isinstance(value, list):
            leftovers[pointer] = value
            return MISSING
        return _list(value, shape[0], pointer, leftovers)
    result = _scalar(value, shape)
    if result is MISSING or (shape == "time" and isinstance(value, str) and _finer_than_microseconds(value)):
        leftovers[pointer] = value
    return result


def escape(key: str) -> str:
    """Return a key as one token of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def parse_time(value: Any) -> datetime | None:
    """Return an RFC 3339 text as an aware UTC datetime, cut to microseconds; None where it is not one.

    A text without an offset is taken as UTC.
    """
    if not isinstance(value, str) or (match := _TIME.fullmatch(value.strip())) is None:
        return None
    year, month, day, hour, minute, second = (int(match[index]) for index in range(1, 7))
    microsecond = int((match[7] or "0").ljust(6, "0")[:6])
    zone: timezone = UTC
    try:
        if match[9]:
            offset = timedelta(hours=int(match[10]), minutes=int(match[11]))
            zone = timezone(-offset if match[9] == "-" else offset)
        return datetime(year, month, day, hour, minute, second, microsecond, zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def format_time(moment: datetime) -> str:
    """Return an aware datetime as ``YYYY-MM-DDTHH:MM:SS.ffffffZ``."""
    utc = moment.astimezone(UTC)
    return f"{utc.year:04d}-{utc:%m-%dT%H:%M:%S.%f}Z"


def json_text(value: Any) -> str:
    """Return any JSON value as compact text with sorted keys; NaN and infinities become strings."""
    return json.dumps(
        _finite(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def _object(
    value: Mapping[str, Any], shape: Mapping[str, Shape], pointer: str, leftovers: dict[str, Any]
) -> dict[str, Any] | _Missing:
    result: dict[str, Any] = {}
    for key, member in value.items():
        wanted = shape.get(key)
        if wanted is not None:
            coerced = _as_it_is(member, wanted)
            if coerced is MISSING:
                coerced = coerce(member, wanted, f"{pointer}/{escape(key)}", leftovers)
            if coerced is not MISSING:
                result[key] = coerced
        elif member is not None:
            leftovers[f"{pointer}/{escape(key)}"] = member
    return result or MISSING


def _list(value: list[Any], shape: Shape, pointer: str, leftovers: dict[str, Any]) -> list[Any] | _Missing:
    """Coerce all elements or none: the place of an element means something (bands, transforms)."""
    result = [_as_it_is(element, shape) for element in value]
    if MISSING not in result:
        return result
    inside: dict[str, Any] = {}
    result = [coerce(element, shape, f"{pointer}/{index}", inside) for index, element in enumerate(value)]
    if MISSING in result:
        leftovers[pointer] = value
        return MISSING
    leftovers.update(inside)
    return result


def _as_it_is(value: Any, shape: Shape) -> Any:
    """Return a scalar that fits already; MISSING for all that :func:`coerce` has to look at. Saves most of its time."""
    kind = type(value)
    if kind is str:
        return value if shape == "str" else MISSING
    if kind is float:
        # inf - inf and nan - nan are nan; + 0.0 turns -0.0 into 0.0
        return value + 0.0 if shape == "float" and value - value == 0.0 else MISSING
    if kind is int:
        if shape == "float":
            return float(value) if -_EXACT <= value <= _EXACT else MISSING
        return value if shape == "int" and -_INT64 <= value < _INT64 else MISSING
    return MISSING


def _scalar(value: Any, kind: Kind) -> Any:
    if kind == "time":
        moment = parse_time(value)
        return MISSING if moment is None else format_time(moment)
    if kind == "str":
        return _text(value)
    if kind == "bool":
        if isinstance(value, bool):
            return value
        return (
            {"true": True, "false": False}.get(value.strip().lower(), MISSING)
            if isinstance(value, str)
            else MISSING
        )
    if isinstance(value, bool):
        return MISSING
    return _float(value) if kind == "float" else _int(value)


def _text(value: Any) -> str | _Missing:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    return MISSING


def _float(value: Any) -> float | _Missing:
    if isinstance(value, str):
        if not _FLOAT.fullmatch(value):
            return MISSING
        number = float(value)
    elif isinstance(value, int):
        try:
            number = float(value)
        except OverflowError:
            return MISSING
        if int(number) != value:
            return MISSING
    elif isinstance(value, float):
        number = value
    else:
        return MISSING
    # + 0.0 turns -0.0 into 0.0: equal rows then have equal bytes
    return number + 0.0 if math.isfinite(number) else MISSING


def _int(value: Any) -> int | _Missing:
    if isinstance(value, str):
        if not _INT.fullmatch(value):
            return MISSING
        number = int(value)
    elif isinstance(value, int):
        number = value
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    else:
        return MISSING
    return number if -_INT64 <= number < _INT64 else MISSING


def _finer_than_microseconds(text: str) -> bool:
    match = _TIME.fullmatch(text.strip())
    return match is not None and bool((match[7] or "")[6:].strip("0"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(member) for member in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
