"""Recorded answers of Earth Search, replayed over HTTP through the real search, table and selection."""

from __future__ import annotations

import io
import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from loopback_catalog import LoopbackCatalog, Reply, page, serving

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.catalog.scene_table import canonical_digest, from_parquet, to_parquet
from geostack_pipeline.catalog.search import search
from geostack_pipeline.catalog.selection import select
from geostack_pipeline.providers.earth_search import EarthSearch

REAL = "https://earth-search.aws.element84.com/v1/search"
AREA = Area(name="constance", bbox=(9.0, 47.0, 10.0, 48.0))


def exchange(shared: Path, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(
        (shared / "samples" / "earth-search" / f"{name}.exchange.json").read_text()
    )
    return value


def replay(exchanges: list[dict[str, Any]]) -> LoopbackCatalog:
    """Answer each request with the recorded page that its ``next`` token asks for; probes with the first's count."""
    by_token = {one["request"]["json"].get("next"): one["json"] for one in exchanges}
    catalog = LoopbackCatalog([])

    def answer(number: int, method: str, body: dict[str, Any]) -> Reply | None:
        document = json.loads(json.dumps(by_token[body.get("next")]).replace(REAL, f"{catalog.url}/search"))
        if body.get("limit") == 1:
            document |= {"features": document["features"][:1]}
        return page(document)

    catalog.fault = answer
    return catalog


@pytest.fixture
def duplicates(shared_dir: Path) -> LoopbackCatalog:
    return replay([exchange(shared_dir, f"search_s2l2a_dups_page{number}") for number in (1, 2, 3)])


@pytest.mark.parametrize("walker", ["rustac", "pager"])
def test_three_pages_of_duplicates_give_16_items_then_8_scenes(
    duplicates: LoopbackCatalog, walker: str
) -> None:
    selected: list[str] = []
    dropped: dict[str, str] = {}
    found = set()
    with serving(duplicates) as catalog:
        provider = EarthSearch(url=catalog.url)
        object.__setattr__(provider.dialect, "walker", walker)
        for day in (date(2020, 3, 2), date(2020, 3, 5)):
            # the recording is of five days: each day's search gets all of it and keeps its own
            result = search(provider, day, [AREA])
            assert (result.report.returned, result.report.matched) == (16, 16)
            normalised = normalise(provider, result.items, day, [AREA])
            assert len(normalised.items) == 8
            assert {one.reason for one in normalised.rejected} == {"outside_day"}
            assert len(normalised.rejected) == 8
            found |= {item["id"] for item in normalised.items}
            data = to_parquet(normalised.items, provider.template())["scenes.parquet"]
            assert from_parquet(data) == normalised.items
            selection = select(pq.read_table(io.BytesIO(data)), where=None, areas=[AREA])
            selected += selection.selected.column("id").to_pylist()
            dropped |= dict(zip(selection.dropped["id"], selection.dropped["detail"], strict=True))
    assert len(found) == 16
    assert len(selected) == 8
    assert all("_1_L2A" in name for name in selected), "baseline 05.00 stays"
    assert len(dropped) == 8
    for name, detail in dropped.items():
        assert "_0_L2A" in name
        assert name.replace("_0_L2A", "_1_L2A") in detail
    bodies = [body for _, _, body, _ in catalog.log]
    assert sum("next" not in body for body in bodies) == (4 if walker == "rustac" else 2)
    assert sum("next" in body for body in bodies) == 4, "two more pages a day, the last one empty"


def test_the_same_recording_gives_the_same_version(duplicates: LoopbackCatalog) -> None:
    day = date(2020, 3, 5)
    digests = set()
    with serving(duplicates) as catalog:
        for _ in range(2):
            provider = EarthSearch(url=catalog.url)
            digests.add(
                canonical_digest(normalise(provider, search(provider, day, [AREA]).items, day, [AREA]).items)
            )
    assert len(digests) == 1


def test_landsat_beside_sentinel_is_rejected_with_its_reason(shared_dir: Path) -> None:
    day = date(2023, 10, 8)
    area = Area(name="boulder", bbox=(-105.2, 40.1, -105.0, 40.2))
    recorded = exchange(shared_dir, "search_s2_landsat_one_day")
    last = {**recorded, "request": {"json": {"next": recorded["json"]["links"][0]["body"]["next"]}}}
    last["json"] = {**recorded["json"], "features": [], "links": []}
    with serving(replay([recorded, last])) as catalog:
        provider = EarthSearch(url=catalog.url)
        result = normalise(provider, search(provider, day, [area]).items, day, [area])
    assert [item["id"] for item in result.items] == ["S2A_13TDE_20231008_0_L2A"]
    assert [(one.id, one.reason) for one in result.rejected] == [
        ("LC08_L2SP_033032_20231008_02_T1", "collection")
    ]
    assert json.loads(result.rejected[0].raw)["properties"]["landsat:scene_id"] == "LC80330322023281LGN00"


def test_a_filter_that_the_catalog_ignores_is_no_filter(duplicates: LoopbackCatalog) -> None:
    """``query`` may shorten the list or not: the selection decides."""
    day = date(2020, 3, 5)
    with serving(duplicates) as catalog:
        provider = EarthSearch(url=catalog.url, query={"eo:cloud_cover": {"lt": 50}})
        items = normalise(provider, search(provider, day, [AREA]).items, day, [AREA]).items
    assert len(items) == 8, "the replay ignores the query as a catalog may"
    scenes = pq.read_table(io.BytesIO(to_parquet(items, provider.template())["scenes.parquet"]))
    clear = select(scenes, where='"eo:cloud_cover" < 50', areas=[AREA])
    assert clear.selected.num_rows == sum(
        item["properties"]["eo:cloud_cover"] < 50 and item["properties"]["processing:baseline"] == "05.00"
        for item in items
    )
