"""Items of a catalog that only its settings describe: which asset is which band, and what its numbers mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers.canonical import (
    OWN_PROPERTIES,
    ItemForm,
    finite,
    first_band,
    write_radiometry,
)
from geostack_pipeline.providers.coerce import Shape, parse_time
from geostack_pipeline.providers.contract import Item, Radiometry, RejectedItemError
from geostack_pipeline.providers.sentinel2_items import RASTER_SHAPE, baseline_of

CLASSES = "SCL"
"""Canonical key of the scene classification."""

ITEM, SETTINGS, BASELINE, DEFAULT = "item", "settings", "baseline", "default"
REASONS: Mapping[str, str] = {
    ITEM: "scale and offset as the item gives them",
    SETTINGS: "scale and offset as the settings give them",
    BASELINE: "scale of Sentinel-2 L2A, offset by the processing baseline",
    DEFAULT: "neither the item nor the settings give a scale: the stored numbers",
}

_COMMON: Mapping[str, Shape] = {
    "created": "time",
    "updated": "time",
    "start_datetime": "time",
    "end_datetime": "time",
    "constellation": "str",
    "instruments": ["str"],
    "gsd": "float",
    "eo:snow_cover": "float",
    "proj:epsg": "int",
    "sat:orbit_state": "str",
    "sat:absolute_orbit": "int",
    "view:azimuth": "float",
    "view:off_nadir": "float",
    "view:sun_azimuth": "float",
    "processing:level": "str",
    "processing:version": "str",
    "s2:datatake_id": "str",
    "s2:generation_time": "time",
    "s2:mgrs_tile": "str",
    "s2:processing_baseline": "str",
    "s2:product_uri": "str",
}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """How the stored numbers of this catalog's bands become reflectance."""

    source: Literal["item", "settings", "sentinel2"] = "item"
    """``item``: as the item says, else as here; ``settings``: as here; ``sentinel2``: by the processing baseline."""
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the settings say of a catalog's items."""

    collections: tuple[str, ...]
    bands: Mapping[str, str]
    """Canonical band -> the catalog's name of its asset."""
    classification: str | None = None
    """The catalog's name of the scene classification."""
    surface: bool = True
    """Whether bands are reflectance with a scale and offset."""
    numbers: Numbers = field(default_factory=Numbers)
    scene: str | None = None
    """Property that identifies a scene, where the item's id does not."""

    @property
    def names(self) -> Mapping[str, str]:
        """Canonical key -> the catalog's asset name, the classification among them."""
        return {**self.bands, **({CLASSES: self.classification} if self.classification else {})}


def radiometry(numbers: Numbers, properties: Mapping[str, Any], asset: Mapping[str, Any]) -> Radiometry:
    """Return how a band's stored numbers become reflectance. Pure.

    Args:
        numbers: What the settings say.
        properties: With ``processing:baseline``, for Sentinel-2.
        asset: With the item's own claim in ``raster:bands``.
    """
    band = first_band(asset)
    scale, offset, nodata = (finite(band.get(name)) for name in ("scale", "offset", "nodata"))
    if numbers.source == "sentinel2":
        derived = sentinel2.offset_of(sentinel2.parse_baseline(properties.get("processing:baseline")))
        if derived is not None:
            return Radiometry(scale=sentinel2.SCALE, offset=derived, nodata=sentinel2.NODATA, reason=BASELINE)
    if nodata is None or numbers.source == "settings":
        nodata = numbers.nodata
    if numbers.source == "item" and scale is not None and scale > 0.0:
        return Radiometry(scale=scale, offset=offset or 0.0, nodata=nodata, reason=ITEM)
    if numbers.scale is not None or numbers.offset is not None:
        return Radiometry(
            scale=1.0 if numbers.scale is None else numbers.scale,
            offset=numbers.offset or 0.0,
            nodata=nodata,
            reason=SETTINGS,
        )
    return Radiometry(scale=1.0, offset=0.0, nodata=nodata, reason=DEFAULT)


class ConfiguredForm(ItemForm):
    """Items as the settings describe them."""

    property_shapes: Mapping[str, Shape] = {**OWN_PROPERTIES, **_COMMON}

    def __init__(self, described: Description, homes: Sequence[str]) -> None:
        self._described = described
        self._keys = tuple(described.names)
        self.homes = tuple(homes)
        self.reasons = REASONS if described.surface else {}

    def collection(self, name: str) -> str | None:
        """Return one of the configured collections."""
        return name if name in self._described.collections else None

    def asset_key(self, name: str, asset: Mapping[str, Any]) -> str | None:  # noqa: ARG002 - names alone decide
        """Return the key of an asset that :meth:`prepare` has named."""
        return name if name in self._keys else None

    def asset_shape(self, key: str) -> Mapping[str, Shape]:  # noqa: ARG002 - all alike
        """Return the columns of a raster."""
        return RASTER_SHAPE

    def asset_keys(self) -> Sequence[str]:
        """Return the configured keys."""
        return self._keys

    def prepare(self, item: Item) -> Item:
        """Return the item with the configured assets under their keys, and STAC 1.1's numbers where 1.0 has them.

        An asset that is not configured but is called like a canonical band is kept as text under ``catalog:<name>``.
        """
        assets, raw = item.get("assets"), item["properties"]
        if not isinstance(assets, dict) or isinstance(raw.get("geostack:scene"), str):
            return item
        named: dict[str, Any] = {}
        for key, name in self._described.names.items():
            if name in assets:
                named[key] = _with_raster_bands(assets[name])
        taken = set(self._described.names.values())
        rest = {
            f"catalog:{name}" if name in self._keys else name: asset
            for name, asset in assets.items()
            if name not in taken
        }
        return {**item, "assets": {**rest, **named}}

    def describe(self, properties: dict[str, Any], item: Item, leftovers: dict[str, Any]) -> None:  # noqa: ARG002
        """Set time, CRS, what Sentinel-2's names say, and the scene."""
        raw = item["properties"]
        if properties.get("datetime") is None and "start_datetime" in properties:
            # an item may have a span instead of an instant
            properties["datetime"] = properties["start_datetime"]
        moment = parse_time(properties.get("datetime"))
        if moment is None:
            raise RejectedItemError("datetime", f"{str(raw.get('datetime'))[:60]!r} is no RFC 3339 time")
        epsg = properties.get("proj:epsg")
        if epsg is not None and 1024 <= epsg <= 999_999:
            properties.setdefault("proj:code", f"EPSG:{epsg}")
        product = sentinel2.parse_product(properties.get("s2:product_uri")) or sentinel2.parse_product(
            item.get("id")
        )
        baseline = baseline_of(properties, product)
        if baseline is not None:
            properties["processing:baseline"] = baseline
        elif "processing:version" in properties:
            properties.setdefault("processing:baseline", properties["processing:version"])
        made = properties.get("s2:generation_time") or (
            sentinel2.parse_compact_time(product.made) if product else None
        )
        if made is not None:
            properties.setdefault("processing:datetime", made)
        platform = sentinel2.parse_platform(properties.get("platform")) or (
            sentinel2.parse_platform(product.mission) if product else None
        )
        tile = (
            sentinel2.parse_tile(properties.get("grid:code"))
            or sentinel2.parse_tile(properties.get("s2:mgrs_tile"))
            or (product.tile if product else None)
        )
        if platform is not None and tile is not None:
            properties["platform"] = platform
            properties["grid:code"] = f"MGRS-{tile}"
            if product is not None:
                properties.setdefault("sat:relative_orbit", product.relative_orbit)
        properties["geostack:scene"] = self._scene(properties, item, platform, tile, product)

    def settle(
        self,
        key: str,
        asset: dict[str, Any],
        properties: Mapping[str, Any],
        pointer: str,
        leftovers: dict[str, Any],
        *,
        decided: bool,
    ) -> str | None:
        """Write a band's scale, offset and nodata; classes have neither scale nor offset."""
        if not self._described.surface:
            return None
        band = first_band(asset)
        if key == CLASSES:
            asset["raster:bands"] = [{**band, "scale": 1.0, "offset": 0.0, "nodata": band.get("nodata", 0.0)}]
            return None
        if decided and {"scale", "offset"} <= band.keys():
            return DEFAULT
        chosen = radiometry(self._described.numbers, properties, asset)
        write_radiometry(asset, chosen, pointer, leftovers)
        if chosen.nodata is None:
            # a column has no null of its own
            asset["raster:bands"][0].pop("nodata")
        return chosen.reason

    def _scene(
        self,
        properties: Mapping[str, Any],
        item: Item,
        platform: str | None,
        tile: str | None,
        product: sentinel2.Product | None,
    ) -> str:
        """Return the scene's identity: the property that the settings name, Sentinel-2's, or the item's id."""
        raw = item["properties"]
        if isinstance(raw.get("geostack:scene"), str):
            return str(raw["geostack:scene"])
        named = raw.get(self._described.scene) if self._described.scene else None
        if isinstance(named, str | int) and str(named):
            return str(named)[:256]
        moment = parse_time(properties["datetime"])
        if platform is None or tile is None or moment is None:
            return str(item["id"])
        known = dict(properties)
        if product is not None and sentinel2.parse_product(known.get("s2:product_uri")) is None:
            known["s2:product_uri"] = item["id"]
        return sentinel2.scene_id(known, platform=platform, tile=tile, moment=moment)


def _with_raster_bands(asset: Any) -> Any:
    """Return an asset of STAC 1.1 with its numbers in ``raster:bands``; others as they are."""
    if not isinstance(asset, dict) or isinstance(asset.get("raster:bands"), list):
        return asset
    listed = asset.get("bands")
    band = listed[0] if isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], dict) else {}
    found = {
        member: value
        for member, names in (
            ("scale", ("raster:scale",)),
            ("offset", ("raster:offset",)),
            ("nodata", ("nodata",)),
            ("data_type", ("data_type",)),
        )
        for name in names
        for value in (band.get(name, asset.get(name)),)
        if value is not None
    }
    return {**asset, "raster:bands": [found]} if found else asset
