"""CMR-STAC: what its items mean, where their files are, and who is asking."""

from __future__ import annotations

import copy
import io
import json
import pickle
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import emit_loopback
import httpx
import pyarrow.parquet as pq
import pytest
from obstore.store import HTTPStore

from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.catalog.retry import RetryPolicy
from geostack_pipeline.catalog.scene_table import from_parquet, to_parquet
from geostack_pipeline.catalog.search import search
from geostack_pipeline.catalog.selection import select
from geostack_pipeline.errors import AuthError, HrefRefusedError, SettingsError, TransferError
from geostack_pipeline.providers import earthdata, registry
from geostack_pipeline.providers.cmr_stac import CmrStac
from geostack_pipeline.providers.contract import Item, RejectedItemError, SearchWindow
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.emit import ARCHIVE, S3, EmitProvider
from geostack_pipeline.sandbox import Sandbox
from geostack_pipeline.sandbox.server.earthdata import PASSWORD, TOKEN, USERNAME
from geostack_pipeline.storage.retry import Retry
from geostack_pipeline.storage.transfer import download

ENH = "EMITL2BCH4ENH_002"
GRANULE = "EMIT_L2B_CH4ENH_002_20240616T072726_2416805_025"
WEB = "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected"
QUICK = RetryPolicy(base_s=0.01, cap_s=0.05)
ONCE = Retry(attempts=1)


@pytest.fixture(scope="module")
def served(worlds: Path) -> Iterator[Sandbox]:
    with emit_loopback.start(worlds) as sandbox:
        yield sandbox


@pytest.fixture
def nasa(served: Sandbox) -> Iterator[Sandbox]:
    served.clear_faults()
    served.clear_log()
    yield served
    served.clear_faults()


@pytest.fixture(autouse=True)
def no_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    # neither may have a say in our requests
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-machines-own")
    monkeypatch.setattr("geostack_pipeline.providers.earthdata_tokens.ATTEMPTS", 2)
    monkeypatch.setattr("geostack_pipeline.providers.earthdata_tokens.LONGEST_WAIT_S", 0.05)


def enh(number: int = 25, *, version: str = "002", **changes: Any) -> Item:
    """Return an item with the keys that CMR-STAC gives it."""
    name = f"EMIT_L2B_CH4ENH_{version}_20240616T072726_2416805_{number:03d}"
    folder = f"EMITL2BCH4ENH.{version}/{name}"
    assets: dict[str, Any] = {}
    for prefix, root in (("", WEB), ("s3_", "s3://lp-prod-protected")):
        for product in ("CH4ENH", "CH4UNCERT", "CH4SENS"):
            file = f"{folder}/{name.replace('CH4ENH', product)}"
            assets[f"{prefix}{version}/{file.split('/', 1)[1]}"] = {
                "href": f"{root}/{file}.tif",
                "title": "Direct Download",
                "roles": ["data"],
            }
    assets["browse"] = {
        "href": f"{WEB.replace('protected', 'public')}/{folder}/{name}.png",
        "roles": ["browse"],
    }
    ring = [[53.0, 38.0], [55.0, 38.0], [55.0, 39.5], [53.0, 39.5], [53.0, 38.0]]
    return {
        "type": "Feature",
        "id": name,
        "stac_version": "1.1.0",
        "collection": f"EMITL2BCH4ENH_{version}",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [53.0, 38.0, 55.0, 39.5],
        "properties": {"datetime": "2024-06-16T07:27:26.000Z", "eo:cloud_cover": 17},
        "links": [],
        "assets": assets,
        **changes,
    }


# -- items --------------------------------------------------------------------------------------------


def test_asset_keys_are_stable_and_the_s3_place_is_the_alternate() -> None:
    provider = CmrStac()
    item = provider.canonical(enh())
    assert set(item["assets"]) == {"CH4ENH", "CH4UNCERT", "CH4SENS", "BROWSE"}
    path = f"EMITL2BCH4ENH.002/{GRANULE}/{GRANULE}.tif"
    assert item["assets"]["CH4ENH"]["href"] == f"{WEB}/{path}"
    assert item["assets"]["CH4ENH"]["alternate"] == {"s3": {"href": f"s3://lp-prod-protected/{path}"}}
    assert item["properties"]["geostack:scene"] == "EMIT_20240616T072726_2416805_025"
    assert item["properties"]["platform"] == "iss"
    assert item["properties"]["proj:code"] == "EPSG:4326"
    assert item["properties"]["eo:cloud_cover"] == 17.0
    assert provider.canonical(copy.deepcopy(item)) == item


def test_five_hundred_items_stay_below_two_hundred_columns() -> None:
    provider = CmrStac()
    items = [provider.canonical(enh(number)) for number in range(500)]
    files = to_parquet(items, provider.template())
    assert list(files) == ["scenes.parquet"]
    schema = pq.ParquetFile(io.BytesIO(files["scenes.parquet"])).schema
    assert len(schema.names) < 200
    assert from_parquet(files["scenes.parquet"]) == items


def test_the_derived_sample_becomes_canonical_and_loses_nothing(shared_dir: Path) -> None:
    path = shared_dir / "samples/cmr-stac/DERIVED_emitl2arfl_001.item.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    provider = CmrStac(collections=["EMITL2ARFL_001"])
    item = provider.canonical(raw)
    assert set(item["assets"]) == {"RFL", "RFLUNCERT", "MASK", "BROWSE", "METADATA"}
    assert from_parquet(to_parquet([item], provider.template())["scenes.parquet"]) == [item]
    text = json.dumps(item)
    for asset in raw["assets"].values():
        assert asset["href"] in text
        assert asset["title"] in text
    for scheme in ("lp-prod-protected", "https://{bucket}.s3.{region}.amazonaws.com"):
        assert scheme in text


def test_items_of_the_catalog_of_2021_are_rejected_with_a_reason(shared_dir: Path) -> None:
    path = shared_dir / "samples/cmr-stac/hlsl30_v1.5.items_2021_legacy.json"
    for raw in json.loads(path.read_text(encoding="utf-8"))["features"]:
        with pytest.raises(RejectedItemError) as caught:
            CmrStac().canonical(raw)
        assert caught.value.reason == "collection"


def test_a_null_bbox_is_taken_from_the_footprint() -> None:
    assert CmrStac().canonical(enh(bbox=None))["bbox"] == [53.0, 38.0, 55.0, 39.5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"geometry": None}, "geometry"),
        ({"id": "G123-LPCLOUD"}, "granule"),
        ({"collection": "EMITL2BCH4PLM_002"}, "collection"),
        ({"properties": {"datetime": "yesterday"}}, "datetime"),
        ({"properties": {}}, "datetime"),
        ({"assets": {}}, "assets"),
        ({"assets": {"browse": {"href": 3}}}, "assets"),
    ],
)
def test_what_cannot_be_canonical_is_rejected(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(RejectedItemError) as caught:
        CmrStac().canonical(enh(**change))
    assert caught.value.reason == reason


def test_collections_are_named_in_three_ways_and_versions_never_mix() -> None:
    forms = ["EMITL2BCH4ENH.v002", "EMITL2BCH4ENH.002", "EMITL2BCH4ENH_002"]
    for form in forms:
        assert CmrStac(collections=[form]).collections == (ENH,)
        assert CmrStac().canonical(enh(collection=form))["collection"] == ENH
    assert CmrStac(collections=forms).collections == (ENH,)
    assert CmrStac().collections == (ENH, "EMITL2BCH4PLM_002")
    with pytest.raises(SettingsError, match="two versions"):
        CmrStac(collections=[ENH, "EMITL2BCH4ENH_001"])
    with pytest.raises(SettingsError, match="EMITL2BCH4ENH_002"):
        CmrStac(collections=["HLSL30_2.0"])
    with pytest.raises(RejectedItemError) as caught:
        CmrStac().canonical(enh(version="001"))
    assert caught.value.reason == "collection"
    assert set(CmrStac(collections=["EMITL2BCH4ENH_001"]).canonical(enh(version="001"))["assets"]) >= {
        "CH4ENH"
    }


def test_products_of_one_scene_are_no_duplicates_of_each_other() -> None:
    provider = CmrStac(collections=[ENH, "EMITL1BRAD_001"])
    first = provider.canonical(enh())
    name = "EMIT_L1B_RAD_001_20240616T072726_2416805_025"
    asset = {"href": f"{WEB}/EMITL1BRAD.001/{name}/{name}.nc", "roles": ["data"]}
    second = provider.canonical(
        enh(id=name, collection="EMITL1BRAD_001", assets={f"001/{name}/{name}": asset})
    )
    assert first["properties"]["geostack:scene"] == second["properties"]["geostack:scene"]
    data = to_parquet([first, second], provider.template())["scenes.parquet"]
    from geostack_pipeline.areas import Area

    area = Area(name="here", bbox=(53.9, 38.4, 54.1, 38.6), resolution_m=60)
    chosen = select(pq.read_table(io.BytesIO(data)), where=None, areas=[area])
    assert chosen.selected.num_rows == 2


def test_wants_are_the_assets_of_the_collection_among_the_bands() -> None:
    provider = CmrStac(collections=[ENH, "EMITL2BCH4PLM_002", "EMITL1BRAD_001", "EMITL2ARFL_001"])
    wants = {
        name: [
            (want.asset, want.how, want.required)
            for want in provider.wants({"collection": name}, provider.product.bands)
        ]
        for name in provider.collections
    }
    assert wants[ENH] == [
        ("CH4ENH", "window", True),
        ("CH4UNCERT", "window", True),
        ("CH4SENS", "window", True),
        ("BROWSE", "whole", False),
    ]
    assert wants["EMITL2BCH4PLM_002"][:2] == [("CH4PLM", "window", True), ("CH4PLMMETA", "whole", True)]
    assert wants["EMITL1BRAD_001"][:2] == [("RAD", "whole", True), ("OBS", "whole", True)]
    old = CmrStac(collections=["EMITL2BCH4ENH_001"])
    assert [
        want.required for want in old.wants({"collection": "EMITL2BCH4ENH_001"}, ["CH4ENH", "CH4SENS"])
    ] == [
        True,
        False,
    ]


# -- places -------------------------------------------------------------------------------------------


def test_s3_comes_before_https_and_both_are_one_object() -> None:
    provider = CmrStac()
    item = provider.canonical(enh())
    direct, web = provider.routes(item, "CH4ENH")
    path = f"EMITL2BCH4ENH.002/{GRANULE}/{GRANULE}.tif"
    assert (direct.store_id, direct.key) == (S3, path)
    assert (web.store_id, web.key) == (ARCHIVE, f"lp-prod-protected/{path}")
    assert direct.canonical == web.canonical == f"s3://lp-prod-protected/{path}"
    picture = provider.routes(item, "BROWSE")
    assert [ref.store_id for ref in picture] == [ARCHIVE]


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
        "http://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/a.tif",
        "https://data.lpdaac.earthdatacloud.nasa.gov.evil.example/lp-prod-protected/a.tif",
        "https://data.lpdaac.earthdatacloud.nasa.gov@evil.example/lp-prod-protected/a.tif",
        "https://user:pw@data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/a.tif",
        "https://data.lpdaac.earthdatacloud.nasa.gov:8443/lp-prod-protected/a.tif",
        "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/../s3credentials",
        "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/%2e%2e/s3credentials",
        "https://data.lpdaac.earthdatacloud.nasa.gov/s3credentials",
        "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/a.tif?token=1",
        "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/a\n.tif",
        "https://127.0.0.1/lp-prod-protected/a.tif",
        "https://10.0.0.8/lp-prod-protected/a.tif",
        "s3://lp-prod-protected-evil/a.tif",
        "s3://lp-prod-protected/../a.tif",
    ],
)
def test_hostile_hrefs_are_refused_whichever_place_names_them(href: str) -> None:
    provider = CmrStac()
    with pytest.raises(HrefRefusedError):
        provider.locate(href)
    for change in ({"href": href}, {"alternate": {"s3": {"href": href}}}):
        item = provider.canonical(enh())
        item["assets"]["CH4ENH"] |= change
        with pytest.raises(HrefRefusedError):
            provider.routes(item, "CH4ENH")


def test_two_places_that_are_not_one_file_are_refused() -> None:
    provider = CmrStac()
    item = provider.canonical(enh())
    item["assets"]["CH4ENH"]["alternate"] = item["assets"]["CH4SENS"]["alternate"]
    with pytest.raises(HrefRefusedError, match="not one file"):
        provider.routes(item, "CH4ENH")


# -- search -------------------------------------------------------------------------------------------


def test_every_granule_of_a_day_is_found_page_by_page(nasa: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = emit_loopback.provider(nasa, "cmr_stac")
    provider.dialect = provider.dialect.__class__(**{**provider.dialect.__dict__, "page_size": 1})
    nasa.fault("500@cmr_stac?count=2&skip=1&path=/search")
    found = search(provider, date(2024, 6, 7), nasa.world.areas, policy=QUICK)
    rows = normalise(provider, found.items, date(2024, 6, 7), nasa.world.areas)
    assert not rows.rejected
    assert [item["collection"] for item in rows.items] == [
        "EMITL1BRAD_001",
        "EMITL2ARFL_001",
        ENH,
        "EMITL2BCH4PLM_002",
    ]
    assert found.report.matched == 4
    assert found.report.retries == 2
    methods = [entry["method"] for entry in nasa.log("cmr_stac")["entries"] if entry["status"] == 200]
    assert {"POST", "GET"} == set(methods)
    assert not any(entry["authorization"] for entry in nasa.log("cmr_stac")["entries"])


def test_the_cloud_cover_is_checked_again_as_the_catalog_does_not(nasa: Sandbox) -> None:
    window = SearchWindow(
        start=datetime(2024, 6, 1, tzinfo=UTC),
        end=datetime(2024, 6, 13, tzinfo=UTC),
        bbox=(-180.0, -90.0, 180.0, 90.0),
    )
    all_items = httpx.post(
        f"{nasa.endpoints['cmr_stac']}/search",
        json={"collections": [ENH], "limit": 100},
        trust_env=False,
    ).json()["features"]
    covers = sorted(item["properties"]["eo:cloud_cover"] for item in all_items)
    for below in (float(covers[-1]), 0.0):
        provider = emit_loopback.provider(nasa, "cmr_stac", options={"cloud_cover_below": below})
        answer = httpx.post(
            f"{provider.url}/search", json={**provider.search_body(window), "limit": 100}, trust_env=False
        ).json()["features"]
        kept, reasons = [], set()
        for raw in answer:
            try:
                kept.append(provider.canonical(raw))
            except RejectedItemError as error:
                reasons.add(error.reason)
        assert reasons == {"cloud_cover"}
        assert all(item["properties"]["eo:cloud_cover"] < below for item in kept)
    with pytest.raises(SettingsError, match="cloud_cover_below"):
        registry.build_provider("cmr_stac", options={"cloud_cover_below": "much"})
    with pytest.raises(SettingsError, match="no_such"):
        registry.build_provider("cmr_stac", options={"no_such": 1})


# -- login --------------------------------------------------------------------------------------------


def _fetch(provider: EmitProvider, nasa: Sandbox, folder: Path, *, first: int = 0) -> str:
    """Bring a file as the granules stage does, place by place, and return the store that gave it."""
    item = provider.canonical(emit_loopback.some_item(nasa))
    refused: AuthError | None = None
    for ref in provider.routes(item, "CH4ENH")[first:]:
        for turn in range(2):
            try:
                download(provider.store(ref.store_id), ref.key, folder / "file", retry=ONCE)
            except AuthError as error:
                refused = error
                if turn or not provider.renew(ref.store_id):
                    break
            else:
                return ref.store_id
    assert refused is not None
    raise refused


def _netrc(path: Path, monkeypatch: pytest.MonkeyPatch, password: str = PASSWORD) -> None:
    path.write_text(f"machine 127.0.0.1 login {USERNAME} password {password}\n", encoding="utf-8")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


@pytest.mark.parametrize("kind", ["cmr_stac", "earthaccess"])
@pytest.mark.parametrize("way", ["token", "password", "netrc"])
def test_each_way_of_login_opens_both_places(
    nasa: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, way: str
) -> None:
    if way == "netrc":
        _netrc(tmp_path / "netrc", monkeypatch)
    login = {"token": emit_loopback.BY_TOKEN, "password": emit_loopback.BY_PASSWORD, "netrc": {}}[way]
    provider = emit_loopback.provider(nasa, kind, login)
    assert _fetch(provider, nasa, tmp_path) == S3
    assert _fetch(provider, nasa, tmp_path / "again", first=1) == ARCHIVE
    entries = nasa.log("cloudfront")["entries"]
    assert entries
    assert not any(entry["authorization"] for entry in entries)
    assert {entry["status"] for entry in entries} == {200}
    assert len(nasa.log("edl")["entries"]) <= (0 if way == "token" else 2), "a token is kept"


@pytest.mark.parametrize("kind", ["cmr_stac", "earthaccess"])
def test_no_login_at_all_names_the_variables(nasa: Sandbox, tmp_path: Path, kind: str) -> None:
    provider = emit_loopback.provider(nasa, kind, {})
    with pytest.raises(AuthError) as caught:
        _fetch(provider, nasa, tmp_path)
    text = str(caught.value)
    for name in ("EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD", "netrc"):
        assert name in text
    assert not nasa.log("daac")["entries"]


@pytest.mark.parametrize("kind", ["cmr_stac", "earthaccess"])
def test_a_wrong_password_is_one_named_error_that_does_not_show_it(
    nasa: Sandbox, tmp_path: Path, kind: str
) -> None:
    wrong = "not-the-password-8f2a"
    provider = emit_loopback.provider(nasa, kind, {"username": USERNAME, "password": wrong})
    with pytest.raises(AuthError) as caught:
        _fetch(provider, nasa, tmp_path)
    assert "EARTHDATA_PASSWORD" in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert wrong not in str(error)
        error = error.__cause__ or error.__context__


def test_half_a_login_says_what_is_lacking(nasa: Sandbox) -> None:
    provider = emit_loopback.provider(nasa, "cmr_stac", {"username": USERNAME})
    with pytest.raises(AuthError, match="EARTHDATA_PASSWORD not set"):
        provider.store(ARCHIVE)


def test_a_broken_netrc_file_is_named_without_its_words(
    nasa: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login me\nhunter2 password\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(path))
    with pytest.raises(AuthError, match="line") as caught:
        emit_loopback.provider(nasa, "cmr_stac", {}).store(ARCHIVE)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("kind", ["cmr_stac", "earthaccess"])
def test_a_token_revoked_in_the_middle_of_a_run_is_renewed(nasa: Sandbox, tmp_path: Path, kind: str) -> None:
    provider = emit_loopback.provider(nasa, kind, emit_loopback.BY_PASSWORD)
    assert _fetch(provider, nasa, tmp_path, first=1) == ARCHIVE
    minted = provider.login.headers()["Authorization"].removeprefix("Bearer ")
    emit_loopback.revoke(nasa, minted)
    assert _fetch(provider, nasa, tmp_path / "again", first=1) == ARCHIVE
    assert provider.login.headers()["Authorization"] != f"Bearer {minted}"
    statuses = [entry["status"] for entry in nasa.log("daac")["entries"]]
    assert statuses == [303, 401, 303]


def test_threads_that_share_a_revoked_token_renew_it_once(nasa: Sandbox, tmp_path: Path) -> None:
    provider = emit_loopback.provider(nasa, "cmr_stac", emit_loopback.BY_PASSWORD)
    assert _fetch(provider, nasa, tmp_path, first=1) == ARCHIVE
    emit_loopback.revoke(nasa, provider.login.headers()["Authorization"].removeprefix("Bearer "))
    nasa.clear_log()
    results: list[str] = []

    def work(number: int) -> None:
        results.append(_fetch(provider, nasa, tmp_path / str(number), first=1))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [ARCHIVE] * 6
    assert len(nasa.log("edl")["entries"]) == 1


@pytest.mark.parametrize("kind", ["cmr_stac", "earthaccess"])
def test_a_refused_token_alone_is_one_error_naming_the_variables(
    nasa: Sandbox, tmp_path: Path, kind: str
) -> None:
    provider = emit_loopback.provider(nasa, kind, {"token": "a-token-that-ended-5c1d"})
    with pytest.raises(AuthError) as caught:
        _fetch(provider, nasa, tmp_path)
    assert "EARTHDATA_TOKEN" in str(caught.value)
    assert "a-token-that-ended-5c1d" not in str(caught.value)
    fallen_back = emit_loopback.provider(
        nasa, kind, {"token": "a-token-that-ended-5c1d", **emit_loopback.BY_PASSWORD}
    )
    assert _fetch(fallen_back, nasa, tmp_path) == S3


def test_an_account_without_a_token_left_logs_in_by_the_web(
    nasa: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nasa.fault("403@edl?path=find_or_create")
    monkeypatch.setattr(
        "geostack_pipeline.providers.earthdata_tokens._json", lambda _: {"error": "max_token_limit"}
    )
    provider = emit_loopback.provider(nasa, "cmr_stac", emit_loopback.BY_PASSWORD)
    assert list(provider.login.headers()) == ["Cookie"]
    assert _fetch(provider, nasa, tmp_path, first=1) == ARCHIVE
    assert _fetch(provider, nasa, tmp_path / "again") == S3
    passwords = [entry for entry in nasa.log("daac")["entries"] if entry["authorization"]]
    assert not passwords, "the password goes to the login server alone"
    assert {entry["status"] for entry in nasa.log("cloudfront")["entries"]} == {200}, (
        "the cookie stays behind"
    )


def test_outside_the_region_https_takes_over_and_s3_is_tried_again_later(
    nasa: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = emit_loopback.provider(nasa, "cmr_stac")
    item = provider.canonical(emit_loopback.some_item(nasa))
    nasa.fault("403@lp-prod-protected")
    assert _fetch(provider, nasa, tmp_path) == ARCHIVE
    assert [ref.store_id for ref in provider.routes(item, "CH4ENH")] == [ARCHIVE, S3]
    nasa.clear_faults()
    clock = earthdata.now() + earthdata.S3_REST + timedelta(seconds=1)
    monkeypatch.setattr(earthdata, "now", lambda: clock)
    assert [ref.store_id for ref in provider.routes(item, "CH4ENH")] == [S3, ARCHIVE]
    assert _fetch(provider, nasa, tmp_path / "later") == S3


def test_s3_keys_are_fetched_once_and_again_before_they_end(
    nasa: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = emit_loopback.provider(nasa, "cmr_stac")
    for number in range(3):
        assert _fetch(provider, nasa, tmp_path / str(number)) == S3
    asked = [entry for entry in nasa.log("daac")["entries"] if entry["path"] == "/s3credentials"]
    assert len(asked) == 1
    late = earthdata.now() + timedelta(minutes=51)
    monkeypatch.setattr(earthdata, "now", lambda: late)
    assert _fetch(provider, nasa, tmp_path / "late") == S3
    asked = [entry for entry in nasa.log("daac")["entries"] if entry["path"] == "/s3credentials"]
    assert len(asked) == 2


def test_an_archive_without_keys_does_not_stop_https(nasa: Sandbox, tmp_path: Path) -> None:
    nasa.fault("503@daac?path=s3credentials")
    provider = emit_loopback.provider(nasa, "cmr_stac")
    assert _fetch(provider, nasa, tmp_path) == ARCHIVE
    assert provider.login.s3_rests


def test_building_asks_nobody_and_stores_show_no_login(nasa: Sandbox) -> None:
    provider = emit_loopback.provider(nasa, "cmr_stac")
    provider.store(S3)
    assert not nasa.log()["entries"]
    store = provider.store(ARCHIVE)
    assert isinstance(store, HTTPStore)
    for text in (repr(store), repr(provider), repr(provider.login.__dict__), repr(provider.store(S3))):
        assert TOKEN not in text
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(provider)
    with pytest.raises(HrefRefusedError):
        provider.store("https://evil.example")


@pytest.mark.parametrize(
    ("page", "words"),
    [(b"<html>Earthdata Login</html>", "EARTHDATA_TOKEN"), (b"<html>accept the EULA</html>", "approve")],
)
def test_a_page_in_place_of_a_file_is_a_refused_login(page: bytes, words: str) -> None:
    error = CmrStac().explain_page(page, "item x")
    assert isinstance(error, AuthError)
    assert words in str(error)


def test_a_missing_login_server_is_named(tmp_path: Path) -> None:
    from geostack_pipeline.providers.contract import Endpoint

    provider = CmrStac(
        key="nowhere",
        endpoints={"edl": Endpoint(url="http://127.0.0.1:9", allow_http=True)},
        credentials={"username": Secret("u"), "password": Secret("p")},
    )
    with pytest.raises(TransferError, match=r"127\.0\.0\.1:9"):
        provider.store(ARCHIVE)
    with pytest.raises(SettingsError, match="no_such"):
        CmrStac(endpoints={"no_such": Endpoint()})
