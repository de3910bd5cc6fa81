"""Plume candidates: what is found, what is not, and the table that says so."""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pyproj
import pytest
import rasterio.features
import shapely
import xarray as xr
from methane_scenes import KG_PER_PPM_M_M2, NORTH, PIXEL_M, WEST, Plume, Scene, make_cube
from rasterio.transform import Affine

from geostack_pipeline.errors import GeostackError
from geostack_pipeline.methane import acquisition
from geostack_pipeline.methane.detection import DetectionSettings, Judgement, find_candidates
from geostack_pipeline.methane.mass import integrated_mass
from geostack_pipeline.methane.misfit import UNLIKE, Misfit
from geostack_pipeline.methane.outline import georeference, outline
from geostack_pipeline.methane.plume_table import concat_plumes, plume_rows, plume_schema, to_geoparquet
from geostack_pipeline.methane.plumes import detect
from geostack_pipeline.methane.retrieve import retrieve

TO_UTM = pyproj.Transformer.from_crs("OGC:CRS84", "EPSG:32639", always_xy=True)
GRID = Affine(PIXEL_M, 0, WEST, 0, -PIXEL_M, NORTH)


def fields_of(target: Scene, **reference: object) -> xr.Dataset:
    earlier = Scene(
        time="2024-05-22T07:21:31", seed=target.seed + 1000, shape=target.shape, surface_seed=target.surface_seed,
        heterogeneity=target.heterogeneity, noise=target.noise, drift=target.drift, **reference,
    )  # fmt: skip
    return retrieve(make_cube(target), [make_cube(earlier)])


@pytest.fixture(scope="module")
def found():
    target = Scene(plumes=(Plume(row=90, col=50, rate_kg_h=9000),), noise=0.003)
    fields = fields_of(target)
    return target, fields, detect(fields, area="korpezhe", provider="earth_search")


def test_the_planted_plume_is_found_where_it_is(found):
    target, fields, table = found
    assert table.num_rows == 1
    row = table.to_pylist()[0]
    x, y = TO_UTM.transform(row["source_longitude"], row["source_latitude"])
    assert np.hypot(x - (WEST + 50.5 * PIXEL_M), y - (NORTH - 90.5 * PIXEL_M)) < 200
    # The outline, burnt back by GDAL, holds most of the planted mass and no more pixels than it says.
    shape = shapely.transform(
        shapely.from_wkb(row["geometry"]), lambda xy: np.column_stack(TO_UTM.transform(xy[:, 0], xy[:, 1]))
    )
    inside = rasterio.features.rasterize([shape], out_shape=target.shape, transform=GRID).astype(bool)
    truth = target.truth[0]
    assert inside.sum() == row["pixels"] == round(row["area_m2"] / 400)
    assert shape.area == pytest.approx(row["area_m2"], rel=1e-4)
    assert truth[inside].sum() > 0.7 * truth.sum()
    planted = truth[inside].sum() * 400 * KG_PER_PPM_M_M2
    assert row["ime_kg"] == pytest.approx(planted, abs=3 * row["ime_noise_kg"])
    assert row["ime_sigma_kg"] == pytest.approx(np.hypot(row["ime_noise_kg"], 0.15 * row["ime_kg"]))
    assert row["ime_kg"] == pytest.approx(
        row["mean_enhancement_ppm_m"] * row["area_m2"] * KG_PER_PPM_M_M2, rel=1e-4
    )
    enhancement = fields["ch4_enhancement"].values[0]
    assert row["max_enhancement_ppm_m"] == pytest.approx(enhancement[inside].max(), abs=1500)


def test_a_row_tells_its_whole_story(found):
    _, fields, table = found
    row = table.to_pylist()[0]
    assert re.fullmatch(r"korpezhe-20240601T072131-38\.\d{5}N-5\d\.\d{5}E-earth_search", row["plume_id"])
    assert row["emission_rate_kg_h"] is None
    assert row["instrument"] == "sentinel-2"
    assert row["rate_missing_reason"] == "given in the asset plumes"
    assert (row["method"], row["maturity"]) == ("mbmp", "screening")
    assert row["item_ids"] == ["S2A_39SYC_20240601_0_L2A"]
    assert row["reference_item_ids"] == ["S2A_39SYC_20240522_0_L2A"]
    assert row["time"].isoformat() == "2024-06-01T07:21:31+00:00"
    assert row["reference_time"].isoformat() == "2024-05-22T07:21:31+00:00"
    assert detect(fields, area="korpezhe", provider="earth_search").equals(table)
    other = detect(fields, area="korpezhe", provider="cdse").to_pylist()[0]
    assert other["plume_id"] != row["plume_id"]
    assert all(field.metadata[b"description"] for field in table.schema)


def test_geoparquet_reads_in_other_tools(found, tmp_path):
    _, _, table = found
    data = to_geoparquet(table)
    assert data == to_geoparquet(table)
    path = tmp_path / "plumes.parquet"
    path.write_bytes(data)
    geo = json.loads(pq.read_schema(path).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    row = table.to_pylist()[0]
    shape = shapely.from_wkb(row["geometry"])
    assert geo["columns"]["geometry"]["geometry_types"] == [shape.geom_type]
    assert shape.is_valid
    assert all(part.exterior.is_ccw for part in shapely.get_parts(shape))
    assert geo["columns"]["geometry"]["bbox"] == pytest.approx(shape.bounds)
    assert list(row["bbox"].values()) == pytest.approx(shape.bounds)
    assert pl.read_parquet(path)["plume_id"].to_list() == [row["plume_id"]]
    query = f"SELECT bbox.xmin, ime_kg FROM read_parquet('{path}') WHERE ime_kg > 1"
    assert duckdb.sql(query).fetchall()[0][0] == pytest.approx(shape.bounds[0])


def test_geopandas_reads_it_where_installed(found, tmp_path):
    geopandas = pytest.importorskip("geopandas")
    _, _, table = found
    frame = geopandas.read_parquet(io.BytesIO(to_geoparquet(table)))
    assert frame.crs.to_authority() == ("OGC", "CRS84")
    assert frame.geometry.iloc[0].contains(
        shapely.Point(table["source_longitude"][0].as_py(), table["source_latitude"][0].as_py())
    )


@pytest.mark.parametrize("box", [(179.5, 0.0, 180.0, 1.0), (-180.0, 0.0, -179.5, 1.0)])
def test_a_reader_with_a_box_finds_a_plume_across_the_antimeridian_from_either_side(box):
    geopandas = pytest.importorskip("geopandas")
    shape = shapely.union_all([shapely.box(179.99, 0.2, 180.0, 0.3), shapely.box(-180.0, 0.2, -179.98, 0.3)])
    data = to_geoparquet(plume_rows([{"plume_id": "p", "geometry": shapely.to_wkb(shape)}]))
    assert len(geopandas.read_parquet(io.BytesIO(data), bbox=box)) == 1


def test_an_empty_table_has_the_full_schema(tmp_path):
    fields = fields_of(Scene())
    table = detect(fields, area="calm")
    assert table.num_rows == 0
    assert table.schema.equals(plume_schema())
    back = pq.read_table(io.BytesIO(to_geoparquet(table)))
    assert back.schema.names == plume_schema().names
    assert "bbox" not in json.loads(back.schema.metadata[b"geo"])["columns"]["geometry"]
    none = detect(fields.isel(time=slice(0, 0)), area="calm")
    assert none.num_rows == 0
    assert concat_plumes([]).schema.equals(plume_schema(judged=True))


def test_tables_are_put_together_with_their_metadata(found):
    _, _, table = found
    empty = plume_rows([], rejected={"a line": 2})
    both = concat_plumes([table, empty, table])
    assert both.num_rows == 2
    metadata = both.schema.metadata
    assert metadata[b"geo"] == table.schema.metadata[b"geo"]
    assert json.loads(metadata[b"geostack:rejected"])["a line"] >= 2


def test_all_nan_fields_give_no_plume(found):
    _, fields, _ = found
    blank = fields.assign(
        ch4_enhancement=fields["ch4_enhancement"] * np.nan, signal_source=fields["signal_source"] * 0
    )
    assert detect(blank, area="a").num_rows == 0


def test_fields_without_a_crs_are_refused(found):
    _, fields, _ = found
    with pytest.raises(GeostackError, match="crs_wkt"):
        detect(fields.drop_vars("spatial_ref"), area="a")


def noise_map(seed: int, shape=(256, 256)) -> np.ndarray:
    return (1000.0 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def search(image: np.ndarray, **more: object):
    settings = DetectionSettings()
    return find_candidates(image, pixel_m=(20.0, 20.0), seed_z=settings.seed_z, settings=settings, **more)


def test_pure_noise_gives_nothing():
    assert [len(search(noise_map(seed)).candidates) for seed in range(20)] == [0] * 20


def test_lines_and_specks_are_no_plumes():
    image = noise_map(1)
    image[100, 20:230] += 8000.0
    image[200, 50] += 60_000.0
    found = search(image)
    assert found.candidates == []
    assert found.rejected == {"a line": 1, "a single bright pixel": 1}


def test_a_scene_that_makes_such_signals_by_itself_is_not_believed():
    image = noise_map(2)
    image[100:112, 100:112] += 3000.0
    assert len(search(image).candidates) == 1
    for row in (20, 150, 220):
        image[row : row + 14, 30:44] -= 3500.0
    found = search(image)
    assert found.candidates == []
    assert found.rejected == {"as strong as the negative control": 1}


def test_one_negative_plume_in_the_reference_does_not_hide_the_positive():
    image = noise_map(3)
    image[100:112, 100:112] += 3000.0
    image[30:44, 160:174] -= 3500.0
    found = search(image)
    assert [candidate.controls for candidate in found.candidates] == [1]


def test_a_changed_surface_is_told_from_a_plume_by_b11():
    image, rng = noise_map(4), np.random.default_rng(5)
    image[100:112, 100:112] += 4000.0
    signal = -image / 4e5
    contrast = (0.003 * rng.standard_normal(image.shape)).astype(np.float32)
    assert len(search(image, signal=signal, b11_contrast=contrast).candidates) == 1
    contrast[100:112, 100:112] -= 0.03
    assert search(image, signal=signal, b11_contrast=contrast).candidates == []


def test_spectra_unlike_methane_are_no_plume_and_the_noise_of_the_misfit_rejects_none():
    """Of two squares of one strength, the one whose spectra depart in other directions as well is a surface."""
    rng = np.random.default_rng(12)
    bands = 50

    def misfit(of: np.ndarray, extra: float) -> Misfit:
        values = rng.chisquare(bands - 1, of.shape).astype(np.float32) / (bands - 1)
        values[150:162, 150:162] += extra
        return Misfit(values=values, bands=bands)

    for strength, other in ((1800.0, 0.6), (6000.0, 6.0)):
        image = noise_map(11)
        image[40:52, 40:52] += strength
        image[150:162, 150:162] += strength
        assert len(search(image).candidates) == 2
        # (strength / sigma)^2 is what methane explains: half of it apart is a plume, twice of it is none.
        explained = (strength / 1000.0) ** 2 / (bands - 1)
        assert len(search(image, misfit=misfit(image, 0.5 * explained)).candidates) == 2
        found = search(image, misfit=misfit(image, 2.0 * explained + other))
        assert [one.peak[0] < 60 for one in found.candidates] == [True]
        assert found.rejected == {UNLIKE: 1}
    unknown = Misfit(values=np.full(image.shape, np.nan, np.float32), bands=bands)
    assert len(search(image, misfit=unknown).candidates) == 2, "what is not known rejects nothing"


def test_several_candidates_are_ordered_and_labelled():
    image = noise_map(6)
    image[40:52, 40:52] += 3000.0
    image[150:170, 150:170] += 4000.0
    found = search(image)
    assert [candidate.label for candidate in found.candidates] == [1, 2]
    assert found.labels[160, 160] == 1
    assert found.labels[46, 46] == 2
    assert found.candidates[0].significance > found.candidates[1].significance
    row, col = found.candidates[0].peak
    assert 150 <= row < 170
    assert 150 <= col < 170
    # The plumes' own pixels do not lift the background they are measured against.
    assert abs(found.background[160, 160]) < 150


def test_mass_of_known_pixels_and_its_noise():
    rng = np.random.default_rng(7)
    inside = np.zeros((200, 200), dtype=bool)
    inside[50:60, 50:60] = True
    masses = []
    for _ in range(60):
        excess = (500.0 * rng.standard_normal(inside.shape) + np.where(inside, 2000.0, 0.0)).astype(
            np.float32
        )
        masses.append(integrated_mass(excess, inside, ~inside, pixel_area_m2=400.0, bias_relative=0.0))
    expected = 2000.0 * 100 * 400 * 0.01604 / 22.4e-3 * 1e-6
    totals = np.array([mass.ime_kg for mass in masses])
    assert totals.mean() == pytest.approx(expected, rel=0.02)
    # The stated noise is the scatter that is really there.
    assert np.mean([mass.noise_kg for mass in masses]) == pytest.approx(totals.std(), rel=0.3)


def test_mass_noise_grows_with_correlation_and_is_nan_without_background():
    rng = np.random.default_rng(8)
    inside = np.zeros((200, 200), dtype=bool)
    inside[50:60, 50:60] = True
    coarse = np.kron(rng.standard_normal((25, 25)), np.ones((8, 8))).astype(np.float32) * 500
    fine = (500 * rng.standard_normal((200, 200))).astype(np.float32)
    noise = [
        integrated_mass(e, inside, ~inside, pixel_area_m2=400.0, bias_relative=0.0).noise_kg
        for e in (coarse, fine)
    ]
    assert noise[0] > 4 * noise[1]
    alone = integrated_mass(fine, inside, np.zeros_like(inside), pixel_area_m2=400.0, bias_relative=0.1)
    assert np.isnan(alone.noise_kg)


def test_the_noise_over_a_striped_background_is_known():
    """Every other line has no value, as where a detector fails: no box holds enough, but pixels there are."""
    rng = np.random.default_rng(9)
    inside = np.zeros((200, 200), dtype=bool)
    inside[50:60, 50:60] = True
    outside = ~inside
    outside[::2] = False
    excess = (500.0 * rng.standard_normal(inside.shape)).astype(np.float32)
    for rows, columns in ((10, 10), (9, 9), (2, 2)):
        part = np.zeros_like(inside)
        part[51 : 51 + rows, 50 : 50 + columns] = True
        mass = integrated_mass(excess, part, outside, pixel_area_m2=400.0, bias_relative=0.0)
        expected = 500.0 * np.sqrt(part.sum()) * 400.0 * KG_PER_PPM_M_M2
        assert mass.noise_kg == pytest.approx(expected, rel=0.05)
        assert mass.sigma_kg == mass.noise_kg


def test_a_plume_that_leaves_nothing_of_the_map_still_has_a_mass():
    enhancement = np.zeros((24, 24), np.float32)
    enhancement[4:20, 4:14] = 2000.0
    found = find_candidates(
        enhancement, pixel_m=(60.0, 60.0), seed_z=7.0, settings=DetectionSettings(),
        judgement=Judgement(probability=np.ones((24, 24), np.float32), threshold=0.5),
    )  # fmt: skip
    assert len(found.candidates) == 1
    assert (found.labels > 0).sum() > 500
    assert np.isfinite(found.background).all()
    assert float(np.median(found.background)) < 1000.0


def grid_fields(crs: str, x0: float, y0: float, step: float, shape=(20, 20)) -> xr.Dataset:
    return xr.Dataset(
        coords={
            "y": y0 - step * (np.arange(shape[0]) + 0.5),
            "x": x0 + step * (np.arange(shape[1]) + 0.5),
            "spatial_ref": ((), 0, {"crs_wkt": pyproj.CRS(crs).to_wkt()}),
        }
    )


def test_outlines_across_the_antimeridian_are_split():
    x, y = pyproj.Transformer.from_crs("OGC:CRS84", "EPSG:32660", always_xy=True).transform(180.0, 60.0)
    place = georeference(grid_fields("EPSG:32660", x - 200, y + 200, 20))
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 3:17] = True
    shape = outline(mask, place)
    assert shape.is_valid
    assert shape.geom_type == "MultiPolygon"
    spans = sorted((part.bounds[0], part.bounds[2]) for part in shape.geoms)
    assert spans[0][0] == -180.0
    assert spans[1][1] == 180.0
    assert max(end - start for start, end in spans) < 0.01
    area = sum(abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(part)[0]) for part in shape.geoms)
    assert area == pytest.approx(mask.sum() * 400, rel=0.003)


@pytest.mark.parametrize(("west", "columns"), [(179.99, (2, 19)), (-180.01, (2, 19)), (180.2, (2, 8))])
def test_a_map_in_degrees_that_runs_on_beyond_the_antimeridian(west, columns):
    place = georeference(grid_fields("EPSG:4326", west, 60.0, 0.001))
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, slice(*columns)] = True
    shape = outline(mask, place)
    assert shape.is_valid
    assert shape.bounds[0] >= -180.0
    assert shape.bounds[2] <= 180.0
    assert shape.area == pytest.approx(mask.sum() * 1e-6, rel=1e-6)
    longitude, _ = place.point(6, 15)
    wanted = west + 0.0155
    assert longitude == pytest.approx(wanted - 360.0 if wanted > 180.0 else wanted)


@pytest.mark.parametrize(("west", "columns"), [(180.0, (0, 6)), (179.98, (14, 20)), (-180.02, (14, 20))])
def test_a_plume_that_ends_at_the_antimeridian_is_one_polygon(west, columns):
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, slice(*columns)] = True
    shape = outline(mask, georeference(grid_fields("EPSG:4326", west, 60.0, 0.001)))
    assert shape.geom_type == "Polygon"
    assert shape.is_valid
    assert shape.area == pytest.approx(mask.sum() * 1e-6, rel=1e-6)
    assert shape.bounds[2] - shape.bounds[0] == pytest.approx(0.006)


@pytest.mark.parametrize(
    ("crs", "at", "step"),
    [
        ("EPSG:3857", (54.2, 60.0), 20.0),
        ("EPSG:4326", (54.2, 60.0), 2e-4),
        ("EPSG:32639", (51.0, 60.0), 20.0),
        ("EPSG:3413", (-45.0, 89.0), 20.0),
        ("EPSG:2263", (-74.0, 40.7), 60.0),
    ],
)
def test_a_pixel_has_the_area_that_it_covers_on_the_ground(crs, at, step):
    x, y = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform(*at)
    place = georeference(grid_fields(crs, x - 10 * step, y + 10 * step, step))
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 5:15] = True
    shape = outline(mask, place)
    area, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shape)
    assert mask.sum() * place.pixel_area_m2 == pytest.approx(abs(area), rel=5e-3)


def test_clouds_keep_their_distance_on_a_map_in_degrees(monkeypatch):
    cube = make_cube(Scene(shape=(64, 64)))
    step = PIXEL_M / 111_195.0
    degrees = cube.assign_coords(
        y=60.0 - step * np.arange(64), x=54.0 + 2.0 * step * np.arange(64),
        spatial_ref=((), 0, {"crs_wkt": pyproj.CRS("EPSG:4326").to_wkt()}),
    )  # fmt: skip
    told = []

    def classified(scl, *_, pixel_size_m):
        told.append(pixel_size_m)
        return np.ones(scl.shape, np.uint16)

    monkeypatch.setattr(acquisition, "classify", classified)
    for each in (cube, degrees):
        acquisition.read_acquisition(each, 0)
    assert told == pytest.approx([PIXEL_M, PIXEL_M], rel=5e-3)


def test_diagonal_pixels_give_a_valid_outline():
    place = georeference(grid_fields("EPSG:32639", WEST, NORTH, 20))
    mask = np.eye(20, dtype=bool)
    mask[3, 10] = True
    shape = outline(mask, place)
    assert shape.is_valid
    assert shape.geom_type == "MultiPolygon"


def test_pixel_sizes_in_metres_on_a_geographic_grid():
    place = georeference(grid_fields("EPSG:4326", 53.0, 60.0, 0.001))
    assert place.pixel_m[1] == pytest.approx(111.4, abs=0.3)
    assert place.pixel_m[0] == pytest.approx(55.8, abs=0.3)


CONDITIONS = {
    "even, quiet": (0.3, 0.003, 0.0),
    "mixed": (1.0, 0.003, 0.03),
    "mixed, noisy": (1.0, 0.006, 0.05),
    "rough, changing": (2.0, 0.004, 0.10),
}


@pytest.mark.slow
def test_detection_quality_over_seeds_and_surfaces(capsys):
    """Recall by rate (kg/h at 3 m/s) and false plumes per scene of 5 km x 5 km; the numbers are printed with -s."""
    rates, seeds = (1500, 3000, 6000, 12_000), 6
    false: dict[str, int] = defaultdict(int)
    scenes: dict[str, int] = defaultdict(int)
    hits: dict[tuple[str, int], int] = defaultdict(int)
    for name, (heterogeneity, noise, drift) in CONDITIONS.items():
        for seed in range(seeds):
            for rate in (0, *rates):
                rng = np.random.default_rng(1000 * seed + rate)
                row, col, direction = (
                    *(float(v) for v in rng.integers(60, 196, 2)),
                    float(rng.uniform(0, 360)),
                )
                plumes = (Plume(row=row, col=col, rate_kg_h=rate, direction_deg=direction),) if rate else ()
                target = Scene(
                    plumes=plumes, shape=(256, 256), seed=10 * seed + rate, surface_seed=seed,
                    heterogeneity=heterogeneity, noise=noise, drift=drift,
                )  # fmt: skip
                table = detect(fields_of(target), area="a")
                truth = target.truth[0] > 300
                scenes[name] += 1
                hit = False
                for geometry in table["geometry"].to_pylist():
                    shape = shapely.transform(
                        shapely.from_wkb(geometry),
                        lambda xy: np.column_stack(TO_UTM.transform(xy[:, 0], xy[:, 1])),
                    )
                    inside = rasterio.features.rasterize([shape], out_shape=(256, 256), transform=GRID) == 1
                    if truth[inside].mean() > 0.3:
                        hit = True
                    else:
                        false[name] += 1
                hits[name, rate] += hit
    with capsys.disabled():
        for name in CONDITIONS:
            recall = ", ".join(f"{rate}: {hits[name, rate]}/{seeds}" for rate in rates)
            print(f"\n{name}: found {recall}; false plumes {false[name]} in {scenes[name]} scenes", end="")
    assert sum(false.values()) <= 0.05 * sum(scenes.values())
    assert hits["even, quiet", 3000] >= seeds - 1
    assert hits["even, quiet", 12_000] == seeds
    assert hits["mixed", 12_000] >= seeds - 1
