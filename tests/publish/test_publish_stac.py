"""Items and collections: valid by schemas that ask nobody, and judged the same way by pystac."""

from __future__ import annotations

import copy
import json
import socket
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pystac
import pytest
import rustac
import shapely
from test_publish_cog import node

from geostack_pipeline.methane.plume_table import plume_rows
from geostack_pipeline.publish.cog import placement
from geostack_pipeline.publish.geoparquet import items_parquet
from geostack_pipeline.publish.items import (
    COG,
    Origin,
    Source,
    StoredVersion,
    band_facts,
    catalog_document,
    collection_document,
    extent,
    field_item,
    file_facts,
    plume_item,
    stamp,
)
from geostack_pipeline.publish.products import LAYERS, PLUMES, SENSORS, fields_collection, platform_of, sensor
from geostack_pipeline.publish.root import PublishedDate, root_catalog
from geostack_pipeline.publish.schemas import EXTENSIONS, problems

NOON = datetime(2024, 6, 7, 7, 23, 8, 899000, tzinfo=UTC)
ORIGIN = Origin(
    sources=[
        Source(
            item_id="S2A_X",
            href="https://earth-search.aws.element84.com/v1/collections/sentinel-2-l2a/items/S2A_X",
            collection="sentinel-2-l2a",
            licences=("https://sentinel.esa.int/legal",),
        )
    ],
    versions=[
        StoredVersion(
            asset="earth_search/methane",
            partition="2024-06-07",
            version="0123456789abcdef",
            href="../../../../../../earth_search/methane/2024-06-07/0123456789abcdef/complete.json",
        )
    ],
    lineage="MBMP of Sentinel-2 scenes",
    artifact="fedcba9876543210",
)


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a server was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def a_field(
    instrument: str = "sentinel-2",
    code: str = "EPSG:32640",
    step: float = 20.0,
    cloud_cover: float | None = 3.5,
) -> dict[str, Any]:
    fields = node(code, step=step, shape=(60, 70))
    place = placement(fields)
    values = fields["ch4_enhancement"].values
    asset = {
        "href": "./ch4_enhancement.tif",
        "type": COG,
        "title": "Methane",
        "roles": ["data"],
        **band_facts(values, LAYERS[0], place, float("nan")),
        **file_facts(b"abc", "ab" * 32),
        "eo:bands": [dict(band) for band in SENSORS[instrument].bands],
    }
    return field_item(
        item_id=f"ch4-korpezhe-{instrument}",
        collection=fields_collection(instrument),
        title="Methane over korpezhe",
        time=NOON,
        place=place,
        sensor=sensor(instrument),
        platforms=["sentinel-2a"],
        cloud_cover=cloud_cover,
        assets={"ch4_enhancement": asset},
        origin=ORIGIN,
    )


def a_plume(**changes: Any) -> dict[str, Any]:
    row = {
        "plume_id": "korpezhe-20240607T072308-38.5N-54.0E", "provider": "earth_search", "instrument": "sentinel-2",
        "area": "korpezhe", "time": NOON, "method": "mbmp", "maturity": "screening",
        "geometry": shapely.to_wkb(shapely.box(54.0, 38.5, 54.01, 38.505)), "source_longitude": 54.0,
        "source_latitude": 38.5, "area_m2": 4e5, "ime_kg": 900.0, "item_ids": ["S2A_X"], "reference_item_ids": [],
        "emission_rate_kg_h": 9000.0, "emission_rate_sigma_kg_h": 3000.0, **changes,
    }  # fmt: skip
    return plume_item(
        item_id="korpezhe-20240607T072308-38.5N-54.0E",
        row=plume_rows([row]).to_pylist()[0],
        sensor=sensor("sentinel-2"),
        platforms=["sentinel-2a"],
        assets={"outline": {"href": "./plume.geojson", "type": "application/geo+json", "roles": ["data"]}},
        origin=ORIGIN,
    )


def a_collection(items: list[dict[str, Any]]) -> dict[str, Any]:
    return collection_document(
        collection_id=items[0]["collection"] if items else PLUMES,
        title="Methane",
        description="Methane.",
        items=items,
        providers=[SENSORS["sentinel-2"].provider],
        licences=["https://sentinel.esa.int/legal"],
    )


@pytest.mark.parametrize(
    ("instrument", "code", "step"),
    [("sentinel-2", "EPSG:32640", 20.0), ("emit", "EPSG:4326", 0.0005), ("enmap", "EPSG:32640", 30.0)],
)
def test_items_and_collections_are_valid(instrument: str, code: str, step: float) -> None:
    item = a_field(instrument, code, step)
    assert problems(item) == []
    assert problems(a_collection([item])) == []
    json.dumps(item, allow_nan=False)
    read = pystac.Item.from_dict(item)
    assert read.datetime == NOON
    # The schemas of STAC itself, as pystac carries them.
    core = {**item, "stac_extensions": []}
    pystac.validation.validate_dict(core)


def test_an_unknown_cloud_cover_is_left_out() -> None:
    item = a_field(cloud_cover=None)
    assert "eo:cloud_cover" not in item["properties"]
    assert problems(item) == []


@pytest.mark.parametrize("rate", [None, 9000.0])
def test_a_plume_is_valid_with_and_without_a_rate(rate: float | None) -> None:
    item = a_plume(emission_rate_kg_h=rate, emission_rate_sigma_kg_h=rate and rate / 3)
    assert problems(item) == []
    assert ("t/h" in item["properties"]["title"]) == (rate is not None)
    assert item["properties"]["geostack:ime_kg"] == 900.0
    assert {link["href"] for link in item["links"] if link["rel"] == "derived_from"} == {
        ORIGIN.sources[0].href,
        ORIGIN.versions[0].href,
    }


def test_a_date_without_anything_is_a_valid_catalog() -> None:
    collection = a_collection([])
    assert problems(collection) == []
    assert (
        problems(catalog_document(catalog_id="a", title="A", description="B", collections=[collection])) == []
    )


def _set(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    *before, last = path.split("/")
    place = changed
    for part in before:
        place = place[part]
    place[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "schema"),
    [
        ("properties/datetime", "yesterday", "item-spec"),
        ("properties/datetime", None, "item-spec"),
        ("geometry", {"type": "Polygon", "coordinates": [[0, 0]]}, "item-spec"),
        ("properties/eo:cloud_cover", 140, "/eo/"),
        ("properties/proj:shape", [1], "/projection/"),
        ("properties/proj:code", 32640, "/projection/"),
        ("properties/processing:software", {"geostack_pipeline": 1}, "/processing/"),
        ("assets/ch4_enhancement/raster:bands", [{"data_type": "float31"}], "/raster/"),
        ("assets/ch4_enhancement/file:size", "3", "/file/"),
        (
            "stac_extensions",
            ["https://stac-extensions.github.io/view/v1.0.0/schema.json"],
            "no schema is carried",
        ),
    ],
)
def test_what_is_wrong_is_found_and_named(path: str, value: Any, schema: str) -> None:
    found = problems(_set(a_field(), path, value))
    assert found
    assert schema in found[0]


def test_every_carried_extension_is_looked_at() -> None:
    # That of models is in tests/learning/test_model_item.py.
    assert {*a_field()["stac_extensions"], EXTENSIONS["mlm"]} == set(EXTENSIONS.values())
    assert problems({"type": "Thing"}) == ["type 'Thing' is no STAC"]
    assert problems({**a_field(), "stac_version": "1.0.0"}) == ["stac_version '1.0.0' is not 1.1.0"]


def test_bands_say_what_the_data_are() -> None:
    fields = node(shape=(60, 70))
    values = fields["ch4_enhancement"].values
    (band,) = band_facts(values, LAYERS[0], placement(fields), float("nan"))["raster:bands"]
    assert (band["nodata"], band["unit"], band["spatial_resolution"]) == ("nan", "ppm m", 20.0)
    assert band["statistics"]["mean"] == pytest.approx(float(np.nanmean(values.astype(np.float64))))
    assert band["statistics"]["valid_percent"] == pytest.approx(100.0 * np.isfinite(values).mean())


def test_the_table_of_items_reads_back_in_rustac(tmp_path: Any) -> None:
    items = [a_plume(), a_field(), a_field("enmap")]
    data = items_parquet(items)
    assert data == items_parquet(items[::-1])
    (tmp_path / "items.parquet").write_bytes(data)
    read = rustac.read_sync(str(tmp_path / "items.parquet"))["features"]
    assert [one["id"] for one in read] == sorted(
        (item["id"] for item in items),
        key=lambda name: next(i["collection"] for i in items if i["id"] == name),
    )
    wanted = {item["id"]: item for item in items}
    for one in read:
        assert one["properties"]["datetime"] == wanted[one["id"]]["properties"]["datetime"]
        assert one["bbox"] == pytest.approx(wanted[one["id"]]["bbox"])
    (tmp_path / "none.parquet").write_bytes(items_parquet([]))
    assert rustac.read_sync(str(tmp_path / "none.parquet"))["features"] == []


@pytest.mark.parametrize(
    ("url", "asset", "version"),
    [
        (
            "file:///data/store/artifacts/published/2024-06-07/v/attempt-1/",
            "file:///data/store/artifacts/published/2024-06-07/v/attempt-1/c/i/ch4_enhancement.tif",
            "file:///data/store/artifacts/earth_search/methane/2024-06-07/0123456789abcdef/complete.json",
        ),
        (
            "s3://bucket/x/artifacts/published/2024-06-07/v/attempt-1/",
            "s3://bucket/x/artifacts/published/2024-06-07/v/attempt-1/c/i/ch4_enhancement.tif",
            "s3://bucket/x/artifacts/earth_search/methane/2024-06-07/0123456789abcdef/complete.json",
        ),
        (
            "https://host/artifacts/published/2024-06-07/v/attempt-1/",
            "https://host/artifacts/published/2024-06-07/v/attempt-1/c/i/ch4_enhancement.tif",
            "https://host/artifacts/earth_search/methane/2024-06-07/0123456789abcdef/complete.json",
        ),
    ],
)
def test_the_catalog_over_all_dates_leads_to_the_files(url: str, asset: str, version: str) -> None:
    dates = [
        PublishedDate(
            url=url, documents={"c/i/i.json": a_field(), "c/collection.json": a_collection([a_field()])}
        )
    ]
    catalog = root_catalog(dates)
    (item,) = catalog.items
    assert item["assets"]["ch4_enhancement"]["href"] == asset
    sources = [link["href"] for link in item["links"] if link["rel"] == "derived_from"]
    assert sources == [ORIGIN.sources[0].href, version]
    assert item["links"][0] == {"rel": "self", "href": f"{url}c/i/i.json", "type": "application/geo+json"}
    assert problems(item) == []


def test_collections_of_several_dates_become_one(tmp_path: Any) -> None:
    early = a_field()
    late = _set(_set(a_field(), "properties/datetime", "2024-06-09T07:00:00Z"), "bbox", [1.0, 2.0, 3.0, 4.0])
    late["id"] = "later"
    dates = [
        PublishedDate(
            url=f"file:///{name}/", documents={"c/i/i.json": item, "c/collection.json": a_collection([item])}
        )
        for name, item in (("one", early), ("two", late))
    ]
    catalog = root_catalog(dates)
    (collection,) = catalog.collections
    assert collection["extent"] == extent([early, late])
    assert collection["extent"]["temporal"]["interval"] == [[stamp(NOON), "2024-06-09T07:00:00Z"]]
    assert problems(collection) == []
    read = catalog.write(tmp_path)
    assert [path.name for path in read] == [f"{collection['id']}.json", "items.json"]
    assert problems(json.loads((tmp_path / "catalog.json").read_text(encoding="utf-8"))) == []
    assert len(rustac.read_sync(str(tmp_path / "items.parquet"))["features"]) == 2


def test_platforms_are_named_as_stac_names_them() -> None:
    assert [platform_of(name) for name in ("S2A", "sentinel-2b", "ISS")] == [
        "sentinel-2a",
        "sentinel-2b",
        "iss",
    ]
    assert fields_collection("Odd Name!") == "methane-enhancement-odd-name-"
    assert sensor("").title == "unknown"
