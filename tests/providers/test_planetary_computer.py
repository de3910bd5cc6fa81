"""The Planetary Computer: what its items mean, where their bytes live, and that no item can break the pipeline."""

from __future__ import annotations

import copy
import io
import json
import pickle
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rustac
import shapely
from azure_loopback import ACCOUNT, CONTAINER, scripted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.catalog.scene_table import from_parquet, to_parquet
from geostack_pipeline.catalog.search import search
from geostack_pipeline.catalog.selection import select
from geostack_pipeline.errors import HrefRefusedError, IncompleteSearchError, SettingsError
from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers.canonical import EXTRA
from geostack_pipeline.providers.contract import (
    CANONICAL_PROPERTIES,
    Endpoint,
    Provider,
    RejectedItemError,
    SearchWindow,
)
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.earth_search import EarthSearch
from geostack_pipeline.providers.planetary_computer import TOKEN_URL, URL, PlanetaryComputer
from geostack_pipeline.providers.planetary_computer_items import ASSET_KEYS, radiometry
from geostack_pipeline.providers.registry import build_provider, spec

PROVIDER = PlanetaryComputer()
HOST = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}"
SAFE = "S2B_MSIL2A_20240825T173909_N0511_R098_T13TDE_20240825T215747.SAFE"
FOLDER = f"{HOST}/13/T/DE/2024/08/25/{SAFE}/GRANULE/L2A_T13TDE_A039020_20240825T174804/IMG_DATA"


def samples(shared: Path) -> Path:
    return shared / "samples" / "planetary-computer"


def raw_item(**changes: Any) -> dict[str, Any]:
    """A small item in the catalog's form, for tests that must run without recordings."""
    band = {"type": "image/tiff", "roles": ["data"], "proj:shape": [10, 10], "gsd": 10.0}
    properties = {
        "datetime": "2024-08-25T17:39:09.024000Z",
        "platform": "Sentinel-2B",
        "proj:epsg": 32613,
        "instruments": ["msi"],
        "s2:mgrs_tile": "13TDE",
        "eo:cloud_cover": 48.7,
        "s2:datatake_id": "GS2B_20240825T173909_039020_N05.11",
        "s2:product_uri": SAFE,
        "s2:generation_time": "2024-08-25T21:57:47.000000Z",
        "sat:relative_orbit": 98,
        "s2:mean_solar_zenith": 33.5,
        "s2:processing_baseline": "05.11",
        **changes,
    }
    return {
        "id": "S2B_MSIL2A_20240825T173909_R098_T13TDE_20240825T215747",
        "bbox": [-105.4, 39.7, -104.9, 40.6],
        "type": "Feature",
        "links": [
            {"rel": "self", "href": f"{URL}/collections/sentinel-2-l2a/items/x"},
            {"rel": "license", "href": "https://sentinel.esa.int/licence"},
        ],
        "assets": {
            "B04": {**band, "href": f"{FOLDER}/R10m/T13TDE_20240825T173909_B04_10m.tif"},
            "SCL": {**band, "href": f"{FOLDER}/R20m/T13TDE_20240825T173909_SCL_20m.tif"},
            "visual": {**band, "href": f"{FOLDER}/R10m/T13TDE_20240825T173909_TCI_10m.tif"},
            "tilejson": {
                "href": "https://planetarycomputer.microsoft.com/api/data/v1/item/tilejson.json?a=b"
            },
        },
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[-105.4, 39.7], [-104.9, 39.7], [-104.9, 40.6], [-105.4, 40.6], [-105.4, 39.7]]],
        },
        "collection": "sentinel-2-l2a",
        "properties": {name: value for name, value in properties.items() if value is not None},
        "stac_extensions": [],
        "stac_version": "1.0.0",
    }


# -- the contract ---------------------------------------------------------------------------------


def test_it_is_a_provider_that_neither_counts_nor_logs_in_to_search() -> None:
    assert isinstance(PROVIDER, Provider)
    assert PROVIDER.dialect.count == "none"
    assert PROVIDER.dialect.walker == "pager"
    assert PROVIDER.search_headers() == {}, "the subscription key is the token server's alone"
    assert PROVIDER.product is sentinel2.PRODUCT


def test_search_body_is_closed_and_holds_what_the_options_say() -> None:
    start = datetime(2024, 6, 1, tzinfo=UTC)
    window = SearchWindow(start=start, end=start + timedelta(days=1), bbox=(9.0, 47.0, 10.0, 48.0))
    plain = {
        "collections": ["sentinel-2-l2a"],
        "bbox": [9.0, 47.0, 10.0, 48.0],
        "datetime": "2024-06-01T00:00:00Z/2024-06-02T00:00:00Z",
    }
    assert PROVIDER.search_body(window) == plain
    query = {"eo:cloud_cover": {"lt": 50}}
    built = build_provider("planetary_computer", options={"query": query})
    assert built.search_body(window) == {**plain, "query": query}
    cql2 = {"op": "<", "args": [{"property": "eo:cloud_cover"}, 50]}
    built = build_provider("planetary_computer", options={"filter": cql2})
    assert built.search_body(window) == {**plain, "filter-lang": "cql2-json", "filter": cql2}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"collections": ["landsat-c2-l2"]}, "landsat-c2-l2"),
        ({"options": {"queri": {}}}, "queri"),
        ({"options": {"query": {"a": {"lt": 1}}, "filter": {"op": "="}}}, "query and filter"),
        ({"options": {"query": "cloudy"}}, "query"),
        ({"endpoints": {"evil": Endpoint(url="https://x.example")}}, "evil"),
        ({"endpoints": {"sas": Endpoint(url="http://10.0.0.1/t", allow_http=True)}}, "loopback"),
        ({"endpoints": {"sas": Endpoint(url="http://127.0.0.1/t")}}, "loopback"),
        (
            {"endpoints": {"sas": Endpoint(url="http://127.0.0.1.evil.example/t", allow_http=True)}},
            "loopback",
        ),
        ({"endpoints": {ACCOUNT: Endpoint(url="https://u:planted@host/")}}, "https://host"),
        ({"endpoints": {ACCOUNT: Endpoint(url="https://host/?sig=planted")}}, "without login and query"),
    ],
)
def test_settings_that_it_does_not_have_are_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        build_provider("planetary_computer", **given)
    assert "planted" not in str(caught.value)


def test_it_is_known_without_being_built() -> None:
    known = spec("planetary_computer")
    assert [(field.variable, field.required) for field in known.credentials] == [
        ("PC_SDK_SUBSCRIPTION_KEY", False)
    ]
    built = build_provider("planetary_computer", credentials={"subscription_key": Secret("planted-key")})
    assert built.url == URL
    assert TOKEN_URL.startswith("https://planetarycomputer.microsoft.com/")
    for text in (repr(built), repr(vars(built)), str(built)):
        assert "planted-key" not in text
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(built)


# -- items ----------------------------------------------------------------------------------------


def test_an_item_becomes_canonical() -> None:
    item = PROVIDER.canonical(raw_item())
    properties = item["properties"]
    assert properties["geostack:scene"] == "S2B_20240825T173909_T13TDE"
    assert properties["platform"] == "sentinel-2b"
    assert properties["grid:code"] == "MGRS-13TDE"
    assert properties["proj:code"] == "EPSG:32613"
    assert properties["view:sun_elevation"] == 56.5
    assert properties["view:incidence_angle"] is None
    assert properties["processing:baseline"] == "05.11"
    assert properties["processing:datetime"] == "2024-08-25T21:57:47.000000Z"
    assert properties["geostack:radiometry"] == "baseline"
    assert set(CANONICAL_PROPERTIES) <= set(properties)
    assert item["assets"]["B04"]["raster:bands"] == [{"scale": 0.0001, "offset": -0.1, "nodata": 0.0}]
    assert item["assets"]["SCL"]["raster:bands"] == [{"scale": 1.0, "offset": 0.0, "nodata": 0.0}]
    assert set(item["assets"]) == {"B04", "SCL", "TCI", "tilejson"}
    assert [link["rel"] for link in item["links"]] == ["license"]
    assert PROVIDER.canonical(item) == item
    assert "offset" in PROVIDER._form.explain("baseline")


@pytest.mark.parametrize(
    ("changes", "offset"),
    [
        ({"s2:processing_baseline": "05.11"}, -0.1),
        ({"s2:processing_baseline": "04.00"}, -0.1),
        ({"s2:processing_baseline": "03.01"}, 0.0),
        ({"s2:processing_baseline": "02.14"}, 0.0),
        ({"s2:processing_baseline": 5.11}, -0.1),
        ({"s2:processing_baseline": None}, -0.1),
        ({"s2:processing_baseline": None, "s2:product_uri": None}, -0.1),
        ({"s2:processing_baseline": "next", "s2:product_uri": SAFE.replace("N0511", "N0301")}, 0.0),
    ],
)
def test_the_offset_follows_the_baseline_wherever_it_is_named(changes: dict[str, Any], offset: float) -> None:
    item = PROVIDER.canonical(raw_item(**changes))
    assert item["assets"]["B04"]["raster:bands"][0]["offset"] == offset
    assert item["properties"]["geostack:radiometry"] == "baseline"
    assert item["properties"]["processing:baseline"] is not None


def test_an_offset_that_nothing_tells_is_not_guessed() -> None:
    raw = raw_item(**{"s2:processing_baseline": None, "s2:product_uri": None})
    for asset in raw["assets"].values():
        asset["href"] = asset["href"].replace(SAFE, "product")
    with pytest.raises(RejectedItemError, match="baseline"):
        PROVIDER.canonical(raw)


def test_an_offset_that_an_item_states_is_kept_aside() -> None:
    raw = raw_item()
    raw["assets"]["B04"]["raster:bands"] = [{"offset": 0.0, "scale": 0.0001, "nodata": 0}]
    item = PROVIDER.canonical(raw)
    assert item["assets"]["B04"]["raster:bands"][0]["offset"] == -0.1
    assert json.loads(item["properties"][EXTRA])["/assets/B04/raster:bands/0/offset"] == 0.0
    assert PROVIDER.canonical(item) == item
    decided = radiometry(raw["properties"], "B04", raw["assets"]["B04"])
    assert (decided.scale, decided.offset, decided.nodata, decided.reason) == (0.0001, -0.1, 0.0, "baseline")


def test_items_without_bbox_are_taken() -> None:
    raw = raw_item()
    del raw["bbox"]
    assert PROVIDER.canonical(raw)["bbox"] == [-105.4, 39.7, -104.9, 40.6]
    raw["geometry"] = None
    with pytest.raises(RejectedItemError, match="geometry"):
        PROVIDER.canonical(raw)


@pytest.mark.parametrize(
    "missing",
    [
        {"s2:datatake_id": None},
        {"s2:datatake_id": None, "s2:product_uri": None},
        {"s2:datatake_id": None, "s2:product_uri": None, "s2:mgrs_tile": None, "platform": None},
        {"s2:datatake_id": "drifted", "s2:mgrs_tile": 13},
    ],
)
def test_the_scene_is_known_by_any_of_its_names(missing: dict[str, Any]) -> None:
    raw = raw_item(**missing)
    assert PROVIDER.canonical(raw)["properties"]["geostack:scene"] == "S2B_20240825T173909_T13TDE"
    for asset in raw["assets"].values():
        asset["href"] = asset["href"].replace(SAFE, "product")
    assert PROVIDER.canonical(raw)["properties"]["geostack:scene"] == "S2B_20240825T173909_T13TDE"


def test_one_scene_is_one_scene_here_and_at_earth_search() -> None:
    """The same product, as the two catalogs write it: other ids, other times, one identity."""
    bucket = "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/13/T/DE/2024/8/x"
    other = {
        **raw_item(),
        "id": "S2B_13TDE_20240825_0_L2A",
        "assets": {"red": {"href": f"{bucket}/B04.tif"}},
        "properties": {
            "datetime": "2024-08-25T17:51:19.587000Z",
            "platform": "sentinel-2b",
            "grid:code": "MGRS-13TDE",
            "s2:product_uri": SAFE,
            "s2:datatake_id": "GS2B_20240825T173909_039020_N05.11",
            "s2:processing_baseline": "05.11",
            "earthsearch:boa_offset_applied": True,
        },
    }
    theirs = EarthSearch().canonical(other)["properties"]
    assert theirs["geostack:scene"] == PROVIDER.canonical(raw_item())["properties"]["geostack:scene"]


def test_two_processings_of_a_scene_are_one_scene_and_the_newer_is_selected() -> None:
    """Ids without the baseline: the same datatake and tile with two trailing timestamps."""
    newer, older = raw_item(), raw_item(**{"s2:generation_time": "2024-08-25T19:00:00.000000Z"})
    older["id"] = older["id"].replace("20240825T215747", "20240825T190000")
    area = Area(name="denver", bbox=(-105.2, 39.9, -105.0, 40.2))
    normalised = normalise(PROVIDER, [newer, older], date(2024, 8, 25), [area])
    assert len(normalised.items) == 2
    assert len({item["properties"]["geostack:scene"] for item in normalised.items}) == 1
    data = to_parquet(normalised.items, PROVIDER.template())["scenes.parquet"]
    assert from_parquet(data) == normalised.items
    chosen = select(pq.read_table(io.BytesIO(data)), where=None, areas=[area])
    assert chosen.selected.column("id").to_pylist() == [newer["id"]]
    assert chosen.dropped["id"].to_list() == [older["id"]]


def test_recorded_items_are_taken_without_loss(shared_dir: Path) -> None:
    page = json.loads((samples(shared_dir) / "sentinel-2-l2a.items2.json").read_text())
    items = [PROVIDER.canonical(item) for item in page["features"]]
    assert len(items) == 2
    for raw, item in zip(page["features"], items, strict=True):
        assert EXTRA not in item["properties"], "everything that was recorded has a column"
        assert {ASSET_KEYS[name] for name in raw["assets"]} == set(item["assets"])
        for name, asset in raw["assets"].items():
            kept = item["assets"][ASSET_KEYS[name]]
            assert asset.items() - kept.items() == set() if _flat(asset) else asset.keys() <= kept.keys()
            assert kept["href"] == asset["href"]
        for name in set(raw["properties"]) - {"datetime", "platform", "s2:generation_time"}:
            assert item["properties"][name] == raw["properties"][name]
        assert all(item["assets"][band]["raster:bands"][0]["offset"] == -0.1 for band in sentinel2.BANDS)
        assert PROVIDER.locate(item["assets"]["B12"]["href"]).store_id == f"az://{ACCOUNT}/{CONTAINER}"
    data = to_parquet(items, PROVIDER.template())["scenes.parquet"]
    assert sorted(from_parquet(data), key=lambda one: one["id"]) == sorted(items, key=lambda one: one["id"])


def _flat(asset: dict[str, Any]) -> bool:
    return not any(isinstance(value, list | dict) for value in asset.values())


def test_a_hundred_recorded_items_become_a_table(shared_dir: Path) -> None:
    read = rustac.read_sync if hasattr(rustac, "read_sync") else None
    file = samples(shared_dir) / "sentinel-2-l2a.100items.parquet"
    raw = read(str(file))["features"] if read else from_parquet(file.read_bytes())
    assert len(raw) == 100
    items = [PROVIDER.canonical(item) for item in raw]
    assert len({item["properties"]["geostack:scene"] for item in items}) >= 90
    assert {item["properties"]["geostack:radiometry"] for item in items} == {"baseline"}
    files = to_parquet(items, PROVIDER.template())
    assert sum(len(from_parquet(data)) for data in files.values()) == 100
    columns = pq.read_schema(io.BytesIO(files["scenes.parquet"]))
    assert len(columns) < 80
    for item in items:
        outline, box = shapely.geometry.shape(item["geometry"]), item["bbox"]
        assert np.allclose(outline.bounds, box, atol=1e-6)


# -- where bytes live -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "href",
    [
        f"{HOST}/13/T/DE/a.tif",
        f"https://{ACCOUNT.upper()}.blob.core.windows.net/{CONTAINER}/13/T/DE/a.tif",
        f"https://{ACCOUNT}.dfs.core.windows.net/{CONTAINER}/13/T/DE/a.tif",
        f"abfs://{CONTAINER}@{ACCOUNT}.dfs.core.windows.net/13/T/DE/a.tif",
    ],
)
def test_account_and_container_are_read_exactly(href: str) -> None:
    ref = PROVIDER.locate(href)
    assert (ref.store_id, ref.key) == (f"az://{ACCOUNT}/{CONTAINER}", "13/T/DE/a.tif")
    assert ref.canonical == f"az://{ACCOUNT}/{CONTAINER}/13/T/DE/a.tif"


@pytest.mark.parametrize(
    "href",
    [
        f"http://{ACCOUNT}.blob.core.windows.net/{CONTAINER}/a.tif",
        f"https://{ACCOUNT}.evil.blob.core.windows.net/{CONTAINER}/a.tif",
        f"https://{ACCOUNT}.blob.core.windows.net.evil.example/{CONTAINER}/a.tif",
        f"https://evil.blob.core.windows.net/{CONTAINER}/a.tif",
        f"https://{ACCOUNT}.blob.core.windows.net/other/a.tif",
        f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}",
        f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}x/a.tif",
        f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}/../other/a.tif",
        f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}/%2e%2e/other/a.tif",
        f"https://{ACCOUNT}.blob.core.windows.net//{CONTAINER}/a.tif",
        f"https://{ACCOUNT}.blob.core.windows.net:8443/{CONTAINER}/a.tif",
        f"https://user:planted@{ACCOUNT}.blob.core.windows.net/{CONTAINER}/a.tif",
        f"{HOST}/a.tif?sig=planted",
        f"{HOST}/a.tif#x",
        f"{HOST}/a\r\nb.tif",
        f"{HOST}\\..\\a.tif",
        f"abfs://other@{ACCOUNT}.dfs.core.windows.net/a.tif",
        f"abfs://{CONTAINER}/a.tif",
        "https://planetarycomputer.microsoft.com/api/data/v1/item/preview.png",
        "http://169.254.169.254/metadata/identity/oauth2/token",
        "https://127.0.0.1/sentinel2-l2/a.tif",
        "file:///etc/passwd",
        "",
    ],
)
def test_every_other_place_is_refused(href: str) -> None:
    with pytest.raises(HrefRefusedError) as caught:
        PROVIDER.locate(href)
    assert "planted" not in str(caught.value)


# -- paging ---------------------------------------------------------------------------------------

AREA = Area(name="denver", bbox=(-105.2, 39.9, -105.0, 40.2))
DAY = date(2024, 8, 25)


def pages_of(count: int, *, lost: int = 0, ends_early: bool = False, loops: bool = False) -> Any:
    """Return a script that serves ``count`` items as the catalog pages them.

    ``lost`` items are left out of the first walk; ``ends_early`` leaves every next link out; ``loops`` leads back.
    """
    items = []
    for number in range(count):
        item = raw_item()
        item["id"] = f"S2B_MSIL2A_20240825T173909_R098_T13TDE_20240825T{number:06d}"
        items.append(item)
    walks = {"n": 0}

    def page(body: dict[str, Any], root: str) -> dict[str, Any]:
        token = body.get("token")
        walks["n"] += token is None
        known = items[lost:] if walks["n"] == 1 else items
        ids = [item["id"] for item in known]
        start = ids.index(token.removeprefix("next:sentinel-2-l2a:")) + 1 if token else 0
        shown = known[start : start + body["limit"]]
        more = start + body["limit"] < len(known)
        links = [{"rel": "root", "type": "application/json", "href": f"{root}/"}]
        if more and not ends_early:
            follow = token if loops and token else f"next:sentinel-2-l2a:{shown[-1]['id']}"
            link = {"rel": "next", "method": "POST", "href": f"{root}/search"}
            links.insert(0, {**link, "body": {**body, "token": follow}})
        if start:
            link = {"rel": "previous", "method": "POST", "href": f"{root}/search"}
            links.insert(1, {**link, "body": {**body, "token": f"prev:sentinel-2-l2a:{shown[0]['id']}"}})
        return {"type": "FeatureCollection", "features": shown, "links": links}

    return page


def searched(page: Any) -> tuple[Any, int]:
    """Search a scripted catalog; return the result and the number of requests it saw."""
    from azure_loopback import serving
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    seen: list[dict[str, Any]] = []

    async def answer(request: Request) -> JSONResponse:
        body = await request.json()
        seen.append(body)
        return JSONResponse(page(body, str(request.base_url).rstrip("/")))

    with serving(Starlette(routes=[Route("/search", answer, methods=["POST"])])) as url:
        return search(PlanetaryComputer(url=url), DAY, [AREA]), len(seen)


@pytest.mark.parametrize("count", [0, 1, 250, 251, 600])
def test_two_walks_agree_on_all_items(count: int) -> None:
    result, requests = searched(pages_of(count))
    assert len(result.items) == count
    assert result.report.matched is None
    assert requests >= 2


def test_a_walk_that_lost_an_item_is_not_believed() -> None:
    result, _ = searched(pages_of(300, lost=1))
    assert len(result.items) == 300


def test_a_full_page_without_a_next_link_is_suspect() -> None:
    """Two walks that are cut at the same place would agree: a full last page is asked again in another size."""
    with pytest.raises(IncompleteSearchError):
        searched(pages_of(300, ends_early=True))


def test_a_next_link_that_leads_back_is_an_error() -> None:
    with pytest.raises(IncompleteSearchError, match=r"followed before|given twice"):
        searched(pages_of(600, loops=True))


def test_recorded_pages_are_followed(shared_dir: Path) -> None:
    """The recorded walk, with the last page's next link taken off, as far as it was recorded."""
    exchanges = [
        json.loads((samples(shared_dir) / f"search_naip_page{n}.exchange.json").read_text()) for n in (1, 2)
    ]
    asked: list[dict[str, Any]] = []

    def page(body: dict[str, Any], root: str) -> dict[str, Any]:
        asked.append(body)
        document = json.loads(json.dumps(exchanges[1 if "token" in body else 0]["json"]).replace(URL, root))
        for link in document["links"]:
            if link["rel"] == "next":
                recorded = link["body"]["token"]
                link["body"] = {**body, "token": recorded}
        if "token" in body:
            document["links"] = [link for link in document["links"] if link["rel"] != "next"]
        return document

    result, requests = searched(page)
    recorded = [item["id"] for exchange in exchanges for item in exchange["json"]["features"]]
    assert sorted(item["id"] for item in result.items) == sorted(recorded)
    assert requests == 4
    assert [body.get("token") for body in asked] == [None, exchanges[1]["request"]["json"]["token"]] * 2
    normalised = normalise(PROVIDER, result.items, DAY, [AREA])
    assert normalised.items == []
    assert {one.reason for one in normalised.rejected} == {"collection"}


# -- damage ---------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=6,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, member in members:
        found += _places(member, (*path, name))
    return found


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_item_is_canonical_or_rejected(data: st.DataObject) -> None:
    item = copy.deepcopy(raw_item())
    for _ in range(data.draw(st.integers(1, 3))):
        places = _places(item)
        path = data.draw(st.sampled_from(places))
        holder: Any = item
        for part in path[:-1]:
            holder = holder[part]
        if data.draw(st.booleans()) and isinstance(holder, dict):
            del holder[path[-1]]
        else:
            holder[path[-1]] = data.draw(_JSON)
    try:
        canonical = PROVIDER.canonical(item)
    except RejectedItemError:
        return
    assert PROVIDER.canonical(canonical) == canonical
    assert set(CANONICAL_PROPERTIES) <= set(canonical["properties"])
    for key in set(canonical["assets"]) & set(sentinel2.BANDS):
        assert canonical["assets"][key]["raster:bands"][0]["offset"] in {0.0, -0.1}
    json.dumps(canonical, allow_nan=False)


def test_building_and_asking_for_a_body_requests_nothing() -> None:
    with scripted(lambda *_: (500, {}, b"")) as server:
        provider = PlanetaryComputer(
            url=server.url, endpoints={"sas": Endpoint(url=server.url, allow_http=True)}
        )
        provider.template()
        provider.locate(f"{HOST}/a.tif")
        assert server.requests == []
