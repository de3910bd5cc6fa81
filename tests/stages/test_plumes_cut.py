"""Plumes that the edges of granules cut: one row with all of the mass, ground that two granules show counted once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import shapely

from geostack_pipeline.methane.plume_table import plume_rows, to_geoparquet
from geostack_pipeline.settings import parse_settings
from geostack_pipeline.stages import plumes
from geostack_pipeline.stages.plumes import Candidate, best, shown, tables
from geostack_pipeline.stages.plumes_parts import elongation
from geostack_pipeline.stages.published_plumes import _field_of
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.workspace import Workspace, open_workspace

START = datetime(2024, 6, 7, 7, 41, 12, tzinfo=UTC)
DAY = "2024-06-07"
PIXEL_M = 60.0
LATITUDE = 38.5
NORTH = PIXEL_M / 111_195.0
"""A pixel's height in degrees, on a sphere."""
EAST = NORTH / math.cos(math.radians(LATITUDE))
KG_PER_PIXEL = 2.0
AREA = PIXEL_M**2


def part(
    columns: tuple[float, float],
    *,
    granule: int = 0,
    rows: int = 10,
    west: float = 54.2,
    up: float = 0.0,
    seconds: float | None = None,
    **more: Any,
) -> Candidate:
    """Return a candidate that covers columns of a map of pixels with one mass each; a granule begins every 12 s."""
    first, last = columns
    x, y = west + first * EAST, LATITUDE + up * NORTH
    time = START + timedelta(seconds=12.0 * granule if seconds is None else seconds)
    provider = more.get("provider", "cmr_stac")
    count = (last - first) * rows
    outline = shapely.box(x, y, west + last * EAST, y + rows * NORTH)
    row: dict[str, Any] = {
        "plume_id": f"korpezhe-{time:%Y%m%dT%H%M%S}-{y:.5f}N-{x:.5f}E-{provider}",
        "provider": provider,
        "instrument": "emit",
        "area": "korpezhe",
        "time": time,
        "method": "mag1c",
        "maturity": "science",
        "geometry": shapely.to_wkb(outline),
        "source_longitude": x + EAST / 2,
        "source_latitude": y + NORTH / 2,
        "source_method": "largest smoothed enhancement",
        "area_m2": count * AREA,
        "pixels": round(count),
        "max_enhancement_ppm_m": 900.0 + granule,
        "mean_enhancement_ppm_m": 500.0,
        "background_ppm_m": 10.0,
        "noise_ppm_m": 90.0,
        "ime_kg": count * KG_PER_PIXEL,
        "ime_noise_kg": 30.0,
        "ime_sigma_kg": math.hypot(30.0, 0.15 * count * KG_PER_PIXEL),
        "peak_z": 9.0 + granule,
        "significance": count * 4.0,
        "negative_controls": 0,
        "elongation": 1.0,
        "clipped_fraction": 0.0,
        "item_ids": [f"EMIT_L1B_RAD_001_{granule}"],
        "reference_item_ids": [],
        **more,
    }
    return Candidate(
        row=plume_rows([row], judged=True).to_pylist()[0],
        scenes=(f"EMIT_{granule}",),
        version=f"version-of-{provider}",
        node=f"EMIT_L1B_RAD_001_{granule}",
    )


def rows_of(*candidates: Candidate) -> list[dict[str, Any]]:
    rows, members = tables(candidates)
    frames = [pl.from_arrow(table) for table in (rows, members)]
    assert isinstance(frames[0], pl.DataFrame)
    assert isinstance(frames[1], pl.DataFrame)
    assert plumes._repeated(frames[0], frames[1]) == []
    assert frames[1].height == len(candidates)
    assert frames[1].filter("representative")["plume"].sort().equals(frames[0]["plume_id"].sort())
    return [dict(row) for row in rows.to_pylist()]


def outline_of(row: Mapping[str, Any]) -> Any:
    return shapely.from_wkb(row["geometry"])


def test_two_halves_that_overlap_are_one_plume_with_the_mass_of_the_whole() -> None:
    left, right = part((0, 24)), part((20, 40), granule=1)
    whole = part((0, 40))
    (row,) = rows_of(right, left)
    # 40 x 10 pixels in all, of which 4 x 10 are in both.
    assert row["ime_kg"] == pytest.approx(400 * KG_PER_PIXEL, rel=1e-5)
    assert row["area_m2"] == pytest.approx(400 * AREA, rel=1e-5)
    assert row["pixels"] == 400
    assert row["significance"] == pytest.approx(1600.0, rel=1e-5)
    assert row["elongation"] == pytest.approx(4.0, rel=1e-4)
    assert outline_of(row).symmetric_difference(outline_of(whole.row)).area < 1e-4 * outline_of(row).area
    assert outline_of(row).geom_type == "Polygon"
    assert list(row["bbox"].values()) == pytest.approx(outline_of(row).bounds)
    assert row["max_enhancement_ppm_m"] == 901.0
    assert row["peak_z"] == 10.0
    assert row["mean_enhancement_ppm_m"] == pytest.approx(500.0)
    assert row["item_ids"] == ["EMIT_L1B_RAD_001_0", "EMIT_L1B_RAD_001_1"]
    assert row["scenes"] == ["EMIT_0", "EMIT_1"]
    # Of the weaker part 16 of 20 columns are new; noise is independent, the air mass is common.
    noise = math.hypot(30.0, 0.8 * 30.0)
    assert row["ime_noise_kg"] == pytest.approx(noise, rel=1e-5)
    assert row["ime_sigma_kg"] == pytest.approx(math.hypot(noise, 0.15 * 800.0), rel=1e-5)
    # The part with the larger score leads.
    assert row["representative"] == left.row["plume_id"]
    assert row["part_ids"] == [left.row["plume_id"], right.row["plume_id"]]
    assert row["plume_id"] == left.row["plume_id"].removesuffix("-cmr_stac")
    assert row["time"] == START
    # The highest place is in the other one.
    assert row["source_longitude"] == right.row["source_longitude"]


def test_means_are_weighted_by_area() -> None:
    left = part((0, 30), mean_enhancement_ppm_m=400.0, noise_ppm_m=80.0)
    right = part((30, 40), granule=1, mean_enhancement_ppm_m=800.0, noise_ppm_m=120.0)
    (row,) = rows_of(left, right)
    assert row["mean_enhancement_ppm_m"] == pytest.approx(500.0)
    assert row["noise_ppm_m"] == pytest.approx(90.0)


def test_what_is_not_known_of_one_part_is_not_known_of_the_plume() -> None:
    unknown = {"ime_noise_kg": None, "ime_sigma_kg": None, "noise_ppm_m": None}
    (row,) = rows_of(part((0, 24)), part((20, 40), granule=1, **unknown))
    assert row["ime_kg"] == pytest.approx(800.0, rel=1e-5)
    assert row["ime_sigma_kg"] is row["ime_noise_kg"] is row["noise_ppm_m"] is None


@pytest.mark.parametrize(
    ("gap_m", "more", "count"),
    [
        pytest.param(0.0, {}, 1, id="they touch"),
        pytest.param(10.0, {}, 1, id="granules have grids of their own"),
        pytest.param(60.0, {}, 1, id="a pixel"),
        pytest.param(120.0, {}, 2, id="two pixels"),
        pytest.param(10.0, {"seconds": 61.0}, 2, id="not in one go"),
        pytest.param(10.0, {"instrument": "enmap"}, 2, id="another instrument"),
        pytest.param(10.0, {"provider": "earthaccess"}, 2, id="another catalog"),
        pytest.param(10.0, {"method": "mbmp"}, 2, id="a mosaic has no edges of granules"),
    ],
)
def test_what_lies_within_a_pixel_on_both_sides_of_an_edge_is_one(
    gap_m: float, more: dict[str, Any], count: int
) -> None:
    start = 20 + gap_m / PIXEL_M
    found = rows_of(part((0, 20)), part((start, start + 16), granule=1, **more))
    assert len(found) == count
    masses = [400.0, 320.0] if count == 2 else [720.0]
    assert sorted(row["ime_kg"] for row in found) == pytest.approx(sorted(masses), rel=1e-5)


def test_candidates_of_one_scene_are_no_parts_of_each_other() -> None:
    left, right = part((0, 20)), part((20.1, 36), granule=1)
    assert len(rows_of(left, replace(right, scenes=left.scenes))) == 2


def test_three_granules_and_two_candidates_of_one_map_that_a_third_joins() -> None:
    (row,) = rows_of(part((0, 20)), part((20, 40), granule=1), part((40, 60), granule=2))
    assert row["ime_kg"] == pytest.approx(1200.0)
    assert row["members"] == len(row["part_ids"]) == 3
    upper, lower = part((0, 20), rows=4, up=6.0), part((0, 20), rows=4)
    (row,) = rows_of(upper, lower, part((20, 40), granule=1))
    assert row["ime_kg"] == pytest.approx(160.0 + 160.0 + 400.0)


def test_a_second_view_of_the_same_ground_adds_nothing() -> None:
    (row,) = rows_of(part((0, 40)), part((25, 35), granule=1, rows=8))
    assert row["ime_kg"] == pytest.approx(800.0)
    assert (
        outline_of(row).symmetric_difference(outline_of(part((0, 40)).row)).area < 1e-4 * outline_of(row).area
    )


def test_of_other_catalogs_the_better_view_counts_alone_and_a_half_is_not_the_better_one() -> None:
    left, right = part((0, 24)), part((20, 40), granule=1)
    copies = [
        part((0, 24), provider="earthaccess", ime_kg=470.0, significance=1000.0),
        part((20, 40), granule=1, provider="earthaccess", ime_kg=410.0),
    ]
    (row,) = rows_of(left, right, *copies)
    assert row["provider"] == "earthaccess"
    assert row["ime_kg"] == pytest.approx(470.0 + 0.8 * 410.0, rel=1e-5)
    assert (row["members"], row["providers"]) == (4, ["cmr_stac", "earthaccess"])
    # Of the other catalog one half alone, of a higher score than either half here.
    (row,) = rows_of(left, right, copies[0])
    assert row["provider"] == "cmr_stac"
    assert row["ime_kg"] == pytest.approx(800.0, rel=1e-5)


def test_candidates_of_one_map_that_another_catalog_sees_as_one_are_not_added_up() -> None:
    left, right = part((0, 20)), part((24, 40))
    over = part((0, 40), provider="earthaccess", significance=10.0, ime_kg=999.0)
    (row,) = rows_of(left, right, over)
    assert (row["ime_kg"], row["members"]) == (400.0, 3)
    assert row["part_ids"] == [left.row["plume_id"]]
    assert outline_of(row).equals(outline_of(left.row))


def test_two_levels_of_one_scene_are_one_row() -> None:
    l1c = part((0, 20), method="cmf", instrument="enmap")
    l2a = replace(
        part((0, 21), method="cmf", instrument="enmap", significance=9.0, ime_kg=430.0), node="ENMAP_L2A"
    )
    (row,) = rows_of(l1c, l2a)
    assert (row["ime_kg"], row["members"]) == (400.0, 2)


def test_two_halves_on_both_sides_of_the_antimeridian() -> None:
    left, right = part((0, 20), west=180.0 - 20.2 * EAST), part((0, 20), granule=1, west=-180.0 + 0.2 * EAST)
    (row,) = rows_of(left, right)
    assert row["ime_kg"] == pytest.approx(800.0)
    assert row["elongation"] == pytest.approx(40.4**2 / 400 * (1 + 0.0), rel=0.03)
    far = part((0, 20), granule=1, west=-180.0 + 2.0 * EAST)
    assert len(rows_of(left, far)) == 2


def test_the_order_of_the_candidates_does_not_matter() -> None:
    candidates = [part((0, 20)), part((20, 40), granule=1), part((40, 52), granule=2)]
    first, second = tables(candidates), tables(candidates[::-1])
    assert first[0].equals(second[0])
    assert first[1].equals(second[1])


def test_the_check_sees_parts_that_were_left_apart() -> None:
    rows, members = (pl.from_arrow(table) for table in tables([part((0, 20)), part((24, 40), granule=1)]))
    assert isinstance(rows, pl.DataFrame)
    assert isinstance(members, pl.DataFrame)
    assert plumes._repeated(rows, members) == []
    near = part((20.2, 36), granule=1).row["geometry"]
    late = members["plume"] == part((24, 40), granule=1).row["plume_id"].removesuffix("-cmr_stac")
    moved = members.with_columns(geometry=pl.when(late).then(pl.lit(near)).otherwise("geometry"))
    assert len(plumes._repeated(rows, moved)) == 1


def test_what_a_model_said_of_the_parts() -> None:
    said = {"model_name": "plume-unet", "model_version": "abc"}
    left = part((0, 30), probability_max=0.9, probability_mean=0.5, **said)
    right = part((30, 40), granule=1, probability_max=0.95, probability_mean=0.7, **said)
    whole, parts = shown([left, right])
    assert (whole.row["probability_max"], whole.row["model_version"]) == (0.95, "abc")
    assert whole.row["probability_mean"] == pytest.approx(0.55)
    assert parts[0] is best([left, right])


@pytest.mark.parametrize("turn", [0.0, 0.6])
def test_elongation_is_that_of_the_pixels(turn: float) -> None:
    rng = np.random.default_rng(3)
    inside = np.zeros((12, 30), bool)
    inside[3:8, 2:27] = True
    inside[5, 10:14] = False
    inside |= rng.random(inside.shape) > 0.9
    shape = shapely.union_all(
        [shapely.box(c, r, c + 1, r + 1) for r, c in zip(*np.nonzero(inside), strict=True)]
    )
    shape = shapely.affinity.rotate(shape, turn, use_radians=True)
    shape = shapely.transform(shape, lambda xy: xy * [EAST, NORTH] + [54.0, LATITUDE])
    centres = np.stack(np.nonzero(inside)).astype(np.float64)
    spread = np.cov(centres, bias=True)[:2, :2] + np.eye(2) / 12.0
    assert elongation(shape) == pytest.approx(12.0 * np.linalg.eigvalsh(spread)[-1] / inside.sum(), rel=1e-3)


def stored(folder: Path, candidates: Sequence[Candidate], winds: pl.DataFrame) -> Workspace:
    """Return a workspace with candidates as the stages before leave them, and a wind."""
    winds.write_csv(folder / "wind.csv")
    ws = open_workspace(
        parse_settings(
            {
                "root": "file:store",
                "areas": {"korpezhe": {"bbox": [53.95, 38.45, 54.25, 38.60]}},
                "providers": {"cmr_stac": {}},
                "wind": {"source": str(folder / "wind.csv")},
            },
            base=folder,
        )
    )
    manifest = pl.DataFrame(
        {
            "item_id": [one.row["item_ids"][0] for one in candidates],
            "scene": [one.scenes[0] for one in candidates],
        }
    )
    steps: list[tuple[str, str, dict[str, bytes]]] = [
        ("granules", "", {"granules.parquet": parquet_bytes(manifest)}),
        ("cube", "granules", {"summary.parquet": parquet_bytes(manifest)}),
        (
            "methane",
            "cube",
            {
                f"plumes-{one.node}.parquet": to_geoparquet(plume_rows([one.row], judged=True))
                for one in candidates
            },
        ),
    ]
    for stage, before, files in steps:
        upstream = {f"cmr_stac/{before}/{DAY}": "v"} if before else {}
        with ws.artifacts.begin(
            f"cmr_stac/{stage}", DAY, "v", kind="table", code_version="1", upstream=upstream
        ) as attempt:
            for path, data in files.items():
                attempt.put(path, data)
            ws.artifacts.point(
                attempt.commit(meta={"rows": len(files), "plumes": len(candidates)}), run_id=None
            )
    return ws


def test_the_rate_of_a_cut_plume_is_that_of_the_whole(tmp_path: Path) -> None:
    winds = pl.DataFrame(
        {"time": [START], "longitude": [54.2], "latitude": [38.5], "u10": [4.0], "v10": [0.0]}
    )
    ws = stored(tmp_path, [part((0, 24)), part((20, 40), granule=1)], winds)
    outcome = plumes.build(ws, DAY)
    assert all(check.passed for check in outcome.checks)
    (row,) = outcome.snapshot.open().rows(named=True)
    # 3600 (a U10 + b) IME / sqrt(area), by hand.
    length = math.sqrt(400 * AREA)
    assert row["plume_length_m"] == pytest.approx(length, rel=1e-5)
    assert row["emission_rate_kg_h"] == pytest.approx(3600 * (0.36 * 4.0 + 0.43) * 800.0 / length, rel=1e-4)
    assert row["emission_rate_sigma_kg_h"] > 0
    # The wind comes from the west, where the first half begins.
    assert row["source_longitude"] == pytest.approx(54.2, abs=2 * EAST)
    halves = outcome.snapshot.open("members")
    assert halves["emission_rate_kg_h"].null_count() == 0
    assert set(halves["node"]) == {"EMIT_L1B_RAD_001_0", "EMIT_L1B_RAD_001_1"}
    assert plumes.target(ws, DAY, plumes.detections(ws, DAY)) == outcome.snapshot.version
    assert plumes.build(ws, DAY).reused


def test_a_plume_outside_the_areas_gets_the_wind_that_is_nearest_to_it(tmp_path: Path) -> None:
    places = [round(53.8 + 0.1 * step, 1) for step in range(14)]
    winds = pl.DataFrame(
        {
            "time": [START] * len(places), "longitude": places, "latitude": [LATITUDE] * len(places),
            "u10": [3.0] * len(places), "v10": [0.0] * len(places),
        }
    )  # fmt: skip
    ws = stored(tmp_path, [part((0, 20), west=54.8)], winds)
    (row,) = plumes.build(ws, DAY).snapshot.open().rows(named=True)
    assert row["wind_longitude"] == 54.8
    assert row["wind_distance_km"] < 1.0


def test_the_field_that_shows_a_cut_plume_is_that_of_its_leading_part() -> None:
    (row,) = rows_of(part((0, 24)), part((20, 40), granule=1))
    fields: list[Any] = [
        SimpleNamespace(
            provider="cmr_stac",
            node=f"EMIT_L1B_RAD_001_{number}",
            time=START + timedelta(seconds=12 * number),
            items=frozenset({f"EMIT_L1B_RAD_001_{number}"}),
        )
        for number in (1, 0)
    ]
    found = _field_of(row, fields)
    assert found is not None
    assert found.node == "EMIT_L1B_RAD_001_0"
