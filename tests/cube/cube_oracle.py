"""GDAL's warper as the oracle of cubes, and scenes made for tests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
from obstore.store import LocalStore
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.layers import BandLayer, SceneLayer

NOON = datetime(2024, 6, 1, 10, 20, 31, 24000, tzinfo=UTC)


def gdal(
    path: Path,
    grid: GridSpec,
    resampling: Resampling = Resampling.nearest,
    *,
    band: int = 1,
    nodata: float | None = 0,
    tolerance: float = 1e-4,
    **options: str,
) -> np.ndarray:
    """The file on the grid, by GDAL."""
    with (
        rasterio.open(path) as source,
        WarpedVRT(
            source,
            crs=grid.crs,
            transform=Affine(*grid.transform),
            width=grid.width,
            height=grid.height,
            resampling=resampling,
            tolerance=tolerance,
            src_nodata=nodata,
            nodata=nodata,
            **options,
        ) as warped,
    ):
        return warped.read(band)


def layer(
    path: Path, *, scale: float = 1e-4, offset: float = -0.1, nodata: float | None = 0, band: int = 1
) -> BandLayer:
    return BandLayer(
        store=LocalStore(path.parent), key=path.name, scale=scale, offset=offset, nodata=nodata, band=band
    )


def scene(name: str, bands: Mapping[str, BandLayer], moment: datetime = NOON) -> SceneLayer:
    return SceneLayer(
        item_id=name,
        scene=f"scene-{name}",
        datetime=moment,
        platform="sentinel-2a",
        relative_orbit=65,
        sun_zenith=31.5,
        view_zenith=None,
        bands=bands,
    )


def square_grid(
    resolution: float, west: float = 602000.0, north: float = 5098000.0, size: int = 6000
) -> GridSpec:
    """A grid of UTM zone 32 with its corner at (west, north) and ``size`` metres to a side."""
    across = int(size / resolution)
    return GridSpec(
        crs="EPSG:32632",
        transform=(resolution, 0.0, west, 0.0, -resolution, north),
        width=across,
        height=across,
    )
