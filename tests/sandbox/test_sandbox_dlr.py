"""The sandbox's DLR: GeoServer's protocol as recorded, the CAS login, and the provider against both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
from pystac_client import Client

from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.catalog.search import search
from geostack_pipeline.errors import AuthError, IncompleteSearchError
from geostack_pipeline.providers.contract import Provider
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.raster.crop import plan_crop
from geostack_pipeline.raster.fetch import WebPageError
from geostack_pipeline.sandbox import Sandbox
from geostack_pipeline.sandbox.dialects.dlr_items import L2A, QUICKLOOK
from geostack_pipeline.sandbox.dialects.dlr_level1 import L1B, L1C
from geostack_pipeline.sandbox.dialects.dlr_login import PASSWORD, WITHOUT_POLICY, WITHOUT_RIGHTS
from geostack_pipeline.settings import Settings, parse_settings

DAYS = (date(2024, 6, 5), date(2024, 6, 7), date(2024, 6, 11))


@pytest.fixture(scope="module")
def running_dlr(worlds: Path) -> Iterator[Sandbox]:
    with Sandbox.start(worlds, small=True, providers=["dlr_geoservice"]) as sandbox:
        yield sandbox


@pytest.fixture
def dlr(running_dlr: Sandbox) -> Iterator[Sandbox]:
    running_dlr.clear_faults()
    running_dlr.clear_log()
    yield running_dlr
    running_dlr.clear_faults()


def _settings(sandbox: Sandbox) -> Settings:
    return parse_settings({"root": "file:/nowhere", **sandbox.settings()})


def _provider(sandbox: Sandbox, **login: str) -> Provider:
    given = sandbox.credentials()
    pair = {"username": given["DLR_USERNAME"], "password": given["DLR_PASSWORD"], **login}
    return _settings(sandbox).build_provider(
        "dlr_geoservice", {name: Secret(value) for name, value in pair.items()}
    )


def _items(sandbox: Sandbox, provider: Provider, day: date) -> list[dict[str, Any]]:
    areas = _settings(sandbox).area_list
    return normalise(provider, search(provider, day, areas).items, day, areas).items


def _post(sandbox: Sandbox, **body: Any) -> dict[str, Any]:
    url = f"{sandbox.endpoints['dlr_geoservice']}/search"
    answer: dict[str, Any] = httpx.post(url, json=body, trust_env=False).raise_for_status().json()
    return answer


def test_the_next_link_is_the_recorded_one(dlr: Sandbox, shared_dir: Path) -> None:
    file = shared_dir / "samples" / "dlr-eoc" / "search_mixed_enmap_2025.exchange.json"
    recorded = json.loads(file.read_text(encoding="utf-8"))["json"]
    page = _post(dlr, collections=[L2A, QUICKLOOK], limit=2)
    assert page.keys() == recorded.keys()
    assert page["numberMatched"] == 6
    own, theirs = (
        next(link for link in answer["links"] if link["rel"] == "next") for answer in (page, recorded)
    )
    assert own.keys() == theirs.keys()
    assert own["merge"] is theirs["merge"] is True
    assert own["body"] == {"startIndex": 2, "limit": 2}
    assert own["body"].keys() == theirs["body"].keys()
    assert own["href"].partition("?")[2] == theirs["href"].partition("?")[2] == "f=application%2Fgeo%2Bjson"


def test_the_items_have_the_recorded_members(dlr: Sandbox, shared_dir: Path) -> None:
    folder = shared_dir / "samples" / "dlr-eoc"
    old = json.loads((folder / "enmap_l2a.item_2024.json").read_text(encoding="utf-8"))
    new = json.loads((folder / "enmap_l2a.items_2026style.json").read_text(encoding="utf-8"))["features"][0]
    first, second, *_ = _post(dlr, collections=[L2A])["features"]
    for mine, real in ((first, old), (second, new)):
        assert mine.keys() - {"links"} <= real.keys()
        assert set(mine["properties"]) <= set(real["properties"])
        assert mine["assets"].keys() == real["assets"].keys()
        for name, value in mine["properties"].items():
            other = real["properties"][name]
            assert {type(value), type(other)} in ({type(value)}, {int, float}), (name, value, other)
        assert mine["assets"]["image"]["href"].count("/") == real["assets"]["image"]["href"].count("/")
    assert first["assets"]["image"]["eo:bands"][0].keys() == old["assets"]["image"]["eo:bands"][0].keys()
    assert len(first["assets"]["image"]["eo:bands"]) == 224
    assert "eo:bands" not in second["assets"]["image"]


def test_query_and_ids_are_ignored_and_filter_works(dlr: Sandbox) -> None:
    assert _post(dlr, query={"eo:cloud_cover": {"lt": -1}}, ids=["none"])["numberMatched"] == 8
    never = {"op": "<", "args": [{"property": "eo:cloud_cover"}, -1]}
    assert _post(dlr, filter=never, **{"filter-lang": "cql2-json"})["numberMatched"] == 0
    text = {"filter": "\"eo:cloud_cover\" <= 100 AND platform = 'enmap'", "filter-lang": "cql2-text"}
    assert _post(dlr, **text)["numberMatched"] == 5


def test_a_client_that_nobody_here_wrote_finds_the_same_items(dlr: Sandbox) -> None:
    client = Client.open(dlr.endpoints["dlr_geoservice"])
    found = {item.id for item in client.search(collections=[L2A], limit=1, method="POST").items()}
    ours = _provider(dlr)
    assert found == {item["id"] for day in DAYS for item in _items(dlr, ours, day)}
    by_get = {item.id for item in client.search(collections=[L2A], limit=2, method="GET").items()}
    assert by_get == found


def test_a_search_of_small_pages_is_complete(dlr: Sandbox) -> None:
    settings = dlr.settings()
    settings["providers"]["dlr_geoservice"]["collections"] = [L2A, QUICKLOOK]
    provider = parse_settings(settings).build_provider("dlr_geoservice", {})
    provider.dialect = replace(provider.dialect, page_size=1)
    result = search(provider, DAYS[1], _settings(dlr).area_list)
    assert {item["collection"] for item in result.items} == {L2A, QUICKLOOK}
    assert result.report.matched == result.report.returned == 2
    assert dlr.log("dlr_geoservice")["totals"]["dlr_geoservice"]["POST"] > len(_settings(dlr).areas)


def test_the_files_are_read_behind_the_login(dlr: Sandbox) -> None:
    provider = _provider(dlr)
    for day in DAYS:
        (item,) = _items(dlr, provider, day)
        image, metadata = provider.wants(item, ("SPECTRAL_IMAGE",))
        ref = provider.routes(item, image.asset)[0]
        west, south, east, north = item["bbox"]
        middle = ((west + east) / 2, (south + north) / 2)
        box = (middle[0] - 0.001, middle[1] - 0.001, middle[0] + 0.001, middle[1] + 0.001)
        plan = plan_crop(provider.store(ref.store_id), ref.key, box, "EPSG:4326")
        assert plan is not None
        assert plan.intersects
        ref = provider.routes(item, metadata.asset)[0]
        text = bytes(provider.store(ref.store_id).get(ref.key).bytes())
        assert text.count(b"<wavelengthCenterOfBand>") == 224
    totals = dlr.log()["totals"]
    assert totals["cas"]["requests"] == 2, "one form, one post, for all days"


def test_a_session_that_ends_in_the_middle_is_renewed(dlr: Sandbox) -> None:
    provider = _provider(dlr)
    (item,) = _items(dlr, provider, DAYS[1])
    ref = provider.routes(item, "SPECTRAL_IMAGE")[0]
    box = tuple(item["bbox"])
    assert plan_crop(provider.store(ref.store_id), ref.key, box, "EPSG:4326") is not None
    dlr.fault("expired-login@dlr-files?count=1")
    with pytest.raises(WebPageError) as caught:
        plan_crop(provider.store(ref.store_id), ref.key, box, "EPSG:4326")
    error = provider.explain_page(caught.value.page, "dlr item")
    assert isinstance(error, AuthError)
    assert "login page came instead" in str(error)
    assert provider.renew(ref.store_id)
    assert plan_crop(provider.store(ref.store_id), ref.key, box, "EPSG:4326") is not None
    assert dlr.log()["totals"]["cas"]["POST"] == 2


@pytest.mark.parametrize("fault", ["503@cas?count=1", "429@cas?count=1&seconds=0.1", "cut@cas?count=1"])
def test_a_login_server_that_fails_once_is_asked_again(dlr: Sandbox, fault: str) -> None:
    provider = _provider(dlr)
    dlr.fault(fault)
    (item,) = _items(dlr, provider, DAYS[1])
    ref = provider.routes(item, "METADATA")[0]
    assert bytes(provider.store(ref.store_id).get(ref.key).bytes()).startswith(b"<?xml")


def test_a_login_page_of_another_make_is_named(dlr: Sandbox) -> None:
    provider = _provider(dlr)
    dlr.fault("html@cas")
    with pytest.raises(AuthError, match="another way") as caught:
        provider.store("https://download.geoservice.dlr.de")
    assert "Log in" in str(caught.value)


def test_a_page_that_repeats_itself_ends_the_search(dlr: Sandbox) -> None:
    settings = dlr.settings()
    settings["providers"]["dlr_geoservice"]["collections"] = [L2A, QUICKLOOK]
    provider = parse_settings(settings).build_provider("dlr_geoservice", {})
    provider.dialect = replace(provider.dialect, page_size=1)
    dlr.fault("repeat-token@dlr_geoservice")
    with pytest.raises(IncompleteSearchError, match="dlr_geoservice"):
        search(provider, DAYS[1], _settings(dlr).area_list)


@pytest.mark.parametrize(
    ("login", "said"),
    [
        ({"username": WITHOUT_RIGHTS, "password": PASSWORD}, "lacks the right"),
        ({"username": WITHOUT_POLICY, "password": PASSWORD}, "usage policy"),
        ({"password": "not-the-password"}, "refused"),
    ],
)
def test_each_failed_login_says_why(dlr: Sandbox, login: dict[str, str], said: str) -> None:
    provider = _provider(dlr, **login)
    (item,) = _items(dlr, provider, DAYS[1])
    with pytest.raises(AuthError, match=said) as caught:
        provider.store(provider.routes(item, "METADATA")[0].store_id)
    assert login.get("password", "-") not in str(caught.value)


def test_basic_opens_the_files_too(dlr: Sandbox) -> None:
    settings = dlr.settings()
    settings["providers"]["dlr_geoservice"]["options"] = {"login": "basic"}
    given = dlr.credentials()
    provider = parse_settings(settings).build_provider(
        "dlr_geoservice",
        {"username": Secret(given["DLR_USERNAME"]), "password": Secret(given["DLR_PASSWORD"])},
    )
    (item,) = _items(dlr, provider, DAYS[0])
    ref = provider.routes(item, "METADATA")[0]
    assert bytes(provider.store(ref.store_id).get(ref.key).bytes()).startswith(b"<?xml")
    assert "cas" not in dlr.log()["totals"]


@pytest.mark.parametrize(
    "fault",
    [
        "429@dlr_geoservice?count=1&seconds=0.1",
        "503@dlr_geoservice?count=2",
        "cut@dlr_geoservice?count=1",
        "truncated@dlr_geoservice?count=1",
        "html@dlr_geoservice?count=1",
        "wrong-count@dlr_geoservice",
        "drop-item@dlr_geoservice",
        "missing-geometry@dlr_geoservice",
        "missing-datetime@dlr_geoservice",
        "missing-bbox@dlr_geoservice",
        "type-drift@dlr_geoservice",
    ],
)
def test_a_fault_ends_in_all_items_or_in_one_named_error(dlr: Sandbox, fault: str) -> None:
    provider = _provider(dlr)
    areas = _settings(dlr).area_list
    dlr.fault(fault)
    if fault.startswith(("wrong-count", "drop-item")):
        with pytest.raises(IncompleteSearchError, match="dlr_geoservice"):
            search(provider, DAYS[1], areas)
        return
    result = search(provider, DAYS[1], areas)
    done = normalise(provider, result.items, DAYS[1], areas)
    spoiled = fault.startswith(("missing-geometry", "missing-datetime"))
    assert len(done.items) == (0 if spoiled else 1)
    assert [one.reason for one in done.rejected] == (
        [fault.split("@", maxsplit=1)[0].removeprefix("missing-")] if spoiled else []
    )


def test_no_secret_stands_in_the_log(dlr: Sandbox) -> None:
    provider = _provider(dlr)
    (item,) = _items(dlr, provider, DAYS[1])
    provider.store(provider.routes(item, "METADATA")[0].store_id)
    assert PASSWORD not in json.dumps(dlr.log())


def test_products_of_level_1_are_listed_and_served(dlr: Sandbox, tmp_path: Path) -> None:
    """Two files of L1B that are not on a map come whole, the one of L1C by window."""
    settings = dlr.settings()
    settings["providers"]["dlr_geoservice"]["collections"] = [L1B, L1C]
    given = dlr.credentials()
    login = {"username": Secret(given["DLR_USERNAME"]), "password": Secret(given["DLR_PASSWORD"])}
    parsed = parse_settings({"root": "file:/nowhere", **settings})
    provider = parsed.build_provider("dlr_geoservice", login)
    areas = parsed.area_list
    items = normalise(
        provider, search(provider, date(2024, 6, 7), areas).items, date(2024, 6, 7), areas
    ).items
    wanted = {
        item["collection"]: provider.wants(item, ("SPECTRAL_IMAGE", "QUALITY_TESTFLAGS")) for item in items
    }
    assert {name: [(want.asset, want.how) for want in wants] for name, wants in wanted.items()} == {
        L1B: [
            ("SPECTRAL_IMAGE_VNIR", "whole"),
            ("SPECTRAL_IMAGE_SWIR", "whole"),
            ("QUALITY_TESTFLAGS_VNIR", "whole"),
            ("QUALITY_TESTFLAGS_SWIR", "whole"),
            ("METADATA", "whole"),
        ],
        L1C: [("SPECTRAL_IMAGE", "window"), ("QUALITY_TESTFLAGS", "whole"), ("METADATA", "whole")],
    }
    for item in items:
        assert item["properties"]["geostack:radiometry"] == "metadata_file"
        assert item["properties"]["geostack:scene"] == "ENMAP_DT0000077190_001"
        for want in wanted[item["collection"]]:
            ref = provider.locate(item["assets"][want.asset]["href"])
            data = bytes(provider.store(ref.store_id).get(ref.key).bytes())
            assert data[:2] in {b"II", b"<?"}, want.asset
