"""Where footprints and areas meet: exact intersection and coverage in an equal-area plane.

The plane is Lambert's cylindrical equal-area projection of the sphere: x is the longitude
in degrees, y the sine of the latitude.  Areas in it are proportional to areas on the
sphere, and boxes in longitude and latitude stay boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import shapely

from geostack_pipeline.areas import Area
from geostack_pipeline.providers.geometry import polygons, unroll

_TURN = 360.0


def footprint(geometry: dict[str, Any]) -> shapely.Geometry:
    """Return a canonical geometry in the equal-area plane, valid, with longitudes within [-180, 180].

    A ring that jumps over the antimeridian is unrolled first; what lies beyond ±180 comes back
    on the other side.
    """
    parts = [
        shapely.Polygon(unroll(rings[0]), [unroll(ring) for ring in rings[1:]])
        for rings in polygons(geometry)
    ]
    return _wrapped(_plane(shapely.union_all(shapely.make_valid(parts))))


def footprints(wkb: Sequence[bytes | None]) -> list[shapely.Geometry]:
    """Return WKB polygons like :func:`footprint`; a missing one is empty."""
    result = []
    for geometry in shapely.from_wkb(list(wkb)):
        if geometry is None or geometry.is_empty:
            result.append(shapely.Polygon())
            continue
        result.append(footprint(shapely.geometry.mapping(geometry)))
    return result


def plane(area: Area) -> shapely.Geometry:
    """Return an area of interest in the equal-area plane: one box, or two across the antimeridian."""
    return _plane(shapely.union_all([shapely.box(*part) for part in area.parts]))


def touches(shape: shapely.Geometry, areas: Iterable[shapely.Geometry]) -> bool:
    """Return whether a footprint shares ground, or at least a border, with any of the areas."""
    return any(shapely.intersects(shape, area) for area in areas)


def coverage(shape: shapely.Geometry, area: shapely.Geometry) -> float:
    """Return the share of an area that a footprint covers, 0 to 1.

    An area without extent (a point, a line) is covered when it touches the footprint.
    """
    if area.area == 0.0:
        return 1.0 if shapely.intersects(shape, area) else 0.0
    return min(1.0, float(shapely.intersection(shape, area).area / area.area))


def _plane(geometry: shapely.Geometry) -> shapely.Geometry:
    def project(points: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        # rounded to a tenth of a nanometre: GEOS gives wrong areas for coordinates next to zero like 1e-308
        return np.round(np.column_stack([points[:, 0], np.sin(np.radians(points[:, 1]))]), 12)

    return shapely.transform(geometry, project)


def _wrapped(geometry: shapely.Geometry) -> shapely.Geometry:
    west, _, east, _ = shapely.bounds(geometry)
    if west >= -180.0 and east <= 180.0:
        return geometry
    world = shapely.box(-180.0, -1.0, 180.0, 1.0)
    turns = [
        shapely.intersection(
            shapely.transform(geometry, lambda points, turn=turn: points + np.array([turn * _TURN, 0.0])),
            world,
        )
        for turn in (-2, -1, 0, 1, 2)
    ]
    return shapely.union_all([turn for turn in turns if not turn.is_empty])
