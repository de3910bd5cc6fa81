"""The provider that settings describe: other catalogs' recorded items, its places, its token, its settings."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog.scene_table import from_parquet, to_parquet
from geostack_pipeline.catalog.search import search
from geostack_pipeline.errors import (
    AuthError,
    CatalogError,
    GeostackError,
    HrefRefusedError,
    SettingsError,
    TransferError,
)
from geostack_pipeline.providers.contract import (
    CANONICAL_PROPERTIES,
    Endpoint,
    Provider,
    Radiometry,
    RejectedItemError,
    SearchWindow,
)
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.registry import build_provider, spec
from geostack_pipeline.providers.stac_api import Options
from geostack_pipeline.providers.stac_items import Numbers, radiometry
from geostack_pipeline.settings import parse_settings
from tests.providers.cas_loopback import Answer, Seen, Server, serving

TOKEN = "planted-token-0123456789"
ALLOW = [{"https": "data.example.org/open"}]


def _build(**changes: Any) -> Provider:
    options = {"bands": {"B04": "red", "B12": "swir22"}, "allow": ALLOW, **changes.pop("options", {})}
    given = {"url": "https://stac.example.org/v1", "collections": ["things"], **changes}
    return build_provider("my_catalog", kind="stac_api", options=options, **given)


def _item(**changes: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": "thing-1",
        "collection": "things",
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
        "bbox": [0, 0, 1, 1],
        "properties": {"datetime": "2024-06-07T10:00:00Z", "platform": "landsat-9"},
        "links": [],
        "assets": {
            "red": {
                "href": "https://data.example.org/open/1/red.tif",
                "raster:bands": [{"scale": 2.75e-05, "offset": -0.2, "nodata": 0}],
            },
            "swir22": {"href": "https://data.example.org/open/1/swir22.tif"},
            "preview": {"href": "https://data.example.org/open/1/p.png"},
        },
        **changes,
    }


# -- items ----------------------------------------------------------------------------------------


def test_items_that_are_not_sentinel_2_are_scenes_of_their_own() -> None:
    provider = _build(options={"scale": 0.5})
    assert isinstance(provider, Provider)
    item = provider.canonical(_item())
    assert provider.canonical(item) == item
    assert item["properties"]["geostack:scene"] == "thing-1"
    assert item["properties"]["geostack:radiometry"] == "item+settings"
    assert item["assets"].keys() == {"B04", "B12"}
    assert item["assets"]["B04"]["raster:bands"] == [{"scale": 2.75e-05, "offset": -0.2, "nodata": 0.0}]
    assert item["assets"]["B12"]["raster:bands"] == [{"scale": 0.5, "offset": 0.0}]
    extra = json.loads(item["properties"]["geostack:extra"])
    assert extra == {"/assets/preview": {"href": "https://data.example.org/open/1/p.png"}}
    assert set(CANONICAL_PROPERTIES) <= item["properties"].keys()
    table = to_parquet([item], provider.template())
    assert list(table) == ["scenes.parquet"]
    assert from_parquet(table["scenes.parquet"]) == [item]


def test_a_recorded_landsat_and_sentinel_day_is_read_by_description(shared_dir: Path) -> None:
    file = shared_dir / "samples" / "earth-search" / "search_s2_landsat_one_day.exchange.json"
    raw = json.loads(file.read_text(encoding="utf-8"))["json"]["features"]
    names = sorted({item["collection"] for item in raw})
    provider = _build(collections=names)
    items = []
    for item in raw:
        try:
            items.append(provider.canonical(item))
        except RejectedItemError as error:
            assert error.reason == "assets", "SR-only items without the bands"  # noqa: PT017
    assert {item["collection"] for item in items} == set(names)
    for item in items:
        assert provider.canonical(item) == item
        sentinel = item["properties"]["platform"].startswith("sentinel-2")
        assert item["properties"]["geostack:scene"].startswith("S2" if sentinel else item["id"])
    back = [row for data in to_parquet(items, provider.template()).values() for row in from_parquet(data)]
    assert sorted(row["id"] for row in back) == sorted(item["id"] for item in items)


def test_one_scene_has_one_name_through_whichever_catalog(shared_dir: Path) -> None:
    """The recorded items of Planetary Computer: by description here, and by the name of the product."""
    file = shared_dir / "samples" / "planetary-computer" / "sentinel-2-l2a.items2.json"
    loaded = json.loads(file.read_text(encoding="utf-8"))
    raw = loaded["features"] if isinstance(loaded, dict) else loaded
    provider = _build(
        collections=["sentinel-2-l2a"],
        options={"bands": {"B04": "B04", "B12": "B12"}, "classification": "SCL", "numbers": "sentinel2"},
    )
    for item in raw:
        found = provider.canonical(item)
        parts = item["properties"]["s2:product_uri"].split("_")
        assert found["properties"]["geostack:scene"] == f"{parts[0]}_{parts[2]}_{parts[5]}"
        assert found["properties"]["geostack:radiometry"] == "baseline"
        assert found["assets"]["B12"]["raster:bands"][0]["offset"] == -0.1
        assert found["assets"]["SCL"]["raster:bands"][0]["scale"] == 1.0


@pytest.mark.parametrize(
    ("numbers", "band", "baseline", "expected"),
    [
        (Numbers(), {"scale": 0.1, "offset": 1}, None, (0.1, 1.0, None, "item")),
        (Numbers(scale=0.5, offset=2), {"scale": 0.1}, None, (0.1, 0.0, None, "item")),
        (Numbers(scale=0.5, offset=2, nodata=7), {}, None, (0.5, 2.0, 7.0, "settings")),
        (Numbers(), {"nodata": -1}, None, (1.0, 0.0, -1.0, "default")),
        (Numbers(scale=0.5), {"scale": -3}, None, (0.5, 0.0, None, "settings")),
        (
            Numbers(source="settings", scale=2, nodata=9),
            {"scale": 0.1, "nodata": 0},
            None,
            (2, 0, 9, "settings"),
        ),
        (Numbers(source="sentinel2"), {"offset": 0}, "05.10", (0.0001, -0.1, 0.0, "baseline")),
        (Numbers(source="sentinel2"), {}, "02.14", (0.0001, 0.0, 0.0, "baseline")),
        (Numbers(source="sentinel2", scale=0.0001), {}, None, (0.0001, 0.0, None, "settings")),
    ],
)
def test_what_the_stored_numbers_mean(numbers: Numbers, band: Any, baseline: Any, expected: Any) -> None:
    found = radiometry(numbers, {"processing:baseline": baseline}, {"raster:bands": [band]})
    scale, offset, nodata, reason = expected
    assert found == Radiometry(scale=scale, offset=offset, nodata=nodata, reason=reason)


def test_the_numbers_of_stac_1_1_are_read_where_they_stand() -> None:
    item = _item()
    item["stac_version"] = "1.1.0"
    item["assets"]["red"] = {"href": "https://data.example.org/open/r.tif", "raster:scale": 0.1, "nodata": 5}
    item["assets"]["swir22"] = {
        "href": "https://data.example.org/open/s.tif",
        "bands": [{"name": "s", "raster:scale": 0.2, "raster:offset": -1}],
    }
    assets = _build().canonical(item)["assets"]
    assert assets["B04"]["raster:bands"] == [{"scale": 0.1, "offset": 0.0, "nodata": 5.0}]
    assert assets["B12"]["raster:bands"] == [{"scale": 0.2, "offset": -1.0}]


def test_a_catalog_whose_names_are_other_bands_is_not_mixed_up() -> None:
    provider = _build(options={"bands": {"B04": "B12", "B12": "B04"}})
    item = _item()
    item["assets"] = {
        name: {"href": f"https://data.example.org/open/{name}.tif"} for name in ("B04", "B12", "B02")
    }
    found = provider.canonical(item)
    assert found["assets"]["B04"]["href"].endswith("B12.tif")
    assert found["assets"]["B12"]["href"].endswith("B04.tif")
    assert provider.canonical(found) == found
    provider = _build(options={"bands": {"B04": "red"}})
    item["assets"]["red"] = {"href": "https://data.example.org/open/red.tif"}
    found = provider.canonical(item)
    assert found["assets"]["B04"]["href"].endswith("red.tif")
    assert "/assets/catalog:B04" in json.loads(found["properties"]["geostack:extra"])


def test_a_property_may_identify_the_scene_and_a_span_may_stand_for_a_time() -> None:
    item = _item(
        properties={"datetime": None, "start_datetime": "2024-06-07T09:00:00Z", "landsat:scene_id": "LC9-1"}
    )
    found = _build(options={"scene": "landsat:scene_id"}).canonical(item)["properties"]
    assert found["geostack:scene"] == "LC9-1"
    assert found["datetime"] == "2024-06-07T09:00:00.000000Z"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"collection": "others"}, "collection"),
        ({"properties": {"datetime": "soon"}}, "datetime"),
        ({"assets": {"preview": {"href": "x"}}}, "assets"),
        ({"geometry": {"type": "Point", "coordinates": [0, 0]}}, "geometry"),
    ],
)
def test_what_cannot_be_a_scene_is_rejected_with_a_reason(changes: Any, reason: str) -> None:
    with pytest.raises(RejectedItemError) as caught:
        _build().canonical(_item(**changes))
    assert caught.value.reason == reason


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(
    where=st.sampled_from(
        [
            ("properties", "datetime"),
            ("properties", "platform"),
            ("properties", "grid:code"),
            ("properties", "proj:epsg"),
            ("properties", "s2:processing_baseline"),
            ("properties", "geostack:scene"),
            ("assets", "red"),
            ("assets", "red", "raster:bands"),
            ("assets", "red", "bands"),
            ("assets", "red", "href"),
            ("assets",),
            ("id",),
        ]
    ),
    value=_JSON,
)
@settings(max_examples=150)
def test_a_spoiled_item_is_canonical_or_rejected_and_canonical_stays(where: Any, value: Any) -> None:
    provider = _build()
    item: Any = copy.deepcopy(_item())
    holder = item
    for part in where[:-1]:
        holder = holder[part]
    holder[where[-1]] = value
    try:
        found = provider.canonical(item)
    except RejectedItemError:
        return
    assert provider.canonical(found) == found


# -- settings -------------------------------------------------------------------------------------


def test_several_catalogs_have_names_of_their_own_and_bands_without_a_list() -> None:
    one = {
        "kind": "stac_api",
        "url": "https://one.example/v1",
        "collections": ["a"],
        "options": {"bands": {"thermal": "lwir11", "B12": "swir22"}, "allow": ALLOW},
    }
    two = {**one, "url": "https://two.example/v1", "bands": ["B12"], "variables": {"token": "TWO_TOKEN"}}
    found = parse_settings({"providers": {"landsat": one, "other_one": two}})
    assert found.provider("landsat").bands == ("thermal", "B12")
    assert found.provider("other_one").bands == ("B12",)
    assert [field.variable for field in found.credential_fields("other_one")] == ["TWO_TOKEN"]
    built = found.build_provider("landsat", {})
    assert (built.key, built.url, built.product.bands) == (
        "landsat",
        "https://one.example/v1",
        ("thermal", "B12"),
    )
    assert found.build_provider("other_one", {}).url == "https://two.example/v1"
    item = built.canonical(_item(collection="a"))
    assert [want.asset for want in built.wants(item, ())] == ["thermal", "B12"]
    with pytest.raises(SettingsError, match="B99"):
        built.wants(item, ("B99",))
    assert spec("stac_api").product.bands == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": None}, "no url"),
        ({"collections": []}, "no collections"),
        ({"options": {"bands": {}}}, "bands"),
        ({"options": {"bands": {"SCL": "x"}}}, "SCL"),
        ({"options": {"bands": {"B04": "red", "B05": "red"}}}, "two bands"),
        ({"options": {"classification": "red"}}, "classification"),
        ({"options": {"allow": []}}, "allow"),
        ({"options": {"allow": [{"https": "data.example.org", "s3": "b"}]}}, "one place"),
        ({"options": {"allow": [{"https": "http://data.example.org"}]}}, "host with a folder"),
        ({"options": {"allow": [{"https": "data.example.org/../x"}]}}, "host with a folder"),
        ({"options": {"allow": [{"azure": "account"}]}}, "account/container"),
        ({"options": {"allow": [{"s3": "bucket-a", "endpoint": "http://s3.example.org"}]}}, "endpoint"),
        ({"options": {"allow": [{"https": "127.0.0.1/x"}, {"s3": "b!"}]}}, "bucket"),
        ({"options": {"header": "Cookie"}}, "header"),
        (
            {"options": {"header": "X-Key", "allow": [{"https": "data.example.org/o", "token": True}]}},
            "redirects",
        ),
        ({"options": {"paging": "offset"}}, "paging"),
        ({"options": {"count": "maybe"}}, "count"),
        ({"options": {"whatever": 1}}, "whatever"),
        ({"endpoints": {"elsewhere.example": Endpoint(url="https://x.example")}}, "never read"),
        ({"url": "http://stac.example.org/v1", "credentials": {"token": Secret(TOKEN)}}, "plain http"),
    ],
)
def test_an_incomplete_description_is_refused_by_name(changes: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        _build(**changes)
    assert TOKEN not in str(caught.value)


def test_the_search_body_carries_what_the_settings_send_along() -> None:
    window = SearchWindow(
        start=datetime(2024, 6, 7, tzinfo=UTC),
        end=datetime(2024, 6, 8, tzinfo=UTC),
        bbox=(0.0, 0.0, 1.0, 1.0),
    )
    body = _build(options={"query": {"eo:cloud_cover": {"lt": 10}}, "filter": "a = 1"}).search_body(window)
    assert body == {
        "collections": ["things"],
        "bbox": [0.0, 0.0, 1.0, 1.0],
        "datetime": "2024-06-07T00:00:00Z/2024-06-08T00:00:00Z",
        "query": {"eo:cloud_cover": {"lt": 10}},
        "filter": "a = 1",
        "filter-lang": "cql2-text",
    }


def test_the_documented_example_is_a_whole_description() -> None:
    text = (Path(__file__).parents[2] / "docs" / "providers" / "stac_api.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    found = parse_settings(yaml.safe_load(block))
    provider = found.build_provider("my_catalog", {})
    bucket = "https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com/a.tif"
    assert provider.locate(bucket).canonical == "s3://e84-earth-search-sentinel-data/a.tif"
    assert found.provider("my_catalog").bands == ("B04", "B11", "B12")
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) >= set(Options.model_fields) - {
        "offset",
        "nodata",
        "filter",
    }


@pytest.mark.parametrize(("token", "kind"), [(True, AuthError), (False, TransferError)])
def test_a_page_in_place_of_a_file_is_told_by_who_gets_the_token(token: bool, kind: type) -> None:
    places = [{"https": "data.example.org/open", "token": token}]
    provider = _build(options={"allow": places}, credentials={"token": Secret(TOKEN)})
    error = provider.explain_page(b"<html>", "thing")
    assert isinstance(error, kind)
    assert error.subject == "thing"


# -- places ---------------------------------------------------------------------------------------

PLACES = [
    {"https": "data.example.org/open"},
    {"s3": "open-bucket", "region": "eu-central-1"},
    {"s3": "other-bucket", "endpoint": "https://s3.example.org"},
    {"azure": "acct123/files"},
]


@pytest.mark.parametrize(
    ("href", "canonical"),
    [
        ("https://data.example.org/open/a/b.tif", "https://data.example.org/open/a/b.tif"),
        ("s3://open-bucket/a.tif", "s3://open-bucket/a.tif"),
        ("https://open-bucket.s3.eu-central-1.amazonaws.com/a.tif", "s3://open-bucket/a.tif"),
        ("https://s3.example.org/other-bucket/a.tif", "s3://other-bucket/a.tif"),
        ("https://acct123.blob.core.windows.net/files/a.tif", "az://acct123/files/a.tif"),
        ("abfs://files@acct123.dfs.core.windows.net/a.tif", "az://acct123/files/a.tif"),
    ],
)
def test_places_are_read_under_all_their_names(href: str, canonical: str) -> None:
    provider = _build(options={"allow": PLACES})
    ref = provider.locate(href)
    assert ref.canonical == canonical
    assert provider.store(ref.store_id) is provider.store(ref.store_id)


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
        "https://user:pw@data.example.org/open/x",
        "https://data.example.org/secret/x",
        "https://data.example.org/openly/x",
        "https://data.example.org.evil.example/open/x",
        "https://data.example.org:8443/open/x",
        "https://data.example.org/open/../secret/x",
        "https://data.example.org/open/%2e%2e/x",
        "https://data.example.org/open/x?sig=1",
        "https://acct123.evil.blob.core.windows.net/files/a.tif",
        "https://acct123.blob.core.windows.net/others/a.tif",
        "s3://open-bucket-2/a.tif",
        "https://10.0.0.1/open/x",
        "https://data.example.org/open/a%00b",
    ],
)
def test_any_other_place_is_refused(href: str) -> None:
    with pytest.raises(HrefRefusedError):
        _build(options={"allow": PLACES}).locate(href)


def test_only_its_own_stores_are_opened() -> None:
    with pytest.raises(HrefRefusedError):
        _build().store("https://elsewhere.example")


# -- the token ------------------------------------------------------------------------------------


class Catalog:
    """A catalog on loopback that answers one page, and remembers the headers."""

    def __init__(self) -> None:
        self.next_href: str | None = None
        self.status = 200

    def __call__(self, seen: Seen) -> Answer:
        links = [{"rel": "next", "href": self.next_href}] if self.next_href and seen.method == "POST" else []
        page = {"type": "FeatureCollection", "features": [], "numberMatched": 0, "links": links}
        return Answer(
            status=self.status, body=json.dumps(page), headers={"Content-Type": "application/geo+json"}
        )


@pytest.fixture
def origins() -> Iterator[tuple[Catalog, Server, Server]]:
    catalog = Catalog()
    with serving(catalog, lambda _: Answer(body="pixels")) as (own, files):
        yield catalog, own, files


def _on_loopback(own: Server, files: Server, header: str, *, token_for_files: bool) -> Provider:
    return _build(
        url=f"{own.url}/v1",
        credentials={"token": Secret(TOKEN)},
        endpoints={"data.example.org": Endpoint(url=files.url, allow_http=True)},
        options={"header": header, "allow": [{"https": "data.example.org/open", "token": token_for_files}]},
    )


AREA = Area(name="a", bbox=(0.0, 0.0, 1.0, 1.0), resolution_m=20.0)


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
def test_the_token_goes_to_the_catalog_and_not_with_files(
    origins: tuple[Catalog, Server, Server], header: str
) -> None:
    _, own, files = origins
    provider = _on_loopback(own, files, header, token_for_files=False)
    search(provider, date(2024, 6, 7), [AREA])
    sent = f"Bearer {TOKEN}" if header == "Authorization" else TOKEN
    assert own.seen
    assert all(f"{header.lower()}: {sent}".lower() in seen.text.lower() for seen in own.seen)
    ref = provider.locate("https://data.example.org/open/x.tif")
    assert bytes(provider.store(ref.store_id).get(ref.key).bytes()) == b"pixels"
    assert TOKEN not in "".join(seen.text for seen in files.seen)
    assert TOKEN not in repr(provider) + repr(vars(provider)) + repr(vars(provider._places))  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        pickle.dumps(provider)


def test_a_place_that_is_told_so_gets_the_token_but_no_redirect_does(
    origins: tuple[Catalog, Server, Server],
) -> None:
    _, own, files = origins
    provider = _on_loopback(own, files, "Authorization", token_for_files=True)
    store = provider.store("https://data.example.org")
    assert bytes(store.get("open/x.tif").bytes()) == b"pixels"
    assert files.seen[-1].authorization == f"Bearer {TOKEN}"
    with serving(lambda _: Answer(body="evil")) as (evil,):
        files.rule = lambda _: Answer(status=302, headers={"Location": f"{evil.url}/x"})
        assert bytes(store.get("open/y.tif").bytes()) == b"evil"
        assert evil.seen
        assert TOKEN not in "".join(seen.text for seen in evil.seen)


def test_a_next_link_to_another_host_is_not_followed(origins: tuple[Catalog, Server, Server]) -> None:
    catalog, own, files = origins
    catalog.next_href = f"{files.url}/steal"
    provider = _on_loopback(own, files, "X-Api-Key", token_for_files=False)
    with pytest.raises(CatalogError, match="next link"):
        search(provider, date(2024, 6, 7), [AREA])
    assert files.seen == []


def test_a_refused_token_is_named_without_being_shown(origins: tuple[Catalog, Server, Server]) -> None:
    catalog, own, files = origins
    catalog.status = 401
    provider = _on_loopback(own, files, "X-Api-Key", token_for_files=False)
    with pytest.raises(GeostackError, match="refused the login") as caught:
        search(provider, date(2024, 6, 7), [AREA])
    assert TOKEN not in str(caught.value)
    assert "my_catalog" in str(caught.value)
