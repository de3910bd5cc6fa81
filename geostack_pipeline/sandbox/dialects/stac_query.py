"""What a STAC search asks for, and which items match: shared by the dialects that are item-search servers."""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import shapely

Item = dict[str, Any]


class BadRequestError(ValueError):
    """A parameter that a server answers with status 400."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A parsed search."""

    limit: int
    collections: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    shape: shapely.Geometry | None = None
    """Area that an item's geometry must touch, longitude and latitude."""
    start: datetime | None = None
    """First instant, inclusive."""
    end: datetime | None = None
    """Last instant, inclusive."""
    properties: Mapping[str, Mapping[str, Any]] | None = None
    """The query extension: property -> operator -> value."""

    def matches(self, item: Item, shape: shapely.Geometry) -> bool:
        """Tell whether an item (with its geometry parsed) is asked for."""
        if self.collections is not None and item["collection"] not in self.collections:
            return False
        if self.ids is not None and item["id"] not in self.ids:
            return False
        if self.start is not None or self.end is not None:
            when = instant(item["properties"]["datetime"])
            if (self.start is not None and when < self.start) or (self.end is not None and when > self.end):
                return False
        if self.shape is not None and not shapely.intersects(self.shape, shape):
            return False
        return all(
            _holds(item["properties"].get(name), conditions)
            for name, conditions in (self.properties or {}).items()
        )


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "startsWith": lambda value, start: str(value).startswith(start),
    "endsWith": lambda value, end: str(value).endswith(end),
    "contains": lambda value, part: part in str(value),
    "in": lambda value, options: value in options,
}


def _holds(value: Any, conditions: Mapping[str, Any]) -> bool:
    for name, wanted in conditions.items():
        if name not in _OPERATORS:
            raise BadRequestError(f"Invalid query operator {name}")
        if value is None:
            return False
        if isinstance(value, int | float) and isinstance(wanted, str):
            # Some clients send numbers as text; the search engine behind the API reads them as numbers.
            with contextlib.suppress(ValueError):
                wanted = float(wanted)  # noqa: PLW2901 - the same value in another type
        try:
            if not _OPERATORS[name](value, wanted):
                return False
        except TypeError:
            return False
    return True


_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")


def instant(text: str) -> datetime:
    """Return an RFC 3339 instant in UTC."""
    if not _INSTANT.fullmatch(text):
        raise BadRequestError(f"Invalid datetime: {text}")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except ValueError as error:
        raise BadRequestError(f"Invalid datetime: {text}") from error


def interval(text: str) -> tuple[datetime | None, datetime | None]:
    """Return the inclusive ends of an instant or a ``start/end`` with open ends ``..`` or empty."""
    parts = text.split("/")
    if len(parts) > 2:
        raise BadRequestError(f"Invalid datetime: {text}")
    ends = [None if part in {"", ".."} else instant(part) for part in parts]
    if len(ends) == 1:
        if ends[0] is None:
            raise BadRequestError(f"Invalid datetime: {text}")
        return ends[0], ends[0]
    if ends[0] is None and ends[1] is None:
        raise BadRequestError(f"Invalid datetime: {text}")
    if ends[0] is not None and ends[1] is not None and ends[0] > ends[1]:
        raise BadRequestError("Invalid datetime, start is after end")
    return ends[0], ends[1]


def box(values: Any) -> shapely.Geometry:
    """Return the polygon of a 2-D or 3-D bbox; west > east crosses the antimeridian."""
    if not isinstance(values, list) or len(values) not in {4, 6}:
        raise BadRequestError("Invalid bbox, must have 4 or 6 points")
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise BadRequestError("Invalid bbox") from error
    if len(numbers) == 6:
        numbers = [numbers[0], numbers[1], numbers[3], numbers[4]]
    west, south, east, north = numbers
    if south > north:
        raise BadRequestError("Invalid bbox, SW latitude must be less than NE latitude")
    if west <= east:
        return shapely.box(west, south, east, north)
    return shapely.MultiPolygon(
        [shapely.box(west, south, 180.0, north), shapely.box(-180.0, south, east, north)]
    )


def parse(body: Mapping[str, Any], *, default_limit: int, largest_limit: int) -> Query:
    """Return the search of a POST body; unknown members are ignored, as the servers do.

    Raises:
        BadRequestError: A member is malformed.
    """
    if body.get("bbox") is not None and body.get("intersects") is not None:
        raise BadRequestError("Expected bbox OR intersects, not both")
    shape = None
    if body.get("bbox") is not None:
        shape = box(body["bbox"])
    elif body.get("intersects") is not None:
        try:
            shape = shapely.geometry.shape(body["intersects"])
        except Exception as error:
            raise BadRequestError("Invalid intersects, must be a GeoJSON geometry") from error
    start, end = interval(body["datetime"]) if body.get("datetime") else (None, None)
    limit = body.get("limit", default_limit)
    try:
        limit = int(limit)
    except (TypeError, ValueError) as error:
        raise BadRequestError("Invalid limit, must be a number") from error
    if limit <= 0:
        raise BadRequestError("Invalid limit, must be greater than 0")
    for name in ("collections", "ids"):
        if body.get(name) is not None and not isinstance(body[name], list):
            raise BadRequestError(f"Invalid {name}, must be an array")
    return Query(
        limit=min(limit, largest_limit),
        collections=body.get("collections"),
        ids=body.get("ids"),
        shape=shape,
        start=start,
        end=end,
        properties=body.get("query"),
    )


def dig(item: Mapping[str, Any], path: str) -> Any:
    """Return the member at a dotted path, or a property of that name, or None."""
    found: Any = item
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return item.get("properties", {}).get(path) if found is None else found


def pick(item: Item, include: Sequence[str], exclude: Sequence[str]) -> Item:
    """Return an item with only the fields asked for, and always its id and collection."""
    result: Item = {}
    if include:
        for path in ("id", "collection", *include):
            _graft(result, item, path.split("."))
    else:
        result = {
            **item,
            "properties": dict(item.get("properties", {})),
            "assets": dict(item.get("assets", {})),
        }
    for path in exclude:
        holder: Any = result
        *parents, last = path.split(".")
        for part in parents:
            holder = holder.get(part, {})
        holder.pop(last, None)
    return result


def _graft(target: Item, source: Mapping[str, Any], parts: list[str]) -> None:
    name, *rest = parts
    if name not in source:
        return
    if not rest:
        target[name] = source[name]
    elif isinstance(source[name], Mapping):
        _graft(target.setdefault(name, {}), source[name], rest)
