"""One area of a date as an SVG map: outline, fields, plumes with their sources, and the wind over them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import shapely
import shapely.affinity

from geostack_pipeline.publish.label_places import Place, place_labels

Box = tuple[float, float, float, float]
WIDTH, HEIGHT = 460.0, 380.0
_PAD = (54.0, 14.0, 14.0, 30.0)
"""Left, right, top, bottom: room for the degrees."""
_KM_PER_DEGREE = 111.195
_DIGIT = (7.4, 14.0)
"""Width and height of a digit of the plumes' numbers with its halo, pixels."""
_HALO = 4.0
_ARROW_BOX = (68.0, 74.0)
"""Width and height of the wind's corner."""
_BAR_BOX = (150.0, 36.0)
"""The same of the bar's."""


class _Frame:
    """Degrees to the picture: plain degrees, narrowed by the cosine of the middle latitude."""

    def __init__(self, box: Box) -> None:
        west, south, east, north = box
        squeeze = math.cos(math.radians((south + north) / 2))
        left, right, top, bottom = _PAD
        room = (WIDTH - left - right, HEIGHT - top - bottom)
        self.scale = min(room[0] / ((east - west) * squeeze), room[1] / (north - south))
        self.squeeze = squeeze
        # What is left over is shared, so that the area sits in the middle.
        wide, high = room[0] / (self.scale * squeeze), room[1] / self.scale
        self.west = (west + east - wide) / 2
        self.north = (south + north + high) / 2
        self.east, self.south = self.west + wide, self.north - high

    def xy(self, longitude: float, latitude: float) -> tuple[float, float]:
        """Return the place in the picture."""
        x = _PAD[0] + (longitude - self.west) * self.squeeze * self.scale
        return x, _PAD[2] + (self.north - latitude) * self.scale

    def path(self, shape: Any) -> str:
        """Return a polygon, or several, as the data of a path."""
        parts = []
        for polygon in shapely.get_parts(shape):
            for ring in (polygon.exterior, *polygon.interiors):
                points = [self.xy(*point) for point in shapely.get_coordinates(ring)]
                parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
        return "".join(parts)


def area_map(
    name: str,
    boxes: Sequence[Box],
    *,
    footprints: Sequence[Mapping[str, Any]],
    plumes: Sequence[tuple[int, Mapping[str, Any]]],
) -> str:
    """Return a figure of one area.

    Args:
        name: Of the area.
        boxes: Its boxes, two where the antimeridian cuts it.
        footprints: GeoJSON geometries of the fields.
        plumes: Number on the page and row of each plume.
    """
    middle = (boxes[0][0] + boxes[0][2]) / 2.0
    own = [_beside(shapely.box(*box), middle) for box in boxes]
    outlines = [_beside(shapely.from_wkb(row["geometry"]), middle) for _, row in plumes]
    west, south, east, north = (float(each) for each in shapely.total_bounds([*own, *outlines]))
    frame = _Frame(_grown((west, south, east, north)))
    clip = "".join(letter if letter.isalnum() else "-" for letter in name)
    layers = [_graticule(frame)]
    drawn = [_beside(shapely.geometry.shape(each), middle) for each in footprints]
    layers += [f'<path class="field" d="{frame.path(each)}"/>' for each in drawn]
    layers += [f'<path class="area" d="{frame.path(each)}"/>' for each in own]
    layers += [
        f'<path class="plume" d="{frame.path(each)}"><title>{_title(number, row)}</title></path>'
        for each, (number, row) in zip(outlines, plumes, strict=True)
    ]
    wind = next((row for _, row in plumes if row["wind_speed_m_s"] is not None), None)
    layers += _sources(frame, plumes, middle, windy=wind is not None)
    if wind is not None:
        layers.append(_arrow(wind))
    layers.append(_bar(frame))
    counted = f"{len(plumes)} plume{'' if len(plumes) == 1 else 's'}" if drawn else "not seen on this date"
    left, right, top, bottom = _PAD
    return (
        f"<figure><figcaption>{escape(name)}<span>{counted}</span></figcaption>"
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="Map of {escape(name)}">'
        f'<clipPath id="clip-{clip}"><rect x="{left}" y="{top}" width="{WIDTH - left - right}" '
        f'height="{HEIGHT - top - bottom}"/></clipPath>'
        f'{layers[0]}<g clip-path="url(#clip-{clip})">{"".join(layers[1:])}</g></svg></figure>'
    )


def _turns(longitude: float, middle: float) -> float:
    """Return what brings a longitude to the side of the antimeridian that a map's middle is on: 0 or whole turns."""
    return 360.0 * round((middle - longitude) / 360.0)


def _beside(shape: Any, middle: float) -> Any:
    """Return a polygon, or several, with each part where it lies nearest to a map's middle."""
    parts = []
    for part in shapely.get_parts(shape):
        by = _turns((part.bounds[0] + part.bounds[2]) / 2.0, middle)
        parts.append(shapely.affinity.translate(part, xoff=by) if by else part)
    return shapely.MultiPolygon(parts)


def _grown(box: Box) -> Box:
    west, south, east, north = box
    aside, up = 0.1 * (east - west), 0.1 * (north - south)
    return west - aside, south - up, east + aside, north + up


def _title(number: int, row: Mapping[str, Any]) -> str:
    rate = row["emission_rate_kg_h"]
    told = f"{row['ime_kg']:,.0f} kg" if rate is None else f"{rate / 1000:.1f} t/h"
    return escape(f"plume {number}: {told}")


def _sources(
    frame: _Frame, plumes: Sequence[tuple[int, Mapping[str, Any]]], middle: float, *, windy: bool
) -> list[str]:
    """Return the sources with their numbers, each beside its own and clear of the others, the wind and the bar."""
    left, right, top, bottom = _PAD
    points = [
        frame.xy(row["source_longitude"] + _turns(row["source_longitude"], middle), row["source_latitude"])
        for _, row in plumes
    ]
    sizes = [(_DIGIT[0] * len(str(number)) + _HALO, _DIGIT[1]) for number, _ in plumes]
    edge = (left, top, WIDTH - right, HEIGHT - bottom)
    blocked = [(left, edge[3] - _BAR_BOX[1], left + _BAR_BOX[0], edge[3])]
    if windy:
        blocked.append((edge[2] - _ARROW_BOX[0], top, edge[2], top + _ARROW_BOX[1]))
    places = place_labels(points, sizes, frame=edge, blocked=blocked)
    lines = [_leader(point, place) for point, place in zip(points, places, strict=True) if place.moved]
    circles = [f'<circle class="source" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points]
    numbers = []
    for (number, _), place in zip(plumes, places, strict=True):
        x, y = place.middle
        # Digits have no descenders: their middle is a third of the font's size above the line.
        numbers.append(
            f'<text class="number" x="{x:.1f}" y="{y + 4.4:.1f}" text-anchor="middle">{number}</text>'
        )
    return [*lines, *circles, *numbers]


def _leader(point: tuple[float, float], place: Place) -> str:
    x, y = place.middle
    return f'<path class="leader" d="M{point[0]:.1f} {point[1]:.1f}L{x:.1f} {y:.1f}"/>'


def _arrow(row: Mapping[str, Any]) -> str:
    """Return the wind as an arrow in the upper right corner."""
    to = row["wind_from_deg"] + 180.0
    x, y = WIDTH - _PAD[1] - 34.0, _PAD[2] + 30.0
    return (
        f'<g transform="translate({x:.1f} {y:.1f})"><path class="wind" transform="rotate({to:.0f})" '
        'd="M0 16L0 -16M-5.5 -8L0 -16L5.5 -8"/>'
        f'<text class="number" x="0" y="36" text-anchor="middle">{row["wind_speed_m_s"]:.1f} m/s</text></g>'
    )


def _graticule(frame: _Frame) -> str:
    left, right, top, bottom = _PAD
    parts = [
        f'<rect class="grid" x="{left}" y="{top}" width="{WIDTH - left - right}" height="{HEIGHT - top - bottom}"/>'
    ]
    span = frame.north - frame.south
    step = next(
        each
        for each in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
        if span / each < 5.5
    )
    digits = max(0, math.ceil(-math.log10(step)))
    for latitude in np.arange(math.ceil(frame.south / step), frame.north / step) * step:
        _, y = frame.xy(0.0, latitude)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{WIDTH - right}"/>')
        if top + 8 < y < HEIGHT - bottom - 4:
            parts.append(
                f'<text class="tick" x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{latitude:.{digits}f}°</text>'
            )
    for longitude in np.arange(math.ceil(frame.west / step), frame.east / step) * step:
        x, _ = frame.xy(longitude, 0.0)
        parts.append(f'<path class="grid" d="M{x:.1f} {top}V{HEIGHT - bottom}"/>')
        if left + 16 < x < WIDTH - right - 16:
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{HEIGHT - bottom + 16}" text-anchor="middle">{(longitude + 180.0) % 360.0 - 180.0:.{digits}f}°</text>'
            )
    return "".join(parts)


def _bar(frame: _Frame) -> str:
    """Return a bar of a round length, about a fifth of the width."""
    per_km = frame.scale / _KM_PER_DEGREE
    room = (WIDTH - _PAD[0] - _PAD[1]) / 5 / per_km
    digits = 10.0 ** math.floor(math.log10(room))
    length = max(part * digits for part in (1.0, 2.0, 5.0) if part * digits <= room)
    x, y = _PAD[0] + 14.0, HEIGHT - _PAD[3] - 14.0
    label = f"{length:g} km" if length >= 1 else f"{1000 * length:g} m"
    return (
        f'<path class="bar" d="M{x} {y}h{length * per_km:.1f}"/>'
        f'<text class="number" x="{x}" y="{y - 7}">{label}</text>'
    )
