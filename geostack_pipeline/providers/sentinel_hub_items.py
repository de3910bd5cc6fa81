"""Sentinel Hub's Sentinel-2 items: one asset, the product's folder, from which the bands are told.

As recorded on the Data Space: ids are product names ending in ``.SAFE``; the only asset is ``data``
(``inode/directory``, ``s3://EODATA/…SAFE``); geometries are MultiPolygons with a ``crs`` member; there is neither
baseline nor tile nor orbit nor any angle among the properties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers.canonical import OWN_PROPERTIES
from geostack_pipeline.providers.coerce import Shape, parse_time
from geostack_pipeline.providers.contract import Item, Radiometry
from geostack_pipeline.providers.geometry import GeometryError, bbox_of, canonical_geometry
from geostack_pipeline.providers.sentinel2_items import FILE_SHAPE, RASTER_SHAPE, Sentinel2Form
from geostack_pipeline.providers.sun import sun_elevation

COLLECTION = "sentinel-2-l2a"
SAFE = "SAFE"
"""Canonical key of the product's folder."""

DERIVED_PROPERTY = "geostack:derived"
"""Names the properties that the catalog does not give and that were computed."""

METRES: Mapping[str, int] = {
    "B01": 60,
    "B02": 10,
    "B03": 10,
    "B04": 10,
    "B05": 20,
    "B06": 20,
    "B07": 20,
    "B08": 10,
    "B8A": 20,
    "B09": 60,
    "B11": 20,
    "B12": 20,
    "SCL": 20,
}
"""Band -> pixel size in metres at which the sensor takes it; the product has a file of that size."""

_PROPERTY_SHAPES: Mapping[str, Shape] = {
    **OWN_PROPERTIES,
    "constellation": "str",
    "instruments": ["str"],
    "gsd": "float",
    "proj:epsg": "int",
    "proj:bbox": ["float"],
    DERIVED_PROPERTY: "str",
}

BASELINE = "baseline"
DEFAULT = "default"
PROCESS = "process"
REASONS: Mapping[str, str] = {
    BASELINE: "the catalog says nothing; offset derived from the processing baseline in the product's name",
    DEFAULT: "the name holds no processing baseline, offset 0",
    PROCESS: "the Process API returns reflectance, whatever the baseline; "
    "it is stored as reflectance * 10,000 + 1,000 in 16 bits, 0 is no data",
}

RENDERED = Radiometry(scale=0.0001, offset=-0.1, nodata=0.0, reason=PROCESS)
"""Of every band that the Process API makes: the evalscript writes these numbers.  16 bits hold reflectance as finely as
the products do, negative values included, at half the bytes and half the processing units of floats."""


def radiometry(properties: Mapping[str, Any], source: str) -> Radiometry:
    """Return how a reflectance band's digital numbers become reflectance. Pure.

    The catalog gives neither scale nor offset.  Files of the product are ESA's, which nobody harmonised: the offset is
    -0.1 from baseline 04.00 on, 0 before.  Pictures of the Process API have numbers of our own.

    Args:
        properties: Canonical properties: ``processing:baseline``.
        source: ``safe`` or ``process``.
    """
    if source == "process":
        return RENDERED
    offset = sentinel2.offset_of(sentinel2.parse_baseline(properties.get("processing:baseline")))
    return Radiometry(
        scale=sentinel2.SCALE,
        offset=0.0 if offset is None else offset,
        nodata=sentinel2.NODATA,
        reason=DEFAULT if offset is None else BASELINE,
    )


class SentinelHubForm(Sentinel2Form):
    """Items of ``sentinel-2-l2a``."""

    property_shapes = _PROPERTY_SHAPES
    reasons = REASONS
    default_reason = DEFAULT

    def __init__(self, url: str, public_url: str, source: str) -> None:
        self.homes = (url, public_url)
        self._source = source

    def collection(self, name: str) -> str | None:
        """Return the collection's own name."""
        return name if name == COLLECTION else None

    def prepare(self, item: Item) -> Item:
        """Give every band an asset of its own at the product's folder; which file it is, the folder's listing tells."""
        assets = item.get("assets")
        if not isinstance(assets, dict):
            return item
        folder = assets.get("data")
        if not isinstance(folder, dict) or not isinstance(folder.get("href"), str):
            return item
        bands = {
            key: {"href": folder["href"], "type": "image/jp2", "gsd": metres, "roles": ["data"]}
            for key, metres in METRES.items()
        }
        return {**item, "assets": {**bands, **assets}}

    def asset_key(self, name: str, asset: Mapping[str, Any]) -> str | None:  # noqa: ARG002 - the name says it
        """Return ``SAFE`` for ``data``, bands as they are."""
        if name == "data":
            return SAFE
        return name if name == SAFE or name in METRES else None

    def asset_keys(self) -> Sequence[str]:
        """Return the bands and the folder."""
        return (*METRES, SAFE)

    def asset_shape(self, key: str) -> Mapping[str, Shape]:
        """Return few columns for the folder."""
        return FILE_SHAPE if key == SAFE else RASTER_SHAPE

    def product_name(self, properties: Mapping[str, Any], item: Item) -> str | None:  # noqa: ARG002
        """Return the id."""
        return str(item["id"])

    def describe(self, properties: dict[str, Any], item: Item, leftovers: dict[str, Any]) -> None:
        """Set what identifies the scene, and compute the sun's elevation, without which methane has no light path."""
        super().describe(properties, item, leftovers)
        derived = properties.get(DERIVED_PROPERTY) == "view:sun_elevation"
        moment = parse_time(properties["datetime"])
        if (properties.get("view:sun_elevation") is not None and not derived) or moment is None:
            return
        try:
            west, south, east, north = bbox_of(canonical_geometry(item.get("geometry")))
        except GeometryError:
            return  # the engine rejects the item for it
        longitude = (west + (east if east >= west else east + 360.0)) / 2.0
        properties["view:sun_elevation"] = round(sun_elevation(moment, longitude, (south + north) / 2.0), 6)
        properties[DERIVED_PROPERTY] = "view:sun_elevation"

    def radiometry(self, properties: Mapping[str, Any], key: str, asset: Mapping[str, Any]) -> Radiometry:  # noqa: ARG002
        """Return what :func:`radiometry` decides."""
        return radiometry(properties, self._source)
