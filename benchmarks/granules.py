"""A granule of EMIT L1B in full size: structure, chunks and filters of the product, generated from a seed."""

from __future__ import annotations

from pathlib import Path

import h5netcdf
import numpy as np

from geostack_pipeline.sandbox.world.emit_netcdf import FILL
from geostack_pipeline.sandbox.world.swath import Swath

FULL = (1280, 1242)
BANDS = 285
CHUNKS = (256, 249, 32)
"""Lines, samples and bands of a chunk of radiance."""


def wavelengths() -> np.ndarray:
    """Return the centres of the bands, nm."""
    return np.linspace(381.0, 2493.0, BANDS).astype(np.float32)


def write_granule(path: Path, lines: int, samples: int, *, seed: int = 7) -> None:
    """Write radiance with its bands, its location and its look-up table; noise in the last bits as a sensor has it."""
    rng = np.random.default_rng(seed)
    swath = Swath(epsg=32640, x=5e5, y=4.3e6, heading_deg=47.0, lines=lines, samples=samples)
    glt_x, glt_y = swath.glt
    longitude, latitude = swath.degrees
    nm = wavelengths().astype(np.float64)
    spectrum = (12.0 * np.exp(-(((nm - 600.0) / 500.0) ** 2)) + 0.3).astype(np.float32)
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"downtrack": lines, "crosstrack": samples, "bands": BANDS}
        file.dimensions["ortho_y"], file.dimensions["ortho_x"] = glt_x.shape
        file.attrs["geotransform"] = np.array(swath.ortho[0], np.float64)
        file.attrs["title"] = "EMIT L1B At-Sensor Calibrated Radiance Data 60 m V001"
        packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        chunks = tuple(min(size, chunk) for size, chunk in zip((lines, samples, BANDS), CHUNKS, strict=True))
        radiance = file.create_variable(
            "radiance", ("downtrack", "crosstrack", "bands"), np.float32,
            chunks=chunks, fillvalue=np.float32(FILL), **packed,
        )  # fmt: skip
        radiance.attrs["units"] = "uW/cm^2/SR/nm"
        for start in range(0, lines, chunks[0]):
            rows = min(chunks[0], lines - start)
            bright = 1.0 + 0.3 * rng.standard_normal((rows, samples, 1), np.float32)
            noise = 0.002 * rng.standard_normal((rows, samples, BANDS), np.float32)
            radiance[start : start + rows] = spectrum * (bright + noise)
        for name, values in (("wavelengths", wavelengths()), ("fwhm", np.full(BANDS, 8.5, np.float32))):
            file.create_variable(f"/sensor_band_parameters/{name}", ("bands",), data=values)
        across, on_map = ("downtrack", "crosstrack"), ("ortho_y", "ortho_x")
        for name, dimensions, data in (
            ("lon", across, longitude),
            ("lat", across, latitude),
            ("elev", across, np.full((lines, samples), 100.0)),
            ("glt_x", on_map, glt_x),
            ("glt_y", on_map, glt_y),
        ):
            file.create_variable(
                f"/location/{name}",
                dimensions,
                data=data,
                chunks=tuple(min(256, n) for n in data.shape),
                **packed,
            )
