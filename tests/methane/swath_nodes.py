"""Cube nodes of imaging spectrometers, made of synthetic radiance: what the swath cube stage would store."""

from __future__ import annotations

import numpy as np
import xarray as xr

from benchmarks.radiance_cube import make_cube
from geostack_pipeline.cube.conventions import GRID_MAPPING, spatial_coordinates
from geostack_pipeline.cube.grid import GridSpec

STEP = 0.000542232520256367


def emit_node(*, lines=220, samples=40, seed=7, plumes=2, angles=True, item="EMIT_L1B_RAD_001_X"):
    """Return a decoded node of EMIT L1B with a look-up table that turns it by a quarter, and what was planted."""
    cube = make_cube(lines, samples, seed=seed, plumes=plumes)
    blue = np.full((lines, samples, 1), 8.0, np.float32)
    radiance = np.concatenate([blue, cube.radiance], axis=2)
    # Lines become columns of the map; a margin of two pixels sees nothing.
    height, width = samples + 4, lines + 4
    glt_x, glt_y = np.zeros((height, width), np.int32), np.zeros((height, width), np.int32)
    glt_x[2:-2, 2:-2] = np.arange(1, samples + 1)[:, None]
    glt_y[2:-2, 2:-2] = np.arange(1, lines + 1)[None, :]
    spatial = spatial_coordinates(
        GridSpec(crs="EPSG:4326", transform=(STEP, 0.0, 54.0, 0.0, -STEP, 38.5), width=width, height=height)
    )
    sensor = ("downtrack", "crosstrack")
    variables = {
        "radiance": ((*sensor, "wavelength"), radiance, {"units": "uW cm-2 sr-1 nm-1"}),
        "glt_x": (("ortho_y", "ortho_x"), glt_x),
        "glt_y": (("ortho_y", "ortho_x"), glt_y),
    }
    if angles:
        variables["solar_zenith"] = (sensor, np.full((lines, samples), 30.0, np.float32))
        variables["sensor_zenith"] = (sensor, np.full((lines, samples), 5.0, np.float32))
    node = xr.Dataset(
        variables,
        coords={
            "wavelength": ("wavelength", np.concatenate([[480.0], cube.wavelength])),
            "fwhm": ("wavelength", np.concatenate([[8.4], cube.fwhm])),
            GRID_MAPPING: spatial[GRID_MAPPING],
            "ortho_y": ("ortho_y", spatial["y"].values),
            "ortho_x": ("ortho_x", spatial["x"].values),
            "time": np.datetime64("2024-06-07T07:41:12", "ns"),
        },
        attrs={
            "item_id": item,
            "scene": "EMIT_X",
            "collection": "EMITL1BRAD_001",
            "platform": "ISS",
            "area": "korpezhe",
        },
    )
    return node, cube.enhancement


def mask_node(node, *, cloud=None, dilated=None, water=None):
    """Return a node of EMIT L2A of the same scene with masks of 0 and 1."""
    sensor = ("downtrack", "crosstrack")
    shape = (node.sizes["downtrack"], node.sizes["crosstrack"])
    given = {"mask_cloud": cloud, "mask_dilated_cloud": dilated, "mask_water": water}
    return xr.Dataset(
        {
            name: (sensor, np.zeros(shape, np.uint8) if each is None else each.astype(np.uint8))
            for name, each in given.items()
        },
        attrs={**node.attrs, "item_id": "EMIT_L2A_RFL_001_X", "collection": "EMITL2ARFL_001"},
    )


def product_node(*, size=64, nan=False):
    """Return a node of EMIT L2B with one bright square."""
    rng = np.random.default_rng(2)
    values = (80.0 * rng.standard_normal((size, size))).astype(np.float32)
    values[20:26, 30:38] += 2500.0
    values[:3] = np.nan
    if nan:
        values[:] = np.nan
    spatial = spatial_coordinates(
        GridSpec(crs="EPSG:4326", transform=(STEP, 0.0, 54.0, 0.0, -STEP, 38.5), width=size, height=size)
    )
    return xr.Dataset(
        {
            "ch4_enhancement": (("y", "x"), values),
            "ch4_uncertainty": (("y", "x"), np.full_like(values, 90.0)),
            "ch4_sensitivity": (("y", "x"), np.full_like(values, 0.98)),
            "plume_mask": (("y", "x"), np.zeros(values.shape, np.int32)),
        },
        coords={**spatial, "time": np.datetime64("2024-06-07T07:41:12", "ns")},
        attrs={
            "item_id": "EMIT_L2B_CH4ENH_002_X",
            "scene": "EMIT_X",
            "collection": "EMITL2BCH4ENH_002",
            "platform": "ISS",
            "area": "korpezhe",
        },
    )


def enmap_node(*, size=90, seed=7, reflectance=True):
    """Return a node of EnMAP on a UTM map (L2A, or L1C as radiance), and what was planted."""
    cube = make_cube(size, size, seed=seed, plumes=2)
    # A column is no detector column here: one gain for all.
    image = cube.radiance / cube.radiance.mean(axis=(0, 2), keepdims=True) * cube.radiance.mean()
    name = "reflectance" if reflectance else "radiance"
    if reflectance:
        image = image / image.mean(axis=(0, 1)) * 0.3
    spatial = spatial_coordinates(
        GridSpec(crs="EPSG:32639", transform=(30.0, 0.0, 7.6e5, 0.0, -30.0, 4.26e6), width=size, height=size)
    )
    node = xr.Dataset(
        {name: (("wavelength", "y", "x"), np.moveaxis(image, 2, 0).astype(np.float32))},
        coords={
            **spatial,
            "wavelength": ("wavelength", cube.wavelength),
            "fwhm": ("wavelength", cube.fwhm),
            "time": np.datetime64("2024-06-07T07:33:58", "ns"),
        },
        attrs={
            "item_id": "ENMAP01_L2A_X",
            "scene": "ENMAP_X",
            "collection": "ENMAP_HSI_L2A",
            "platform": "enmap",
            "area": "korpezhe",
            "sun_elevation_deg": 62.0,
            "across_off_nadir_deg": -4.0,
        },
    )
    if not reflectance:
        node["radiance"].attrs["units"] = "uW cm-2 sr-1 nm-1"
    return node, cube.enhancement
