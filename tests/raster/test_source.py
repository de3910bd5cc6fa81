"""Windows of rasters against rasterio, over layouts and stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import LocalStore, MemoryStore
from rasterio.windows import Window as RasterioWindow
from synthetic_rasters import noise, write_tiff

from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.source import open_raster
from geostack_pipeline.raster.window import Window

LAYOUTS: dict[str, dict[str, object]] = {
    "tiled": {"predictor": 2},
    "planar": {"interleave": "band", "predictor": 2},
    "pixel": {"interleave": "pixel", "predictor": 2, "compress": "lzw"},
    "big-endian": {"ENDIANNESS": "BIG", "predictor": 2, "compress": "zstd"},
    "bigtiff": {"BIGTIFF": "YES"},
    "strips": {"tiled": False, "blockxsize": None, "blockysize": 11},
    "lerc": {"compress": "lerc"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rasters")
    for name, options in LAYOUTS.items():
        write_tiff(path / f"{name}.tif", noise((3, 230, 170), "uint16"), **options)
    write_tiff(
        path / "lossless.jp2", noise((1, 230, 170), "uint16"), driver="JP2OpenJPEG", tiled=None,
        QUALITY="100", REVERSIBLE="YES", compress=None, nodata=None,
    )  # fmt: skip
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([*(f"{name}.tif" for name in LAYOUTS), "lossless.jp2"]),
    remote=st.booleans(),
    data=st.data(),
)
def test_windows_equal_rasterio(folder: Path, name: str, remote: bool, data: st.DataObject) -> None:
    column, row = data.draw(st.integers(0, 169)), data.draw(st.integers(0, 229))
    width, height = data.draw(st.integers(1, 170 - column)), data.draw(st.integers(1, 230 - row))
    store: LocalStore | MemoryStore = LocalStore(folder)
    if remote:
        store = MemoryStore()
        store.put(name, (folder / name).read_bytes())
    with rasterio.open(folder / name) as source, open_raster(store, name) as raster:
        assert (raster.width, raster.height, raster.count) == (source.width, source.height, source.count)
        assert raster.crs == "EPSG:32632"
        assert raster.transform == tuple(source.transform)[:6]
        assert raster.nodata == source.nodata
        assert raster.dtype == np.dtype(source.dtypes[0])
        band = data.draw(st.integers(1, source.count))
        found = raster.read(Window(column, row, width, height), band)
        assert np.array_equal(found, source.read(band, window=RasterioWindow(column, row, width, height)))


@pytest.mark.parametrize("name", ["cog.tif", "cog_scale.tif", "mosaic_cog1.tif", "nocog.tif", "red.tif"])
def test_real_rasters(shared_dir: Path, name: str) -> None:
    path = shared_dir / "samples" / "pixels" / name
    with rasterio.open(path) as source, open_raster(LocalStore(path.parent), name) as raster:
        assert raster.scales == source.scales
        assert raster.offsets == source.offsets
        assert [round(source.width / width) for width, _ in raster.overviews] == source.overviews(1)
        assert rasterio.crs.CRS.from_string(raster.crs) == source.crs
        for band in source.indexes:
            assert np.array_equal(
                raster.read(Window(0, 0, source.width, source.height), band), source.read(band)
            )


@pytest.mark.parametrize("layout", ["tiled", "strips", "jp2"])
@pytest.mark.parametrize(
    "crs",
    [
        "+proj=tmerc +lat_0=0 +lon_0=9 +k=0.9996 +x_0=500000 +y_0=0 +ellps=intl +units=m",
        "+proj=utm +zone=32 +datum=WGS84 +units=us-ft",
        "EPSG:32632",
        "EPSG:3035",
    ],
)
def test_a_crs_has_the_name_of_an_epsg_one_only_where_it_is_that(
    tmp_path: Path, crs: str, layout: str
) -> None:
    """The first is like EPSG:23032, which has another datum; GDAL says so of it."""
    options: dict[str, object] = {
        "tiled": {},
        "strips": LAYOUTS["strips"],
        "jp2": {"driver": "JP2OpenJPEG", "tiled": None, "compress": None, "nodata": None},
    }[layout]
    path = write_tiff(
        tmp_path / ("a.jp2" if layout == "jp2" else "a.tif"), noise((1, 64, 64), "uint16"), crs=crs, **options
    )
    with rasterio.open(path) as source, open_raster(LocalStore(tmp_path), path.name) as raster:
        assert raster.crs is not None
        assert rasterio.crs.CRS.from_string(raster.crs) == source.crs
        # a name where PROJ has one, for names are what versions and messages show
        assert raster.crs.startswith("EPSG:") is crs.startswith("EPSG:")


@pytest.mark.filterwarnings("ignore:The dataset's nodata attribute is shadowing")
@pytest.mark.parametrize("nodata", [None, 7.0])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_alpha_bands_are_masks_where_gdal_takes_them_for_such(
    tmp_path: Path, count: int, dtype: str, interleave: str, nodata: float | None
) -> None:
    """Also sparse tiles, the mask of the alpha band itself, and a no-data value beside it, which GDAL prefers."""
    numbers = np.maximum(noise((count, 128, 128), dtype, nodata=None), 1).astype(dtype)
    numbers[-1, :40, :30] = 0
    numbers[:, 64:, 64:] = 0
    path = write_tiff(
        tmp_path / "a.tif", numbers, nodata=nodata, interleave=interleave, ALPHA="YES", SPARSE_OK="TRUE",
        **({"photometric": "RGB"} if count > 3 else {}),
    )  # fmt: skip
    tiles = [(i, j) for i in range(2) for j in range(2)]
    with rasterio.open(path) as source, open_raster(LocalStore(tmp_path), "a.tif") as raster:
        flags = source.mask_flag_enums[0]
        assert raster.has_mask is (rasterio.enums.MaskFlags.per_dataset in flags)
        assert raster.has_mask is (count in {2, 4} and dtype.startswith("u") and nodata is None)
        for band in (1, count) if raster.has_mask else ():
            masked = list(raster.read_masked_tiles(tiles, band))
            alone = dict(raster.read_tiles(tiles, band, masks=True))
            assert sorted(tile for tile, _, _ in masked) == tiles
            for (i, j), values, mask in masked:
                place = RasterioWindow(64 * j, 64 * i, 64, 64)
                assert np.array_equal(values, source.read(band, window=place))
                assert np.array_equal(mask != 0, source.read_masks(band, window=place) != 0)
                assert np.array_equal(mask != 0, alone[i, j] != 0)


def test_only_the_tiles_of_a_window_are_read(tmp_path: Path) -> None:
    write_tiff(
        tmp_path / "a.tif", np.random.default_rng(0).integers(1, 60000, (1, 1024, 1024), dtype=np.uint16)
    )
    with open_raster(LocalStore(tmp_path), "a.tif") as raster:
        before = raster.bytes_moved
        raster.read(Window(100, 100, 10, 10))
        assert 0 < raster.bytes_moved - before <= 1.1 * 64 * 64 * 2


@pytest.mark.parametrize(
    "window", [Window(-1, 0, 5, 5), Window(0, 0, 171, 5), Window(0, 228, 5, 3), Window(3, 3, 0, 5)]
)
def test_windows_outside_are_refused(folder: Path, window: Window) -> None:
    with (
        open_raster(LocalStore(folder), "tiled.tif") as raster,
        pytest.raises(RasterError, match="170 x 230"),
    ):
        raster.read(window)


def test_a_band_that_does_not_exist(folder: Path) -> None:
    with (
        open_raster(LocalStore(folder), "tiled.tif") as raster,
        pytest.raises(RasterError, match="band 4 of 3"),
    ):
        raster.read(Window(0, 0, 1, 1), 4)


def test_a_corrupt_tile_is_named(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise((1, 128, 128), "uint16"))
    data = bytearray(path.read_bytes())
    data[-3000:] = bytes(3000)
    path.write_bytes(bytes(data))
    with (
        open_raster(LocalStore(tmp_path), "a.tif") as raster,
        pytest.raises(RasterError, match=r"a\.tif.*decoded"),
    ):
        raster.read(Window(0, 0, 128, 128))


@pytest.mark.parametrize("data", [b"<html>log in</html>", b"nothing that GDAL knows" * 10])
def test_what_is_no_raster_is_named(data: bytes) -> None:
    store = MemoryStore()
    store.put("a.tif", data)
    with pytest.raises(RasterError, match=r"a\.tif"):
        open_raster(store, "a.tif")


def test_nothing_is_left_behind_by_a_remote_file_of_strips(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = MemoryStore()
    store.put("strips.tif", (folder / "strips.tif").read_bytes())
    with open_raster(store, "strips.tif") as raster:
        assert list(tmp_path.iterdir())
        assert raster.bytes_moved >= (folder / "strips.tif").stat().st_size
    assert not list(tmp_path.iterdir())
