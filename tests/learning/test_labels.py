"""Outlines join granules by place and time; places keep their split; edges teach nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geostack_pipeline.learning.labels import NONE, Label, Placed, join, read_metadata
from geostack_pipeline.learning.sites import Splitter
from geostack_pipeline.learning.targets import IGNORED, NO_PLUME, PLUME, target

NOON = datetime(2024, 6, 7, 12, tzinfo=UTC)
LATER = NOON + timedelta(days=400)
REVIEW = timedelta(days=45)
RULE = Splitter(cell_deg=1.0, test_share=0.3, validation_share=0.3)


def placed(item_id: str, *, seconds: float = 0.0, west: float = 50.0, version: str = "002") -> Placed:
    return Placed(
        item_id=item_id,
        version=version,
        moment=NOON + timedelta(seconds=seconds),
        box=(west, 30.0, west + 0.5, 30.5),
        digest=item_id,
        provider="cmr_stac",
        day="2024-06-07",
        node=item_id,
    )


def label(
    item_id: str, *, digest: str = "a", scenes: tuple[str, ...] = (), problem: str | None = None, **place: Any
) -> Label:
    known = vars(placed(item_id, **place)) | {"digest": digest}
    return Label(**known, scenes=scenes, problem=problem)


FIRST, SECOND = (
    "EMIT_L2B_CH4ENH_002_20240607T120000_2415908_001",
    "EMIT_L2B_CH4ENH_002_20240607T120012_2415908_002",
)


def test_a_plume_that_spans_two_scenes_labels_both_and_numbers_do_not_matter() -> None:
    both = [placed(SECOND, seconds=12.0, west=50.4), placed(FIRST)]
    one = label("EMIT_L2B_CH4PLM_002_20240607T120000_000001", west=50.2)
    found = join(both, [one], now=LATER, review=REVIEW)
    assert [(each.granule.item_id, len(each.labels)) for each in found.members] == [(FIRST, 1), (SECOND, 1)]
    assert not found.strays


@pytest.mark.parametrize(
    "stray",
    [
        label("L", seconds=-120.0),
        label("L", seconds=30.0),
        label("L", west=70.0),
        label("L", version="001"),
        label("L", scenes=("emit20200101t000000",)),
    ],
    ids=["another pass", "later than the scene", "elsewhere", "another version", "another scene named"],
)
def test_a_label_of_an_unknown_scene_belongs_to_none(stray: Label) -> None:
    found = join([placed(FIRST)], [stray], now=LATER, review=REVIEW)
    assert found.members[0].labels == ()
    assert found.strays == {"L": "no granule"}


def test_metadata_name_scenes_by_id_or_by_start() -> None:
    for name in (FIRST.lower(), "emit20240607t120000"):
        found = join([placed(FIRST)], [label("L", scenes=(name,))], now=LATER, review=REVIEW)
        assert found.members[0].state == "labelled", name


def test_no_label_is_unlabelled_until_the_review_window_ends() -> None:
    for days, state in ((44, "unlabelled"), (45, "weak_negative")):
        found = join([placed(FIRST)], [], now=NOON + timedelta(days=days), review=REVIEW)
        assert found.members[0].state == state
        assert found.members[0].label_revision == NONE


def test_an_unreadable_label_makes_its_granule_no_evidence() -> None:
    found = join([placed(FIRST)], [label("L", problem="broken")], now=LATER, review=REVIEW)
    assert found.members[0].state == "unusable"


def test_the_revision_follows_every_change_of_the_labels_and_not_their_order() -> None:
    one, two = label("A"), label("B")

    def revision(*labels: Label) -> str:
        return join([placed(FIRST)], labels, now=LATER, review=REVIEW).members[0].label_revision

    assert revision(one, two) == revision(two, one)
    assert len({revision(), revision(one), revision(one, two), revision(label("A", digest="z"))}) == 4


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"features": [{}]}',
        b'{"features": []}',
        b'{"features": [{"properties": {}, "geometry": {"type": "Point"}}]}',
        b'{"features": [{"properties": [1], "geometry": {"type": "Polygon"}}]}',
        b'{"features": [{"properties": {"DAAC Scene Names": 7}, "geometry": {"type": "Polygon"}}]}',
        b'{"features": [{"properties": {"Scene FIDs": [7]}, "geometry": {"type": "Polygon"}}]}',
        b'{"features": null}',
        b'{"features": [{"properties": null, "geometry": {"type": ["Polygon"]}}]}',
        b"[" * 200_000,
        b"\xff\xfe",
    ],
)
def test_corrupt_metadata_say_what_is_wrong(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no GeoJSON|no outline"):
        read_metadata(data)


def test_metadata_tell_scenes_and_rate() -> None:
    feature: dict[str, Any] = {
        "geometry": {"type": "Polygon"},
        "properties": {"DAAC Scene Names": ["EMIT_A"], "Emissions Rate Estimate (kg/hr)": 812.5},
    }
    about = read_metadata(json.dumps({"features": [feature]}).encode())
    assert about.scenes == ("emit_a",)
    assert about.rate_kg_h == 812.5
    feature["properties"] = {"DAAC Scene Names": "EMIT_A", "Emissions Rate Estimate (kg/hr)": float("inf")}
    about = read_metadata(json.dumps({"features": [feature]}).encode())
    assert (about.scenes, about.rate_kg_h) == (("emit_a",), None)
    feature["properties"] = {"Emissions Rate Estimate (kg/hr)": 10**400}
    assert read_metadata(json.dumps({"features": [feature]}).encode()).rate_kg_h is None
    feature["properties"] = None
    assert read_metadata(json.dumps({"features": [feature]}).encode()).scenes == ()


boxes = st.tuples(st.floats(-170, 170), st.floats(-70, 70), st.floats(0.01, 0.7), st.floats(0.01, 0.7))


@given(one=boxes, other=boxes, month=st.integers(1, 12))
def test_what_is_learnt_and_what_is_tested_never_share_a_place(one: Any, other: Any, month: int) -> None:
    moment = datetime(2024, month, 5, tzinfo=UTC)
    first, second = ((w, s, w + a, s + b) for w, s, a, b in (one, other))
    meet = first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
    splits = {RULE.of(first, moment), RULE.of(second, NOON)}
    if meet:
        assert not ("test" in splits and splits & {"train", "validation"})
    assert RULE.of(first, moment) == RULE.of(first, moment)


def test_shares_of_the_splits_are_about_those_of_the_settings() -> None:
    splits = [
        RULE.of((x + 0.2, y + 0.2, x + 0.4, y + 0.4), datetime(2024, 1 + (x + y) % 12, 1, tzinfo=UTC))
        for x in range(60)
        for y in range(30)
    ]
    assert splits.count("test") / len(splits) == pytest.approx(0.3, abs=0.05)
    assert splits.count("validation") / len(splits) == pytest.approx(0.21, abs=0.05)


def test_a_ring_at_the_edge_of_an_outline_is_ignored_and_small_plumes_stay() -> None:
    outline, valid = np.zeros((20, 20), bool), np.ones((20, 20), bool)
    outline[5:13, 5:13] = True
    outline[17, 17] = True
    valid[0] = False
    found = target(outline, valid, 2)
    assert (found[7:11, 7:11] == PLUME).all()
    assert (found[5:7, 5:13] == IGNORED).all()
    assert (found[3:5, 5:13] == IGNORED).all()
    assert found[2, 8] == NO_PLUME
    assert found[17, 17] == PLUME
    assert found[16, 16] == IGNORED
    assert (found[0] == IGNORED).all()
    assert np.array_equal(target(outline, valid, 0)[1:], outline[1:])
