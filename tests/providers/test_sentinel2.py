"""Names, baselines and tiles of Sentinel-2, and the coercion of loosely typed JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers.coerce import MISSING, coerce, escape, format_time, parse_time
from geostack_pipeline.providers.geometry import GeometryError, bbox_of, canonical_bbox, canonical_geometry


def test_a_product_name_is_read() -> None:
    product = sentinel2.parse_product("S2B_MSIL2A_20240407T173859_N0510_R098_T13TDE_20240407T215747.SAFE")
    assert product == sentinel2.Product(
        mission="S2B",
        datatake="20240407T173859",
        baseline="05.10",
        relative_orbit=98,
        tile="13TDE",
        made="20240407T215747",
    )


@given(st.text() | st.none() | st.integers())
def test_no_text_breaks_the_parsers(text: Any) -> None:
    for parse in (
        sentinel2.parse_product,
        sentinel2.parse_datatake,
        sentinel2.parse_baseline,
        sentinel2.parse_tile,
        sentinel2.parse_platform,
        parse_time,
    ):
        parse(text)


@pytest.mark.parametrize(
    ("text", "baseline"),
    [
        ("05.00", "05.00"),
        ("5.00", "05.00"),
        ("0510", "05.10"),
        ("N0214", "02.14"),
        ("99.99", "99.99"),
        ("5", None),
        ("x", None),
    ],
)
def test_baselines_sort_as_text(text: str, baseline: str | None) -> None:
    assert sentinel2.parse_baseline(text) == baseline


def test_offsets_begin_with_baseline_four() -> None:
    cases = {"02.14": 0.0, "03.01": 0.0, "04.00": -0.1, "05.11": -0.1, "10.00": -0.1, None: None}
    assert {baseline: sentinel2.offset_of(baseline) for baseline in cases} == cases


def test_tiles() -> None:
    assert sentinel2.parse_tile("MGRS-1CCV") == "01CCV"
    assert sentinel2.parse_tile("T32TMT") == sentinel2.parse_tile("32TMT") == "32TMT"
    assert sentinel2.parse_tile("61TMT") is sentinel2.parse_tile("32IMT") is None


def test_a_scene_without_a_datatake_is_known_by_its_minute() -> None:
    moment = datetime(2020, 3, 5, 10, 37, 41, 587000, UTC)
    name = sentinel2.scene_id({}, platform="sentinel-2a", tile="32TMT", moment=moment)
    assert name == "S2A_20200305T1037_T32TMT"
    foreign = {"s2:datatake_id": "GS2B_20200305T103021_024558_N05.00"}
    assert sentinel2.scene_id(foreign, platform="sentinel-2a", tile="32TMT", moment=moment) == name


# -- coerce ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shape", "expected"),
    [
        ("72", "float", 72.0),
        (72, "float", 72.0),
        (True, "float", MISSING),
        ("1e400", "float", MISSING),
        (2**53 + 1, "float", MISSING),
        (-0.0, "float", 0.0),
        (float("nan"), "float", MISSING),
        ("12", "int", 12),
        (12.0, "int", 12),
        (12.5, "int", MISSING),
        (2**63, "int", MISSING),
        (5.1, "str", "5.1"),
        (True, "str", "true"),
        ("TRUE", "bool", True),
        (1, "bool", MISSING),
        ("2020-03-05T10:37:41Z", "time", "2020-03-05T10:37:41.000000Z"),
        ("2020-03-05T12:37:41.5+02:00", "time", "2020-03-05T10:37:41.500000Z"),
        ("0001-01-01T00:00:00+14:00", "time", MISSING),
        (["a", 1], ["str"], ["a", "1"]),
        (["a", {}], ["str"], MISSING),
        ({"a": "1", "b": 2}, {"a": "int"}, {"a": 1}),
        ({}, {"a": "int"}, MISSING),
    ],
)
def test_coerce(value: Any, shape: Any, expected: Any) -> None:
    leftovers: dict[str, Any] = {}
    result = coerce(value, shape, "/x", leftovers)
    assert result is expected or (result == expected and type(result) is type(expected))
    if expected is MISSING and value != {}:
        assert leftovers == {"/x": value} or value != value


def test_leftovers_are_found_by_pointer() -> None:
    leftovers: dict[str, Any] = {}
    coerce(
        {"a": {"b/c~": 1, "d": "x"}, "l": [{"k": 1, "z": 2}]},
        {"a": {"d": "str"}, "l": [{"k": "int"}]},
        "/p",
        leftovers,
    )
    assert leftovers == {"/p/a/b~1c~0": 1, "/p/l/0/z": 2}
    assert escape("a/b~c") == "a~1b~0c"


@given(
    st.datetimes(
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
        min_value=datetime(2, 1, 1),
    )
)
def test_times_round_trip(moment: datetime) -> None:
    assert parse_time(format_time(moment)) == moment
    assert parse_time(moment.isoformat()) == moment


def test_nanoseconds_are_cut_and_kept_aside() -> None:
    leftovers: dict[str, Any] = {}
    assert coerce("2020-03-05T10:37:41.123456789Z", "time", "/t", leftovers) == "2020-03-05T10:37:41.123456Z"
    assert leftovers == {"/t": "2020-03-05T10:37:41.123456789Z"}


# -- footprints -----------------------------------------------------------------------------------


def test_boxes() -> None:
    assert canonical_bbox([1, 2, 3, 4]) == [1.0, 2.0, 3.0, 4.0]
    assert canonical_bbox([1, 2, 0, 3, 4, 9]) == [1.0, 2.0, 3.0, 4.0]
    assert canonical_bbox([179, -1, -179, 1]) == [179.0, -1.0, -179.0, 1.0]
    for bad in (
        [1, 2, 3],
        [1, 4, 3, 2],
        [1, 2, None, 4],
        "1,2,3,4",
        [1, 2, 3, float("inf")],
        [1, -91, 3, 4],
        [True, 2, 3, 4],
    ):
        assert canonical_bbox(bad) is None


def ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


@pytest.mark.parametrize(
    ("geometry", "box"),
    [
        ({"type": "Polygon", "coordinates": [ring(7, 46, 8, 47)]}, [7, 46, 8, 47]),
        ({"type": "Polygon", "coordinates": [ring(179, 0, 181, 1)]}, [179, 0, -179, 1]),
        ({"type": "Polygon", "coordinates": [ring(-181, 0, -179, 1)]}, [-181, 0, -179, 1]),
        ({"type": "Polygon", "coordinates": [ring(-180, -90, 180, 90)]}, [-180, -90, 180, 90]),
        (
            {"type": "MultiPolygon", "coordinates": [[ring(179, 0, 180, 1)], [ring(-180, 0, -179, 1)]]},
            [179, 0, -179, 1],
        ),
        ({"type": "MultiPolygon", "coordinates": [[ring(1, 0, 2, 1)], [ring(5, 3, 6, 4)]]}, [1, 0, 6, 4]),
    ],
)
def test_boxes_of_footprints(geometry: dict[str, Any], box: list[float]) -> None:
    assert bbox_of(canonical_geometry(geometry)) == box


@pytest.mark.parametrize(
    "bad",
    [
        None,
        5,
        {},
        {"type": "Polygon"},
        {"type": "Polygon", "coordinates": []},
        {"type": "MultiPolygon", "coordinates": [[]]},
    ],
)
def test_no_footprint(bad: Any) -> None:
    with pytest.raises(GeometryError):
        canonical_geometry(bad)
