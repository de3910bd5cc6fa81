"""EMIT's and EnMAP's files of the synthetic world: structure of the products, one physical truth, same bytes."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import shapely
from pyproj import Transformer
from scipy.ndimage import map_coordinates

from geostack_pipeline.errors import StorageError
from geostack_pipeline.sandbox.world import emit_files
from geostack_pipeline.sandbox.world.emit import emit_granules, passes
from geostack_pipeline.sandbox.world.enmap import enmap_scenes
from geostack_pipeline.sandbox.world.products import appear
from geostack_pipeline.sandbox.world.world import World

# The methane of a line of the look-up table is felt here, and hardly there.
STRONG_NM, WEAK_NM = 2300.7, 2137.8


@pytest.fixture(scope="module")
def granules(swath_world: World) -> list[Any]:
    return emit_granules(swath_world)


@pytest.fixture(scope="module")
def scenes(swath_world: World) -> list[Any]:
    return enmap_scenes(swath_world)


def with_plume(granules: list[Any]) -> Any:
    return next(granule for granule in granules if granule.plumes)


def test_names_and_days_are_those_of_the_archive(granules: list[Any], swath_world: World) -> None:
    assert len({granule.name for granule in granules}) == len(granules) >= 4
    passes_of_s2 = {(each.site, each.start.date()) for each in swath_world.plan.passes if each.plumes}
    shared = [g for g in granules if (g.area, g.start.date()) in passes_of_s2]
    alone = [g for g in granules if (g.area, g.start.date()) not in passes_of_s2 and g.plumes]
    assert shared
    assert alone
    for granule in granules:
        year_day = granule.start.timetuple()
        assert granule.orbit[:5] == f"{year_day.tm_year % 100:02d}{year_day.tm_yday:03d}"
        assert set(granule.files) == {"CH4ENH", "CH4UNCERT", "CH4SENS", "RAD", "OBS", "RFL", "MASK"}
        for key, path in granule.files.items():
            assert path.stem.endswith(f"_{granule.name}"), key
            assert path.stat().st_size > 1000
        area = next(area for area in swath_world.areas if area.name == granule.area)
        assert granule.footprint.intersects(shapely.box(*area.bbox))
        assert granule.footprint.exterior.is_ccw


def test_the_planted_plumes_are_those_of_the_other_satellite(granules: list[Any], swath_world: World) -> None:
    plans = {
        (each.site, each.start.date(), plume.name): plume
        for each in swath_world.plan.passes
        for plume in each.plumes
    }
    compared = 0
    for granule in granules:
        for truth in granule.truth:
            plan = plans.get((granule.area, granule.start.date(), truth.name))
            if plan is not None:
                assert (truth.rate_kg_h, truth.wind_m_s) == (plan.rate_kg_h, plan.wind_m_s)
                compared += 1
    assert compared >= 2


def test_a_netcdf_has_the_structure_of_the_product(granules: list[Any]) -> None:
    granule = with_plume(granules)
    with h5py.File(granule.files["RAD"]) as file:
        lines, samples, bands = file["radiance"].shape
        assert bands == 285
        assert file["radiance"].dtype == np.float32
        assert file["radiance"].fillvalue == -9999.0
        assert file["radiance"].attrs["units"] == "uW/cm^2/SR/nm"
        assert [d[0].name for d in file["radiance"].dims] == ["/downtrack", "/crosstrack", "/bands"]
        assert file["flat_field_update"].shape == (samples, bands)
        nm = file["sensor_band_parameters/wavelengths"][:]
        assert (np.diff(nm) > 0).all()
        assert 380 < nm[0] < 382
        assert 2490 < nm[-1] < 2495
        assert file["sensor_band_parameters/fwhm"].shape == (bands,)
        assert set(file["location"]) == {"lon", "lat", "elev", "glt_x", "glt_y"}
        assert file["location/glt_x"].dtype == np.int32
        assert file.attrs["geotransform"].shape == (6,)
        assert "WGS 84" in file.attrs["spatial_ref"]
        assert file.attrs["time_coverage_start"].startswith(f"{granule.start:%Y-%m-%dT%H:%M:%S}")
        assert np.isfinite(file["radiance"][:]).all()
    with h5py.File(granule.files["OBS"]) as file:
        assert file["obs"].shape == (lines, samples, 11)
        names = [text.decode() for text in file["sensor_band_parameters/observation_bands"][:]]
        assert names[4].startswith("To-sun zenith")
        assert file["obs"][0, 0, 4] == pytest.approx(granule.sun_zenith_deg, abs=1e-4)
    with h5py.File(granule.files["RFL"]) as file:
        good = file["sensor_band_parameters/good_wavelengths"][:]
        assert 0 < (good == 0).sum() < 60
        assert (file["reflectance"][:, :, good == 0] == np.float32(-0.01)).all()
        assert 0.0 < np.median(file["reflectance"][:, :, good == 1]) < 0.7
    with h5py.File(granule.files["MASK"]) as file:
        assert file["mask"].shape == (lines, samples, 8)
        assert set(np.unique(file["mask"][:, :, 0])) <= {0.0, 1.0}


def test_the_look_up_table_leads_to_the_pixel_that_lies_there(granules: list[Any]) -> None:
    for granule in granules:
        with h5py.File(granule.files["RAD"]) as file:
            lon, lat = file["location/lon"][:], file["location/lat"][:]
            glt_x, glt_y = file["location/glt_x"][:], file["location/glt_y"][:]
            west, step, _, north, _, down = file.attrs["geotransform"]
        rows, columns = np.nonzero(glt_x)
        assert (glt_y[rows, columns] > 0).all()
        here_x, here_y = west + step * (columns + 0.5), north + down * (rows + 0.5)
        there = glt_y[rows, columns] - 1, glt_x[rows, columns] - 1
        metres_x = (lon[there] - here_x) * 111_320.0 * np.cos(np.radians(here_y))
        metres_y = (lat[there] - here_y) * 110_900.0
        # The nearest of pixels of 60 m is at most half a diagonal away.
        assert np.hypot(metres_x, metres_y).max() <= 60.0 / np.sqrt(2.0) + 1.0
        assert len(np.unique(glt_y[rows, columns] * 10_000 + glt_x[rows, columns])) > 0.85 * lon.size


def test_methane_maps_are_cogs_on_the_grid_of_the_look_up_table(granules: list[Any]) -> None:
    for granule in granules:
        with h5py.File(granule.files["RAD"]) as file:
            glt_x, glt_y = file["location/glt_x"][:], file["location/glt_y"][:]
            west, _, _, north, _, _ = file.attrs["geotransform"]
            band = int(np.argmin(abs(file["sensor_band_parameters/wavelengths"][:] - 2389.0)))
            flagged = file["radiance"][:, :, band] > 1.5
        with h5py.File(granule.files["MASK"]) as file:
            flagged |= (file["mask"][:, :, 0] > 0) | (file["mask"][:, :, 2] > 0)
        # What is a cloud, water or a flare has no data.
        used = glt_x > 0
        used[used] = ~flagged[glt_y[used] - 1, glt_x[used] - 1]
        for key in ("CH4ENH", "CH4UNCERT", "CH4SENS"):
            with rasterio.open(granule.files[key]) as raster:
                assert (raster.count, raster.dtypes[0], raster.nodata) == (1, "float32", -9999.0)
                assert raster.crs.to_epsg() == 4326
                assert raster.profile["tiled"]
                assert raster.transform.a == pytest.approx(0.000542232520256367)
                assert (raster.transform.c, raster.transform.f) == pytest.approx((west, north))
                assert np.array_equal(raster.read_masks(1) > 0, used)


def test_the_enhancement_is_the_planted_column_with_the_stated_noise(granules: list[Any]) -> None:
    """By what the truth tells: source, wind and mass."""
    compared = 0
    for granule in granules:
        with (
            rasterio.open(granule.files["CH4ENH"]) as raster,
            rasterio.open(granule.files["CH4UNCERT"]) as sigma,
        ):
            enhancement, valid = raster.read(1).astype(float), raster.read_masks(1) > 0
            uncertainty = sigma.read(1).astype(float)
            transform = raster.transform
        if not granule.truth:
            noise = enhancement[valid] / uncertainty[valid]
            assert 0.85 < noise.std() < 1.3
            assert 100 < enhancement[valid].std() < 350
            continue
        compared += 1
        truth = granule.truth[0]
        inside = valid & (enhancement > 8 * uncertainty)
        rows, columns = np.nonzero(inside)
        assert len(rows) > 15
        x, y = transform @ (columns + 0.5, rows + 0.5)
        # Gas lies downwind of the source: bearing of the mass's centre from the source.
        weight = enhancement[inside]
        east = np.average(x, weights=weight) - truth.longitude
        north = np.average(y, weights=weight) - truth.latitude
        bearing = np.degrees(np.arctan2(east * np.cos(np.radians(truth.latitude)), north)) % 360
        assert abs((bearing - truth.wind_to_deg + 180) % 360 - 180) < 15
        pixel_m2 = (transform.a * 111_320.0) ** 2 * np.cos(np.radians(truth.latitude))
        mass = weight.sum() * pixel_m2 * 1e-6 * 0.01604 / 22.4e-3
        # Strong plumes saturate, they raise the background that they are told from, and thin parts drown in noise.
        assert 0.4 * truth.mass_kg < mass < truth.mass_kg
    assert compared >= 3


def test_radiance_is_darkened_where_the_gas_is_and_where_it_absorbs(granules: list[Any]) -> None:
    granule = with_plume(granules)
    with h5py.File(granule.files["RAD"]) as file:
        nm = file["sensor_band_parameters/wavelengths"][:]
        strong, weak = (int(np.argmin(abs(nm - at))) for at in (STRONG_NM, WEAK_NM))
        ratio = file["radiance"][:, :, strong] / file["radiance"][:, :, weak]
        glt_x, glt_y = file["location/glt_x"][:], file["location/glt_y"][:]
    with rasterio.open(granule.files["CH4ENH"]) as raster:
        enhancement = raster.read(1)
    seen = glt_x > 0
    on_map = np.full(glt_x.shape, np.nan)
    on_map[seen] = ratio[glt_y[seen] - 1, glt_x[seen] - 1]
    gas, clear = seen & (enhancement > 4000), seen & (enhancement < 300)
    assert np.median(on_map[gas]) < 0.97 * np.median(on_map[clear])
    thick = seen & (enhancement > 2000)
    assert np.corrcoef(on_map[thick], enhancement[thick])[0, 1] < -0.8


def test_plume_products_mark_the_plume(granules: list[Any]) -> None:
    for granule in granules:
        for plume in granule.plumes:
            with (
                rasterio.open(plume.files["CH4PLM"]) as raster,
                rasterio.open(granule.files["CH4ENH"]) as whole,
            ):
                values, inside = raster.read(1), raster.read_masks(1) > 0
                assert raster.nodata == -9999.0
                left = (raster.transform.c - whole.transform.c) / whole.transform.a
                top = (raster.transform.f - whole.transform.f) / whole.transform.e
                assert left == pytest.approx(round(left), abs=1e-6)
                assert top == pytest.approx(round(top), abs=1e-6)
                window = ((round(top), round(top) + raster.height), (round(left), round(left) + raster.width))
                assert np.array_equal(whole.read(1, window=window)[inside], values[inside])
            assert plume.files["CH4PLM"].name == f"EMIT_L2B_CH4PLM_002_{plume.name}.tif"
            meta = json.loads(plume.files["CH4PLMMETA"].read_text())
            polygon = next(f for f in meta["features"] if f["geometry"]["type"] == "Polygon")
            properties = polygon["properties"]
            assert properties["Plume ID"] == f"CH4_PlumeComplex-{int(plume.number)}"
            assert properties["DAAC Scene Names"] == [f"EMIT_L2B_CH4ENH_002_{granule.name}"]
            assert properties["Max Plume Concentration (ppm m)"] == pytest.approx(values.max(), abs=0.51)
            outline = shapely.geometry.shape(polygon["geometry"])
            source = shapely.Point(granule.truth[0].longitude, granule.truth[0].latitude)
            assert outline.distance(source) < 0.001
            at = properties["Longitude of max concentration"], properties["Latitude of max concentration"]
            assert outline.contains(shapely.Point(at))


def test_same_seed_same_bytes_and_nothing_is_rendered_twice(
    swath_world: World, granules: list[Any], tmp_path: Path
) -> None:
    planned = passes(swath_world)[1]
    emit_files.render(swath_world.seed, planned, tmp_path)
    home = granules[1].files["RAD"].parent
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in home.iterdir())
    for name in names:
        one, other = (hashlib.sha256((at / name).read_bytes()).hexdigest() for at in (tmp_path, home))
        assert one == other, name
    before = {path: path.stat().st_mtime_ns for path in home.iterdir()}
    emit_granules(swath_world)
    assert {path: path.stat().st_mtime_ns for path in home.iterdir()} == before
    other_seed = tmp_path / "other"
    other_seed.mkdir()
    emit_files.render(swath_world.seed + 1, planned, other_seed)
    rad = granules[1].files["RAD"].name
    assert (other_seed / rad).read_bytes() != (tmp_path / rad).read_bytes()


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    def broken(work: Path) -> None:
        (work / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(StorageError, match="disk full"):
        appear(tmp_path / "a", broken)
    assert list(tmp_path.iterdir()) == []

    def slow(work: Path) -> None:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "first").write_text("1")
        (work / "second").write_text("2")

    appear(tmp_path / "b", slow)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_enmap_scenes_are_products_of_the_ground_segment(scenes: list[Any], swath_world: World) -> None:
    assert len(scenes) >= 3
    for scene in scenes:
        with rasterio.open(scene.files["SPECTRAL_IMAGE"]) as image:
            assert (image.count, image.dtypes[0], image.nodata) == (224, "int16", -32768)
            assert image.crs.to_epsg() == scene.epsg
            assert tuple(image.transform)[:6] == scene.transform
            assert (image.height, image.width) == scene.shape
            numbers = image.read()
        seen = (numbers != -32768).any(axis=0)
        empty = (numbers == -32768).all(axis=(1, 2))
        assert empty.sum() == 6
        assert 0.6 < seen.mean() < 0.95
        to_degrees = Transformer.from_crs(scene.epsg, 4326, always_xy=True)
        rows, columns = np.nonzero(seen)
        a, _, c, _, e, f = scene.transform
        x, y = to_degrees.transform(c + a * (columns + 0.5), f + e * (rows + 0.5))
        assert shapely.contains_xy(scene.footprint.buffer(1e-5), x, y).all()
        root = ET.parse(scene.files["METADATA"]).getroot()
        bands = root.findall("specific/bandCharacterisation/bandID")
        assert len(bands) == 224
        assert bands[0].findtext("wavelengthCenterOfBand") == "418.416"
        assert float(bands[0].findtext("GainOfBand") or 0) == 1e-4
        with rasterio.open(scene.files["QUALITY_CLASSES"]) as classes:
            assert np.array_equal(classes.read(1) == 1, seen)
        area = next(area for area in swath_world.areas if area.name == scene.area)
        assert shapely.contains(scene.footprint, shapely.box(*area.bbox))


def test_enmap_and_emit_see_the_same_gas_and_ground(scenes: list[Any], granules: list[Any]) -> None:
    """The darkening of EnMAP's bands against EMIT's map of the same day, by place."""
    pairs = [
        (s, g) for s in scenes for g in granules if s.start.date() == g.start.date() and s.area == g.area
    ]
    assert pairs
    for scene, granule in pairs:
        nm = np.array(
            [
                float(element.text or 0)
                for element in ET.parse(scene.files["METADATA"]).getroot().iter("wavelengthCenterOfBand")
            ]
        )
        strong, weak = (int(np.argmin(abs(nm - at))) for at in (STRONG_NM, WEAK_NM))
        with rasterio.open(scene.files["SPECTRAL_IMAGE"]) as image:
            both = image.read([strong + 1, weak + 1]).astype(float)
        seen = (both != -32768).all(axis=0)
        ratio = np.where(seen, both[0] / both[1], np.nan)
        rows, columns = np.nonzero(seen)
        a, _, c, _, e, f = scene.transform
        to_degrees = Transformer.from_crs(scene.epsg, 4326, always_xy=True)
        x, y = to_degrees.transform(c + a * (columns + 0.5), f + e * (rows + 0.5))
        with rasterio.open(granule.files["CH4ENH"]) as raster:
            values = raster.read(1).astype(float)
            column, row = ~raster.transform @ (np.asarray(x), np.asarray(y))
        gas = map_coordinates(values, [row - 0.5, column - 0.5], order=1, mode="nearest")
        known = gas > -1000
        assert known.mean() > 0.9
        assert np.corrcoef(ratio[seen][known], gas[known])[0, 1] < -0.6
        assert np.median(ratio[seen][known & (gas > 5000)]) < 0.97 * np.median(
            ratio[seen][known & (gas < 300)]
        )
