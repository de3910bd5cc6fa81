"""Which candidates are one plume: what two outlines, two times and two scenes say of each other.

Two candidates are one plume when their outlines meet and they were seen in the same pass: their scenes belong to one
datatake, or their times differ by no more than two minutes.  A granule's edge cuts a plume: candidates of consecutive
granules of one provider and instrument are parts of one plume already when no more than a pixel lies between them, since
every granule has a grid of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

SAME_PASS_S = 120.0
"""Candidates of scenes that share no datatake belong to one pass when their times differ by no more than this: tiles
of one overpass differ by seconds, two satellites over one place by far more."""
CONSECUTIVE_S = 60.0
"""Granules of one pass that a plume may reach over begin no further apart: EMIT cuts every 12 s, EnMAP every 4 s."""
MOSAICS = frozenset({"mbmp", "mbsp"})
"""Methods whose map is put together of all scenes of an area before candidates are looked for: no scene's edge cuts
them."""
_M_PER_DEGREE = 111_195.0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row of a provider's plume table."""

    row: Mapping[str, Any]
    """The columns of :func:`~geostack_pipeline.methane.plume_table.plume_schema`."""
    scenes: tuple[str, ...]
    """Physical scenes (``geostack:scene``) under the outline, sorted."""
    version: str
    """Version of the provider's methane."""
    node: str = ""
    """Its node that the candidate was found in: one map, where candidates are told apart."""


def same_plume(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Return the indices of the candidates that are one plume each, both levels in order."""
    return _connected(len(candidates), _links(candidates))


def same_pass_parts(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Return the indices of the candidates of one plume that granules' edges have cut apart, both levels in order.

    What no edge has cut is a part by itself: the same ground through another provider, or another candidate of one map.
    """
    pairs = [(one, other) for other in range(len(candidates)) for one in range(other)]
    return _connected(len(candidates), (pair for pair in pairs if are_parts(*(candidates[i] for i in pair))))


def are_parts(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates are one plume by themselves, on both sides of a granule's edge."""
    if not _consecutive(one, other):
        return False
    shapes = [shapely.from_wkb(each.row["geometry"]) for each in (one, other)]
    reach = max(_reach_m(one.row), _reach_m(other.row))
    (_, south, _, north), (_, lower, _, upper) = (shape.bounds for shape in shapes)
    if max(south - upper, lower - north) * _M_PER_DEGREE > reach:
        return False
    origin = shapely.get_coordinates(shapes[0])[0]
    gap = shapely.distance(*(_in_metres(shape, origin) for shape in shapes))
    return bool(gap <= reach)


def one_map(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two candidates (rows with their ``node``) were told apart on one map already: they may touch, yet are two."""
    return all(one[name] == other[name] for name in ("provider", "area", "time", "node"))


def pass_of(scene: str) -> str:
    """Return what the scenes of one overpass share: of a Sentinel-2 scene all but the tile."""
    return re.sub(r"_T\d{2}[A-Z]{3}$", "", scene)


def _links(candidates: Sequence[Candidate]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of candidates that are one plume by themselves."""
    outlines = shapely.from_wkb([candidate.row["geometry"] for candidate in candidates])
    passes = [frozenset(map(pass_of, candidate.scenes)) for candidate in candidates]
    for first, second in _neighbours(candidates, outlines):
        one, other = candidates[first], candidates[second]
        if one_map({**one.row, "node": one.node}, {**other.row, "node": other.node}):
            continue
        in_one_pass = passes[first] & passes[second] or _seconds_apart(one, other) <= SAME_PASS_S
        if (in_one_pass and shapely.intersects(outlines[first], outlines[second])) or are_parts(one, other):
            yield first, second


def _neighbours(candidates: Sequence[Candidate], outlines: NDArray[Any]) -> list[tuple[int, int]]:
    """Return the pairs whose boxes, grown by a pixel, meet; also across the antimeridian."""
    boxes = []
    for candidate, (west, south, east, north) in zip(candidates, shapely.bounds(outlines), strict=True):
        up = _reach_m(candidate.row) / _M_PER_DEGREE
        aside = up / max(math.cos(math.radians(max(abs(south), abs(north)))), 0.01)
        boxes.append(shapely.box(west - aside, south - up, east + aside, north + up))
    tree = shapely.STRtree(boxes)
    found: set[tuple[int, int]] = set()
    for shift in (0.0, 360.0):
        # What lies just east of -180 degrees is a neighbour of what lies just west of 180.
        moved = shapely.transform(
            np.array(boxes, dtype=object), lambda xy, by=shift: xy + np.array([by, 0.0])
        )
        left, right = tree.query(moved)
        found |= {(min(pair), max(pair)) for pair in zip(left.tolist(), right.tolist(), strict=True)}
    return sorted((one, other) for one, other in found if one != other)


def _consecutive(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates lie in different granules that one instrument saw in one go."""
    rows = one.row, other.row
    return (
        all(rows[0][name] == rows[1][name] for name in ("provider", "instrument"))
        and MOSAICS.isdisjoint(row["method"] for row in rows)
        and set(one.scenes).isdisjoint(other.scenes)
        and _seconds_apart(one, other) <= CONSECUTIVE_S
    )


def _seconds_apart(one: Candidate, other: Candidate) -> float:
    return abs(float((one.row["time"] - other.row["time"]).total_seconds()))


def _reach_m(row: Mapping[str, Any]) -> float:
    """Return the diagonal of a candidate's pixels: on one grid, pixels that touch at a corner are neighbours."""
    return math.sqrt(2.0 * row["area_m2"] / row["pixels"]) if row["pixels"] else 0.0


def _in_metres(shape: Any, origin: NDArray[np.float64]) -> Any:
    """Return a shape of some kilometres, in degrees, on a plane around a place near it."""
    scale = math.cos(math.radians(origin[1]))

    def project(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        east = (xy[:, 0] - origin[0] + 180.0) % 360.0 - 180.0
        return _M_PER_DEGREE * np.column_stack([east * scale, xy[:, 1] - origin[1]])

    return shapely.transform(shape, project)


def _connected(count: int, links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the numbers below ``count`` that links join, also by way of others; both levels in order."""
    leader = list(range(count))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for one, other in links:
        low, high = sorted((find(one), find(other)))
        leader[high] = low
    groups: dict[int, list[int]] = {}
    for index in range(count):
        groups.setdefault(find(index), []).append(index)
    return list(groups.values())
