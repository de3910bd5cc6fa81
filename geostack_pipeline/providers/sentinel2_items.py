"""Sentinel-2 L2A items of any catalog: what identifies a scene, and how a band's numbers are settled."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers.canonical import ItemForm, first_band, write_radiometry
from geostack_pipeline.providers.coerce import Shape, parse_time
from geostack_pipeline.providers.contract import Item, Radiometry, RejectedItemError

RASTER_SHAPE: Mapping[str, Shape] = {
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
"""Members of a band's asset that have columns."""
FILE_SHAPE: Mapping[str, Shape] = {
    name: RASTER_SHAPE[name] for name in ("href", "title", "type", "roles", "file:checksum", "file:size")
}
"""Of assets that are not read as rasters: fewer columns; the rest goes into the extra text."""


class Sentinel2Form(ItemForm):
    """Items of Sentinel-2 L2A.  A catalog's own form says where its names and its numbers come from."""

    default_reason = "default"
    """Code of a band whose radiometry nothing decides."""

    @abstractmethod
    def radiometry(self, properties: Mapping[str, Any], key: str, asset: Mapping[str, Any]) -> Radiometry:
        """Return how a reflectance band's digital numbers become reflectance. Pure."""

    @abstractmethod
    def product_name(self, properties: Mapping[str, Any], item: Item) -> str | None:
        """Return ESA's product name of the item, with or without ``.SAFE``; None where it has none."""

    def tile(self, properties: Mapping[str, Any]) -> str | None:
        """Return the MGRS tile that the properties name, ``32TMT``."""
        return sentinel2.parse_tile(properties.get("grid:code"))

    def baseline(self, properties: Mapping[str, Any], product: sentinel2.Product | None) -> str | None:
        """Return the processing baseline, ``05.00``."""
        return baseline_of(properties, product)

    def describe(self, properties: dict[str, Any], item: Item, leftovers: dict[str, Any]) -> None:  # noqa: ARG002
        """Set platform, tile, CRS, orbit, baseline, processing time and scene."""
        raw = item["properties"]
        moment = parse_time(properties.get("datetime"))
        if moment is None:
            raise RejectedItemError("datetime", f"{str(raw.get('datetime'))[:60]!r} is no RFC 3339 time")
        product = sentinel2.parse_product(self.product_name(properties, item))
        name = product.mission if product else str(item["id"])[:3]
        platform = sentinel2.parse_platform(properties.get("platform")) or sentinel2.parse_platform(name)
        if platform is None:
            raise RejectedItemError("platform", f"{str(raw.get('platform'))[:60]!r} is no Sentinel-2")
        tile = self.tile(properties) or (product.tile if product else None)
        if tile is None:
            raise RejectedItemError(
                "tile", f"no MGRS tile in grid:code {str(raw.get('grid:code'))[:40]!r} or the name"
            )
        properties["platform"] = platform
        properties["grid:code"] = f"MGRS-{tile}"
        properties["proj:code"] = _crs(properties, tile)
        baseline = self.baseline(properties, product)
        if baseline is not None:
            properties["processing:baseline"] = baseline
        made = properties.get("s2:generation_time") or (
            sentinel2.parse_compact_time(product.made) if product else None
        )
        if made is not None:
            properties["processing:datetime"] = made
        if product is not None:
            properties.setdefault("sat:relative_orbit", product.relative_orbit)
        properties["geostack:scene"] = self.scene(properties, item, platform, tile, moment)

    def scene(
        self, properties: Mapping[str, Any], item: Item, platform: str, tile: str, moment: datetime
    ) -> str:
        """Return the scene's identity, the same through whichever catalog."""
        known = {
            "s2:datatake_id": properties.get("s2:datatake_id"),
            "s2:product_uri": self.product_name(properties, item),
        }
        return sentinel2.scene_id(known, platform=platform, tile=tile, moment=moment)

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
        """Decide a reflectance band's scale and offset; classes have neither."""
        name = self.band_of(key)
        if name == "SCL":
            band = first_band(asset)
            asset["raster:bands"] = [
                {**band, "scale": 1.0, "offset": 0.0, "nodata": band.get("nodata", sentinel2.NODATA)}
            ]
            return None
        if name not in sentinel2.BANDS:
            return None
        reason: str | None = self.default_reason
        if not (decided and {"scale", "offset", "nodata"} <= first_band(asset).keys()):
            chosen = self.radiometry(properties, key, asset)
            write_radiometry(asset, chosen, pointer, leftovers)
            if len(asset.get("eo:bands", ())) == 1:
                asset["eo:bands"] = [{**asset["eo:bands"][0], "name": name}]
            reason = chosen.reason
        return reason if key == name else None

    def band_of(self, key: str) -> str:
        """Return the band that a canonical key holds: the key itself, or what it is another file of."""
        return key


def baseline_of(properties: Mapping[str, Any], product: sentinel2.Product | None) -> str | None:
    """Return the processing baseline that properties or the product's name give, ``05.00``."""
    return (
        sentinel2.parse_baseline(properties.get("s2:processing_baseline"))
        or (product.baseline if product else None)
        or sentinel2.parse_baseline(properties.get("processing:baseline"))
    )


def _crs(properties: Mapping[str, Any], tile: str) -> str:
    """Return ``EPSG:…`` as the catalog gives it, or of the tile's UTM zone (bands N to X lie north)."""
    code = properties.get("proj:code")
    if isinstance(code, str) and code.startswith("EPSG:") and code[5:].isdecimal():
        return code
    if isinstance(properties.get("proj:epsg"), int) and properties["proj:epsg"] > 0:
        return f"EPSG:{properties['proj:epsg']}"
    return f"EPSG:{(326 if tile[2] >= 'N' else 327) * 100 + int(tile[:2])}"
