"""Windows that leave no gap, clusters that lose no area, and footprints measured against exact answers."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog import footprints
from geostack_pipeline.catalog.windows import CLUSTER_SPAN, cluster, day_bounds, halve, windows
from geostack_pipeline.providers.contract import SearchWindow


@st.composite
def some_areas(draw: st.DrawFn) -> list[Area]:
    areas = []
    for number in range(draw(st.integers(1, 12))):
        west = draw(st.floats(-180, 180, allow_nan=False))
        south = draw(st.floats(-85, 84, allow_nan=False))
        east = west + draw(st.floats(0, 8))
        east = east - 360.0 if east > 180.0 else east
        areas.append(
            Area(name=f"a{number}", bbox=(west, south, east, min(85.0, south + draw(st.floats(0, 8)))))
        )
    return areas


@given(some_areas(), st.randoms())
def test_clusters_cover_every_area_in_any_order(areas: list[Area], random: object) -> None:
    boxes = cluster(areas)
    shuffled = list(areas)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert cluster(shuffled) == boxes
    for area in areas:
        for west, south, east, north in area.parts:
            assert any(b[0] <= west and b[1] <= south and b[2] >= east and b[3] >= north for b in boxes)
    assert all(-180 <= box[0] <= box[2] <= 180 for box in boxes)
    assert len(boxes) <= sum(len(area.parts) for area in areas)


def test_near_areas_share_a_box_and_far_ones_do_not() -> None:
    near = [Area(name="a", bbox=(10, 50, 10.1, 50.1)), Area(name="b", bbox=(11, 51, 11.1, 51.1))]
    far = Area(name="c", bbox=(10 + CLUSTER_SPAN, 50, 10.1 + CLUSTER_SPAN, 50.1))
    assert cluster(near) == [(10, 50, 11.1, 51.1)]
    assert len(cluster([*near, far])) == 2
    land = Area(name="land", bbox=(0, 40, 30, 60))
    assert cluster([*near, land]) == [(0, 40, 30, 60)], "an area within another costs nothing"


def test_an_area_across_the_antimeridian_gives_two_boxes() -> None:
    assert cluster([Area(name="fiji", bbox=(178.0, -18.0, -179.0, -16.0))]) == [
        (-180.0, -18.0, -179.0, -16.0),
        (178.0, -18.0, 180.0, -16.0),
    ]


@given(st.dates(date(1970, 1, 1), date(2100, 1, 1)), st.integers(1, 12))
def test_halves_tile_the_day(day: date, depth: int) -> None:
    pending = list(windows(day, [(0, 0, 1, 1)]))
    for _ in range(depth):
        pending = [
            half for window in pending for half in (halve(window, floor=timedelta(seconds=1)) or [window])
        ]
    start, end = day_bounds(day)
    assert pending[0].start == start == datetime(day.year, day.month, day.day, tzinfo=UTC)
    assert pending[-1].end == end == start + timedelta(days=1)
    assert all(a.end == b.start for a, b in pairwise(pending))
    assert all(window.start < window.end and window.start.microsecond == 0 for window in pending)


def test_halving_ends_at_the_floor() -> None:
    start = datetime(2024, 6, 1, tzinfo=UTC)
    window = SearchWindow(start=start, end=start + timedelta(hours=6), bbox=(0, 0, 1, 1))
    assert halve(window, floor=timedelta(hours=3)) is not None
    assert halve(window, floor=timedelta(hours=4)) is None
    second = SearchWindow(start=start, end=start + timedelta(seconds=1), bbox=(0, 0, 1, 1))
    assert halve(second, floor=timedelta(0)) is None


def polygon(*points: tuple[float, float]) -> dict[str, object]:
    return {"type": "Polygon", "coordinates": [[list(point) for point in (*points, points[0])]]}


def box(west: float, south: float, east: float, north: float) -> dict[str, object]:
    return polygon((west, south), (east, south), (east, north), (west, north))


@given(
    st.floats(-179, 170),
    st.floats(-84, 80),
    st.floats(0.05, 3),
    st.floats(0.05, 3),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_coverage_is_a_share_of_the_ellipsoid(
    west: float, south: float, width: float, height: float, across: float, up: float
) -> None:
    """Against geodesic areas on the ellipsoid; sphere and ellipsoid differ by some 0.1 % of a share."""
    area = Area(name="a", bbox=(west, south, west + width, south + height))
    cut = box(west - 1, south - 1, west + width * across, south + height * up)
    share = footprints.coverage(footprints.footprint(cut), footprints.plane(area))
    geod = Geod(ellps="WGS84")

    def ground(w: float, s: float, e: float, n: float) -> float:
        # many points along the parallels: a geodesic between two corners would leave them
        steps = 50
        lons = [w + (e - w) * k / steps for k in range(steps + 1)]
        ring = [(lon, s) for lon in lons] + [(lon, n) for lon in reversed(lons)]
        return abs(geod.polygon_area_perimeter(*zip(*ring, strict=True))[0])

    whole = ground(*area.bbox)
    part = ground(west, south, west + width * across, south + height * up)
    assert share == pytest.approx(part / whole, abs=3e-3)


def test_whole_and_no_coverage() -> None:
    plane = footprints.plane(Area(name="a", bbox=(10, 50, 11, 51)))
    assert footprints.coverage(footprints.footprint(box(9, 49, 12, 52)), plane) == 1.0
    assert footprints.coverage(footprints.footprint(box(11, 50, 12, 51)), plane) == 0.0
    assert footprints.touches(footprints.footprint(box(11, 50, 12, 51)), [plane])
    assert not footprints.touches(footprints.footprint(box(11.1, 50, 12, 51)), [plane])
    half = footprints.coverage(footprints.footprint(box(10, 50, 10.5, 51)), plane)
    assert half == pytest.approx(0.5, abs=1e-12)


def test_a_point_is_covered_or_not() -> None:
    point = footprints.plane(Area(name="well", bbox=(10.5, 50.5, 10.5, 50.5)))
    assert footprints.coverage(footprints.footprint(box(10, 50, 11, 51)), point) == 1.0
    assert footprints.coverage(footprints.footprint(box(11, 50, 12, 51)), point) == 0.0


@pytest.mark.parametrize(
    "crossing",
    [
        box(179, -17, 181, -16),
        box(-181, -17, -179, -16),
        polygon((179, -17), (-179, -17), (-179, -16), (179, -16)),
        {
            "type": "MultiPolygon",
            "coordinates": [box(179, -17, 180, -16)["coordinates"], box(-180, -17, -179, -16)["coordinates"]],
        },
    ],
)
def test_every_way_to_write_the_antimeridian_is_the_same_ground(crossing: dict[str, object]) -> None:
    shape = footprints.footprint(crossing)
    assert shape.area == pytest.approx(2 * (math.sin(math.radians(-16)) - math.sin(math.radians(-17))))
    fiji = footprints.plane(Area(name="fiji", bbox=(179.5, -16.5, -179.5, -16.0)))
    assert footprints.coverage(shape, fiji) == pytest.approx(1.0)
    east = footprints.plane(Area(name="east", bbox=(178.0, -17.0, 180.0, -16.0)))
    assert footprints.coverage(shape, east) == pytest.approx(0.5)
    assert footprints.coverage(shape, footprints.plane(Area(name="greenwich", bbox=(-1, -17, 1, -16)))) == 0.0


def test_a_box_around_the_world_is_no_crossing() -> None:
    shape = footprints.footprint(box(-180, -90, 180, 90))
    assert footprints.coverage(shape, footprints.plane(Area(name="a", bbox=(-1, -1, 1, 1)))) == pytest.approx(
        1.0
    )


def test_a_bow_tie_is_repaired_not_lost() -> None:
    shape = footprints.footprint(polygon((10, 50), (11, 51), (11, 50), (10, 51)))
    assert shape.is_valid
    assert shape.area > 0


def test_footprints_of_wkb() -> None:
    shapes = footprints.footprints([shapely.to_wkb(shapely.box(10, 50, 11, 51)), None])
    assert shapes[0].area > 0
    assert shapes[1].is_empty
    assert footprints.coverage(shapes[1], footprints.plane(Area(name="a", bbox=(10, 50, 11, 51)))) == 0.0
