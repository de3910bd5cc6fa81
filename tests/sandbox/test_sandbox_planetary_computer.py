"""The Planetary Computer's dialect: against the recorded exchanges, and walked by clients that nobody here wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import numpy as np
import obstore
import pystac_client
import pytest
import rasterio
from obstore import exceptions as obs_errors
from obstore.auth.planetary_computer import PlanetaryComputerCredentialProvider
from obstore.store import AzureStore
from rasterio.io import MemoryFile

from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.catalog.retry import RetryPolicy
from geostack_pipeline.catalog.search import search
from geostack_pipeline.errors import AuthError, IncompleteSearchError
from geostack_pipeline.providers.contract import Endpoint, Provider
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.registry import build_provider
from geostack_pipeline.sandbox import Sandbox
from geostack_pipeline.sandbox.dialects.planetary_computer import CONFORMANCE, SUBSCRIPTION_KEY
from geostack_pipeline.sandbox.server.azure_sas import Account, RefusedError, sign, string_to_sign
from geostack_pipeline.sandbox.server.sas_tokens import MOUNT, TokenRate
from geostack_pipeline.sandbox.world.world import Encoding

COLLECTION = "sentinel-2-l2a"
ACCOUNT, CONTAINER = "sentinel2l2a01", "sentinel2-l2"
STORE = f"az://{ACCOUNT}/{CONTAINER}"
HOST = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}"
DAY = date(2024, 6, 2)
QUICK = RetryPolicy(base_s=0.01, cap_s=0.05)


@pytest.fixture(scope="module")
def served(worlds: Path) -> Iterator[Sandbox]:
    with Sandbox.start(worlds, small=True, providers=["earth_search", "planetary_computer"]) as sandbox:
        yield sandbox


@pytest.fixture
def pc(served: Sandbox) -> Iterator[Sandbox]:
    served.clear_faults()
    served.clear_log()
    yield served
    served.clear_faults()


@pytest.fixture
def api(pc: Sandbox) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=pc.endpoints["planetary_computer"], trust_env=False, timeout=60) as client:
        yield client


def provider_of(sandbox: Sandbox, key: str = "planetary_computer", **credentials: Secret) -> Provider:
    found = sandbox.settings()["providers"][key]
    return build_provider(
        key,
        url=found["url"],
        collections=found["collections"],
        endpoints={name: Endpoint(**endpoint) for name, endpoint in found["endpoints"].items()},
        credentials=credentials,
    )


def recorded(shared_dir: Path, name: str) -> Any:
    return json.loads((shared_dir / "samples/planetary-computer" / name).read_text())


def _walk(api: httpx.Client, body: dict[str, Any], rel: str = "next") -> list[dict[str, Any]]:
    """Follow POST links to the end."""
    pages = [api.post("/search", json=body).raise_for_status().json()]
    while (link := _link(pages[-1], rel)) is not None:
        assert link["method"] == "POST"
        assert "merge" not in link
        pages.append(httpx.post(link["href"], json=link["body"], trust_env=False).raise_for_status().json())
        assert len(pages) < 50
    return pages


def _link(page: dict[str, Any], rel: str) -> dict[str, Any] | None:
    return next((each for each in page["links"] if each["rel"] == rel), None)


def _form(value: Any) -> Any:
    """Return keys, in order, and kinds of values: what two documents of one shape share."""
    if isinstance(value, dict):
        return {key: _form(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_form(value[0])] if value else []
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__


# -- the catalog ----------------------------------------------------------------------------------


def test_pages_have_the_recorded_form(api, shared_dir):
    exchanges = [recorded(shared_dir, f"search_naip_page{number}.exchange.json") for number in (1, 2)]
    asked = {"limit": 5, "bbox": [0.0, 30.0, 60.0, 40.0], "collections": [COLLECTION]}
    pages = _walk(api, asked)
    assert [len(page["features"]) for page in pages] == [5, 5, 2]
    for page, exchange in zip(pages, exchanges, strict=False):
        theirs = exchange["json"]
        assert list(page) == list(theirs), "nothing counts the items"
        assert [link["rel"] for link in page["links"]] == [link["rel"] for link in theirs["links"]]
        for link, their in zip(page["links"], theirs["links"], strict=True):
            assert list(link) == list(their)
            assert link.get("method") == their.get("method")
            assert link["type"] == their["type"]
            if "body" in their:
                assert list(link["body"]) == list(their["body"])
                assert {name: link["body"][name] for name in asked} == asked
                way, collection, _ = their["body"]["token"].split(":")
                ends = page["features"][-1 if way == "next" else 0]["id"]
                assert link["body"]["token"] == f"{way}:{collection.replace('naip', COLLECTION)}:{ends}"
    assert [link["rel"] for link in pages[-1]["links"]] == ["previous", "root", "self"]
    ids = [item["id"] for page in pages for item in page["features"]]
    assert len(set(ids)) == 12
    times = [item["properties"]["datetime"] for page in pages for item in page["features"]]
    assert times == sorted(times, reverse=True)


def test_the_previous_link_leads_back(api):
    pages = _walk(api, {"limit": 5})
    back = httpx.post(
        pages[1]["links"][0]["href"], json=_link(pages[1], "previous")["body"], trust_env=False
    ).json()
    assert [item["id"] for item in back["features"]] == [item["id"] for item in pages[0]["features"]]


def test_items_have_the_recorded_form(api, shared_dir):
    theirs = recorded(shared_dir, "sentinel-2-l2a.items2.json")["features"][0]
    items = api.post("/search", json={}).json()["features"]
    assert len(items) == 12
    for item in items:
        assert list(item) == list(theirs)
        assert list(item["properties"]) == list(theirs["properties"])
        assert list(item["assets"]) == list(theirs["assets"])
        assert _form(item["properties"]) == _form(theirs["properties"])
        assert _form(item["assets"]) == _form(theirs["assets"])
        assert _form(item["links"]) == _form(theirs["links"])
        assert [link["rel"] for link in item["links"]] == [link["rel"] for link in theirs["links"]]
        assert item["stac_extensions"] == theirs["stac_extensions"]
        for key, asset in item["assets"].items():
            other = theirs["assets"][key]
            for name in ("type", "title", "roles", "gsd", "eo:bands"):
                assert asset.get(name) == other.get(name)
            mine, recorded_path = asset["href"].split("/"), other["href"].split("/")
            assert len(mine) == len(recorded_path)
            assert mine[:4] == recorded_path[:4]
        name = item["properties"]["s2:product_uri"]
        assert item["id"] == "_".join(part for part in name[:-5].split("_") if not part.startswith("N0"))


def test_landing_and_conformance_like_recorded(api, shared_dir):
    theirs = recorded(shared_dir, "landing.json")
    mine = api.get("/").raise_for_status().json()
    assert list(mine) == [name for name in theirs if name in mine] or set(mine) == set(theirs)
    assert set(mine["conformsTo"]) == set(CONFORMANCE)
    assert set(theirs["conformsTo"]) - set(CONFORMANCE) == {
        "http://www.opengis.net/spec/cql2/1.0/conf/cql2-text"
    }
    for name in ("stac_version", "type", "id", "title", "description"):
        assert mine[name] == theirs[name]
    plain = [link["rel"] for link in theirs["links"] if link["rel"] != "child"]
    assert sorted(link["rel"] for link in mine["links"] if link["rel"] != "child") == sorted(plain)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"query": {"eo:cloud_cover": {"gt": 80}}}, 1),
        ({"filter": {"op": ">", "args": [{"property": "eo:cloud_cover"}, 80]}}, 1),
        (
            {
                "filter-lang": "cql2-json",
                "filter": {
                    "op": "and",
                    "args": [
                        {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 80]},
                        {"op": "=", "args": [{"property": "s2:mgrs_tile"}, "40SBH"]},
                    ],
                },
            },
            4,
        ),
        ({"ids": ["nothing"]}, 0),
        ({"datetime": "2024-06-02T00:00:00Z/2024-06-02T23:59:59Z"}, 4),
        ({"bbox": [0.0, 30.0, 10.0, 40.0]}, 4),
        ({"collections": ["landsat-c2-l2"]}, 0),
    ],
)
def test_filters_are_honoured(api, asked, found):
    assert len(api.post("/search", json=asked).raise_for_status().json()["features"]) == found


@pytest.mark.parametrize(
    "asked",
    [
        {"limit": 1001},
        {"limit": "many"},
        {"token": "next:sentinel-2-l2a:nothing"},
        {"bbox": [1, 2, 3]},
        {"filter": {"op": "=", "args": []}},
        {"filter": "eo:cloud_cover < 5", "filter-lang": "cql2-text"},
        {"sortby": "datetime"},
    ],
)
def test_malformed_searches_are_refused(api, asked):
    answer = api.post("/search", json=asked)
    assert answer.status_code == 400
    assert set(answer.json()) == {"code", "description"}


def test_sorting_and_fields(api):
    asked = {"sortby": [{"field": "id", "direction": "asc"}], "fields": {"include": ["id"]}, "limit": 4}
    pages = _walk(api, asked)
    items = [item for page in pages for item in page["features"]]
    assert [item["id"] for item in items] == sorted(item["id"] for item in items)
    assert set(items[0]) == {"id", "collection"}


def test_pystac_client_finds_the_same_items(pc, api):
    client = pystac_client.Client.open(pc.endpoints["planetary_computer"])
    for method in ("POST", "GET"):
        found = client.search(
            collections=[COLLECTION], method=method, limit=5, query={"eo:cloud_cover": {"lt": 80}}
        )
        items = list(found.items())
        assert len(items) == 11
        assert found.matched() is None
    filtered = client.search(
        collections=[COLLECTION],
        filter={"op": "<", "args": [{"property": "eo:cloud_cover"}, 80]},
        filter_lang="cql2-json",
    )
    assert {item.id for item in filtered.items()} == {item.id for item in items}
    assert [collection.id for collection in client.get_collections()] == [COLLECTION]
    one = client.get_collection(COLLECTION).get_item(items[0].id)
    assert one is not None
    assert one.to_dict()["assets"] == items[0].to_dict()["assets"]


# -- tokens and blobs -----------------------------------------------------------------------------

# Made by azure-storage-blob 12.12.0 (version 2021-06-08) with the key b"k" * 64.
_LIFE = "st=2024-06-01T00%3A00%3A00Z&se=2024-06-02T00%3A00%3A00Z&sp=rl&sv=2021-06-08&sr=c"
_DELEGATED = (
    "skoid=oid-1&sktid=tid-1&skt=2024-06-01T00%3A00%3A00Z&ske=2024-06-07T00%3A00%3A00Z&sks=b&skv=2021-06-08"
)
_OF_THE_SDK = [
    f"{_LIFE}&sig=ry8jKZun0uhzm9V35w8v9Ls4uxmu4fiC9b%2BnkeSHw3A%3D",
    f"{_LIFE}&{_DELEGATED}&sig=vUOfB%2BElDE2hGVTvJ0Lth3ADn0FV05xluA3mF1IEvv8%3D",
]


@pytest.mark.parametrize("token", _OF_THE_SDK)
def test_signatures_are_those_of_azures_own_client(token):
    fields = dict(parse_qsl(token))
    assert sign(b"k" * 64, string_to_sign(fields, ACCOUNT, CONTAINER)) == fields["sig"]


NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("made", "changed", "asked", "code"),
    [
        ({}, {}, {}, None),
        ({"delegated": False}, {}, {}, None),
        ({"life": -HOUR}, {}, {}, "AuthenticationFailed"),
        ({}, {}, {"now": NOW + 2 * HOUR}, "AuthenticationFailed"),
        ({}, {}, {"now": NOW - timedelta(days=2)}, "AuthenticationFailed"),
        ({"life": timedelta(days=30)}, {}, {"now": NOW + timedelta(days=7)}, "AuthenticationFailed"),
        ({}, {"se": "2099-01-01T00:00:00Z"}, {}, "AuthenticationFailed"),
        ({}, {"sp": "rwdl"}, {}, "AuthenticationFailed"),
        ({}, {"sr": "b"}, {}, "AuthenticationFailed"),
        ({}, {"sig": "AAAA"}, {}, "AuthenticationFailed"),
        ({}, {"sig": "\N{SNOWMAN}"}, {}, "AuthenticationFailed"),
        ({}, {}, {"container": "other"}, "AuthenticationFailed"),
        ({}, {}, {"right": "w"}, "AuthorizationPermissionMismatch"),
        ({"permissions": "l"}, {}, {}, "AuthorizationPermissionMismatch"),
    ],
)
def test_a_token_opens_what_it_was_made_for(made, changed, asked, code):
    account = Account(ACCOUNT)
    text, _ = account.token(CONTAINER, **{"life": HOUR, "now": NOW, **made})
    fields = {**dict(parse_qsl(text)), **changed}
    asked = {"container": CONTAINER, "right": "r", "now": NOW, **asked}
    if code is None:
        account.check(fields, **asked)
        return
    with pytest.raises(RefusedError) as caught:
        account.check(fields, **asked)
    assert (caught.value.code, caught.value.status) == (code, 403)


def test_revoking_ends_delegated_tokens_only():
    account = Account(ACCOUNT)
    tokens = [account.token(CONTAINER, life=HOUR, now=NOW, delegated=each)[0] for each in (True, False)]
    account.revoke()
    with pytest.raises(RefusedError, match="AuthenticationFailed"):
        account.check(dict(parse_qsl(tokens[0])), CONTAINER, "r", NOW)
    account.check(dict(parse_qsl(tokens[1])), CONTAINER, "r", NOW)
    account.check(dict(parse_qsl(account.token(CONTAINER, life=HOUR, now=NOW)[0])), CONTAINER, "r", NOW)


def test_the_token_server_answers_as_recorded(pc, shared_dir):
    theirs = recorded(shared_dir, "sas_token.exchange.json")[0]["json"]
    url = f"{pc.endpoints['pc-sas']}{MOUNT}/{ACCOUNT}/{CONTAINER}"
    answer = httpx.get(url, trust_env=False)
    mine = answer.raise_for_status().json()
    assert list(mine) == list(theirs)
    token, recorded_token = dict(parse_qsl(mine["token"])), dict(parse_qsl(theirs["token"]))
    assert list(token) == list(recorded_token)
    assert {name: token[name] for name in ("sp", "sv", "sr", "sks", "skv")} == {
        name: recorded_token[name] for name in ("sp", "sv", "sr", "sks", "skv")
    }
    assert token["se"] == mine["msft:expiry"]
    ends = datetime.fromisoformat(mine["msft:expiry"])
    assert abs(ends - datetime.now(UTC) - timedelta(hours=24, minutes=45)) < timedelta(minutes=1)
    keyed = {"Ocp-Apim-Subscription-Key": SUBSCRIPTION_KEY}
    assert httpx.get(url, headers=keyed, trust_env=False).status_code == 200
    wrong = httpx.get(url, headers={"Ocp-Apim-Subscription-Key": "guessed"}, trust_env=False)
    assert wrong.status_code == 401
    assert httpx.get(url + "x", trust_env=False).status_code == 404
    assert pc.credentials() == {"PC_SDK_SUBSCRIPTION_KEY": SUBSCRIPTION_KEY}


def test_tokens_are_given_up_to_a_rate():
    now = [0.0]
    rate = TokenRate(2, clock=lambda: now[0])
    assert [rate.wait(keyed=False) for _ in range(3)] == [0, 0, 60]
    assert [rate.wait(keyed=True) for _ in range(21)] == [0] * 20 + [60]
    now[0] = 59.5
    assert rate.wait(keyed=False) == 1
    now[0] = 60.0
    assert rate.wait(keyed=False) == 0


def test_obstores_own_login_reads_the_blobs(pc, api):
    """A client of this service that nobody here wrote: its token request and its signed reads work."""
    login = PlanetaryComputerCredentialProvider(
        account_name=ACCOUNT, container_name=CONTAINER, sas_url=pc.endpoints["pc-sas"] + MOUNT
    )
    store = AzureStore(
        credential_provider=login,
        endpoint=f"{pc.endpoints['pc-blob']}/{ACCOUNT}",
        client_options={"allow_http": True},
    )
    item = api.post("/search", json={"limit": 1}).json()["features"][0]
    for key in ("B12", "SCL", "safe-manifest"):
        data = bytes(obstore.get(store, item["assets"][key]["href"].removeprefix(f"{HOST}/")).bytes())
        assert data[:2] in {b"II", b"<x"}
    with pytest.raises(FileNotFoundError):
        obstore.get(store, item["assets"]["B01"]["href"].removeprefix(f"{HOST}/"))


def test_blobs_answer_like_azure(pc, api):
    item = api.post("/search", json={"limit": 1}).json()["features"][0]
    path = item["assets"]["B04"]["href"].removeprefix("https://").partition("/")[2]
    url = f"{pc.endpoints['pc-blob']}/{ACCOUNT}/{path}"
    token = httpx.get(f"{pc.endpoints['pc-sas']}{MOUNT}/{ACCOUNT}/{CONTAINER}", trust_env=False).json()[
        "token"
    ]

    def ask(headers: dict[str, str] | None = None, method: str = "GET", query: str = token) -> httpx.Response:
        return httpx.request(method, f"{url}?{query}", headers=headers, trust_env=False)

    whole = ask()
    size, tag = len(whole.content), whole.headers["etag"]
    assert whole.status_code == 200
    assert whole.headers["x-ms-blob-type"] == "BlockBlob"
    assert tag.startswith('"0x')
    part = ask({"Range": "bytes=10-19", "x-ms-range": "bytes=20-29"})
    assert (part.status_code, part.content) == (206, whole.content[20:30])
    assert part.headers["content-range"] == f"bytes 20-29/{size}"
    assert ask({"Range": f"bytes={size - 3}-"}).content == whole.content[-3:]
    assert ask({"Range": "lines=1-2"}).content == whole.content
    beyond = ask({"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["x-ms-error-code"]) == (416, "InvalidRange")
    assert ask({"If-Match": tag}).status_code == 200
    changed = ask({"If-Match": '"0x0"', "Range": "bytes=0-1"})
    assert (changed.status_code, changed.headers["x-ms-error-code"]) == (412, "ConditionNotMet")
    assert ask({"If-None-Match": tag}).status_code == 304
    assert ask({"If-Modified-Since": whole.headers["last-modified"]}).status_code == 304
    assert ask({"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}).status_code == 412
    head = ask(method="HEAD")
    assert (head.status_code, int(head.headers["content-length"]), head.content) == (200, size, b"")
    for method in ("PUT", "DELETE", "POST"):
        assert ask(method=method).headers["x-ms-error-code"] == "AuthorizationPermissionMismatch"
    anonymous = ask(query="")
    assert (anonymous.status_code, anonymous.headers["x-ms-error-code"]) == (409, "PublicAccessNotPermitted")
    assert b"<Code>PublicAccessNotPermitted</Code>" in anonymous.content
    assert anonymous.content.decode("utf-8-sig").startswith("<?xml")


# -- through the provider -------------------------------------------------------------------------


def test_the_worlds_bytes_arrive(pc):
    """Search, normalise, locate, read: the file that the world holds, and what it means."""
    provider = provider_of(pc, subscription_key=Secret(SUBSCRIPTION_KEY))
    items = []
    for day in (DAY, date(2024, 6, 7)):
        found = search(provider, day, pc.world.areas)
        assert found.report.matched is None
        normalised = normalise(provider, found.items, day, pc.world.areas)
        assert normalised.rejected == []
        items += normalised.items
    assert len(items) == 6
    for item in items:
        properties = item["properties"]
        scene = pc.world.scene(properties["geostack:scene"])
        baseline = properties["processing:baseline"]
        offset = 1000 if baseline >= "04.00" else 0
        asset = item["assets"]["B12"]
        ref = provider.locate(asset["href"])
        data = bytes(obstore.get(provider.store(ref.store_id), ref.key).bytes())
        path, about = pc.world.files(scene, Encoding(baseline=baseline, offset=offset))["B12.tif"]
        assert data == path.read_bytes()
        assert len(data) == about["size"]
        band = asset["raster:bands"][0]
        assert band["offset"] == -offset * 1e-4
        with MemoryFile(data) as file, file.open() as raster:
            numbers = raster.read(1)
        truth = pc.world.reflectance(scene, "B12", baseline=baseline)
        seen = numbers != band["nodata"]
        assert np.array_equal(seen, ~np.isnan(truth))
        assert np.allclose(numbers[seen] * band["scale"] + band["offset"], truth[seen], atol=1e-6)
    assert pc.log("pc-sas")["totals"]["pc-sas"]["requests"] == 1


def test_scenes_are_those_of_earth_search(pc):
    both = {}
    for key in ("earth_search", "planetary_computer"):
        provider, scenes = provider_of(pc, key), set()
        for day in (DAY, date(2024, 6, 6)):
            result = search(provider, day, pc.world.areas)
            for item in normalise(provider, result.items, day, pc.world.areas).items:
                named = [item["properties"][name] for name in ("geostack:scene", "processing:baseline")]
                scenes.add((*named, item["properties"]["platform"], item["properties"]["grid:code"]))
        both[key] = scenes
    assert both["planetary_computer"] == both["earth_search"]
    assert len(both["earth_search"]) == 5


def test_the_key_is_sent_to_the_token_server_alone(pc):
    provider = provider_of(pc, subscription_key=Secret(SUBSCRIPTION_KEY))
    item = search(provider, DAY, pc.world.areas).items[0]
    ref = provider.locate(item["assets"]["SCL"]["href"])
    obstore.get(provider.store(ref.store_id), ref.key)
    entries = pc.log()["entries"]
    assert {entry["target"] for entry in entries} == {"planetary_computer", "pc-sas", "pc-blob"}
    assert not any(entry["authorization"] for entry in entries)
    assert SUBSCRIPTION_KEY not in json.dumps(entries)
    assert [entry["target"] for entry in entries if "sig=" in entry["query"]] == ["pc-blob"]


# -- faults ---------------------------------------------------------------------------------------


def _key(pc: Sandbox, provider: Provider) -> str:
    item = search(provider, DAY, pc.world.areas).items[0]
    return provider.locate(item["assets"]["SCL"]["href"]).key


def test_a_token_server_that_is_busy_is_waited_for(pc):
    provider = provider_of(pc)
    key = _key(pc, provider)
    pc.fault("429@pc-sas?count=2&seconds=0.2")
    assert len(bytes(obstore.get(provider.store(STORE), key).bytes())) > 100
    totals = pc.log("pc-sas")["totals"]["pc-sas"]
    assert (totals["status_429"], totals["status_200"]) == (2, 1)


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_login_that_is_refused_half_way_is_renewed(pc, status):
    provider = provider_of(pc)
    key = _key(pc, provider)
    obstore.get(provider.store(STORE), key)
    pc.fault(f"{status}@pc-blob?count=1")
    refused = obs_errors.UnauthenticatedError if status == "401" else obs_errors.PermissionDeniedError
    with pytest.raises(refused):
        obstore.get(provider.store(STORE), key)
    assert provider.renew(STORE)
    obstore.get(provider.store(STORE), key)
    assert pc.log("pc-sas")["totals"]["pc-sas"]["requests"] == 2


def test_a_token_server_that_refuses_is_an_auth_error(pc):
    provider = provider_of(pc, subscription_key=Secret("planted-wrong-key"))
    with pytest.raises(AuthError, match="PC_SDK_SUBSCRIPTION_KEY") as caught:
        provider.store(STORE)
    assert "planted-wrong-key" not in str(caught.value)
    assert not provider.renew(STORE)


@pytest.mark.parametrize(
    "fault", ["429?count=2&seconds=0.1", "503?count=2", "truncated?count=1", "html?count=1", "cut?count=1"]
)
def test_a_catalog_that_stumbles_still_gives_every_item(pc, fault):
    kind, _, options = fault.partition("?")
    pc.fault(f"{kind}@planetary_computer?{options}")
    assert len(search(provider_of(pc), DAY, pc.world.areas, policy=QUICK).items) == 4


def test_an_item_that_one_walk_lost_is_found_by_the_next(pc):
    pc.fault("drop-item@planetary_computer?count=1")
    assert len(search(provider_of(pc), DAY, pc.world.areas, policy=QUICK).items) == 4


def test_a_token_that_repeats_is_an_error(pc, monkeypatch):
    provider = provider_of(pc)
    monkeypatch.setattr(
        provider, "dialect", provider.dialect.__class__(page_size=2, walker="pager", count="none")
    )
    assert len(search(provider, DAY, pc.world.areas, policy=QUICK).items) == 4
    pc.fault("repeat-token@planetary_computer")
    with pytest.raises(IncompleteSearchError):
        search(provider, DAY, pc.world.areas, policy=QUICK)


@pytest.mark.parametrize(
    ("fault", "rejected"),
    [
        ("missing-bbox", set()),
        ("wrong-count", set()),
        ("missing-asset", set()),
        ("wrong-offset-flag", set()),
        ("hostile-href", set()),
        ("missing-geometry", {"geometry"}),
        ("null-geometry", {"geometry"}),
        ("missing-datetime", {"datetime"}),
    ],
)
def test_spoiled_items_are_taken_or_rejected_with_a_reason(pc, fault, rejected):
    pc.fault(f"{fault}@planetary_computer")
    provider = provider_of(pc)
    result = search(provider, DAY, pc.world.areas, policy=QUICK)
    assert len(result.items) == 4
    normalised = normalise(provider, result.items, DAY, pc.world.areas)
    assert {one.reason for one in normalised.rejected} == rejected
    assert len(normalised.items) + len(normalised.rejected) == 4
    lacking = [item for item in normalised.items if "B12" not in item["assets"]]
    assert len(lacking) == (1 if fault == "missing-asset" else 0)


def test_blobs_open_in_gdal_too(pc, tmp_path):
    """rasterio reads what was fetched: geotransform and CRS are those of the item."""
    provider = provider_of(pc)
    item = provider.canonical(search(provider, DAY, pc.world.areas).items[0])
    ref = provider.locate(item["assets"]["B04"]["href"])
    file = tmp_path / "b04.tif"
    file.write_bytes(bytes(obstore.get(provider.store(ref.store_id), ref.key).bytes()))
    with rasterio.open(file) as raster:
        assert list(raster.transform)[:6] == item["assets"]["B04"]["proj:transform"]
        assert [raster.height, raster.width] == item["assets"]["B04"]["proj:shape"]
        assert raster.crs.to_string() == item["properties"]["proj:code"]
