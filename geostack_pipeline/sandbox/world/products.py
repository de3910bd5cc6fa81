"""Rendered products on disk: a folder appears complete, by one rename, and is then never touched."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import rasterio
from rasterio.transform import Affine

from geostack_pipeline.errors import StorageError


def appear(folder: Path, render: Callable[[Path], None]) -> None:
    """Make ``folder`` exist: ``render`` fills a temporary one beside it, which takes its name when it is complete.

    Where another process was faster, its folder stays.

    Raises:
        StorageError: The files cannot be written.
    """
    if folder.is_dir():
        return
    work = folder.with_name(f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        work.mkdir(parents=True)
        render(work)
        try:
            work.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    except (OSError, rasterio.errors.RasterioError) as error:
        raise StorageError(
            "the sandbox's products cannot be written",
            subject=str(folder),
            found=str(error),
            action="free about 0.2 GB there, or choose another folder",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_geotiff(
    path: Path,
    values: npt.NDArray[Any],
    *,
    epsg: int,
    transform: tuple[float, float, float, float, float, float],
    nodata: float | None,
    block: int = 128,
    categorical: bool = False,
    predictor: bool = True,
) -> None:
    """Write a cloud-optimised GeoTIFF of (bands, rows, columns), DEFLATE; ``transform`` is affine a to f."""
    count, height, width = values.shape
    with (
        rasterio.Env(GDAL_NUM_THREADS="1"),
        rasterio.open(
            path,
            "w",
            driver="COG",
            width=width,
            height=height,
            count=count,
            dtype=values.dtype,
            crs=f"EPSG:{epsg}",
            transform=Affine(*transform),
            nodata=nodata,
            blocksize=block,
            compress="DEFLATE",
            level=1,
            predictor="YES" if predictor else "NO",
            overviews="AUTO" if count == 1 else "NONE",
            overview_resampling="NEAREST" if categorical else "AVERAGE",
            bigtiff="NO",
            statistics="NO",
        ) as raster,
    ):
        raster.write(values)
