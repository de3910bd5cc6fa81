"""Attributes of a cube: CF conventions, and the georeferencing that GeoZarr readers and rioxarray look for."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from geostack_pipeline.cube import packing
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.raster.window import parsed_crs

GRID_MAPPING = "spatial_ref"

SCL_MEANINGS = (
    "no_data",
    "saturated_or_defective",
    "dark_area_pixels",
    "cloud_shadows",
    "vegetation",
    "not_vegetated",
    "water",
    "unclassified",
    "cloud_medium_probability",
    "cloud_high_probability",
    "thin_cirrus",
    "snow_or_ice",
)
"""Classes 0 to 11 of the Sentinel-2 scene classification (Level-2A product specification)."""

REFLECTANCE: dict[str, Any] = {
    "long_name": "surface reflectance",
    "standard_name": "surface_bidirectional_reflectance",
    "units": "1",
    "grid_mapping": GRID_MAPPING,
}
PACKING: dict[str, Any] = {
    "scale_factor": packing.SCALE_FACTOR,
    "add_offset": packing.ADD_OFFSET,
    "_FillValue": np.uint16(packing.FILL),
}
SCL: dict[str, Any] = {
    "long_name": "scene classification of Sentinel-2 Level-2A; 0 where no scene has data",
    "flag_values": np.arange(len(SCL_MEANINGS), dtype=np.uint8),
    "flag_meanings": " ".join(SCL_MEANINGS),
    "grid_mapping": GRID_MAPPING,
}
SOURCE_SCENE: dict[str, Any] = {
    "long_name": "index along the dimension scene of the item that gave the pixel, in all bands; -1 for none",
    "grid_mapping": GRID_MAPPING,
}
BAND: dict[str, Any] = {"long_name": "name of the spectral band"}
TIME: dict[str, Any] = {
    "long_name": "time of the earliest acquisition of the solar day",
    "standard_name": "time",
    "axis": "T",
}
SOLAR_DAY: dict[str, Any] = {"long_name": "date by the sun at the area's centre"}
SCENE: dict[str, dict[str, Any]] = {
    "scene": {"long_name": "catalog item id"},
    "scene_id": {"long_name": "identity of the physical scene"},
    "scene_datetime": {"long_name": "time of acquisition"},
    "platform": {"long_name": "satellite"},
    "relative_orbit": {"long_name": "relative orbit; -1 where unknown"},
    "sun_zenith": {
        "long_name": "sun zenith angle",
        "standard_name": "solar_zenith_angle",
        "units": "degree",
    },
    "view_zenith": {
        "long_name": "sensor zenith angle",
        "standard_name": "sensor_zenith_angle",
        "units": "degree",
    },
}


def spatial_coordinates(grid: GridSpec) -> dict[str, xr.Variable]:
    """Return the coordinates ``x``, ``y`` (pixel centres) and ``spatial_ref`` of a grid."""
    crs = parsed_crs(grid.crs)
    a, b, c, d, e, f = grid.transform
    if crs.is_geographic:
        x = {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"}
        y = {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"}
    else:
        unit = {"metre": "m"}.get(crs.axis_info[0].unit_name, crs.axis_info[0].unit_name)
        x = {"standard_name": "projection_x_coordinate", "long_name": "easting", "units": unit, "axis": "X"}
        y = {"standard_name": "projection_y_coordinate", "long_name": "northing", "units": unit, "axis": "Y"}
    mapping = {
        "long_name": "coordinate reference system of x and y",
        **crs.to_cf(),
        # rioxarray and GDAL read these two
        "spatial_ref": crs.to_wkt(),
        "GeoTransform": " ".join(repr(v) for v in (c, a, b, f, d, e)),
    }
    return {
        "x": xr.Variable("x", grid.x, x),
        "y": xr.Variable("y", grid.y, y),
        GRID_MAPPING: xr.Variable((), np.int64(0), mapping),
    }


def group_attributes(grid: GridSpec) -> dict[str, Any]:
    """Return the attributes of a cube's group: CF version and the grid in terms of the STAC projection extension."""
    crs = parsed_crs(grid.crs)
    code = crs.to_authority(min_confidence=100)
    attributes: dict[str, Any] = {
        "Conventions": "CF-1.11",
        "proj:code": None if code is None else ":".join(code),
        "proj:wkt2": crs.to_wkt(),
        "proj:transform": [*grid.transform, 0.0, 0.0, 1.0],
        "proj:shape": list(grid.shape),
        "proj:bbox": list(grid.bounds),
    }
    return {name: value for name, value in attributes.items() if value is not None}
