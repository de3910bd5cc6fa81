"""A cube that is written band by band is the same, byte for byte, as one that is built whole and then written."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cube_oracle import layer, scene
from obstore.store import LocalStore
from synthetic_rasters import noise, write_tiff
from zarr.storage import ObjectStore

from geostack_pipeline.areas import Area
from geostack_pipeline.cube import stream
from geostack_pipeline.cube.build import build_packed
from geostack_pipeline.cube.grid import GridSpec, grid_for
from geostack_pipeline.cube.layers import SceneLayer
from geostack_pipeline.cube.stream import write_cube
from geostack_pipeline.cube.write import finish_tree, write_node
from geostack_pipeline.errors import GeostackError

GRID = grid_for(Area(name="a", bbox=(10.32, 45.93, 10.42, 46.04), resolution_m=20))
SMALL = grid_for(Area(name="a", bbox=(10.35, 45.97, 10.37, 45.99), resolution_m=20))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[SceneLayer]:
    """Three scenes of two solar days: one lacks a band, one has no classification, numbers reach the upper end."""
    folder = tmp_path_factory.mktemp("scenes")
    values = noise((3, 700, 640), "uint16")
    values[:, :200, :300] = 0
    values[1, 300:310] = 65535
    image = write_tiff(folder / "b.tif", values, predictor=2)
    classes = noise((1, 700, 640), "uint8") % 12
    classes[0, :, 400:] = 0
    scl = write_tiff(folder / "s.tif", classes.astype(np.uint8))
    first = {"SCL": layer(scl), "B04": layer(image), "B11": layer(image, band=2)}
    second = {name: layer(image, band=band) for band, name in enumerate(("B04", "B11", "B12"), 1)}
    start = datetime(2024, 6, 1, 10, 20, tzinfo=UTC)
    return [
        scene("one", first, start),
        scene("two", second, start + timedelta(seconds=20)),
        scene("three", {**second, "SCL": layer(scl)}, start + timedelta(days=1)),
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("grid", "planes", "resampling"),
    [(GRID, 1, "auto"), (GRID, 1 << 30, "bilinear"), (SMALL, 1, "auto")],
    ids=["two-at-once", "all-at-once", "one-chunk"],
)
def test_the_same_bytes(
    tmp_path: Path,
    scenes: list[SceneLayer],
    grid: GridSpec,
    planes: int,
    resampling: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "_PLANE_BYTES", planes)
    bands = ["B11", "B04", "B12", "B8A"]
    whole, streamed = tmp_path / "whole", tmp_path / "streamed"
    for folder in (whole, streamed):
        folder.mkdir()
    packed = build_packed(grid, scenes, bands, resampling=resampling)
    packed.attrs.update({"area": "a", "partition": "2024-06-01"})
    write_node(ObjectStore(LocalStore(whole)), "a", packed)
    store = ObjectStore(LocalStore(streamed))
    seen = write_cube(
        store,
        "a",
        grid,
        scenes,
        bands,
        attributes={"area": "a", "partition": "2024-06-01"},
        resampling=resampling,
    )
    for one in (ObjectStore(LocalStore(whole)), store):
        finish_tree(one, {"provider": "p"})
    assert files(streamed) == files(whole)
    assert packed.reflectance.attrs["clipped_pixels"] > 0
    cube = xr.decode_cf(packed)
    for t, each in enumerate(seen):
        values = cube.reflectance.values[t]
        assert each.time == cube.time.values[t].astype("datetime64[us]")
        assert each.shape == values.shape
        assert each.valid_fraction == np.isfinite(values).mean()
        assert each.smallest == np.nanmin(values)
        assert each.largest == np.nanmax(values)
        owners = packed.source_scene.values[t]
        assert each.scenes == len(np.unique(owners[owners >= 0]))


def test_nothing_in_sight(tmp_path: Path) -> None:
    store = ObjectStore(LocalStore(tmp_path))
    assert write_cube(store, "a", SMALL, [], ["B04"]) == []
    finish_tree(store, {})
    assert xr.open_zarr(tmp_path, group="a").sizes["time"] == 0


def test_a_broken_file_is_told_and_nothing_runs_on(tmp_path: Path, scenes: list[SceneLayer]) -> None:
    broken = tmp_path / "broken.tif"
    content = bytearray(Path(write_tiff(tmp_path / "whole.tif", noise((1, 700, 640), "uint16"))).read_bytes())
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    broken.write_bytes(bytes(content))
    bad = scene("bad", {"B04": layer(broken)}, datetime(2024, 6, 1, 10, 20, tzinfo=UTC))
    (tmp_path / "tree").mkdir()
    with pytest.raises(GeostackError, match="item bad, band B04"):
        write_cube(ObjectStore(LocalStore(tmp_path / "tree")), "a", GRID, [bad], ["B04"])


def test_memory_does_not_follow_the_number_of_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy tells tracemalloc of its arrays: twelve bands must not take more of them than four."""
    monkeypatch.setattr(stream, "_PLANE_BYTES", 1)
    grid = GridSpec(
        crs="EPSG:32632", transform=(10.0, 0.0, 600000.0, 0.0, -10.0, 5100000.0), width=1500, height=1500
    )
    image = write_tiff(tmp_path / "b.tif", noise((1, 1500, 1500), "uint16"), resolution=10.0)

    def peak(count: int) -> int:
        names = [f"B{number:02d}" for number in range(count)]
        one = scene("one", {name: layer(image) for name in names}, datetime(2024, 6, 1, 10, tzinfo=UTC))
        (tmp_path / str(count)).mkdir()
        store = ObjectStore(LocalStore(tmp_path / str(count)))
        tracemalloc.start()
        write_cube(store, "a", grid, [one], names, threads=2)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)
    few, many = peak(4), peak(12)
    plane = 2 * grid.width * grid.height
    assert many - few < plane, f"{(many - few) / plane:.1f} planes more for eight bands more"
