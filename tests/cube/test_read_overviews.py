"""Which overview stands for an image, against ``gdalwarp -ovr AUTO``; and windows of it, against the whole file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from cube_oracle import layer, scene, square_grid
from gdal_warper import gdalwarp
from obstore.store import LocalStore
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from synthetic_rasters import noise, write_tiff

from geostack_pipeline.areas import Area
from geostack_pipeline.cube.build import build_packed
from geostack_pipeline.cube.grid import GridSpec, grid_for
from geostack_pipeline.cube.levels import image_for, whole_image_for
from geostack_pipeline.raster.crop import crop, plan_crop

HOW = {"nearest": Resampling.nearest, "bilinear": Resampling.bilinear, "average": Resampling.average}


def _painted(path: Path, shape: tuple[int, int], factors: tuple[int, ...]) -> Path:
    """10 m pixels with overviews that each hold 1000 and their factor, so that pixels tell where they are from."""
    write_tiff(path, np.full((1, *shape), 1, np.uint16), resolution=10)
    for factor in sorted(factors, reverse=True):
        with rasterio.open(path, "r+") as file:
            file.write(np.full((1, *shape), 1000 + factor, np.uint16))
            file.build_overviews([factor], Resampling.nearest)
    with rasterio.open(path, "r+") as file:
        file.write(np.full((1, *shape), 1001, np.uint16))
    return path


def _factor(numbers: np.ndarray) -> int:
    (found,) = set(np.unique(numbers).tolist()) - {0}
    return found - 1000


@pytest.fixture(
    scope="module", params=[((1704, 1600), (2, 4, 8)), ((1021, 1013), (2, 4, 8)), ((900, 700), (3, 9))]
)
def painted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    shape, factors = request.param
    return _painted(tmp_path_factory.mktemp("painted") / "B04.tif", shape, factors), factors


def _chosen(path: Path, grid: GridSpec) -> int:
    cube = build_packed(grid, [scene("a", {"B": layer(path)})], ["B"], resampling="nearest", overviews=True)
    return _factor(cube.reflectance.values)


def test_the_choice_is_that_of_gdalwarp(painted: tuple[Path, Any], tmp_path: Path) -> None:
    path, factors = painted
    with rasterio.open(path) as file:
        real = sorted(file.width / -(-file.width // factor) for factor in factors)
    # just below, on and above each size, and the boundary that GDAL has a tenth of a pixel below it
    around = [10.0 * own + by for own in real for by in (-1.1, -0.9, -0.5, -0.01, 0.0, 0.01, 1.1)]
    seen = set()
    for number, resolution in enumerate([9.0, 10.0, 11.0, *around, 300.0]):
        grid = square_grid(resolution, size=3000)
        expected = _factor(gdalwarp(path, grid, "near", tmp_path / f"{number}.tif"))
        assert _chosen(path, grid) == expected, resolution
        seen.add(expected)
    assert seen == {1, *factors}


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3035", "EPSG:4326"])
def test_in_another_crs_it_is_never_a_coarser_one(
    painted: tuple[Path, Any], tmp_path: Path, crs: str
) -> None:
    """GDAL measures the diagonal of the whole image's box, which a turned grid makes longer."""
    path, factors = painted
    seen = set()
    for number, factor in enumerate((1, *factors)):
        for share in (0.85, 0.97, 1.06):
            resolution = 10.0 * factor * share / (1.0 if crs != "EPSG:4326" else 111_320.0)
            area = Area(name="a", bbox=(10.30, 45.99, 10.34, 46.02), resolution_m=resolution, crs=crs)
            grid = grid_for(area)
            own = _chosen(path, grid)
            theirs = _factor(gdalwarp(path, grid, "near", tmp_path / f"{number}-{share}.tif"))
            assert own <= theirs
            if share != 0.97:
                assert own == theirs
            seen.add(own)
    assert len(seen) > 1


def _cog(path: Path, **options: Any) -> Path:
    """10 m pixels with overviews of 20, 40 and 80 m, which are means; a hole and an empty corner."""
    numbers = np.maximum(noise((1, 1704, 1601), "uint16", seed=6, nodata=None), 1)
    numbers[:, 700:780, 750:840] = 0
    numbers[:, :400, :300] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        write_tiff(path, numbers, **{"resolution": 10, "predictor": 2, **options})
        with rasterio.open(path, "r+") as file:
            if options.get("nodata", 0) is None:
                file.write_mask(numbers[0] > 0)
            file.build_overviews([2, 4, 8], Resampling.average)
    return path


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _cog(tmp_path_factory.mktemp("cog") / "B04.tif")


def _window(path: Path, grid: GridSpec, into: Path) -> tuple[Path, Any]:
    """The window of the overview that is to stand for a file on a grid, as the granules stage cuts it."""
    store = LocalStore(path.parent)
    plan = plan_crop(store, path.name, grid.bounds, grid.crs, choose=image_for(grid))
    assert plan is not None
    dest = into / "window.tif"
    return dest, crop(store, path.name, plan, dest)


def _picture(path: Path, grid: GridSpec, how: str, *, is_overview: bool = False) -> np.ndarray:
    with rasterio.open(path) as file:
        nodata = file.nodata
    band = replace(layer(path, nodata=nodata), is_overview=is_overview)
    cube = build_packed(grid, [scene("a", {"B": band})], ["B"], resampling=how, overviews=True)
    return cube.reflectance.values[0, 0]


@pytest.mark.parametrize("resolution", [18.9, 19.1, 20.0, 27.0, 39.1, 40.0, 40.1, 78.9, 80.0, 130.0])
def test_a_window_of_the_overview_has_its_pixels_where_they_were(
    cog: Path, tmp_path: Path, resolution: float
) -> None:
    grid = square_grid(resolution, 602003.0, 5096007.0, 3500)
    file, result = _window(cog, grid, tmp_path)
    level = {18.9: None, 19.1: 0, 20.0: 0, 27.0: 0, 39.1: 1, 40.0: 1, 40.1: 1}.get(resolution, 2)
    assert result.overview == level
    options = {} if level is None else {"overview_level": level}
    with rasterio.open(cog, **options) as source, rasterio.open(file) as window:
        column, row = (
            round(part, 6) for part in ~source.transform @ (window.transform.c, window.transform.f)
        )
        assert (column, row) == result.window[:2]
        assert window.transform.almost_equals(source.window_transform(Window(*result.window)), 1e-9)
        assert window.res == pytest.approx(source.res, rel=1e-12)
        assert (window.crs, window.nodata, window.dtypes) == (source.crs, source.nodata, source.dtypes)
        assert window.overviews(1) == []
        expected = source.read(1, window=Window(*result.window))
        assert np.array_equal(window.read(1), expected)
    # an overview of half the resolution has a quarter of the bytes; tiles and header at the edges on top
    if level is not None:
        assert file.stat().st_size < cog.stat().st_size / 4 ** (level + 1) + 20_000


@pytest.mark.parametrize("how", ["auto", "average", "bilinear", "nearest"])
@pytest.mark.parametrize("resolution", [18.9, 19.1, 20.0, 20.1, 38.9, 39.9, 40.1, 78.9, 80.0, 80.1, 200.0])
def test_a_cube_of_the_window_is_that_of_the_file_and_of_gdal(
    cog: Path, tmp_path: Path, how: str, resolution: float
) -> None:
    """Beside the edges of tiles, too: the grid's corners lie anywhere in them."""
    grid = square_grid(resolution, 603293.0, 5094714.0, 5130)
    file, result = _window(cog, grid, tmp_path)
    mine = _picture(file, grid, how, is_overview=result.overview is not None)
    whole = _picture(cog, grid, how)
    assert np.array_equal(mine, whole)
    expected_how = HOW["average" if how == "auto" else how]
    options = {} if result.overview is None else {"overview_level": result.overview}
    with rasterio.open(cog, **options) as source:
        # up to 1/0.95 GDAL interpolates between four pixels; by itself it guesses piece by piece
        spans = {"XSCALE": resolution / source.res[0], "YSCALE": resolution / source.res[1]}
        weights = {name: str(1.0 if span <= 1 / 0.95 else 1.0 / span) for name, span in spans.items()}
        with WarpedVRT(
            source,
            crs=grid.crs,
            transform=Affine(*grid.transform),
            width=grid.width,
            height=grid.height,
            resampling=expected_how,
            tolerance=1e-4,
            src_nodata=0,
            nodata=0,
            **(weights if how == "bilinear" else {}),
        ) as warped:
            expected = warped.read(1)
    both = (mine > 0) & (expected > 0)
    assert both.mean() > 0.85
    difference = np.abs(mine.astype(int) - expected)[both]
    assert (difference <= 1).mean() >= 0.999
    assert (difference == 0).mean() >= 0.97, "ties of halves apart"


@pytest.mark.parametrize("how", ["auto", "average", "bilinear", "nearest"])
@pytest.mark.parametrize("resolution", [60.0, 100.0, 200.0])
def test_a_window_of_the_full_image_holds_what_has_weight(
    tmp_path: Path, how: str, resolution: float
) -> None:
    """The grid ends two pixels before a tile does, and the weights of its last pixels reach into the next one."""
    numbers = np.maximum(noise((1, 1024, 1024), "uint16", nodata=None), 1)
    file = write_tiff(tmp_path / "B04.tif", numbers, resolution=10, blockxsize=256, blockysize=256)
    across = 10
    east, south = 6e5 + 5100, 5.1e6 - 5100
    grid = GridSpec(
        crs="EPSG:32632",
        transform=(
            resolution,
            0.0,
            east - across * resolution,
            0.0,
            -resolution,
            south + across * resolution,
        ),
        width=across,
        height=across,
    )
    store = LocalStore(tmp_path)
    plan = plan_crop(store, file.name, grid.bounds, grid.crs, choose=whole_image_for(grid))
    assert plan is not None
    crop(store, file.name, plan, tmp_path / "crop.tif")
    assert plan.window.width < 1024
    assert np.array_equal(_picture(tmp_path / "crop.tif", grid, how), _picture(file, grid, how))


@pytest.mark.parametrize(
    "options",
    [
        {"nodata": None},
        {"transform": Affine.translation(6e5, 5.1e6) @ Affine.rotation(20) @ Affine.scale(10, -10)},
        {"interleave": "band", "BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG", "compress": "lzw"},
        {"compress": "zstd", "predictor": 1, "blockxsize": 128, "blockysize": 32},
    ],
    ids=["mask", "turned", "big", "big-endian", "zstd"],
)
def test_windows_of_other_files(tmp_path: Path, options: dict[str, Any]) -> None:
    path = _cog(tmp_path / "in.tif", **options)
    grid = square_grid(41.0, 604000.0, 5095000.0, 4000)
    file, result = _window(path, grid, tmp_path)
    assert result.overview == 1
    with rasterio.open(path, overview_level=1) as source, rasterio.open(file) as window:
        part = Window(*result.window)
        assert window.transform.almost_equals(source.window_transform(part), 1e-6)
        assert np.array_equal(window.read(1), source.read(1, window=part))
        assert np.array_equal(window.read_masks(1), source.read_masks(1, window=part))
        assert window.mask_flag_enums == source.mask_flag_enums
    for how in ("auto", "bilinear"):
        assert np.array_equal(_picture(file, grid, how, is_overview=True), _picture(path, grid, how))


def test_a_window_of_a_file_whose_places_are_those_of_centres(tmp_path: Path) -> None:
    """GDAL moves such a place by half a pixel: half of the overview's, once it is the overview's."""
    path = _cog(tmp_path / "in.tif", tags={"AREA_OR_POINT": "Point"})
    grid = square_grid(80.0, 604000.0, 5095000.0, 4000)
    file, result = _window(path, grid, tmp_path)
    assert result.overview == 2
    with rasterio.open(path, overview_level=2) as source, rasterio.open(file) as window:
        assert window.tags()["AREA_OR_POINT"] == source.tags()["AREA_OR_POINT"] == "Point"
        assert window.transform.almost_equals(source.window_transform(Window(*result.window)), 1e-6)


def test_an_overview_that_cannot_stand_for_the_image_is_not_cut(tmp_path: Path) -> None:
    """Tiled JPEG is not decoded here, so that nothing would tell which part of it is needed."""
    data = np.maximum(noise((1, 800, 800), "uint8", nodata=None), 1)
    path = write_tiff(tmp_path / "in.tif", data, resolution=10, compress="jpeg")
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], Resampling.average)
    grid = square_grid(40.0, 601000.0, 5099000.0, 4000)
    file, result = _window(path, grid, tmp_path)
    assert result.overview is None
    assert result.source_shape == (1, 800, 800)
