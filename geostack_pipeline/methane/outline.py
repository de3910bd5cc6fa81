"""Pixels of a grid as polygons and points in longitude and latitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
import rasterio.features
import shapely
import xarray as xr
from numpy.typing import NDArray
from rasterio.transform import Affine

from geostack_pipeline.errors import GeostackError
from geostack_pipeline.methane.acquisition import pixel_metres, pixel_size

DECIMALS = 7
"""Degrees are rounded to about a centimetre, so that the last bits of a projection do not change a file."""


@dataclass(frozen=True)
class Georeference:
    """Where the pixels of a field lie."""

    transform: Affine
    """Column and row (of pixel corners) to the CRS."""
    to_degrees: pyproj.Transformer
    """CRS to longitude, latitude (OGC:CRS84)."""
    pixel_m: tuple[float, float]
    """Width and height of a pixel on the ground in metres, in the middle of the grid."""

    @property
    def pixel_area_m2(self) -> float:
        """Area of a pixel in m2, in the middle of the grid."""
        return self.pixel_m[0] * self.pixel_m[1]

    def point(self, row: float, column: float) -> tuple[float, float]:
        """Return longitude and latitude of the centre of a pixel."""
        a, b, c, d, e, f = self.transform[:6]
        x, y = a * (column + 0.5) + b * (row + 0.5) + c, d * (column + 0.5) + e * (row + 0.5) + f
        longitude, latitude = self.to_degrees.transform(x, y)
        # A map in degrees may run on beyond the antimeridian.
        longitude -= 360.0 * np.floor((longitude + 180.0) / 360.0) if abs(longitude) > 180.0 else 0.0
        return round(float(longitude), DECIMALS), round(float(latitude), DECIMALS)


def georeference(fields: xr.Dataset) -> Georeference:
    """Return where the pixels of ``fields`` lie, from x, y (pixel centres) and ``spatial_ref``."""
    wkt = fields["spatial_ref"].attrs.get("crs_wkt") if "spatial_ref" in fields.coords else None
    if not wkt:
        raise GeostackError(
            "the fields do not say in which CRS their pixels lie",
            subject="plume detection",
            found="no spatial_ref coordinate with the attribute crs_wkt",
            action="write the node with its spatial_ref coordinate",
        )
    crs = pyproj.CRS.from_wkt(wkt)
    x, y = fields["x"].values, fields["y"].values
    width, height = pixel_size(fields)
    step_x = float(x[1] - x[0]) if x.size > 1 else width
    step_y = float(y[1] - y[0]) if y.size > 1 else -height
    transform = Affine(step_x, 0.0, float(x[0]) - step_x / 2.0, 0.0, step_y, float(y[0]) - step_y / 2.0)
    to_degrees = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    return Georeference(transform, to_degrees, pixel_metres(fields))


def outline(mask: NDArray[np.bool_], place: Georeference) -> Any:
    """Return the pixels of ``mask`` as a shapely Polygon or MultiPolygon in degrees, OGC:CRS84, rings oriented.

    Edges follow the pixels.  A shape across the antimeridian comes back in two parts, each within
    [-180, 180].
    """
    # Four neighbours, then a union: eight would give rings that touch themselves.
    rings = rasterio.features.shapes(
        mask.astype(np.uint8), mask=mask, connectivity=4, transform=place.transform
    )
    whole = shapely.union_all([shapely.geometry.shape(ring) for ring, _ in rings])
    degrees = shapely.transform(
        whole, lambda xy: np.column_stack(place.to_degrees.transform(xy[:, 0], xy[:, 1]))
    )
    # Before the cut: what sticks out beyond 180 degrees by the last bits of a number is no part of its own.
    degrees = shapely.transform(degrees, lambda xy: np.round(xy, DECIMALS))
    return shapely.orient_polygons(_split_antimeridian(degrees))


def _split_antimeridian(shape: Any) -> Any:
    west, _, east, _ = shape.bounds
    if west >= -180.0 and east <= 180.0 and east - west <= 180.0:
        return shape

    def unwrap(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([np.where(xy[:, 0] < 0.0, xy[:, 0] + 360.0, xy[:, 0]), xy[:, 1]])

    unwrapped = shapely.transform(shape, unwrap)
    left = shapely.intersection(unwrapped, shapely.box(0.0, -90.0, 180.0, 90.0))
    right = shapely.intersection(unwrapped, shapely.box(180.0, -90.0, 360.0, 90.0))
    right = shapely.transform(
        right, lambda xy: np.round(np.column_stack([xy[:, 0] - 360.0, xy[:, 1]]), DECIMALS)
    )
    # An edge upon the meridian is a line of the other half, and no ground.
    return shapely.union_all(
        [part for half in (left, right) for part in shapely.get_parts(half) if part.geom_type == "Polygon"]
    )
