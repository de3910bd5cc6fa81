"""Fields as Cloud Optimized GeoTIFFs; the same field gives the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
import rasterio
import xarray as xr
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.shutil import copy as rasterio_copy
from rasterio.transform import Affine

from geostack_pipeline.errors import GeostackError

BLOCK = 256
"""Edge of the internal tiles."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the pixels of a field lie."""

    crs: pyproj.CRS
    transform: Affine
    """Column and row of pixel corners to the CRS."""
    shape: tuple[int, int]
    """Rows, columns."""

    @property
    def code(self) -> str | None:
        """Authority and code, e.g. ``EPSG:32640``; None for a CRS without."""
        authority = self.crs.to_authority()
        return ":".join(authority) if authority else None

    def xy(self, column: float, row: float) -> tuple[float, float]:
        """Return a place in the CRS; whole numbers are corners of pixels."""
        a, b, c, d, e, f = self.transform[:6]
        return float(a * column + b * row + c), float(d * column + e * row + f)

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Return column and row of a place in the CRS: of a grid that is not turned."""
        return (x - self.transform.c) / self.transform.a, (y - self.transform.f) / self.transform.e

    def from_degrees(self, degrees: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return places (n, 2) in longitude and latitude in the CRS; a map in degrees may run on beyond the antimeridian."""
        to_map = pyproj.Transformer.from_crs("OGC:CRS84", self.crs, always_xy=True)
        x, y = to_map.transform(degrees[:, 0], degrees[:, 1])
        if self.crs.is_geographic:
            left, _, right, _ = self.bbox
            x = x + 360.0 * np.round(((left + right) / 2.0 - x) / 360.0)
        return np.column_stack([x, y])

    @property
    def bbox(self) -> list[float]:
        """Left, bottom, right, top in the CRS."""
        rows, columns = self.shape
        left, top = self.xy(0, 0)
        right, bottom = self.xy(columns, rows)
        return [min(left, right), min(bottom, top), max(left, right), max(bottom, top)]

    def outline(self) -> list[tuple[float, float]]:
        """Return the edge in longitude and latitude, counterclockwise, closed: 8 points per side, as straight lines bend.

        Across the antimeridian longitudes jump, or run on beyond 180, as the CRS has it: `antimeridian.cut` settles that.
        """
        rows, columns = self.shape
        steps = np.linspace(0.0, 1.0, 8, endpoint=False)
        edge = np.concatenate(
            [
                np.stack([0.0 * steps, steps * rows], axis=1),
                np.stack([steps * columns, 0.0 * steps + rows], axis=1),
                np.stack([0.0 * steps + columns, (1.0 - steps) * rows], axis=1),
                np.stack([(1.0 - steps) * columns, 0.0 * steps], axis=1),
            ]
        )
        a, b, c, d, e, f = self.transform[:6]
        x, y = a * edge[:, 0] + b * edge[:, 1] + c, d * edge[:, 0] + e * edge[:, 1] + f
        to_degrees = pyproj.Transformer.from_crs(self.crs, "OGC:CRS84", always_xy=True)
        longitude, latitude = to_degrees.transform(x, y)
        ring = [(round(float(i), 7), round(float(j), 7)) for i, j in zip(longitude, latitude, strict=True)]
        return [*ring, ring[0]]


def placement(fields: xr.Dataset) -> Placement:
    """Return where the pixels of a node lie, from ``x`` and ``y`` (centres) and ``spatial_ref``.

    Raises:
        GeostackError: The node has no grid of its own, as one in the geometry of its sensor.
    """
    wkt = fields["spatial_ref"].attrs.get("crs_wkt") if "spatial_ref" in fields.coords else None
    if not wkt or not {"x", "y"} <= set(fields.dims):
        raise GeostackError(
            "the fields have no map grid, so they cannot be a GeoTIFF",
            subject="publication",
            found=f"dimensions {', '.join(map(str, fields.dims))}, spatial_ref {'with' if wkt else 'without'} CRS",
            action="project the node onto a grid first",
        )
    x, y = fields["x"].values.astype(np.float64), fields["y"].values.astype(np.float64)
    # Over the whole width: the difference of two neighbours carries the rounding of both.
    step_x, step_y = (
        (c[-1] - c[0]) / (c.size - 1) if c.size > 1 else _told_step(fields, axis)
        for axis, c in enumerate((x, y))
    )
    transform = Affine(step_x, 0.0, x[0] - step_x / 2, 0.0, step_y, y[0] - step_y / 2)
    return Placement(crs=pyproj.CRS.from_wkt(wkt), transform=transform, shape=(y.size, x.size))


def _told_step(fields: xr.Dataset, axis: int) -> float:
    """Return the pixel size along x (0) or y (1) that the grid mapping tells: one row or column does not show its own."""
    told = str(fields["spatial_ref"].attrs.get("GeoTransform", "")).split()
    if len(told) != 6:
        raise GeostackError(
            "a field of one row or column has no pixel size",
            subject="publication",
            found=f"{fields.sizes['y']} x {fields.sizes['x']} pixels, spatial_ref without GeoTransform",
            action="enlarge the area",
        )
    return float(told[5 if axis else 1])


def to_cog(
    values: NDArray[Any], place: Placement, *, nodata: float | None, description: str, unit: str
) -> bytes:
    """Return a plane (rows, columns) as a COG: deflate, internal tiles, overviews by mean (flags: by nearest).

    Args:
        values: float32 with NaN for no data, or unsigned integers.
        place: Where they lie.
        nodata: Value of pixels without data; None where every value means something.
        description: Name of the band.
        unit: Unit of the band, empty without.
    """
    floating = np.issubdtype(values.dtype, np.floating)
    profile = {
        "driver": "GTiff", "dtype": values.dtype.name, "count": 1, "height": place.shape[0], "width": place.shape[1],
        "crs": place.crs.to_wkt(), "transform": place.transform, "nodata": nodata,
    }  # fmt: skip
    options = {
        "driver": "COG", "compress": "DEFLATE", "level": 9, "blocksize": BLOCK, "predictor": "YES",
        "overview_resampling": "AVERAGE" if floating else "NEAREST", "num_threads": 1, "bigtiff": "IF_SAFER",
    }  # fmt: skip
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), MemoryFile() as plain, MemoryFile() as made:
        with plain.open(**profile) as target:
            target.write(values, 1)
            target.set_band_description(1, description)
            if unit:
                target.units = (unit,)
        with plain.open() as source:
            rasterio_copy(source, made.name, **options)
        return bytes(made.read())
