"""The picture of one plume: its enhancement as heat over the true colours of the ground around it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Stroke, withStroke
from numpy.typing import NDArray

from geostack_pipeline.publish.cog import Placement, placement
from geostack_pipeline.publish.quicklook import (
    _FONTS,
    _HEAT,
    _INK,
    _OUTLINE,
    _background,
    _draw_colour_bar,
    _extent,
    _png,
    _scale_bar,
    _soften,
)

_LEAST_PIXELS = 48
"""Edge of the smallest window: a plume is told apart by what is around it."""
_MARGIN = 0.45
"""Of the plume's length, on each side."""
_PAPER = 0.93


def plume_picture(
    fields: xr.Dataset,
    row: Mapping[str, Any],
    *,
    time_index: int,
    cube: xr.Dataset | None = None,
    colours: NDArray[np.float32] | None = None,
) -> bytes:
    """Return a PNG of a plume's surroundings: heat over true colour, outline, source, and the wind where it is known.

    Args:
        fields: Node of methane fields on a map grid.
        row: The plume's row.
        time_index: Which time of the node it was seen at; a node without times takes 0.
        cube: The cube node on the same grid, for the true colours; without one, or without its bands, the ground is
            plain.
        colours: The true colours themselves on that grid, instead: of a spectrometer, from `ground_colours`.
    """
    place = placement(fields)
    # United, so that the cut along the antimeridian is no edge of the plume.
    outline = shapely.union_all(
        shapely.get_parts(shapely.transform(shapely.from_wkb(row["geometry"]), place.from_degrees))
    )
    rows, columns = _window(outline, place)
    step = fields.isel(time=time_index) if "time" in fields.dims else fields
    part = step.isel(y=rows, x=columns)
    enhancement = np.asarray(part["ch4_enhancement"].values, np.float32)
    noise = (
        np.asarray(part["ch4_uncertainty"].values, np.float32)
        if "ch4_uncertainty" in part
        else np.full(enhancement.shape, row["noise_ppm_m"] or 1.0, np.float32)
    )
    if not np.isfinite(noise).any():
        # A retrieval that states no noise: its scatter around the plume stands for it.
        middle = np.nanmedian(enhancement)
        noise = np.full(enhancement.shape, 1.4826 * np.nanmedian(np.abs(enhancement - middle)), np.float32)
    if colours is not None:
        ground = colours[rows, columns]
    else:
        ground = _ground(cube, fields, rows, columns, time_index, enhancement.shape)
    x, y = part["x"].values, part["y"].values
    west, east, south, north = _extent(x, y)
    aspect = (north - south) / (east - west)
    if place.crs.is_geographic:
        aspect /= math.cos(math.radians((north + south) / 2))
    figure, axes, bar = _figure(aspect)
    axes.imshow(ground, extent=(west, east, south, north), interpolation="nearest", aspect="auto")
    level = np.nan_to_num(_soften(enhancement) - (row["background_ppm_m"] or 0.0))
    top = _round_up(max(1.1 * row["mean_enhancement_ppm_m"], 0.55 * row["max_enhancement_ppm_m"]))
    alpha = np.clip((level / np.where(noise > 0, noise, np.inf) - 0.7) / 1.2, 0.0, 0.88)
    axes.imshow(
        level,
        cmap=_HEAT,
        norm=Normalize(0.0, top),
        alpha=alpha,
        extent=(west, east, south, north),
        interpolation="nearest",
        aspect="auto",
    )
    _draw_outline(axes, outline)
    source = place.from_degrees(np.array([[row["source_longitude"], row["source_latitude"]]]))[0]
    axes.plot(
        *([value] for value in source), marker="o", markersize=6.5, markerfacecolor="none", markeredgecolor="white",
        markeredgewidth=1.6, path_effects=[withStroke(linewidth=3.0, foreground=_INK)],
    )  # fmt: skip
    if row["wind_from_deg"] is not None:
        _draw_wind(axes, row["wind_from_deg"], row["wind_speed_m_s"])
    axes.set_xlim(west, east)
    axes.set_ylim(south, north)
    if not place.crs.is_geographic:
        _scale_bar(axes, west, south, east - west, north - south)
    _draw_colour_bar(bar, top)
    return _png(figure, legend=True)


def _window(outline: Any, place: Placement) -> tuple[slice, slice]:
    """Return rows and columns of a square around the plume, moved into the field where it sticks out."""
    left, bottom, right, top = outline.bounds
    corners = [place.pixel(left, top), place.pixel(right, bottom)]
    columns, rows = zip(*corners, strict=True)
    span = max(max(columns) - min(columns), max(rows) - min(rows))
    edge = math.ceil(max(span * (1.0 + 2.0 * _MARGIN), _LEAST_PIXELS))

    def axis(low: float, high: float, size: int) -> slice:
        length = min(edge, size)
        start = round((low + high) / 2 - length / 2)
        start = min(max(start, 0), size - length)
        return slice(start, start + length)

    return axis(min(rows), max(rows), place.shape[0]), axis(min(columns), max(columns), place.shape[1])


def _ground(
    cube: xr.Dataset | None,
    fields: xr.Dataset,
    rows: slice,
    columns: slice,
    time_index: int,
    shape: tuple[int, ...],
) -> NDArray[np.float32]:
    plain = np.full((*shape, 3), _PAPER, np.float32)
    if cube is None:
        return plain
    if not {"reflectance", "scl"} <= set(cube.data_vars) or "band" not in cube.dims:
        return plain
    if not all(cube[axis].equals(fields[axis]) for axis in ("x", "y")):
        return plain
    # The contrast is that of the whole node: a dark corner stays dark.
    whole = _background(cube, time_index)
    if whole.shape[:2] != (cube.sizes["y"], cube.sizes["x"]):
        return _background(cube.isel(y=rows, x=columns), time_index)
    return whole[rows, columns]


def _figure(aspect: float) -> tuple[Figure, Any, Any]:
    width = 4.4
    height = min(max(width * aspect, 2.6), 5.4)
    left, right, bottom, top = 0.06, 0.92, 0.06, 0.06
    total_w, total_h = left + width + right, bottom + height + top
    figure = Figure(figsize=(total_w, total_h), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((left / total_w, bottom / total_h, width / total_w, height / total_h))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#8a929b")
        spine.set_linewidth(0.6)
    bar = figure.add_axes(
        ((left + width + 0.12) / total_w, bottom / total_h, 0.13 / total_w, min(height, 3.0) / total_h)
    )
    return figure, axes, bar


def _draw_outline(axes: Any, outline: Any) -> None:
    lines = [
        shapely.get_coordinates(ring)
        for part in shapely.get_parts(outline)
        for ring in (part.exterior, *part.interiors)
    ]
    axes.add_collection(
        LineCollection(
            lines,
            colors=_OUTLINE,
            linewidths=1.3,
            path_effects=[Stroke(linewidth=2.6, foreground="#00303a", alpha=0.55), Stroke(linewidth=1.3)],
        )
    )


def _draw_wind(axes: Any, from_deg: float, speed: float) -> None:
    """Draw an arrow along the wind in the upper right corner, with its speed."""
    to = math.radians(from_deg + 180.0)
    length, box = 0.055, axes.get_position()
    shape = box.height * axes.figure.get_figheight() / (box.width * axes.figure.get_figwidth())
    middle = (0.90, 1.0 - 0.085 / shape)
    along = (length * math.sin(to), length * math.cos(to) / shape)
    axes.annotate(
        "",
        xy=(middle[0] + along[0], middle[1] + along[1]),
        xytext=(middle[0] - along[0], middle[1] - along[1]),
        xycoords="axes fraction",
        arrowprops={
            "arrowstyle": "-|>,head_width=0.28,head_length=0.45",
            "color": "white",
            "linewidth": 2.0,
            "path_effects": [withStroke(linewidth=4.0, foreground=_INK)],
        },
    )
    axes.text(
        middle[0],
        middle[1] - 0.058 / shape,
        f"{speed:.1f} m/s",
        transform=axes.transAxes,
        color="white",
        ha="center",
        va="top",
        fontdict=_FONTS,
        path_effects=[withStroke(linewidth=2.0, foreground=_INK)],
    )


def _round_up(value: float) -> float:
    value = max(value, 100.0)
    digits = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / digits) * digits
