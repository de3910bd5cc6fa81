"""EnMAP's radiance against rasterio, ElementTree and float64 arithmetic."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from test_swath import source, stored

from geostack_pipeline.cube.granule import chosen_bands
from geostack_pipeline.cube.swath import Granule, open_granule, readable
from geostack_pipeline.cube.swath_enmap import detector
from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.enmap import parse_metadata
from geostack_pipeline.sandbox.world.enmap_level1 import EnmapRadiance, radiance_products

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
RANGES = ((640.0, 670.0), (2120.0, 2480.0))


@pytest.fixture(scope="module")
def l1b(swath_world: Any) -> EnmapRadiance:
    return radiance_products(swath_world, "L1B")[0]


@pytest.fixture(scope="module")
def l1c(swath_world: Any) -> EnmapRadiance:
    return radiance_products(swath_world, "L1C")[0]


@pytest.fixture(scope="module")
def bounds(swath_world: Any, l1c: EnmapRadiance) -> Any:
    return next(area.bbox for area in swath_world.areas if area.name == l1c.scene.area)


def granule_of(product: EnmapRadiance, *without: str) -> Granule:
    return Granule(
        item_id=product.id,
        scene="ENMAP_1",
        collection=f"ENMAP_HSI_{product.level}",
        datetime=product.scene.start,
        platform="enmap",
        area=product.scene.area,
        files={
            key: source(path) for key, path in product.files.items() if key not in {"THUMBNAIL", *without}
        },
    )


def told(product: EnmapRadiance) -> dict[str, np.ndarray[Any, Any]]:
    """What the metadata file says of the bands, by an independent reader."""
    bands = ET.parse(product.files["METADATA"]).getroot().findall("specific/bandCharacterisation/bandID")
    return {
        name: np.array([float(band.findtext(name) or "nan") for band in bands])
        for name in ("wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand")
    }


def radiance(numbers: Any, about: dict[str, Any], kept: Any) -> Any:
    """W m-2 sr-1 nm-1 are 100 uW cm-2 sr-1 nm-1; stored number 0 is no data."""
    scaled = numbers.astype(np.float64) * about["GainOfBand"][kept, None, None]
    return np.where(numbers == 0, np.nan, 100.0 * (scaled + about["OffsetOfBand"][kept, None, None]))


def inside(nm: Any) -> Any:
    return np.flatnonzero(((nm >= 640) & (nm <= 670)) | ((nm >= 2120) & (nm <= 2480)))


def test_radiance_on_the_map(tmp_path: Path, l1c: EnmapRadiance, bounds: Any) -> None:
    cube = stored(tmp_path / "t", granule_of(l1c), bounds=bounds, ranges=RANGES)
    about = told(l1c)
    kept = inside(about["wavelengthCenterOfBand"])
    with rasterio.open(l1c.files["SPECTRAL_IMAGE"]) as raster:
        assert (raster.count, raster.dtypes[0], raster.nodata) == (224, "uint16", 0)
        column, row = ~raster.transform @ (cube["x"].values[0], cube["y"].values[0])
        window = rasterio.windows.Window(int(column), int(row), cube.sizes["x"], cube.sizes["y"])
        numbers = raster.read((kept + 1).tolist(), window=window)
    assert cube["radiance"].dims == ("wavelength", "y", "x")
    assert cube["radiance"].dtype == np.float32
    assert np.isnan(cube["radiance"].values).any() == (numbers == 0).any()
    np.testing.assert_allclose(cube["radiance"].values, radiance(numbers, about, kept), rtol=2e-7)
    assert cube["radiance"].attrs["units"] == "uW cm-2 sr-1 nm-1"
    for name, member in (
        ("wavelength", "wavelengthCenterOfBand"),
        ("fwhm", "FWHMOfBand"),
        ("gain", "GainOfBand"),
        ("offset", "OffsetOfBand"),
    ):
        assert np.array_equal(cube[name].values, about[member][kept])
        assert cube[name].attrs["units"]
    assert 1.0 < float(cube["radiance"].sel(wavelength=655, method="nearest").median()) < 30.0
    for key, dims in (("quality_classes", ("y", "x")), ("quality_pixelmask", ("wavelength", "y", "x"))):
        with rasterio.open(l1c.files[key.upper()]) as layer:
            bands = (kept + 1).tolist() if layer.count > 1 else 1
            assert cube[key].dims == dims
            assert np.array_equal(cube[key].values, layer.read(bands, window=window))
    assert cube["quality_cirrus"].attrs["flag_meanings"] == "none thin medium thick"
    assert len(cube["quality_cirrus"].attrs["flag_values"]) == 4
    assert cube.attrs["proj:code"] == f"EPSG:{l1c.scene.epsg}"


def test_each_detector_of_level_1b_has_its_own_geometry(
    tmp_path: Path, l1b: EnmapRadiance, bounds: Any
) -> None:
    cube = stored(tmp_path / "t", granule_of(l1b), bounds=bounds, ranges=RANGES)
    about = told(l1b)
    kept = inside(about["wavelengthCenterOfBand"])
    assert not {"x", "y", "spatial_ref"} & set(cube.variables)
    for part, own in (("vnir", kept[kept < 91]), ("swir", kept[kept >= 91])):
        first = 0 if part == "vnir" else 91
        with rasterio.open(l1b.files[f"SPECTRAL_IMAGE_{part.upper()}"]) as raster:
            assert raster.count == (91 if part == "vnir" else 133)
            assert raster.crs is None
            numbers = raster.read((own - first + 1).tolist())
        values = cube[f"radiance_{part}"]
        assert values.dims == (f"{part}_downtrack", f"{part}_crosstrack", f"{part}_wavelength")
        expected = np.moveaxis(radiance(numbers, about, own), 0, -1)
        np.testing.assert_allclose(values.values, expected, rtol=2e-7)
        alone = detector(cube, part)
        assert alone["radiance"].dims == ("downtrack", "crosstrack", "wavelength")
        assert np.array_equal(alone["radiance"].values, values.values)
        assert np.array_equal(alone["wavelength"].values, about["wavelengthCenterOfBand"][own])
        assert np.array_equal(alone["fwhm"].values, about["FWHMOfBand"][own])
        assert np.array_equal(alone["gain"].values, about["GainOfBand"][own])
        assert np.array_equal(alone["band_number"].values, own + 1)
        assert alone["time"].values == np.datetime64(l1b.scene.start.replace(tzinfo=None), "ns")
        with rasterio.open(l1b.files[f"QUALITY_PIXELMASK_{part.upper()}"]) as layer:
            assert np.array_equal(alone["quality_pixelmask"].values, layer.read((own - first + 1).tolist()))
        assert alone["quality_testflags"].dims == ("downtrack", "crosstrack")
    # Layers of neither detector have the geometry of VNIR.
    assert cube["quality_classes"].dims == ("vnir_downtrack", "vnir_crosstrack")
    with pytest.raises(RasterError, match="pan"):
        detector(cube, "pan")
    with pytest.raises(RasterError, match="no such detector"):
        detector(xr.Dataset(), "swir")


def test_the_detectors_see_the_ground_some_pixels_apart(swath_world: Any, l1b: EnmapRadiance) -> None:
    """Where the two overlap spectrally they show one ground, after a shift along the track."""
    about = told(l1b)["wavelengthCenterOfBand"]
    near = int(np.argmin(np.abs(about[91:] - about[90])))
    with rasterio.open(l1b.files["SPECTRAL_IMAGE_VNIR"]) as raster:
        vnir = raster.read(91).astype(float)
    with rasterio.open(l1b.files["SPECTRAL_IMAGE_SWIR"]) as raster:
        swir = raster.read(near + 1).astype(float)

    def alike(shift: int) -> float:
        return float(np.corrcoef(vnir[shift:].ravel(), swir[: len(swir) - shift].ravel())[0, 1])

    best = max(range(40), key=alike)
    assert best == 20  # 600 m of 30 m
    assert alike(best) > 0.8 > alike(0)


def test_a_detector_without_wanted_bands_is_left_out(tmp_path: Path, l1b: EnmapRadiance, bounds: Any) -> None:
    with open_granule(granule_of(l1b), bounds=bounds, ranges=((2100.0, 2500.0),)) as node:
        assert node.main == "radiance_swir"
        assert "radiance_vnir" not in node.dataset
        assert not [name for name in node.dataset.dims if str(name).startswith("vnir")]
    alone = granule_of(l1b, "SPECTRAL_IMAGE_SWIR")
    with open_granule(alone, bounds=bounds, ranges=RANGES) as node:
        assert node.main == "radiance_vnir"
    assert readable(["SPECTRAL_IMAGE_VNIR"])


def test_what_does_not_fit_is_refused(
    tmp_path: Path, l1b: EnmapRadiance, l1c: EnmapRadiance, bounds: Any
) -> None:
    def refused(granule: Granule, match: str, ranges: Any = RANGES) -> None:
        with (
            pytest.raises(RasterError, match=match),
            open_granule(granule, bounds=bounds, ranges=ranges) as node,
        ):
            node.dataset.load()

    def changed(product: EnmapRadiance, key: str, path: Path) -> Granule:
        granule = granule_of(product)
        return replace(granule, files={**granule.files, key: source(path)})

    def rewritten(product: EnmapRadiance, old: str, new: str) -> Granule:
        text = product.files["METADATA"].read_text()
        assert old in text
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.xml"
        path.write_text(text.replace(old, new))
        return changed(product, "METADATA", path)

    for product in (l1b, l1c):
        refused(granule_of(product), "wavelengths", ((3000.0, 4000.0),))
        refused(granule_of(product, "METADATA"), "no metadata file")
    refused(rewritten(l1b, "<channels>91</channels>", "<channels>90</channels>"), "90 VNIR and 133 SWIR")
    refused(rewritten(l1b, "<channels>91</channels>", ""), "None VNIR")
    refused(rewritten(l1c, ">L1C<", ">L1B<"), "not on a map")
    refused(rewritten(l1c, ">L1C<", ">L2A<"), "no surface reflectance")
    swapped = changed(l1b, "SPECTRAL_IMAGE_SWIR", l1b.files["SPECTRAL_IMAGE_VNIR"])
    refused(swapped, "91 bands in the image, 133")
    refused(changed(l1b, "QUALITY_PIXELMASK_SWIR", l1b.files["QUALITY_PIXELMASK_VNIR"]), "planes")
    small = tmp_path / "small.tif"
    with rasterio.open(small, "w", driver="GTiff", width=5, height=5, count=1, dtype="uint8") as raster:
        raster.write(np.zeros((1, 5, 5), np.uint8))
    refused(changed(l1b, "QUALITY_CLOUD", small), "5 x 5")
    for key, product in (("SPECTRAL_IMAGE_SWIR", l1b), ("SPECTRAL_IMAGE", l1c)):
        cut = tmp_path / f"{key}.tif"
        data = product.files[key].read_bytes()
        cut.write_bytes(data[: len(data) // 2])
        with (
            pytest.raises((RasterError, OSError)) as found,
            open_granule(changed(product, key, cut), bounds=bounds, ranges=RANGES) as node,
        ):
            node.dataset.load()
        assert "geostack_pipeline" in type(found.value).__module__


def test_the_metadata_tell_the_level_and_the_detectors(l1b: EnmapRadiance, l1c: EnmapRadiance) -> None:
    found = parse_metadata(l1b.files["METADATA"].read_bytes(), "x")
    assert found.level == "L1B"
    assert dict(found.channels) == {"vnir": 91, "swir": 133}
    assert (found.bands_of("vnir", "x"), found.bands_of("swir", "x")) == (slice(0, 91), slice(91, 224))
    assert found.nodata == 0
    other = parse_metadata(l1c.files["METADATA"].read_bytes(), "x")
    assert other.level == "L1C"
    assert len(set(other.gain)) > 100
    with pytest.raises(RasterError, match="channels"):
        other.bands_of("vnir", "x")


@settings(max_examples=150)
@given(
    st.lists(st.floats(350, 2600), min_size=1, max_size=40),
    st.lists(st.tuples(st.floats(300, 2700), st.floats(0, 500)), min_size=1, max_size=4),
)
def test_chosen_are_the_bands_inside_any_range_in_the_products_order(
    nm: list[float], spans: list[tuple[float, float]]
) -> None:
    ranges = [(low, low + width) for low, width in spans]
    expected = [i for i, centre in enumerate(nm) if any(low <= centre <= high for low, high in ranges)]
    if not expected:
        with pytest.raises(RasterError, match="wavelengths_nm"):
            chosen_bands(np.array(nm), ranges, "x")
    else:
        assert chosen_bands(np.array(nm), ranges, "x") == expected
