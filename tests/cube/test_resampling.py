"""Resampling and overviews against GDAL's warper, at every boundary between two levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from cube_oracle import gdal, layer, scene, square_grid
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from synthetic_rasters import noise, write_tiff

from geostack_pipeline.areas import Area
from geostack_pipeline.cube.build import build_packed
from geostack_pipeline.cube.grid import GridSpec, grid_for
from geostack_pipeline.cube.warp import coordinate_map
from geostack_pipeline.errors import RasterError

HERE = (10.32, 45.93, 10.42, 46.0)
HOW = {"nearest": Resampling.nearest, "bilinear": Resampling.bilinear, "average": Resampling.average}


def _filled(seed: int, shape: tuple[int, int, int] = (1, 900, 800)) -> np.ndarray:
    """Numbers without zeros but for one hole and one corner."""
    numbers = np.maximum(noise(shape, "uint16", seed=seed, nodata=None), 1)
    numbers[:, 300:340, 350:420] = 0
    numbers[:, :200, :150] = 0
    return numbers


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiff(tmp_path_factory.mktemp("plain") / "B11.tif", _filled(5), predictor=2)


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 m pixels with overviews of 20, 40 and 80 m."""
    path = write_tiff(tmp_path_factory.mktemp("cog") / "B04.tif", _filled(6, (1, 1704, 1600)), resolution=10)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], Resampling.average)
    return path


def _picture(path: Path, grid: GridSpec, **more: object) -> np.ndarray:
    return build_packed(grid, [scene("a", {"B": layer(path)})], ["B"], **more).reflectance.values[0, 0]


def _weights(how: str, x: float, y: float | None = None) -> dict[str, str]:
    """GDAL's options that say how many source pixels a grid pixel spans; by itself it guesses, piece by piece."""
    if how != "bilinear":
        return {}
    spans = {"XSCALE": x, "YSCALE": x if y is None else y}
    # up to 1/0.95 it interpolates between four pixels
    return {name: str(1.0 if span <= 1 / 0.95 else 1.0 / span) for name, span in spans.items()}


@pytest.mark.parametrize("how", ["bilinear", "average", "nearest"])
@pytest.mark.parametrize("resolution", [9.0, 20.0, 21.0, 37.0])
def test_resampling_in_the_same_zone(plain: Path, how: str, resolution: float) -> None:
    grid = square_grid(resolution, 602003.0, 5098007.0)
    mine = _picture(plain, grid, resampling=how)
    expected = gdal(plain, grid, HOW[how], **_weights(how, resolution / 20.0))
    # a scene gives a pixel where the source pixel under its centre has data: holes stay as they are
    given = gdal(plain, grid) > 0
    assert np.array_equal(mine > 0, given)
    assert given.mean() > 0.9
    difference = np.abs(mine.astype(int) - expected)[given]
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.98, "ties of halves apart"


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3035", "EPSG:4326"])
@pytest.mark.parametrize("how", ["bilinear", "average", "nearest"])
def test_resampling_in_another_crs(plain: Path, how: str, crs: str) -> None:
    resolution = 0.00022 if crs == "EPSG:4326" else 20.0
    grid = grid_for(Area(name="a", bbox=HERE, resolution_m=resolution, crs=crs))
    mine = _picture(plain, grid, resampling=how)
    x, y = (1.0, 1.0)
    if crs == "EPSG:4326":
        to_source = pyproj.Transformer.from_crs(crs, "EPSG:32632", always_xy=True)
        east, north = to_source.transform(
            [10.37, 10.37 + resolution, 10.37], [45.965, 45.965, 45.965 + resolution]
        )
        x = np.hypot(east[1] - east[0], east[2] - east[0]) / 20.0
        y = np.hypot(north[1] - north[0], north[2] - north[0]) / 20.0
    expected = gdal(plain, grid, HOW[how], **_weights(how, x, y))
    both = (mine > 0) & (expected > 0)
    assert both.mean() > 0.8
    difference = np.abs(mine.astype(int) - expected)[both]
    if how == "nearest":
        assert (difference == 0).mean() >= 0.9999
    else:
        # 1e-4 of a pixel times the step between two pixels of noise, and rounding
        assert (difference <= 2).mean() >= 0.999
        assert difference.mean() < 0.5


@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:5041"])
@pytest.mark.parametrize("pixel", [1000.0, 5000.0])
def test_a_globe_in_degrees_over_the_pole(tmp_path: Path, crs: str, pixel: float) -> None:
    """No lattice follows the longitudes there: every centre must be projected by itself."""
    numbers = np.maximum(noise((1, 100, 1000), "uint16", nodata=None), 1)
    path = write_tiff(
        tmp_path / "globe.tif", numbers, origin=(-180.0, 90.0), resolution=0.36, crs="EPSG:4326"
    )
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = to_grid.transform(0.0, 90.0)
    grid = GridSpec(
        crs=crs,
        transform=(pixel, 0.0, x - 100.26 * pixel, 0.0, -pixel, y + 100.14 * pixel),
        width=200,
        height=200,
    )
    lon, lat = to_grid.transform(*np.meshgrid(grid.x, grid.y), direction="INVERSE")
    column, row = (lon + 180.0) / 0.36, (90.0 - lat) / 0.36
    truth = numbers[0][row.astype(int), column.astype(int) % 1000]
    mine = _picture(path, grid, resampling="nearest")
    assert np.array_equal(mine, truth)
    # by itself GDAL reads but a part of the columns for some grids, and leaves the rest of them empty
    whole = {"SAMPLE_GRID": "YES", "SOURCE_EXTRA": "1000"}
    assert np.array_equal(gdal(path, grid, **whole), truth)
    average = _picture(path, grid, resampling="average")
    assert (average > 0).all()
    expected = gdal(path, grid, Resampling.average, **whole)
    away = np.hypot(*np.meshgrid(grid.x - x, grid.y - y)) > 10 * pixel
    # GDAL cuts the globe where its columns end
    away &= np.abs(np.abs(lon) - 180.0) > 3.0
    assert (np.abs(average.astype(int) - expected)[away] <= 2).mean() >= 0.999


@pytest.mark.parametrize("how", ["bilinear", "average"])
@pytest.mark.parametrize(
    ("crs", "west"),
    # GDAL finds the far half of a globe from 0 to 360 for longitudes beyond 180 alone, which a projection never gives
    [("EPSG:4326", -180.0), ("EPSG:4326", 0.0), ("EPSG:3995", 0.0)],
)
def test_the_last_column_of_a_whole_globe_lies_beside_its_first(
    tmp_path: Path, how: str, crs: str, west: float
) -> None:
    """GDAL sees the same globe cut on its other side, where it has nothing to go around."""
    step, columns = 0.36, 1000  # no multiple of a tile
    numbers = np.maximum(noise((1, 200, columns), "uint16", nodata=None), 1)
    numbers[:, 100:120, :3] = 0
    path = write_tiff(tmp_path / "globe.tif", numbers, origin=(west, 80.0), resolution=step, crs="EPSG:4326")
    turned = write_tiff(
        tmp_path / "turned.tif",
        np.roll(numbers, columns // 2, axis=2),
        origin=(west + (180.0 if west < 0 else -180.0), 80.0),
        resolution=step,
        crs="EPSG:4326",
    )
    seam = 180.0 if west < 0 else 0.0
    if crs == "EPSG:4326":
        pixel = 0.29 if how == "bilinear" else 1.13
        transform = (pixel, 0.0, seam - 8.03, 0.0, -pixel, 60.01)
    else:
        pixel = 30_000.0 if how == "bilinear" else 180_000.0
        x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(seam, 45.0)
        transform = (pixel, 0.0, x - 31.3 * pixel, 0.0, -pixel, y + 10.2 * pixel)
    size = round(16 / 0.29) if how == "bilinear" else 14
    grid = GridSpec(crs=crs, transform=transform, width=size, height=size // 2)
    mine = _picture(path, grid, resampling=how)
    weights = {"XSCALE": "1", "YSCALE": "1"} if how == "bilinear" else {}
    expected, cut = (gdal(each, grid, HOW[how], **weights) for each in (turned, path))
    given = gdal(turned, grid) > 0
    assert given.mean() > 0.5
    assert np.array_equal(mine > 0, given)
    difference = np.abs(mine.astype(int) - expected)[given]
    assert difference.max() <= (1 if crs == "EPSG:4326" else 2)
    beside = given & (np.abs(cut.astype(int) - expected) > 2)
    assert beside.any(), "without going around there is a seam"


def _mean_of_a_turned_source(path: Path, grid: GridSpec) -> None:
    """Compare the mean of a scene that is chosen by its classes with GDAL's: each of its pixels has a number."""
    with rasterio.open(path) as source:
        classes = write_tiff(
            path.with_name("SCL.tif"), np.full((1, *source.shape), 4, np.uint8), crs=source.crs,
            transform=source.transform,
        )  # fmt: skip
    cube = build_packed(grid, [scene("a", {"SCL": layer(classes), "B": layer(path)})], ["B"])
    mine, expected = cube.reflectance.values[0, 0], gdal(path, grid, Resampling.average)
    given = gdal(path, grid) > 0
    assert given.mean() > 0.9
    assert np.array_equal(mine > 0, given)
    difference = np.abs(mine.astype(int) - expected)[given]
    assert (difference <= 2).mean() >= 0.999
    assert (difference == 0).mean() >= 0.98


@pytest.mark.parametrize(("columns", "resolution"), [(2000, 2000.0), (4000, 60_000.0)])
def test_a_projected_globe_is_not_mixed_across_its_cut(
    tmp_path: Path, columns: int, resolution: float
) -> None:
    """Web Mercator ends at the antimeridian; a pixel over it has the mean of its centre's side, no whole row's."""
    half = 20037508.342789244
    stripes = np.tile(1000 + 20 * np.arange(columns) % 20_000, (200, 1))
    stripes[:, : columns // 20] = 3000
    stripes[:, -columns // 20 :] = 4000
    path = write_tiff(
        tmp_path / "a.tif", stripes[None].astype(np.uint16), crs="EPSG:3857", resolution=2 * half / columns,
        origin=(-half, 100 * 2 * half / columns + half * -0.1),
    )  # fmt: skip
    grid = grid_for(Area(name="a", bbox=(178, -20, -178, -16), resolution_m=resolution))
    assert grid.crs == "EPSG:32701"
    own = scene("a", {"B": layer(path, offset=0.0)})
    x, _ = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(
        *np.meshgrid(grid.x, grid.y)
    )
    expected = np.where(x < 0, 3000, 4000) + 1000
    assert {4000, 5000} <= set(np.unique(expected))
    for how in ("average", "nearest", "auto"):
        found = build_packed(grid, [own], ["B"], resampling=how).reflectance.values[0, 0]
        assert np.array_equal(found, expected), how
    where = coordinate_map(
        grid, "EPSG:3857", (2 * half / columns, 0, -half, 0, -2 * half / columns, half), columns, columns
    )
    # a degree of longitude has this many columns, and a pixel of the grid this part of one
    assert where.spans[0] == pytest.approx(
        columns / 360 * resolution / 111_320 / np.cos(np.radians(18)), rel=0.02
    )


def test_the_mean_has_no_holes_where_the_source_is_turned_by_45_degrees(tmp_path: Path) -> None:
    """A UTM zone on the polar grid, on a meridian that is its middle: corners of a pixel share a column."""
    numbers = np.maximum(noise((1, 600, 600), "uint16", nodata=None), 1)
    x, y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32638", always_xy=True).transform(45.0, 83.9)
    # three metres: on an edge between two columns rounding alone would say which of them a pixel covers
    origin = (round(x / 10) * 10 - 2997, round(y / 10) * 10 + 3000)
    path = write_tiff(tmp_path / "a.tif", numbers, crs="EPSG:32638", origin=origin, resolution=10)
    gx, gy = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:5041", always_xy=True).transform(45.0, 83.9)
    left, top = round(gx / 20) * 20.0 - 2000.0, round(gy / 20) * 20.0 + 2000.0
    grid = GridSpec(crs="EPSG:5041", transform=(20.0, 0.0, left, 0.0, -20.0, top), width=200, height=200)
    _mean_of_a_turned_source(path, grid)


@pytest.mark.parametrize("angle", [45.0, -45.0, 135.0])
def test_the_mean_has_no_holes_in_a_turned_file(tmp_path: Path, angle: float) -> None:
    """Corners of a pixel share a column or, the other way round, a row."""
    numbers = np.maximum(noise((1, 600, 600), "uint16", nodata=None), 1)
    turned = Affine.translation(6e5, 5.1e6) @ Affine.rotation(angle) @ Affine.scale(10, -10)
    path = write_tiff(tmp_path / "a.tif", numbers, transform=turned)
    x, y = turned @ (300, 300)
    left, top = round(x / 20) * 20.0 - 1000.0, round(y / 20) * 20.0 + 1000.0
    grid = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, left, 0.0, -20.0, top), width=100, height=100)
    _mean_of_a_turned_source(path, grid)


def test_a_globe_that_overlaps_itself_by_part_of_a_column_is_refused(tmp_path: Path) -> None:
    numbers = np.maximum(noise((1, 40, 721), "uint16", nodata=None), 1)
    path = write_tiff(tmp_path / "a.tif", numbers, origin=(-180.0, 60.0), resolution=0.4995, crs="EPSG:4326")
    transform = (0.3, 0.0, 175.03, 0.0, -0.3, 58.01)
    grid = GridSpec(crs="EPSG:4326", transform=transform, width=30, height=20)
    with pytest.raises(RasterError, match=r"more than once.*721 columns, 720\.7207"):
        _picture(path, grid, resampling="bilinear")
    assert np.array_equal(_picture(path, grid, resampling="nearest") > 0, np.ones(grid.shape, bool))


def _chosen(path: Path, resolution: float) -> int | None:
    """The overview that GDAL's warper takes by default: the coarsest that is hardly coarser than the grid."""
    with rasterio.open(path) as file:
        pixel = file.res[0]
        levels = [
            level for level, factor in enumerate(file.overviews(1)) if factor < resolution / pixel + 0.1
        ]
    return levels[-1] if levels else None


@pytest.mark.parametrize("how", ["average", "bilinear", "nearest"])
@pytest.mark.parametrize(
    "resolution", [18.9, 19.1, 20.0, 20.1, 38.9, 39.1, 40.0, 40.1, 78.9, 79.1, 80.0, 80.1, 200.0]
)
def test_overviews_around_their_boundaries(cog: Path, how: str, resolution: float) -> None:
    grid = square_grid(resolution, 602000.0, 5098000.0, 9000)
    level = _chosen(cog, resolution)
    assert (level is None) is (resolution < 19.0)
    cube = build_packed(grid, [scene("a", {"B": layer(cog)})], ["B"], resampling=how, overviews=True)
    mine = cube.reflectance.values[0, 0]
    with (
        rasterio.open(cog, **({} if level is None else {"overview_level": level})) as source,
        WarpedVRT(
            source,
            crs=grid.crs,
            transform=Affine(*grid.transform),
            width=grid.width,
            height=grid.height,
            resampling=HOW[how],
            tolerance=1e-4,
            src_nodata=0,
            nodata=0,
            **_weights(how, resolution / source.res[0]),
        ) as warped,
    ):
        expected = warped.read(1)
        x, y = warped.transform @ (np.arange(grid.width) + 0.5, np.arange(grid.width) + 0.5)
        assert np.allclose(cube.x.values, x, rtol=0, atol=1e-6)
        assert np.allclose(cube.y.values, y, rtol=0, atol=1e-6)
    both = (mine > 0) & (expected > 0)
    assert both.mean() > 0.9
    difference = np.abs(mine.astype(int) - expected)[both]
    assert (difference <= 1).mean() >= 0.9999
    assert (difference == 0).mean() >= 0.98


def test_overviews_of_odd_sizes(tmp_path: Path) -> None:
    """The last pixels of their overviews are not whole, so that these are a little finer than their factor says."""
    path = write_tiff(
        tmp_path / "odd.tif", np.maximum(noise((1, 1021, 1013), "uint16", nodata=None), 1), resolution=10
    )
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], Resampling.average)
    with rasterio.open(path, overview_level=1) as file:
        assert file.res[0] < 40.0
        expected, transform, shape = file.read(1), file.transform, file.shape
    grid = GridSpec(crs="EPSG:32632", transform=tuple(transform)[:6], width=shape[1], height=shape[0])
    assert np.array_equal(_picture(path, grid, resampling="average", overviews=True), expected)


@pytest.mark.parametrize("resolution", [19.9, 20.0, 20.1, 40.0, 80.1])
def test_without_overviews_the_full_image_is_read(cog: Path, resolution: float) -> None:
    grid = square_grid(resolution, size=5000)
    mine, expected = _picture(cog, grid), gdal(cog, grid, Resampling.average)
    given = gdal(cog, grid) > 0
    assert np.array_equal(mine > 0, given)
    difference = np.abs(mine.astype(int) - expected)[given]
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.98, "ties of halves apart"


def test_overviews_move_a_fraction_of_the_bytes(cog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from geostack_pipeline.raster.codecs import TileDecoder

    decoded: list[int] = []
    whole = TileDecoder.decode

    def counted(self: TileDecoder, *given: object) -> object:
        decoded.append(self.size)
        return whole(self, *given)

    monkeypatch.setattr(TileDecoder, "decode", counted)
    grid = square_grid(80.0)
    found = {}
    for overviews in (False, True):
        decoded.clear()
        _picture(cog, grid, overviews=overviews, resampling="average")
        found[overviews] = sum(decoded)
    assert found[True] < found[False] / 8


def test_classes_never_come_from_an_overview(tmp_path: Path, cog: Path) -> None:
    classes = (noise((1, 1704, 1600), "uint8", seed=9, nodata=None) % 11 + 1).astype(np.uint8)
    path = write_tiff(tmp_path / "SCL.tif", classes, resolution=10)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], Resampling.average)
    for how in ("auto", "bilinear", "average"):
        cube = build_packed(
            square_grid(40.0),
            [scene("a", {"SCL": layer(path), "B": layer(cog)})],
            ["B"],
            resampling=how,
            overviews=True,
        )
        assert np.array_equal(cube.scl.values[0], gdal(path, square_grid(40.0)))


@pytest.mark.parametrize("layout", ["strips", "jp2", "mask", "planar", "pixel"])
def test_overviews_of_other_files(tmp_path: Path, layout: str) -> None:
    data = np.maximum(noise((3, 640, 512), "uint16", nodata=None), 1)
    path = tmp_path / ("a.jp2" if layout == "jp2" else "a.tif")
    options: dict[str, object] = {
        "strips": {"tiled": False, "blockxsize": None, "blockysize": 16},
        "jp2": {
            "driver": "JP2OpenJPEG", "tiled": None, "QUALITY": "100", "REVERSIBLE": "YES", "compress": None,
            "RESOLUTIONS": "4", "blockxsize": 256, "blockysize": 256,
        },
        "mask": {},
        "planar": {"interleave": "band", "predictor": 2},
        "pixel": {"interleave": "pixel", "predictor": 2},
    }[layout]  # fmt: skip
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        write_tiff(path, data, nodata=None, **options)
        if layout != "jp2":
            with rasterio.open(path, "r+") as file:
                if layout == "mask":
                    file.write_mask(np.hypot(*np.mgrid[-320:320, -256:256]) < 280)
                file.build_overviews([2, 4], Resampling.nearest)
    grid = GridSpec(crs="EPSG:32632", transform=(40.0, 0.0, 6e5, 0.0, -40.0, 5.1e6), width=256, height=320)
    for band in (1, 3):
        one = scene("a", {"B": layer(path, offset=-0.1, nodata=None, band=band)})
        cube = build_packed(grid, [one], ["B"], resampling="average", overviews=True)
        with rasterio.open(path, overview_level=0) as source:
            assert source.shape == grid.shape
            expected = source.read(band)
            if layout == "mask":
                expected[source.read_masks(band) == 0] = 0
                assert (expected == 0).any()
        if layout == "jp2":
            expected = np.maximum(expected, 1)  # a wavelet's overview may fall to 0, which is a number here
        assert np.array_equal(cube.reflectance.values[0, 0], expected)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("how", ["bilinear", "average"])
def test_types_and_missing_numbers_in_means(tmp_path: Path, dtype: str, how: str) -> None:
    """Against float64 arithmetic of GDAL on the reflectances themselves."""
    numbers = np.clip(noise((1, 300, 280), dtype, nodata=None).astype(np.float64), 1, 9000).astype(dtype)
    nodata: float = {"uint8": 255, "int16": -32768, "uint16": 0, "float32": float("nan")}[dtype]
    scale = 1e-3 if dtype == "uint8" else 1e-4
    if dtype == "uint8":
        numbers[numbers == 255] = 254
    numbers[0, 90:120, 100:150] = nodata
    path = write_tiff(tmp_path / "a.tif", numbers, nodata=nodata)
    reflectance = numbers[0].astype(np.float64) * scale - 0.05
    missing = np.isnan(numbers[0]) if np.isnan(nodata) else numbers[0] == nodata
    reflectance[missing] = -9999.0
    oracle = write_tiff(tmp_path / "oracle.tif", reflectance[None], nodata=-9999.0)
    grid = square_grid(17.0 if how == "bilinear" else 47.0, 600411.0, 5099593.0, 4500)
    one = scene("a", {"B": layer(path, scale=scale, offset=-0.05, nodata=None)})
    cube = build_packed(grid, [one], ["B"], resampling=how)
    mine = np.where(cube.reflectance.values[0, 0] > 0, cube.reflectance.values[0, 0] * 1e-4 - 0.1, np.nan)
    expected = gdal(oracle, grid, HOW[how], nodata=-9999.0)
    expected[gdal(oracle, grid, nodata=-9999.0) == -9999.0] = np.nan
    assert np.isnan(expected).any()
    assert np.array_equal(np.isnan(mine), np.isnan(expected))
    both = np.isfinite(mine) & np.isfinite(expected)
    # the packing's half a unit of source pixels and of the result
    assert np.abs(mine[both] - expected[both]).max() <= 1.01e-4


def test_the_default_says_nothing_and_another_is_named(plain: Path) -> None:
    grid = square_grid(40.0, size=1000)
    cube = build_packed(grid, [scene("a", {"B": layer(plain)})], ["B"])
    assert "resampling" not in cube.reflectance.attrs
    cube = build_packed(grid, [scene("a", {"B": layer(plain)})], ["B"], resampling="bilinear")
    assert cube.reflectance.attrs["resampling"] == "bilinear"
