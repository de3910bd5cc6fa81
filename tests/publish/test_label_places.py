"""Numbers on a map: never upon one another, always near their points, all within the frame."""

from __future__ import annotations

import re
from itertools import combinations

import shapely
from hypothesis import given
from hypothesis import strategies as st
from test_publish_report import a_row

from geostack_pipeline.publish.label_places import place_labels
from geostack_pipeline.publish.report_map import area_map

FRAME = (54.0, 14.0, 446.0, 350.0)
CORNER = (378.0, 14.0, 446.0, 88.0)
SIZE = (16.0, 14.0)


def _box(box: tuple[float, float, float, float]) -> shapely.Polygon:
    # Boxes that merely touch do not hide each other.
    return shapely.box(box[0] + 1e-6, box[1] + 1e-6, box[2] - 1e-6, box[3] - 1e-6)


@given(st.lists(st.tuples(st.floats(60.0, 440.0), st.floats(20.0, 344.0)), min_size=1, max_size=8))
def test_labels_keep_off_each_other_and_stay_near(points: list[tuple[float, float]]) -> None:
    places = place_labels(points, [SIZE] * len(points), frame=FRAME, blocked=[CORNER])
    assert len(places) == len(points)
    boxes = [_box(place.box) for place in places]
    assert not any(one.intersects(other) for one, other in combinations(boxes, 2))
    for point, place, box in zip(points, places, boxes, strict=True):
        assert shapely.box(*FRAME).contains(box)
        assert not box.intersects(_box(CORNER))
        assert not any(box.intersects(shapely.Point(other).buffer(4.0)) for other in points)
        away = box.distance(shapely.Point(point))
        assert away < 110.0
        assert place.moved == (away > 10.0), "far labels have lines, near ones none"


def test_a_lonely_label_stands_at_the_upper_left() -> None:
    (place,) = place_labels([(200.0, 200.0)], [SIZE], frame=FRAME)
    assert not place.moved
    assert place.box[2] < 200.0
    assert place.box[3] < 200.0


def test_where_nothing_is_free_every_label_is_still_there() -> None:
    places = place_labels([(70.0, 30.0)] * 30, [SIZE] * 30, frame=(54.0, 14.0, 100.0, 60.0))
    assert len(places) == 30


def test_the_map_draws_neighbouring_sources_apart() -> None:
    # Twelve leaks within 100 m, as of one facility.
    rows = [
        (number, a_row(source_longitude=54.0 + 1e-4 * number, source_latitude=38.5))
        for number in range(1, 13)
    ]
    drawn = area_map("korpezhe", [(53.98, 38.48, 54.04, 38.52)], footprints=[], plumes=rows)
    texts = re.findall(r'class="number" x="([\d.]+)" y="([\d.]+)" text-anchor="middle">(\d+)</text>', drawn)
    assert [number for *_, number in texts] == [str(number) for number, _ in rows]
    for (x, y, _), (other_x, other_y, _) in combinations(texts, 2):
        apart = abs(float(x) - float(other_x)), abs(float(y) - float(other_y))
        assert apart[0] >= 11.0 or apart[1] >= 13.9
    assert drawn.count('class="leader"') >= 1
    assert drawn.count('class="source"') == 12
