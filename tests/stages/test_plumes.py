"""Counting plumes over providers: copies count once, neighbours stay apart, nothing is lost."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geostack_pipeline.methane.plume_table import plume_rows, to_geoparquet
from geostack_pipeline.stages import plumes
from geostack_pipeline.stages.plumes import Candidate, best, same_plume, tables

NOON = datetime(2024, 6, 7, 7, 21, 31, tzinfo=UTC)
SCENE = "S2A_20240607T072131_T39SXD"
NEIGHBOUR = "S2A_20240607T072131_T40SBH"
OTHER_PASS = "S2B_20240607T100131_T39SXD"
PROVIDERS = ("cdse", "earth_search", "planetary_computer", "sentinel_hub")


def candidate(
    provider: str = "earth_search",
    *,
    at: tuple[float, float] = (54.2, 38.5),
    size: float = 0.004,
    seconds: float = 0.0,
    scenes: tuple[str, ...] = (SCENE,),
    area: str = "korpezhe",
    method: str = "mbmp",
    significance: float = 50.0,
) -> Candidate:
    """Return a square candidate around a place."""
    x, y = at
    time = NOON + timedelta(seconds=seconds)
    row: dict[str, Any] = {
        "plume_id": f"{area}-{time:%Y%m%dT%H%M%S}-{y:.5f}N-{x:.5f}E-{provider}",
        "provider": provider,
        "area": area,
        "time": time,
        "method": method,
        "geometry": shapely.to_wkb(shapely.box(x - size, y - size, x + size, y + size)),
        "source_longitude": x,
        "source_latitude": y,
        "significance": significance,
        "peak_z": significance / 5,
        # Of its own, so that a row says whose mass it shows.
        "ime_kg": 2.0 * significance,
        "item_ids": [f"{scene}-{provider}" for scene in scenes],
    }
    # With every column of the stage before.
    return Candidate(row=plume_rows([row]).to_pylist()[0], scenes=scenes, version=f"version-of-{provider}")


places = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), unique=True, min_size=1, max_size=5)
"""Plumes on a lattice wide enough that no two of them touch."""


@settings(max_examples=40)
@given(
    places=places,
    copies=st.lists(st.sampled_from(PROVIDERS), unique=True, min_size=1),
    jitter=st.lists(st.floats(-0.001, 0.001), min_size=40, max_size=40),
    late=st.sampled_from([0.0, 400.0]),
    order=st.randoms(use_true_random=False),
)
def test_copies_of_a_detection_through_several_providers_count_once(
    places: list[tuple[int, int]], copies: list[str], jitter: list[float], late: float, order: Any
) -> None:
    moves = iter(jitter)
    candidates = [
        candidate(
            provider,
            at=(54.0 + 0.02 * x + next(moves), 38.0 + 0.02 * y + next(moves)),
            # Catalogs state the time of the datatake or that of the tile.
            seconds=late * index,
            significance=50.0 + index,
        )
        for x, y in places
        for index, provider in enumerate(copies)
    ]
    order.shuffle(candidates)
    rows, members = (pl.from_arrow(table) for table in tables(candidates))
    assert isinstance(rows, pl.DataFrame)
    assert isinstance(members, pl.DataFrame)
    assert rows.height == len(places)
    assert set(rows["members"]) == {len(copies)}
    assert {tuple(names) for names in rows["providers"]} == {tuple(sorted(copies))}
    assert sorted(members["plume_id"]) == sorted(one.row["plume_id"] for one in candidates)
    assert set(rows["representative"]) <= set(members["plume_id"])
    assert {name.rpartition("-")[2] for name in rows["representative"]} == {copies[-1]}
    assert members.filter("representative")["plume"].sort().equals(rows["plume_id"].sort())
    # Copies are not added up: mass and outline are those of the strongest.
    assert set(rows["ime_kg"]) == {2.0 * (50.0 + len(copies) - 1)}
    assert set(rows["geometry"]) == set(members.filter("representative")["geometry"])
    assert {len(parts) for parts in rows["part_ids"]} == {1}
    assert plumes._repeated(rows, members) == []


def test_the_order_of_the_providers_does_not_matter() -> None:
    candidates = [
        candidate(provider, at=(54.2 + 0.001 * index, 38.5)) for index, provider in enumerate(PROVIDERS)
    ]
    first, second = tables(candidates), tables(candidates[::-1])
    assert first[0].equals(second[0])
    assert first[1].equals(second[1])


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        pytest.param(candidate("cdse"), candidate("cdse", at=(54.3, 38.5)), 2, id="one scene, two places"),
        pytest.param(candidate(), candidate("cdse", at=(54.206, 38.5)), 1, id="one scene, outlines meet"),
        pytest.param(
            candidate(), candidate("cdse", seconds=9600, scenes=(OTHER_PASS,)), 2, id="two passes, one place"
        ),
        pytest.param(
            candidate(),
            candidate("cdse", seconds=500, scenes=(NEIGHBOUR,)),
            1,
            id="two tiles of one datatake",
        ),
        pytest.param(
            candidate(), candidate("emit", seconds=90, scenes=("EMIT_1",)), 1, id="two sensors at one time"
        ),
        pytest.param(
            candidate(),
            candidate("emit", seconds=121, scenes=("EMIT_1",)),
            2,
            id="two sensors, minutes apart",
        ),
        pytest.param(candidate(area="north"), candidate(area="south"), 1, id="two areas that overlap"),
        # Told apart by the detection on one map, where they touch at a corner.
        pytest.param(candidate(), candidate(at=(54.208, 38.508)), 2, id="neighbours on one map"),
    ],
)
def test_what_is_one_plume(one: Candidate, other: Candidate, count: int) -> None:
    rows, members = (pl.from_arrow(table) for table in tables([one, other]))
    assert isinstance(rows, pl.DataFrame)
    assert isinstance(members, pl.DataFrame)
    assert (rows.height, members.height) == (count, 2)
    assert plumes._repeated(rows, members) == []


def test_a_candidate_that_covers_two_others_makes_them_one() -> None:
    left, right = candidate(at=(54.2, 38.5)), candidate(at=(54.215, 38.5))
    over = candidate("cdse", at=(54.2075, 38.5), size=0.01)
    assert same_plume([left, right]) == [[0], [1]]
    assert same_plume([left, right, over]) == [[0, 1, 2]]


def test_the_check_sees_a_plume_that_is_shown_twice() -> None:
    rows, members = (
        pl.from_arrow(table) for table in tables([candidate(), candidate("cdse", at=(54.3, 38.5))])
    )
    assert isinstance(rows, pl.DataFrame)
    assert isinstance(members, pl.DataFrame)
    assert plumes._repeated(rows, members) == []
    moved = members.with_columns(geometry=pl.lit(members["geometry"][0]))
    assert len(plumes._repeated(rows, moved)) == 1


def test_a_multi_pass_candidate_represents_before_a_stronger_single_pass_one() -> None:
    single = candidate("cdse", method="mbsp", significance=500.0)
    assert best([single, candidate()]).row["method"] == "mbmp"
    spectrum = candidate("lp_cloud", method="cmf", significance=10.0)
    assert best([candidate(), spectrum, single]) is spectrum, (
        "what only screens must not stand for a spectrum"
    )
    assert best([candidate(significance=10.0), candidate("cdse")]).row["provider"] == "cdse"


def test_no_candidate_gives_the_full_schema_as_geoparquet() -> None:
    rows, members = tables([])
    assert rows.num_rows == members.num_rows == 0
    for table in (rows, members):
        stored = pq.read_table(io.BytesIO(to_geoparquet(table)))
        assert stored.schema.names == table.schema.names
        geo = json.loads(stored.schema.metadata[b"geo"])
        assert geo["primary_column"] == "geometry"
        assert geo["columns"]["geometry"]["geometry_types"] == []
    assert {"representative", "members", "providers", "scenes"} <= set(rows.schema.names)


def test_the_version_is_that_of_the_methane_versions() -> None:
    assert plumes.version({"a": "1", "b": "2"}) == plumes.version({"b": "2", "a": "1"})
    assert plumes.version({"a": "1"}) != plumes.version({"a": "2"})
    assert plumes.version({"a": "1"}) != plumes.version({"b": "1"})
    winds = [None, {"digest": "0"}, {"digest": "1"}]
    assert len({plumes.version({"a": "1"}, wind) for wind in winds}) == 3


def test_what_a_plume_model_said_is_in_every_table_and_null_without_one() -> None:
    plain, seen = (
        candidate(),
        candidate("cmr_stac", at=(54.4, 38.5), scenes=("EMIT_20240607T072131",), method="l2b"),
    )
    said = {
        "probability_max": 0.93, "probability_mean": 0.7, "model_name": "plume-unet", "model_version": "abc",
    }  # fmt: skip
    for table in tables([plain, replace(seen, row={**seen.row, **said})]):
        rows = {row["provider"]: row for row in table.to_pylist()}
        assert {name: rows["cmr_stac"][name] for name in said} == said
        assert all(rows["earth_search"][name] is None for name in said)
    rows, members = tables([])
    assert set(said) <= set(rows.schema.names) & set(members.schema.names)
