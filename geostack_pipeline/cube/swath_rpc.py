"""Where the pixels of a detector of L1B lie, and a look-up table to a map like that of EMIT, from rational polynomials.

All of it is at one height, since a granule brings no elevation model: on ground that lies h metres higher or lower, pixels are
off by h times the tangent of the view's angle (a fifth of h at 12 degrees).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geostack_pipeline.cube import swath_conventions as names
from geostack_pipeline.cube.conventions import GRID_MAPPING, spatial_coordinates
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.raster.rational import RationalModel

STEP_DEG = 0.00027
"""Pixels of the map: 30 m to the north, as the detector's; to the east they are narrower."""
_ROWS_AT_ONCE = 64


def placed(
    detector: str, model: RationalModel, lines: int, samples: int, height_m: float
) -> tuple[dict[str, xr.Variable], dict[str, xr.Variable]]:
    """Return the look-up table, and the coordinates, of a detector; their names begin with the detector's.

    Variables ``glt_x`` and ``glt_y`` (rows, columns of the map) count samples and lines from 1, 0 for none, as
    :func:`~geostack_pipeline.cube.ortho.orthorectify` takes them.  Coordinates ``lon``, ``lat`` of the pixels' centres,
    ``ortho_y`` and ``ortho_x`` of the map's, and the map's grid.

    Raises:
        RasterError: The model does not describe the image.
    """
    rows, columns = np.meshgrid(np.arange(lines, dtype=float), np.arange(samples, dtype=float), indexing="ij")
    longitude, latitude = model.ground(rows, columns, height_m)
    grid = _grid(longitude, latitude)
    glt_x, glt_y = _look_up(model, grid, lines, samples, height_m)
    spatial = spatial_coordinates(grid)
    mapping = f"{detector}_{GRID_MAPPING}"
    sensor = (f"{detector}_downtrack", f"{detector}_crosstrack")
    on_map = (f"{detector}_ortho_y", f"{detector}_ortho_x")
    about = {"comment": f"by rational polynomials, at a height of {height_m:g} m"}
    coordinates = {
        mapping: spatial[GRID_MAPPING],
        f"{detector}_lon": xr.Variable(sensor, longitude, {**names.LOCATION["lon"], **about}),
        f"{detector}_lat": xr.Variable(sensor, latitude, {**names.LOCATION["lat"], **about}),
    }
    for dim, axis in zip(on_map, ("y", "x"), strict=True):
        kept = {key: value for key, value in spatial[axis].attrs.items() if key != "axis"}
        coordinates[dim] = xr.Variable(dim, spatial[axis].values, kept)
    tables: dict[str, Any] = {"glt_x": glt_x, "glt_y": glt_y}
    variables = {
        f"{detector}_{name}": xr.Variable(on_map, table, {**names.GLT[name], "grid_mapping": mapping})
        for name, table in tables.items()
    }
    return variables, coordinates


def _grid(longitude: npt.NDArray[np.float64], latitude: npt.NDArray[np.float64]) -> GridSpec:
    """Return the map that holds all pixels, on multiples of the step, so that maps of both detectors are aligned."""
    middle = float(longitude[longitude.shape[0] // 2, longitude.shape[1] // 2])
    around = longitude - 360.0 * np.round(
        (longitude - middle) / 360.0
    )  # in one piece across the antimeridian
    west = math.floor(around.min() / STEP_DEG - 0.5)
    east = math.ceil(around.max() / STEP_DEG + 0.5)
    south = math.floor(latitude.min() / STEP_DEG - 0.5)
    north = math.ceil(latitude.max() / STEP_DEG + 0.5)
    return GridSpec(
        crs="EPSG:4326",
        transform=(STEP_DEG, 0.0, west * STEP_DEG, 0.0, -STEP_DEG, north * STEP_DEG),
        width=east - west,
        height=north - south,
    )


def _look_up(
    model: RationalModel, grid: GridSpec, lines: int, samples: int, height_m: float
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return sample and line under each pixel of a map, counted from 1; 0 beside the image."""
    glt_x, glt_y = np.zeros(grid.shape, np.int32), np.zeros(grid.shape, np.int32)
    for start in range(0, grid.height, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        longitude, latitude = np.meshgrid(grid.x, grid.y[part])
        row, column = model.image(longitude, latitude, height_m)
        line, sample = np.floor(row + 0.5), np.floor(column + 0.5)
        inside = (line >= 0) & (line < lines) & (sample >= 0) & (sample < samples)
        glt_y[part][inside] = line[inside].astype(np.int32) + 1
        glt_x[part][inside] = sample[inside].astype(np.int32) + 1
    return glt_x, glt_y
