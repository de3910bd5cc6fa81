"""The Data Space as a provider: recorded items, radiometry, hrefs, and whose keys sign a request."""

from __future__ import annotations

import copy
import io
import json
import pickle
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_server import Say, serving

from geostack_pipeline.catalog.retry import exhausted_for
from geostack_pipeline.catalog.scene_table import from_parquet, to_parquet
from geostack_pipeline.errors import AuthError, HrefRefusedError, SettingsError
from geostack_pipeline.providers.cdse import KEYS, STORE_ID, Cdse
from geostack_pipeline.providers.cdse_items import (
    ASSET_KEYS,
    DERIVED,
    METRES,
    OVERRULED,
    REASONS,
    STATED,
    UNCHECKED,
    radiometry,
)
from geostack_pipeline.providers.contract import (
    CANONICAL_PROPERTIES,
    Endpoint,
    Provider,
    RejectedItemError,
    SearchWindow,
)
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.earth_search import EarthSearch
from geostack_pipeline.providers.registry import build_provider, spec

KEY = "AKEYTHATNOBODYHAS"
SECRET = "a-secret-that-nobody-must-see"
NO_LEAK = {"max_examples": 60, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.fixture(scope="module")
def recorded(shared_dir: Path) -> list[dict[str, Any]]:
    folder = shared_dir / "samples" / "cdse"
    page = json.loads((folder / "search_s2l2a.exchange.json").read_text(encoding="utf-8"))["json"]
    return [
        *page["features"],
        json.loads((folder / "sentinel-2-l2a.item_2026.json").read_text(encoding="utf-8")),
    ]


def _with_keys(**given: Any) -> Cdse:
    return Cdse(credentials={"access_key": Secret(KEY), "secret_key": Secret(SECRET)}, **given)


def _extra(item: dict[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(item["properties"]["geostack:extra"])
    return loaded


# -- items ----------------------------------------------------------------------------------------------


def test_recorded_items_become_canonical(recorded: list[dict[str, Any]]) -> None:
    provider = Cdse()
    for raw in recorded:
        before = copy.deepcopy(raw)
        item = provider.canonical(raw)
        assert raw == before, "the raw item was changed"
        assert provider.canonical(item) == item
        properties, named = item["properties"], raw["id"].split("_")
        assert properties.keys() >= CANONICAL_PROPERTIES.keys()
        assert properties["geostack:scene"] == f"{named[0]}_{named[2]}_{named[5]}"
        assert properties["processing:baseline"] == "05.00"
        assert properties["proj:code"] == f"EPSG:326{named[5][1:3]}"
        assert properties["geostack:radiometry"] == STATED
        assert properties["view:sun_elevation"] == raw["properties"]["view:sun_elevation"]
        assert properties["sat:relative_orbit"] == int(named[4][1:])
        assert set(item["assets"]) == set(ASSET_KEYS.values())
        for band, metres in METRES.items():
            asset, source = item["assets"][band], raw["assets"][f"{band}_{metres}m"]
            assert asset["href"] == source["href"]
            assert asset["gsd"] == metres
            assert asset["proj:transform"][0] == metres
            assert asset["proj:code"] == source["proj:code"]
            assert (asset["file:size"], asset["file:checksum"]) == (
                source["file:size"],
                source["file:checksum"],
            )
            assert asset["file:checksum"].startswith("1620")
            (numbers,) = asset["raster:bands"]
            expected = (1.0, 0.0) if band == "SCL" else (1e-4, -0.1)
            assert (numbers["scale"], numbers["offset"], numbers["nodata"]) == (*expected, 0.0)
            if band != "SCL":
                assert [each["name"] for each in asset["eo:bands"]] == [band]
                assert asset["eo:bands"][0]["center_wavelength"] == source["bands"][0]["eo:center_wavelength"]


def test_nothing_of_a_recorded_item_is_lost(recorded: list[dict[str, Any]]) -> None:
    raw = recorded[-1]
    item = Cdse().canonical(raw)
    extra = _extra(item)
    assert extra["/assets/Product/storage:refs"] == raw["assets"]["Product"]["storage:refs"] == "\U0001235f※"
    assert extra["/properties/storage:schemes"] == raw["properties"]["storage:schemes"]
    # Twins in other pixel sizes are whole in the extra text.
    for name, asset in raw["assets"].items():
        if name not in ASSET_KEYS:
            assert extra[f"/assets/{name}"] == asset
    moved = {"raster:scale", "raster:offset", "nodata", "data_type", "bands"}
    for name, key in ASSET_KEYS.items():
        for member, value in raw["assets"][name].items():
            if value in (None, [], {}) or (member in moved and key in METRES):
                continue
            kept = item["assets"][key].get(member, extra.get(f"/assets/{name}/{member}"))
            assert kept == value, f"{name} {member}"
    for member, value in raw["properties"].items():
        if member == "datetime" or member.endswith(("datetime", "created", "updated", "published")):
            continue
        assert item["properties"].get(member, extra.get(f"/properties/{member}")) == value, member


def test_the_table_stays_small(recorded: list[dict[str, Any]]) -> None:
    provider = Cdse()
    items = [provider.canonical(raw) for raw in recorded]
    files = to_parquet(items, provider.template())
    assert list(files) == ["scenes.parquet"]
    # 43 assets with all members are 1060 leaf columns.
    assert len(pq.ParquetFile(io.BytesIO(files["scenes.parquet"])).schema) < 450
    assert from_parquet(files["scenes.parquet"]) == sorted(items, key=lambda item: item["id"])


def test_the_scene_is_the_one_that_earth_search_names(
    recorded: list[dict[str, Any]], shared_dir: Path
) -> None:
    sample = shared_dir / "samples/earth-search/search_s2l2a_dups_page1.exchange.json"
    theirs = json.loads(sample.read_text(encoding="utf-8"))["json"]["features"][0]
    for raw in recorded:
        mine = Cdse().canonical(raw)["properties"]
        # Another baseline of the same scene, and the tile's own time instead of the datatake's.
        theirs["properties"] |= {
            "platform": raw["properties"]["platform"],
            "s2:datatake_id": raw["properties"]["eopf:datatake_id"].replace("N05.00", "N02.14"),
            "s2:product_uri": raw["id"].replace("N0500", "N0214") + ".SAFE",
            "datetime": raw["properties"]["datetime"][:14] + "23:40.000000Z",
            "grid:code": raw["properties"]["grid:code"],
        }
        assert EarthSearch().canonical(theirs)["properties"]["geostack:scene"] == mine["geostack:scene"]


@settings(**NO_LEAK)
@given(data=st.data())
def test_a_spoiled_item_is_canonical_or_rejected(recorded: list[dict[str, Any]], data: st.DataObject) -> None:
    item = copy.deepcopy(recorded[-1])
    junk = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.just([]),
        st.just({"a": [1]}),
    )
    for _ in range(data.draw(st.integers(1, 4))):
        holder: Any = item
        while True:
            key = data.draw(st.sampled_from(sorted(holder)))
            if isinstance(holder[key], dict) and holder[key] and data.draw(st.booleans()):
                holder = holder[key]
                continue
            break
        if data.draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = data.draw(junk)
        if not item:
            break
    provider = Cdse()
    try:
        result = provider.canonical(item)
    except RejectedItemError:
        return
    assert provider.canonical(result) == result
    for band in METRES.keys() & result["assets"].keys():
        assert {"scale", "offset", "nodata"} <= result["assets"][band]["raster:bands"][0].keys()


# -- radiometry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("baseline", "stated", "offset", "reason"),
    [
        ("05.00", -0.1, -0.1, STATED),
        ("02.14", 0, 0.0, STATED),
        ("05.10", None, -0.1, DERIVED),
        ("03.01", None, 0.0, DERIVED),
        ("05.10", 0.0, -0.1, OVERRULED),
        ("02.14", -0.1, 0.0, OVERRULED),
        ("05.10", "-0.1", -0.1, DERIVED),
        (None, -0.1, -0.1, UNCHECKED),
        ("garbage", 0.0, 0.0, UNCHECKED),
    ],
)
def test_radiometry(baseline: str | None, stated: Any, offset: float, reason: str) -> None:
    asset = {"href": "s3://eodata/x.jp2", "raster:scale": 0.0001, "raster:offset": stated, "nodata": 0}
    found = radiometry({"processing:version": baseline}, "B04", asset)
    assert (found.scale, found.offset, found.nodata, found.reason) == (1e-4, offset, 0.0, reason)
    assert found.reason in REASONS


def test_without_baseline_and_offset_nothing_is_guessed() -> None:
    with pytest.raises(RejectedItemError, match="baseline"):
        radiometry({}, "B04", {"raster:scale": 0.0001})


def test_a_contradiction_is_decided_noted_and_kept(recorded: list[dict[str, Any]]) -> None:
    raw = copy.deepcopy(recorded[0])
    raw["assets"]["B04_10m"] |= {"raster:offset": 0, "raster:scale": 1}
    item = Cdse().canonical(raw)
    assert item["assets"]["B04"]["raster:bands"][0]["offset"] == -0.1
    assert item["assets"]["B04"]["raster:bands"][0]["scale"] == 1e-4
    assert item["properties"]["geostack:radiometry"] == f"{OVERRULED}+{STATED}"
    extra = _extra(item)
    assert extra["/assets/B04_10m/raster:bands/0/offset"] == 0
    assert extra["/assets/B04_10m/raster:bands/0/scale"] == 1
    assert Cdse().canonical(item) == item


def test_the_baseline_of_the_name_stands_in(recorded: list[dict[str, Any]]) -> None:
    raw = copy.deepcopy(recorded[0])
    del raw["properties"]["processing:version"]
    raw["assets"]["B12_20m"].pop("raster:offset")
    item = Cdse().canonical(raw)
    assert item["properties"]["processing:baseline"] == "05.00"
    assert item["assets"]["B12"]["raster:bands"][0]["offset"] == -0.1
    assert item["properties"]["geostack:radiometry"] == f"{DERIVED}+{STATED}"


# -- places and keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["s3://eodata", "s3://EODATA", "https://eodata.dataspace.copernicus.eu/eodata"]
)
def test_one_object_has_one_identity(place: str) -> None:
    ref = Cdse().locate(f"{place}/Sentinel-2/MSI/L2A/a.SAFE/b_B04_10m.jp2")
    assert (ref.store_id, ref.key) == (STORE_ID, "Sentinel-2/MSI/L2A/a.SAFE/b_B04_10m.jp2")
    assert ref.canonical == "s3://eodata/Sentinel-2/MSI/L2A/a.SAFE/b_B04_10m.jp2"


@pytest.mark.parametrize(
    "href",
    [
        "s3://Eodata/a.jp2",
        "s3://eodata-evil/a.jp2",
        "s3://eodata/../other/a.jp2",
        "s3://eodata/a%2e%2e/b.jp2",
        "s3://key:secret@eodata/a.jp2",
        "https://eodata.dataspace.copernicus.eu.evil.example/eodata/a.jp2",
        "https://eodata.dataspace.copernicus.eu/other/a.jp2",
        "https://eodata.cloudferro.com/eodata/a.jp2",
        "https://zipper.dataspace.copernicus.eu/odata/v1/Products(1)/$value",
        "http://eodata.dataspace.copernicus.eu/eodata/a.jp2",
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1/eodata/a.jp2",
        "file:///etc/passwd",
    ],
)
def test_other_places_are_refused(href: str) -> None:
    with pytest.raises(HrefRefusedError) as refused:
        _with_keys().locate(href)
    assert "secret" not in str(refused.value)


def test_missing_keys_are_named_when_a_file_is_wanted() -> None:
    provider = Cdse()
    assert provider.search_headers() == {}
    with pytest.raises(AuthError) as error:
        provider.store(STORE_ID)
    for field in KEYS:
        assert field.variable in str(error.value)
    with pytest.raises(AuthError):
        Cdse(credentials={"access_key": Secret(KEY)}).store(STORE_ID)
    with pytest.raises(HrefRefusedError):
        _with_keys().store("s3://other")


def test_the_machines_variables_change_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as evil, serving() as server:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "MACHINE",
            "AWS_SECRET_ACCESS_KEY": "machine",
            "AWS_SESSION_TOKEN": "machine-token",
            "AWS_SKIP_SIGNATURE": "true",
            "AWS_REGION": "eu-west-9",
            "AWS_DEFAULT_REGION": "eu-west-9",
            "AWS_ENDPOINT": evil.url,
            "AWS_ENDPOINT_URL": evil.url,
            "AWS_ENDPOINT_URL_S3": evil.url,
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
            "AWS_BUCKET": "other",
        }.items():
            monkeypatch.setenv(name, value)
        server.say(
            Say(body=b"jp2", headers={"ETag": '"1"', "Last-Modified": "Sun, 30 Jun 2024 00:00:00 GMT"})
        )
        provider = _with_keys(endpoints={"eodata": Endpoint(url=server.url, allow_http=True)})
        assert bytes(obstore.get(provider.store(STORE_ID), "a/b.jp2").bytes()) == b"jp2"
        (asked,) = server.asked
        headers = {name.lower(): value for name, value in asked.headers.items()}
        assert asked.path == "/eodata/a/b.jp2"
        assert f"Credential={KEY}/" in headers["authorization"]
        assert "/default/s3/aws4_request" in headers["authorization"]
        assert "x-amz-security-token" not in headers
        assert SECRET not in str(asked)
        assert not evil.asked


def test_the_real_place_is_asked_by_default() -> None:
    provider = _with_keys()
    store = provider.store(STORE_ID)
    assert store is provider.store(STORE_ID)
    config = {str(name): str(value) for name, value in store.config.items()}
    assert config["endpoint"] == "https://eodata.dataspace.copernicus.eu"
    assert config["region"] == "default"
    assert config["virtual_hosted_style_request"] == "false"


def test_keys_are_shown_to_nobody() -> None:
    provider = _with_keys()
    shown = [repr(provider), str(vars(provider)), repr(provider.store(STORE_ID))]
    with pytest.raises(TypeError) as error:
        pickle.dumps(provider)
    shown.append("".join(traceback.format_exception(error.value)))
    page = provider.explain_page(b"<html>", "cdse item x")
    assert isinstance(page, AuthError)
    shown.append(str(page))
    for text in shown:
        assert SECRET not in text
        assert KEY not in text


def test_recorded_rate_limits_are_understood(shared_dir: Path) -> None:
    (exchange,) = json.loads(
        (shared_dir / "samples/cdse/eodata_get_headers.json").read_text(encoding="utf-8")
    )
    headers = {name: ", ".join(values) for name, values in exchange["headers"].items()}
    assert headers["x-ratelimit-limit"] == "2000, 2000;w=60"
    assert exhausted_for(headers) is None
    assert exhausted_for({**headers, "x-ratelimit-remaining": "0"}) == 20.0


# -- searching and settings -----------------------------------------------------------------------------


def test_search_body() -> None:
    window = SearchWindow(
        start=datetime(2024, 6, 1, tzinfo=UTC),
        end=datetime(2024, 6, 2, tzinfo=UTC),
        bbox=(9.0, 47.0, 9.1, 47.1),
    )
    cloudy = {"op": "<", "args": [{"property": "eo:cloud_cover"}, 50]}
    assert Cdse().search_body(window) == {
        "collections": ["sentinel-2-l2a"],
        "bbox": [9.0, 47.0, 9.1, 47.1],
        "datetime": "2024-06-01T00:00:00Z/2024-06-02T00:00:00Z",
    }
    assert (
        Cdse(cql2=cloudy).search_body(window).items()
        >= {"filter-lang": "cql2-json", "filter": cloudy}.items()
    )
    assert Cdse(query={"gsd": {"eq": 10}}).search_body(window)["query"] == {"gsd": {"eq": 10}}


def test_files_come_whole(recorded: list[dict[str, Any]]) -> None:
    provider = Cdse()
    wants = provider.wants(provider.canonical(recorded[0]), ["B04", "B12"])
    assert [(want.asset, want.how, want.required) for want in wants] == [
        ("B04", "whole", True),
        ("B12", "whole", True),
        ("SCL", "whole", True),
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"collections": ["sentinel-1-grd"]},
        {"endpoints": {"EODATA": Endpoint(url="https://x.example")}},
        {"endpoints": {"eodata": Endpoint(url="http://192.0.2.1:9000", allow_http=True)}},
        {"endpoints": {"eodata": Endpoint(url="http://127.0.0.1:9000")}},
        {"endpoints": {"eodata": Endpoint(url="https://user:pass@x.example")}},
        {"options": {"filtre": {}}},
        {"options": {"query": {"a": {"lt": 1}}, "filter": {"op": "isNull"}}},
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as error:
        build_provider("cdse", **given)
    assert "pass@" not in str(error.value)


def test_the_registry_knows_it() -> None:
    assert [field.variable for field in spec("cdse").credentials] == [
        "CDSE_S3_ACCESS_KEY",
        "CDSE_S3_SECRET_KEY",
    ]
    provider = build_provider("cdse", url="https://stac.example/v1/", options={"query": {"gsd": {"eq": 10}}})
    assert isinstance(provider, Provider)
    assert (provider.key, provider.url) == ("cdse", "https://stac.example/v1")
    assert (provider.dialect.count, provider.dialect.walker) == ("none", "pager")
    assert set(provider.template()["assets"]) == set(ASSET_KEYS.values())
