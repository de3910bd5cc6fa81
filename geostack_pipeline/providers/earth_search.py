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

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geostack_pipeline.errors import HrefRefusedError, SettingsError
from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers.base import BaseProvider
from geostack_pipeline.providers.canonical import OWN_PROPERTIES, finite, first_band
from geostack_pipeline.providers.coerce import Shape
from geostack_pipeline.providers.configuring import chosen
from geostack_pipeline.providers.contract import (
    Dialect,
    Endpoint,
    Item,
    ObjectRef,
    Radiometry,
    SearchWindow,
)
from geostack_pipeline.providers.registry import ProviderConfig, ProviderSpec, refuse_options
from geostack_pipeline.providers.sentinel2_items import FILE_SHAPE, RASTER_SHAPE, Sentinel2Form, baseline_of
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

_KNOWN_ASSETS: Mapping[str, str] = {**{key: key for key in ASSET_KEYS.values()}, **ASSET_KEYS}

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
_PROPERTY_SHAPES: Mapping[str, Shape] = {
    **OWN_PROPERTIES,
    "created": "time",
    "updated": "time",
    "constellation": "str",
    "instruments": ["str"],
    "gsd": "float",
    "proj:epsg": "int",
    "proj:centroid": {"lat": "float", "lon": "float"},
    "mgrs:utm_zone": "int",
    "mgrs:latitude_band": "str",
    "mgrs:grid_square": "str",
    "view:azimuth": "float",
    "view:off_nadir": "float",
    "view:sun_azimuth": "float",
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
}
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
    band = first_band(asset)
    scale, offset, nodata = (finite(band.get(name)) for name in ("scale", "offset", "nodata"))
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


class EarthSearchForm(Sentinel2Form):
    """Items of the two Sentinel-2 collections."""

    property_shapes = _PROPERTY_SHAPES
    reasons = _REASONS
    default_reason = DEFAULT

    def __init__(self, url: str) -> None:
        self.homes = (url, URL)

    def collection(self, name: str) -> str | None:
        """Return the collection's own name."""
        return name if name in BUCKETS else None

    def asset_key(self, name: str, asset: Mapping[str, Any]) -> str | None:  # noqa: ARG002 - the name says it
        """Return ``B04`` for ``red``, ``B04_jp2`` for ``red-jp2``."""
        return _KNOWN_ASSETS.get(name)

    def asset_keys(self) -> Sequence[str]:
        """Return every key of the two collections."""
        return tuple(ASSET_KEYS.values())

    def asset_shape(self, key: str) -> Mapping[str, Shape]:
        """Return few columns for what is no raster."""
        return FILE_SHAPE if key in _FILES else RASTER_SHAPE

    def band_of(self, key: str) -> str:
        """Return ``B04`` for ``B04_jp2`` too."""
        return key.removesuffix("_jp2")

    def product_name(self, properties: Mapping[str, Any], item: Item) -> str | None:  # noqa: ARG002
        """Return ``s2:product_uri``."""
        return properties.get("s2:product_uri")

    def tile(self, properties: Mapping[str, Any]) -> str | None:
        """Return the tile of ``grid:code``, else of the three parts."""
        tile = sentinel2.parse_tile(properties.get("grid:code"))
        if tile is not None:
            return tile
        parts = [properties.get(name) for name in ("mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square")]
        return None if None in parts else sentinel2.parse_tile("".join(str(part) for part in parts))

    def radiometry(self, properties: Mapping[str, Any], key: str, asset: Mapping[str, Any]) -> Radiometry:
        """Return what :func:`radiometry` decides."""
        return radiometry(properties, key, asset)


def explain(code: str) -> str:
    """Return the sentences behind a ``geostack:radiometry`` code such as ``boa_offset_applied``."""
    return EarthSearchForm(URL).explain(code)


# -- the provider ---------------------------------------------------------------------------------


class EarthSearch(BaseProvider):
    """The Earth Search catalog; implements :class:`~geostack_pipeline.providers.contract.Provider`."""

    product = sentinel2.PRODUCT

    def __init__(
        self,
        *,
        key: str = "earth_search",
        url: str = URL,
        collections: Sequence[str] = ("sentinel-2-l2a",),
        endpoints: Mapping[str, Endpoint] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> None:
        """Set up; nothing is requested.

        Args:
            key: Name in settings and asset keys.
            url: Root of the STAC API, without a trailing slash.
            collections: Any of ``sentinel-2-l2a`` and ``sentinel-2-c1-l2a``.
            endpoints: Bucket -> where it answers; buckets not named answer at AWS.
            query: STAC ``query`` sent along to shorten the lists; it changes what the scene table holds.

        Raises:
            SettingsError: A collection or a bucket that this provider does not read.
        """
        self.key = key
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
        # our own pager: rustac holds a walk's text, its own items and ours at once, three times the memory,
        # takes as much CPU, and needs a probe for each window (docs/benchmarks.md)
        self.dialect = Dialect(page_size=200, walker="pager", count="exact", filter_style="query")
        self._endpoints = dict(endpoints or {})
        self._query = dict(query) if query else None
        self._form = EarthSearchForm(self.url)
        self._allowed = AllowList(BucketRule.aws(bucket, REGION) for bucket in BUCKETS.values())

    def search_body(self, window: SearchWindow) -> dict[str, Any]:
        """Return the body of a window: a closed interval that includes the window's end."""
        body: dict[str, Any] = {
            "collections": list(self.collections),
            "bbox": list(window.bbox),
            "datetime": window.interval,
        }
        if self._query is not None:
            body["query"] = self._query
        return body

    def canonical(self, item: Item) -> Item:
        """Return the canonical form of an item of the two Sentinel-2 collections. Pure and idempotent.

        Raises:
            RejectedItemError: With a reason of :meth:`ItemForm.canonical`, or ``datetime``, ``platform``, ``tile``.
        """
        return self._form.canonical(item)

    def template(self) -> Item:
        """Return a canonical item whose every column holds a value of its type."""
        return self._form.template(self.collections[0])

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


def _baseline(properties: Mapping[str, Any]) -> str | None:
    product = sentinel2.parse_product(properties.get("s2:product_uri"))
    return baseline_of(properties, product)


def _build(config: ProviderConfig) -> EarthSearch:
    refuse_options(config)
    return EarthSearch(**chosen(config))


SPEC = ProviderSpec(title="Element 84 Earth Search", product=sentinel2.PRODUCT, build=_build)
"""The public catalog needs no login."""
