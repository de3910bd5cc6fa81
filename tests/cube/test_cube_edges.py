"""Edges of the world and of zones, odd files, and what is never fetched: against GDAL and pyproj."""

from __future__ import annotations

import gc
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyproj
import pytest
import rasterio
import rasterio.shutil
from cube_oracle import NOON, gdal, layer, scene
from obstore.store import MemoryStore
from rasterio.enums import Resampling
from synthetic_rasters import noise, write_tiff

from geostack_pipeline.areas import Area
from geostack_pipeline.cube.build import build_packed
from geostack_pipeline.cube.grid import GridSpec, grid_for
from geostack_pipeline.cube.layers import BandLayer
from geostack_pipeline.cube.warp import TOLERANCE_PX, coordinate_map
from geostack_pipeline.errors import RasterError, TransferError
from geostack_pipeline.raster.codecs import TileDecoder
from geostack_pipeline.raster.source import open_raster


def _at(path: Path, longitude: float, latitude: float, crs: str, seed: int = 1, size: int = 700) -> Path:
    """A scene of 20 m around a point, without zeros."""
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(longitude, latitude)
    origin = (round(x / 20) * 20 - 10 * size, round(y / 20) * 20 + 10 * size)
    numbers = np.maximum(noise((1, size, size), "uint16", seed=seed, nodata=None), 1)
    return write_tiff(path, numbers, crs=crs, origin=origin, predictor=2)


EDGES = {
    "antimeridian, west to east": (("EPSG:32660", "EPSG:32601"), (179.96, 51.0, -179.96, 51.04), None),
    "antimeridian, on zone 1": (("EPSG:32660", "EPSG:32601"), (179.96, -0.03, -179.96, 0.03), "EPSG:32601"),
    "antimeridian, south": (("EPSG:32760", "EPSG:32701"), (179.97, -45.0, -179.94, -44.96), None),
    "zones 32 and 33": (("EPSG:32632", "EPSG:32633"), (11.95, 45.98, 12.05, 46.02), None),
    "zones of both halves": (("EPSG:32632", "EPSG:32732"), (9.0, -0.03, 9.05, 0.03), None),
    "zone 33 and its eighth neighbour near 84° N": (
        ("EPSG:32633", "EPSG:32635"),
        (20.8, 83.90, 21.3, 83.95),
        None,
    ),
    "UTM on the polar grid": (("EPSG:32633", "EPSG:32635"), (20.8, 83.95, 21.3, 84.03), "EPSG:5041"),
    "polar scenes on UTM": (("EPSG:5041", "EPSG:3413"), (20.8, 83.93, 21.2, 83.96), "EPSG:32633"),
    "the south polar grid": (("EPSG:5042", "EPSG:3031"), (-60.3, -82.03, -60.0, -82.0), None),
    "around the north pole": (("EPSG:5041", "EPSG:3413"), (-180.0, 89.97, 180.0, 90.0), None),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges_of_the_world_and_of_zones_equal_gdal(tmp_path: Path, name: str) -> None:
    crss, bbox, crs = EDGES[name]
    area = Area(name="a", bbox=bbox, resolution_m=20.0, crs=crs)
    grid = grid_for(area)
    longitude, latitude = area.centre if abs(bbox[3]) < 89.999 else (0.0, 90.0)
    paths = [_at(tmp_path / f"{i}.tif", longitude, latitude, own, seed=i) for i, own in enumerate(crss)]
    # the first scene has data in its left half alone, so that both give pixels
    with rasterio.open(paths[0], "r+") as file:
        numbers = file.read()
        numbers[:, :, 350:] = 0
        file.write(numbers)
    cube = build_packed(grid, [scene(path.stem, {"B": layer(path)}) for path in paths], ["B"])
    first, second = (gdal(path, grid) for path in paths)
    expected = np.where(first > 0, first, second)
    owner = np.where(first > 0, 0, np.where(second > 0, 1, -1))
    assert {0, 1} <= set(np.unique(owner).tolist()), name
    assert (cube.reflectance.values[0, 0] == expected).mean() >= 0.9999
    assert (cube.source_scene.values[0] == owner).mean() >= 0.9999
    # pyproj, without GDAL: the source pixel under some centres
    dice = np.random.default_rng(3)
    i, j = dice.integers(0, grid.height, 400), dice.integers(0, grid.width, 400)
    with rasterio.open(paths[1]) as file:
        x, y = pyproj.Transformer.from_crs(grid.crs, crss[1], always_xy=True).transform(grid.x[j], grid.y[i])
        column, row = ~file.transform @ (np.asarray(x), np.asarray(y))
        numbers = file.read(1)
    inside = (
        (column >= 0) & (row >= 0) & (column < 700) & (row < 700) & (cube.source_scene.values[0, i, j] == 1)
    )
    away = np.minimum(np.abs(column - np.round(column)), np.abs(row - np.round(row))) > 2 * TOLERANCE_PX
    chosen = inside & away
    assert chosen.sum() > 20, name
    assert np.array_equal(
        cube.reflectance.values[0, 0, i[chosen], j[chosen]],
        numbers[row[chosen].astype(int), column[chosen].astype(int)],
    )


@pytest.mark.parametrize(
    ("grid_crs", "source_crs", "bbox"),
    [
        ("EPSG:32601", "EPSG:32660", (179.9, 51.0, -179.9, 51.3)),
        ("EPSG:5041", "EPSG:32633", (18.0, 83.9, 21.0, 84.1)),
        ("EPSG:32633", "EPSG:5041", (15.0, 83.7, 17.0, 83.9)),
        ("EPSG:5042", "EPSG:3031", (-62.0, -82.2, -60.0, -82.0)),
        ("EPSG:32632", "EPSG:32732", (8.9, -0.1, 9.2, 0.1)),
        ("EPSG:3857", "EPSG:32655", (147.0, -5.2, 147.2, -5.0)),
        ("EPSG:4326", "EPSG:32622", (-49.2, 69.0, -49.0, 69.1)),
    ],
)
def test_maps_are_exact_to_a_hundredth_of_a_pixel(
    grid_crs: str, source_crs: str, bbox: tuple[float, float, float, float]
) -> None:
    """The promise is 0.01 px; what is kept is TOLERANCE_PX, by pyproj at random places."""
    assert TOLERANCE_PX <= 0.01
    resolution = 0.0002 if grid_crs == "EPSG:4326" else 20.0
    grid = grid_for(Area(name="a", bbox=bbox, resolution_m=resolution, crs=grid_crs))
    transformer = pyproj.Transformer.from_crs(grid_crs, source_crs, always_xy=True)
    west, south, east, north = grid.bounds
    x0, y0 = transformer.transform((west + east) / 2, (south + north) / 2)
    x0, y0 = x0 - 50_000, y0 + 50_000
    found = coordinate_map(grid, source_crs, (10.0, 0.0, x0, 0.0, -10.0, y0), 10_000, 10_000)
    dice = np.random.default_rng(8)
    j, i = dice.uniform(0, grid.width, 20_000), dice.uniform(0, grid.height, 20_000)
    x, y = transformer.transform(
        grid.transform[2] + j * grid.transform[0], grid.transform[5] + i * grid.transform[4]
    )
    n, m = (i // found.step).astype(int), (j // found.step).astype(int)
    v, u = i / found.step - n, j / found.step - m
    for nodes, exact in ((found.columns, (x - x0) / 10.0), (found.rows, (y0 - y) / 10.0)):
        upper = nodes[n, m] * (1 - u) + nodes[n, m + 1] * u
        lower = nodes[n + 1, m] * (1 - u) + nodes[n + 1, m + 1] * u
        assert np.abs(upper * (1 - v) + lower * v - exact).max() <= TOLERANCE_PX
    assert found.step >= 2


def test_one_map_serves_all_bands_and_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from geostack_pipeline.cube import mosaic

    made: list[object] = []

    def counted(*given: Any) -> Any:
        made.append(given[1:])
        return coordinate_map(*given)

    monkeypatch.setattr(mosaic, "coordinate_map", counted)
    paths = {
        name: _at(tmp_path / f"{name}.tif", 11.99, 46.0, "EPSG:32632", seed)
        for seed, name in enumerate("ABC")
    }
    other = _at(tmp_path / "other.tif", 12.0, 46.0, "EPSG:32633")
    grid = grid_for(Area(name="a", bbox=(11.95, 45.98, 12.05, 46.02), resolution_m=20.0, crs="EPSG:32633"))
    bands = {name: layer(path) for name, path in paths.items()}
    with rasterio.open(other, "r+") as file:
        numbers = file.read()
        numbers[:, :, :350] = 0
        file.write(numbers)
    half = {name: layer(other) for name in "ABC"}
    later = [scene(f"{one}-later", own, NOON + timedelta(days=1)) for one, own in (("c", half), ("a", bands))]
    build_packed(grid, [scene("c", half), scene("a", bands), scene("b", bands), *later], list("ABC"))
    assert len(made) == len(set(made)) == 2, "one per pair of lattices"


class _Counting:
    """Counts the ranges that are fetched and the tiles that are decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranges: list[tuple[str, int, int]] = []
        self.decoded: list[str] = []
        get, decode = obstore.get, TileDecoder.decode

        def counted_get(store: Any, key: str, *, options: Any = None) -> Any:
            start, stop = (options or {}).get("range", (0, -1))
            self.ranges.append((key, start, stop))
            return get(store, key, options=options)

        def counted_decode(decoder: TileDecoder, *given: Any) -> Any:
            self.decoded.append(decoder.key)
            return decode(decoder, *given)

        monkeypatch.setattr(obstore, "get", counted_get)
        monkeypatch.setattr(TileDecoder, "decode", counted_decode)

    def touched(self, key: str, path: Path) -> set[tuple[int, int]]:
        """Return the tiles whose bytes were fetched."""
        import tifffile

        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            across = -(-page.imagewidth // page.tilewidth)
            spans = [(o, o + c) for o, c in zip(page.dataoffsets, page.databytecounts, strict=True)]
        asked = [(start, stop) for name, start, stop in self.ranges if name == key and start > 0]
        return {
            divmod(number, across)
            for number, (start, stop) in enumerate(spans)
            if any(first < stop and start < last for first, last in asked)
        }


@pytest.mark.parametrize("how", ["auto", "bilinear", "average"])
def test_tiles_that_no_empty_pixel_needs_are_neither_fetched_nor_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The second scene gives the right third alone: of its tiles those are moved, of both bands, and no other."""
    store = MemoryStore()
    numbers = np.maximum(noise((1, 1024, 1024), "uint16", nodata=None), 1)
    first = numbers.copy()
    first[:, :, 700:] = 0
    paths = {}
    for name, data in (("one", first), ("two", numbers)):
        for band in ("A", "B"):
            path = write_tiff(tmp_path / f"{name}-{band}.tif", data, blockxsize=128, blockysize=128)
            store.put(path.name, path.read_bytes())
            paths[path.name] = path

    def bands(name: str) -> dict[str, BandLayer]:
        return {
            band: BandLayer(store=store, key=f"{name}-{band}.tif", scale=1e-4, offset=-0.1, nodata=0)
            for band in "AB"
        }

    # on no pixel's corner, so that bilinear and average look beyond the pixel under a centre
    grid = GridSpec(
        crs="EPSG:32632", transform=(20.0, 0.0, 600_007.0, 0.0, -20.0, 5_099_993.0), width=1000, height=1000
    )
    counting = _Counting(monkeypatch)
    cube = build_packed(
        grid, [scene("one", bands("one")), scene("two", bands("two"))], ["A", "B"], resampling=how
    )
    assert set(np.unique(cube.source_scene.values)) == {0, 1}
    beside = 699 if how == "auto" else 698  # the first needed source column, or the one beside it
    needed = {(row, column) for row in range(8) for column in range(beside // 128, 8)}
    for band in ("two-A.tif", "two-B.tif"):
        assert counting.touched(band, paths[band]) == needed
    if how == "auto":
        assert counting.decoded.count("two-B.tif") == len(needed)
    assert counting.touched("one-A.tif", paths["one-A.tif"]) == {(r, c) for r in range(8) for c in range(8)}
    counting.ranges.clear()
    counting.decoded.clear()
    full = scene("full", bands("two"))
    build_packed(grid, [full, scene("one", bands("one"))], ["A", "B"], resampling=how)
    assert not [key for key, start, _ in counting.ranges if key.startswith("one") and start > 0]
    assert not [key for key in counting.decoded if key.startswith("one")], "the area was full"


def test_a_local_file_that_changes_is_an_error_and_never_a_mixture(tmp_path: Path) -> None:
    from obstore.store import LocalStore

    path = write_tiff(tmp_path / "a.tif", noise((1, 512, 512), "uint16"))
    raster = open_raster(LocalStore(tmp_path), "a.tif")
    list(raster.read_tiles([(7, 7)]))
    write_tiff(path, noise((1, 512, 512), "uint16", seed=99))
    with pytest.raises(TransferError, match="changed"):
        list(raster.read_tiles([(7, 7)]))
    path.unlink()
    with pytest.raises(TransferError):
        list(raster.read_tiles([(7, 7)]))


def test_a_local_file_is_read_as_the_store_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore.store import LocalStore

    from geostack_pipeline.raster.local import LocalFile

    name = "a b%20c.tif"
    write_tiff(tmp_path / name, noise((1, 512, 512), "uint16"))
    found = {}
    for direct in (True, False):
        if not direct:
            monkeypatch.setattr(LocalFile, "read_many", lambda *_: None)
        try:
            raster = open_raster(LocalStore(tmp_path), name)
        except TransferError:
            pytest.skip("the store takes the name for another one")
        found[direct] = (
            {tile: data.copy() for tile, data in raster.read_tiles([(0, 0), (3, 4), (7, 7)])},
            raster.bytes_moved,
        )
    assert found[True][1] == found[False][1]
    for tile, data in found[True][0].items():
        assert np.array_equal(data, found[False][0][tile])


def test_scenes_with_missing_bands_and_numbers_that_are_none(tmp_path: Path) -> None:
    """Bands of another type, pixel size and no-data value in one scene; a band that only one scene has."""
    grid = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, 6e5, 0.0, -20.0, 5.1e6), width=200, height=200)
    base = np.clip(noise((1, 200, 200), "uint16", nodata=None), 1, 9000).astype(np.int64)
    floats = (base * 1e-4).astype(np.float32)
    floats[0, :50] = np.nan
    floats[0, 50:60] = np.inf
    signed = base.astype(np.int16) - 500
    signed[0, 100:] = -32768
    bytes_ = np.repeat(np.repeat((base % 250 + 1).astype(np.uint8), 2, 1), 2, 2)
    files = {
        "F": write_tiff(tmp_path / "f.tif", floats, nodata=float("nan"), predictor=3),
        "S": write_tiff(tmp_path / "s.tif", signed, nodata=-32768, predictor=2),
        "U": write_tiff(tmp_path / "u.tif", bytes_, nodata=0, resolution=10, predictor=2),
    }
    scl = write_tiff(tmp_path / "scl.tif", np.full((1, 200, 200), 4, np.uint8))
    one = scene(
        "one",
        {
            "SCL": layer(scl),
            "F": layer(files["F"], scale=1.0, offset=0.0, nodata=None),
            "S": layer(files["S"], scale=1e-4, offset=0.05, nodata=None),
            "U": layer(files["U"], scale=1e-3, offset=0.0, nodata=None),
        },
    )
    cube = build_packed(grid, [one, scene("two", {"SCL": layer(scl), "X": layer(files["S"])})], list("FSUX"))
    f, s, u, x = (cube.reflectance.values[0, k] * 1e-4 - 0.1 for k in range(4))
    assert np.allclose(f[60:], floats[0, 60:], atol=0.51e-4)
    assert (cube.reflectance.values[0, 0, :60] == 0).all(), "neither NaN nor infinity is a number"
    assert np.allclose(s[:100], signed[0, :100] * 1e-4 + 0.05, atol=0.51e-4)
    assert (cube.reflectance.values[0, 1, 100:] == 0).all()
    assert np.allclose(u, gdal(files["U"], grid, Resampling.average) * 1e-3, atol=1.01e-3)
    assert (x == -0.1).all(), "the scene that has the band gives no pixel"


ODD: dict[str, dict[str, object]] = {
    "strips": {"tiled": False, "blockxsize": None, "blockysize": 7},
    "pixel-interleaved": {"interleave": "pixel", "predictor": 2},
    "band-interleaved": {"interleave": "band"},
    "JPEG 2000": {
        "driver": "JP2OpenJPEG", "tiled": None, "QUALITY": "100", "REVERSIBLE": "YES", "compress": None,
        "blockxsize": 128, "blockysize": 128,
    },
    "NaN": {"predictor": 3},
}  # fmt: skip


ALPHA: dict[str, dict[str, object]] = {
    "pixel-interleaved": {"interleave": "pixel"},
    "band-interleaved": {"interleave": "band"},
    "zstd": {"interleave": "pixel", "compress": "zstd", "predictor": 2},
    "COG": {},
    "strips": {"tiled": False, "blockxsize": None, "blockysize": 7},
}


@pytest.mark.parametrize("layout", ALPHA)
@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_what_an_alpha_band_hides_is_no_data_in_every_layout(tmp_path: Path, layout: str, how: str) -> None:
    numbers = np.clip(noise((4, 210, 190), "uint16", nodata=None), 1, 30000)
    numbers[3] = 65535
    numbers[3, :60, :70] = 0
    if layout == "COG":  # which is made of a file, for it takes no alpha band by name
        plain = write_tiff(tmp_path / "plain.tif", numbers, nodata=None, photometric="RGB", ALPHA="YES")
        path = tmp_path / "a.tif"
        rasterio.shutil.copy(plain, path, driver="COG", BLOCKSIZE=64, OVERVIEW_COUNT=1, ADD_ALPHA="NO")
    else:
        path = write_tiff(
            tmp_path / "a.tif", numbers, nodata=None, photometric="RGB", ALPHA="YES", **ALPHA[layout]
        )
    grid = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, 6e5, 0.0, -20.0, 5.1e6), width=190, height=210)
    with rasterio.open(path) as source:
        expected = np.where(source.dataset_mask() == 0, 0, source.read(2).astype(int) + 1000)
    assert (expected[:60, :70] == 0).all()
    own = scene("a", {"B": layer(path, offset=0.0, nodata=None, band=2)})
    assert np.array_equal(build_packed(grid, [own], ["B"], resampling=how).reflectance.values[0, 0], expected)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_odd_files_of_another_zone_equal_gdal(tmp_path: Path, name: str, how: str) -> None:
    """Files that are read in other ways give the same pixels when they are warped, their last band as their first."""
    x, y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True).transform(11.99, 46.0)
    origin = (round(x / 20) * 20 - 4000.0, round(y / 20) * 20 + 4000.0)
    data = np.maximum(noise((3, 400, 410), "uint16", nodata=None), 1)
    scale, offset, nodata = 1e-4, -0.1, 0.0
    if name == "NaN":
        data = (data * 1e-4).astype(np.float32)
        data[:, 150:190, 160:260] = np.nan
        scale, offset, nodata = 1.0, 0.0, float("nan")
    else:
        data[:, 150:190, 160:260] = 0
    path = tmp_path / ("a.jp2" if name == "JPEG 2000" else "a.tif")
    write_tiff(path, data, origin=origin, nodata=nodata, **ODD[name])
    area = Area(name="a", bbox=(11.95, 45.98, 12.03, 46.02), resolution_m=20.0, crs="EPSG:32633")
    grid = grid_for(area)
    oracle = path
    if name == "NaN":
        oracle = write_tiff(
            tmp_path / "oracle.tif", np.nan_to_num(data, nan=-9.0), origin=origin, nodata=-9.0
        )
    for band in (1, 3):
        one = layer(path, scale=scale, offset=offset, nodata=None if name == "NaN" else 0, band=band)
        cube = build_packed(grid, [scene("a", {"B": one})], ["B"], resampling=how)
        mine = cube.reflectance.values[0, 0].astype(float)
        missing = -9.0 if name == "NaN" else 0.0
        weights = {"XSCALE": "1", "YSCALE": "1"} if how == "bilinear" else {}
        expected = gdal(oracle, grid, Resampling[how], band=band, nodata=missing, **weights).astype(float)
        given = gdal(oracle, grid, band=band, nodata=missing) != missing
        if name == "NaN":
            expected = np.floor((expected + 0.1) / 1e-4 + 0.5)
        assert 0.2 < given.mean() < 1.0
        assert ((mine > 0) == given).mean() >= 0.9999
        both = given & (mine > 0)
        difference = np.abs(mine - expected)[both]
        assert (difference <= (0 if how == "nearest" else 2)).mean() >= 0.999, band


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    grid = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, 6e5, 0.0, -20.0, 5.1e6), width=64, height=64)
    from rasterio.control import GroundControlPoint

    path = tmp_path / "gcp.tif"
    corners = [(0, 0), (0, 64), (64, 0), (64, 64)]
    points = [GroundControlPoint(row, column, 6e5 + 20 * column, 5.1e6 - 20 * row) for row, column in corners]
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=1, dtype="uint16", gcps=points, crs="EPSG:32632"
    ) as file:
        file.write(np.ones((1, 64, 64), np.uint16))
    with pytest.raises(RasterError, match=r"item a, band B .gcp\.tif.*(no CRS|no affine transform)"):
        build_packed(grid, [scene("a", {"B": layer(path)})], ["B"])


def test_the_fine_map_around_a_pole_is_not_kept() -> None:
    grid = GridSpec(
        crs="EPSG:5041", transform=(1000.0, 0.0, 1.8e6, 0.0, -1000.0, 2.2e6), width=400, height=400
    )
    globe = (0.1, 0.0, -180.0, 0.0, -0.1, 90.0)
    tracemalloc.start()
    try:
        made = coordinate_map(grid, "EPSG:4326", globe, 3600, 1800)
        held = tracemalloc.get_traced_memory()[0]
        assert held > 16 * grid.width * grid.height  # two numbers of 8 bytes for each pixel
        del made
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 0.1 * held
    finally:
        tracemalloc.stop()
