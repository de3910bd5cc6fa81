"""The dialects of CMR-STAC and CMR, and NASA's login and archive behind them, by clients that nobody here wrote."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pystac_client
import pytest
from obstore.auth.earthdata import NasaEarthdataCredentialProvider
from obstore.store import S3Store

from geostack_pipeline.sandbox import Sandbox
from geostack_pipeline.sandbox.server.earthdata import COOKIE, PASSWORD, TOKEN, USERNAME
from geostack_pipeline.sandbox.world.emit import emit_granules

ENH, PLM = "EMITL2BCH4ENH_002", "EMITL2BCH4PLM_002"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def served(worlds: Path) -> Iterator[Sandbox]:
    with Sandbox.start(worlds, small=True, providers=["cmr_stac", "earthaccess"]) as sandbox:
        yield sandbox


@pytest.fixture
def nasa(served: Sandbox) -> Iterator[Sandbox]:
    served.clear_faults()
    served.clear_log()
    yield served
    served.clear_faults()


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=30, follow_redirects=False) as client:
        yield client


def _search(http: httpx.Client, nasa: Sandbox, **body: Any) -> httpx.Response:
    return http.post(f"{nasa.endpoints['cmr_stac']}/search", json=body)


def _data_path(nasa: Sandbox, http: httpx.Client) -> str:
    item = _search(http, nasa, collections=[ENH], limit=1).json()["features"][0]
    hrefs = [asset["href"] for asset in item["assets"].values() if asset["roles"] == ["data"]]
    return "/" + next(href for href in hrefs if href.startswith("https://")).split("/", 3)[3]


# -- CMR-STAC -----------------------------------------------------------------------------------------


def test_pystac_client_walks_the_catalog_and_finds_every_granule(nasa: Sandbox) -> None:
    catalog = pystac_client.Client.open(nasa.endpoints["cmr_stac"])
    found = [item.id for item in catalog.search(collections=[ENH, PLM], limit=2).items()]
    granules = emit_granules(nasa.world)
    scenes = [f"EMIT_L2B_CH4ENH_002_{granule.name}" for granule in granules]
    plumes = [f"EMIT_L2B_CH4PLM_002_{plume.name}" for granule in granules for plume in granule.plumes]
    assert sorted(found) == sorted(scenes + plumes)
    assert len(plumes) == 3


def test_next_links_are_get_after_a_post_search_and_the_context_counts(
    nasa: Sandbox, http: httpx.Client
) -> None:
    page = _search(http, nasa, collections=[ENH], limit=3).json()
    link = next(each for each in page["links"] if each["rel"] == "next")
    assert "method" not in link
    assert "body" not in link
    assert page["context"] == {"limit": 3, "matched": 4, "returned": 3}
    assert "numberMatched" not in page
    last = http.get(link["href"]).json()
    assert last["context"]["returned"] == 1
    assert not [each for each in last["links"] if each["rel"] == "next"]
    ids = [item["id"] for item in page["features"] + last["features"]]
    assert len(set(ids)) == 4


def test_a_page_is_at_most_a_hundred_and_a_limit_above_5000_an_error(
    nasa: Sandbox, http: httpx.Client
) -> None:
    assert _search(http, nasa, limit=5000).status_code == 200
    assert _search(http, nasa, limit=5001).status_code == 400


@pytest.mark.parametrize("name", [ENH, "EMITL2BCH4ENH.v002"])
def test_collections_have_two_names_in_requests_and_one_in_items(
    nasa: Sandbox, http: httpx.Client, name: str
) -> None:
    items = _search(http, nasa, collections=[name]).json()["features"]
    assert {item["collection"] for item in items} == {ENH}


def test_less_than_acts_as_at_most_and_zero_is_lost(nasa: Sandbox, http: httpx.Client) -> None:
    def found(**conditions: float) -> list[dict[str, Any]]:
        query = {"eo:cloud_cover": conditions}
        items: list[dict[str, Any]] = _search(http, nasa, collections=[ENH, PLM], query=query).json()[
            "features"
        ]
        return items

    every = _search(http, nasa, collections=[ENH]).json()["features"]
    most = max(item["properties"]["eo:cloud_cover"] for item in every)
    assert most > 0
    assert len(found(lt=most)) == len(every)
    assert len(found(lt=0)) == len(every) + 3
    assert all(item["collection"] == ENH for item in found(lt=100)), "plumes have no cloud cover"


def test_items_have_the_members_and_the_asset_keys_of_the_derived_sample(
    nasa: Sandbox, http: httpx.Client, shared_dir: Path
) -> None:
    sample = json.loads(
        (shared_dir / "samples/cmr-stac/DERIVED_emitl2arfl_001.item.json").read_text(encoding="utf-8")
    )
    item = _search(http, nasa, collections=["EMITL2ARFL_001"], limit=1).json()["features"][0]
    assert item.keys() == sample.keys()
    assert item["properties"].keys() == sample["properties"].keys()
    assert [link["rel"] for link in item["links"]] == [link["rel"] for link in sample["links"]]

    def shape(one: dict[str, Any]) -> dict[str, list[str]]:
        granule = one["id"]
        stamp = granule.split("_", 4)[-1]
        return {
            key.replace(granule, "<id>").replace(stamp, "<stamp>"): sorted(asset)
            for key, asset in one["assets"].items()
            if "RFLUNCERT" not in key
        }

    assert shape(item) == shape(sample)


def test_a_box_that_ends_at_longitude_zero_has_no_bbox(nasa: Sandbox) -> None:
    from dataclasses import replace

    import shapely

    from geostack_pipeline.sandbox.dialects.cmr_stac import make_item
    from geostack_pipeline.sandbox.dialects.emit_granules import records

    record = replace(records(nasa.world)[0], footprint=shapely.box(-1.0, 10.0, 0.0, 11.0))
    assert make_item(record, "http://127.0.0.1")["bbox"] is None


# -- CMR ----------------------------------------------------------------------------------------------


def test_cmr_counts_and_pages_as_recorded(nasa: Sandbox, http: httpx.Client, shared_dir: Path) -> None:
    recorded = json.loads(
        (shared_dir / "samples/earthaccess/cmr_granules_umm_json.exchanges.json").read_text(encoding="utf-8")
    )
    url = f"{nasa.endpoints['earthaccess']}/granules.umm_json"
    asked = {"short_name": "EMITL2BCH4ENH", "version": "002"}
    for exchange, size in zip(recorded, (0, 1), strict=True):
        answer = http.get(url, params={**asked, "page_size": size})
        headers = {name.lower() for name in exchange["headers"] if name.startswith("CMR-")}
        assert {name for name in answer.headers if name.startswith("cmr-")} == headers
        assert answer.json().keys() == exchange["json"].keys()
        assert answer.json()["hits"] == int(answer.headers["CMR-Hits"]) == 4
    granule, sample = answer.json()["items"][0], exchange["json"]["items"][0]
    assert granule["meta"].keys() == sample["meta"].keys()
    seen, token = [], None
    while True:
        headers = {"CMR-Search-After": token} if token else {}
        answer = http.get(url, params={**asked, "page_size": 3}, headers=headers)
        token = answer.headers.get("CMR-Search-After")
        seen += [item["umm"]["GranuleUR"] for item in answer.json()["items"]]
        if token is None:
            break
    assert len(seen) == len(set(seen)) == 4


def test_umm_has_the_members_of_a_real_granule(nasa: Sandbox, http: httpx.Client, shared_dir: Path) -> None:
    sample = json.loads(
        (shared_dir / "samples/earthaccess/emitl2arfl_001.granule_ummg.json").read_text(encoding="utf-8")
    )[0]["umm"]
    answer = http.get(
        f"{nasa.endpoints['earthaccess']}/granules.umm_json", params={"short_name": "EMITL2ARFL"}
    )
    umm = answer.json()["items"][0]["umm"]
    assert umm.keys() == sample.keys()
    assert {url["Type"] for url in umm["RelatedUrls"]} <= {url["Type"] for url in sample["RelatedUrls"]}
    assert (
        umm["DataGranule"]["ArchiveAndDistributionInformation"][0].keys()
        == sample["DataGranule"]["ArchiveAndDistributionInformation"][0].keys()
    )


# -- login server and archive -------------------------------------------------------------------------


def test_a_wrong_password_at_the_login_page_is_a_page_and_at_the_token_api_a_401(
    nasa: Sandbox, http: httpx.Client
) -> None:
    edl = nasa.endpoints["edl"]
    answer = http.get(f"{edl}/oauth/authorize", auth=(USERNAME, "wrong"))
    assert (answer.status_code, "text/html" in answer.headers["content-type"]) == (200, True)
    answer = http.post(f"{edl}/api/users/find_or_create_token", auth=(USERNAME, "wrong"))
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_credentials")
    first, second = (
        http.post(f"{edl}/api/users/find_or_create_token", auth=(USERNAME, PASSWORD)).json() for _ in range(2)
    )
    assert first["access_token"] == second["access_token"] != TOKEN


def test_the_login_server_sends_nobody_to_a_strange_place(nasa: Sandbox, http: httpx.Client) -> None:
    answer = http.get(
        f"{nasa.endpoints['edl']}/oauth/authorize",
        params={"client_id": "sandbox-archive", "redirect_uri": "http://evil.example/login"},
        auth=(USERNAME, PASSWORD),
    )
    assert answer.status_code == 400


def test_files_come_by_a_redirect_to_a_signed_url_that_takes_no_login(
    nasa: Sandbox, http: httpx.Client
) -> None:
    path = _data_path(nasa, http)
    answer = http.get(nasa.endpoints["daac"] + path, headers=BEARER)
    assert answer.status_code == 303
    signed = answer.headers["location"]
    assert signed.startswith(nasa.endpoints["cloudfront"] + path)
    whole = http.get(signed)
    assert whole.status_code == 200
    part = http.get(signed, headers={"range": "bytes=10-19", "if-match": whole.headers["etag"]})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    assert http.get(signed, headers={"if-match": '"other"'}).status_code == 412
    assert http.get(signed, headers=BEARER).status_code == 400
    assert http.get(signed, headers={"cookie": f"{COOKIE}=x"}).status_code == 400
    assert http.get(signed.replace("Signature=", "Signature=0")).status_code == 403
    assert http.get(signed.split("?")[0]).status_code == 403


def test_without_a_login_the_archive_sends_to_the_login_server_and_revoked_tokens_are_refused(
    served: Sandbox, http: httpx.Client
) -> None:
    path = _data_path(served, http)
    for headers in ({}, {"authorization": "Bearer never-made"}):
        for place in (path, "/s3credentials"):
            answer = http.get(served.endpoints["daac"] + place, headers=headers)
            assert answer.status_code == 307
            assert answer.headers["location"].startswith(f"{served.endpoints['edl']}/oauth/authorize?")
    picture = path.replace("lp-prod-protected", "lp-prod-public").rsplit("/", 1)[0]
    name = picture.rsplit("/", 1)[-1]
    assert http.get(f"{served.endpoints['daac']}{picture}/{name}.png").status_code == 303
    minted = http.post(
        f"{served.endpoints['edl']}/api/users/find_or_create_token", auth=(USERNAME, PASSWORD)
    ).json()["access_token"]
    ours = {"authorization": f"Bearer {minted}"}
    assert http.get(served.endpoints["daac"] + path, headers=ours).status_code == 303
    http.post(
        f"{served.endpoints['edl']}/api/users/revoke_token",
        params={"token": minted},
        auth=(USERNAME, PASSWORD),
    )
    assert http.get(served.endpoints["daac"] + path, headers=ours).status_code == 401


@pytest.mark.parametrize("login", [TOKEN, (USERNAME, PASSWORD)], ids=["token", "password"])
def test_obstores_own_client_gets_keys_that_open_the_bucket_and_no_other(
    nasa: Sandbox, http: httpx.Client, login: Any
) -> None:
    keys = NasaEarthdataCredentialProvider(
        f"{nasa.endpoints['daac']}/s3credentials", host="127.0.0.1", auth=login
    )
    path = _data_path(nasa, http).split("/", 2)[2]
    store = S3Store(
        "lp-prod-protected",
        region="us-west-2",
        endpoint=nasa.endpoints["private"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        credential_provider=keys,
    )
    assert bytes(store.get(path).bytes())[:4] in {b"II*\0", b"II+\0", b"MM\0*"}
    answer = http.get(f"{nasa.endpoints['private']}/lp-prod-protected/{path}")
    assert answer.status_code == 403


def test_a_wrong_basic_login_is_not_taken(nasa: Sandbox, http: httpx.Client) -> None:
    junk = base64.b64encode(b"\xff\xfe").decode()
    for text in ("Basic ???", f"Basic {junk}", "Bearer x"):
        answer = http.post(
            f"{nasa.endpoints['edl']}/api/users/find_or_create_token", headers={"authorization": text}
        )
        assert answer.status_code == 401


def test_deleted_granules_are_asked_for_as_cmr_wants_it(nasa: Sandbox, http: httpx.Client) -> None:
    def asked(**parameters: str) -> httpx.Response:
        return http.get(f"{nasa.endpoints['earthaccess']}/deleted-granules.json", params=parameters)

    # The words of CMR's own tests.
    assert asked().json() == {"errors": ["One revision date is required for deleted granules search."]}
    old = asked(revision_date="2024-01-01T00:00:00Z")
    assert (old.status_code, old.json()["errors"]) == (
        400,
        ["Revision date must be within one year of today."],
    )
    now = datetime.now(UTC)
    odd = asked(revision_date=now.isoformat(), not_a_valid_parameter="test")
    assert odd.json()["errors"] == ["Parameter [not_a_valid_parameter] was not recognized."]
    answer = asked(revision_date=now.isoformat())
    assert (answer.json(), answer.headers["cmr-hits"]) == ([], "0")
