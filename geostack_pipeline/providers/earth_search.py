"""Element 84 Earth Search: Sentinel-2 L2A as COGs on open S3 buckets.

Seen in recorded answers and in the catalog's issues:

- ``next`` is a POST link with the whole body and ``merge: false``, given on the last full
  page too, so that the walk ends with an empty page; ``numberMatched`` and ``context.matched``
  are exact.
- ``filter`` is ignored without a word (the conformance does not list it), ``query`` works.
  Both are re-checked by the selection, neither is relied on.
- A bbox and day return every processing of a scene (baselines 02.14 and 05.00 side by side).
- Hrefs are https on the bucket's virtual host; ``*-jp2`` assets lie in a requester-pays bucket.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from geostack_pipeline.errors import HrefRefusedError, SettingsError
from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers.base import BaseProvider
from geostack_pipeline.providers.coerce import (
    MISSING,
    Shape,
    coerce,
    escape,
    format_time,
    json_text,
    parse_time,
)
from geostack_pipeline.providers.contract import (
    CANONICAL_PROPERTIES,
    Dialect,
    Endpoint,
    Item,
    ObjectRef,
    Radiometry,
    RejectedItemError,
    SearchWindow,
)
from geostack_pipeline.providers.geometry import GeometryError, bbox_of, canonical_bbox, canonical_geometry
from geostack_pipeline.providers.registry import ProviderConfig, ProviderSpec, refuse_options
from geostack_pipeline.storage.hrefs import AllowList, BucketRule
from geostack_pipeline.storage.roots import open_store

if TYPE_CHECKING:
    from obstore.store import ObjectStore

URL = "https://earth-search.aws.element84.com/v1"
"""The public API."""

REGION = "us-west-2"
BUCKETS: Mapping[str, str] = {
    "sentinel-2-l2a": "sentinel-cogs",
    "sentinel-2-c1-l2a": "e84-earth-search-sentinel-data",
}
"""Collection -> its open bucket. Other collections lie in requester-pays buckets or are no Sentinel-2 L2A."""

MAX_ITEM_BYTES = 1 << 20
"""Items are 12 to 25 kB; one of a megabyte is damage or an attack."""

EXTRA = "geostack:extra"
"""Property with everything that has no column, as JSON text: JSON pointer in the raw item -> value."""

_BAND_KEYS: Mapping[str, str] = {
    "coastal": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge1": "B05",
    "rededge2": "B06",
    "rededge3": "B07",
    "nir": "B08",
    "nir08": "B8A",
    "nir09": "B09",
    "swir16": "B11",
    "swir22": "B12",
    "scl": "SCL",
    "aot": "AOT",
    "wvp": "WVP",
    "visual": "TCI",
}
"""Earth Search's name -> canonical key; ``<name>-jp2`` becomes ``<key>_jp2``."""

_PLAIN_RASTERS = ("cloud", "snow")
_FILES = ("granule_metadata", "preview", "product_metadata", "thumbnail", "tileinfo_metadata")
_RASTER_KEYS: Mapping[str, str] = {
    **_BAND_KEYS,
    **{f"{name}-jp2": f"{key}_jp2" for name, key in _BAND_KEYS.items()},
}
ASSET_KEYS: Mapping[str, str] = {**_RASTER_KEYS, **{name: name for name in (*_PLAIN_RASTERS, *_FILES)}}
"""Every asset name of the two collections -> canonical key."""

_REFLECTANCE = frozenset(sentinel2.BANDS) | {f"{band}_jp2" for band in sentinel2.BANDS}
_CLASSES = frozenset({"SCL", "SCL_jp2"})

_ASSET_SHAPE: dict[str, Shape] = {
    "href": "str",
    "title": "str",
    "type": "str",
    "roles": ["str"],
    "gsd": "float",
    "eo:bands": [
        {
            "name": "str",
            "common_name": "str",
            "description": "str",
            "center_wavelength": "float",
            "full_width_half_max": "float",
        }
    ],
    "raster:bands": [
        {
            "nodata": "float",
            "data_type": "str",
            "bits_per_sample": "int",
            "spatial_resolution": "float",
            "unit": "str",
            "scale": "float",
            "offset": "float",
        }
    ],
    "proj:shape": ["int"],
    "proj:transform": ["float"],
    "file:checksum": "str",
    "file:size": "int",
}
_FILE_SHAPE: dict[str, Shape] = {
    name: _ASSET_SHAPE[name] for name in ("href", "title", "type", "roles", "file:checksum", "file:size")
}
"""Of assets that are not read as rasters: fewer columns; the rest goes into the extra text."""

_PERCENTAGES = (
    "cloud_shadow",
    "dark_features",
    "degraded_msi_data",
    "high_proba_clouds",
    "medium_proba_clouds",
    "nodata_pixel",
    "not_vegetated",
    "saturated_defective_pixel",
    "snow_ice",
    "thin_cirrus",
    "unclassified",
    "vegetation",
    "water",
)
_PROPERTY_SHAPE: dict[str, Shape] = {
    "datetime": "time",
    "created": "time",
    "updated": "time",
    "platform": "str",
    "constellation": "str",
    "instruments": ["str"],
    "gsd": "float",
    "eo:cloud_cover": "float",
    "proj:code": "str",
    "proj:epsg": "int",
    "proj:centroid": {"lat": "float", "lon": "float"},
    "grid:code": "str",
    "mgrs:utm_zone": "int",
    "mgrs:latitude_band": "str",
    "mgrs:grid_square": "str",
    "sat:relative_orbit": "int",
    "view:azimuth": "float",
    "view:incidence_angle": "float",
    "view:off_nadir": "float",
    "view:sun_azimuth": "float",
    "view:sun_elevation": "float",
    **{f"s2:{name}_percentage": "float" for name in _PERCENTAGES},
    "s2:datastrip_id": "str",
    "s2:datatake_id": "str",
    "s2:datatake_type": "str",
    "s2:generation_time": "time",
    "s2:granule_id": "str",
    "s2:processing_baseline": "str",
    "s2:product_type": "str",
    "s2:product_uri": "str",
    "s2:reflectance_conversion_factor": "float",
    "s2:sequence": "str",
    "s2:tile_id": "str",
    "earthsearch:boa_offset_applied": "bool",
    "earthsearch:payload_id": "str",
    "earthsearch:s3_path": "str",
    "storage:platform": "str",
    "storage:region": "str",
    "storage:requester_pays": "bool",
    "processing:baseline": "str",
    "processing:datetime": "time",
    "geostack:scene": "str",
    "geostack:radiometry": "str",
    EXTRA: "str",
}
_LINK_SHAPE: dict[str, Shape] = {"rel": "str", "href": "str", "type": "str", "title": "str"}
_TOP = frozenset(
    {
        "type",
        "stac_version",
        "stac_extensions",
        "id",
        "geometry",
        "bbox",
        "properties",
        "links",
        "assets",
        "collection",
    }
)
_NAVIGATION = frozenset({"self", "root", "parent", "collection", "items", "next", "prev", "thumbnail"})


# -- radiometry -----------------------------------------------------------------------------------

APPLIED = "boa_offset_applied"
ITEM = "raster:bands"
DERIVED = "baseline"
DEFAULT = "default"
_REASONS: Mapping[str, str] = {
    APPLIED: "the digital numbers are already harmonised (earthsearch:boa_offset_applied), offset 0",
    ITEM: "offset as raster:bands gives it",
    DERIVED: "offset derived from the processing baseline",
    DEFAULT: "neither flag, raster:bands nor baseline known, offset 0",
}


def radiometry(properties: Mapping[str, Any], key: str, asset: Mapping[str, Any]) -> Radiometry:
    """Return how a reflectance band's digital numbers become reflectance. Pure.

    Earth Search contradicts itself: items whose COGs had the +1000 of baseline 04.00
    removed (``earthsearch:boa_offset_applied: true``) still say ``raster:bands.offset:
    -0.1``; using both shifts twice.  In this order:

    1. The flag is true and the asset is a COG: offset 0, whatever ``raster:bands`` says.
    2. ``raster:bands`` gives an offset: that offset.
    3. The baseline is known: -0.1 from 04.00 on, 0 before.
    4. Nothing is known: 0.

    The ``_jp2`` assets are ESA's files, which nobody harmonised: the flag does not speak of
    them, so they begin with rule 3.  The sequence cannot see through a flag that is itself
    wrong (a few items of 2022 and 2025 are harmonised and say false: Element84/earth-search
    issues 66 and 71): nothing in the metadata tells them apart.

    Args:
        properties: Of the raw or canonical item: the flag and the baseline.
        key: Canonical asset key, e.g. ``B04`` or ``B04_jp2``.
        asset: The asset with its ``raster:bands`` as the catalog gave it.
    """
    band = _first_band(asset)
    scale, offset, nodata = (_finite(band.get(name)) for name in ("scale", "offset", "nodata"))
    if scale is None or scale <= 0.0:
        scale = sentinel2.SCALE
    if nodata is None:
        nodata = sentinel2.NODATA
    derived = sentinel2.offset_of(_baseline(properties))
    original = key.endswith("_jp2")
    if properties.get("earthsearch:boa_offset_applied") is True and not original:
        offset, reason = 0.0, APPLIED
    elif derived is not None and (original or offset is None):
        offset, reason = derived, DERIVED
    elif offset is not None:
        reason = ITEM
    else:
        offset, reason = 0.0, DEFAULT
    return Radiometry(scale=scale, offset=offset, nodata=nodata, reason=reason)


def explain(code: str) -> str:
    """Return the sentences behind a ``geostack:radiometry`` code such as ``boa_offset_applied``."""
    return "; ".join(_REASONS.get(part, part) for part in code.split("+"))


# -- the provider ---------------------------------------------------------------------------------


class EarthSearch(BaseProvider):
    """The Earth Search catalog; implements :class:`~geostack_pipeline.providers.contract.Provider`."""

    key = "earth_search"
    product = sentinel2.PRODUCT

    def __init__(
        self,
        *,
        url: str = URL,
        collections: Sequence[str] = ("sentinel-2-l2a",),
        endpoints: Mapping[str, Endpoint] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> None:
        """Set up; nothing is requested.

        Args:
            url: Root of the STAC API, without a trailing slash.
            collections: Any of ``sentinel-2-l2a`` and ``sentinel-2-c1-l2a``.
            endpoints: Bucket -> where it answers; buckets not named answer at AWS.
            query: STAC ``query`` sent along to shorten the lists; it changes what the scene table holds.

        Raises:
            SettingsError: A collection or a bucket that this provider does not read.
        """
        for collection in collections:
            if collection not in BUCKETS:
                raise SettingsError(
                    "the collection cannot be read",
                    subject=f"earth_search collection {collection!r}",
                    found="a collection that is no Sentinel-2 L2A in an open bucket",
                    action=f"choose among {', '.join(BUCKETS)}",
                )
        if not collections:
            raise SettingsError(
                "no collection is asked for",
                subject="earth_search collections",
                action=f"name at least one of {', '.join(BUCKETS)}",
            )
        for bucket in endpoints or {}:
            if bucket not in BUCKETS.values():
                raise SettingsError(
                    "an endpoint is given for a bucket that is never read",
                    subject=f"earth_search endpoint {bucket!r}",
                    action=f"choose among {', '.join(BUCKETS.values())}",
                )
        self.url = url.rstrip("/")
        self.collections: Sequence[str] = tuple(collections)
        # 200 items of up to 21 kB stay below the 6 MB that an answer of the API can have
        self.dialect = Dialect(page_size=200, walker="rustac", count="exact", filter_style="query")
        self._endpoints = dict(endpoints or {})
        self._query = dict(query) if query else None
        self._allowed = AllowList(BucketRule.aws(bucket, REGION) for bucket in BUCKETS.values())

    def search_body(self, window: SearchWindow) -> dict[str, Any]:
        """Return the body of a window: a closed interval that includes the window's end."""
        body: dict[str, Any] = {
            "collections": list(self.collections),
            "bbox": list(window.bbox),
            "datetime": f"{_second(window.start)}/{_second(window.end)}",
        }
        if self._query is not None:
            body["query"] = self._query
        return body

    def canonical(self, item: Item) -> Item:
        """Return the canonical form of an item of the two Sentinel-2 collections. Pure and idempotent.

        What has no column, or a value that does not fit its column's type, is kept as text
        in ``geostack:extra``.  Null, empty lists and empty objects are left out, except for
        the canonical properties, which are null where unknown.  Navigation links (``self``,
        ``root`` …) are left out: they are the API's root, the collection and the id again, and
        would make the rows depend on which mirror answered.

        Raises:
            RejectedItemError: With one of the reasons ``not_json``, ``too_large``, ``too_deep``, ``id``,
                ``collection``, ``properties``, ``datetime``, ``platform``, ``tile``, ``geometry``, ``assets``.
        """
        _check_json(item)
        try:
            return self._canonical(item)
        except RecursionError:
            raise RejectedItemError("too_deep", "nested deeper than can be read") from None

    def _canonical(self, item: Item) -> Item:
        identifier, collection = item.get("id"), item.get("collection")
        if not isinstance(identifier, str) or not 0 < len(identifier) <= 256:
            raise RejectedItemError("id", f"an id that is {str(identifier)[:60]!r}")
        if not isinstance(collection, str) or collection not in BUCKETS:
            raise RejectedItemError(
                "collection", f"{str(collection)[:60]!r} is not among {', '.join(BUCKETS)}"
            )
        raw = item.get("properties")
        if not isinstance(raw, dict):
            raise RejectedItemError("properties", "no properties object")
        leftovers = _extra(raw)
        properties = _properties(raw, leftovers)
        _describe(properties, raw, identifier)
        geometry, bbox = _footprint(item, leftovers)
        decided = _decided(raw)
        assets, reasons = _assets(item.get("assets"), properties, leftovers, decided=decided is not None)
        properties["geostack:radiometry"] = decided or "+".join(sorted(reasons)) or None
        for name in CANONICAL_PROPERTIES:
            properties.setdefault(name, None)
        links = self._links(item.get("links"), leftovers)
        for name, value in item.items():
            if name not in _TOP and value is not None:
                leftovers[f"/{escape(name)}"] = value
        if leftovers:
            properties[EXTRA] = json_text(leftovers)
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": _extensions(item.get("stac_extensions")),
            "id": identifier,
            "collection": collection,
            "geometry": geometry,
            "bbox": bbox,
            "properties": dict(sorted(properties.items())),
            "links": links,
            "assets": dict(sorted(assets.items())),
        }

    def _links(self, value: Any, leftovers: dict[str, Any]) -> list[dict[str, Any]]:
        kept: list[dict[str, Any]] = []
        if not isinstance(value, list):
            return kept
        for index, link in enumerate(value):
            if not isinstance(link, dict) or not isinstance(link.get("href"), str):
                leftovers[f"/links/{index}"] = link
                continue
            rel, own = str(link.get("rel")), link["href"].startswith((self.url, URL))
            if rel in _NAVIGATION and (own or rel != "self"):
                continue
            coerced = coerce(link, _LINK_SHAPE, f"/links/{index}", leftovers)
            if coerced is not MISSING and "href" in coerced:
                kept.append(dict(sorted(coerced.items())))
        return sorted(kept, key=json_text)

    def template(self) -> Item:
        """Return a canonical item whose every column holds a value of its type."""
        properties = {name: _sample(shape) for name, shape in _PROPERTY_SHAPE.items()}
        properties |= {"datetime": "2020-01-01T00:00:00.000000Z"}
        assets = {key: _sample(_shape_of(key)) for key in ASSET_KEYS.values()}
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": ["https://example.com/schema.json"],
            "id": "template",
            "collection": self.collections[0],
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]],
            },
            "bbox": [0.0, 0.0, 1.0, 1.0],
            "properties": dict(sorted(properties.items())),
            "links": [_sample(_LINK_SHAPE)],
            "assets": dict(sorted(assets.items())),
        }

    def locate(self, href: str) -> ObjectRef:
        """Return the bucket and the key of an href in one of the two open buckets.

        Raises:
            HrefRefusedError: Any other place: the message names the bucket or host, never credentials.
        """
        store_id, key = self._allowed.resolve(href)
        return ObjectRef(store_id=store_id, key=key, canonical=f"{store_id}/{key}")

    def store(self, store_id: str) -> ObjectStore:
        """Return an anonymous store of one of the open buckets; nothing is requested yet.

        The machine's ``AWS_*`` variables have no say in it.
        """
        bucket = store_id.removeprefix("s3://")
        if bucket not in BUCKETS.values():
            raise HrefRefusedError(
                "not a store of this provider",
                subject=f"earth_search {store_id[:80]!r}",
                action="use the id from locate()",
            )
        endpoint = self._endpoints.get(bucket, Endpoint())
        region = endpoint.region or REGION
        options = {
            "skip_signature": "true",
            "region": region,
            "endpoint": endpoint.url or f"https://s3.{region}.amazonaws.com",
            "virtual_hosted_style_request": "false",
        }
        if endpoint.allow_http:
            options["allow_http"] = "true"
        return open_store(f"s3://{bucket}", options)


# -- parts of an item -----------------------------------------------------------------------------

_KNOWN_ASSETS: Mapping[str, str] = {**{key: key for key in ASSET_KEYS.values()}, **ASSET_KEYS}
_PROPERTIES_SET_HERE = frozenset({"geostack:scene", "geostack:radiometry", EXTRA})


def _check_json(item: Item) -> None:
    """Reject what cannot be written as UTF-8 JSON of a sane size."""
    try:
        size = len(json.dumps(item, ensure_ascii=False).encode())
    except RecursionError:
        raise RejectedItemError("too_deep", "nested deeper than can be read") from None
    except UnicodeEncodeError:
        raise RejectedItemError(
            "not_json", "a string with a lone surrogate, which is no Unicode text"
        ) from None
    except (TypeError, ValueError) as error:
        raise RejectedItemError("not_json", str(error)[:100]) from None
    if size > MAX_ITEM_BYTES:
        raise RejectedItemError("too_large", f"{size} bytes of JSON, more than {MAX_ITEM_BYTES}")


def _extra(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leftovers that an already canonical item carries, so that nothing is lost on the way again."""
    text = raw.get(EXTRA)
    if text is None:
        return {}
    if isinstance(text, str):
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if isinstance(value, dict) and all(pointer.startswith("/") for pointer in value):
            return value
    return {f"/properties/{EXTRA}": text}


def _properties(raw: Mapping[str, Any], leftovers: dict[str, Any]) -> dict[str, Any]:
    named = {name: value for name, value in raw.items() if name not in _PROPERTIES_SET_HERE}
    result = coerce(named, _PROPERTY_SHAPE, "/properties", leftovers)
    return {} if result is MISSING else result


def _describe(properties: dict[str, Any], raw: Mapping[str, Any], identifier: str) -> None:
    """Set what identifies the scene: platform, tile, CRS, orbit, baseline, processing time, scene."""
    moment = parse_time(properties.get("datetime"))
    if moment is None:
        raise RejectedItemError("datetime", f"{str(raw.get('datetime'))[:60]!r} is no RFC 3339 time")
    product = sentinel2.parse_product(properties.get("s2:product_uri"))
    name = product.mission if product else identifier[:3]
    platform = sentinel2.parse_platform(properties.get("platform")) or sentinel2.parse_platform(name)
    if platform is None:
        raise RejectedItemError("platform", f"{str(raw.get('platform'))[:60]!r} is no Sentinel-2")
    tile = _tile(properties) or (product.tile if product else None)
    if tile is None:
        raise RejectedItemError(
            "tile", f"no MGRS tile in grid:code {str(raw.get('grid:code'))[:40]!r} or mgrs:*"
        )
    properties["platform"] = platform
    properties["grid:code"] = f"MGRS-{tile}"
    properties["proj:code"] = _crs(properties, tile)
    baseline = _baseline(properties)
    if baseline is not None:
        properties["processing:baseline"] = baseline
    made = properties.get("s2:generation_time") or (
        sentinel2.parse_compact_time(product.made) if product else None
    )
    if made is not None:
        properties["processing:datetime"] = made
    if product is not None:
        properties.setdefault("sat:relative_orbit", product.relative_orbit)
    properties["geostack:scene"] = sentinel2.scene_id(properties, platform=platform, tile=tile, moment=moment)


def _tile(properties: Mapping[str, Any]) -> str | None:
    tile = sentinel2.parse_tile(properties.get("grid:code"))
    if tile is not None:
        return tile
    parts = [properties.get(name) for name in ("mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square")]
    return None if None in parts else sentinel2.parse_tile("".join(str(part) for part in parts))


def _crs(properties: Mapping[str, Any], tile: str) -> str:
    """Return ``EPSG:…`` as the catalog gives it, or of the tile's UTM zone (bands N to X lie north)."""
    code = properties.get("proj:code")
    if isinstance(code, str) and code.startswith("EPSG:") and code[5:].isdecimal():
        return code
    if isinstance(properties.get("proj:epsg"), int) and properties["proj:epsg"] > 0:
        return f"EPSG:{properties['proj:epsg']}"
    return f"EPSG:{(326 if tile[2] >= 'N' else 327) * 100 + int(tile[:2])}"


def _baseline(properties: Mapping[str, Any]) -> str | None:
    product = sentinel2.parse_product(properties.get("s2:product_uri"))
    return (
        sentinel2.parse_baseline(properties.get("s2:processing_baseline"))
        or (product.baseline if product else None)
        or sentinel2.parse_baseline(properties.get("processing:baseline"))
    )


def _footprint(item: Item, leftovers: dict[str, Any]) -> tuple[dict[str, Any], list[float]]:
    try:
        geometry = canonical_geometry(item.get("geometry"))
    except GeometryError as error:
        raise RejectedItemError("geometry", str(error)) from None
    for name, value in item["geometry"].items():
        if name not in {"type", "coordinates"} and value is not None:
            leftovers[f"/geometry/{escape(name)}"] = value
    bbox = canonical_bbox(item.get("bbox"))
    if bbox is None:
        if item.get("bbox") is not None:
            leftovers["/bbox"] = item["bbox"]
        bbox = bbox_of(geometry)
    return geometry, bbox


def _decided(raw: Mapping[str, Any]) -> str | None:
    """Return the radiometry code of an item that is canonical already, whose offsets are decisions, not claims."""
    code = raw.get("geostack:radiometry")
    if (
        isinstance(code, str)
        and isinstance(raw.get("geostack:scene"), str)
        and set(code.split("+")) <= _REASONS.keys()
    ):
        return code
    return None


def _assets(
    value: Any, properties: Mapping[str, Any], leftovers: dict[str, Any], *, decided: bool
) -> tuple[dict[str, Any], set[str]]:
    """Return the assets under canonical keys, and the reasons of the radiometry of the COG bands."""
    assets: dict[str, Any] = {}
    reasons: set[str] = set()
    for name, raw in sorted(value.items()) if isinstance(value, dict) else ():
        pointer = f"/assets/{escape(name)}"
        key = _KNOWN_ASSETS.get(name)
        if key is None or key in assets or not isinstance(raw, dict) or not isinstance(raw.get("href"), str):
            leftovers[pointer] = raw
            continue
        asset = coerce(raw, _shape_of(key), pointer, leftovers)
        if asset is MISSING:
            leftovers[pointer] = raw
            continue
        if key in _REFLECTANCE:
            reason = _settle_band(key, asset, properties, pointer, leftovers, decided=decided)
            if not key.endswith("_jp2"):
                reasons.add(reason)
        elif key in _CLASSES:
            band = _first_band(asset)
            asset["raster:bands"] = [
                {**band, "scale": 1.0, "offset": 0.0, "nodata": band.get("nodata", sentinel2.NODATA)}
            ]
        assets[key] = dict(sorted(asset.items()))
    if not assets:
        raise RejectedItemError("assets", "no asset of a Sentinel-2 L2A product")
    return assets, reasons


def _shape_of(key: str) -> dict[str, Shape]:
    return _FILE_SHAPE if key in _FILES else _ASSET_SHAPE


def _settle_band(
    key: str,
    asset: dict[str, Any],
    properties: Mapping[str, Any],
    pointer: str,
    leftovers: dict[str, Any],
    *,
    decided: bool,
) -> str:
    """Write the decided radiometry and the canonical band name into an asset; the claim overruled is kept aside."""
    bands = asset.get("raster:bands", [])
    band = _first_band(asset)
    if decided and {"scale", "offset", "nodata"} <= band.keys():
        return DEFAULT
    chosen = radiometry(properties, key, asset)
    if len(bands) > 1:
        leftovers[f"{pointer}/raster:bands"] = bands
    elif "offset" in band and band["offset"] != chosen.offset:
        leftovers[f"{pointer}/raster:bands/0/offset"] = band["offset"]
    asset["raster:bands"] = [
        {**band, "scale": chosen.scale, "offset": chosen.offset, "nodata": chosen.nodata}
    ]
    if len(asset.get("eo:bands", ())) == 1:
        asset["eo:bands"] = [{**asset["eo:bands"][0], "name": key.removesuffix("_jp2")}]
    return chosen.reason


def _first_band(asset: Mapping[str, Any]) -> dict[str, Any]:
    bands = asset.get("raster:bands")
    return bands[0] if isinstance(bands, list) and bands and isinstance(bands[0], dict) else {}


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _extensions(value: Any) -> list[str]:
    return sorted({text for text in value if isinstance(text, str)}) if isinstance(value, list) else []


def _second(moment: datetime) -> str:
    """Return a UTC time for a search body; fractions of a second only where there are any."""
    text = format_time(moment.astimezone(UTC))
    return text.replace(".000000Z", "Z")


def _sample(shape: Shape) -> Any:
    """Return a value of a shape, no part of it null: an empty table takes its types from it."""
    if isinstance(shape, dict):
        return {name: _sample(member) for name, member in sorted(shape.items())}
    if isinstance(shape, list):
        return [_sample(shape[0])]
    samples: Mapping[str, Any] = {
        "str": "text",
        "float": 0.5,
        "int": 1,
        "bool": True,
        "time": "2020-01-01T00:00:00.000000Z",
    }
    return samples[shape]


def _build(config: ProviderConfig) -> EarthSearch:
    refuse_options(config)
    given: dict[str, Any] = {"endpoints": config.endpoints}
    if config.url:
        given["url"] = config.url
    if config.collections:
        given["collections"] = config.collections
    return EarthSearch(**given)


SPEC = ProviderSpec(title="Element 84 Earth Search", product=sentinel2.PRODUCT, build=_build)
"""The public catalog needs no login."""
