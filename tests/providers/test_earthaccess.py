"""CMR through the earthaccess library: the same items as CMR-STAC's, and more of them known."""

from __future__ import annotations

import copy
import json
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import emit_loopback
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.catalog.retry import RetryPolicy
from geostack_pipeline.catalog.scene_table import from_parquet, to_parquet
from geostack_pipeline.catalog.search import search
from geostack_pipeline.errors import AuthError, CatalogError, IncompleteSearchError, SettingsError
from geostack_pipeline.providers import umm
from geostack_pipeline.providers.cmr_stac import CmrStac
from geostack_pipeline.providers.contract import ItemSource, Provider, RejectedItemError, SearchWindow
from geostack_pipeline.providers.earthaccess import EarthAccess
from geostack_pipeline.sandbox import Sandbox
from geostack_pipeline.storage.blobs import BlobCache
from geostack_pipeline.storage.transfer import download

pytest.importorskip("earthaccess")

DAY = date(2024, 6, 7)
QUICK = RetryPolicy(base_s=0.01, cap_s=0.05)


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


@pytest.fixture(scope="module")
def granule() -> dict[str, Any]:
    name = "EMIT_L2B_CH4PLM_002_20241130T180310_003723"
    web = f"https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/EMITL2BCH4PLM.002/{name}"
    ring = [(53.0, 38.0), (53.0, 39.0), (54.0, 39.0), (54.0, 38.0), (53.0, 38.0)]
    return {
        "meta": {
            "concept-id": "G1-LPCLOUD",
            "revision-id": 3,
            "revision-date": "2025-01-02T03:04:05.678Z",
            "native-id": name,
        },
        "umm": {
            "GranuleUR": name,
            "CollectionReference": {"ShortName": "EMITL2BCH4PLM", "Version": "002"},
            "TemporalExtent": {"SingleDateTime": "2024-11-30T18:03:10Z"},
            "SpatialExtent": {
                "HorizontalSpatialDomain": {
                    "Geometry": {
                        "GPolygons": [
                            {"Boundary": {"Points": [{"Longitude": x, "Latitude": y} for x, y in ring]}}
                        ]
                    }
                }
            },
            "AdditionalAttributes": [
                {"Name": "SOURCE_SCENES", "Values": ["EMIT_L2B_CH4ENH_002_20241130T180310_2433512_014"]}
            ],
            "RelatedUrls": [
                {"URL": f"{web}/{name}.tif", "Type": "GET DATA"},
                {"URL": f"{web}/{name.replace('PLM', 'PLMMETA')}.json", "Type": "GET DATA"},
                {
                    "URL": f"s3://{web.split('/', 3)[3]}/{name}.tif",
                    "Type": "GET DATA VIA DIRECT ACCESS",
                },
                {"URL": "https://opendap.example/x", "Type": "USE SERVICE API"},
            ],
            "DataGranule": {
                "ProductionDateTime": "2024-12-20T00:00:00Z",
                "ArchiveAndDistributionInformation": [
                    {
                        "Name": f"{name}.tif",
                        "SizeInBytes": 4096,
                        "Checksum": {"Algorithm": "SHA-512", "Value": "ab" * 64},
                    }
                ],
            },
        },
    }


# -- items --------------------------------------------------------------------------------------------


def test_a_plume_keeps_its_revision_its_scenes_and_its_single_time(granule: dict[str, Any]) -> None:
    provider = EarthAccess()
    assert isinstance(provider, Provider)
    assert isinstance(provider, ItemSource)
    item = provider.canonical(umm.identified(granule))
    properties = item["properties"]
    assert item["collection"] == "EMITL2BCH4PLM_002"
    assert properties["datetime"] == "2024-11-30T18:03:10.000000Z"
    assert properties["cmr:revision_date"] == "2025-01-02T03:04:05.678000Z"
    assert (properties["cmr:revision_id"], properties["cmr:concept_id"]) == (3, "G1-LPCLOUD")
    assert properties["processing:datetime"] == "2024-12-20T00:00:00.000000Z"
    assert properties["emit:source_scenes"] == ["EMIT_L2B_CH4ENH_002_20241130T180310_2433512_014"]
    assert properties["emit:plume"] == "003723"
    asset = item["assets"]["CH4PLM"]
    assert (asset["file:size"], asset["file:checksum"]) == (4096, "1340" + "ab" * 64)
    assert asset["alternate"]["s3"]["href"].startswith("s3://lp-prod-protected/")
    assert set(item["assets"]) == {"CH4PLM", "CH4PLMMETA", "METADATA"}
    assert "https://opendap.example/x" in properties["geostack:extra"]
    assert provider.canonical(copy.deepcopy(item)) == item
    assert from_parquet(to_parquet([item], provider.template())["scenes.parquet"]) == [item]


def test_the_real_granule_has_the_ids_keys_and_places_of_its_cmr_stac_item(shared_dir: Path) -> None:
    samples = shared_dir / "samples"
    granule = json.loads(
        (samples / "earthaccess/emitl2arfl_001.granule_ummg.json").read_text(encoding="utf-8")
    )[0]
    raw = json.loads((samples / "cmr-stac/DERIVED_emitl2arfl_001.item.json").read_text(encoding="utf-8"))
    one = EarthAccess(collections=["EMITL2ARFL_001"]).canonical(granule | umm.identified(granule))
    other = CmrStac(collections=["EMITL2ARFL_001"]).canonical(raw)
    assert (one["id"], one["collection"], one["geometry"]) == (
        other["id"],
        other["collection"],
        other["geometry"],
    )
    for name in ("datetime", "geostack:scene", "eo:cloud_cover", "platform", "processing:baseline"):
        assert one["properties"][name] == other["properties"][name]
    assert one["properties"]["view:sun_elevation"] == 78.5
    assert one["assets"]["RFL"]["file:size"] == 1851080079
    for key in ("RFL", "RFLUNCERT", "MASK", "BROWSE"):
        assert EarthAccess().routes(one, key) == CmrStac().routes(other, key)


def test_recorded_granules_of_other_missions_are_rejected_with_a_reason(shared_dir: Path) -> None:
    path = shared_dir / "samples/earthaccess/cmr_granules_umm_json.exchanges.json"
    found = [
        item
        for exchange in json.loads(path.read_text(encoding="utf-8"))
        for item in exchange["json"]["items"]
    ]
    assert found
    for item in found:
        with pytest.raises(RejectedItemError) as caught:
            EarthAccess().canonical(umm.identified(item))
        assert caught.value.reason == "collection"


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_granule_is_canonical_or_rejected(granule: dict[str, Any], data: st.DataObject) -> None:
    broken: Any = copy.deepcopy(granule)
    for _ in range(data.draw(st.integers(1, 3))):
        holder, depth = broken, data.draw(st.integers(1, 9))
        while depth and isinstance(holder, dict | list) and holder:
            keys = sorted(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = data.draw(st.sampled_from(keys))
            depth -= 1
            if not depth or not isinstance(holder[key], dict | list) or not holder[key]:
                holder[key] = data.draw(_values)
                break
            holder = holder[key]
    provider = EarthAccess()
    try:
        item = provider.canonical(umm.identified(broken))
    except RejectedItemError:
        return
    assert provider.canonical(copy.deepcopy(item)) == item
    files = to_parquet([item], provider.template())
    assert [row for data_ in files.values() for row in from_parquet(data_)] == [item]


# -- search -------------------------------------------------------------------------------------------


def test_it_finds_what_cmr_stac_finds_under_the_same_names(nasa: Sandbox) -> None:
    collections = nasa.settings()["providers"]["cmr_stac"]["collections"]
    tables = []
    for kind in ("cmr_stac", "earthaccess"):
        provider = emit_loopback.provider(nasa, kind, collections=collections)
        found = search(provider, DAY, nasa.world.areas, policy=QUICK)
        assert found.report.matched == 4
        tables.append((provider, normalise(provider, found.items, DAY, nasa.world.areas).items))
    (stac, ours), (cmr, theirs) = tables
    assert [item["id"] for item in ours] == [item["id"] for item in theirs]
    assert len(ours) == 4
    for one, other in zip(ours, theirs, strict=True):
        assert one["properties"]["geostack:scene"] == other["properties"]["geostack:scene"]
        assert one["properties"]["datetime"] == other["properties"]["datetime"]
        assert set(one["assets"]) == set(other["assets"])
        for want in stac.wants(one, stac.product.default_bands):
            keys = {
                BlobCache.key(each.routes(item, want.asset)[0].canonical)
                for each, item in ((stac, one), (cmr, other))
            }
            assert len(keys) == 1, "a file fetched by one is a cache hit for the other"
    assert not any(entry["authorization"] for entry in nasa.log("earthaccess")["entries"])


def test_sizes_and_checksums_are_those_of_the_files(nasa: Sandbox, tmp_path: Path) -> None:
    provider = emit_loopback.provider(nasa, "earthaccess")
    found = search(provider, DAY, nasa.world.areas, policy=QUICK)
    for item in normalise(provider, found.items, DAY, nasa.world.areas).items:
        for want in provider.wants(item, provider.product.default_bands):
            asset = item["assets"][want.asset]
            for number, ref in enumerate(provider.routes(item, want.asset)):
                loaded = download(
                    provider.store(ref.store_id),
                    ref.key,
                    tmp_path / f"{want.asset}-{number}",
                    expected_size=asset["file:size"],
                    checksum=asset["file:checksum"],
                )
                assert loaded.size == asset["file:size"]


@pytest.mark.parametrize(
    "fault",
    [
        "500@earthaccess?count=2",
        "503@earthaccess?count=1&seconds=0.1",
        "429@earthaccess?count=1&seconds=0.1",
        "truncated@earthaccess?count=8",
        "html@earthaccess?count=1",
        "cut@earthaccess?count=1",
    ],
)
def test_what_passes_is_asked_again(nasa: Sandbox, fault: str) -> None:
    provider = emit_loopback.provider(nasa, "earthaccess")
    nasa.fault(fault)
    found = search(provider, DAY, nasa.world.areas, policy=QUICK)
    assert found.report.matched == found.report.returned == 2
    assert found.report.retries >= 1


@pytest.mark.parametrize("fault", ["wrong-count@earthaccess", "drop-item@earthaccess"])
def test_a_list_that_is_not_its_count_is_never_taken(nasa: Sandbox, fault: str) -> None:
    provider = emit_loopback.provider(nasa, "earthaccess")
    nasa.fault(fault)
    with pytest.raises(IncompleteSearchError):
        search(provider, DAY, nasa.world.areas, policy=QUICK)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("403@earthaccess", AuthError), ("404@earthaccess", CatalogError), ("html@earthaccess", CatalogError)],
)
def test_what_stays_is_one_named_error(nasa: Sandbox, fault: str, kind: type[Exception]) -> None:
    provider = emit_loopback.provider(nasa, "earthaccess")
    nasa.fault(fault)
    with pytest.raises(kind):
        search(provider, DAY, nasa.world.areas, policy=QUICK)


@pytest.mark.parametrize(
    ("fault", "reason"), [("missing-geometry", "geometry"), ("missing-datetime", "datetime")]
)
def test_a_granule_without_place_or_time_is_rejected_with_a_reason(
    nasa: Sandbox, fault: str, reason: str
) -> None:
    provider = emit_loopback.provider(nasa, "earthaccess")
    nasa.fault(f"{fault}@earthaccess?item=CH4ENH")
    found = search(provider, DAY, nasa.world.areas, policy=QUICK)
    rows = normalise(provider, found.items, DAY, nasa.world.areas)
    assert [each.reason for each in rows.rejected] == [reason]
    assert len(rows.items) == 1


def test_more_than_a_page_is_followed_by_search_after() -> None:
    total = 4500

    class Many(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            size, start = int(asked["page_size"][0]), int(self.headers.get("cmr-search-after") or 0)
            names = range(start, min(start + size, total))
            items = [{"meta": {}, "umm": {"GranuleUR": f"G{number}"}} for number in names]
            body = json.dumps({"hits": total, "items": items}).encode()
            self.send_response(200)
            self.send_header("CMR-Hits", str(total))
            if items:
                self.send_header("CMR-Search-After", str(start + size))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Many)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        provider = EarthAccess(
            url=f"http://127.0.0.1:{server.server_port}/search", collections=["EMITL2BCH4ENH_002"]
        )
        window = SearchWindow(
            start=datetime(2024, 6, 1, tzinfo=UTC), end=datetime(2024, 6, 2, tzinfo=UTC), bbox=(0, 0, 1, 1)
        )
        assert provider.count_items(window).matched == total
        answer = provider.fetch_items(window)
    finally:
        server.shutdown()
        server.server_close()
    assert len({item["id"] for item in answer.items}) == len(answer.items) == answer.matched == total


# -- the library --------------------------------------------------------------------------------------


def test_nothing_global_of_the_library_is_touched(nasa: Sandbox) -> None:
    import earthaccess

    provider = emit_loopback.provider(nasa, "earthaccess", emit_loopback.BY_PASSWORD)
    search(provider, DAY, nasa.world.areas, policy=QUICK)
    assert provider.login.headers()["Authorization"].startswith("Bearer sandbox-edl-")
    assert earthaccess.__auth__.authenticated is False
    assert earthaccess.__auth__.token is None
    assert earthaccess.__auth__.system.edl_hostname == "urs.earthdata.nasa.gov"
    assert earthaccess.__store__ is None


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "earthaccess", None)
    with pytest.raises(SettingsError, match=r"geostack_pipeline\[earthaccess\]"):
        EarthAccess()
