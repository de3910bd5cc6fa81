"""Normalisation loses no item, and diffs name what changed."""

from __future__ import annotations

import copy
import json
from datetime import date
from typing import Any

from loopback_catalog import StubProvider, thing

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog.diff import diff, differences
from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.providers.contract import RejectedItemError

DAY = date(2024, 6, 1)
AREA = Area(name="here", bbox=(10.2, 50.2, 10.4, 50.4))


class Picky(StubProvider):
    def canonical(self, item: dict[str, Any]) -> dict[str, Any]:
        if "poison" in item:
            raise RejectedItemError("poison", "it says so")
        return copy.deepcopy(item)


def test_every_item_is_kept_or_rejected_with_its_reason() -> None:
    items = [
        thing(3),
        thing(1),
        thing(2, lon=60.0),
        thing(4, when="2024-06-02T00:00:00Z"),
        {**thing(5), "poison": True},
        {"no": "id", "poison": 1, "odd": "\ud800"},
    ]
    result = normalise(Picky("http://x"), items, DAY, [AREA])
    assert [item["id"] for item in result.items] == ["thing-00001", "thing-00003"]
    assert [(one.id, one.reason) for one in result.rejected] == [
        ("", "poison"),
        ("thing-00002", "outside_areas"),
        ("thing-00004", "outside_day"),
        ("thing-00005", "poison"),
    ]
    assert json.loads(result.rejected[3].raw) == items[4]
    json.dumps([one.raw for one in result.rejected]).encode("utf-8")


def test_the_box_of_the_cluster_is_not_the_areas() -> None:
    """The catalog answers for one box around two areas; what lies between them is rejected."""
    areas = [Area(name="a", bbox=(10, 50, 10.1, 50.1)), Area(name="b", bbox=(12.5, 52.5, 12.6, 52.6))]
    between = thing(1, lon=10.9, lat=51.0)
    result = normalise(Picky("http://x"), [between, thing(2, lon=9.5, lat=49.5)], DAY, areas)
    assert [item["id"] for item in result.items] == ["thing-00002"]
    assert result.rejected[0].reason == "outside_areas"


def test_the_last_updated_of_two_versions_stays_in_any_order() -> None:
    old, new = thing(1), thing(1)
    old["properties"]["updated"] = "2024-06-02T00:00:00.000000Z"
    new["properties"]["updated"] = "2024-06-03T00:00:00.000000Z"
    for order in ([old, new], [new, old]):
        result = normalise(Picky("http://x"), order, DAY, [AREA])
        assert [item["properties"]["updated"] for item in result.items] == ["2024-06-03T00:00:00.000000Z"]
        assert [one.reason for one in result.rejected] == ["repeated"]
        assert json.loads(result.rejected[0].raw) == old


def test_diff() -> None:
    old = [thing(1), thing(2), thing(3)]
    new = [copy.deepcopy(thing(2)), thing(3), thing(4)]
    new[0]["properties"]["eo:cloud_cover"] = 5.0
    new[0]["assets"]["data"]["href"] = "https://example.com/other.tif"
    result = diff(old, new)
    assert result.added == ("thing-00004",)
    assert result.removed == ("thing-00001",)
    assert result.changed == {
        "thing-00002": {
            "/assets/data/href": ("https://example.com/2.tif", "https://example.com/other.tif"),
            "/properties/eo:cloud_cover": (None, 5.0),
        }
    }
    assert result
    assert not diff(old, copy.deepcopy(old)[::-1])


def test_one_id_in_two_collections_is_two_items() -> None:
    other = {**thing(1), "collection": "elsewhere"}
    assert diff([thing(1)], [thing(1), other]).added == ("elsewhere/thing-00001",)


def test_differences_of_lists_and_types() -> None:
    assert list(differences({"a": [1, 2]}, {"a": [1, 3]})) == [("/a/1", (2, 3))]
    assert list(differences([1], [1, 2])) == [("", ([1], [1, 2]))]
    assert list(differences({"a/b": 1}, {"a/b": True})) == [("/a~1b", (1, True))]
