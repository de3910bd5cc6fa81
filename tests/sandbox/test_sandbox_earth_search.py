"""Earth Search's dialect: against the recorded exchange, and walked by a client that nobody here wrote."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import obstore
import pystac_client
import pytest
import rasterio
import shapely
from obstore.store import S3Store

from geostack_pipeline.sandbox import Sandbox, World

COLLECTION = "sentinel-2-l2a"


@pytest.fixture
def api(sandbox: Sandbox) -> httpx.Client:
    with httpx.Client(base_url=sandbox.endpoints["earth_search"], trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture
def bucket(sandbox: Sandbox) -> S3Store:
    return S3Store(
        "sentinel-cogs",
        endpoint=sandbox.endpoints["sentinel-cogs"],
        region="us-west-2",
        skip_signature=True,
        client_options={"allow_http": True},
    )


def _recorded(shared_dir: Path) -> list[dict[str, Any]]:
    return [
        json.loads(
            (shared_dir / "samples/earth-search" / f"search_s2l2a_dups_page{page}.exchange.json").read_text()
        )
        for page in (1, 2, 3)
    ]


def _walk(api: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Follow POST next links to the end."""
    pages = [api.post("/search", json=body).raise_for_status().json()]
    while (link := next((each for each in pages[-1]["links"] if each["rel"] == "next"), None)) is not None:
        assert link["method"] == "POST"
        assert link["merge"] is False
        pages.append(httpx.post(link["href"], json=link["body"], trust_env=False).raise_for_status().json())
        assert len(pages) < 50
    return pages


def _form(value: Any) -> Any:
    """Return keys, in order, and kinds of values: what two documents of one shape share."""
    if isinstance(value, dict):
        return {key: _form(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_form(value[0])] if value else []
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__


def test_pages_have_the_recorded_form(api, shared_dir):
    recorded = _recorded(shared_dir)
    asked = {
        "bbox": [0.0, 30.0, 60.0, 40.0],
        "datetime": "2024-06-01T00:00:00Z/2024-06-12T23:59:59Z",
        "collections": [COLLECTION],
    }
    pages = _walk(api, asked)
    assert [len(page["features"]) for page in pages] == [10, 2, 0]
    assert [len(page["json"]["features"]) for page in recorded] == [10, 6, 0]
    for page, exchange in zip(pages, recorded, strict=True):
        theirs = exchange["json"]
        assert set(page) == set(theirs)
        assert _form(page["context"]) == _form(theirs["context"])
        assert page["context"] == {"limit": 10, "matched": 12, "returned": len(page["features"])}
        assert page["numberMatched"] == 12
        assert page["numberReturned"] == len(page["features"])
        assert [link["rel"] for link in page["links"]] == [link["rel"] for link in theirs["links"]]
        for link, their in zip(page["links"], theirs["links"], strict=True):
            assert set(link) == set(their)
            assert {name: link[name] for name in link if name not in {"href", "body"}} == {
                name: their[name] for name in their if name not in {"href", "body"}
            }
            if "body" in their:
                assert set(link["body"]) == set(their["body"])
                assert {name: link["body"][name] for name in asked} == asked
                last = page["features"][-1]
                assert link["body"]["next"] == f"{last['properties']['datetime']},{last['id']},{COLLECTION}"


def test_items_have_the_recorded_form(api, shared_dir):
    everything = [feature for exchange in _recorded(shared_dir) for feature in exchange["json"]["features"]]
    recorded = {feature["properties"]["earthsearch:boa_offset_applied"]: feature for feature in everything}
    items = [item for page in _walk(api, {}) for item in page["features"]]
    assert len(items) == 12
    for item in items:
        theirs = recorded[item["properties"]["earthsearch:boa_offset_applied"]]
        assert list(item) == list(theirs)
        assert list(item["properties"]) == list(theirs["properties"])
        assert list(item["assets"]) == list(theirs["assets"])
        assert _form(item["properties"]) == _form(theirs["properties"])
        assert _form(item["assets"]) == _form(theirs["assets"])
        assert [list(link) for link in item["links"]] == [list(link) for link in theirs["links"]]
        # Their order varies, and so do the versions between items of different years.
        assert set(item["stac_extensions"]) in [set(feature["stac_extensions"]) for feature in everything]
        for key, asset in item["assets"].items():
            other = theirs["assets"][key]
            assert asset["type"] == other["type"]
            assert asset.get("title") == other.get("title")
            assert asset.get("eo:bands") == other.get("eo:bands")
            assert asset["roles"] == other["roles"]
            mine, recorded_path = asset["href"].split("/"), other["href"].split("/")
            assert mine[:3] == recorded_path[:3]  # the real host or bucket
            assert mine[-1] in {feature["assets"][key]["href"].rpartition("/")[2] for feature in everything}
            assert len(mine) == len(recorded_path)


def test_landing_and_conformance_like_recorded(api, shared_dir):
    theirs = json.loads((shared_dir / "samples/earth-search/landing.json").read_text())
    mine = api.get("").raise_for_status().json()
    assert list(mine) == list(theirs)
    assert mine["conformsTo"] == theirs["conformsTo"]
    for name in ("stac_version", "type", "id", "title", "description"):
        assert mine[name] == theirs[name]
    root = str(api.base_url).rstrip("/")
    theirs_root = "https://earth-search.aws.element84.com/v1"
    links = [{**link, "href": link["href"].replace(root, theirs_root)} for link in mine["links"]]
    assert links == [
        link for link in theirs["links"] if link["rel"] != "child" or link["href"].endswith("/sentinel-2-l2a")
    ]
    assert api.get("/conformance").json() == {"conformsTo": theirs["conformsTo"]}
    assert not [uri for uri in theirs["conformsTo"] if "filter" in uri]


def test_every_page_size_gives_the_same_items(api):
    everything = [item["id"] for page in _walk(api, {"limit": 100}) for item in page["features"]]
    assert len(set(everything)) == 12
    for size in (1, 5, 6, 12):
        pages = _walk(api, {"limit": size})
        assert [item["id"] for page in pages for item in page["features"]] == everything
        assert len(pages[-1]["features"]) == 0


def test_newest_first_and_pairs_side_by_side(api):
    items = [item for page in _walk(api, {}) for item in page["features"]]
    keys = [(item["properties"]["datetime"], item["id"]) for item in items]
    assert keys == sorted(keys, reverse=True)
    pair = [item["id"] for item in items if "40SBH_20240602" in item["id"]]
    assert pair == ["S2B_40SBH_20240602_1_L2A", "S2B_40SBH_20240602_0_L2A"]


def test_pairs_of_two_baselines_and_contradictory_flags(api):
    items = {item["id"]: item for page in _walk(api, {}) for item in page["features"]}

    def told(name: str) -> tuple[str, bool, float]:
        item = items[name]
        offset = item["assets"]["swir22"]["raster:bands"][0]["offset"]
        properties = item["properties"]
        return properties["s2:processing_baseline"], properties["earthsearch:boa_offset_applied"], offset

    assert told("S2B_40SBH_20240602_1_L2A") == ("05.00", True, -0.1)
    assert told("S2B_40SBH_20240602_0_L2A") == ("02.14", False, 0)
    assert told("S2A_31SES_20240611_0_L2A") == ("05.10", True, -0.1)
    assert told("S2B_31SES_20240606_0_L2A") == ("05.10", False, -0.1)


def test_filter_is_silently_ignored_and_query_is_not(api):
    wanted = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 10]}
    assert (
        api.post("/search", json={"filter": wanted, "filter-lang": "cql2-json"}).json()["numberMatched"] == 12
    )
    clear = api.post("/search", json={"query": {"eo:cloud_cover": {"lte": 10}}}).json()
    assert clear["numberMatched"] == 10
    cloudy = api.post("/search", json={"query": {"eo:cloud_cover": {"gt": 80}}}).json()
    assert [item["id"] for item in cloudy["features"]] == ["S2B_31SES_20240604_0_L2A"]
    both = {"eo:cloud_cover": {"gt": 10, "lt": 80}, "platform": {"eq": "sentinel-2b"}}
    assert [item["id"] for item in api.post("/search", json={"query": both}).json()["features"]] == [
        "S2B_31SES_20240606_0_L2A"
    ]


@pytest.mark.parametrize(
    ("interval", "count"),
    [
        ("2024-06-02T00:00:00Z/2024-06-02T23:59:59Z", 4),
        ("2024-06-07T00:00:00Z/..", 5),
        ("../2024-06-01T23:59:59.999Z", 1),
        ("2024-06-03T00:00:00Z/2024-06-03T23:59:59Z", 0),
        ("2024-06-01T10:37:23.587Z", 1),
        ("2024-06-01T12:37:23.587+02:00", 1),
    ],
)
def test_datetime_forms(api, interval, count):
    assert api.post("/search", json={"datetime": interval}).json()["numberMatched"] == count


def test_bbox_intersects_ids_and_collections(api, world: World):
    area = {each.name: each for each in world.areas}["hassi"]
    west, south, east, north = area.bbox
    assert api.post("/search", json={"bbox": list(area.bbox)}).json()["numberMatched"] == 4
    assert api.post("/search", json={"bbox": [west, south, 0, east, north, 100]}).json()["numberMatched"] == 4
    assert api.post("/search", json={"bbox": [50, 30, -170, 40]}).json()["numberMatched"] == 8
    point = {"type": "Point", "coordinates": list(area.centre)}
    assert api.post("/search", json={"intersects": point}).json()["numberMatched"] == 4
    assert api.post("/search", json={"collections": ["sentinel-1-grd"]}).json()["numberMatched"] == 0
    ids = ["S2A_31SES_20240601_0_L2A", "nothing"]
    assert api.post("/search", json={"ids": ids}).json()["numberMatched"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 5, 2, 3]},
        {"bbox": "1,2,3,4"},
        {"bbox": [1, 2, 3, 4], "intersects": {"type": "Point", "coordinates": [1, 2]}},
        {"datetime": "yesterday"},
        {"datetime": "2024-06-02T00:00:00Z/2024-06-01T00:00:00Z"},
        {"datetime": "2024-06-01"},
        {"limit": 0},
        {"limit": "many"},
        {"collections": COLLECTION},
        {"next": "no,such,token"},
        {"query": {"eo:cloud_cover": {"about": 3}}},
        {"intersects": {"type": "Pnt"}},
    ],
)
def test_malformed_searches_are_refused(api, body):
    answer = api.post("/search", json=body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "BadRequest"


def test_get_search_pages_by_links_too(api):
    url: str | None = f"{api.base_url}search?collections={COLLECTION}&limit=7&bbox=0,30,60,40"
    ids: list[str] = []
    sizes = []
    while url is not None:
        page = httpx.get(url, trust_env=False).raise_for_status().json()
        ids += [item["id"] for item in page["features"]]
        sizes.append(len(page["features"]))
        links = [link for link in page["links"] if link["rel"] == "next"]
        assert all(link["method"] == "GET" for link in links)
        url = links[0]["href"] if links else None
    assert sizes == [7, 5, 0]
    assert len(set(ids)) == 12
    path = f"{api.base_url}collections/{COLLECTION}/items"
    assert httpx.get(path, params={"limit": 20}, trust_env=False).json()["numberReturned"] == 12
    parameters = {
        "sortby": "+properties.eo:cloud_cover",
        "fields": "id,properties.eo:cloud_cover",
        "limit": 12,
    }
    page = httpx.get(f"{api.base_url}search", params=parameters, trust_env=False).json()
    clouds = [item["properties"]["eo:cloud_cover"] for item in page["features"]]
    assert clouds == sorted(clouds)
    assert clouds[-1] > 80
    assert set(page["features"][0]) == {"id", "collection", "properties"}


def test_sorted_walk_and_fields(api):
    rule = [{"field": "properties.eo:cloud_cover", "direction": "desc"}]
    fields = {"include": ["geometry", "properties.eo:cloud_cover"], "exclude": []}
    pages = _walk(api, {"sortby": rule, "limit": 5, "fields": fields})
    items = [item for page in pages for item in page["features"]]
    clouds = [item["properties"]["eo:cloud_cover"] for item in items]
    assert clouds == sorted(clouds, reverse=True)
    assert len({item["id"] for item in items}) == 12
    assert "assets" not in items[0]
    slim = api.post("/search", json={"fields": {"exclude": ["assets", "properties.created"]}}).json()[
        "features"
    ][0]
    assert "assets" not in slim
    assert "created" not in slim["properties"]
    assert "geometry" in slim


def test_collections_items_and_missing_things(api):
    assert [each["id"] for each in api.get("/collections").json()["collections"]] == [COLLECTION]
    assert api.get(f"/collections/{COLLECTION}").json()["type"] == "Collection"
    found = api.get(f"/collections/{COLLECTION}/items/S2A_31SES_20240601_0_L2A")
    assert found.json()["id"] == "S2A_31SES_20240601_0_L2A"
    assert found.headers["content-type"] == "application/geo+json; charset=utf-8"
    for path in (
        f"/collections/{COLLECTION}/items/none",
        "/collections/none",
        "/none",
        "/collections/none/items",
    ):
        assert api.get(path).status_code == 404
        assert api.get(path).json()["code"] == "NotFound"


def test_pystac_client_finds_the_same_items(sandbox, api, world):
    expected = {item["id"]: item for page in _walk(api, {}) for item in page["features"]}
    catalog = pystac_client.Client.open(sandbox.endpoints["earth_search"])
    assert [collection.id for collection in catalog.get_collections()] == [COLLECTION]
    search = catalog.search(collections=[COLLECTION], limit=5, datetime="2024-06-01/2024-06-12")
    assert search.matched() == 12
    found = {item.id: item for item in search.items()}
    assert set(found) == set(expected)
    for name, item in found.items():
        assert item.datetime == datetime.fromisoformat(expected[name]["properties"]["datetime"]).astimezone(
            UTC
        )
        assert item.geometry == json.loads(json.dumps(expected[name]["geometry"]))
        assert len(item.assets) == 35
    hassi = world.areas[1]
    by_area = catalog.search(collections=[COLLECTION], bbox=hassi.bbox, method="GET", limit=2)
    assert {item.id for item in by_area.items()} == {name for name in expected if "31SES" in name}
    cloudy = catalog.search(collections=[COLLECTION], query=["eo:cloud_cover>80"])
    assert [item.id for item in cloudy.items()] == ["S2B_31SES_20240604_0_L2A"]
    one = catalog.get_collection(COLLECTION).get_item("S2A_31SES_20240601_0_L2A")
    assert one is not None
    assert one.properties["platform"] == "sentinel-2a"


def test_items_tell_the_truth_about_their_files(api, bucket, world):
    """Grid, footprint, scale and offset of every item, against the objects behind its hrefs."""
    scenes = {scene.id: scene for scene in world.scenes}
    for item in (item for page in _walk(api, {}) for item in page["features"]):
        properties = item["properties"]
        start = properties["s2:datatake_id"].split("_")[1]
        scene = scenes[f"S{properties['platform'][-2:].upper()}_{start}_T{properties['grid:code'][5:]}"]
        asset = item["assets"]["swir16"]
        with (
            rasterio.MemoryFile(bytes(obstore.get(bucket, _key(asset)).bytes())) as memory,
            memory.open() as raster,
        ):
            assert raster.crs.to_epsg() == properties["proj:epsg"]
            assert list(raster.shape) == asset["proj:shape"]
            assert list(raster.transform)[:6] == asset["proj:transform"]
            numbers = raster.read(1)
        stored = asset["raster:bands"][0]
        offset = 0.0 if properties["earthsearch:boa_offset_applied"] else stored["offset"]
        values = numbers * stored["scale"] + offset
        truth = world.reflectance(scene, "B11", baseline=properties["s2:processing_baseline"])
        assert np.array_equal(numbers == 0, np.isnan(truth))
        assert np.abs(values[numbers > 0] - truth[numbers > 0]).max() < 1e-6
        assert properties["eo:cloud_cover"] == pytest.approx(world.facts(scene)["percentages"]["cloud_cover"])
        assert shapely.geometry.shape(item["geometry"]).bounds == pytest.approx(tuple(item["bbox"]))


def _key(asset: dict[str, Any]) -> str:
    host = "https://sentinel-cogs.s3.us-west-2.amazonaws.com/"
    assert asset["href"].startswith(host)
    return asset["href"].removeprefix(host)


def test_bucket_is_read_anonymously_by_range(api, bucket, world, sandbox):
    item = api.get(f"/collections/{COLLECTION}/items/S2A_31SES_20240611_0_L2A").json()
    key = _key(item["assets"]["swir22"])
    path, description = world.files(
        world.scene("S2A_20240611T103031_T31SES"), _encoding(world, "S2A_20240611T103031_T31SES")
    )["B12.tif"]
    whole = path.read_bytes()
    assert bytes(obstore.get(bucket, key).bytes()) == whole
    assert bytes(obstore.get_range(bucket, key, start=1000, length=777)) == whole[1000:1777]
    meta = obstore.head(bucket, key)
    assert meta["size"] == len(whole)
    assert meta["e_tag"] == f'"{description["md5"]}"'
    with pytest.raises(obstore.exceptions.PreconditionError):
        obstore.get(bucket, key, options={"if_match": '"other"'})
    with pytest.raises(FileNotFoundError):
        obstore.get(bucket, _key(item["assets"]["coastal"]))
    with pytest.raises(obstore.exceptions.PermissionDeniedError):
        obstore.put(bucket, "new", b"x")
    listed = {entry["path"] for batch in obstore.list(bucket, key.rpartition("/")[0]) for entry in batch}
    assert {name.rpartition("/")[2] for name in listed} == {
        "B02.tif",
        "B03.tif",
        "B04.tif",
        "B08.tif",
        "B11.tif",
        "B12.tif",
        "SCL.tif",
        "S2A_31SES_20240611_0_L2A.json",
        "granule_metadata.xml",
        "tileinfo_metadata.json",
    }
    totals = sandbox.log("sentinel-cogs")["totals"]["sentinel-cogs"]
    assert totals["status_206"] == 1
    ranged = [entry for entry in sandbox.log("sentinel-cogs")["entries"] if entry["range"]]
    assert [(entry["range"], entry["bytes"]) for entry in ranged] == [("bytes=1000-1776", 777)]
    assert not any(entry["authorization"] for entry in sandbox.log()["entries"])


def _encoding(world: World, scene_id: str) -> Any:
    from geostack_pipeline.sandbox.dialects import EarthSearchDialect

    return EarthSearchDialect().encodings(world.scene(scene_id))[0]


def test_settings_and_truth_are_ready_to_use(sandbox, world):
    settings = sandbox.settings()
    assert set(settings) == {"start_date", "end_date", "areas", "providers"}
    assert settings["areas"]["hassi"]["bbox"] == list(world.areas[1].bbox)
    provider = settings["providers"]["earth_search"]
    assert provider["url"] == sandbox.endpoints["earth_search"]
    assert provider["endpoints"]["sentinel-cogs"] == {
        "url": sandbox.endpoints["sentinel-cogs"],
        "region": "us-west-2",
        "allow_http": True,
    }
    assert sandbox.truth() == json.loads(json.dumps([plume.to_json() for plume in world.truth]))
    assert sandbox.days == ("2024-06-01", "2024-06-12")
