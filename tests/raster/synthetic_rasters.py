"""Synthetic rasters, written by GDAL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine


def noise(shape: tuple[int, int, int], dtype: str, seed: int = 7, nodata: float | None = 0) -> np.ndarray:
    """Smooth hills with noise, and a corner without data."""
    rng = np.random.default_rng(seed)
    bands, height, width = shape
    y, x = np.mgrid[0:height, 0:width]
    base = 120 + 60 * np.sin(x / 37.0) + 50 * np.cos(y / 23.0)
    data = base[None] + rng.normal(0, 5, shape) + 3 * np.arange(bands)[:, None, None]
    if np.dtype(dtype).kind == "f":
        out = (data / 1000.0).astype(dtype)
    elif np.dtype(dtype).itemsize == 1:
        out = np.clip(data, 1, 250).astype(dtype)
    else:
        out = (data * 37).astype(dtype)
    if nodata is not None:
        out[:, : height // 5, : width // 4] = nodata
    return out


def write_tiff(
    path: Path,
    data: np.ndarray,
    *,
    origin: tuple[float, float] = (600000.0, 5100000.0),
    resolution: float = 20.0,
    crs: str = "EPSG:32632",
    nodata: float | None = 0,
    tags: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    profile = {
        "driver": "GTiff",
        "dtype": data.dtype,
        "count": data.shape[0],
        "height": data.shape[1],
        "width": data.shape[2],
        "crs": crs,
        "transform": Affine(resolution, 0, origin[0], 0, -resolution, origin[1]),
        "nodata": nodata,
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 64,
        "compress": "deflate",
    }
    profile.update(options)
    if profile.get("driver") == "COG":
        for name in ("tiled", "blockxsize", "blockysize"):
            profile.pop(name, None)
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(data)
        if tags:
            dataset.update_tags(**tags)
    return path
