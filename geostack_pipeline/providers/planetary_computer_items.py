"""What the Planetary Computer's Sentinel-2 items say, and what their numbers mean.

Seen in recorded items: ids without the baseline, ``proj:epsg`` and ``s2:mgrs_tile``, the sun as ``s2:mean_solar_zenith``,
``datetime`` the start of the datatake (other catalogs give the tile's own time), platforms written ``Sentinel-2B``,
neither scale nor offset, no sizes and no checksums.  Items without ``bbox`` exist: it is taken from the geometry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers.canonical import OWN_PROPERTIES, finite, first_band
from geostack_pipeline.providers.coerce import Shape
from geostack_pipeline.providers.contract import Item, Radiometry, RejectedItemError
from geostack_pipeline.providers.sentinel2_items import FILE_SHAPE, RASTER_SHAPE, Sentinel2Form, baseline_of

COLLECTION = "sentinel-2-l2a"

_RASTERS: Mapping[str, str] = {
    **{band: band for band in (*sentinel2.BANDS, "SCL", "AOT", "WVP")},
    "visual": "TCI",
}
_FILES = (
    "safe-manifest",
    "granule-metadata",
    "inspire-metadata",
    "product-metadata",
    "datastrip-metadata",
    "preview",
    "rendered_preview",
    "tilejson",
)
ASSET_KEYS: Mapping[str, str] = {**_RASTERS, **{name: name for name in _FILES}}
"""The catalog's name of an asset -> canonical key."""

_KNOWN: Mapping[str, str] = {**{key: key for key in ASSET_KEYS.values()}, **ASSET_KEYS}
_BAND_SHAPE: Mapping[str, Shape] = {**RASTER_SHAPE, "proj:bbox": ["float"]}
_PICTURE_SHAPE: Mapping[str, Shape] = {**FILE_SHAPE, "rel": "str"}
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
    "proj:epsg": "int",
    "sat:orbit_state": "str",
    **{f"s2:{name}_percentage": "float" for name in _PERCENTAGES},
    "s2:datastrip_id": "str",
    "s2:datatake_id": "str",
    "s2:datatake_type": "str",
    "s2:generation_time": "time",
    "s2:granule_id": "str",
    "s2:mean_solar_azimuth": "float",
    "s2:mean_solar_zenith": "float",
    "s2:mgrs_tile": "str",
    "s2:processing_baseline": "str",
    "s2:product_type": "str",
    "s2:product_uri": "str",
    "s2:reflectance_conversion_factor": "float",
}
_ID = re.compile(
    r"S2[A-D]_MSIL2A_(?P<datatake>\d{8}T\d{6})_(?:N\d{4}_)?R(?P<orbit>\d{3})_T(?P<tile>[0-9A-Z]{5})_\d{8}T\d{6}",
    re.ASCII,
)
_SAFE = re.compile(r"/(S2[A-D]_MSIL2A_[0-9A-Z_]{40,60}\.SAFE)/", re.ASCII)

DERIVED = "baseline"
REASONS: Mapping[str, str] = {
    DERIVED: "the catalog gives no offset: -0.1 from processing baseline 04.00 on, 0 before",
}
"""Radiometry code -> what it means."""


def radiometry(properties: Mapping[str, Any], key: str, asset: Mapping[str, Any]) -> Radiometry:  # noqa: ARG001
    """Return how a reflectance band's digital numbers become reflectance. Pure.

    The files hold ESA's own numbers, shifted by +1000 from baseline 04.00 on, and the items say nothing of it: the
    baseline decides, wherever it is named (the property, the product's name, the folder in the href).  An offset
    that an item does state is kept aside, not used: it would be about files that nobody is known to harmonise.

    Args:
        properties: Of the raw or canonical item.
        key: Canonical asset key, e.g. ``B04``; all bands are alike.
        asset: The asset; its href is read.

    Raises:
        RejectedItemError: Nothing names the baseline: an offset that is guessed is off by 0.1 in reflectance.
    """
    product = sentinel2.parse_product(properties.get("s2:product_uri"))
    offset = sentinel2.offset_of(
        baseline_of(properties, product) or baseline_of({}, _product_of(asset.get("href")))
    )
    if offset is None:
        raise RejectedItemError(
            "baseline", "nothing names the processing baseline, on which the offset depends"
        )
    band = first_band(asset)
    scale, nodata = finite(band.get("scale")), finite(band.get("nodata"))
    return Radiometry(
        scale=scale if scale is not None and scale > 0.0 else sentinel2.SCALE,
        offset=offset,
        nodata=sentinel2.NODATA if nodata is None else nodata,
        reason=DERIVED,
    )


class PlanetaryComputerForm(Sentinel2Form):
    """Items of the collection ``sentinel-2-l2a``."""

    property_shapes = _PROPERTY_SHAPES
    reasons = REASONS
    default_reason = DERIVED

    def __init__(self, homes: Sequence[str]) -> None:
        self.homes = tuple(homes)

    def collection(self, name: str) -> str | None:
        """Return the one collection's name."""
        return name if name == COLLECTION else None

    def asset_key(self, name: str, asset: Mapping[str, Any]) -> str | None:  # noqa: ARG002 - the name says it
        """Return the name itself; ``TCI`` for ``visual``."""
        return _KNOWN.get(name)

    def asset_keys(self) -> Sequence[str]:
        """Return every key of the collection."""
        return tuple(ASSET_KEYS.values())

    def asset_shape(self, key: str) -> Mapping[str, Shape]:
        """Return few columns for what is no raster of the product."""
        if key in _FILES:
            return _PICTURE_SHAPE if key == "rendered_preview" else FILE_SHAPE
        return _BAND_SHAPE

    def product_name(self, properties: Mapping[str, Any], item: Item) -> str | None:
        """Return ``s2:product_uri``, else the product's folder in an href: the id lacks the baseline."""
        name = properties.get("s2:product_uri")
        if sentinel2.parse_product(name) is not None:
            return str(name)
        assets = item.get("assets")
        for _, asset in sorted(assets.items()) if isinstance(assets, dict) else ():
            folder = _SAFE.search(href) if isinstance(href := _href(asset), str) else None
            if folder is not None and sentinel2.parse_product(folder[1]) is not None:
                return folder[1]
        return None

    def tile(self, properties: Mapping[str, Any]) -> str | None:
        """Return ``s2:mgrs_tile``, else the tile of ``grid:code``."""
        return sentinel2.parse_tile(properties.get("s2:mgrs_tile")) or super().tile(properties)

    def describe(self, properties: dict[str, Any], item: Item, leftovers: dict[str, Any]) -> None:
        """Set what identifies the scene, and the sun's elevation from its zenith angle."""
        named = _ID.fullmatch(str(item["id"]))
        if named is not None and self.tile(properties) is None:
            properties["s2:mgrs_tile"] = named["tile"]
        super().describe(properties, item, leftovers)
        if named is not None:
            properties.setdefault("sat:relative_orbit", int(named["orbit"]))
        zenith = properties.get("s2:mean_solar_zenith")
        if "view:sun_elevation" not in properties and zenith is not None and 0.0 <= zenith <= 180.0:
            properties["view:sun_elevation"] = 90.0 - zenith

    def scene(
        self, properties: Mapping[str, Any], item: Item, platform: str, tile: str, moment: datetime
    ) -> str:
        """Return the scene's identity; the id holds the datatake's start where no property does."""
        name = self.product_name(properties, item)
        known = {"s2:datatake_id": properties.get("s2:datatake_id"), "s2:product_uri": name}
        named = _ID.fullmatch(str(item["id"]))
        if named is not None and name is None and sentinel2.parse_datatake(known["s2:datatake_id"]) is None:
            return f"S2{platform[-1].upper()}_{named['datatake']}_T{tile}"
        return sentinel2.scene_id(known, platform=platform, tile=tile, moment=moment)

    def radiometry(self, properties: Mapping[str, Any], key: str, asset: Mapping[str, Any]) -> Radiometry:
        """Return what :func:`radiometry` decides."""
        return radiometry(properties, key, asset)


def _href(asset: Any) -> Any:
    return asset.get("href") if isinstance(asset, dict) else None


def _product_of(href: Any) -> sentinel2.Product | None:
    """Return the product whose folder an href lies in; None where it lies in none."""
    folder = _SAFE.search(href) if isinstance(href, str) else None
    return sentinel2.parse_product(folder[1]) if folder is not None else None
