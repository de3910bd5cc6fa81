"""How many files a mosaic opens and fetches of scenes that are no tiled TIFFs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cube_oracle import gdal, layer, scene
from obstore.store import MemoryStore
from rasterio.enums import Resampling
from synthetic_rasters import noise, write_tiff

from geostack_pipeline.cube.build import build_packed
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.layers import BandLayer
from geostack_pipeline.raster import source

GRID = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, 6e5, 0.0, -20.0, 5.1e6), width=60, height=60)
STRIPS: dict[str, Any] = {"tiled": False, "blockxsize": None, "blockysize": 16}


def _numbers(scenes: int, number: int) -> np.ndarray:
    """A scene's own columns of the grid: all scenes together fill it."""
    numbers = np.clip(noise((1, 60, 60), "uint16", seed=number, nodata=None), 1, 30000)
    own = np.arange(60) // (60 // scenes) == number
    return np.where(own, numbers, 0).astype(np.uint16)


def test_a_remote_file_is_fetched_once_and_few_lie_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve scenes of four bands: 48 files, and few of them at the same time."""
    scenes, bands, threads = 12, ["A", "B", "C", "D"], 2
    store, living, fetched = MemoryStore(), set[str](), list[int]()

    class Folder(tempfile.TemporaryDirectory[str]):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            living.add(self.name)
            fetched.append(len(living))

        def cleanup(self) -> None:
            super().cleanup()
            living.discard(self.name)

    monkeypatch.setattr(source.tempfile, "TemporaryDirectory", Folder)
    path = {
        (s, band): write_tiff(
            tmp_path / f"{s}{band}.tif", _numbers(scenes, s) + (_numbers(scenes, s) > 0) * k, **STRIPS
        )
        for s in range(scenes)
        for k, band in enumerate(bands)
    }
    for each in path.values():
        store.put(each.name, each.read_bytes())
    days = [
        scene(
            str(s),
            {
                band: BandLayer(store=store, key=f"{s}{band}.tif", scale=1e-4, offset=0.0, nodata=0)
                for band in bands
            },
        )
        for s in range(scenes)
    ]
    cube = build_packed(GRID, days, bands, threads=threads)
    for k, band in enumerate(bands):
        expected = np.zeros(GRID.shape, np.int64)
        for s in range(scenes):
            expected += gdal(path[s, band], GRID).astype(np.int64)
        assert np.array_equal(cube.reflectance.values[0, k], expected + 1000)
    assert len(fetched) == scenes * len(bands)
    assert max(fetched) <= threads + 6
    assert not living


def test_a_file_that_made_claims_is_used_again_where_pixels_are_interpolated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, fetched = MemoryStore(), []

    class Folder(tempfile.TemporaryDirectory[str]):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            fetched.append(self.name)

    monkeypatch.setattr(source.tempfile, "TemporaryDirectory", Folder)
    own = np.clip(noise((1, 80, 80), "uint16", nodata=None), 1, 30000)
    path = write_tiff(tmp_path / "a.tif", own, **STRIPS)
    store.put("a.tif", path.read_bytes())
    store.put("b.tif", path.read_bytes())
    grid = GridSpec(
        crs="EPSG:32632", transform=(20.0, 0.0, 6e5 + 107, 0.0, -20.0, 5.1e6 - 109), width=60, height=60
    )
    bands = {
        name: BandLayer(store=store, key=f"{name}.tif", scale=1e-4, offset=0.0, nodata=0) for name in "ab"
    }
    cube = build_packed(grid, [scene("one", bands)], ["a", "b"], resampling="bilinear")
    expected = gdal(path, grid, Resampling.bilinear).astype(np.int64) + 1000
    for k in range(2):
        assert np.abs(cube.reflectance.values[0, k].astype(np.int64) - expected).max() <= 1
    assert len(fetched) == 2, "not once for the claim and once for the picture"
    assert not [name for name in fetched if os.path.exists(name)]


def test_a_day_of_strips_needs_few_open_files(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open files cannot be counted here")
    scenes, bands = 12, [f"B{k}" for k in range(12)]
    strips = write_tiff(tmp_path / "strips.tif", np.full((1, 60, 60), 7, np.uint16), **STRIPS)
    days = []
    for s in range(scenes):
        classes = np.where(_numbers(scenes, s) > 0, 4, 0).astype(np.uint8)
        own = {"SCL": layer(write_tiff(tmp_path / f"{s}.tif", classes))}
        days.append(scene(str(s), own | {band: layer(strips, offset=0.0) for band in bands}))
    # what is opened once in a process is open afterwards
    build_packed(GRID, days[:1], bands[:1], threads=4)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, hard))
    try:
        cube = build_packed(GRID, days, bands, threads=4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (cube.reflectance.values == 1007).all()
