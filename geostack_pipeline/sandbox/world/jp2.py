"""Files as ESA's ground segment writes them: JPEG 2000 in tiles, lossless, placed by GML inside the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import rasterio
from rasterio.transform import Affine

from geostack_pipeline.sandbox.world.grids import Grid

LARGEST_TILE = 1024
"""Edge of the tiles of real products, pixels."""


def write_jp2(path: Path, values: npt.NDArray[Any], grid: Grid, *, block: int) -> None:
    """Write one band (rows, columns; unsigned integers, 0 is nodata, which the file does not say).

    The reversible 5/3 wavelet at quality 100 keeps every number.  Georeferencing is a GMLJP2 box alone, as in real
    products: no GeoJP2 box, no world file, no ``.aux.xml``.
    """
    edge = min(block, LARGEST_TILE)
    with (
        rasterio.Env(GDAL_NUM_THREADS="1", GDAL_PAM_ENABLED="NO"),
        rasterio.open(
            path,
            "w",
            driver="JP2OpenJPEG",
            width=grid.width,
            height=grid.height,
            count=1,
            dtype=values.dtype,
            crs=f"EPSG:{grid.epsg}",
            transform=Affine(*grid.transform),
            QUALITY="100",
            REVERSIBLE="YES",
            YCBCR420="NO",
            RESOLUTIONS=str(_resolutions(min(edge, grid.width, grid.height))),
            tiled=True,  # for rasterio, which else forgets the tile's width
            blockxsize=edge,
            blockysize=edge,
            PROGRESSION="LRCP",
            GMLJP2="YES",
            GeoJP2="NO",
            WRITE_METADATA="NO",
        ) as raster,
    ):
        raster.write(values, 1)


def _resolutions(edge: int) -> int:
    """Return how many resolutions a tile has: six as in real products, fewer in small tiles."""
    return max(1, min(6, edge.bit_length() - 4))
