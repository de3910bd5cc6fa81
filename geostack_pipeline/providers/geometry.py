"""Footprints: GeoJSON polygons as catalogs give them, settled into one 2-D form.

Longitudes and latitudes are degrees, WGS 84.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

Position = list[float]
Ring = list[Position]


class GeometryError(ValueError):
    """A footprint that cannot be settled; the text says what was found."""


def canonical_geometry(value: Any) -> dict[str, Any]:
    """Return a 2-D ``Polygon`` or ``MultiPolygon`` with float coordinates.

    Heights are dropped, other members (``crs``, ``bbox``) too.  Longitudes may reach ±360
    (some catalogs unroll the antimeridian), latitudes ±90.

    Raises:
        GeometryError: Another type, an open or short ring, or a coordinate that is no finite number in range.
    """
    if not isinstance(value, dict):
        raise GeometryError(f"geometry is {_name(value)}, not an object")
    kind = value.get("type")
    coordinates = value.get("coordinates")
    if kind == "Polygon":
        return {"type": "Polygon", "coordinates": _polygon(coordinates)}
    if kind == "MultiPolygon":
        if not isinstance(coordinates, list) or not coordinates:
            raise GeometryError("a MultiPolygon without polygons")
        return {"type": "MultiPolygon", "coordinates": [_polygon(polygon) for polygon in coordinates]}
    raise GeometryError(f"geometry type {str(kind)[:40]!r}, not Polygon or MultiPolygon")


def canonical_bbox(value: Any) -> list[float] | None:
    """Return ``[west, south, east, north]`` of a 2-D or 3-D STAC bbox; None where it is not one.

    West may exceed east: the box then crosses the antimeridian.
    """
    if not isinstance(value, list | tuple) or len(value) not in {4, 6}:
        return None
    numbers = [_number(number) for number in value]
    if None in numbers:
        return None
    half = len(numbers) // 2
    west, south, east, north = (numbers[0], numbers[1], numbers[half], numbers[half + 1])
    if west is None or south is None or east is None or north is None:
        return None
    if not (-90.0 <= south <= north <= 90.0) or max(abs(west), abs(east)) > 360.0:
        return None
    return [west, south, east, north]


def bbox_of(geometry: dict[str, Any]) -> list[float]:
    """Return ``[west, south, east, north]`` of a canonical geometry; west > east across the antimeridian."""
    unrolled = [unroll(polygon[0]) for polygon in polygons(geometry)]
    south = min(latitude for ring in unrolled for _, latitude in ring)
    north = max(latitude for ring in unrolled for _, latitude in ring)
    spans = [(min(p[0] for p in ring), max(p[0] for p in ring)) for ring in unrolled]
    west, east = min(span[0] for span in spans), max(span[1] for span in spans)
    if east - west > 180.0 and len(spans) > 1:
        # parts on both sides of the antimeridian: bring the western hemisphere to the east
        shifted = [(w + 360.0, e + 360.0) if e <= 0.0 else (w, e) for w, e in spans]
        west2, east2 = min(span[0] for span in shifted), max(span[1] for span in shifted)
        if east2 - west2 < east - west:
            west, east = west2, east2
    if west >= 180.0:
        west, east = west - 360.0, east - 360.0
    if east > 180.0 and east - west < 360.0:
        east -= 360.0
    return [west, south, east, north]


def polygons(geometry: dict[str, Any]) -> Iterator[list[Ring]]:
    """Yield the polygons (lists of rings) of a canonical geometry."""
    if geometry["type"] == "Polygon":
        yield geometry["coordinates"]
    else:
        yield from geometry["coordinates"]


def unroll(ring: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Return the ring with continuous longitudes: a jump over the antimeridian goes beyond 180 instead.

    Some catalogs write a tile at 180° as a ring that jumps from 179.9 to -179.5, which read
    plainly would span the whole world.  An edge longer than 180° is taken as such a jump,
    unless it runs from exactly -180 to 180 (a box around the world).
    """
    jumps = any(
        abs(b[0] - a[0]) > 180.0 and not (abs(a[0]) == 180.0 and abs(b[0]) == 180.0)
        for a, b in itertools.pairwise(ring)
    )
    if not jumps:
        return [(point[0], point[1]) for point in ring]
    return [(point[0] + 360.0 if point[0] < 0.0 else point[0], point[1]) for point in ring]


def _polygon(value: Any) -> list[Ring]:
    if not isinstance(value, list) or not value:
        raise GeometryError("a polygon without rings")
    return [_ring(ring) for ring in value]


def _ring(value: Any) -> Ring:
    if not isinstance(value, list) or len(value) < 4:
        raise GeometryError("a ring with fewer than four positions")
    ring = [_position(position) for position in value]
    if ring[0] != ring[-1]:
        raise GeometryError(f"an open ring from {ring[0]} to {ring[-1]}")
    return ring


def _position(value: Any) -> Position:
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise GeometryError(f"a position that is {_name(value)}")
    longitude, latitude = _number(value[0]), _number(value[1])
    if longitude is None or latitude is None:
        raise GeometryError(f"a coordinate that is no finite number: {str(value)[:60]}")
    if abs(longitude) > 360.0 or abs(latitude) > 90.0:
        raise GeometryError(f"a position outside the world: {longitude}, {latitude}")
    return [longitude, latitude]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    # + 0.0 turns -0.0 into 0.0: equal footprints then have equal bytes
    return number + 0.0 if math.isfinite(number) else None


def _name(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
