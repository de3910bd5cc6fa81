"""What the Data Space's Sentinel-2 items say, and what their numbers mean.

Seen in recorded items (STAC 1.1): every band in up to three pixel sizes under keys such as ``B04_10m``; scale, offset,
no-data value, data type and CRS on the asset; wavelengths in ``bands``; the baseline as ``processing:version``; the
datatake as ``eopf:datatake_id``; ``datetime`` the start of the datatake; checksums as sha3-256 or md5 multihashes, a few
of them malformed; ``storage:refs`` a list, or a string of two odd characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from geostack_pipeline.providers import sentinel2
from geostack_pipeline.providers.canonical import OWN_PROPERTIES, finite, first_band
from geostack_pipeline.providers.coerce import Shape
from geostack_pipeline.providers.contract import Item, Radiometry, RejectedItemError
from geostack_pipeline.providers.sentinel2_items import FILE_SHAPE, RASTER_SHAPE, Sentinel2Form, baseline_of

COLLECTION = "sentinel-2-l2a"

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
"""Band or classification -> the pixel size it was made at; the catalog has resampled ones beside it."""

_RASTERS: Mapping[str, str] = {f"{band}_{metres}m": band for band, metres in METRES.items()}
_PICTURES: Mapping[str, str] = {"AOT_20m": "AOT", "WVP_10m": "WVP", "TCI_10m": "TCI"}
_FILES = (
    "Product",
    "thumbnail",
    "safe_manifest",
    "granule_metadata",
    "inspire_metadata",
    "product_metadata",
    "datastrip_metadata",
)
ASSET_KEYS: Mapping[str, str] = {**_RASTERS, **_PICTURES, **{name: name for name in _FILES}}
"""The catalog's name of an asset -> canonical key.  All others are kept as text: they hold the same bands resampled, and
would triple the table's columns."""

_KNOWN: Mapping[str, str] = {**{key: key for key in ASSET_KEYS.values()}, **ASSET_KEYS}
_BAND_SHAPE: Mapping[str, Shape] = {**RASTER_SHAPE, "proj:code": "str", "view:incidence_angle": "float"}
_STATISTICS = (
    "cloud_shadow",
    "dark_area",
    "high_proba_clouds",
    "medium_proba_clouds",
    "nodata",
    "not_vegetated",
    "saturated_defective",
    "thin_cirrus",
    "unclassified",
    "vegetation",
    "water",
)
_PROPERTY_SHAPES: Mapping[str, Shape] = {
    **OWN_PROPERTIES,
    "created": "time",
    "updated": "time",
    "published": "time",
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
    "view:sun_azimuth": "float",
    "product:type": "str",
    "product:timeliness": "str",
    "product:timeliness_category": "str",
    "processing:level": "str",
    "processing:version": "str",
    "processing:facility": "str",
    "eopf:datatake_id": "str",
    "eopf:datastrip_id": "str",
    "eopf:origin_datetime": "time",
    "statistics": dict.fromkeys(_STATISTICS, "float"),
}
_BAND_MEMBERS: Mapping[str, str] = {
    "raster:scale": "scale",
    "raster:offset": "offset",
    "nodata": "nodata",
    "data_type": "data_type",
}
"""STAC 1.1 member of an asset -> member of its ``raster:bands`` entry."""
_EO_MEMBERS: Mapping[str, str] = {
    "eo:common_name": "common_name",
    "eo:center_wavelength": "center_wavelength",
    "eo:full_width_half_max": "full_width_half_max",
}

STATED = "raster:offset"
UNCHECKED = "raster:offset-unchecked"
DERIVED = "baseline"
OVERRULED = "baseline-over-raster:offset"
REASONS: Mapping[str, str] = {
    STATED: "offset as raster:offset gives it, which is what the processing baseline means",
    UNCHECKED: "offset as raster:offset gives it; no processing baseline is named to check it against",
    DERIVED: "no raster:offset; derived from the processing baseline: -0.1 from 04.00 on, 0 before",
    OVERRULED: "raster:offset contradicts the processing baseline, which decides: the files are ESA's, unchanged",
}
"""Radiometry code -> what it means."""

_SAME = 1e-9


def radiometry(properties: Mapping[str, Any], key: str, asset: Mapping[str, Any]) -> Radiometry:  # noqa: ARG001
    """Return how a reflectance band's digital numbers become reflectance. Pure.

    The files are ESA's own, which nobody changed: their numbers are shifted by +1000 from baseline 04.00 on, and the
    quantification value is 10,000 in all of them.  Items state both; what they state is checked:

    1. The baseline is known: its offset.  The reason says whether ``raster:offset`` agreed, was missing, or
       contradicted it.  The catalog's offsets come from a template (the same ``raster:offset: -0.1`` stands on the
       aerosol map, where it is wrong), so in a contradiction the baseline wins.
    2. Only ``raster:offset`` is known: that offset, unchecked.
    3. Neither: the item is rejected, since an offset that is guessed is off by 0.1 in reflectance.

    Args:
        properties: Of the raw or canonical item.
        key: Canonical asset key, e.g. ``B04``; all bands are alike.
        asset: The asset, raw (``raster:offset``) or with its ``raster:bands``.

    Raises:
        RejectedItemError: Nothing says which offset the numbers have.
    """
    band = {**first_band(asset), **_band_of(asset)}
    stated, nodata = finite(band.get("offset")), finite(band.get("nodata"))
    derived = sentinel2.offset_of(_baseline(properties, None))
    if derived is None and stated is None:
        raise RejectedItemError("baseline", "neither a processing baseline nor raster:offset")
    if derived is None:
        offset, reason = stated or 0.0, UNCHECKED
    elif stated is None:
        offset, reason = derived, DERIVED
    else:
        offset, reason = derived, STATED if abs(stated - derived) <= _SAME else OVERRULED
    return Radiometry(
        scale=sentinel2.SCALE,
        offset=offset,
        nodata=sentinel2.NODATA if nodata is None else nodata,
        reason=reason,
    )


class CdseForm(Sentinel2Form):
    """Items of the collection ``sentinel-2-l2a``."""

    property_shapes = _PROPERTY_SHAPES
    reasons = REASONS
    default_reason = STATED

    def __init__(self, homes: Sequence[str]) -> None:
        self.homes = tuple(homes)

    def collection(self, name: str) -> str | None:
        """Return the one collection's name."""
        return name if name == COLLECTION else None

    def prepare(self, item: Item) -> Item:
        """Return the item with the members of STAC 1.1 where its columns are: in ``raster:bands`` and ``eo:bands``."""
        assets = item.get("assets")
        if not isinstance(assets, dict):
            return item
        arranged = {
            name: _arranged(asset) if name in _RASTERS and isinstance(asset, dict) else asset
            for name, asset in assets.items()
        }
        properties = item["properties"]
        if properties.get("proj:code") is None and properties.get("proj:epsg") is None:
            codes = {
                str(asset["proj:code"])
                for name, asset in arranged.items()
                if name in _KNOWN and isinstance(asset, dict) and asset.get("proj:code") is not None
            }
            if len(codes) == 1:
                properties = {**properties, "proj:code": codes.pop()}
        return {**item, "properties": properties, "assets": arranged}

    def asset_key(self, name: str, asset: Mapping[str, Any]) -> str | None:  # noqa: ARG002 - the name says it
        """Return the band of its native pixel size; None for a resampled one."""
        return _KNOWN.get(name)

    def asset_keys(self) -> Sequence[str]:
        """Return every canonical key."""
        return tuple(ASSET_KEYS.values())

    def asset_shape(self, key: str) -> Mapping[str, Shape]:
        """Return all columns for bands and classification, few for everything else."""
        return _BAND_SHAPE if key in METRES else FILE_SHAPE

    def product_name(self, properties: Mapping[str, Any], item: Item) -> str | None:  # noqa: ARG002 - the id is it
        """Return the id, which is ESA's product name."""
        return str(item["id"])

    def baseline(self, properties: Mapping[str, Any], product: sentinel2.Product | None) -> str | None:
        """Return ``processing:version``, else the baseline in the product's name."""
        return _baseline(properties, product)

    def describe(self, properties: dict[str, Any], item: Item, leftovers: dict[str, Any]) -> None:
        """Set what identifies the scene; the catalog's own processing time stays."""
        made = properties.get("processing:datetime")
        super().describe(properties, item, leftovers)
        if made is not None:
            properties["processing:datetime"] = made

    def scene(
        self, properties: Mapping[str, Any], item: Item, platform: str, tile: str, moment: datetime
    ) -> str:
        """Return the scene's identity from ``eopf:datatake_id``, else from the id."""
        known = {
            "s2:datatake_id": properties.get("eopf:datatake_id"),
            "s2:product_uri": self.product_name(properties, item),
        }
        return sentinel2.scene_id(known, platform=platform, tile=tile, moment=moment)

    def radiometry(self, properties: Mapping[str, Any], key: str, asset: Mapping[str, Any]) -> Radiometry:
        """Return what :func:`radiometry` decides."""
        return radiometry(properties, key, asset)

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
        """Decide a band's scale and offset; a scale that is overruled is kept aside like an offset."""
        stated = first_band(asset).get("scale")
        reason = super().settle(key, asset, properties, pointer, leftovers, decided=decided)
        if not decided and key in sentinel2.BANDS and stated is not None and stated != sentinel2.SCALE:
            leftovers[f"{pointer}/raster:bands/0/scale"] = stated
        return reason


def _baseline(properties: Mapping[str, Any], product: sentinel2.Product | None) -> str | None:
    return sentinel2.parse_baseline(properties.get("processing:version")) or baseline_of(properties, product)


def _arranged(asset: Mapping[str, Any]) -> dict[str, Any]:
    """Return a band's asset with ``raster:bands`` and ``eo:bands`` in place of what STAC 1.1 writes instead."""
    result = dict(asset)
    if "raster:bands" not in result and (band := _band_of(asset)):
        result = {name: value for name, value in result.items() if name not in _BAND_MEMBERS}
        result["raster:bands"] = [band]
    bands = asset.get("bands")
    if "eo:bands" not in result and isinstance(bands, list) and all(isinstance(each, dict) for each in bands):
        del result["bands"]
        result["eo:bands"] = [
            {_EO_MEMBERS.get(name, name): value for name, value in each.items()} for each in bands
        ]
    return result


def _band_of(asset: Mapping[str, Any]) -> dict[str, Any]:
    """Return what STAC 1.1 says of a band on the asset, under the names of ``raster:bands``."""
    return {name: asset[member] for member, name in _BAND_MEMBERS.items() if asset.get(member) is not None}
