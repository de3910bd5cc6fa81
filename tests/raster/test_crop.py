"""The lossless crop against GDAL: same pixels, masks and tags as the source's window."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
import tifffile
from async_geotiff import GeoTIFF
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import HTTPStore, LocalStore, MemoryStore
from rasterio.enums import ColorInterp
from rasterio.windows import Window as RasterioWindow
from synthetic_rasters import noise, write_tiff

from geostack_pipeline.errors import RasterError, TransferError
from geostack_pipeline.raster.crop import CropPlan, CropResult, crop, plan_crop
from geostack_pipeline.raster.window import Window
from geostack_pipeline.storage.loop import run_async

SAME = (
    "nodata",
    "scales",
    "offsets",
    "dtypes",
    "count",
    "interleaving",
    "photometric",
    "compression",
    "colorinterp",
    "descriptions",
    "units",
    "mask_flag_enums",
)


def bounds_of(
    source: rasterio.DatasetReader, window: tuple[int, int, int, int]
) -> tuple[float, float, float, float]:
    column, row, width, height = window
    left, top = source.transform @ (column, row)
    right, bottom = source.transform @ (column + width, row + height)
    return (min(left, right), min(top, bottom), max(left, right), max(top, bottom))


def crop_and_compare(
    path: Path, window: tuple[int, int, int, int], dest: Path
) -> tuple[CropPlan, CropResult]:
    store = LocalStore(path.parent)
    with rasterio.open(path) as source:
        plan = plan_crop(store, path.name, bounds_of(source, window), source.crs.to_wkt())
        assert plan is not None
        assert plan.intersects
        result = crop(store, path.name, plan, dest)
        w = plan.window
        assert w.column <= window[0]
        assert w.row <= window[1]
        assert w.stop_column >= min(window[0] + window[2], source.width)
        assert w.stop_row >= min(window[1] + window[3], source.height)
        there = RasterioWindow(*w)
        with rasterio.open(dest) as cropped:
            assert np.array_equal(source.read(window=there), cropped.read(), equal_nan=True)
            assert np.array_equal(source.read_masks(window=there), cropped.read_masks())
            assert cropped.crs == source.crs
            assert np.allclose(cropped.transform, source.window_transform(there), rtol=0, atol=1e-7)
            assert np.allclose(plan.transform, tuple(cropped.transform)[:6], rtol=0, atol=1e-7)
            for name in SAME:
                assert getattr(source, name) == getattr(cropped, name), name
            assert source.tags() == cropped.tags()
            assert source.tags(1) == cropped.tags(1)
            for name in ("COMPRESSION", "INTERLEAVE", "PREDICTOR", "ENDIANNESS"):
                assert source.tags(ns="IMAGE_STRUCTURE").get(name) == cropped.tags(ns="IMAGE_STRUCTURE").get(
                    name
                )
    assert dest.stat().st_size == result.size == plan.size
    return plan, result


@pytest.mark.parametrize(
    "name",
    [
        "cog.tif",
        "cog_dateline.tif",
        "cog_scale.tif",
        "mosaic_cog1.tif",
        "mosaic_cog2.tif",
        "red.tif",
        "green.tif",
        "blue.tif",
    ],
)
def test_real_cogs_equal_gdal(shared_dir: Path, tmp_path: Path, name: str) -> None:
    path = shared_dir / "samples" / "pixels" / name
    with rasterio.open(path) as source:
        window = (source.width // 3, source.height // 4, source.width // 8, source.height // 6)
    plan, _ = crop_and_compare(path, window, tmp_path / "out.tif")
    assert plan.tiles >= 1


def test_real_striped_file_is_left_whole(shared_dir: Path) -> None:
    folder = shared_dir / "samples" / "pixels"
    assert (
        plan_crop(LocalStore(folder), "nocog.tif", (380000, 8200000, 390000, 8210000), "EPSG:32621") is None
    )


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize(
    ("dtype", "predictor", "compress", "endian", "big"),
    [
        ("uint8", 1, "none", "LITTLE", "NO"),
        ("uint8", 2, "lzw", "BIG", "NO"),
        ("uint16", 2, "deflate", "LITTLE", "NO"),
        ("uint16", 2, "deflate", "BIG", "YES"),
        ("int16", 2, "zstd", "LITTLE", "YES"),
        ("uint16", 1, "packbits", "BIG", "NO"),
        ("float32", 3, "deflate", "LITTLE", "NO"),
        ("float32", 3, "lzw", "BIG", "NO"),
        ("float32", 1, "lzma", "LITTLE", "NO"),
        ("float32", 1, "lerc", "LITTLE", "NO"),
        ("uint8", 1, "jpeg", "LITTLE", "NO"),
    ],
)
def test_formats(
    tmp_path: Path, interleave: str, dtype: str, predictor: int, compress: str, endian: str, big: str
) -> None:
    path = write_tiff(
        tmp_path / "in.tif",
        noise((3, 300, 280), dtype),
        interleave=interleave,
        predictor=predictor,
        compress=compress,
        ENDIANNESS=endian,
        BIGTIFF=big,
        tags={"PRODUCT": "made up"},
    )
    plan, result = crop_and_compare(path, (70, 90, 60, 70), tmp_path / "out.tif")
    assert plan.window == (64, 64, 128, 128)
    assert plan.tiles == (12 if interleave == "band" else 4)
    assert result.source_shape == (3, 300, 280)
    order = b"II" if endian == "LITTLE" else b"MM"
    assert (tmp_path / "out.tif").read_bytes()[:2] == order


def test_webp(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "in.tif", noise((3, 256, 256), "uint8"), compress="webp", nodata=None)
    crop_and_compare(path, (130, 60, 30, 30), tmp_path / "out.tif")


def test_jpeg_tables_are_kept(tmp_path: Path) -> None:
    path = write_tiff(
        tmp_path / "in.tif", noise((3, 256, 256), "uint8"), compress="jpeg", photometric="YCBCR", nodata=None
    )
    crop_and_compare(path, (130, 60, 30, 30), tmp_path / "out.tif")


def test_internal_mask_is_cropped_with_the_image(tmp_path: Path) -> None:
    data = noise((1, 256, 256), "uint16", nodata=None)
    path = tmp_path / "in.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        write_tiff(path, data, nodata=None)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(np.hypot(*np.mgrid[-128:128, -128:128]) < 90)
    crop_and_compare(path, (60, 60, 90, 20), tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as cropped:
        assert 0 < (cropped.read_masks(1) > 0).mean() < 1


def test_colour_map_is_kept(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "in.tif", noise((1, 200, 200), "uint8"), photometric="PALETTE")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {i: (i, 255 - i, i // 2, 255) for i in range(256)})
    crop_and_compare(path, (70, 70, 30, 30), tmp_path / "out.tif")
    with rasterio.open(path) as source, rasterio.open(tmp_path / "out.tif") as cropped:
        assert cropped.colormap(1) == source.colormap(1)
        assert cropped.colorinterp == (ColorInterp.palette,)


def test_scale_offset_units_and_description_are_kept(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "in.tif", noise((2, 200, 200), "uint16"))
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (1e-4, 2e-4), (-0.1, 0.2)
        dataset.descriptions, dataset.units = ("red", "blue"), ("1", "m")
    crop_and_compare(path, (70, 70, 30, 30), tmp_path / "out.tif")


def test_sparse_tiles_stay_sparse(tmp_path: Path) -> None:
    data = np.zeros((1, 256, 256), np.uint16)
    data[:, 70:100, 70:100] = 5
    path = write_tiff(tmp_path / "in.tif", data, SPARSE_OK=True)
    plan, _ = crop_and_compare(path, (10, 10, 100, 100), tmp_path / "out.tif")
    assert plan.tiles == 1
    empty, result = crop_and_compare(path, (200, 200, 20, 20), tmp_path / "none.tif")
    assert (empty.tiles, empty.bytes) == (0, 0)
    assert result.bytes_moved == plan.header_bytes


def test_sparse_tiles_of_a_file_with_a_no_data_value(tmp_path: Path) -> None:
    data = np.full((1, 256, 256), -9999, np.int16)
    data[:, 70:100, 70:100] = 5
    path = write_tiff(tmp_path / "in.tif", data, SPARSE_OK=True, nodata=-9999)
    crop_and_compare(path, (10, 10, 100, 100), tmp_path / "out.tif")


def test_full_matrix_and_pixel_is_point(tmp_path: Path) -> None:
    rotated = write_tiff(
        tmp_path / "in.tif",
        noise((1, 256, 256), "uint16"),
        transform=rasterio.Affine(19.0, 3.0, 6e5, 2.5, -20.5, 5.1e6),
    )
    crop_and_compare(rotated, (70, 70, 50, 50), tmp_path / "out.tif")
    point = write_tiff(
        tmp_path / "point.tif", noise((1, 256, 256), "uint16"), tags={"AREA_OR_POINT": "Point"}
    )
    crop_and_compare(point, (70, 70, 50, 50), tmp_path / "out2.tif")


def test_user_defined_crs(tmp_path: Path) -> None:
    crs = "+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80 +units=m"
    path = write_tiff(tmp_path / "in.tif", noise((1, 256, 256), "uint16"), crs=crs, origin=(4.3e6, 3.2e6))
    crop_and_compare(path, (70, 70, 50, 50), tmp_path / "out.tif")


@pytest.mark.parametrize("compress", ["DEFLATE", "ZSTD"])
def test_cog_driver(tmp_path: Path, compress: str) -> None:
    path = write_tiff(
        tmp_path / "in.tif",
        noise((1, 1500, 1400), "uint16"),
        driver="COG",
        compress=compress,
        BLOCKSIZE=256,
        PREDICTOR="YES",
    )
    plan, result = crop_and_compare(path, (300, 600, 500, 200), tmp_path / "out.tif")
    tile_rows = -(-plan.window.height // 256)
    assert plan.tiles > tile_rows
    assert result.requests <= 1 + tile_rows, "one request per row of tiles"
    assert result.bytes_moved <= plan.header_bytes + 1.02 * plan.tile_bytes


def test_a_realistic_cog_moves_little_more_than_its_tiles(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(1, 4000, (1, 4096, 4096), dtype=np.uint16)
    path = write_tiff(tmp_path / "in.tif", data, driver="COG", BLOCKSIZE=512, PREDICTOR="YES")
    store = LocalStore(tmp_path)
    with rasterio.open(path) as source:
        plan = plan_crop(store, "in.tif", bounds_of(source, (1000, 1000, 1000, 1000)), source.crs.to_wkt())
    assert plan is not None
    result = crop(store, "in.tif", plan, tmp_path / "out.tif")
    assert result.bytes_moved <= 1.1 * plan.tile_bytes
    assert result.bytes_moved * 4 < result.source_size
    assert plan.header_requests == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    column=st.integers(0, 279), row=st.integers(0, 299), width=st.integers(1, 400), height=st.integers(1, 400)
)
def test_any_window(tmp_path: Path, column: int, row: int, width: int, height: int) -> None:
    path = tmp_path / "any.tif"
    if not path.exists():
        write_tiff(path, noise((2, 300, 280), "uint16"), interleave="band", predictor=2)
    crop_and_compare(path, (column, row, width, height), tmp_path / "out.tif")


def test_bounds_in_another_crs_cover_their_corners(tmp_path: Path) -> None:
    write_tiff(tmp_path / "in.tif", noise((1, 512, 512), "uint16"))
    bounds = (10.33, 45.97, 10.38, 46.0)
    plan = plan_crop(LocalStore(tmp_path), "in.tif", bounds, "EPSG:4326", margin=0)
    assert plan is not None
    xs, ys = np.meshgrid(np.linspace(10.33, 10.38, 201), np.linspace(45.97, 46.0, 201))
    x, y = rasterio.warp.transform("EPSG:4326", "EPSG:32632", xs.ravel(), ys.ravel())
    columns, rows = (np.array(x) - 600000) / 20, (5100000 - np.array(y)) / 20
    window = plan.window
    assert window.column <= columns.min()
    assert window.stop_column >= min(512, columns.max())
    assert window.row <= max(0, rows.min())
    assert window.stop_row >= rows.max()
    assert window.column > columns.min() - 65, "not wider than the tiles need"


def test_across_the_antimeridian(tmp_path: Path, shared_dir: Path) -> None:
    folder = shared_dir / "samples" / "pixels"
    plan = plan_crop(LocalStore(folder), "cog_dateline.tif", (179.9, 51.9, -179.9, 52.0), "EPSG:4326")
    assert plan is not None
    with rasterio.open(folder / "cog_dateline.tif") as source:
        lon, lat = np.meshgrid(np.linspace(179.9, 180.1, 50), np.linspace(51.9, 52.0, 50))
        x, y = rasterio.warp.transform("EPSG:4326", source.crs, lon.ravel(), lat.ravel())
        _rows, columns = rasterio.transform.rowcol(source.transform, x, y)
    assert plan.window.column <= max(0, min(columns))
    assert plan.window.stop_column >= min(2325, max(columns))
    assert plan.window.stop_row - plan.window.row < 1100, "the window is not the whole image"
    world = write_tiff(
        tmp_path / "world.tif",
        noise((1, 180, 360), "uint8"),
        crs="EPSG:4326",
        origin=(0.0, 90.0),
        resolution=1.0,
    )
    pacific = plan_crop(LocalStore(tmp_path), world.name, (-160.0, 0.0, -150.0, 5.0), "EPSG:4326", margin=0)
    assert pacific is not None
    assert pacific.window == (192, 64, 64, 64)


def test_an_area_outside_gives_a_plan_without_tiles(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "in.tif", noise((1, 256, 256), "uint16"))
    plan = plan_crop(LocalStore(tmp_path), path.name, (0, 0, 100, 100), "EPSG:32632")
    assert plan is not None
    assert not plan.intersects
    assert plan.bytes == 0
    assert plan.header_bytes > 0
    with pytest.raises(ValueError, match="does not touch"):
        crop(plan.source.store, path.name, plan, tmp_path / "out.tif")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"<!DOCTYPE html><html>Please log in</html>", "DOCTYPE html"),
        (b'{"error": "expired"}', "expired"),
        (b"", "0 bytes"),
        (b"\x01\x02garbage", "garbage"),
        (b"II\x2a\x00", "II"),
        (b"II\x2a\x00\xff\xff\xff\x7f", "2147483647"),
    ],
)
def test_what_is_no_tiff_is_named(data: bytes, found: str) -> None:
    store = MemoryStore()
    store.put("a.tif", data)
    with pytest.raises(RasterError, match=r"a\.tif") as error:
        plan_crop(store, "a.tif", (0, 0, 1, 1), "EPSG:4326")
    assert found in str(error.value)


@pytest.mark.parametrize("start", [b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\x89HDF\r\n\x1a\n"])
def test_other_rasters_are_left_whole(start: bytes) -> None:
    store = MemoryStore()
    store.put("a", start + bytes(100))
    assert plan_crop(store, "a", (0, 0, 1, 1), "EPSG:4326") is None


def test_a_cut_file_is_an_error(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "in.tif", noise((1, 256, 256), "uint16"))
    whole = path.read_bytes()
    with rasterio.open(path) as source:
        bounds = source.bounds
    for size in (9, 50, 300, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.tif").write_bytes(whole[:size])
        with pytest.raises(RasterError, match=r"cut\.tif"):
            plan_crop(LocalStore(tmp_path), "cut.tif", tuple(bounds), "EPSG:32632")


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255))
def test_damaged_headers_never_crash(position: int, value: int) -> None:
    data = bytearray(_small_tiff())
    data[position] = value
    store = MemoryStore()
    store.put("a.tif", bytes(data))
    try:
        plan = plan_crop(store, "a.tif", (6e5, 5.099e6, 6.001e5, 5.1e6), "EPSG:32632")
    except RasterError:
        return
    assert plan is None or plan.size > 0


_SMALL: list[bytes] = []


def _small_tiff() -> bytes:
    if not _SMALL:
        with rasterio.MemoryFile() as memory:
            with memory.open(
                driver="GTiff",
                width=64,
                height=64,
                count=1,
                dtype="uint16",
                crs="EPSG:32632",
                tiled=True,
                blockxsize=32,
                blockysize=32,
                transform=rasterio.Affine(20, 0, 6e5, 0, -20, 5.1e6),
            ) as dataset:
                dataset.write(noise((1, 64, 64), "uint16"))
            _SMALL.append(bytes(memory.getbuffer()))
    return _SMALL[0]


class _Server(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.server.seen.append("HEAD")  # type: ignore[attr-defined]
        self.send_error(403)

    def do_GET(self) -> None:
        server = self.server
        data, etag = server.content  # type: ignore[attr-defined]
        wanted = self.headers.get("Range")
        server.seen.append(wanted)  # type: ignore[attr-defined]
        match = self.headers.get("If-Match")
        if match is not None and match != etag:
            self.send_error(412)
            return
        if wanted is None or server.whole:  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        first, last = wanted.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(
    content: tuple[bytes, str | None], *, whole: bool = False
) -> Iterator[tuple[ThreadingHTTPServer, HTTPStore]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.content, server.whole, server.seen = content, whole, []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield (
            server,
            HTTPStore.from_url(
                f"http://127.0.0.1:{server.server_port}",
                client_options={"allow_http": True},
                retry_config={"max_retries": 0},
            ),
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


BOUNDS = (600200.0, 5096000.0, 601000.0, 5097000.0)


@pytest.mark.parametrize("etag", ['"one"', None, 'W/"weak"'])
def test_over_http_by_ranges_without_head(tmp_path: Path, etag: str | None) -> None:
    path = write_tiff(tmp_path / "in.tif", noise((1, 512, 512), "uint16"))
    with serving((path.read_bytes(), etag)) as (server, store):
        plan = plan_crop(store, "in.tif", BOUNDS, "EPSG:32632")
        assert plan is not None
        result = crop(store, "in.tif", plan, tmp_path / "out.tif")
        assert "HEAD" not in server.seen
        assert None not in server.seen, "a request without a range"
        assert result.requests == len(server.seen)
    with rasterio.open(path) as source, rasterio.open(tmp_path / "out.tif") as cropped:
        assert np.array_equal(source.read(window=RasterioWindow(*plan.window)), cropped.read())


@pytest.mark.parametrize(("before", "after"), [('"one"', '"two"'), (None, None), ('W/"a"', 'W/"b"')])
def test_a_source_that_changes_is_an_error(tmp_path: Path, before: str | None, after: str | None) -> None:
    path = write_tiff(tmp_path / "in.tif", noise((1, 512, 512), "uint16"))
    data = path.read_bytes()
    with serving((data, before)) as (server, store):
        plan = plan_crop(store, "in.tif", BOUNDS, "EPSG:32632")
        assert plan is not None
        server.content = (data + b"x", after)
        with pytest.raises(TransferError, match="changed"):
            crop(store, "in.tif", plan, tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()


def test_a_server_without_ranges(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "in.tif", noise((1, 256, 256), "uint16"))
    with (
        serving((path.read_bytes(), None), whole=True) as (_, store),
        pytest.raises(TransferError, match="range"),
    ):
        plan_crop(store, "in.tif", BOUNDS, "EPSG:32632")
    with (
        serving((b"<html>log in</html>", None), whole=True) as (_, store),
        pytest.raises(RasterError, match="log in"),
    ):
        plan_crop(store, "in.tif", BOUNDS, "EPSG:32632")


def test_a_missing_object(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="does not exist"):
        plan_crop(LocalStore(tmp_path), "none.tif", BOUNDS, "EPSG:32632")


def test_windows_align() -> None:
    assert Window(70, 90, 60, 70).aligned(64, 64, 150, 300) == (64, 64, 86, 128)


def test_a_negative_vertical_scale_is_read_as_gdal_reads_it(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "in.tif", noise((1, 256, 256), "uint16"))
    data = bytearray(path.read_bytes())
    scale = np.array([20.0, 20.0, 0.0]).tobytes()
    at = data.index(scale)
    data[at : at + 24] = np.array([20.0, -20.0, 0.0]).tobytes()
    path.write_bytes(bytes(data))
    crop_and_compare(path, (70, 70, 50, 50), tmp_path / "out.tif")


def test_other_readers_see_the_same_pixels(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "in.tif", noise((1, 300, 280), "uint16"), predictor=2, compress="lzw")
    plan, _ = crop_and_compare(path, (70, 90, 60, 70), tmp_path / "out.tif")
    w = plan.window
    expected = tifffile.imread(path)[w.row : w.stop_row, w.column : w.stop_column]
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), expected)

    async def read() -> np.ndarray:
        opened = await GeoTIFF.open("out.tif", store=LocalStore(tmp_path))
        return (await opened.read()).data[0]

    assert np.array_equal(run_async(read()), expected)


def test_a_tile_that_came_with_the_header_inside_a_joined_range(tmp_path: Path) -> None:
    data = noise((1, 256, 256), "uint16")
    path = write_tiff(tmp_path / "in.tif", data, tags={"NOTE": "directory at the end of the file"})
    crop_and_compare(path, (0, 0, 256, 256), tmp_path / "out.tif")
