"""EnMAP items of DLR's catalog: what identifies a scene, which asset is which, and how numbers become reflectance.

Seen in recorded answers:

- ``eo:cloud_cover`` and most ``enmap:*`` numbers are texts in L2A items of 2024 and 2025 and numbers in those of 2026
  and in the quicklooks of L0.
- ``proj:epsg`` stands on the assets; in the properties it is null, except for the quicklooks (4326).
- ``view:sun_azimuth`` of the older items is off by 180 degrees against ``enmap:sunAzimuthAngle`` (351 for 171).
- ``sat:relative_orbit`` is the number of the orbit since launch (17597), as text; it is kept as the catalog has it.
- The image lists 224 ``eo:bands`` with integer names (older items) or none (newer ones, whose wavelengths are in the
  metadata file only).  They become four list columns.
- Some items say ``raster:nodata: "null"``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geostack_pipeline.providers.canonical import OWN_PROPERTIES, ItemForm, finite, write_radiometry
from geostack_pipeline.providers.coerce import MISSING, Shape, coerce, parse_time
from geostack_pipeline.providers.contract import Item, Radiometry, RejectedItemError
from geostack_pipeline.providers.sentinel2 import parse_compact_time

COLLECTIONS = ("ENMAP_HSI_L2A", "ENMAP_HSI_L1B", "ENMAP_HSI_L1C", "ENMAP_HSI_L0_QL")
"""Collections whose items are understood; the quicklooks of L0 have no image to fetch."""

IMAGE = "SPECTRAL_IMAGE"
IMAGES = (IMAGE, "SPECTRAL_IMAGE_VNIR", "SPECTRAL_IMAGE_SWIR")
"""The image; of L1B one per detector."""
METADATA = "METADATA"

SCALE = 0.0001
"""Reflectance per digital number of L2A (EnMAP HSI L2A product: ``GainOfBand``)."""
NODATA = -32768.0
"""Digital number of pixels without data in L2A."""

ALTITUDE_KM, EARTH_KM = 653.0, 6371.0
"""Of EnMAP's orbit, and of the earth: for the angle at which the ground sees the satellite."""

_NAMES: Mapping[str, str] = {
    "image": IMAGE,
    "image_vnir": "SPECTRAL_IMAGE_VNIR",
    "image_swir": "SPECTRAL_IMAGE_SWIR",
    "metadata": METADATA,
    "thumbnail": "THUMBNAIL",
    "overview": "OVERVIEW",
    "vnir": "QL_VNIR",
    "swir": "QL_SWIR",
    "quality_classes": "QUALITY_CLASSES",
    "quality_cloud": "QUALITY_CLOUD",
    "quality_cloud_shadow": "QUALITY_CLOUDSHADOW",
    "quality_cloudshadow": "QUALITY_CLOUDSHADOW",
    "quality_haze": "QUALITY_HAZE",
    "quality_cirrus": "QUALITY_CIRRUS",
    "quality_snow": "QUALITY_SNOW",
    "quality_testflags": "QUALITY_TESTFLAGS",
    "testflags_vnir": "QUALITY_TESTFLAGS_VNIR",
    "testflags_swir": "QUALITY_TESTFLAGS_SWIR",
    "defective_pixel_mask": "QUALITY_PIXELMASK",
    "pixelmask_vnir": "QUALITY_PIXELMASK_VNIR",
    "pixelmask_swir": "QUALITY_PIXELMASK_SWIR",
}
"""Catalog's name in lower case (the quicklooks of L0 have them in upper case) -> canonical key."""
KEYS: tuple[str, ...] = tuple(dict.fromkeys(_NAMES.values()))
_KNOWN: Mapping[str, str] = {**_NAMES, **{key.lower(): key for key in KEYS}}
_FILE_NAME = re.compile(
    r"-(?:QL_)?(?P<part>SPECTRAL_IMAGE(?:_VNIR|_SWIR)?|METADATA|QUALITY_[A-Z]+(?:_VNIR|_SWIR)?|"
    r"PIXELMASK(?:_VNIR|_SWIR)?)(?:_COG)?\.(?:TIF|XML)",
    re.IGNORECASE | re.ASCII,
)

_FILE_SHAPE: Mapping[str, Shape] = {
    "href": "str",
    "title": "str",
    "type": "str",
    "roles": ["str"],
    "file:checksum": "str",
    "file:size": "int",
}
_RASTER_SHAPE: Mapping[str, Shape] = {
    **_FILE_SHAPE,
    "proj:epsg": "int",
    "proj:shape": ["int"],
    "proj:transform": ["float"],
}
_BAND_LISTS: Mapping[str, str] = {
    "center_wavelength": "enmap:wavelength_nm",
    "full_width_half_max": "enmap:fwhm_nm",
    "enmap:gain_of_band": "enmap:gain",
    "enmap:offset_of_band": "enmap:offset",
}
"""Member of the image's ``eo:bands`` -> list column with one number per band."""
_IMAGE_SHAPE: Mapping[str, Shape] = {
    **_RASTER_SHAPE,
    **{name: ["float"] for name in _BAND_LISTS.values()},
    "raster:bands": [{"data_type": "str", "nodata": "float", "scale": "float", "offset": "float"}],
}

_NUMBERS = (
    "acrossOffNadirAngle",
    "alongOffNadirAngle",
    "cirrus_cover",
    "cloud_shadow",
    "haze_cover",
    "nodata",
    "orbitNo",
    "overallQuality",
    "ozoneValue",
    "qualityAtmosphere",
    "sceneAOT",
    "sceneSunglint",
    "sceneWV",
    "sunAzimuthAngle",
    "sunElevationAngle",
    "water_cover",
)
PROPERTY_SHAPES: Mapping[str, Shape] = {
    **OWN_PROPERTIES,
    "created": "time",
    "updated": "time",
    "start_datetime": "time",
    "end_datetime": "time",
    "constellation": "str",
    "eo:snow_cover": "float",
    "proj:epsg": "int",
    "sat:orbit_state": "str",
    "sat:absolute_orbit": "int",
    "view:off_nadir": "float",
    "view:sun_azimuth": "float",
    "processing:level": "str",
    "processing:facility": "str",
    "version": "str",
    **{f"enmap:{name}": "float" for name in _NUMBERS},
    "geostack:product": "str",
    "enmap:biomeType": "str",
    "enmap:datatakeID": "str",
    "enmap:processingDate": "time",
    "enmap:productScreeningResultStatus": "str",
    "enmap:tileID": "str",
    "raster:nodata": "float",
}

_ID = re.compile(
    r"ENMAP\d\d-_+(?P<level>L0|L1B|L1C|L2A)-(?P<datatake>DT\d{10})_(?P<start>\d{8}T\d{6})Z_(?P<tile>\d{3})"
    r"_V(?P<version>\d{6})_(?P<made>\d{8}T\d{6})Z",
    re.ASCII,
)
_CODE = re.compile(r"EPSG:\d{4,6}", re.ASCII)
_DATATAKE = re.compile(r"(?:DT)?(\d{1,10})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ProductId:
    """What the id of an EnMAP product says."""

    level: str
    """``L2A`` …"""
    datatake: str
    """``DT0000140097``."""
    tile: str
    """Part of the datatake, ``001``."""
    version: str
    """Of the processor, ``01.05.02``: sorts as text."""
    made: str | None
    """Processing time, ``YYYY-MM-DDTHH:MM:SS.ffffffZ``."""


def parse_id(identifier: Any) -> ProductId | None:
    """Return the parts of ``ENMAP01-____L2A-DT0000140097_20250708T104407Z_001_V010502_20250709T035921Z``, else None."""
    match = _ID.fullmatch(identifier) if isinstance(identifier, str) else None
    if match is None:
        return None
    digits = match["version"]
    return ProductId(
        level=match["level"],
        datatake=match["datatake"],
        tile=match["tile"],
        version=f"{digits[:2]}.{digits[2:4]}.{digits[4:]}",
        made=parse_compact_time(match["made"]),
    )


ITEM, PRODUCT, FILE = "eo:bands", "product", "metadata_file"
REASONS: Mapping[str, str] = {
    ITEM: "one gain and offset for all bands, as eo:bands gives them",
    PRODUCT: "gain 0.0001 and offset 0 by the definition of the L2A product",
    FILE: "gains and offsets differ between bands and stand in the metadata file; 1 and 0 here",
}


def radiometry(collection: str, properties: Mapping[str, Any], asset: Mapping[str, Any]) -> Radiometry:
    """Return how an image's numbers become reflectance (L2A) or radiance (L1B, L1C). Pure.

    1. The item gives one gain and one offset for all bands: these.
    2. It is L2A: 0.0001 and 0.
    3. Otherwise every band has its own, which only the metadata file knows: 1 and 0, the stored numbers.

    Args:
        collection: Canonical collection.
        properties: With ``enmap:nodata``, where the item has it.
        asset: With the list columns ``enmap:gain`` and ``enmap:offset``.
    """
    nodata = finite(properties.get("enmap:nodata"))
    if nodata is None:
        nodata = NODATA if collection == "ENMAP_HSI_L2A" else 0.0
    gains, offsets = (set(asset.get(name, ())) for name in ("enmap:gain", "enmap:offset"))
    if len(gains) == 1 and len(offsets) == 1:
        return Radiometry(scale=gains.pop(), offset=offsets.pop(), nodata=nodata, reason=ITEM)
    if collection == "ENMAP_HSI_L2A" and not gains and not offsets:
        return Radiometry(scale=SCALE, offset=0.0, nodata=nodata, reason=PRODUCT)
    return Radiometry(scale=1.0, offset=0.0, nodata=nodata, reason=FILE)


def incidence_angle(off_nadir: float) -> float:
    """Return the angle between the vertical at the ground and the line to the satellite, degrees, on a sphere.

    Law of sines in the triangle of the earth's centre, the ground and a satellite at 653 km.
    """
    sine = (EARTH_KM + ALTITUDE_KM) / EARTH_KM * math.sin(math.radians(off_nadir))
    return math.degrees(math.asin(min(1.0, sine)))


class EnmapForm(ItemForm):
    """Items of the EnMAP collections."""

    property_shapes = PROPERTY_SHAPES
    reasons = REASONS

    def __init__(self, homes: Sequence[str]) -> None:
        self.homes = tuple(homes)

    def collection(self, name: str) -> str | None:
        """Return the collection, if it is one of EnMAP's."""
        return name if name in COLLECTIONS else None

    def asset_key(self, name: str, asset: Mapping[str, Any]) -> str | None:
        """Return the key of a known name, else the one that the file's name speaks of."""
        known = _KNOWN.get(name.lower())
        if known is not None:
            return known
        match = _FILE_NAME.search(str(asset["href"]).rsplit("/", 1)[-1])
        if match is None:
            return None
        part = match["part"].upper()
        key = f"QUALITY_{part}" if part.startswith("PIXELMASK") else part
        return key if key in KEYS else None

    def asset_shape(self, key: str) -> Mapping[str, Shape]:
        """Return the columns of an image, of another raster, or of a file."""
        if key in IMAGES:
            return _IMAGE_SHAPE
        return _FILE_SHAPE if key in {METADATA, "THUMBNAIL", "OVERVIEW"} else _RASTER_SHAPE

    def asset_keys(self) -> Sequence[str]:
        """Return every canonical key."""
        return KEYS

    def prepare(self, item: Item) -> Item:
        """Return the item with the images' ``eo:bands`` as lists of numbers, where nothing is lost by it."""
        assets = item.get("assets")
        if not isinstance(assets, dict):
            return item
        changed: dict[str, Any] = {}
        for name, asset in assets.items():
            lists = _band_lists(asset.get("eo:bands")) if isinstance(asset, dict) else None
            if lists is not None and not any(column in asset for column in lists):
                rest = {member: value for member, value in asset.items() if member != "eo:bands"}
                changed[name] = {**rest, **lists}
        return {**item, "assets": {**assets, **changed}} if changed else item

    def describe(self, properties: dict[str, Any], item: Item, leftovers: dict[str, Any]) -> None:
        """Set platform, CRS, angles, processor version, processing time and scene."""
        raw = item["properties"]
        if parse_time(properties.get("datetime")) is None:
            raise RejectedItemError("datetime", f"{str(raw.get('datetime'))[:60]!r} is no RFC 3339 time")
        product = parse_id(item.get("id"))
        scene = _scene(product, properties)
        if scene is None:
            raise RejectedItemError(
                "scene", "neither the id nor enmap:datatakeID and enmap:tileID name a datatake and its tile"
            )
        properties["geostack:scene"] = scene
        # levels of one scene are no repetitions of each other
        properties["geostack:product"] = str(item["collection"])
        platform = properties.get("platform")
        if platform is not None and platform.lower() != "enmap":
            leftovers["/properties/platform"] = platform
        properties["platform"] = "enmap"
        code = properties.get("proj:code")
        if code is not None and not _CODE.fullmatch(code):
            leftovers["/properties/proj:code"] = properties.pop("proj:code")
            code = None
        if code is None and (code := self._crs(properties, item)) is not None:
            properties["proj:code"] = code
        version = product.version if product else properties.get("version")
        if version is not None:
            properties.setdefault("processing:baseline", version)
        made = properties.get("enmap:processingDate") or (product.made if product else None)
        if made is not None:
            properties.setdefault("processing:datetime", made)
        if "enmap:sunElevationAngle" in properties:
            properties.setdefault("view:sun_elevation", properties["enmap:sunElevationAngle"])
        _mend_azimuth(properties, leftovers)
        across, along = (
            properties.get(f"enmap:{name}") for name in ("acrossOffNadirAngle", "alongOffNadirAngle")
        )
        if across is not None and along is not None and max(abs(across), abs(along)) < 60.0:
            tilt = math.hypot(math.tan(math.radians(across)), math.tan(math.radians(along)))
            off_nadir = math.degrees(math.atan(tilt))
            properties.setdefault("view:off_nadir", round(off_nadir, 6))
            properties.setdefault("view:incidence_angle", round(incidence_angle(off_nadir), 6))

    def _crs(self, properties: Mapping[str, Any], item: Item) -> str | None:
        """Return the CRS of the image, else of the properties."""
        assets = item.get("assets")
        for name, asset in sorted(assets.items()) if isinstance(assets, dict) else ():
            named = isinstance(asset, dict) and isinstance(asset.get("href"), str)
            if named and self.asset_key(name, asset) in IMAGES:
                epsg = coerce(asset.get("proj:epsg"), "int", "", {})
                if epsg is not MISSING and 1024 <= epsg <= 999_999:
                    return f"EPSG:{epsg}"
        epsg = properties.get("proj:epsg")
        return f"EPSG:{epsg}" if epsg is not None and 1024 <= epsg <= 999_999 else None

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
        """Write an image's gain, offset and nodata."""
        if key not in IMAGES:
            return None
        # a detector's image exists at L1B only; L1C is told by its level
        level = str(properties.get("processing:level", "L2A")).upper()
        collection = "ENMAP_HSI_L2A" if key == IMAGE and level == "L2A" else "ENMAP_HSI_L1"
        chosen = radiometry(collection, properties, asset)
        if not decided:
            write_radiometry(asset, chosen, pointer, leftovers)
        return chosen.reason


def _band_lists(bands: Any) -> dict[str, list[Any]] | None:
    """Return the columns of a list of bands named 1, 2, 3 …; None where a list would lose something."""
    if not isinstance(bands, list) or len(bands) < 2:
        return None
    for number, band in enumerate(bands, 1):
        if not isinstance(band, dict) or str(band.get("name")) != str(number):
            return None
        if band.keys() != {"name", *_BAND_LISTS}:
            return None
        if any(finite(band[member]) is None for member in _BAND_LISTS):
            return None
    return {column: [float(band[member]) for band in bands] for member, column in _BAND_LISTS.items()}


def _scene(product: ProductId | None, properties: Mapping[str, Any]) -> str | None:
    """Return ``ENMAP_DT0000140097_001``: one part of one datatake, whatever level and version."""
    if product is not None:
        return f"ENMAP_{product.datatake}_{product.tile}"
    datatake = _DATATAKE.fullmatch(str(properties.get("enmap:datatakeID", "")))
    tile = str(properties.get("enmap:tileID", ""))
    if datatake is None or not tile.isascii() or not tile.isdecimal() or len(tile) > 3:
        return None
    return f"ENMAP_DT{int(datatake[1]):010d}_{int(tile):03d}"


def _mend_azimuth(properties: dict[str, Any], leftovers: dict[str, Any]) -> None:
    """Take the sun's azimuth from EnMAP's own metadata; the catalog's, if another, is kept aside."""
    own = properties.get("enmap:sunAzimuthAngle")
    claimed = properties.get("view:sun_azimuth")
    if own is None or claimed == own:
        return
    if claimed is not None:
        leftovers.setdefault("/properties/view:sun_azimuth", claimed)
    properties["view:sun_azimuth"] = own
