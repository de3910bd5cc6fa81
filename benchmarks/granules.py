"""A granule of EMIT L1B in full size: structure, chunks and filters of the product, generated from a seed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import h5netcdf
import h5py
import imagecodecs
import numpy as np
import numpy.typing as npt

from geostack_pipeline.sandbox.world.emit_netcdf import FILL
from geostack_pipeline.sandbox.world.swath import Swath

FULL = (1280, 1242)
BANDS = 285
CHUNKS = (256, 249, 32)
"""Lines, samples and bands of a chunk of radiance."""


def wavelengths() -> npt.NDArray[np.float32]:
    """Return the centres of the bands, nm."""
    return np.linspace(381.0, 2493.0, BANDS).astype(np.float32)


def write_granule(path: Path, lines: int, samples: int, *, packed: bool, seed: int = 7) -> None:
    """Write radiance with its bands, its location and its look-up table; noise in the last bits as a sensor has it.

    ``packed``: chunks with byte shuffle and deflate 1; else the bytes of radiance lie in one piece, which gives files of the
    1.8 GB that the archive's have.
    """
    swath = Swath(epsg=32640, x=5e5, y=4.3e6, heading_deg=47.0, lines=lines, samples=samples)
    glt_x, glt_y = swath.glt
    longitude, latitude = swath.degrees
    chunks = tuple(min(size, chunk) for size, chunk in zip((lines, samples, BANDS), CHUNKS, strict=True))
    filters = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"downtrack": lines, "crosstrack": samples, "bands": BANDS}
        file.dimensions["ortho_y"], file.dimensions["ortho_x"] = glt_x.shape
        file.attrs["geotransform"] = np.array(swath.ortho[0], np.float64)
        file.attrs["title"] = "EMIT L1B At-Sensor Calibrated Radiance Data 60 m V001"
        radiance = file.create_variable(
            "radiance", ("downtrack", "crosstrack", "bands"), np.float32, fillvalue=np.float32(FILL),
            **({"chunks": chunks, **filters} if packed else {}),
        )  # fmt: skip
        radiance.attrs["units"] = "uW/cm^2/SR/nm"
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
                **filters,
            )
    with h5py.File(path, "r+") as file, ThreadPoolExecutor(2) as pool:
        rng = np.random.default_rng(seed)
        for start in range(0, lines, chunks[0]):
            block = _radiance(rng, min(chunks[0], lines - start), samples)
            if not packed:
                file["radiance"][start : start + len(block)] = block
                continue
            corners = list(product(range(0, samples, chunks[1]), range(0, BANDS, chunks[2])))
            for corner, data in zip(corners, pool.map(partial(_chunk, block, chunks), corners), strict=True):
                file["radiance"].id.write_direct_chunk((start, *corner), data)


def _radiance(rng: np.random.Generator, lines: int, samples: int) -> npt.NDArray[np.float32]:
    nm = wavelengths().astype(np.float64)
    spectrum = (12.0 * np.exp(-(((nm - 600.0) / 500.0) ** 2)) + 0.3).astype(np.float32)
    bright = 1.0 + 0.3 * rng.standard_normal((lines, samples, 1), np.float32)
    noise = 0.002 * rng.standard_normal((lines, samples, BANDS), np.float32)
    return np.asarray(spectrum * (bright + noise), np.float32)


def _chunk(block: npt.NDArray[np.float32], chunks: tuple[int, ...], corner: tuple[int, int]) -> bytes:
    """Return a chunk as HDF5's filters shuffle and deflate pack it, which two threads do sooner than the library."""
    sample, band = corner
    part = block[:, sample : sample + chunks[1], band : band + chunks[2]]
    whole = np.full(chunks, FILL, np.float32)
    whole[: part.shape[0], : part.shape[1], : part.shape[2]] = part
    planes = np.ascontiguousarray(whole.reshape(-1).view(np.uint8).reshape(-1, 4).T)
    return bytes(imagecodecs.deflate_encode(planes.tobytes(), level=1))
