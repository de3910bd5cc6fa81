"""NASA's granule metadata (UMM-G, as CMR's ``granules.umm_json`` gives it) as STAC items of EMIT.

The items have the ids, collections and asset keys that CMR-STAC's items have after normalisation, and what CMR-STAC
leaves out: sizes, checksums, sun angles, production times and revisions.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping
from typing import Any

from geostack_pipeline.providers.contract import Item, RejectedItemError
from geostack_pipeline.providers.emit_form import collection_id, file_key

_MULTIHASH: Mapping[str, tuple[str, int]] = {
    "MD5": ("d50110", 16),
    "SHA-1": ("1114", 20),
    "SHA-256": ("1220", 32),
    "SHA-512": ("1340", 64),
}
"""UMM's algorithm -> prefix of the multihash in hex, length of the digest in bytes."""
_MAPPED = frozenset(
    {
        "GranuleUR",
        "CollectionReference",
        "TemporalExtent",
        "SpatialExtent",
        "CloudCover",
        "RelatedUrls",
        "MetadataSpecification",
    }
)
_DATA, _DIRECT, _PICTURE = "GET DATA", "GET DATA VIA DIRECT ACCESS", "GET RELATED VISUALIZATION"


def is_granule(item: Mapping[str, Any]) -> bool:
    """Return whether this is a granule of CMR and not a STAC item."""
    return "umm" in item and "assets" not in item


def identified(granule: Mapping[str, Any]) -> Item:
    """Return a granule with the id and the collection that its item will have, where it tells them."""
    umm = _object(granule.get("umm"))
    reference = _object(umm.get("CollectionReference"))
    name = f"{reference.get('ShortName')}_{reference.get('Version')}"
    return {**granule, "id": umm.get("GranuleUR"), "collection": collection_id(name) or name}


def item_of(granule: Mapping[str, Any]) -> Item:
    """Return the STAC item of a granule; what has no place in it stands in its member ``umm``.

    Raises:
        RejectedItemError: ``granule`` where there is no UMM-G; the other checks are those of any item.
    """
    umm, meta = granule.get("umm"), _object(granule.get("meta"))
    if not isinstance(umm, dict):
        raise RejectedItemError("granule", "no UMM-G metadata")
    named = identified(granule)
    attributes = _attributes(umm)
    assets, unused = _assets(umm)
    if isinstance(concept := meta.get("concept-id"), str):
        assets["METADATA"] = {
            "href": f"https://cmr.earthdata.nasa.gov/search/concepts/{concept}.umm_json",
            "type": "application/vnd.nasa.cmr.umm+json",
            "roles": ["metadata"],
        }
    properties: dict[str, Any] = {
        **_times(umm),
        "eo:cloud_cover": umm.get("CloudCover"),
        "cmr:concept_id": meta.get("concept-id"),
        "cmr:revision_id": meta.get("revision-id"),
        "cmr:revision_date": meta.get("revision-date"),
        "processing:datetime": _object(umm.get("DataGranule")).get("ProductionDateTime"),
        "view:sun_elevation": _elevation(attributes.get("SOLAR_ZENITH")),
        "view:sun_azimuth": _first(attributes.get("SOLAR_AZIMUTH")),
        "emit:software_build": _first(attributes.get("SOFTWARE_BUILD_VERSION")),
        "emit:source_scenes": attributes.get("SOURCE_SCENES"),
    }
    rest = {name: value for name, value in umm.items() if name not in _MAPPED}
    if unused:
        rest["RelatedUrls"] = unused
    more = {name: value for name, value in meta.items() if name not in _META}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": named["id"],
        "collection": named["collection"],
        "geometry": _geometry(umm),
        "bbox": None,
        "properties": properties,
        "links": [],
        "assets": assets,
        "umm": rest or None,
        "meta": more or None,
        **{
            name: value
            for name, value in granule.items()
            if name not in {"umm", "meta", "id", "collection"} and name not in _STAC
        },
    }


_META = frozenset({"concept-id", "revision-id", "revision-date"})
_STAC = frozenset({"type", "geometry", "bbox", "properties", "links", "assets", "stac_version"})


def _times(umm: Mapping[str, Any]) -> dict[str, Any]:
    """Return the time of a plume (``SingleDateTime``), or start and end of a scene."""
    extent = _object(umm.get("TemporalExtent"))
    single = extent.get("SingleDateTime")
    if single is not None:
        return {"datetime": single}
    span = _object(extent.get("RangeDateTime"))
    start, end = span.get("BeginningDateTime"), span.get("EndingDateTime")
    both = {"start_datetime": start, "end_datetime": end} if start and end else {}
    return {"datetime": start, **both}


def _geometry(umm: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return polygons and boxes as GeoJSON; None where there are none that can be read."""
    domain = _object(_object(umm.get("SpatialExtent")).get("HorizontalSpatialDomain"))
    shape = _object(domain.get("Geometry"))
    polygons = [[ring] for ring in _rings(shape)]
    for box in _objects(shape.get("BoundingRectangles")):
        west, south, east, north = (
            box.get(f"{side}BoundingCoordinate") for side in ("West", "South", "East", "North")
        )
        polygons.append([[[west, south], [east, south], [east, north], [west, north], [west, south]]])
    if not polygons:
        return None
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _rings(shape: Mapping[str, Any]) -> Iterator[list[Any]]:
    for polygon in _objects(shape.get("GPolygons")):
        points = _objects(_object(polygon.get("Boundary")).get("Points"))
        ring = [[point.get("Longitude"), point.get("Latitude")] for point in points]
        if ring and ring[0] != ring[-1]:
            ring.append(ring[0])  # UMM-G asks for closed rings, not everyone closes them
        yield ring


def _assets(umm: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return the assets under their keys, and the related URLs that are none of them."""
    files = _files(umm)
    assets: dict[str, Any] = {}
    unused: list[Any] = []
    direct: list[tuple[str, Any]] = []
    urls = umm.get("RelatedUrls")
    for entry in urls if isinstance(urls, list) else [urls] if urls is not None else []:
        href, kind = (entry.get("URL"), entry.get("Type")) if isinstance(entry, dict) else (None, None)
        if not isinstance(href, str):
            unused.append(entry)
            continue
        key = file_key(href)
        if kind == _DATA and key is not None and key not in assets:
            assets[key] = {
                "href": href,
                "description": entry.get("Description"),
                "roles": ["data"],
                **files.get(href.rsplit("/", 1)[-1], {}),
            }
        elif kind == _DIRECT and key is not None:
            direct.append((key, entry))
        elif kind == _PICTURE and href.startswith("https://") and "BROWSE" not in assets:
            assets["BROWSE"] = {"href": href, "roles": ["browse"]}
        else:
            unused.append(entry)
    for key, entry in direct:
        href = entry["URL"]
        if key not in assets:
            assets[key] = {"href": href, "roles": ["data"], **files.get(href.rsplit("/", 1)[-1], {})}
        elif "alternate" not in assets[key] and assets[key]["href"] != href:
            assets[key]["alternate"] = {"s3": {"href": href}}
        else:
            unused.append(entry)
    return assets, unused


def _files(umm: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return file name -> ``file:size`` and ``file:checksum``."""
    found: dict[str, dict[str, Any]] = {}
    for entry in _objects(_object(umm.get("DataGranule")).get("ArchiveAndDistributionInformation")):
        name, size = entry.get("Name"), entry.get("SizeInBytes")
        if not isinstance(name, str):
            continue
        about: dict[str, Any] = {}
        if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
            about["file:size"] = size
        checksum = _multihash(_object(entry.get("Checksum")))
        if checksum is not None:
            about["file:checksum"] = checksum
        found[name] = about
    return found


def _multihash(checksum: Mapping[str, Any]) -> str | None:
    """Return a checksum as a hex multihash; None for what cannot be checked."""
    algorithm, value = checksum.get("Algorithm"), checksum.get("Value")
    if not isinstance(algorithm, str) or algorithm not in _MULTIHASH or not isinstance(value, str):
        return None
    prefix, length = _MULTIHASH[algorithm]
    try:
        digest = binascii.unhexlify(value.strip())
    except (binascii.Error, ValueError):
        return None
    return f"{prefix}{digest.hex()}" if len(digest) == length else None


def _attributes(umm: Mapping[str, Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for entry in _objects(umm.get("AdditionalAttributes")):
        name, values = entry.get("Name"), entry.get("Values")
        if isinstance(name, str) and isinstance(values, list):
            found[name] = values
    return found


def _elevation(values: list[Any] | None) -> float | None:
    """Return the sun's height above the horizon of its zenith distance, degrees."""
    try:
        zenith = float(_first(values))
    except (TypeError, ValueError, OverflowError):
        return None
    return round(90.0 - zenith, 6) if 0.0 <= zenith <= 180.0 else None


def _first(values: list[Any] | None) -> Any:
    return values[0] if values else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
