"""Rectangles of pixels, and the one that covers given bounds."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyproj
from pyproj.exceptions import CRSError, ProjError

from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.geo import Affine6, inverse

Bounds = tuple[float, float, float, float]
"""(min x, min y, max x, max y) in some CRS; in a geographic one min x > max x crosses the antimeridian."""

_SAMPLES = 65


class Window(NamedTuple):
    """A rectangle of pixels inside an image."""

    column: int
    """First column."""
    row: int
    """First row."""
    width: int
    """Columns."""
    height: int
    """Rows."""

    @property
    def stop_column(self) -> int:
        """First column behind the window."""
        return self.column + self.width

    @property
    def stop_row(self) -> int:
        """First row behind the window."""
        return self.row + self.height

    def aligned(self, step_x: int, step_y: int, width: int, height: int) -> Window:
        """Return the smallest window on multiples of the steps that covers this one, cut at the image's end."""
        column = self.column // step_x * step_x
        row = self.row // step_y * step_y
        stop_column = min(width, -(-self.stop_column // step_x) * step_x)
        stop_row = min(height, -(-self.stop_row // step_y) * step_y)
        return Window(column=column, row=row, width=stop_column - column, height=stop_row - row)


@lru_cache(maxsize=256)
def parsed_crs(crs: str) -> pyproj.CRS:
    """Return a CRS from ``EPSG:…`` or WKT.

    Raises:
        RasterError: The text is no CRS that PROJ knows.
    """
    try:
        return pyproj.CRS.from_user_input(crs)
    except CRSError as error:
        raise RasterError(
            "The coordinate reference system is unknown",
            subject=crs[:80],
            found=str(error).splitlines()[0][:160],
            action="give an EPSG code or a WKT that PROJ knows",
        ) from None


@lru_cache(maxsize=1024)
def same_crs(one: str, other: str) -> bool:
    """Return whether two CRS are the same, axis order left aside."""
    return one == other or bool(parsed_crs(one).equals(parsed_crs(other), ignore_axis_order=True))


def projected(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], crs: str, to_crs: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return coordinates in another CRS, x before y; what cannot be projected becomes infinite.

    A transformer is built per call, because PROJ's are not to be shared by threads.
    """
    if same_crs(crs, to_crs):
        return x, y
    try:
        transformer = pyproj.Transformer.from_crs(parsed_crs(crs), parsed_crs(to_crs), always_xy=True)
    except ProjError as error:
        raise RasterError(
            "No transformation leads from one coordinate reference system to the other",
            subject=to_crs[:80],
            found=f"{str(error)[:120]} from {crs[:80]}",
            action="look at the file's georeferencing with gdalinfo",
        ) from None
    out_x, out_y = transformer.transform(x, y)
    return np.asarray(out_x, np.float64), np.asarray(out_y, np.float64)


def unwrapped(x: npt.NDArray[np.float64], crs: str, centre_x: float) -> npt.NDArray[np.float64]:
    """Return longitudes within half a turn of ``centre_x`` for a geographic CRS; other CRS unchanged."""
    definition = parsed_crs(crs)
    if not definition.is_geographic:
        return x
    turn = 2.0 * np.pi / definition.axis_info[0].unit_conversion_factor
    # rounded at a tiny offset, so that both ends of a raster around the globe stay where they are
    return x - turn * np.round((x - centre_x) / turn * (1.0 - 1e-12))


def centre_x(transform: Affine6, width: int, height: int) -> float:
    """Return the x coordinate of an image's centre."""
    a, b, c, _, _, _ = transform
    return c + a * width / 2.0 + b * height / 2.0


def window_of_bounds(
    bounds: Bounds,
    bounds_crs: str,
    *,
    crs: str,
    transform: Affine6,
    width: int,
    height: int,
    margin: int = 1,
) -> Window | None:
    """Return the smallest window that covers bounds, plus a margin, cut at the image's edges.

    None where the bounds do not touch the image.

    The bounds are sampled densely, edges and inside, so that curved edges and poles are covered.

    Args:
        bounds: Area to cover, in ``bounds_crs``.
        bounds_crs: CRS of the bounds.
        crs: CRS of the image.
        transform: Pixel corner to CRS coordinates of the image.
        width: Columns of the image.
        height: Rows of the image.
        margin: Extra pixels on each side, for resampling.
    """
    west, south, east, north = bounds
    definition = parsed_crs(bounds_crs)
    if definition.is_geographic and west > east:
        east += 2.0 * np.pi / definition.axis_info[0].unit_conversion_factor
    xs, ys = np.meshgrid(np.linspace(west, east, _SAMPLES), np.linspace(south, north, _SAMPLES))
    x, y = projected(xs.ravel(), ys.ravel(), bounds_crs, crs)
    finite = np.isfinite(x) & np.isfinite(y)
    if finite.any():
        x = unwrapped(x[finite], crs, centre_x(transform, width, height))
        a, b, c, d, e, f = inverse(transform)
        columns, rows = a * x + b * y[finite] + c, d * x + e * y[finite] + f
        if not (np.isfinite(columns).all() and np.isfinite(rows).all()):
            return None
        # a hair of tolerance: 1e-6 pixel of rounding must not cost another row of tiles
        column = max(0, int(np.floor(columns.min() + 1e-6)) - margin)
        row = max(0, int(np.floor(rows.min() + 1e-6)) - margin)
        stop_column = min(width, int(np.ceil(columns.max() - 1e-6)) + margin)
        stop_row = min(height, int(np.ceil(rows.max() - 1e-6)) + margin)
        touches = columns.max() > 0 and rows.max() > 0 and columns.min() < width and rows.min() < height
        if touches and stop_column > column and stop_row > row:
            return Window(column=column, row=row, width=stop_column - column, height=stop_row - row)
    return None
