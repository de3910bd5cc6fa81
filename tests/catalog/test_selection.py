"""Selection: every scene is selected or dropped with one reason, and an expression reaches nothing else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog.scene_table import items_of, to_parquet
from geostack_pipeline.catalog.selection import Selection, check_where, select
from geostack_pipeline.errors import SelectionError
from geostack_pipeline.providers.earth_search import EarthSearch

PROVIDER = EarthSearch()
AREA = Area(name="here", bbox=(7.2, 46.2, 7.4, 46.4))


def item(
    name: str,
    *,
    cloud: float | None = 10.0,
    baseline: str = "05.00",
    made: str = "2023-06-30T02:24:13Z",
    when: str = "2020-03-05T10:37:41.587Z",
    box: tuple[float, float, float, float] = (7, 46, 8, 47),
) -> dict[str, Any]:
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return PROVIDER.canonical(
        {
            "id": name,
            "collection": "sentinel-2-l2a",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "datetime": when,
                "platform": "sentinel-2a",
                "grid:code": "MGRS-32TMT",
                "eo:cloud_cover": cloud,
                "s2:processing_baseline": baseline,
                "s2:generation_time": made,
                "instruments": ["msi"],
            },
            "assets": {"red": {"href": f"s3://sentinel-cogs/{name}/B04.tif"}},
        }
    )


def table(*items: dict[str, Any]) -> pa.Table:
    return pq.read_table(io.BytesIO(to_parquet(items, PROVIDER.template())["scenes.parquet"]))


def chosen(selection: Selection) -> list[str]:
    return selection.selected.column("id").to_pylist()


def reasons(selection: Selection) -> dict[str, str]:
    return dict(zip(selection.dropped["id"], selection.dropped["reason"], strict=True))


def minute(number: int) -> str:
    return f"2020-03-05T10:{number:02d}:00Z"


def test_every_row_is_selected_or_dropped_once_with_its_reason() -> None:
    scenes = table(
        item("a-good"),
        item("b-cloudy", cloud=90.0, when=minute(1)),
        item("c-null", cloud=None, when=minute(2)),
        item("d-far", box=(20, 46, 21, 47), when=minute(3)),
        item("e-old", baseline="02.14"),
        item("f-part", box=(7.35, 46, 8, 47), when=minute(4)),
    )
    selection = select(scenes, where='"eo:cloud_cover" < 80', areas=[AREA], min_coverage=0.5)
    assert chosen(selection) == ["a-good"]
    assert reasons(selection) == {
        "b-cloudy": "where", "c-null": "where", "d-far": "coverage", "e-old": "duplicate", "f-part": "coverage",
    }  # fmt: skip
    details = dict(zip(selection.dropped["id"], selection.dropped["detail"], strict=True))
    assert "a-good" in details["e-old"]
    assert details["f-part"] == "covers 0.2500 of an area at most, wanted 0.5"
    assert (
        selection.dropped.filter(selection.dropped["id"] == "e-old")["geostack_scene"][0]
        == "S2A_20200305T1037_T32TMT"
    )


def test_coverage_is_given_for_every_scene_and_area_that_meet() -> None:
    other = Area(name="other", bbox=(7.9, 46.5, 8.1, 46.6))
    selection = select(
        table(item("a"), item("b", cloud=90.0, when=minute(1))),
        where='"eo:cloud_cover" < 80',
        areas=[AREA, other],
    )
    rows = {
        (row["item_id"], row["area"]): row["coverage"] for row in selection.coverage.iter_rows(named=True)
    }
    assert rows[("a", "here")] == 1.0
    assert rows[("a", "other")] == pytest.approx(0.5)
    assert set(rows) == {(name, area) for name in "ab" for area in ("here", "other")}


def test_an_item_counts_for_an_area_across_the_antimeridian() -> None:
    fiji = Area(name="fiji", bbox=(179.5, -17.0, -179.5, -16.0))
    selection = select(
        table(item("west", box=(-180, -17, -179, -16))), where=None, areas=[fiji], min_coverage=0.4
    )
    assert chosen(selection) == ["west"]
    assert selection.coverage["coverage"][0] == pytest.approx(0.5)


def test_a_footprint_that_only_touches_covers_nothing() -> None:
    selection = select(table(item("touching", box=(6, 46, 7.2, 47))), where=None, areas=[AREA])
    assert reasons(selection) == {"touching": "coverage"}


def test_no_rows_give_a_table_with_all_columns() -> None:
    empty = table()
    selection = select(empty, where='"eo:cloud_cover" < 80', areas=[AREA], min_coverage=0.1)
    assert selection.selected.schema.equals(empty.schema)
    assert selection.selected.num_rows == selection.dropped.height == selection.coverage.height == 0
    assert selection.dropped.columns == ["id", "geostack_scene", "reason", "detail"]


def test_selected_rows_are_still_the_items_they_were() -> None:
    items = [item("a"), item("b", when=minute(1), cloud=95.0), item("c", when=minute(2))]
    scenes = table(*items)
    selection = select(scenes, where='"eo:cloud_cover" < 80', areas=[AREA])
    assert items_of(selection.selected) == [items[0], items[2]]
    assert selection.selected.schema.metadata == scenes.schema.metadata


# -- duplicates -----------------------------------------------------------------------------------


def test_the_order_is_baseline_then_processing_then_id() -> None:
    newer = {"made": "2024-01-01T00:00:00Z"}
    cases = [
        ([item("a", baseline="02.14", **newer), item("b")], "b"),
        ([item("a"), item("b", **newer)], "b"),
        ([item("b"), item("a")], "a"),
        ([item("a", baseline="09.99"), item("b", baseline="10.00")], "b"),
    ]
    for items, best in cases:
        for order in (items, items[::-1]):
            assert chosen(select(table(*order), where=None, areas=[AREA])) == [best]


def test_where_chooses_among_all_processings() -> None:
    """Decided: the expression comes first, so that it can ask for the old processing, and a scene is not lost."""
    scenes = table(item("new", cloud=85.0), item("old", baseline="02.14", cloud=70.0))
    assert chosen(select(scenes, where="\"processing:baseline\" < '05.00'", areas=[AREA])) == ["old"]
    selection = select(scenes, where='"eo:cloud_cover" < 80', areas=[AREA])
    assert chosen(selection) == ["old"]
    assert reasons(selection) == {"new": "where"}


def test_two_parts_of_a_pass_are_no_duplicates() -> None:
    west, east = item("west", box=(7, 46, 7.3, 47)), item("east", box=(7.3, 46, 8, 47))
    assert west["properties"]["geostack:scene"] == east["properties"]["geostack:scene"]
    assert sorted(chosen(select(table(west, east), where=None, areas=[AREA]))) == ["east", "west"]


def test_three_processings_leave_one() -> None:
    items = [item(f"v{number}", baseline=f"0{number}.00") for number in (2, 3, 5)]
    selection = select(table(*items), where=None, areas=[AREA])
    assert chosen(selection) == ["v5"]
    assert set(selection.dropped["detail"]) == {
        "same scene as v5 (baseline 05.00, processed 2023-06-30T02:24:13.000000Z)"
    }


drawn_items = st.lists(
    st.builds(
        item,
        name=st.sampled_from([f"item-{n}" for n in range(9)]),
        cloud=st.one_of(st.none(), st.floats(0, 100)),
        baseline=st.sampled_from(["02.14", "05.00", "05.11"]),
        when=st.sampled_from([minute(1), minute(2)]),
        box=st.sampled_from([(7, 46, 8, 47), (7.25, 46, 8, 47), (20, 46, 21, 47)]),
    ),
    max_size=6,
    unique_by=lambda one: one["id"],
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn_items, st.floats(0, 1), st.floats(0, 100))
def test_selection_accounts_for_every_row(items: list[dict[str, Any]], share: float, cloud: float) -> None:
    selection = select(table(*items), where=f'"eo:cloud_cover" < {cloud!r}', areas=[AREA], min_coverage=share)
    kept, dropped = chosen(selection), list(selection.dropped["id"])
    assert sorted(kept + dropped) == sorted(one["id"] for one in items)
    by_id = {one["id"]: one for one in items}
    best = {row["item_id"]: row["coverage"] for row in selection.coverage.iter_rows(named=True)}
    for name in kept:
        assert by_id[name]["properties"]["eo:cloud_cover"] < cloud
        assert best[name] >= share
    for name, reason in reasons(selection).items():
        value = by_id[name]["properties"]["eo:cloud_cover"]
        assert (reason == "where") == (value is None or not value < cloud)


# -- expressions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("true", 2),
        ('"eo:cloud_cover" < 50 -- only clear ones', 1),
        ("assets.B04.href LIKE '%clear%'", 1),
        ("bbox.xmin < 8 AND bbox.xmax > 7", 2),
        ("datetime >= TIMESTAMPTZ '2020-03-05T10:30:00Z'", 1),
        ("date_trunc('day', datetime) = TIMESTAMPTZ '2020-03-05T00:00:00Z'", 2),
        ("list_contains(instruments, 'msi')", 2),
        ("platform IN ('sentinel-2a', 'sentinel-2b') AND \"view:incidence_angle\" IS NULL", 2),
        ('CASE WHEN "eo:cloud_cover" > 50 THEN false ELSE true END', 1),
        ('"geostack:extra" IS NULL OR json_extract("geostack:extra", \'$.x\') IS NULL', 2),
    ],
)
def test_expressions_that_users_write(where: str, count: int) -> None:
    check_where(where)
    scenes = table(item("clear"), item("cloudy", cloud=90.0, when=minute(1)))
    assert select(scenes, where=where, areas=[AREA]).selected.num_rows == count


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("", "Parser Error"),
        ("eo:cloud_cover < 80", "double quotes"),
        ('"cloud" < 80', 'column "cloud" not found'),
        ('"eo:cloud_cover"', "type DOUBLE"),
        ("1", "type INTEGER"),
        ("CAST(id AS INTEGER) > 1", "Conversion Error"),
        ("true; DROP TABLE scenes", "more than one statement"),
        ("1=1) OR (1=1", "Parser Error"),
        ("true ORDER BY id", "Parser Error|modifier"),
        ("true /*", "Parser Error"),
        ("count(*) > 1", "does not look at one row"),
        ("row_number() OVER () = 1", "a window function"),
        ("EXISTS (SELECT 1)", "a subquery"),
        ("id IN (SELECT id FROM scenes)", "a subquery"),
        ("id IN (SELECT content FROM read_text('/etc/hostname'))", "a subquery"),
        ("read_text('/etc/hostname') IS NULL", "does not look at one row"),
        ("query('SELECT 1') IS NULL", "does not look at one row"),
        ("getenv('HOME') IS NOT NULL", "Error"),
        ("$1", "a parameter"),
        ("*", "a star"),
        ("now() > datetime", "tomorrow"),
        ("current_date > DATE '2020-01-01'", "tomorrow"),
        ("CURRENT_TIMESTAMP > datetime", "tomorrow"),
        ("today() > DATE '2020-01-01'", "tomorrow"),
        ("random() < 0.5", "tomorrow"),
        ("uuid() IS NULL", "tomorrow"),
        ("current_setting('threads') = '2'", "tomorrow"),
    ],
)
def test_expressions_that_do_not_select_are_errors_that_name_the_setting(where: str, found: str) -> None:
    with pytest.raises(SelectionError, match=found) as caught:
        select(table(item("a")), where=where, areas=[AREA])
    assert "setting where" in str(caught.value)


def test_an_unknown_column_lists_the_columns() -> None:
    with pytest.raises(SelectionError, match=r"the columns are .*eo:cloud_cover.*processing:baseline"):
        select(table(item("a")), where='"cloud" < 80', areas=[AREA])


def test_an_expression_writes_no_file(tmp_path: Path) -> None:
    target = tmp_path / "stolen.csv"
    for where in (f"true); COPY scenes TO '{target}'; SELECT (true", f"write_log('{target}') IS NULL"):
        with pytest.raises(SelectionError):
            select(table(item("a")), where=where, areas=[AREA])
    assert not target.exists()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_min_coverage_is_a_share(share: float) -> None:
    with pytest.raises(SelectionError, match="min_coverage"):
        select(table(), where=None, areas=[AREA], min_coverage=share)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.text(alphabet="()'\"-/*;$<>=1a ", max_size=30))
def test_no_text_does_worse_than_an_error(where: str) -> None:
    try:
        check_where(where)
    except SelectionError as error:
        assert error.problem  # noqa: PT017 - either outcome is right, a crash is not
