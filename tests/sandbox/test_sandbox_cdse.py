"""The Data Space's dialect and the buckets that want a login: as recorded, and asked by clients nobody here wrote."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import obstore
import pystac_client
import pytest
import rasterio
from obstore import exceptions as obs_errors
from obstore.store import S3Store
from rasterio.io import MemoryFile

from geostack_pipeline.sandbox import Sandbox
from geostack_pipeline.sandbox.dialects.cdse import CONFORMANCE
from geostack_pipeline.sandbox.dialects.safe import safe_encodings
from geostack_pipeline.sandbox.server.strict_bucket import end_sessions, switch_key
from geostack_pipeline.sandbox.world.world import Encoding

COLLECTION = "sentinel-2-l2a"
ONCE = {"max_retries": 0}
RASTER_MEMBERS = (
    "type",
    "title",
    "roles",
    "nodata",
    "data_type",
    "raster:scale",
    "gsd",
    "storage:refs",
    "bands",
)


@pytest.fixture(scope="module")
def served(worlds: Path) -> Iterator[Sandbox]:
    with Sandbox.start(worlds, small=True, providers=["cdse"]) as sandbox:
        yield sandbox


@pytest.fixture
def cdse(served: Sandbox) -> Iterator[Sandbox]:
    served.clear_faults()
    served.clear_log()
    yield served
    served.clear_faults()


@pytest.fixture
def api(cdse: Sandbox) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cdse.endpoints["cdse"], trust_env=False, timeout=60) as client:
        yield client


def _bucket(sandbox: Sandbox, name: str = "eodata", **given: Any) -> S3Store:
    keys = sandbox.credentials()
    login = {
        "access_key_id": keys["CDSE_S3_ACCESS_KEY"],
        "secret_access_key": keys["CDSE_S3_SECRET_KEY"],
        "region": "default",
    }
    return S3Store(
        name,
        endpoint=sandbox.endpoints["private"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        retry_config=ONCE,  # type: ignore[arg-type]
        **{**login, **given},
    )


def _walk(api: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    pages = [api.post("/search", json=body).raise_for_status().json()]
    while (link := next((each for each in pages[-1]["links"] if each["rel"] == "next"), None)) is not None:
        assert (link["method"], "merge" in link) == ("POST", False)
        pages.append(httpx.post(link["href"], json=link["body"], trust_env=False).raise_for_status().json())
        assert len(pages) < 50
    return pages


def _items(api: httpx.Client) -> list[dict[str, Any]]:
    return [item for page in _walk(api, {"limit": 100}) for item in page["features"]]


def _key(item: dict[str, Any], asset: str) -> str:
    href: str = item["assets"][asset]["href"]
    return href.removeprefix("s3://eodata/")


def _form(value: Any) -> Any:
    """Return keys and kinds of values: what two documents of one shape share."""
    if isinstance(value, dict):
        return {key: _form(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_form(value[0])] if value else []
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__


# -- the catalog ----------------------------------------------------------------------------------------


def test_items_have_the_recorded_form(api: httpx.Client, shared_dir: Path) -> None:
    theirs = json.loads(
        (shared_dir / "samples/cdse/sentinel-2-l2a.item_2026.json").read_text(encoding="utf-8")
    )
    items = _items(api)
    assert len(items) == 12
    for item in items:
        assert list(item) == list(theirs)
        assert list(item["properties"]) == list(theirs["properties"])
        assert _form(item["properties"]) == _form(theirs["properties"])
        assert item["stac_extensions"] == theirs["stac_extensions"]
        assert list(item["assets"]) == list(theirs["assets"])
        assert [(link["rel"], set(link)) for link in item["links"]] == [
            (link["rel"], set(link)) for link in theirs["links"]
        ]
        for key, asset in item["assets"].items():
            other = theirs["assets"][key]
            assert set(asset) == set(other), key
            for member in RASTER_MEMBERS:
                assert asset.get(member) == other.get(member), (key, member)
            mine, recorded = asset["href"].split("/"), other["href"].split("/")
            assert mine[:3] == recorded[:3]
            assert len(mine) == len(recorded)
            assert asset["file:checksum"][:4] == other["file:checksum"][:4]
            assert len(asset["file:checksum"]) == len(other["file:checksum"])


def test_pages_have_the_recorded_form_and_a_token(api: httpx.Client, shared_dir: Path) -> None:
    exchange = json.loads(
        (shared_dir / "samples/cdse/search_s2l2a.exchange.json").read_text(encoding="utf-8")
    )
    asked = {"bbox": [0.0, 30.0, 60.0, 40.0], "datetime": "2024-06-01T00:00:00Z/2024-06-12T23:59:59Z"}
    pages = _walk(api, {**asked, "collections": [COLLECTION], "limit": 5})
    assert [len(page["features"]) for page in pages] == [5, 5, 2]
    assert [page["numberReturned"] for page in pages] == [5, 5, 2]
    for page in pages:
        assert list(page) == list(exchange["json"])
    assert [link["rel"] for link in pages[-1]["links"]] == [
        "previous",
        *(link["rel"] for link in exchange["json"]["links"]),
    ]
    link = pages[0]["links"][0]
    last = pages[0]["features"][-1]["id"]
    assert link["body"] == {
        **asked,
        "collections": [COLLECTION],
        "limit": 5,
        "token": f"next:{COLLECTION}:{last}",
    }
    assert len({item["id"] for page in pages for item in page["features"]}) == 12
    headers = api.post("/search", json=asked).headers
    assert headers["x-ratelimit-limit"] == "2000, 2000;w=60"
    assert 0 < int(headers["x-ratelimit-remaining"]) < 2000


def test_landing_is_the_recorded_one(api: httpx.Client, shared_dir: Path) -> None:
    theirs = json.loads((shared_dir / "samples/cdse/landing.json").read_text(encoding="utf-8"))
    mine = api.get("/").raise_for_status().json()
    assert list(mine) == list(theirs)
    assert mine["id"] == theirs["id"]
    assert set(mine["conformsTo"]) < set(theirs["conformsTo"])
    assert set(theirs["conformsTo"]) - set(CONFORMANCE) == {
        "http://www.opengis.net/spec/cql2/1.0/conf/cql2-text",
        "https://api.stacspec.org/v1.0.0/collections/extensions/transaction",
        "https://api.stacspec.org/v1.0.0/ogcapi-features/extensions/transaction",
    }
    root = str(api.base_url).rstrip("/")
    named = {(link["rel"], link["href"].removeprefix(root), link["type"]) for link in mine["links"]}
    base = "https://stac.dataspace.copernicus.eu/v1"
    recorded = {(link["rel"], link["href"].removeprefix(base), link["type"]) for link in theirs["links"]}
    assert recorded <= named
    assert {rel for rel, *_ in named - recorded} == {"conformance"} - {rel for rel, *_ in recorded}


def test_pystac_client_finds_the_same(api: httpx.Client) -> None:
    client = pystac_client.Client.open(str(api.base_url))
    found = client.search(
        collections=[COLLECTION],
        limit=4,
        filter={"op": "<", "args": [{"property": "eo:cloud_cover"}, 80]},
        filter_lang="cql2-json",
    )
    ids = {item.id for item in found.items()}
    assert ids == {item["id"] for item in _items(api) if item["properties"]["eo:cloud_cover"] < 80}
    assert 0 < len(ids) < 12
    queried = client.search(query={"eo:cloud_cover": {"gte": 80}}, method="GET", limit=1)
    assert {item.id for item in queried.items()} == {item["id"] for item in _items(api)} - ids


def test_a_token_that_leads_back_is_shown_on_demand(cdse: Sandbox, api: httpx.Client) -> None:
    cdse.fault("repeat-token@cdse?count=1")
    page = api.post("/search", json={"limit": 4}).json()
    again = httpx.post(page["links"][0]["href"], json=page["links"][0]["body"], trust_env=False).json()
    assert [item["id"] for item in again["features"]] == [item["id"] for item in page["features"]]
    cdse.fault("missing-asset@cdse?count=1&asset=swir22")
    assert "B12_20m" not in api.post("/search", json={}).json()["features"][0]["assets"]


# -- the files ------------------------------------------------------------------------------------------


def test_files_are_lossless_and_placed_as_the_real_ones(cdse: Sandbox, api: httpx.Client) -> None:
    world = cdse.world
    scene = world.scenes[0]
    world.prepare({scene.id: [Encoding(baseline=scene.newest.baseline, offset=0)]})
    cogs = world.files(scene, Encoding(baseline=scene.newest.baseline, offset=0))
    item = next(
        each for each in _items(api) if scene.id.split("_")[1] in each["id"] and scene.tile.mgrs in each["id"]
    )
    for asset in ("B02_10m", "B04_10m", "B11_20m", "B12_20m", "SCL_20m"):
        data = bytes(obstore.get(_bucket(cdse), _key(item, asset)).bytes())
        described = item["assets"][asset]
        assert described["file:size"] == len(data)
        assert described["file:checksum"] == f"1620{hashlib.sha3_256(data).hexdigest()}"
        start = data.index(b"\xff\x4f\xff\x51") + 4
        columns, rows, tile_columns, tile_rows = (
            struct.unpack(">I", data[start + at : start + at + 4])[0] for at in (4, 8, 20, 24)
        )
        assert [rows, columns] == described["proj:shape"]
        assert max(tile_columns, tile_rows) <= 1024
        assert b"gml:RectifiedGridCoverage" in data
        band = asset.partition("_")[0]
        with (
            MemoryFile(data, ext=".jp2") as memory,
            memory.open() as jp2,
            rasterio.open(cogs[f"{band}.tif"][0]) as cog,
        ):
            assert jp2.tags(ns="IMAGE_STRUCTURE")["COMPRESSION_REVERSIBILITY"] == "LOSSLESS"
            assert jp2.crs.to_epsg() == cog.crs.to_epsg() == int(described["proj:code"][5:])
            assert tuple(jp2.transform)[:6] == tuple(described["proj:transform"]) == tuple(cog.transform)[:6]
            numbers, plain = jp2.read(1), cog.read(1)
            if band == "SCL":
                assert np.array_equal(numbers, plain)
            else:
                # The other file holds the same reflectance without the +1000 of its baseline.
                assert np.array_equal(numbers == 0, plain == 0)
                seen = plain > 1
                assert np.array_equal(numbers[seen].astype(int) - 1000, plain[seen].astype(int))


def test_old_baselines_have_no_offset_but_say_so(api: httpx.Client, cdse: Sandbox) -> None:
    world = cdse.world
    for scene in world.scenes:
        for processing, encoding in zip(scene.overpass.processings, safe_encodings(scene), strict=True):
            assert encoding.offset == (1000 if processing.baseline >= "04.00" else 0)
    stated = {
        (item["properties"]["processing:version"], item["assets"]["B04_10m"]["raster:offset"])
        for item in _items(api)
    }
    assert stated == {("05.10", -0.1), ("05.10", 0.0), ("05.00", -0.1), ("02.14", -0.1)}


# -- logins ---------------------------------------------------------------------------------------------


def test_keys_open_the_bucket_and_nothing_else_does(cdse: Sandbox, api: httpx.Client) -> None:
    key = _key(_items(api)[0], "B12_20m")
    store = _bucket(cdse)
    whole = bytes(obstore.get(store, key).bytes())
    assert bytes(obstore.get_range(store, key, start=100, end=200)) == whole[100:200]
    assert obstore.head(store, key)["size"] == len(whole)
    folder = key.partition("/GRANULE")[0]
    listed = {meta["path"] for batch in obstore.list(store, folder) for meta in batch}
    assert key in listed
    with pytest.raises(FileNotFoundError):
        obstore.get(store, f"{key}.nothing")
    for refused in (
        _bucket(cdse, secret_access_key="wrong"),
        _bucket(cdse, access_key_id="NOBODYSKEY"),
        _bucket(cdse, skip_signature=True),
        _bucket(cdse, session_token="made-up"),
    ):
        with pytest.raises(
            (PermissionError, obs_errors.PermissionDeniedError, obs_errors.GenericError)
        ) as error:
            obstore.get(refused, key)
        assert "403" in str(error.value) or "InvalidToken" in str(error.value)
    with pytest.raises(obs_errors.PermissionDeniedError):
        obstore.put(store, "new.txt", b"x")
    assert bytes(obstore.get(store, key).bytes()) == whole
    assert httpx.get(f"{cdse.endpoints['private']}/eodata/{key}", trust_env=False).status_code == 403


def test_a_key_that_is_withdrawn(cdse: Sandbox, api: httpx.Client) -> None:
    key = _key(_items(api)[0], "SCL_20m")
    private = cdse.endpoints["private"]
    switch_key(private, valid=False)
    try:
        with pytest.raises(obs_errors.PermissionDeniedError, match="InvalidAccessKeyId"):
            obstore.get(_bucket(cdse), key)
    finally:
        switch_key(private, valid=True)
    assert bytes(obstore.get(_bucket(cdse), key).bytes())


def _session(sandbox: Sandbox, buckets: list[str], lifetime_s: float = 600.0) -> dict[str, str]:
    answer = httpx.post(
        f"{sandbox.endpoints['private']}/_sandbox/sessions",
        json={"buckets": buckets, "lifetime_s": lifetime_s},
        trust_env=False,
    )
    session: dict[str, str] = answer.raise_for_status().json()
    return session


def _as(session: dict[str, str]) -> dict[str, str]:
    return {
        "access_key_id": session["accessKeyId"],
        "secret_access_key": session["secretAccessKey"],
        "session_token": session["sessionToken"],
        "region": "us-west-2",
    }


def test_sessions_open_their_bucket_until_they_end(cdse: Sandbox, api: httpx.Client) -> None:
    key = _key(_items(api)[0], "SCL_20m")
    session = _session(cdse, ["eodata"])
    assert set(session) == {"accessKeyId", "secretAccessKey", "sessionToken", "expiration"}
    assert bytes(obstore.get(_bucket(cdse, **_as(session)), key).bytes())
    with pytest.raises(obs_errors.GenericError, match="InvalidToken"):
        obstore.get(_bucket(cdse, **{**_as(session), "session_token": "other"}), key)
    elsewhere = _session(cdse, ["lp-prod-protected"])
    with pytest.raises(obs_errors.PermissionDeniedError, match="AccessDenied"):
        obstore.get(_bucket(cdse, **_as(elsewhere)), key)
    short = _session(cdse, ["eodata"], lifetime_s=0.2)
    time.sleep(0.25)
    with pytest.raises(obs_errors.GenericError, match="ExpiredToken"):
        obstore.get(_bucket(cdse, **_as(short)), key)
    assert end_sessions(cdse.endpoints["private"]) == 2
    with pytest.raises(obs_errors.GenericError, match="ExpiredToken"):
        obstore.get(_bucket(cdse, **_as(session)), key)
    assert bytes(obstore.get(_bucket(cdse), key).bytes()), "the lasting key has no session"


def test_private_buckets_are_logged_and_show_faults(cdse: Sandbox, api: httpx.Client) -> None:
    key = _key(_items(api)[0], "SCL_20m")
    whole = bytes(obstore.get(_bucket(cdse), key).bytes())
    cdse.fault("503@eodata?count=1")
    with pytest.raises(obs_errors.GenericError, match="503"):
        obstore.get(_bucket(cdse), key)
    cdse.fault("corrupt@eodata?count=1")
    spoiled = bytes(obstore.get(_bucket(cdse), key).bytes())
    assert len(spoiled) == len(whole)
    assert spoiled != whole
    totals = cdse.log("eodata")["totals"]["eodata"]
    assert (totals["requests"], totals["status_200"], totals["status_503"]) == (3, 2, 1)
    assert totals["bytes"] >= 2 * len(whole)
    assert all(entry["authorization"] for entry in cdse.log("eodata")["entries"])


def test_the_second_process_ends_with_the_first(worlds: Path) -> None:
    with Sandbox.start(worlds, small=True, providers=["cdse"]) as sandbox:
        children = Path(f"/proc/{sandbox.pid}/task/{sandbox.pid}/children")
        if not children.exists():
            pytest.skip("this system does not list child processes")
        (child,) = [int(text) for text in children.read_text(encoding="ascii").split()]
        os.kill(sandbox.pid, 9)
        deadline = time.monotonic() + 15.0
        while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{child}").exists()
