"""What the object server serves: Cloud Optimized GeoTIFFs that compress as imagery does, and bulk objects."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

SIDE = 5490
TILE = 512
PIXEL_M = 20.0
WEST, NORTH = 600_000.0, 4_300_020.0
"""Upper left corner in EPSG:32639, as the tiles of Sentinel-2 have it."""
CRS = "EPSG:32639"
AREA = (634_200.0, 4_256_000.0, 647_600.0, 4_269_400.0)
"""An area of 13.4 km: west, south, east, north in the same CRS."""


def write_cogs(folder: Path, count: int, side: int = SIDE) -> list[str]:
    """Write COGs of uint16, DEFLATE with predictor 2, tiles of 512, with overviews; return their names."""
    import rasterio
    from rasterio.transform import from_origin

    names = []
    dice = np.random.default_rng(20240601)
    for number in range(count):
        # smooth ground with four bits of noise: DEFLATE leaves about half, as of real reflectances
        coarse = dice.integers(600, 3000, (side // 61 + 2, side // 61 + 2)).astype(np.float32)
        rows = np.arange(side, dtype=np.float32) / 61
        low = rows.astype(np.int64)
        part = rows - low
        lines = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
        ground = lines[:, low] * (1 - part) + lines[:, low + 1] * part
        pixels = ground.astype(np.uint16) + dice.integers(0, 64, (side, side), dtype=np.uint16)
        name = f"B{number + 1:02d}.tif"
        with rasterio.open(
            folder / name,
            "w",
            driver="COG",
            width=side,
            height=side,
            count=1,
            dtype="uint16",
            crs=CRS,
            transform=from_origin(WEST, NORTH, PIXEL_M, PIXEL_M),
            nodata=0,
            compress="DEFLATE",
            predictor="YES",
            blocksize=TILE,
            num_threads="ALL_CPUS",
        ) as target:
            target.write(pixels, 1)
        names.append(name)
    return names


def tile_bytes(path: Path, area: tuple[float, float, float, float] = AREA) -> int:
    """Return the encoded size of the full-resolution tiles that an area intersects, by tifffile: the least possible."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        across = -(-page.imagewidth // page.tilewidth)
        west, south, east, north = area
        columns = range(
            int((west - WEST) / PIXEL_M) // page.tilewidth,
            -(-int((east - WEST) / PIXEL_M) // page.tilewidth),
        )
        rows = range(
            int((NORTH - north) / PIXEL_M) // page.tilelength,
            -(-int((NORTH - south) / PIXEL_M) // page.tilelength),
        )
        return sum(page.databytecounts[row * across + column] for row in rows for column in columns)


def write_bulk(folder: Path, count: int, size: int) -> list[str]:
    """Write objects of random bytes; return their names."""
    names = [f"object-{number:04d}.bin" for number in range(count)]
    for name in names:
        (folder / name).write_bytes(os.urandom(size))
    return names
