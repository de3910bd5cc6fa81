"""Shapes and boxes in degrees as GeoJSON wants them (RFC 7946, 3.1.9 and 5.2): cut at 180°, west > east across it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geostack_pipeline.providers.geometry import bbox_of

_DECIMALS = 7
"""Of degrees: about a centimetre."""


def cut(shape: Any) -> Any:
    """Return a polygon, or several, within [-180, 180]: in parts where it crosses the antimeridian, otherwise as it is.

    Longitudes may run on beyond 180, or jump there: an edge goes the shorter way around the Earth.  A ring around a pole
    gets the pole.
    """
    parts = [_unrolled(part) for part in shapely.get_parts(shape)]
    west, _, east, _ = shapely.total_bounds(parts)
    if west >= -180.0 and east <= 180.0:
        return shape
    whole, pieces = shapely.union_all(parts), []
    for turn in range(math.floor((west + 180.0) / 360.0), math.ceil((east + 180.0) / 360.0)):
        around = 360.0 * turn
        piece = shapely.intersection(whole, shapely.box(around - 180.0, -90.0, around + 180.0, 90.0))
        pieces += [
            shapely.transform(part, lambda xy, by=around: xy - (by, 0.0))
            for part in shapely.get_parts(piece)
            if part.geom_type == "Polygon"
        ]
    # The precision model keeps what is rounded valid, and leaves out slivers that vanish.
    rounded = shapely.set_precision(shapely.union_all(pieces), 10.0**-_DECIMALS)
    return shapely.orient_polygons(shapely.transform(rounded, lambda xy: np.round(xy, _DECIMALS)))


def box_of(shape: Any) -> list[float]:
    """Return west, south, east, north of what `cut` returned; west > east across the antimeridian."""
    return [float(part) for part in bbox_of(json.loads(shapely.to_geojson(shape)))]


def crosses(box: Sequence[float]) -> bool:
    """Return whether a box lies on both sides of the antimeridian."""
    return box[0] > box[2]


def box_around(boxes: Iterable[Sequence[float]]) -> list[float]:
    """Return the box around boxes, at least one; where one crosses the antimeridian the smallest, which does so too."""
    every = list(boxes)
    south, north = min(box[1] for box in every), max(box[3] for box in every)
    if not any(map(crosses, every)):
        return [min(box[0] for box in every), south, max(box[2] for box in every), north]
    spans = sorted(
        span
        for west, _, east, _ in every
        for span in ([(west, 180.0), (-180.0, east)] if west > east else [(west, east)])
    )
    reached, gap = -180.0, (0.0, -180.0, 180.0)
    for west, east in spans:
        gap = max(gap, (west - reached, reached, west))
        reached = max(reached, east)
    # What is left out is the widest gap.
    _, east, west = gap
    return [west, south, east, north] if gap[0] > 0.0 else [-180.0, south, 180.0, north]


def _unrolled(polygon: Any) -> Any:
    """Return a polygon with continuous longitudes, holes where the outer ring is."""
    outer = _continuous(shapely.get_coordinates(polygon.exterior))
    middle = (outer[:, 0].min() + outer[:, 0].max()) / 2.0
    holes = []
    for ring in polygon.interiors:
        inner = _continuous(shapely.get_coordinates(ring))
        inner[:, 0] += 360.0 * np.round((middle - inner[0, 0]) / 360.0)
        holes.append(inner)
    return shapely.Polygon(outer, holes)


def _continuous(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    turns = np.cumsum(np.round(np.diff(ring[:, 0]) / 360.0))
    unrolled = ring.copy()
    unrolled[1:, 0] -= 360.0 * turns
    if turns[-1] == 0.0:
        return unrolled
    pole = math.copysign(90.0, float(ring[:, 1].mean()))
    first, last = unrolled[0], unrolled[-1]
    return np.vstack([unrolled, [(last[0], pole), (first[0], pole), first]])
