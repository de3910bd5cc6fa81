"""The physical world: reproducible files, valid COGs, and a truth that agrees with the pixels."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from pyproj import Geod, Transformer

from geostack_pipeline.errors import StorageError
from geostack_pipeline.sandbox import World
from geostack_pipeline.sandbox.dialects import EarthSearchDialect
from geostack_pipeline.sandbox.world import gas, sky
from geostack_pipeline.sandbox.world.grids import ground_grid, tile_grid
from geostack_pipeline.sandbox.world.plan import PlumePlan, full_plan
from geostack_pipeline.sandbox.world.plume import enhancement
from geostack_pipeline.sandbox.world.sampling import Sampler
from geostack_pipeline.sandbox.world.world import Encoding


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _one_scene(world: World) -> dict[str, list[Encoding]]:
    scene = world.scene("S2A_20240607T071621_T39SYC")
    return {scene.id: EarthSearchDialect().encodings(scene)}


def _shared(mine, folder):
    """The hashes of the same files in a world that other catalogs may have had rendered in their forms as well."""
    return {name: digest for name, digest in _hashes(folder).items() if name in mine}


def test_same_seed_same_bytes_other_seed_other_bytes(world, tmp_path):
    served = world.folder / "scenes" / "S2A_20240607T071621_T39SYC"
    again = World(tmp_path, small=True)
    assert again.prepare(_one_scene(again)) == 1
    mine = _hashes(again.folder / "scenes" / served.name)
    assert mine == _shared(mine, served)
    assert len(mine) == 9  # six bands, classification, listing, facts
    other = World(tmp_path, seed=7, small=True)
    other.prepare(_one_scene(other))
    theirs = _hashes(other.folder / "scenes" / served.name)
    assert {name for name in theirs if theirs[name] != mine[name]} >= {
        f"cog-05.10-plus0/{band}.tif" for band in world.plan.bands
    }


def test_worker_processes_write_the_same_bytes(world, tmp_path):
    again = World(tmp_path, small=True)
    wanted = {
        scene.id: EarthSearchDialect().encodings(scene)
        for scene in again.scenes
        if scene.tile.mgrs in {"31SES", "40SBH"} and scene.overpass.start.day in {1, 4, 7}
    }
    heard = []
    assert again.prepare(wanted, workers=2, progress=lambda done, total: heard.append((done, total))) == 3
    assert sorted(heard) == [(1, 3), (2, 3), (3, 3)]
    for name in wanted:
        mine = _hashes(again.folder / "scenes" / name)
        assert mine == _shared(mine, world.folder / "scenes" / name)
    assert again.prepare(wanted) == 0


def test_a_failing_worker_is_reported_and_leaves_nothing_half_done(tmp_path):
    world = World(tmp_path, small=True)
    wanted = {
        scene.id: [Encoding(baseline="09.99", offset=0)]
        for scene in world.scenes
        if scene.tile.mgrs == "31SES"
    }
    with pytest.raises(StorageError, match="render process ended"):
        world.prepare(wanted, workers=2)
    assert not [path for path in world.folder.rglob("*") if path.is_file()]


def test_leftovers_of_a_dead_process_are_removed(tmp_path):
    world = World(tmp_path, small=True)
    wanted = _one_scene(world)
    home = world.folder / "scenes" / next(iter(wanted))
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    (home / f".tmp-{dead.stdout.strip()}-aaaa").mkdir(parents=True)
    (home / f".tmp-{os.getpid()}-bbbb").mkdir()
    world.prepare(wanted)
    assert sorted(path.name for path in home.iterdir()) == sorted(
        [f".tmp-{os.getpid()}-bbbb", "cog-05.10-plus0", "facts.json"]
    )


def test_cogs_are_valid_for_gdal(world):
    for scene in world.scenes:
        for encoding in EarthSearchDialect().encodings(scene):
            for name, (path, description) in world.files(scene, encoding).items():
                coarse = name.startswith(("B1", "SCL"))
                with rasterio.open(path) as raster:
                    grid = scene.grid.coarser(2 if coarse else 1)
                    assert raster.crs.to_epsg() == scene.tile.epsg
                    assert tuple(raster.transform)[:6] == grid.transform
                    assert raster.shape == (grid.height, grid.width)
                    assert raster.block_shapes == [(128, 128)]
                    assert raster.overviews(1) == ([2] if coarse else [2, 4])
                    assert raster.nodata == 0
                    assert raster.dtypes == ("uint8" if name == "SCL.tif" else "uint16",)
                    assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                    assert raster.compression.value == "DEFLATE"
                    assert raster.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"
                assert path.stat().st_size == description["size"]
                assert hashlib.md5(path.read_bytes()).hexdigest() == description["md5"]


def test_nodata_clouds_and_classes_agree(world):
    cloudy = world.scene("S2B_20240604T102029_T31SES")
    assert world.facts(cloudy)["percentages"]["cloud_cover"] > 80
    partly = world.scene("S2B_20240606T103031_T31SES")
    classes = world.classification(partly)
    assert {0, 3, 5, 8, 9} <= set(np.unique(classes).tolist())
    for band, factor in (("B12", 1), ("B02", 2)):
        reflectance = world.reflectance(partly, band)
        unseen = np.isnan(reflectance)[::factor, ::factor]
        assert np.array_equal(unseen, classes == 0)
    share = world.facts(partly)["percentages"]["nodata"]
    assert share == pytest.approx(100 * (classes == 0).mean(), abs=1e-4)
    seen = shapely.Polygon(partly.footprint())
    whole = shapely.box(*_degrees(partly))
    assert 100 * (1 - seen.area / whole.area) == pytest.approx(share, abs=3)


def _degrees(scene) -> tuple[float, float, float, float]:
    west, south, east, north = scene.grid.bounds
    to = Transformer.from_crs(scene.tile.epsg, 4326, always_xy=True)
    x, y = to.transform([west, east], [south, north])
    return x[0], y[0], x[1], y[1]


def test_offset_and_gain_of_encodings_are_undone(world):
    mishap = world.scene("S2B_20240606T103031_T31SES")
    (encoding,) = EarthSearchDialect().encodings(mishap)
    assert encoding.offset == 1000
    with rasterio.open(world.files(mishap, encoding)["B11.tif"][0]) as raster:
        numbers = raster.read(1)
    truth = world.reflectance(mishap, "B11")
    assert np.array_equal(truth[numbers > 0], ((numbers[numbers > 0] - 1000.0) * 1e-4).astype(np.float32))
    window = (10, 20, 30, 25)
    assert np.array_equal(world.reflectance(mishap, "B11", window), truth[20:45, 10:40], equal_nan=True)
    pair = world.scene("S2B_20240602T071621_T40SBH")
    ratio = world.reflectance(pair, "B11", baseline="02.14") / world.reflectance(
        pair, "B11", baseline="05.00"
    )
    assert np.median(ratio) == pytest.approx(0.995, abs=2e-4)


def test_the_ground_is_stable_between_dates_and_textured(world):
    first, later = world.scene("S2A_20240601T103031_T31SES"), world.scene("S2A_20240611T103031_T31SES")
    for band in ("B04", "B11", "B12"):
        one, two = world.reflectance(first, band), world.reflectance(later, band)
        seen = ~np.isnan(one)
        assert 0.05 < np.nanmean(one) < 0.7
        assert np.nanstd(one) / np.nanmean(one) > 0.03
        assert np.corrcoef(one[seen], two[seen])[0, 1] > 0.9


def test_neighbour_tiles_of_two_zones_show_the_same_ground(world):
    """Where two tiles overlap, GDAL's own warp of one looks like the other."""
    from rasterio.warp import Resampling, reproject

    here, there = world.scene("S2B_20240602T071621_T40SBH"), world.scene("S2B_20240602T071621_T39SYC")
    target = here.grid.coarser(2)
    warped = np.full((target.height, target.width), np.nan, np.float32)
    reproject(
        world.reflectance(there, "B11"),
        warped,
        src_transform=rasterio.Affine(*there.grid.coarser(2).transform),
        src_crs=f"EPSG:{there.tile.epsg}",
        dst_transform=rasterio.Affine(*target.transform),
        dst_crs=f"EPSG:{here.tile.epsg}",
        src_nodata=np.nan,
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
    )
    both = ~np.isnan(warped)
    assert both.mean() > 0.05
    values = world.reflectance(here, "B11")
    alike = {
        move: np.corrcoef(np.roll(values, move, (0, 1))[both], warped[both])[0, 1]
        for move in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    }
    # Not more: both have noise of their own, and the interpolation smooths the texture.
    assert alike[0, 0] > 0.93
    assert max(alike, key=alike.__getitem__) == (0, 0)
    assert abs(np.median(values[both] - warped[both])) < 5e-4


def test_sampler_places_pixels_as_proj_does():
    site = full_plan().sites[0]
    ground, tile = ground_grid(site), tile_grid(site, site.tiles[1])
    sampler = Sampler(ground, tile)
    window = sampler.window()
    rows = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None]
    columns = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None, :]
    shape = (rows.size, columns.size)
    row = sampler.sample(np.broadcast_to(rows, shape).copy(), window, 1)
    column = sampler.sample(np.broadcast_to(columns, shape).copy(), window, 1)
    i, j = np.meshgrid([0, 700, tile.height - 1], [0, 900, tile.width - 1], indexing="ij")
    x, y = Transformer.from_crs(tile.epsg, ground.epsg, always_xy=True).transform(
        tile.west + (j + 0.5) * 10.0, tile.north - (i + 0.5) * 10.0
    )
    assert np.abs(column[i, j] - ((x - ground.west) / 10.0 - 0.5)).max() < 0.01
    assert np.abs(row[i, j] - ((ground.north - y) / 10.0 - 0.5)).max() < 0.01


def test_truth_describes_the_planted_plumes(world):
    assert [plume.name for plume in world.truth] == [
        "hassi-c",
        "korpezhe-a",
        "hassi-c",
        "hassi-d",
        "korpezhe-a",
        "korpezhe-b",
    ]
    areas = {area.name: shapely.box(*area.bbox) for area in world.areas}
    geod = Geod(ellps="WGS84")
    for plume in world.truth:
        footprint = shapely.geometry.shape(plume.footprint)
        source = shapely.Point(plume.longitude, plume.latitude)
        assert 2_000 <= plume.rate_kg_h <= 20_000
        assert areas[plume.area].contains(source)
        assert footprint.is_valid
        assert footprint.distance(source) < 6e-4
        # The plume drifts down the wind: its middle lies in that direction from the source.
        middle = footprint.centroid
        azimuth, _, _ = geod.inv(plume.longitude, plume.latitude, middle.x, middle.y)
        assert abs((azimuth - plume.wind_to_deg + 180) % 360 - 180) < 12
        assert 0.3 < plume.visible <= 1.0
        assert plume.peak_ppm_m > 1_000
        assert plume.to_json()["time"].endswith("Z")


def test_mass_is_conserved_downwind():
    """Across the wind the column integrates to rate / wind, gusts aside."""
    site = full_plan().sites[1]
    ground = ground_grid(site)
    plume = PlumePlan(name="test", east_m=0, north_m=0, rate_kg_h=7200.0, wind_m_s=4.0, wind_to_deg=90.0)
    for seed in (1, 2, 3):
        column = enhancement(seed, site, ground, plume, when="now") / gas.ppm_m_per_kg_m2()
        per_metre = column.sum(axis=0, dtype=np.float64) * 10.0
        downwind = np.flatnonzero(per_metre > 0.0)
        inner = per_metre[downwind[15] : downwind[0] + 200]
        assert inner.mean() == pytest.approx(7200 / 3600 / 4.0, rel=0.25)


def test_gas_dims_the_bands_as_planted(world):
    """Against the reference date, B12/B11 falls where the truth has methane, by about what the table says."""
    reference, later = world.scene("S2A_20240601T103031_T31SES"), world.scene("S2A_20240611T103031_T31SES")
    column = world.enhancement(later)
    ratio = (world.reflectance(later, "B12") / world.reflectance(later, "B11")) / (
        world.reflectance(reference, "B12") / world.reflectance(reference, "B11")
    )
    seen = ~np.isnan(ratio)
    thick, none = seen & (column > 8_000), seen & (column == 0)
    assert thick.sum() > 30
    measured = -np.log(np.mean(ratio[thick]) / np.mean(ratio[none]))

    def depth(band):
        passed = gas.transmittance(
            column[thick], platform="S2A", band=band, air_mass=later.air_mass_factor, overlap=1.0
        )
        return float(np.mean(-np.log(passed)))

    assert measured == pytest.approx(depth("B12") - depth("B11"), rel=0.15)


def test_transmittance_is_monotone_and_bounded():
    columns = np.array([0.0, 1.0, 500.0, 8_000.0, 16_000.0, 40_000.0, 90_000.0])
    for platform in ("S2A", "S2B", "S2C"):
        for band in ("B11", "B12"):
            passed = gas.transmittance(columns, platform=platform, band=band, air_mass=2.6, overlap=1.02)
            assert passed[0] == 1.0
            assert np.all(np.diff(passed) < 0)
            assert passed[-1] > 0.7
    assert sky.air_mass_factor(0.0, 0.0) == pytest.approx(2.0, abs=1e-3)
    assert sky.air_mass_factor(60.0, 0.0) == pytest.approx(3.0, abs=0.01)


def test_sun_stands_where_it_should():
    """Solstice noon at the tropic of Cancer: nearly overhead; six hours earlier at the horizon's side."""
    from datetime import UTC, datetime

    noon = sky.sun_at(datetime(2024, 6, 20, 12, 2, tzinfo=UTC), 0.0, 23.44)
    assert noon.zenith_deg < 0.6
    morning = sky.sun_at(datetime(2024, 3, 20, 9, 7, tzinfo=UTC), 0.0, 0.0)
    assert morning.zenith_deg == pytest.approx(45, abs=0.7)
    assert morning.azimuth_deg == pytest.approx(90, abs=1.0)


def test_unrendered_scenes_say_what_to_do(tmp_path):
    world = World(tmp_path, small=True)
    with pytest.raises(StorageError, match=r"prepare\(\)"):
        world.reflectance(world.scenes[0], "B04")
    with pytest.raises(KeyError, match="no scene of this world"):
        world.scene("S2Z")


def test_full_plan_crops_are_small():
    """An area of interest touches few internal tiles: whole files hold more than ten times the bytes."""
    from geostack_pipeline.sandbox.world.grids import area_of

    for site in full_plan().sites:
        area = area_of(site)
        for tile in site.tiles:
            grid = tile_grid(site, tile)
            to = Transformer.from_crs(4326, tile.epsg, always_xy=True)
            west, south, east, north = to.transform_bounds(*area.bbox)
            touched = whole = 0
            for factor in (1, 1, 1, 2, 2):
                step = 10.0 * factor * site.block_pixels
                columns = [int((edge - grid.west) // step) for edge in (west, east)]
                rows = [int((grid.north - edge) // step) for edge in (north, south)]
                last = -(-grid.width // (factor * site.block_pixels)) - 1
                columns = [min(max(column, 0), last) for column in columns]
                touched += (columns[1] - columns[0] + 1) * (rows[1] - rows[0] + 1) * site.block_pixels**2
                whole += (grid.width // factor) ** 2
            assert whole > 10 * touched
