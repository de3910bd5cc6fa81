"""STAC 1.1 items, collections and catalogs of results, as plain documents with relative links."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as installed
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geostack_pipeline.publish.antimeridian import box_around, box_of, cut
from geostack_pipeline.publish.cog import Placement
from geostack_pipeline.publish.products import PLUMES, PROCESSOR, Layer, Sensor
from geostack_pipeline.publish.schemas import EXTENSIONS, STAC_VERSION

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
ZARR = "application/vnd.zarr; version=3"
GEOJSON = "application/geo+json"
PARQUET = "application/vnd.apache.parquet"
JSON = "application/json"
PREFIX = "geostack:"
"""Of properties that no extension has a name for."""

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Source:
    """An item of a catalog that a result was made from."""

    item_id: str
    href: str
    """Where the catalog has it."""
    media_type: str = GEOJSON
    collection: str | None = None
    licences: tuple[str, ...] = ()
    """Addresses of its licence."""

    def link(self) -> Document:
        """Return the ``derived_from`` link."""
        return {"rel": "derived_from", "href": self.href, "type": self.media_type, "title": self.item_id}


@dataclass(frozen=True, kw_only=True)
class StoredVersion:
    """A stored version that a result was made from."""

    asset: str
    partition: str
    version: str
    href: str
    """Relative to the item."""

    def link(self) -> Document:
        """Return the ``derived_from`` link."""
        title = f"{self.asset} {self.partition} version {self.version}"
        return {"rel": "derived_from", "href": self.href, "type": JSON, "title": title}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What an item was made from."""

    sources: Sequence[Source]
    versions: Sequence[StoredVersion]
    lineage: str
    """The processing in one sentence."""
    artifact: str = ""
    """Version of the artifact that holds the item."""
    properties: Mapping[str, Any] = field(default_factory=dict)


def stamp(moment: datetime) -> str:
    """Return a time as STAC writes it; a time without zone is UTC."""
    utc = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds" if utc.microsecond else "seconds").replace("+00:00", "Z")


def placed(shape: Any) -> Document:
    """Return ``geometry`` and ``bbox`` of a feature from a polygon, or several, in degrees."""
    on_earth = cut(shape)
    return {"geometry": json.loads(shapely.to_geojson(on_earth)), "bbox": box_of(on_earth)}


def file_facts(data: bytes, sha256: str) -> Document:
    """Return size and checksum of a file: a multihash of kind sha2-256."""
    return {"file:size": len(data), "file:checksum": f"1220{sha256}"}


def band_facts(values: NDArray[Any], layer: Layer, place: Placement, nodata: float | None) -> Document:
    """Return what raster extension and STAC 1.1 say of a plane of data."""
    known = values[np.isfinite(values)] if np.issubdtype(values.dtype, np.floating) else values.ravel()
    shown: Any = "nan" if nodata is not None and np.isnan(nodata) else nodata
    common: Document = {"data_type": values.dtype.name}
    if layer.unit:
        common["unit"] = layer.unit
    raster = dict(common)
    if shown is not None:
        # Not among STAC's own bands: rustac reads a number there, and "nan" is none.
        raster["nodata"] = shown
    if not place.crs.is_geographic:
        raster["spatial_resolution"] = abs(place.transform.a)
    if known.size and "quality" not in layer.roles:
        raster["statistics"] = {
            "minimum": float(known.min()),
            "maximum": float(known.max()),
            "mean": float(known.mean(dtype=np.float64)),
            "stddev": float(known.std(dtype=np.float64)),
            "valid_percent": 100.0 * known.size / values.size,
        }
    return {
        "bands": [{"name": layer.variable, "description": layer.title, **common}],
        "raster:bands": [raster],
    }


def projection(place: Placement) -> Document:
    """Return the properties of the projection extension."""
    facts: Document = {
        "proj:code": place.code,
        "proj:shape": list(place.shape),
        "proj:transform": [*map(float, place.transform[:6]), 0.0, 0.0, 1.0],
        "proj:bbox": [float(part) for part in place.bbox],
    }
    if place.code is None:
        facts["proj:wkt2"] = place.crs.to_wkt()
    return facts


def field_item(
    *,
    item_id: str,
    collection: str,
    title: str,
    time: datetime,
    place: Placement,
    sensor: Sensor,
    platforms: Iterable[str],
    cloud_cover: float | None,
    assets: Mapping[str, Document],
    origin: Origin,
    related: Iterable[Document] = (),
) -> Document:
    """Return the item of one node of fields at one time; an unknown cloud cover is left out: the schema has no null."""
    properties = {
        "title": title,
        **_common(time, sensor, platforms, origin),
        **projection(place),
        **({} if cloud_cover is None else {"eo:cloud_cover": cloud_cover}),
        **origin.properties,
    }
    used = ("eo", "file", "processing", "projection", "raster")
    polygon = shapely.Polygon(place.outline())
    return _item(item_id, collection, polygon, properties, used, assets, origin, related)


def plume_item(
    *,
    item_id: str,
    row: Mapping[str, Any],
    sensor: Sensor,
    platforms: Iterable[str],
    assets: Mapping[str, Document],
    origin: Origin,
    related: Iterable[Document] = (),
) -> Document:
    """Return the item of one plume; the columns of its row are properties, times and lists included."""
    left_out = {"geometry", "bbox", "time", "plume_id"}
    own = {f"{PREFIX}{name}": _plain(value) for name, value in row.items() if name not in left_out}
    rate, sigma = row["emission_rate_kg_h"], row["emission_rate_sigma_kg_h"]
    title = f"Methane plume over {row['area']}"
    if rate is not None:
        title += (
            f", {rate / 1000:.1f} t/h" if sigma is None else f", {rate / 1000:.1f} ± {sigma / 1000:.1f} t/h"
        )
    properties = {
        "title": title,
        **_common(row["time"], sensor, platforms, origin),
        **own,
        **origin.properties,
    }
    shape = shapely.from_wkb(row["geometry"])
    return _item(item_id, PLUMES, shape, properties, ("file", "processing"), assets, origin, related)


def _common(time: datetime, sensor: Sensor, platforms: Iterable[str], origin: Origin) -> Document:
    seen = sorted(set(platforms))
    facts: Document = {
        "datetime": stamp(time),
        "instruments": list(sensor.instruments),
        "processing:lineage": origin.lineage,
        "processing:level": "L4",
        "processing:software": {"geostack_pipeline": installed("geostack_pipeline")},
        f"{PREFIX}version": origin.artifact,
        f"{PREFIX}source_items": [source.item_id for source in origin.sources],
        f"{PREFIX}source_versions": [f"{one.asset}/{one.partition}={one.version}" for one in origin.versions],
    }
    if len(seen) == 1:
        facts["platform"] = seen[0]
    if sensor.constellation:
        facts["constellation"] = sensor.constellation
    return facts


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _item(
    item_id: str,
    collection: str,
    shape: Any,
    properties: Mapping[str, Any],
    extensions: Iterable[str],
    assets: Mapping[str, Document],
    origin: Origin,
    related: Iterable[Document],
) -> Document:
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EXTENSIONS[name] for name in extensions],
        "id": item_id,
        "collection": collection,
        **placed(shape),
        "properties": dict(sorted(properties.items())),
        "links": [
            {"rel": "root", "href": "../../catalog.json", "type": JSON},
            {"rel": "parent", "href": "../collection.json", "type": JSON},
            {"rel": "collection", "href": "../collection.json", "type": JSON},
            *(source.link() for source in origin.sources),
            *(version.link() for version in origin.versions),
            *related,
        ],
        "assets": {key: dict(asset) for key, asset in assets.items()},
    }


def collection_document(
    *,
    collection_id: str,
    title: str,
    description: str,
    items: Sequence[Document],
    providers: Iterable[Mapping[str, Any]],
    licences: Iterable[str],
    assets: Mapping[str, Document] | None = None,
    keywords: Iterable[str] = (),
) -> Document:
    """Return a collection over its items, which it links to as ``./<id>/<id>.json``."""
    document: Document = {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "id": collection_id,
        "title": title,
        "description": description,
        "keywords": ["methane", *keywords],
        # Whoever runs the pipeline decides; the scenes' own terms are linked.
        "license": "other",
        "providers": [dict(one) for one in (*providers, PROCESSOR)],
        "extent": extent(items),
        "summaries": _summaries(items),
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": JSON},
            {"rel": "parent", "href": "../catalog.json", "type": JSON},
            *(
                {"rel": "license", "href": href, "title": "terms of the scenes"}
                for href in sorted(set(licences))
            ),
            *(
                {"rel": "item", "href": f"./{item['id']}/{item['id']}.json", "type": GEOJSON}
                for item in items
            ),
        ],
    }
    if assets:
        document["assets"] = {key: dict(asset) for key, asset in assets.items()}
    return document


def extent(items: Sequence[Document]) -> Document:
    """Return the extent of items; of none the whole world at no stated time."""
    if not items:
        return {"spatial": {"bbox": [[-180.0, -90.0, 180.0, 90.0]]}, "temporal": {"interval": [[None, None]]}}
    times = sorted(item["properties"]["datetime"] for item in items)
    box = box_around(item["bbox"] for item in items)
    return {"spatial": {"bbox": [box]}, "temporal": {"interval": [[times[0], times[-1]]]}}


def _summaries(items: Sequence[Document]) -> Document:
    def values(name: str) -> list[Any]:
        return sorted(
            {item["properties"][name] for item in items if item["properties"].get(name) is not None}
        )

    found = {
        name: values(name)
        for name in (
            "platform",
            "constellation",
            f"{PREFIX}maturity",
            f"{PREFIX}method",
            f"{PREFIX}model_version",
        )
    }
    instruments = sorted({one for item in items for one in item["properties"].get("instruments", [])})
    return {name: some for name, some in {**found, "instruments": instruments}.items() if some}


def catalog_document(
    *,
    catalog_id: str,
    title: str,
    description: str,
    collections: Iterable[Document],
    links: Iterable[Document] = (),
) -> Document:
    """Return the catalog over collections, which it links to as ``./<id>/collection.json``."""
    return {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": catalog_id,
        "title": title,
        "description": description,
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": JSON},
            *(
                {
                    "rel": "child",
                    "href": f"./{one['id']}/collection.json",
                    "type": JSON,
                    "title": one["title"],
                }
                for one in collections
            ),
            *links,
        ],
    }
