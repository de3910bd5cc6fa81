"""Rasters as the ground segments publish them: cloud-optimised GeoTIFFs, byte for byte reproducible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import rasterio
from rasterio.transform import Affine

from geostack_pipeline.sandbox.world.grids import Grid


def write_cog(path: Path, values: npt.NDArray[Any], grid: Grid, *, block: int, categorical: bool) -> None:
    """Write one band (rows, columns; unsigned integers, 0 is nodata) with internal tiles and overviews.

    DEFLATE with horizontal differences, overviews by averaging (by nearest neighbour where the values are
    codes), as in the public Sentinel-2 buckets.
    """
    with (
        rasterio.Env(GDAL_NUM_THREADS="1", GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path,
            "w",
            driver="COG",
            width=grid.width,
            height=grid.height,
            count=1,
            dtype=values.dtype,
            crs=f"EPSG:{grid.epsg}",
            transform=Affine(*grid.transform),
            nodata=0,
            blocksize=block,
            compress="DEFLATE",
            level=1,
            predictor="STANDARD",
            overviews="AUTO",
            overview_resampling="NEAREST" if categorical else "AVERAGE",
            bigtiff="NO",
            statistics="NO",
        ) as raster,
    ):
        raster.write(values, 1)
