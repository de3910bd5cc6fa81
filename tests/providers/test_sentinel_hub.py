"""Sentinel Hub: what its items mean, which file of a product a band is, and what is asked of the Process API."""

from __future__ import annotations

import copy
import io
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore
from pyproj import Transformer
from rasterio.transform import from_bounds
from scripted_server import Asked, Say, Server, serving

from geostack_pipeline.areas import Area
from geostack_pipeline.cube.grid import GridSpec, grid_for
from geostack_pipeline.errors import (
    AuthError,
    HrefRefusedError,
    IntegrityError,
    SettingsError,
    TransferError,
)
from geostack_pipeline.providers import sentinel_hub_process as process
from geostack_pipeline.providers.coerce import parse_time
from geostack_pipeline.providers.contract import (
    CANONICAL_PROPERTIES,
    AreaRenderer,
    Endpoint,
    Provider,
    RejectedItemError,
    SearchWindow,
)
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.registry import build_provider, spec
from geostack_pipeline.providers.sentinel_hub import (
    LOGIN,
    SentinelHub,
    SentinelHubProcess,
    radiometry,
)
from geostack_pipeline.providers.sentinel_hub_items import METRES, RENDERED
from geostack_pipeline.providers.sun import sun_elevation

NAME = "S2A_MSIL2A_20210125T073201_N0500_R049_T39TWK_20230528T024029.SAFE"
FOLDER = f"Sentinel-2/MSI/L2A_N0500/2021/01/25/{NAME}"
KEYS = {"access_key": Secret("access"), "secret_key": Secret("planted-s3-secret")}
PROVIDER = SentinelHub(credentials=KEYS)
PROCESS = SentinelHubProcess(credentials=KEYS)
GRID = GridSpec(crs="EPSG:32639", transform=(20.0, 0.0, 540000.0, 0.0, -20.0, 4950000.0), width=60, height=40)


def raw_item(name: str = NAME, when: str = "2021-01-25T07:37:20.296Z") -> dict[str, Any]:
    """An item in the recorded form, for tests that run without recordings."""
    ring = [[50.99, 45.15], [52.39, 45.14], [52.37, 44.15], [50.99, 44.16], [50.99, 45.15]]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC::CRS84"}}
    return {
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/eo/v1.0.0/schema.json"],
        "id": name,
        "type": "Feature",
        "geometry": {"type": "MultiPolygon", "crs": crs, "coordinates": [[ring]]},
        "bbox": [50.99, 44.15, 52.39, 45.15],
        "properties": {
            "datetime": when,
            "platform": f"sentinel-{name[1:3].lower()}",
            "instruments": ["msi"],
            "gsd": 10,
            "eo:cloud_cover": 1.18,
            "proj:epsg": 32639,
            "proj:bbox": [499980.0, 4890240.0, 609780.0, 5000040.0],
        },
        "assets": {
            "data": {
                "href": f"s3://EODATA/Sentinel-2/MSI/L2A_N0500/2021/01/25/{name}",
                "title": "s3",
                "type": "inode/directory",
            }
        },
        "collection": "sentinel-2-l2a",
        "links": [],
    }


@pytest.fixture
def recorded(shared_dir: Path) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(
        (shared_dir / "samples/sentinel-hub/sentinel-2-l2a.item_cdse.json").read_text()
    )
    return item


# -- items ----------------------------------------------------------------------------------------


def test_both_kinds_are_providers_and_one_makes_pictures() -> None:
    assert isinstance(PROVIDER, Provider)
    assert isinstance(PROCESS, Provider)
    assert not isinstance(PROVIDER, AreaRenderer)
    assert isinstance(PROCESS, AreaRenderer)


def test_the_recorded_item_becomes_canonical(recorded: dict[str, Any]) -> None:
    item = PROVIDER.canonical(recorded)
    properties = item["properties"]
    assert item["id"] == NAME
    assert {name: properties[name] for name in ("platform", "grid:code", "proj:code")} == {
        "platform": "sentinel-2a",
        "grid:code": "MGRS-39TWK",
        "proj:code": "EPSG:32639",
    }
    assert properties["processing:baseline"] == "05.00"
    assert properties["processing:datetime"] == "2023-05-28T02:40:29.000000Z"
    assert properties["sat:relative_orbit"] == 49
    assert properties["geostack:scene"] == "S2A_20210125T073201_T39TWK"
    assert properties["geostack:radiometry"] == "baseline"
    assert properties["geostack:derived"] == "view:sun_elevation"
    assert set(item["assets"]) == {*METRES, "SAFE"}
    assert item["assets"]["SAFE"]["href"] == f"s3://EODATA/{FOLDER}"
    assert item["assets"]["B12"]["raster:bands"] == [{"scale": 0.0001, "offset": -0.1, "nodata": 0.0}]
    assert item["assets"]["SCL"]["raster:bands"] == [{"scale": 1.0, "offset": 0.0, "nodata": 0.0}]
    extra = json.loads(properties["geostack:extra"])
    assert extra["/geometry/crs"] == recorded["geometry"]["crs"]
    assert extra["/properties/proj:geometry"] == recorded["properties"]["proj:geometry"]
    assert item["geometry"]["coordinates"] == recorded["geometry"]["coordinates"]
    assert item["links"] == []


def test_every_recorded_id_is_a_product_name(shared_dir: Path) -> None:
    features = json.loads((shared_dir / "samples/sentinel-hub/search_fields_cdse.features.json").read_text())
    for feature in features:
        item = PROVIDER.canonical(raw_item(feature["id"], feature["properties"]["datetime"]))
        name = feature["id"].split("_")
        assert item["properties"]["geostack:scene"] == f"{name[0]}_{name[2]}_{name[5]}"


@pytest.mark.parametrize("provider", [PROVIDER, PROCESS])
def test_canonical_is_idempotent_and_fits_the_template(provider: SentinelHub) -> None:
    once = provider.canonical(raw_item())
    assert provider.canonical(copy.deepcopy(once)) == once
    template = provider.template()
    assert set(once["properties"]) <= set(template["properties"])
    assert set(CANONICAL_PROPERTIES) <= set(once["properties"])
    for key, asset in once["assets"].items():
        assert set(asset) <= set(template["assets"][key])


def test_a_baseline_decides_the_offset_and_the_process_api_needs_none() -> None:
    def offset_of(baseline: str) -> tuple[float, str]:
        item = PROVIDER.canonical(raw_item(NAME.replace("N0500", f"N{baseline}")))
        return item["assets"]["B04"]["raster:bands"][0]["offset"], item["properties"]["geostack:radiometry"]

    assert offset_of("0214") == (0.0, "baseline")
    assert offset_of("0301") == (0.0, "baseline")
    assert offset_of("0400") == (-0.1, "baseline")
    assert offset_of("0511") == (-0.1, "baseline")
    assert radiometry({}).reason == "default"
    assert radiometry({}).offset == 0.0
    assert radiometry({"processing:baseline": "02.14"}, "process") == RENDERED
    old = PROCESS.canonical(raw_item(NAME.replace("N0500", "N0214")))
    assert old["properties"]["geostack:radiometry"] == "process"
    assert old["assets"]["B04"]["raster:bands"] == [{"scale": 0.0001, "offset": -0.1, "nodata": 0.0}]


def test_the_computed_sun_is_where_the_recorded_one_stands(shared_dir: Path) -> None:
    page = json.loads((shared_dir / "samples/earth-search/search_s2l2a_dups_page1.exchange.json").read_text())
    checked = 0
    for feature in page["json"]["features"]:
        properties = feature["properties"]
        transform = feature["assets"]["red"]["proj:transform"]
        place = Transformer.from_crs(properties["proj:epsg"], 4326, always_xy=True)
        longitude, latitude = place.transform(transform[2] + 54900, transform[5] - 54900)
        moment = parse_time(properties["datetime"])
        assert moment is not None
        assert sun_elevation(moment, longitude, latitude) == pytest.approx(
            properties["view:sun_elevation"], abs=0.01
        )
        checked += 1
    assert checked > 5


def test_the_sun_of_an_almanac() -> None:
    # Astronomical Almanac: equinox of March 2024 at 03:06 UT, solstice of June 2024 at 20:51 UT.
    equinox = sun_elevation(datetime(2024, 3, 20, 3, 6, tzinfo=UTC), 0.0, 90.0)
    assert equinox == pytest.approx(0.0, abs=0.02)
    assert sun_elevation(datetime(2024, 6, 20, 20, 51, tzinfo=UTC), 0.0, 90.0) == pytest.approx(
        23.44, abs=0.01
    )
    assert sun_elevation(datetime(2024, 3, 20, 12, 7, tzinfo=UTC), 0.0, 0.0) == pytest.approx(90.0, abs=0.5)


def test_a_stated_sun_is_kept() -> None:
    item = raw_item()
    item["properties"]["view:sun_elevation"] = 12.5
    properties = PROVIDER.canonical(item)["properties"]
    assert properties["view:sun_elevation"] == 12.5
    assert "geostack:derived" not in properties


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda item: item["assets"].clear(), "assets"),
        (lambda item: item["assets"]["data"].pop("href"), "assets"),
        (lambda item: item.update(geometry=None), "geometry"),
        (lambda item: item["properties"].pop("datetime"), "datetime"),
        (lambda item: item.update(collection="sentinel-2-l1c"), "collection"),
        (lambda item: item.update(id="S2A_something"), "tile"),
        (lambda item: item.update(id=5), "id"),
    ],
)
def test_what_cannot_be_read_is_rejected_with_its_reason(
    spoil: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    item = raw_item()
    spoil(item)
    with pytest.raises(RejectedItemError) as raised:
        PROVIDER.canonical(item)
    assert raised.value.reason == reason


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield (*prefix, key)
        yield from _paths(member, (*prefix, key))


_PLACES = list(_paths(raw_item()))
_VALUES = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8)
_JSON = st.recursive(
    _VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(place=st.sampled_from(_PLACES), value=_JSON)
def test_any_changed_item_is_canonical_or_rejected(place: tuple[Any, ...], value: Any) -> None:
    item = raw_item()
    holder: Any = item
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    try:
        once = PROVIDER.canonical(item)
    except RejectedItemError:
        return
    assert PROVIDER.canonical(copy.deepcopy(once)) == once
    assert json.loads(json.dumps(once)) == once


# -- settings and search --------------------------------------------------------------------------


def test_the_search_body_is_what_the_catalog_takes() -> None:
    window = SearchWindow(
        start=datetime(2024, 6, 1, tzinfo=UTC),
        end=datetime(2024, 6, 2, tzinfo=UTC),
        bbox=(1.0, 2.0, 3.0, 4.0),
    )
    body = PROVIDER.search_body(window)
    assert body == {
        "collections": ["sentinel-2-l2a"],
        "bbox": [1.0, 2.0, 3.0, 4.0],
        "datetime": "2024-06-01T00:00:00Z/2024-06-02T00:00:00Z",
    }
    clear = {"op": "<", "args": [{"property": "eo:cloud_cover"}, 60]}
    filtered = build_provider("sentinel_hub", options={"filter": clear}).search_body(window)
    assert filtered == {**body, "filter": clear, "filter-lang": "cql2-json"}
    assert PROVIDER.dialect.page_size == 100
    assert PROVIDER.dialect.walker == "pager"
    assert PROVIDER.dialect.count == "none"
    assert PROVIDER.dialect.retry_after_unit_s == 0.001


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"collections": ["sentinel-1-grd"]}, "the collection cannot be read"),
        ({"endpoints": {"sh-aut": Endpoint(url="https://x.example")}}, "never asked"),
        (
            {"endpoints": {"sh-auth": Endpoint(url="http://x.example", allow_http=True)}},
            "no address for a login",
        ),
        (
            {"endpoints": {"eodata": Endpoint(url="http://x.example", allow_http=True)}},
            "no address for a login",
        ),
        ({"endpoints": {"eodata": Endpoint(url="http://127.0.0.1:1")}}, "no address for a login"),
        ({"url": "http://catalog.example/v1"}, "no address for a login"),
        ({"options": {"source": "zip"}}, "Input should be 'safe' or 'process'"),
        ({"options": {"sources": "safe"}}, "not a setting of this provider"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any], message: str) -> None:
    login = {"client_id": Secret("a"), "client_secret": Secret("b")}
    with pytest.raises(SettingsError, match=message):
        build_provider("sentinel_hub", credentials=login, **given)


def test_a_process_endpoint_is_checked_too() -> None:
    with pytest.raises(SettingsError, match="no address for a login"):
        build_provider(
            "sentinel_hub",
            credentials={"client_id": Secret("a"), "client_secret": Secret("b")},
            options={"source": "process"},
            endpoints={"sh-api": Endpoint(url="http://api.example", allow_http=True)},
        )


def test_missing_logins_name_their_variables() -> None:
    bare = build_provider("sentinel_hub")
    with pytest.raises(AuthError, match=r"SH_CLIENT_ID, SH_CLIENT_SECRET not set"):
        bare.search_headers()
    assert not bare.renew(None)
    with pytest.raises(AuthError, match=r"CDSE_S3_ACCESS_KEY, CDSE_S3_SECRET_KEY not set"):
        bare.store("s3://eodata")
    with pytest.raises(AuthError, match=r"CDSE_S3_ACCESS_KEY, CDSE_S3_SECRET_KEY not set"):
        bare.routes(PROVIDER.canonical(raw_item()), "B04")
    assert [field.variable for field in spec("sentinel_hub").credentials if field.required] == [
        field.variable for field in LOGIN
    ]


def test_a_web_page_is_a_matter_of_the_login() -> None:
    error = build_provider("sentinel_hub").explain_page(b"<html>", "an object")
    assert isinstance(error, AuthError)
    assert "CDSE_S3_ACCESS_KEY" in str(error)


# -- files of a product ---------------------------------------------------------------------------


def test_the_bucket_in_capitals_is_the_bucket() -> None:
    for bucket in ("EODATA", "eodata"):
        ref = PROVIDER.locate(f"s3://{bucket}/{FOLDER}")
        assert (ref.store_id, ref.key, ref.canonical) == ("s3://eodata", FOLDER, f"s3://eodata/{FOLDER}")


@pytest.mark.parametrize(
    "href",
    [
        "s3://Eodata/x",
        "s3://eodata.evil/x",
        "s3://eodata/a/../b",
        "s3://EODATA/a%2e%2e/b",
        "https://eodata.dataspace.copernicus.eu.evil.example/eodata/x",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
        "s3://user:pass@eodata/x",
        "s3://eodata/a\nb",
        "s3://eodata/a?versionId=1",
    ],
)
def test_other_places_are_refused(href: str) -> None:
    item = PROVIDER.canonical(raw_item())
    item["assets"]["B04"]["href"] = href
    with pytest.raises(HrefRefusedError) as raised:
        PROVIDER.routes(item, "B04")
    assert "pass@" not in str(raised.value)


def safe_store(*names: str) -> MemoryStore:
    store = MemoryStore()
    for name in names:
        obstore.put(store, f"{FOLDER}/{name}", b"x")
    return store


def with_store(store: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[SentinelHub, list[str]]:
    provider = SentinelHub(credentials=KEYS)
    listed: list[str] = []
    listing = obstore.list

    def spy(where: Any, prefix: str) -> Any:
        listed.append(prefix)
        return listing(where, prefix)

    monkeypatch.setattr("geostack_pipeline.providers.sentinel_hub_safe.obstore.list", spy)
    monkeypatch.setattr(provider, "store", lambda store_id: store)
    return provider, listed


GRANULE = "GRANULE/L2A_T39TWK_A029205_20210125T073202"


def granule_files(prefix: str = "") -> list[str]:
    sizes = {"B02": (10, 20, 60), "B04": (10, 20, 60), "B11": (20, 60), "B01": (20, 60), "SCL": (20, 60)}
    return [
        f"{GRANULE}/IMG_DATA/R{metres}m/{prefix}T39TWK_20210125T073201_{band}_{metres}m.jp2"
        for band, every in sizes.items()
        for metres in every
    ]


@pytest.mark.parametrize("prefix", ["", "L2A_"])
def test_a_band_is_the_file_of_its_own_pixel_size(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    # Names began with L2A_ until late 2018.
    others = ("MTD_MSIL2A.xml", f"{GRANULE}/MTD_TL.xml", f"{GRANULE}/QI_DATA/T39TWK_B04_10m.jp2")
    provider, listed = with_store(safe_store(*granule_files(prefix), *others), monkeypatch)
    item = provider.canonical(raw_item())
    keys = {band: provider.routes(item, band)[0] for band in ("B02", "B04", "B11", "B01", "SCL")}
    for band, metres in (("B02", 10), ("B04", 10), ("B11", 20), ("B01", 60), ("SCL", 20)):
        name = f"{prefix}T39TWK_20210125T073201_{band}_{metres}m.jp2"
        wanted = f"{FOLDER}/{GRANULE}/IMG_DATA/R{metres}m/{name}"
        assert keys[band].key == wanted
        assert keys[band].canonical == f"s3://eodata/{wanted}"
    assert listed == [f"{FOLDER}/GRANULE"]
    assert [(want.asset, want.how) for want in provider.wants(item, ["B11"])] == [
        ("B11", "whole"),
        ("SCL", "whole"),
    ]


def test_many_threads_list_a_product_once(monkeypatch: pytest.MonkeyPatch) -> None:
    provider, listed = with_store(safe_store(*granule_files()), monkeypatch)
    item = provider.canonical(raw_item())
    threads = [threading.Thread(target=provider.routes, args=(item, "B04")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(listed) == 1


def test_a_band_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    provider, listed = with_store(safe_store(*granule_files()), monkeypatch)
    item = provider.canonical(raw_item())
    with pytest.raises(TransferError, match=r"no file of B12 at 20 m.*B01, B02, B04, B11, SCL"):
        provider.routes(item, "B12")
    assert provider.routes(item, "B11")[0].key.endswith("_B11_20m.jp2")
    assert len(listed) == 1
    empty, _ = with_store(MemoryStore(), monkeypatch)
    with pytest.raises(TransferError, match="no band at all"):
        empty.routes(item, "B12")


def test_two_granules_are_not_guessed_between(monkeypatch: pytest.MonkeyPatch) -> None:
    other = [name.replace("T39TWK", "T39TVK") for name in granule_files()]
    provider, _ = with_store(safe_store(*granule_files(), *other), monkeypatch)
    with pytest.raises(TransferError, match="several granules"):
        provider.routes(provider.canonical(raw_item()), "B04")


def test_refused_keys_are_a_matter_of_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        server.say(Say(status=403, body=b"<Error><Code>SignatureDoesNotMatch</Code></Error>"))
        provider = SentinelHub(
            credentials=KEYS, endpoints={"eodata": Endpoint(url=server.url, allow_http=True)}
        )
        with pytest.raises(AuthError, match="CDSE_S3_ACCESS_KEY and CDSE_S3_SECRET_KEY") as raised:
            provider.routes(provider.canonical(raw_item()), "B04")
        assert "planted-s3-secret" not in str(raised.value)
        signed = server.asked[0]
        assert signed.path.startswith("/eodata?")  # path-style
        assert "/default/s3/aws4_request" in signed.headers["authorization"]


# -- the Process API: what is asked ---------------------------------------------------------------


def test_the_request_is_the_areas_grid() -> None:
    start, end = process.span([datetime(2024, 6, 1, 7, 37, 20, 296000, tzinfo=UTC)])
    body = process.process_body(GRID, process.blocks(GRID)[0], ["B12", "SCL"], start, end)
    assert body["input"]["bounds"] == {
        "bbox": [540000.0, 4949200.0, 541200.0, 4950000.0],
        "properties": {"crs": "http://www.opengis.net/def/crs/EPSG/0/32639"},
    }
    (data,) = body["input"]["data"]
    assert data["type"] == "sentinel-2-l2a"
    assert data["dataFilter"]["timeRange"] == {"from": "2024-06-01T07:37:20Z", "to": "2024-06-01T07:37:21Z"}
    assert data["processing"] == {
        "upsampling": "NEAREST",
        "downsampling": "NEAREST",
        "harmonizeValues": False,
    }
    assert (body["output"]["width"], body["output"]["height"]) == (60, 40)
    assert body["output"]["responses"] == [{"identifier": "default", "format": {"type": "image/tiff"}}]
    assert '"REFLECTANCE", "DN", "DN"' in body["evalscript"]


def test_a_grid_or_band_that_the_service_does_not_know_is_refused() -> None:
    start, end = process.span([datetime(2024, 6, 1, tzinfo=UTC)])
    odd = GridSpec(crs='PROJCS["x"]', transform=GRID.transform, width=4, height=4)
    with pytest.raises(SettingsError, match="EPSG codes only"):
        process.process_body(odd, process.blocks(odd)[0], ["B12"], start, end)
    with pytest.raises(SettingsError, match="B10"):
        process.evalscript(["B02", "B10"])
    with pytest.raises(SettingsError, match="no band is asked for"):
        process.evalscript([])


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript engine is at hand")
def test_the_evalscript_computes_what_it_is_meant_to() -> None:
    script = process.evalscript(["B02", "SCL", "B12"])
    samples = [
        {"B02": 0.0, "SCL": 4, "B12": 0.1234, "dataMask": 1},
        {"B02": -0.0999, "SCL": 11, "B12": -0.1, "dataMask": 1},
        {"B02": 0.5, "SCL": 4, "B12": 0.5, "dataMask": 0},
        *(
            {"B02": (dn - 1000) / 10000, "SCL": 5, "B12": dn / 10000, "dataMask": 1}
            for dn in range(1, 20001, 7)
        ),
    ]
    program = f"{script}\nconsole.log(JSON.stringify([setup(), {json.dumps(samples)}.map(evaluatePixel)]));"
    said = subprocess.run(
        ["node", "-"], input=program, capture_output=True, text=True, check=True, timeout=30
    )
    setup, pixels = json.loads(said.stdout)
    assert setup["input"][0]["bands"] == ["B02", "SCL", "B12", "dataMask"]
    assert setup["output"] == {"bands": 3, "sampleType": "UINT16"}
    assert pixels[:3] == [[1000, 4, 2234], [1, 11, 1], [0, 0, 0]]
    for sample, (blue, _, _) in zip(samples[3:], pixels[3:], strict=True):
        back = blue * RENDERED.scale + RENDERED.offset
        assert back == pytest.approx(sample["B02"], abs=1e-9)


@given(width=st.integers(1, 12_000), height=st.integers(1, 12_000))
def test_blocks_cover_a_grid_once(width: int, height: int) -> None:
    grid = GridSpec(crs="EPSG:32639", transform=GRID.transform, width=width, height=height)
    parts = process.blocks(grid)
    assert all(
        1 <= part.width <= process.LARGEST_SIDE and 1 <= part.height <= process.LARGEST_SIDE for part in parts
    )
    assert sum(part.width * part.height for part in parts) == width * height
    rows = {part.row: part.height for part in parts}
    columns = {part.column: part.width for part in parts}
    for edges, size in ((rows, height), (columns, width)):
        position = 0
        for start in sorted(edges):
            assert start == position
            position += edges[start]
        assert position == size
    assert len(parts) == len(rows) * len(columns)
    assert len(parts) == -(-width // 2500) * -(-height // 2500)


def test_a_unit_is_512_by_512_of_three_bands() -> None:
    assert process.processing_units(512, 512, 3) == 1.0
    assert process.processing_units(1024, 512, 6) == 4.0
    assert process.processing_units(1, 1, 1) == 0.005


def items(*names: tuple[str, str]) -> list[dict[str, Any]]:
    return [PROCESS.canonical(raw_item(name, when)) for name, when in names]


WEST = ("S2A_MSIL2A_20210125T073201_N0500_R049_T39TWK_20230528T024029.SAFE", "2021-01-25T07:37:20.296Z")
EAST = ("S2A_MSIL2A_20210125T073201_N0500_R049_T39TVL_20230528T024029.SAFE", "2021-01-25T07:37:05.835Z")
LATER = ("S2B_MSIL2A_20210125T080201_N0500_R092_T39TWK_20230528T024029.SAFE", "2021-01-25T08:07:20.000Z")


def test_an_overpass_is_one_request() -> None:
    first, second = PROCESS.render(GRID, items(WEST, EAST, LATER), ["B02", "B12", "SCL"])
    assert first.items == (WEST[0], EAST[0])
    assert second.items == (LATER[0],)
    assert {name: band.index for name, band in first.bands.items()} == {"B02": 1, "B12": 2, "SCL": 3}
    assert first.bands["B12"].radiometry == RENDERED
    scl = first.bands["SCL"].radiometry
    assert (scl.scale, scl.offset, scl.nodata) == (1.0, 0.0, 0.0)
    assert first.expected_bytes == 60 * 40 * 3 * 2
    assert first.canonical.startswith("sentinel-hub-process://sentinel-2-l2a/")
    assert PROCESS.render(GRID, [], ["B02"]) == []


def test_the_identity_of_a_picture_is_what_decides_its_pixels() -> None:
    def identity(
        *,
        of: SentinelHubProcess = PROCESS,
        grid: Any = GRID,
        scenes: Any = (WEST, EAST),
        bands: Any = ("B02",),
    ) -> str:
        (request,) = of.render(grid, items(*scenes), bands)
        return request.canonical

    plain = identity()
    assert identity(scenes=(EAST, WEST)) == plain
    elsewhere = SentinelHubProcess(
        credentials={**KEYS, "client_id": Secret("a"), "client_secret": Secret("b")},
        endpoints={"sh-api": Endpoint(url="http://127.0.0.1:9", allow_http=True)},
    )
    assert identity(of=elsewhere) == plain
    moved = GridSpec(
        crs=GRID.crs, transform=(20.0, 0.0, 540020.0, 0.0, -20.0, 4950000.0), width=60, height=40
    )
    again = (WEST[0].replace("20230528T024029", "20240101T000000"), WEST[1])
    others = {
        identity(grid=moved),
        identity(scenes=(WEST,)),
        identity(scenes=(again, EAST)),
        identity(bands=("B02", "B12")),
    }
    assert plain not in others
    assert len(others) == 4


def test_a_grid_of_an_area_fits() -> None:
    area = Area(name="a", bbox=(51.5, 44.5, 51.6, 44.6))
    (request,) = PROCESS.render(grid_for(area), items(WEST), ["B12"])
    assert request.expected_bytes == grid_for(area).width * grid_for(area).height * 2


# -- the Process API: how it is fetched -----------------------------------------------------------


def tiff(asked: Mapping[str, Any], *, bands: int = 2, dtype: str = "uint16", shift: float = 0.0) -> bytes:
    output, bounds = asked["output"], asked["input"]["bounds"]
    width, height = output["width"], output["height"]
    west, south, east, north = bounds["bbox"]
    # Every pixel says where it lies, so that blocks that are swapped are noticed.
    x = np.round((west + (np.arange(width) + 0.5) * (east - west) / width - 540000.0) / 20.0 + 0.5)
    y = np.round((4950000.0 - (north - (np.arange(height) + 0.5) * (north - south) / height)) / 20.0 + 0.5)
    image = np.stack([np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))] * 4)
    file = io.BytesIO()
    with rasterio.open(
        file,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=bands,
        dtype=dtype,
        crs="EPSG:32639",
        transform=from_bounds(west + shift, south, east + shift, north, width, height),
    ) as raster:
        raster.write(image[:bands].astype(dtype))
    return file.getvalue()


def picture(asked: Asked, **how: Any) -> Say:
    return Say(body=tiff(json.loads(asked.body), **how), headers={"Content-Type": "image/tiff"})


TOKENS = iter(range(1000))


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    with serving() as auth, serving() as api:
        yield auth, api


@pytest.fixture
def service(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> tuple[SentinelHubProcess, Server, list[float | None]]:
    auth, api = servers
    auth.say(lambda _: Say(body=json.dumps({"access_token": f"t{next(TOKENS)}", "expires_in": 600}).encode()))
    waits: list[float | None] = []
    monkeypatch.setattr(process, "pause", lambda attempt, asked: waits.append(asked))
    monkeypatch.setattr(process._Gate, "wait", lambda self: None)
    provider = SentinelHubProcess(
        credentials={"client_id": Secret("id"), "client_secret": Secret(f"planted-{next(TOKENS)}")},
        endpoints={
            "sh-auth": Endpoint(url=auth.url, allow_http=True),
            "sh-api": Endpoint(url=api.url, allow_http=True),
        },
    )
    return provider, api, waits


def shoot(provider: SentinelHubProcess, dest: Path) -> Any:
    (request,) = provider.render(GRID, items(WEST), ["B12", "SCL"])
    return request.perform(dest)


def test_a_picture_is_fetched_and_checked(service: Any, tmp_path: Path) -> None:
    provider, api, _ = service
    api.say(picture)
    made = shoot(provider, tmp_path / "a.tif")
    assert made.requests == 1
    assert made.bytes_moved == made.size == (tmp_path / "a.tif").stat().st_size
    assert not made.empty
    (asked,) = api.asked
    assert (asked.method, asked.path) == ("POST", "/api/v1/process")
    assert asked.headers["authorization"].startswith("Bearer t")
    assert asked.headers["accept"] == "image/tiff"
    assert b"planted" not in asked.body


def test_a_larger_area_is_put_together_from_blocks(
    service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, api, _ = service
    monkeypatch.setattr(process, "LARGEST_SIDE", 25)
    api.say(picture)
    made = shoot(provider, tmp_path / "a.tif")
    assert made.requests == len(api.asked) == 6
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert raster.transform[:6] == GRID.transform
        columns, rows = raster.read()
    np.testing.assert_array_equal(columns, np.broadcast_to(np.arange(1, 61), (40, 60)))
    np.testing.assert_array_equal(rows, np.broadcast_to(np.arange(1, 41)[:, None], (40, 60)))
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]


def test_a_limit_is_waited_for_in_milliseconds(service: Any, tmp_path: Path) -> None:
    provider, api, waits = service
    api.say(
        Say(status=429, headers={"Retry-After": "2500", "X-RateLimit-Remaining": "0"}),
        Say(status=503),
        picture,
    )
    assert shoot(provider, tmp_path / "a.tif").requests == 3
    assert waits == [2.5, None]
    assert provider._api is not None
    assert provider._api._gate.until > 0.0


def test_a_spent_quota_of_units_holds_the_next_request(
    service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, api, _ = service
    held: list[float] = []
    monkeypatch.setattr(process._Gate, "hold", lambda self, seconds: held.append(seconds))
    spent = {"X-ProcessingUnits-Remaining": "0", "X-ProcessingUnits-Retry-After": "40000"}

    def answer(asked: Asked) -> Say:
        said = picture(asked)
        return Say(body=said.body, headers={**said.headers, **spent, "X-RateLimit-Remaining": "5"})

    api.say(answer)
    shoot(provider, tmp_path / "a.tif")
    assert held == [40.0]


def test_a_revoked_token_is_renewed_once(service: Any, tmp_path: Path) -> None:
    provider, api, waits = service
    api.say(Say(status=401), picture)
    assert shoot(provider, tmp_path / "a.tif").requests == 2
    first, second = (asked.headers["authorization"] for asked in api.asked)
    assert first != second
    assert waits == []
    api.say(Say(status=401))
    with pytest.raises(AuthError, match="SH_CLIENT_ID and SH_CLIENT_SECRET"):
        shoot(provider, tmp_path / "b.tif")
    assert len(api.asked) == 2


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (Say(status=403, body=b"{}"), AuthError, "processing units are used up"),
        (
            Say(status=400, body=b'{"error":{"message":"width: 9 is too large"}}'),
            TransferError,
            "width: 9 is too large",
        ),
        (
            Say(body=b"<html>maintenance</html>", headers={"Content-Type": "text/html"}),
            AuthError,
            "refuses the login",
        ),
        (Say(status=302, headers={"Location": "https://evil.example/"}), TransferError, "status 302"),
        (Say(body=b"{}", headers={"Content-Type": "application/json"}), TransferError, "status 200"),
    ],
)
def test_refusals_are_named(
    service: Any, tmp_path: Path, said: Say, kind: type[Exception], message: str
) -> None:
    provider, api, _ = service
    api.say(said)
    with pytest.raises(kind, match=message):
        shoot(provider, tmp_path / "a.tif")
    assert len(api.asked) == 1


def test_a_service_that_stays_away_is_told(service: Any, tmp_path: Path) -> None:
    provider, api, _ = service
    api.say(Say(status=503))
    with pytest.raises(TransferError, match="status 503, in each of 6 attempts") as raised:
        shoot(provider, tmp_path / "a.tif")
    assert raised.value.retryable


@pytest.mark.parametrize(
    "spoil",
    [
        {"bands": 3},
        {"dtype": "float32"},
        {"shift": 20.0},
    ],
)
def test_another_picture_than_asked_for_is_refused(
    service: Any, tmp_path: Path, spoil: dict[str, Any]
) -> None:
    provider, api, _ = service
    api.say(lambda asked: picture(asked, **spoil))
    with pytest.raises(IntegrityError, match="another picture than was asked for"):
        shoot(provider, tmp_path / "a.tif")


def test_half_a_picture_is_refused(service: Any, tmp_path: Path) -> None:
    provider, api, _ = service

    def half(asked: Asked) -> Say:
        body = picture(asked).body
        return Say(body=body[: len(body) // 2], headers={"Content-Type": "image/tiff"})

    api.say(half)
    with pytest.raises(IntegrityError, match="no whole GeoTIFF"):
        shoot(provider, tmp_path / "a.tif")


def test_without_a_login_nothing_is_asked(tmp_path: Path) -> None:
    with pytest.raises(AuthError, match="SH_CLIENT_ID"):
        shoot(PROCESS, tmp_path / "a.tif")
