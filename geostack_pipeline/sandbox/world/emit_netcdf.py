"""NetCDF-4 files in the structure of EMIT's products: groups, names, attributes, types and fill values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import numpy.typing as npt

from geostack_pipeline.sandbox.world.grids import Floats
from geostack_pipeline.sandbox.world.swath import Swath

FILL = -9999.0
OBS_BANDS = (
    "Path length (sensor-to-ground in meters)",
    "To-sensor azimuth (0 to 360 degrees CW from N)",
    "To-sensor zenith (0 to 90 degrees from zenith)",
    "To-sun azimuth (0 to 360 degrees CW from N)",
    "To-sun zenith (0 to 90 degrees from zenith)",
    "Solar phase (degrees between to-sensor and to-sun vectors in principal plane)",
    "Slope (local surface slope as derived from DEM in degrees)",
    "Aspect (local surface aspect 0 to 360 degrees clockwise from N)",
    "Cosine(i) (apparent local illumination factor based on DEM slope and aspect and to sun vector)",
    "UTC Time (decimal hours for mid-line pixels)",
    "Earth-sun distance (AU)",
)
MASK_BANDS = (
    "Cloud flag",
    "Cirrus flag",
    "Water flag",
    "Spacecraft Flag",
    "Dilated Cloud Flag",
    "AOD550",
    "H2O (g cm-2)",
    "Aggregate Flag",
)
_ABOUT: Mapping[str, tuple[str, str | None]] = {
    "wavelengths": ("Wavelength Centers", "nm"),
    "fwhm": ("Full Width at Half Max", "nm"),
    "good_wavelengths": ("Wavelengths where reflectance is useable: 1 = good data, 0 = bad data", "unitless"),
    "observation_bands": ("Observation Band Names", None),
    "mask_bands": ("Mask Band Names", None),
}


def write_netcdf(
    path: Path,
    name: str,
    values: Floats,
    *,
    long_name: str,
    units: str | None,
    root: Mapping[str, Any],
    band_parameters: Mapping[str, npt.NDArray[Any] | Sequence[str]],
    swath: Swath,
    elevation: npt.NDArray[np.float64],
    extra: Mapping[str, npt.NDArray[Any]] | None = None,
) -> None:
    """Write one product: ``name``(downtrack, crosstrack, bands) with its bands, its location and its attributes."""
    lines, samples, bands = values.shape
    glt_x, glt_y = swath.glt
    longitude, latitude = swath.degrees
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"downtrack": lines, "crosstrack": samples, "bands": bands}
        file.dimensions["ortho_y"], file.dimensions["ortho_x"] = glt_x.shape
        for key, value in root.items():
            file.attrs[key] = value

        def add(
            where: str,
            dimensions: tuple[str, ...],
            data: npt.NDArray[Any],
            about: tuple[str, str | None],
            fill: Any,
        ) -> None:
            # Chunks as libraries of the ground segment choose them: some lines, some samples, some bands.
            chunks = tuple(min(size, 32) for size in data.shape) if data.ndim > 1 else None
            packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if data.ndim > 1 else {}
            variable = file.create_variable(
                where, dimensions, data=data, fillvalue=fill, chunks=chunks, **packed
            )
            variable.attrs["long_name"] = about[0]
            if about[1] is not None:
                variable.attrs["units"] = about[1]

        add(
            name,
            ("downtrack", "crosstrack", "bands"),
            values.astype(np.float32),
            (long_name, units),
            np.float32(FILL),
        )
        for key, data in (extra or {}).items():
            if data.ndim == 2:
                add(key, ("crosstrack", "bands"), data, ("flat field update", "unitless"), np.float32(FILL))
            else:
                file.dimensions["packed_wavelength_bands"] = data.shape[2]
                dimensions = ("downtrack", "crosstrack", "packed_wavelength_bands")
                add(key, dimensions, data, ("Per-Wavelength Mask", "unitless"), np.uint8(255))
        for key, listed in band_parameters.items():
            where = f"/sensor_band_parameters/{key}"
            if isinstance(listed, np.ndarray):
                data = listed if listed.dtype == np.uint8 else listed.astype(np.float32)
                fill = np.uint8(255) if data.dtype == np.uint8 else np.float32(FILL)
                add(where, ("bands",), data, _ABOUT[key], fill)
                continue
            texts = file.create_variable(where, ("bands",), dtype=h5py.string_dtype())
            texts[...] = np.array(listed, object)
            texts.attrs["long_name"] = _ABOUT[key][0]
        across = ("downtrack", "crosstrack")
        add("/location/lon", across, longitude, ("Longitude (WGS-84)", "degrees east"), FILL)
        add("/location/lat", across, latitude, ("Latitude (WGS-84)", "degrees north"), FILL)
        add("/location/elev", across, elevation, ("Surface Elevation", "m"), FILL)
        on_map = ("ortho_y", "ortho_x")
        add("/location/glt_x", on_map, glt_x, ("GLT Sample Lookup", "pixel location"), np.int32(FILL))
        add("/location/glt_y", on_map, glt_y, ("GLT Line Lookup", "pixel location"), np.int32(FILL))
