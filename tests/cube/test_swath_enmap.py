"""EnMAP's radiance against rasterio, ElementTree and float64 arithmetic."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from test_swath import source, stored

from benchmarks.filter_twins import cmf_twin
from geostack_pipeline.cube.granule import chosen_bands
from geostack_pipeline.cube.ortho import orthorectify
from geostack_pipeline.cube.swath import Granule, open_granule, readable
from geostack_pipeline.cube.swath_enmap import detector
from geostack_pipeline.errors import RasterError
from geostack_pipeline.methane.plumes import NO_MAP, detect
from geostack_pipeline.methane.swath_quality import EXCLUDED, SwathQuality
from geostack_pipeline.methane.swath_retrieve import retrieve_granule
from geostack_pipeline.methane.target import unit_absorption
from geostack_pipeline.raster.enmap import parse_metadata
from geostack_pipeline.sandbox.world.enmap import passes
from geostack_pipeline.sandbox.world.enmap_level1 import EnmapRadiance, radiance_products, sensor_swath

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
    assert not {"x", "y"} & set(cube.variables)
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
        flags = alone["quality_testflags"]
        assert flags.dims == ("downtrack", "crosstrack")
        meanings = flags.attrs["flag_meanings"].split()
        bit = flags.attrs["flag_masks"][meanings.index(f"interpolated_{part}")]
        assert np.flatnonzero((flags.values & bit).any(axis=0)).tolist() == [40]
        assert len(meanings) == len(flags.attrs["flag_masks"]) == len(flags.attrs["flag_values"])
    # Layers of neither detector have the geometry of VNIR.
    assert cube["quality_classes"].dims == ("vnir_downtrack", "vnir_crosstrack")
    with pytest.raises(RasterError, match="pan"):
        detector(cube, "pan")
    with pytest.raises(RasterError, match="no such detector"):
        detector(xr.Dataset(), "swir")


def test_the_pixels_of_level_1b_lie_where_the_swath_does(
    tmp_path: Path, swath_world: Any, l1b: EnmapRadiance, bounds: Any
) -> None:
    """Against the sandbox's own swath; the look-up table is the nearest pixel of each place of the map."""
    planned = next(each for each in passes(swath_world) if each.start == l1b.scene.start)
    cube = stored(tmp_path / "t", granule_of(l1b), bounds=bounds, ranges=RANGES)
    for part in ("vnir", "swir"):
        swath = sensor_swath(planned, part.upper())
        alone = detector(cube, part)
        x, y = pyproj.Transformer.from_crs("EPSG:4326", f"EPSG:{swath.epsg}", always_xy=True).transform(
            alone["lon"].values, alone["lat"].values
        )
        true_x, true_y = swath.centres
        assert np.hypot(x - true_x, y - true_y).max() < 1.0, "metres of 30"
        table = np.stack([alone["glt_y"].values, alone["glt_x"].values])
        assert alone["glt_x"].attrs["grid_mapping"] == "spatial_ref"
        assert "12 m" in alone["lon"].attrs["comment"]
        found = orthorectify(alone[["radiance"]].isel(wavelength=[0]), alone)
        points = np.meshgrid(found["x"].values, found["y"].values)
        east, north = pyproj.Transformer.from_crs(
            "EPSG:4326", f"EPSG:{swath.epsg}", always_xy=True
        ).transform(*points)
        assert "wavelength_of_column" not in found.coords
        rows, columns = np.nonzero(table[0])
        line, sample = table[:, rows, columns] - 1
        off = np.hypot(
            east[rows, columns] - true_x[line, sample], north[rows, columns] - true_y[line, sample]
        )
        assert off.max() <= 15.0 * np.sqrt(2.0) + 1.0, "half a pixel's diagonal"
        assert np.array_equal(
            found["radiance"].values[rows, columns, 0], alone["radiance"].values[line, sample, 0]
        )
        assert len(set(zip(line, sample, strict=True))) == swath.lines * swath.samples, "no pixel is lost"


def test_the_smile_is_told_per_detector_column(tmp_path: Path, l1b: EnmapRadiance, bounds: Any) -> None:
    cube = stored(tmp_path / "t", granule_of(l1b), bounds=bounds, ranges=RANGES)
    root = ET.parse(l1b.files["METADATA"]).getroot()
    for part in ("vnir", "swir"):
        alone = detector(cube, part)
        first = 0 if part == "vnir" else 91
        own = alone["wavelength_of_column"]
        assert own.dims == ("crosstrack", "wavelength")
        for index, number in enumerate(alone["band_number"].values - first):
            band = next(
                each
                for each in root.findall(f"product/smileCorrection/{part.upper()}/bandID")
                if each.get("number") == str(number)
            )
            told = [float(band.findtext(f"coeff{k}") or "nan") for k in range(5)]
            column = np.arange(1, alone.sizes["crosstrack"] + 1, dtype=float)
            shift = sum(c * column**k for k, c in enumerate(told))
            np.testing.assert_allclose(
                own.values[:, index], float(alone["wavelength"][index]) + shift, rtol=1e-12
            )
        assert 0.005 < np.abs(own - alone["wavelength"]).values.max() < 0.02


@pytest.mark.parametrize(
    ("old", "new", "lacking"),
    [
        ("ROW_NUM_07>", "ROW_NUM_7x>", "swir_glt_x"),
        ("LAT_SCALE>", "LAT_SCALES>", "swir_lat"),
        ("navigation>", "other>", "vnir_lon"),
        ("smileCorrection>", "other>", "swir_wavelength_of_column"),
        ("<coeff0>[^<]*<", "<coeff0>50<", "swir_wavelength_of_column"),
        ("<coeff3>[^<]*<", "<coeff3>none<", "swir_wavelength_of_column"),
        ("<wavelength>[^<]*<", "<wavelength>999<", "swir_wavelength_of_column"),
    ],
)
def test_geometry_that_is_not_told_completely_is_left_out(
    tmp_path: Path, l1b: EnmapRadiance, bounds: Any, old: str, new: str, lacking: str
) -> None:
    text, count = re.subn(old, new, l1b.files["METADATA"].read_text())
    assert count
    path = tmp_path / "m.xml"
    path.write_text(text)
    granule = granule_of(l1b)
    granule = replace(granule, files={**granule.files, "METADATA": source(path)})
    with open_granule(granule, bounds=bounds, ranges=RANGES) as node:
        assert lacking not in node.dataset.variables
        assert "radiance_swir" in node.dataset
        assert ("geolocation" in node.dataset.attrs) == (not lacking.endswith("_of_column"))


def test_methane_of_level_1b_is_filtered_by_detector_columns_in_sensor_geometry(
    tmp_path: Path, l1b: EnmapRadiance, bounds: Any
) -> None:
    """The stored product against the float64 twin on the same groups of columns; without a map there are no plumes."""
    whole = stored(tmp_path / "t", granule_of(l1b), bounds=bounds, ranges=RANGES)
    node = whole.drop_vars(["swir_glt_x", "swir_glt_y"])
    fields = retrieve_granule(node, [], method="cmf")
    assert fields["ch4_enhancement"].dims == ("time", "downtrack", "crosstrack")
    about = told(l1b)
    nm, width = about["wavelengthCenterOfBand"][91:], about["FWHMOfBand"][91:]
    window = np.flatnonzero((nm >= 2122.0) & (nm <= 2480.0))
    with rasterio.open(l1b.files["SPECTRAL_IMAGE_SWIR"]) as raster:
        numbers = raster.read((window + 1).tolist())
    spectra = np.moveaxis(radiance(numbers, about, 91 + window), 0, -1)
    root = ET.parse(l1b.files["METADATA"]).getroot()
    sun, view = (
        np.radians(float(root.findtext(f"specific/{name}/center") or "nan"))
        for name in ("sunElevationAngle", "acrossOffNadirAngle")
    )
    own = detector(node, "swir")["wavelength_of_column"].transpose("crosstrack", "wavelength")
    lines, columns, bands = spectra.shape
    # A covariance wants four pixels per band: neighbouring columns of this short scene share theirs.
    count = columns // -(-4 * bands // lines)
    edges = np.linspace(0, columns, count + 1).round().astype(int)
    assert fields.attrs["columns_filtered_together"] == np.diff(edges).max() > 1
    found, flags = fields["ch4_enhancement"].values[0], fields["quality_flags"].values[0]
    assert np.isfinite(found).mean() > 0.9
    for group in (0, count // 2, count - 1):
        part = np.s_[:, edges[group] : edges[group + 1]]
        good = np.isfinite(found[part]).ravel()
        assert np.array_equal(good, (flags[part].ravel() & int(EXCLUDED)) == 0)
        # A group's target is that of the mean centres of its columns' bands, which the smile shifts.
        unit = unit_absorption(
            own.values[edges[group] : edges[group + 1]].mean(axis=0)[-bands:],
            width[window],
            air_mass=1.0 / np.sin(sun) + 1.0 / np.cos(np.arcsin(7014.0 / 6371.0 * np.sin(abs(view)))),
        )
        expected, _, _ = cmf_twin(spectra[part].reshape(-1, bands), good, unit)
        assert np.nanmax(np.abs(found[part].ravel() - expected)) < 1e-3 * np.nanstd(expected)
    assert fields.attrs["maturity"] == "experimental"
    assert fields.attrs["instrument"].startswith("EnMAP")
    table = detect(fields, area="korpezhe", provider="dlr_geoservice")
    assert table.num_rows == 0
    assert NO_MAP.encode() in table.schema.metadata[b"geostack:rejected"]


def _stored_l1b(folder: Path, l1b: EnmapRadiance, bounds: Any) -> xr.Dataset:
    ranges = ((470.0, 490.0), *RANGES)
    return stored(folder, granule_of(l1b), bounds=bounds, ranges=ranges).load()


def test_masks_of_vnir_come_to_the_pixels_of_swir_that_show_the_same_ground(
    tmp_path: Path, l1b: EnmapRadiance, bounds: Any
) -> None:
    """The slits lie 600 m apart, 20 lines: line i of SWIR has the mask of line i + 20, and the last lines have none."""
    node = _stored_l1b(tmp_path / "t", l1b, bounds)
    rng = np.random.default_rng(5)
    lines, columns = node["quality_cloud"].shape
    cloud = (rng.random((lines, columns)) < 0.1).astype(np.uint8)
    node["quality_cloud"].values[:] = cloud
    node["quality_classes"].values[40, :] = 2
    fields = retrieve_granule(node.drop_vars(["swir_glt_x", "swir_glt_y"]), [], method="cmf")
    flags = fields["quality_flags"].values[0]
    # The line after the last one of VNIR is a pixel from it, within reach; the next ones are not.
    reached = lines - 19
    expected = np.concatenate([cloud[20:], cloud[-1:]]).astype(bool)
    assert np.array_equal((flags[:reached] & int(SwathQuality.CLOUD)) != 0, expected)
    unmasked = (flags & int(SwathQuality.NO_CLOUD_MASK)) != 0
    assert unmasked[reached:].all()
    assert not unmasked[:reached].any()
    assert np.flatnonzero(((flags & int(SwathQuality.WATER)) != 0).all(axis=1)).tolist() == [20]
    found = fields["ch4_enhancement"].values[0]
    assert np.isnan(found[:reached][expected]).all()
    assert np.isfinite(found[reached:]).mean() > 0.9


def test_without_a_mask_the_blue_of_vnir_tells_the_clouds_of_swir(
    tmp_path: Path, l1b: EnmapRadiance, bounds: Any
) -> None:
    node = _stored_l1b(tmp_path / "t", l1b, bounds).drop_vars("quality_cloud")
    blue = int(np.flatnonzero(node["vnir_wavelength"].values < 500.0)[0])
    node["radiance_vnir"].values[60:70, 30:50, blue] = 60.0
    fields = retrieve_granule(node.drop_vars(["swir_glt_x", "swir_glt_y"]), [], method="cmf")
    flags = fields["quality_flags"].values[0]
    expected = np.zeros(flags.shape, bool)
    expected[40:50, 30:50] = True
    assert np.array_equal((flags & int(SwathQuality.CLOUD)) != 0, expected)
    assert ((flags & int(SwathQuality.NO_CLOUD_MASK)) != 0).all()


def test_what_swir_tells_of_itself_counts_and_without_places_no_mask_does(
    tmp_path: Path, l1b: EnmapRadiance, bounds: Any
) -> None:
    node = _stored_l1b(tmp_path / "t", l1b, bounds)
    node["quality_cloud"].values[:] = 1
    node["quality_testflags_swir"].values[5, 6] |= 16
    node["quality_pixelmask_swir"].values[:, 7, 8] = 1
    lost = node.drop_vars(["swir_glt_x", "swir_glt_y", "vnir_lon", "vnir_lat"])
    flags = retrieve_granule(lost, [], method="cmf")["quality_flags"].values[0]
    assert ((flags & int(SwathQuality.NO_CLOUD_MASK)) != 0).all()
    assert not (flags & int(SwathQuality.CLOUD)).any()
    assert np.argwhere(flags & int(SwathQuality.SATURATED)).tolist() == [[5, 6]]
    assert [7, 8] in np.argwhere(flags & int(SwathQuality.DEFECTIVE_OR_DARK)).tolist()


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
