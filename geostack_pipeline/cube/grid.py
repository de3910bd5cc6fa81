"""The grid of an area: where its pixels lie, the same for every scene and provider."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geostack_pipeline.areas import Area
from geostack_pipeline.errors import SettingsError
from geostack_pipeline.raster.geo import Affine6
from geostack_pipeline.raster.window import Bounds, parsed_crs, projected

SNAP = "pixel corner at 0, 0"
"""Name of the rule by which edges are put on the pixel lattice (:func:`grid_for`); another rule needs another name."""

_SAMPLES = 65
_MOST_PIXELS = 1 << 31


@dataclass(frozen=True, kw_only=True)
class GridSpec:
    """A regular grid of pixels, rows from north to south."""

    crs: str
    """CRS of the coordinates, ``EPSG:…`` or WKT."""
    transform: Affine6
    """(a, b, c, d, e, f): x = a*column + b*row + c, y = d*column + e*row + f at pixel corners;
    b and d are 0, e is negative."""
    width: int
    """Columns."""
    height: int
    """Rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return (self.height, self.width)

    @property
    def bounds(self) -> Bounds:
        """(min x, min y, max x, max y) of the outer pixel edges, in the grid's CRS."""
        a, _, c, _, e, f = self.transform
        return (c, f + e * self.height, c + a * self.width, f)

    @property
    def x(self) -> npt.NDArray[np.float64]:
        """X coordinates of the pixel centres, increasing."""
        a, _, c, _, _, _ = self.transform
        return np.asarray(c + a * (np.arange(self.width) + 0.5), np.float64)

    @property
    def y(self) -> npt.NDArray[np.float64]:
        """Y coordinates of the pixel centres, decreasing."""
        _, _, _, _, e, f = self.transform
        return np.asarray(f + e * (np.arange(self.height) + 0.5), np.float64)

    @property
    def centre_longitude(self) -> float:
        """Longitude of the grid's centre, degrees, WGS 84."""
        west, south, east, north = self.bounds
        lon, _ = projected(
            np.array([(west + east) / 2]), np.array([(south + north) / 2]), self.crs, "EPSG:4326"
        )
        return float(lon[0])

    def as_dict(self) -> dict[str, Any]:
        """Return the grid as JSON, from which versions are computed."""
        return {
            "crs": self.crs,
            "transform": list(self.transform),
            "width": self.width,
            "height": self.height,
        }


def grid_for(area: Area) -> GridSpec:
    """Compute the grid of an area: its bounding box in its CRS, widened to the pixel lattice.

    Stages take the stored one (:mod:`~geostack_pipeline.cube.grid_store`): another PROJ may compute another.

    The lattice has a pixel corner at (0, 0) of the CRS.  The tiles of Sentinel-2 have their corners on
    multiples of 60 m, so a 10, 20 or 60 m scene of the same zone is never resampled.  Without a CRS the area
    takes the UTM zone of its centre, with the exceptions of Norway and Svalbard that the tiles of
    Sentinel-2 follow, and the polar stereographic grid beyond 84° N and 80° S.

    Raises:
        SettingsError: The resolution is not positive, the CRS cannot show the area or is cut inside it, as
            Mercator at the antimeridian, or the grid would be too large to handle.
    """
    if not (math.isfinite(area.resolution_m) and area.resolution_m > 0):
        raise SettingsError(
            "The resolution is not a positive number",
            subject=f"area {area.name}",
            found=str(area.resolution_m),
            action="set resolution_m to the pixel size in metres, e.g. 20",
        )
    crs = area.crs or utm_crs(*area.centre)
    west, south, east, north = area.bbox
    if west > east:
        east += 360.0
    lon, lat = np.meshgrid(np.linspace(west, east, _SAMPLES), np.linspace(south, north, _SAMPLES))
    x, y = projected(lon.ravel(), lat.ravel(), "EPSG:4326", crs)
    if parsed_crs(crs).is_geographic:
        x = lon.ravel()  # keeps an area across the antimeridian in one piece
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise SettingsError(
            "The CRS cannot show the whole area",
            subject=f"area {area.name}",
            found=f"{crs} for {area.bbox}",
            action="leave crs out to take the UTM zone of the centre",
        )
    step = float(area.resolution_m)
    if not parsed_crs(crs).is_geographic:
        _require_one_piece(area, crs, lon[0], x.reshape(lon.shape))
    if parsed_crs(crs).is_geographic and step > max(x.max() - x.min(), y.max() - y.min()):
        raise SettingsError(
            "One pixel is larger than the whole area",
            subject=f"area {area.name}",
            found=f"pixels of {step:g} degrees in {crs} for {area.bbox}",
            action="give resolution_m in the CRS's own unit, degrees, e.g. 0.0002, or leave crs out to take a UTM zone",
        )
    left, right = _snapped(x.min(), x.max(), step)
    bottom, top = _snapped(y.min(), y.max(), step)
    width, height = right - left, top - bottom
    if width * height > _MOST_PIXELS:
        raise SettingsError(
            "The area has too many pixels for one grid",
            subject=f"area {area.name}",
            found=f"{width} x {height} pixels of {step:g} in {crs}",
            action="take a smaller area or a coarser resolution_m (units of the CRS)",
        )
    return GridSpec(
        crs=crs, transform=(step, 0.0, left * step, 0.0, -step, top * step), width=width, height=height
    )


def _require_one_piece(
    area: Area, crs: str, lon: npt.NDArray[np.float64], x: npt.NDArray[np.float64]
) -> None:
    """Raise where a projected CRS is cut inside an area: its grid would go around the whole Earth.

    Args:
        area: The area.
        crs: CRS of the grid.
        lon: Longitudes of the samples, increasing, degrees.
        x: Projected samples, shaped (latitudes, longitudes).
    """
    steps = np.diff(x, axis=1)
    forward = np.sign(np.median(steps, axis=1, keepdims=True))
    # The whole way back in one step.  Around a pole x turns back, too, but by steps no longer than the others; and
    # a float's noise, where all meridians meet, is no jump.
    usual = np.maximum(np.median(np.abs(steps), axis=1, keepdims=True), area.resolution_m / 10.0)
    jumps = np.nonzero((np.sign(steps) != forward) & (np.abs(steps) > 10.0 * usual))[1]
    if jumps.size:
        west, east = ((float(lon[k]) + 180.0) % 360.0 - 180.0 for k in (jumps[0], jumps[0] + 1))
        antimeridian = lon[jumps[0]] <= 180.0 <= lon[jumps[0] + 1]
        raise SettingsError(
            f"The CRS is cut inside the area{', at the antimeridian' if antimeridian else ''}",
            subject=f"area {area.name}",
            found=f"{crs} for {area.bbox}: its two ends lie between the longitudes {west:.5g} and {east:.5g}",
            action=f"take a CRS that shows the area in one piece, e.g. {utm_crs(*area.centre)} (what crs left out gives)",
        )


def utm_crs(longitude: float, latitude: float) -> str:
    """Return ``EPSG:…`` of the UTM zone of a point, or of the polar stereographic grid (DMA TM 8358.2).

    Args:
        longitude: Degrees, WGS 84, any turn.
        latitude: Degrees, WGS 84.
    """
    if latitude >= 84.0:
        return "EPSG:5041"
    if latitude < -80.0:
        return "EPSG:5042"
    longitude = (longitude + 180.0) % 360.0 - 180.0
    zone = int((longitude + 180.0) // 6.0) + 1
    if 56.0 <= latitude < 64.0 and 3.0 <= longitude < 12.0:
        zone = 32
    elif latitude >= 72.0 and 0.0 <= longitude < 42.0:
        zone = 31 if longitude < 9.0 else 33 if longitude < 21.0 else 35 if longitude < 33.0 else 37
    return f"EPSG:{(32600 if latitude >= 0.0 else 32700) + zone}"


def _snapped(low: float, high: float, step: float) -> tuple[int, int]:
    """Return the pixel edges around [low, high] in steps, at least one pixel apart."""
    # a hair of tolerance: an edge on the lattice must not add a pixel by rounding
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return first, max(last, first + 1)
