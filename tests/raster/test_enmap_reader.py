"""EnMAP's metadata file, and images of many bands, against ElementTree and rasterio."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import LocalStore, MemoryStore
from rasterio.transform import from_origin

from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.enmap import parse_metadata, read_metadata
from geostack_pipeline.raster.source import open_raster
from geostack_pipeline.raster.window import Window
from geostack_pipeline.sandbox.world.enmap import enmap_scenes


@pytest.fixture(scope="module")
def scene(swath_world: Any) -> Any:
    return enmap_scenes(swath_world)[1]


@pytest.fixture(scope="module")
def text(scene: Any) -> str:
    return str(scene.files["METADATA"].read_text())


def test_every_band_is_told(scene: Any, text: str) -> None:
    path = scene.files["METADATA"]
    found = read_metadata(LocalStore(path.parent), path.name)
    assert found.level == "L2A"
    for name, values in (
        ("wavelengthCenterOfBand", found.wavelength),
        ("FWHMOfBand", found.fwhm),
        ("GainOfBand", found.gain),
        ("OffsetOfBand", found.offset),
    ):
        listed = [float(value) for value in re.findall(rf"<{name}>([^<]*)<", text)]
        assert len(listed) == 224
        assert values.tolist() == listed
    assert found.nodata == -32768
    assert found.sun_elevation_deg == pytest.approx(scene.sun_elevation_deg, abs=1e-5)


def test_the_bands_are_those_of_a_recorded_item(shared_dir: Path, text: str) -> None:
    item = json.loads((shared_dir / "samples/dlr-eoc/enmap_l2a.item_2024.json").read_text())
    bands = item["assets"]["image"]["eo:bands"]
    found = parse_metadata(text.encode(), "test")
    assert found.wavelength == pytest.approx([band["center_wavelength"] for band in bands])
    assert found.fwhm == pytest.approx([band["full_width_half_max"] for band in bands], rel=1e-4)
    assert (found.gain == [band["enmap:gain_of_band"] for band in bands]).all()


def test_namespaces_order_and_empty_offsets_do_not_matter(text: str) -> None:
    spaced = text.replace("<level_X ", '<level_X xmlns="http://example.org/enmap" ')
    assert parse_metadata(spaced.encode(), "x").wavelength.size == 224
    pattern = r"<bandID number=\"1\">\s*<wave.*?</bandID>\s*"
    first = re.search(pattern, text, re.DOTALL)
    assert first is not None
    moved = re.sub(pattern, "", text, count=1, flags=re.DOTALL)
    moved = moved.replace("</bandCharacterisation>", first.group() + "</bandCharacterisation>")
    assert parse_metadata(moved.encode(), "x").wavelength[0] == 418.416
    empty = text.replace("<OffsetOfBand>0</OffsetOfBand>", "<OffsetOfBand/>")
    assert (parse_metadata(empty.encode(), "x").offset == 0).all()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:3000],
        lambda text: text.replace("bandCharacterisation", "other"),
        lambda text: text.replace('<bandID number="7">\n', '<bandID number="8">\n', 1),
        lambda text: text.replace("<FWHMOfBand>6.66750", "<FWHMOfBand>none", 1).replace(
            "<FWHMOfBand>6.6675<", "<FWHMOfBand>none<", 1
        ),
        lambda text: text.replace("<wavelengthCenterOfBand>418.416<", "<wavelengthCenterOfBand>nan<"),
        lambda text: '<!DOCTYPE x [<!ENTITY a "aaaa">]>' + text.partition("?>")[2],
        lambda _: "<html>log in</html>",
        lambda _: "",
    ],
)
def test_what_is_no_such_file_is_refused(text: str, spoil: Any) -> None:
    with pytest.raises(RasterError):
        parse_metadata(spoil(text).encode(), "x")


@settings(max_examples=150)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused(text: str, data: st.DataObject) -> None:
    raw = bytearray(text.encode()[-60_000:] if data.draw(st.booleans()) else text.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=12))
    try:
        found = parse_metadata(bytes(raw), "x")
    except RasterError:
        return
    assert np.isfinite(found.wavelength).all()
    assert len(found.wavelength) == len(found.gain) > 0


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("remote", [False, True])
def test_many_bands_of_a_window_equal_rasterio(tmp_path: Path, interleave: str, remote: bool) -> None:
    rng = np.random.default_rng(5)
    values = rng.integers(-3000, 9000, (9, 150, 170)).astype(np.int16)
    path = tmp_path / "image.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=170, height=150, count=9, dtype="int16", crs="EPSG:32631",
        transform=from_origin(5e5, 4e6, 30, 30), tiled=True, blockxsize=64, blockysize=64, compress="deflate",
        predictor=2, interleave=interleave, nodata=-32768,
    ) as raster:  # fmt: skip
        raster.write(values)
    store: Any = LocalStore(tmp_path)
    if remote:
        store = MemoryStore()
        store.put("image.tif", path.read_bytes())
    with open_raster(store, "image.tif") as raster:
        for window in (Window(0, 0, 170, 150), Window(60, 63, 70, 2), Window(169, 149, 1, 1)):
            for bands in ([1], [9, 2, 2, 5], list(range(1, 10))):
                found = raster.read_bands(window, bands)
                rows = slice(window.row, window.stop_row)
                columns = slice(window.column, window.stop_column)
                assert np.array_equal(found, values[[band - 1 for band in bands], rows, columns])
        for window, bands in ((Window(0, 0, 171, 10), [1]), (Window(0, 0, 5, 5), [1, 10])):
            with pytest.raises(RasterError):
                raster.read_bands(window, bands)


def test_a_published_image_is_read_as_rasterio_reads_it(scene: Any) -> None:
    path = scene.files["SPECTRAL_IMAGE"]
    with open_raster(LocalStore(path.parent), path.name) as raster, rasterio.open(path) as oracle:
        window = Window(11, 20, 70, 60)
        found = raster.read_bands(window, [3, 100, 224])
        expected = oracle.read([3, 100, 224], window=rasterio.windows.Window(11, 20, 70, 60))
        assert np.array_equal(found, expected)
        assert raster.nodata == -32768
