"""JPEG 2000 read by window: the right pixels, by several threads, in little memory."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from obstore.store import LocalStore
from rasterio.transform import Affine

from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.source import open_raster
from geostack_pipeline.raster.window import Window

_READ = """
import resource, sys
from obstore.store import LocalStore
from geostack_pipeline.raster.source import open_raster
from geostack_pipeline.raster.window import Window

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

with open_raster(LocalStore(sys.argv[1]), "big.jp2") as raster:
    raster.read(Window(0, 0, 10, 10))
    before = peak()
    total = 0
    for row in range(raster.tile_grid[0]):
        for _, tile in raster.read_tiles([(row, column) for column in range(raster.tile_grid[1])]):
            total += int(tile[0, 0])
print(peak() - before, total)
"""


def _write(path: Path, edge: int, block: int) -> None:
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", width=edge, height=edge, count=1, dtype="uint16", crs="EPSG:32632",
        transform=Affine(10, 0, 499980, 0, -10, 5300040), QUALITY="100", REVERSIBLE="YES", tiled=True,
        blockxsize=block, blockysize=block, GMLJP2="YES", GeoJP2="NO",
    ) as raster:  # fmt: skip
        columns = 2000 + 500 * np.sin(np.arange(edge) / 97.0)
        for top in range(0, edge, block):
            rows = np.arange(top, min(top + block, edge))
            raster.write(
                (columns[None, :] + (rows % 251)[:, None]).astype(np.uint16),
                1,
                window=((top, top + len(rows)), (0, edge)),
            )


def test_many_threads_read_the_same_pixels(tmp_path: Path) -> None:
    _write(tmp_path / "a.jp2", 1000, 256)
    with rasterio.open(tmp_path / "a.jp2") as oracle:
        truth = oracle.read(1)
    windows = [Window(column, row, 300, 200) for column in range(0, 700, 100) for row in range(0, 800, 100)]
    with open_raster(LocalStore(tmp_path), "a.jp2") as raster, ThreadPoolExecutor(6) as pool:
        assert (raster.tile_width, raster.tile_height) == (256, 256)
        for window, found in zip(windows, pool.map(raster.read, windows), strict=True):
            column, row, width, height = window
            assert np.array_equal(found, truth[row : row + height, column : column + width])
    with pytest.raises(ValueError, match="closed"):
        raster.read(Window(0, 0, 1, 1))


@pytest.mark.parametrize(
    "text",
    ["<VRTDataset rasterXSize='1' rasterYSize='1'/>", "GDAL_WMTS:http://127.0.0.1/", "SIMPLE  = T" * 20],
)
def test_formats_that_name_other_sources_are_not_opened(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jp2").write_text(text, encoding="ascii")
    with pytest.raises(RasterError, match=r"a\.jp2"):
        open_raster(LocalStore(tmp_path), "a.jp2")


def _growth(folder: Path) -> float:
    shown = subprocess.run(
        [sys.executable, "-c", _READ, str(folder)], check=True, capture_output=True, text=True, timeout=600
    ).stdout
    return float(shown.split()[0])


@pytest.mark.slow
def test_a_whole_scene_never_is_in_memory(tmp_path: Path) -> None:
    _write(tmp_path / "big.jp2", 10980, 1024)
    # 230 MiB decoded, all of which GDAL would keep by default
    assert _growth(tmp_path) < 90
