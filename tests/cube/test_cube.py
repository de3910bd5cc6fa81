"""Cubes against GDAL's warper, pixel by pixel."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from cube_oracle import NOON, gdal, layer, scene
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import LocalStore
from rasterio.enums import Resampling
from synthetic_rasters import noise, write_tiff

from geostack_pipeline.areas import Area
from geostack_pipeline.cube.build import build_cube, build_packed
from geostack_pipeline.cube.grid import GridSpec, grid_for
from geostack_pipeline.cube.warp import TOLERANCE_PX, coordinate_map
from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.crop import crop, plan_crop

HERE = (10.32, 45.93, 10.42, 46.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A 20 m band, a 10 m band and a classification of one scene, with a corner without data."""
    folder = tmp_path_factory.mktemp("scene")
    classes = (noise((1, 700, 640), "uint8", seed=2) % 11 + 1).astype(np.uint8)
    classes[noise((1, 700, 640), "uint8", seed=2) == 0] = 0
    return {
        "B11": write_tiff(folder / "B11.tif", noise((1, 700, 640), "uint16"), predictor=2),
        "B04": write_tiff(
            folder / "B04.tif",
            noise((1, 1400, 1280), "uint16", seed=3),
            resolution=10,
            blockxsize=128,
            blockysize=128,
        ),
        "SCL": write_tiff(folder / "SCL.tif", classes),
    }


def test_same_lattice_is_copied_and_10_m_is_averaged(files: dict[str, Path]) -> None:
    grid = grid_for(Area(name="a", bbox=HERE, resolution_m=20))
    bands = {name: layer(path) for name, path in files.items()}
    cube = build_packed(grid, [scene("one", bands)], ["B11", "B04"])
    classes = gdal(files["SCL"], grid)
    given = classes > 0
    assert given.mean() > 0.5
    assert np.array_equal(cube.scl.values[0], classes)
    assert np.array_equal(cube.source_scene.values[0], np.where(given, 0, -1))
    assert np.array_equal(cube.reflectance.values[0, 0], np.where(given, gdal(files["B11"], grid), 0))
    mean = np.where(given, gdal(files["B04"], grid, Resampling.average), 0)
    assert (cube.reflectance.values[0, 1] == mean).mean() >= 0.9999
    assert np.abs(cube.reflectance.values[0, 1].astype(int) - mean).max() <= 1


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:32631", "EPSG:3035", "EPSG:4326", "EPSG:3857"])
def test_other_crs_equal_gdal(files: dict[str, Path], crs: str) -> None:
    # a metre of 3857 is 0.7 m at 46° N: coarse enough that 10 m pixels are averaged
    resolution = {"EPSG:4326": 0.0002, "EPSG:3857": 28.0}.get(crs, 20.0)
    grid = grid_for(Area(name="a", bbox=HERE, resolution_m=resolution, crs=crs))
    cube = build_packed(grid, [scene("one", {n: layer(p) for n, p in files.items()})], ["B11", "B04"])
    classes = gdal(files["SCL"], grid)
    given = cube.source_scene.values[0] == 0
    assert (cube.scl.values[0] == classes).mean() >= 0.9999
    assert ((classes > 0) == given).mean() >= 0.9999
    assert (cube.reflectance.values[0, 0] == np.where(given, gdal(files["B11"], grid), 0)).mean() >= 0.9999
    mean = gdal(files["B04"], grid, Resampling.average)
    mine = cube.reflectance.values[0, 1]
    both = (mean > 0) & (mine > 0)
    assert both.mean() > 0.5
    # a coordinate that is 1e-4 px off moves a mean by 0.01: few are rounded to the next integer
    assert (np.abs(mine[both].astype(int) - mean[both]) <= 1).mean() >= 0.9999
    assert (mine[both] == mean[both]).mean() >= 0.99
    assert (mine[given] > 0).mean() >= 0.999


@pytest.mark.parametrize("resolution", [10.0, 15.0, 20.0, 25.0, 40.0, 60.0, 70.0])
def test_other_resolutions_in_the_same_zone(files: dict[str, Path], resolution: float) -> None:
    grid = grid_for(Area(name="a", bbox=HERE, resolution_m=resolution))
    cube = build_packed(grid, [scene("one", {n: layer(p) for n, p in files.items()})], ["B11"])
    assert (cube.scl.values[0] == gdal(files["SCL"], grid)).mean() >= 0.9999
    how = Resampling.average if resolution >= 30 else Resampling.nearest
    expected = gdal(files["B11"], grid, how)
    mine = cube.reflectance.values[0, 0]
    both = (expected > 0) & (mine > 0)
    assert both.mean() > 0.5
    assert (mine[both] == expected[both]).mean() >= 0.9999


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shift_x=st.floats(-6000, 12000),
    shift_y=st.floats(-6000, 12000),
    resolution=st.sampled_from([7.0, 20.0, 21.7, 29.0]),
    width=st.integers(1, 300),
    height=st.integers(1, 200),
)
def test_any_grid(
    files: dict[str, Path], shift_x: float, shift_y: float, resolution: float, width: int, height: int
) -> None:
    grid = GridSpec(
        crs="EPSG:32632",
        transform=(resolution, 0.0, 600000.0 + shift_x, 0.0, -resolution, 5100000.0 - shift_y),
        width=width,
        height=height,
    )
    cube = build_packed(
        grid, [scene("one", {"SCL": layer(files["SCL"]), "B11": layer(files["B11"])})], ["B11"]
    )
    classes = gdal(files["SCL"], grid)
    assert np.array_equal(cube.scl.values[0], classes)
    assert np.array_equal(cube.reflectance.values[0, 0], np.where(classes > 0, gdal(files["B11"], grid), 0))


def test_radiometry_is_exact_for_both_offsets(tmp_path: Path) -> None:
    numbers = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256)
    path = write_tiff(tmp_path / "a.tif", numbers)
    grid = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, 6e5, 0.0, -20.0, 5.1e6), width=256, height=256)
    stored = numbers[0].astype(np.int64)
    with_offset = build_cube(grid, [scene("a", {"B11": layer(path, offset=-0.1)})], ["B11"])
    values = with_offset.reflectance.values[0, 0]
    assert np.isnan(values[stored == 0]).all()
    assert np.allclose(values[stored > 0], stored[stored > 0] * 1e-4 - 0.1, atol=1e-9)
    without = build_packed(grid, [scene("a", {"B11": layer(path, offset=0.0)})], ["B11"])
    packed = without.reflectance.values[0, 0].astype(np.int64)
    assert np.array_equal(packed, np.where(stored == 0, 0, np.minimum(stored + 1000, 65535)))
    assert without.reflectance.attrs["clipped_pixels"] == 1001
    # Both ends of the packing are numbers of the file; whoever counts them cannot know that nothing was beyond.
    assert with_offset.reflectance.attrs["clipped_pixels"] == 2


def test_what_is_below_the_packing_is_counted(tmp_path: Path) -> None:
    # Landsat's packing reaches down to -0.2.
    numbers = np.full((1, 64, 64), 9000, np.uint16)
    numbers[0, :32] = 1000
    path = write_tiff(tmp_path / "a.tif", numbers)
    grid = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, 6e5, 0.0, -20.0, 5.1e6), width=64, height=64)
    cube = build_cube(grid, [scene("a", {"B": layer(path, scale=2.75e-5, offset=-0.2)})], ["B"])
    assert np.allclose(cube.reflectance.values[0, 0, :32], -0.0999, atol=1e-7)
    assert cube.reflectance.attrs["clipped_pixels"] == 32 * 64


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_types_and_no_data(tmp_path: Path, dtype: str) -> None:
    data = noise((1, 200, 200), dtype, nodata=None)
    nodata: float = {"uint8": 7, "int16": -9999, "uint16": 65535, "int32": -1}.get(dtype, float("nan"))
    if dtype == "uint16":
        data = np.clip(data, 0, 30000)  # hills below zero have wrapped around
    data[0, 20:80, 30:50] = nodata
    scale, offset = (1.0, 0.0) if dtype.startswith("float") else (1e-4, 0.05)
    path = write_tiff(tmp_path / "a.tif", data, nodata=nodata, predictor=2 if dtype[0] != "f" else 3)
    grid = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, 6e5, 0.0, -20.0, 5.1e6), width=200, height=200)
    cube = build_cube(
        grid, [scene("a", {"B11": layer(path, scale=scale, offset=offset, nodata=None)})], ["B11"]
    )
    expected = data[0].astype(np.float64) * scale + offset
    missing = np.isnan(data[0]) if np.isnan(nodata) else data[0] == nodata
    expected[missing] = np.nan
    assert missing.any()
    assert np.allclose(cube.reflectance.values[0, 0], expected, atol=0.5001e-4, equal_nan=True)


@pytest.mark.parametrize("layout", ["strips", "planar", "pixel", "jpeg", "mask", "big-endian", "jp2"])
def test_layouts(tmp_path: Path, layout: str) -> None:
    data = noise((3, 210, 190), "uint8" if layout == "jpeg" else "uint16", nodata=None)
    options: dict[str, object] = {
        "strips": {"tiled": False, "blockxsize": None, "blockysize": 7},
        "planar": {"interleave": "band", "predictor": 2},
        "pixel": {"interleave": "pixel", "predictor": 2},
        "jpeg": {"compress": "jpeg", "photometric": "YCBCR"},
        "mask": {},
        "big-endian": {"ENDIANNESS": "BIG", "predictor": 2},
        "jp2": {
            "driver": "JP2OpenJPEG",
            "tiled": None,
            "QUALITY": "100",
            "REVERSIBLE": "YES",
            "compress": None,
        },
    }[layout]
    path = tmp_path / ("a.jp2" if layout == "jp2" else "a.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        write_tiff(path, data, nodata=None, **options)
        if layout == "mask":
            with rasterio.open(path, "r+") as dataset:
                dataset.write_mask(np.hypot(*np.mgrid[-105:105, -95:95]) < 90)
    grid = GridSpec(
        crs="EPSG:32632", transform=(20.0, 0.0, 6e5 + 200, 0.0, -20.0, 5.1e6 - 400), width=150, height=170
    )
    for band in (1, 3):
        cube = build_packed(
            grid, [scene("a", {"B11": layer(path, offset=0.0, nodata=None, band=band)})], ["B11"]
        )
        with rasterio.open(path) as source:
            window = rasterio.windows.Window(10, 20, 150, 170)
            expected = source.read(band, window=window).astype(int) + 1000
            if layout == "mask":
                expected[source.read_masks(band, window=window) == 0] = 0
                assert (expected == 0).any()
        assert np.array_equal(cube.reflectance.values[0, 0], expected)


def test_real_cogs_equal_gdal(shared_dir: Path) -> None:
    folder = shared_dir / "samples" / "pixels"
    for name, crs, band in (
        ("cog.tif", None, 1),
        ("cog.tif", "EPSG:3413", 1),
        ("cog_dateline.tif", "EPSG:32601", 1),
        ("cog_dateline.tif", None, 1),
        ("mosaic_cog1.tif", "EPSG:32617", 2),
        ("mosaic_cog2.tif", None, 3),
        ("red.tif", "EPSG:5070", 1),
        ("nocog.tif", "EPSG:32622", 1),
    ):
        path = folder / name
        with rasterio.open(path) as source:
            resolution = source.res[0]
            x, y = source.transform @ (source.width * 0.4, source.height * 0.45)
            own = source.crs.to_string()
        x, y = pyproj.Transformer.from_crs(own, crs or own, always_xy=True).transform(x, y)
        grid = GridSpec(
            crs=crs or own,
            transform=(resolution, 0.0, x - 100.5 * resolution, 0.0, -resolution, y + 90.25 * resolution),
            width=230,
            height=190,
        )
        cube = build_packed(grid, [scene("a", {"B": layer(path, offset=-0.1, nodata=0, band=band)})], ["B"])
        expected = gdal(path, grid, band=band)
        assert (expected > 0).mean() > 0.05, name
        assert (cube.reflectance.values[0, 0] == expected).mean() >= 0.9999, (name, crs)


def test_real_mosaic_in_priority_order(shared_dir: Path) -> None:
    folder = shared_dir / "samples" / "pixels"
    paths = [folder / "mosaic_cog1.tif", folder / "mosaic_cog2.tif"]
    grid = GridSpec(
        crs="EPSG:32618", transform=(300.0, 0.0, 540000.0, 0.0, -300.0, 5150000.0), width=400, height=300
    )
    first, second = (gdal(p, grid) for p in paths)
    assert ((first > 0) & (second > 0)).any(), "they overlap"
    scenes = [scene(p.stem, {"B": layer(p)}) for p in paths]
    for order in (scenes, scenes[::-1]):
        cube = build_packed(grid, order, ["B"])
        a, b = (first, second) if order is scenes else (second, first)
        assert (cube.reflectance.values[0, 0] == np.where(a > 0, a, b)).mean() >= 0.9999
        owner = np.where(a > 0, 0, np.where(b > 0, 1, -1))
        assert (cube.source_scene.values[0] == owner).mean() >= 0.9999
        assert list(cube.scene.values) == [s.item_id for s in order]


def test_a_pixel_comes_from_one_scene_in_all_bands(tmp_path: Path) -> None:
    grid = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, 6e5, 0.0, -20.0, 5.1e6), width=128, height=128)
    left = np.zeros((1, 128, 128), np.uint8)
    left[:, :, :70] = 4
    everywhere = np.full((1, 128, 128), 5, np.uint8)
    ten, twenty = np.full((1, 128, 128), 2000, np.uint16), np.full((1, 128, 128), 3000, np.uint16)
    ten[:, 10:20, 10:20] = 0
    one = scene(
        "one",
        {
            "SCL": layer(write_tiff(tmp_path / "s1.tif", left)),
            "B11": layer(write_tiff(tmp_path / "a1.tif", ten)),
        },
    )
    two = scene(
        "two",
        {
            "SCL": layer(write_tiff(tmp_path / "s2.tif", everywhere)),
            "B11": layer(write_tiff(tmp_path / "a2.tif", twenty)),
            "B12": layer(write_tiff(tmp_path / "b2.tif", twenty)),
        },
    )
    cube = build_packed(grid, [one, two], ["B11", "B12"])
    assert np.array_equal(cube.source_scene.values[0, 0], [0] * 70 + [1] * 58)
    assert np.array_equal(cube.scl.values[0, 0], [4] * 70 + [5] * 58)
    b11, b12 = cube.reflectance.values[0]
    assert (b11[10:20, 10:20] == 0).all(), "no other scene fills a hole"
    assert (b11[0, :70] == 2000).all()
    assert (b11[:, 70:] == 3000).all()
    assert (b12[:, :70] == 0).all(), "a band that the scene does not have stays empty"
    assert (b12[:, 70:] == 3000).all()


def test_tiles_that_no_empty_pixel_needs_are_not_read(tmp_path: Path) -> None:
    grid = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, 6e5, 0.0, -20.0, 5.1e6), width=256, height=256)
    whole = write_tiff(tmp_path / "whole.tif", np.full((1, 256, 256), 9, np.uint16))
    broken = write_tiff(tmp_path / "broken.tif", noise((1, 256, 256), "uint16", nodata=None))
    data = bytearray(broken.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    broken.write_bytes(bytes(data))
    cube = build_packed(grid, [scene("a", {"B": layer(whole)}), scene("b", {"B": layer(broken)})], ["B"])
    assert (cube.reflectance.values == 9).all()
    with pytest.raises(RasterError, match=r"broken\.tif"):
        build_packed(grid, [scene("b", {"B": layer(broken)})], ["B"])


def test_time_steps_are_solar_days(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise((1, 64, 64), "uint16"), crs="EPSG:32660", origin=(6e5, 5.1e6))
    grid = GridSpec(crs="EPSG:32660", transform=(20.0, 0.0, 6e5, 0.0, -20.0, 5.1e6), width=64, height=64)
    morning = datetime(2024, 6, 1, 0, 30, tzinfo=UTC)
    evening = datetime(2024, 6, 1, 23, 10, 5, 250000, tzinfo=UTC)
    bands = {"B": layer(path)}
    cube = build_cube(
        grid,
        [
            scene("late", bands, evening + timedelta(seconds=10)),
            scene("early", bands, morning),
            scene("late2", bands, evening),
        ],
        ["B"],
    )
    assert cube.sizes["time"] == 2
    assert cube.time.values.tolist() == [
        np.datetime64("2024-06-01T00:30:00", "ns").item(),
        np.datetime64("2024-06-01T23:10:05.25", "ns").item(),
    ]
    assert [str(d)[:10] for d in cube.solar_day.values] == ["2024-06-01", "2024-06-02"]
    assert set(np.unique(cube.source_scene.values[0])) <= {-1, 1}
    assert set(np.unique(cube.source_scene.values[1])) <= {-1, 0}, "the first in priority has every pixel"


def test_scene_coordinates() -> None:
    grid = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, 6e5, 0.0, -20.0, 5.1e6), width=4, height=3)
    cube = build_cube(grid, [scene("a", {})], ["B11", "B12"])
    assert cube.reflectance.dims == ("time", "band", "y", "x")
    assert cube.reflectance.shape == (1, 2, 3, 4)
    assert np.isnan(cube.reflectance.values).all()
    assert (cube.source_scene.values == -1).all()
    assert cube.scene_datetime.values[0] == np.datetime64(NOON.replace(tzinfo=None))
    assert cube.relative_orbit.values.tolist() == [65]
    assert cube.platform.values.tolist() == ["sentinel-2a"]
    assert cube.scene_id.values.tolist() == ["scene-a"]
    assert np.isnan(cube.view_zenith.values[0])
    assert cube.sun_zenith.values[0] == 31.5
    with pytest.raises(ValueError, match="twice"):
        build_cube(grid, [scene("a", {}), scene("a", {})], ["B11"])
    with pytest.raises(ValueError, match="twice"):
        build_cube(grid, [], ["B11", "B11"])


@pytest.mark.parametrize("threads", [1, 7])
def test_threads_do_not_change_a_pixel(files: dict[str, Path], threads: int) -> None:
    grid = grid_for(Area(name="a", bbox=HERE, resolution_m=20, crs="EPSG:32633"))
    bands = {n: layer(p) for n, p in files.items()}
    scenes = [scene("a", bands), scene("b", {"B11": bands["B11"]})]
    assert build_packed(grid, scenes, ["B04", "B11"], threads=threads).equals(
        build_packed(grid, scenes, ["B04", "B11"], threads=3)
    )


@pytest.mark.parametrize(
    ("grid_crs", "source_crs", "pixel"),
    [
        ("EPSG:32632", "EPSG:32633", 10.0),
        ("EPSG:32632", "EPSG:32631", 20.0),
        ("EPSG:32632", "EPSG:4326", 0.0002),
        ("EPSG:3035", "EPSG:32632", 10.0),
    ],
)
def test_coordinate_map_is_within_its_tolerance(grid_crs: str, source_crs: str, pixel: float) -> None:
    grid = grid_for(Area(name="a", bbox=(10.0, 45.0, 10.6, 45.5), resolution_m=20, crs=grid_crs))
    transformer = pyproj.Transformer.from_crs(grid_crs, source_crs, always_xy=True)
    x0, y0 = transformer.transform(grid.bounds[0], grid.bounds[3])
    found = coordinate_map(grid, source_crs, (pixel, 0.0, x0, 0.0, -pixel, y0), 10000, 10000)
    rng = np.random.default_rng(4)
    j, i = rng.uniform(0, grid.width, 20000), rng.uniform(0, grid.height, 20000)
    x, y = transformer.transform(grid.transform[2] + j * 20, grid.transform[5] - i * 20)
    n, m = (i // found.step).astype(int), (j // found.step).astype(int)
    v, u = i / found.step - n, j / found.step - m
    for nodes, exact in ((found.columns, (x - x0) / pixel), (found.rows, (y0 - y) / pixel)):
        near = (
            nodes[n, m] * (1 - v) * (1 - u)
            + nodes[n, m + 1] * (1 - v) * u
            + nodes[n + 1, m] * v * (1 - u)
            + nodes[n + 1, m + 1] * v * u
        )
        assert np.abs(near - exact).max() <= TOLERANCE_PX
    assert found.step >= 4


def test_longitudes_beyond_the_antimeridian(tmp_path: Path) -> None:
    numbers = np.tile(np.arange(1, 721, dtype=np.uint16), (360, 1))[None]
    world = write_tiff(tmp_path / "w.tif", numbers, crs="EPSG:4326", origin=(-180.0, 90.0), resolution=0.5)
    grid = grid_for(Area(name="a", bbox=(179.0, 10.0, -179.0, 11.0), resolution_m=0.5, crs="EPSG:4326"))
    cube = build_packed(grid, [scene("a", {"B": layer(world)})], ["B"])
    assert cube.reflectance.values[0, 0, 0].tolist() == [719, 720, 1, 2]
    utm = grid_for(Area(name="a", bbox=(179.0, 10.0, -179.0, 11.0), resolution_m=5000.0))
    cube = build_packed(utm, [scene("a", {"B": layer(world)})], ["B"])
    row = cube.reflectance.values[0, 0, 5]
    assert set(row.tolist()) <= {718, 719, 720, 1, 2, 3}
    assert (row > 0).all()
    assert {720, 1} <= set(row.tolist())


def test_a_raster_without_georeferencing_is_named(tmp_path: Path) -> None:
    grid = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, 6e5, 0.0, -20.0, 5.1e6), width=64, height=64)
    path = write_tiff(tmp_path / "plain.tif", noise((1, 64, 64), "uint16"), crs=None)
    with pytest.raises(RasterError, match=r"item a, band B .plain\.tif.*no CRS"):
        build_packed(grid, [scene("a", {"B": layer(path)})], ["B"])


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:32633", "EPSG:4326"])
def test_a_cube_of_crops_is_the_cube_of_whole_files(files: dict[str, Path], tmp_path: Path, crs: str) -> None:
    resolution = 0.0002 if crs == "EPSG:4326" else 20.0
    area = Area(name="a", bbox=(10.335, 45.96, 10.36, 45.98), resolution_m=resolution, crs=crs)
    grid = grid_for(area)
    crops = {}
    for name, path in files.items():
        plan = plan_crop(LocalStore(path.parent), path.name, grid.bounds, grid.crs)
        assert plan is not None
        crop(plan.source.store, path.name, plan, tmp_path / path.name)
        assert plan.size < path.stat().st_size / 3
        crops[name] = layer(tmp_path / path.name)
    whole = {name: layer(path) for name, path in files.items()}
    one = build_packed(grid, [scene("a", whole)], ["B11", "B04"])
    other = build_packed(grid, [scene("a", crops)], ["B11", "B04"])
    assert (one.source_scene.values == 0).mean() > 0.9
    for name in ("scl", "source_scene", "reflectance"):
        assert (one[name].values == other[name].values).mean() >= 0.9999, name
    if crs == "EPSG:32632":
        assert one.equals(other)


def test_memory_follows_the_area_not_the_scene(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_tiff(
        tmp_path / "large.tif",
        rng.integers(1, 9000, (1, 4096, 4096), dtype=np.uint16),
        blockxsize=256,
        blockysize=256,
    )
    bands = {"B": layer(path)}

    def peak(size: int) -> int:
        grid = GridSpec(
            crs="EPSG:32633",
            transform=(20.0, 0.0, 170000.0, 0.0, -20.0, 5090000.0),
            width=size,
            height=size,
        )
        build_packed(grid, [scene("a", bands)], ["B"], threads=2)
        tracemalloc.start()
        try:
            cube = build_packed(grid, [scene("a", bands)], ["B"], threads=2)
            assert (cube.reflectance.values > 0).mean() > 0.9
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(100) < 4 << 20, "an eighth of the scene"
    # the cube has 5 bytes per pixel, and the count of clipped pixels takes one more
    assert peak(1000) < 4 * (1 << 20) + 8 * 1000 * 1000
