"""Earth Search: what its items mean, where their bytes live, and that no item can break the pipeline."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geostack_pipeline.errors import HrefRefusedError, SettingsError
from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers.canonical import EXTRA
from geostack_pipeline.providers.contract import (
    CANONICAL_PROPERTIES,
    Endpoint,
    Provider,
    RejectedItemError,
    SearchWindow,
)
from geostack_pipeline.providers.earth_search import (
    ASSET_KEYS,
    URL,
    EarthSearch,
    explain,
    radiometry,
)

PROVIDER = EarthSearch(collections=("sentinel-2-l2a", "sentinel-2-c1-l2a"))


def recorded(shared: Path) -> list[dict[str, Any]]:
    folder = shared / "samples" / "earth-search"
    pages = [
        json.loads((folder / f"search_s2l2a_dups_page{n}.exchange.json").read_text())["json"] for n in (1, 2)
    ]
    c1 = json.loads((folder / "sentinel-2-c1-l2a.10items.json").read_text())
    return [feature for page in (*pages, c1) for feature in page["features"]]


def raw_item() -> dict[str, Any]:
    """A small item in Earth Search's form, for tests that must run without recordings."""
    bucket = "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/32/T/MT/2020/3/X"
    band = {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/eo/v1.1.0/schema.json"],
        "id": "S2A_32TMT_20200305_1_L2A",
        "collection": "sentinel-2-l2a",
        "bbox": [7.0, 46.0, 8.0, 47.0],
        "geometry": {"type": "Polygon", "coordinates": [[[7, 46], [8, 46], [8, 47], [7, 47], [7, 46]]]},
        "properties": {
            "datetime": "2020-03-05T10:37:41.587000Z",
            "created": "2024-06-29T14:41:57.577Z",
            "platform": "sentinel-2a",
            "instruments": ["msi"],
            "eo:cloud_cover": 99.9852,
            "proj:epsg": 32632,
            "grid:code": "MGRS-32TMT",
            "s2:processing_baseline": "05.00",
            "s2:product_uri": "S2A_MSIL2A_20200305T103021_N0500_R108_T32TMT_20230630T022413.SAFE",
            "s2:generation_time": "2023-06-30T02:24:13.000000Z",
            "s2:datatake_id": "GS2A_20200305T103021_024558_N05.00",
            "s2:nodata_pixel_percentage": 0,
            "earthsearch:boa_offset_applied": True,
            "processing:software": {"sentinel2-to-stac": "0.1.1"},
        },
        "links": [
            {"rel": "self", "href": f"{URL}/collections/sentinel-2-l2a/items/S2A_32TMT_20200305_1_L2A"},
            {"rel": "canonical", "href": "s3://sentinel-cogs/x.json", "type": "application/json"},
            {"rel": "root", "href": URL},
        ],
        "assets": {
            "red": {
                "href": f"{bucket}/B04.tif",
                "roles": ["data"],
                "eo:bands": [{"name": "red"}],
                "raster:bands": [band],
            },
            "scl": {"href": f"{bucket}/SCL.tif", "raster:bands": [{"nodata": 0, "data_type": "uint8"}]},
            "red-jp2": {
                "href": "s3://sentinel-s2-l2a/tiles/32/T/MT/2020/3/5/1/B04.jp2",
                "raster:bands": [band],
            },
            "thumbnail": {"href": f"{bucket}/thumbnail.jp2", "type": "image/jpeg"},
        },
    }


# -- the contract ---------------------------------------------------------------------------------


def test_it_is_a_provider() -> None:
    assert isinstance(EarthSearch(), Provider)
    assert EarthSearch().dialect.count == "exact"


def test_search_body_is_closed_and_never_holds_a_filter() -> None:
    start = datetime(2024, 6, 1, tzinfo=UTC)
    window = SearchWindow(start=start, end=start + timedelta(days=1), bbox=(9.0, 47.0, 10.0, 48.0))
    body = EarthSearch(query={"eo:cloud_cover": {"lt": 50}}).search_body(window)
    assert body == {
        "collections": ["sentinel-2-l2a"],
        "bbox": [9.0, 47.0, 10.0, 48.0],
        "datetime": "2024-06-01T00:00:00Z/2024-06-02T00:00:00Z",
        "query": {"eo:cloud_cover": {"lt": 50}},
    }


def test_unreadable_collections_and_strange_buckets_are_settings_errors() -> None:
    with pytest.raises(SettingsError, match=r"landsat-c2-l2.*choose among sentinel-2-l2a"):
        EarthSearch(collections=("landsat-c2-l2",))
    with pytest.raises(SettingsError, match="no collection"):
        EarthSearch(collections=())
    with pytest.raises(SettingsError, match="usgs-landsat"):
        EarthSearch(endpoints={"usgs-landsat": Endpoint()})


# -- canonical items ------------------------------------------------------------------------------


def test_every_recorded_item_becomes_canonical(shared_dir: Path) -> None:
    for raw in recorded(shared_dir):
        before = copy.deepcopy(raw)
        item = PROVIDER.canonical(raw)
        assert raw == before, "the raw item is not changed"
        assert PROVIDER.canonical(item) == item
        check_canonical(item)
        assert len(item["assets"]) == len(raw["assets"]), "no asset is lost"
        for name, asset in raw["assets"].items():
            assert item["assets"][ASSET_KEYS[name]]["href"] == asset["href"]
        for name, value in raw["properties"].items():
            if name in {"created", "updated", "datetime", "s2:generation_time"}:
                kept = item["properties"][name].replace("Z", "+00:00")
                assert datetime.fromisoformat(kept) == datetime.fromisoformat(value)
            elif name == "processing:software":
                assert json.loads(item["properties"][EXTRA])["/properties/processing:software"] == value
            else:
                assert item["properties"][name] == value, name


def check_canonical(item: dict[str, Any]) -> None:
    """What the contract promises of every canonical item."""
    json.dumps(item, allow_nan=False)
    assert len(item["bbox"]) == 4
    assert all(type(number) is float for number in item["bbox"])
    assert item["geometry"]["type"] in {"Polygon", "MultiPolygon"}
    properties = item["properties"]
    parsed = datetime.strptime(properties["datetime"], "%Y-%m-%dT%H:%M:%S.%fZ")
    assert parsed.year > 0
    assert len(properties["datetime"]) == 27
    for name, kind in CANONICAL_PROPERTIES.items():
        assert properties[name] is None or type(properties[name]) is kind, name
    assert properties["geostack:scene"].startswith("S2")
    allowed = set(ASSET_KEYS.values())
    for key, asset in item["assets"].items():
        assert key in allowed
        assert isinstance(asset["href"], str)
        if key.removesuffix("_jp2") in {*sentinel2.BANDS, "SCL"}:
            (band,) = asset["raster:bands"]
            assert all(type(band[name]) is float for name in ("scale", "offset", "nodata"))


def test_what_a_recorded_item_says(shared_dir: Path) -> None:
    item = PROVIDER.canonical(recorded(shared_dir)[0])
    properties = item["properties"]
    assert {name: properties[name] for name in CANONICAL_PROPERTIES} == {
        "datetime": "2020-03-05T10:37:41.587000Z",
        "platform": "sentinel-2a",
        "eo:cloud_cover": 99.9852,
        "proj:code": "EPSG:32632",
        "grid:code": "MGRS-32TMT",
        "sat:relative_orbit": 108,
        "view:sun_elevation": 35.2267077658347,
        "view:incidence_angle": None,
        "processing:baseline": "05.00",
        "processing:datetime": "2023-06-30T02:24:13.000000Z",
        "geostack:scene": "S2A_20200305T103021_T32TMT",
        "geostack:radiometry": "boa_offset_applied",
    }
    assert item["assets"]["B04"]["eo:bands"][0]["name"] == "B04"
    assert item["assets"]["B04"]["raster:bands"][0]["offset"] == 0.0
    assert item["assets"]["B04_jp2"]["raster:bands"][0]["offset"] == -0.1
    assert item["assets"]["SCL"]["raster:bands"][0] == {
        "nodata": 0.0,
        "data_type": "uint8",
        "spatial_resolution": 20.0,
        "scale": 1.0,
        "offset": 0.0,
    }
    assert [link["rel"] for link in item["links"]] == ["derived_from", "license", "canonical"]
    assert json.loads(properties[EXTRA])["/assets/red/raster:bands/0/offset"] == -0.1, (
        "the overruled claim is kept"
    )


def test_both_processings_of_a_scene_share_its_identity(shared_dir: Path) -> None:
    items = [PROVIDER.canonical(raw) for raw in recorded(shared_dir)[:16]]
    scenes: dict[str, list[str]] = {}
    for item in items:
        scenes.setdefault(item["properties"]["geostack:scene"], []).append(
            item["properties"]["processing:baseline"]
        )
    assert len(scenes) == 8
    assert all(sorted(baselines) == ["02.14", "05.00"] for baselines in scenes.values())


def test_landsat_and_other_strangers_are_rejected_with_a_reason(shared_dir: Path) -> None:
    path = shared_dir / "samples" / "earth-search" / "search_s2_landsat_one_day.exchange.json"
    sentinel, landsat = json.loads(path.read_text())["json"]["features"]
    assert PROVIDER.canonical(sentinel)["properties"]["geostack:scene"] == "S2A_20231008T175231_T13TDE"
    with pytest.raises(RejectedItemError, match="landsat-c2-l2") as caught:
        PROVIDER.canonical(landsat)
    assert caught.value.reason == "collection"


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("id",), None, "id"),
        (("id",), "", "id"),
        (("id",), 5, "id"),
        (("collection",), ["sentinel-2-l2a"], "collection"),
        (("properties",), [], "properties"),
        (("properties", "datetime"), None, "datetime"),
        (("properties", "datetime"), "yesterday", "datetime"),
        (("properties", "datetime"), "2020-02-30T00:00:00Z", "datetime"),
        (("geometry",), None, "geometry"),
        (("geometry",), {"type": "Point", "coordinates": [1, 2]}, "geometry"),
        (("geometry", "coordinates"), [[[7, 46], [8, 46], [8, 47], [7, 47]]], "geometry"),
        (("geometry", "coordinates"), [[[7, 46], [8, float("nan")], [8, 47], [7, 46]]], "geometry"),
        (("geometry", "coordinates"), [[[7, 46], [8, 460], [8, 47], [7, 46]]], "geometry"),
        (("assets",), None, "assets"),
        (("assets",), {"unknown": {"href": "x"}}, "assets"),
        (("properties", "s2:tile_id"), "\ud800", "not_json"),
        (("properties", "s2:tile_id"), "x" * 2_000_000, "too_large"),
    ],
)
def test_rejections_have_reasons(path: tuple[str, ...], value: Any, reason: str) -> None:
    raw = raw_item()
    target = raw
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(RejectedItemError) as caught:
        PROVIDER.canonical(raw)
    assert caught.value.reason == reason


def test_deep_nesting_is_rejected() -> None:
    raw = raw_item()
    nested: Any = 1
    for _ in range(100_000):
        nested = [nested]
    raw["properties"]["deep"] = nested
    with pytest.raises(RejectedItemError, match="too_deep"):
        PROVIDER.canonical(raw)


def test_platform_and_tile_come_from_the_product_name_where_missing() -> None:
    raw = raw_item()
    del raw["properties"]["platform"], raw["properties"]["grid:code"], raw["properties"]["proj:epsg"]
    properties = PROVIDER.canonical(raw)["properties"]
    assert (properties["platform"], properties["grid:code"], properties["proj:code"]) == (
        "sentinel-2a",
        "MGRS-32TMT",
        "EPSG:32632",
    )
    del raw["properties"]["s2:product_uri"]
    with pytest.raises(RejectedItemError) as caught:
        PROVIDER.canonical(raw)
    assert caught.value.reason == "tile"


def test_drifting_types_are_converted_and_what_does_not_fit_is_kept_as_text() -> None:
    raw = raw_item()
    raw["properties"] |= {
        "eo:cloud_cover": "72",
        "proj:epsg": "32632",
        "s2:sequence": 1,
        "view:sun_elevation": {"mean": 30},
        "instruments": "msi",
        "new:thing": {"a": [1, 2.5, None]},
    }
    raw["assets"]["red"]["gsd"] = "ten"
    raw["assets"]["mystery"] = {"href": "https://example.com/x"}
    raw["extra_top"] = [1]
    item = PROVIDER.canonical(raw)
    properties = item["properties"]
    assert properties["eo:cloud_cover"] == 72.0
    assert properties["proj:epsg"] == 32632
    assert properties["s2:sequence"] == "1"
    assert properties["view:sun_elevation"] is None
    leftovers = json.loads(properties[EXTRA])
    assert leftovers["/properties/view:sun_elevation"] == {"mean": 30}
    assert leftovers["/properties/instruments"] == "msi"
    assert leftovers["/properties/new:thing"] == {"a": [1, 2.5, None]}
    assert leftovers["/assets/red/gsd"] == "ten"
    assert leftovers["/assets/mystery"] == {"href": "https://example.com/x"}
    assert leftovers["/extra_top"] == [1]
    assert PROVIDER.canonical(item) == item


def test_3d_boxes_and_missing_boxes() -> None:
    raw = raw_item()
    raw["bbox"] = [7, 46, 100, 8, 47, 900]
    assert PROVIDER.canonical(raw)["bbox"] == [7.0, 46.0, 8.0, 47.0]
    del raw["bbox"]
    raw["geometry"]["coordinates"] = [[[7, 46, 5], [8, 46, 5], [8, 47, 5], [7, 46, 5]]]
    assert PROVIDER.canonical(raw)["bbox"] == [7.0, 46.0, 8.0, 47.0]
    raw["geometry"]["coordinates"] = [[[179.5, 1], [-179.5, 1], [-179.5, 2], [179.5, 1]]]
    assert PROVIDER.canonical(raw)["bbox"] == [179.5, 1.0, -179.5, 2.0]


def test_the_template_has_a_value_in_every_column_of_every_item(shared_dir: Path) -> None:
    def paths(value: Any, here: str = "") -> Iterator[tuple[str, type]]:
        if isinstance(value, dict):
            for key, member in value.items():
                yield from paths(member, f"{here}/{key}")
        elif isinstance(value, list):
            for member in value:
                yield from paths(member, f"{here}/*")
        elif value is not None:
            yield here, type(value)

    template = dict(paths(PROVIDER.template()))
    for raw in recorded(shared_dir):
        for path, kind in paths(PROVIDER.canonical(raw)):
            assert path.startswith(("/geometry", "/bbox")) or template[path] is kind, path


# -- radiometry -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "offset", "baseline", "key", "expected", "reason"),
    [
        (True, -0.1, "05.00", "B04", 0.0, "boa_offset_applied"),
        (True, None, "05.00", "B04", 0.0, "boa_offset_applied"),
        (False, -0.1, "05.00", "B04", -0.1, "raster:bands"),
        (False, 0, "02.14", "B04", 0.0, "raster:bands"),
        (None, -0.1, "05.10", "B04", -0.1, "raster:bands"),
        (None, 0, "05.10", "B04", 0.0, "raster:bands"),
        (None, None, "04.00", "B04", -0.1, "baseline"),
        (None, None, "03.01", "B04", 0.0, "baseline"),
        (None, None, None, "B04", 0.0, "default"),
        ("true", None, None, "B04", 0.0, "default"),
        (True, 0, "05.00", "B04_jp2", -0.1, "baseline"),
        (True, -0.1, "02.14", "B04_jp2", 0.0, "baseline"),
        (True, -0.1, None, "B04_jp2", -0.1, "raster:bands"),
    ],
)
def test_radiometry(flag: Any, offset: Any, baseline: Any, key: str, expected: float, reason: str) -> None:
    properties: dict[str, Any] = {"earthsearch:boa_offset_applied": flag, "s2:processing_baseline": baseline}
    band = {} if offset is None else {"offset": offset}
    chosen = radiometry(properties, key, {"raster:bands": [band]})
    assert (chosen.offset, chosen.reason) == (expected, reason)
    assert (chosen.scale, chosen.nodata) == (0.0001, 0.0)
    assert explain(reason) != reason


def test_radiometry_survives_nonsense() -> None:
    for bands in (
        None,
        [],
        "x",
        [None],
        [{"scale": 0, "offset": "x", "nodata": None}],
        [{"scale": float("nan")}],
        [{"offset": 10**400}],
    ):
        chosen = radiometry({}, "B04", {"raster:bands": bands})
        assert (chosen.scale, chosen.offset, chosen.nodata) == (0.0001, 0.0, 0.0)


# -- nothing crashes ------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        [
            "72",
            "1e5",
            "-0.0",
            "NaN",
            "2020-03-05T10:37:41.587123456Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:60Z",
        ]
    ),
    st.integers(min_value=2**62, max_value=2**70),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


REASONS = {
    "assets", "collection", "datetime", "geometry", "id", "not_json", "platform", "properties", "tile", "too_deep", "too_large",
}  # fmt: skip


def paths_of(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if here:
        yield here
    if isinstance(value, dict):
        for key, member in value.items():
            yield from paths_of(member, (*here, key))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from paths_of(member, (*here, index))


@st.composite
def mutated(draw: st.DrawFn, items: list[dict[str, Any]]) -> dict[str, Any]:
    """A real item with some values dropped, retyped, nested, added or made huge."""
    raw = copy.deepcopy(draw(st.sampled_from(items)))
    for _ in range(draw(st.integers(1, 6))):
        path = draw(st.sampled_from(list(paths_of(raw))))
        target: Any = raw
        for key in path[:-1]:
            target = target[key]
        action = draw(st.sampled_from(["drop", "replace", "nest", "text", "add", "huge", "number"]))
        key = path[-1]
        if action == "drop":
            del target[key]
        elif action == "replace":
            target[key] = draw(values)
        elif action == "nest":
            target[key] = {"nested": target[key]} if draw(st.booleans()) else [target[key]]
        elif action == "text":
            target[key] = json.dumps(target[key])
        elif action == "number":
            target[key] = draw(st.integers() | st.floats())
        elif action == "huge":
            target[key] = draw(st.sampled_from(["x" * 50_000, [0.5] * 5_000, 10**300, {"k" * 3000: 1}]))
        elif isinstance(target, dict):
            target[
                draw(
                    st.text(max_size=12)
                    | st.sampled_from(["datetime", "geostack:extra", "geostack:scene", "crs"])
                )
            ] = draw(values)
    return raw


def mutated_items() -> st.SearchStrategy[dict[str, Any]]:
    folder = Path(__file__).parents[2].parent / "shared"
    items = [raw_item()]
    if (folder / "samples").is_dir():
        real = recorded(folder)
        # few of their assets, which are all alike: most mutations shall hit something else
        for item in (real[0], real[1], real[-1]):
            kept = {
                name: asset
                for name, asset in item["assets"].items()
                if name in {"red", "red-jp2", "scl", "thumbnail"}
            }
            items.append({**item, "assets": kept})
    return mutated(items)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated_items())
def test_any_item_is_canonical_or_rejected_with_a_reason(raw: dict[str, Any]) -> None:
    try:
        item = PROVIDER.canonical(raw)
    except RejectedItemError as caught:
        reason, detail = caught.reason, caught.detail
    else:
        check_canonical(item)
        assert PROVIDER.canonical(item) == item
        return
    assert reason in REASONS
    assert detail


# -- hrefs and stores -----------------------------------------------------------------------------


@pytest.mark.parametrize("bucket", ["sentinel-cogs", "e84-earth-search-sentinel-data"])
def test_https_and_s3_hrefs_lead_to_the_same_object(bucket: str) -> None:
    key = "sentinel-s2-l2a-cogs/32/T/MT/2020/3/S2A_32TMT_20200305_1_L2A/B04.tif"
    for href in (f"https://{bucket}.s3.us-west-2.amazonaws.com/{key}", f"s3://{bucket}/{key}"):
        ref = PROVIDER.locate(href)
        assert (ref.store_id, ref.key, ref.canonical) == (f"s3://{bucket}", key, f"s3://{bucket}/{key}")


@pytest.mark.parametrize(
    "href",
    [
        "s3://sentinel-s2-l2a/tiles/32/T/MT/2020/3/5/1/B04.jp2",
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com.evil.example/x.tif",
        "https://evil.example/sentinel-cogs/x.tif",
        "https://user:pass@sentinel-cogs.s3.us-west-2.amazonaws.com/x.tif",
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com/a/../x.tif",
        "http://sentinel-cogs.s3.us-west-2.amazonaws.com/x.tif",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
    ],
)
def test_other_hrefs_are_refused_without_secrets(href: str) -> None:
    with pytest.raises(HrefRefusedError) as caught:
        PROVIDER.locate(href)
    assert "pass@" not in str(caught.value)


def test_every_cog_of_a_recorded_item_can_be_located(shared_dir: Path) -> None:
    for raw in recorded(shared_dir):
        for key, asset in PROVIDER.canonical(raw)["assets"].items():
            if not key.endswith("_jp2"):
                assert (
                    PROVIDER.locate(asset["href"]).canonical.endswith(key.split("_")[0] + ".tif")
                    or key not in sentinel2.BANDS
                )


def test_an_unknown_store_is_refused() -> None:
    with pytest.raises(HrefRefusedError):
        PROVIDER.store("s3://somebody-elses")


FETCH = """
import sys
from geostack_pipeline.providers.contract import Endpoint
from geostack_pipeline.providers.earth_search import EarthSearch
provider = EarthSearch(endpoints={"sentinel-cogs": Endpoint(url=sys.argv[1], allow_http=True)})
ref = provider.locate("https://sentinel-cogs.s3.us-west-2.amazonaws.com/a/B04.tif")
print(bytes(provider.store(ref.store_id).get_range(ref.key, start=1, length=3)))
"""


def test_the_machines_aws_variables_change_no_request() -> None:
    """obstore reads AWS_* by itself; a stray variable must neither sign, redirect nor decorate a request."""
    seen: list[tuple[str, dict[str, str]]] = []

    class Bucket(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(206)
            self.send_header("content-range", "bytes 1-3/6")
            self.send_header("content-length", "3")
            self.send_header("etag", '"e"')
            self.send_header("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            self.end_headers()
            self.wfile.write(b"bcd")

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hostile = {
        "AWS_ACCESS_KEY_ID": "AKIAHOSTILE",
        "AWS_SECRET_ACCESS_KEY": "hostile",
        "AWS_SESSION_TOKEN": "hostile",
        "AWS_SKIP_SIGNATURE": "false",
        "AWS_REGION": "eu-west-9",
        "AWS_DEFAULT_REGION": "eu-west-9",
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_REQUEST_PAYER": "true",
        "AWS_S3_EXPRESS": "true",
        "AWS_BUCKET": "other",
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AZURE_"))}
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        for environment in (clean, {**clean, **hostile}):
            done = subprocess.run(
                [sys.executable, "-c", FETCH, url],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (done.returncode, done.stdout.strip()) == (0, "b'bcd'"), done.stderr[-500:]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0][0] == "/sentinel-cogs/a/B04.tif"
    assert not {"authorization", "x-amz-request-payer", "x-amz-security-token"} & seen[0][1].keys()
    assert seen[0][1]["range"] == "bytes=1-3"
