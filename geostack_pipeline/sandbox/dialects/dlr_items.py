"""EnMAP items as DLR's catalog writes them, in the three shapes that were recorded.

``strings``: items of 2024 and 2025: numbers as texts, 224 ``eo:bands`` with integer names, the sun's azimuth off by 180
degrees, files in a folder per tile.  ``numbers``: items of 2026: numbers, ``raster:nodata: "null"``, no bands, files in a
folder per product.  ``quicklook``: the sibling of level 0, with names in upper case and nothing to analyse.
Quicklooks and most quality layers are listed, and their hrefs give 404.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import shapely

from geostack_pipeline.sandbox.world.enmap import EnmapScene

L2A = "ENMAP_HSI_L2A"
QUICKLOOK = "ENMAP_HSI_L0_QL"
HOST = "https://download.geoservice.dlr.de"
FOLDER = "ENMAP/files"

Style = Literal["strings", "numbers"]

_EXTENSIONS = [
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("eo/v1.1.0", "view/v1.0.0", "projection/v1.0.0", "processing/v1.0.0", "sat/v1.0.0")
]
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
# Asset -> (part of the file's name, media type, title, role).
_RASTERS: dict[str, tuple[str, str, str]] = {
    "vnir": ("QL_VNIR_COG.TIF", "Quicklook VNIR", "overview"),
    "swir": ("QL_SWIR_COG.TIF", "Quicklook SWIR", "overview"),
    "quality_classes": ("QL_QUALITY_CLASSES_COG.TIF", "Quality classes", "quality"),
    "quality_cloud": ("QL_QUALITY_CLOUD_COG.TIF", "Quality cloud", "quality"),
    "quality_cloud_shadow": ("QL_QUALITY_CLOUDSHADOW_COG.TIF", "Quality cloud shadow", "quality"),
    "quality_haze": ("QL_QUALITY_HAZE_COG.TIF", "Quality haze", "quality"),
    "quality_cirrus": ("QL_QUALITY_CIRRUS_COG.TIF", "Quality cirrus", "quality"),
    "quality_snow": ("QL_QUALITY_SNOW_COG.TIF", "Quality snow", "quality"),
    "quality_testflags": ("QL_QUALITY_TESTFLAGS_COG.TIF", "Quality test flags", "quality"),
    "defective_pixel_mask": ("QL_PIXELMASK_COG.TIF", "Defective pixel mask", "quality"),
}
_LEVEL0 = {
    "THUMBNAIL": ("QL_VNIR_THUMBNAIL.png", "image/png", ["thumbnail"]),
    "OVERVIEW": ("QL_VNIR_OVERVIEW.png", "image/png", ["overview"]),
    "VNIR": ("QL_VNIR_COG.TIF", _COG, ["visual"]),
    "SWIR": ("QL_SWIR_COG.TIF", _COG, ["visual"]),
    "QUALITY_CLOUD": ("QL_QUALITY_CLOUD_COG.TIF", _COG, ["quality", "cloud"]),
    "PIXELMASK_VNIR": ("QL_PIXELMASK_VNIR.TIF", "image/tiff;", ["quality", "data-mask"]),
    "PIXELMASK_SWIR": ("QL_PIXELMASK_SWIR.TIF", "image/tiff;", ["quality", "data-mask"]),
}
_BAND = re.compile(
    r"<wavelengthCenterOfBand>([^<]+)</wavelengthCenterOfBand>\s*<FWHMOfBand>([^<]+)</FWHMOfBand>\s*"
    r"<GainOfBand>([^<]+)</GainOfBand>\s*<OffsetOfBand>([^<]+)</OffsetOfBand>"
)


@dataclass(frozen=True, kw_only=True)
class Level0:
    """The quicklook product of a scene."""

    id: str
    folder: str
    """Below the file server's root."""


def folder(scene: EnmapScene, style: Style) -> str:
    """Return the folder of a scene's files below the file server's root, in the layout of its time."""
    number = int(scene.tile)
    base = f"{FOLDER}/L2A/{scene.start:%Y/%m/%d}/{scene.datatake}/{number:02d}"
    return base if style == "strings" else f"{base}/{scene.id}"


def level0(scene: EnmapScene) -> Level0:
    """Return the quicklook product of a scene."""
    name = (
        f"ENMAP01-_____L0-{scene.datatake}_{scene.start:%Y%m%dT%H%M%SZ}_{scene.tile}_{scene.version}_"
        f"{scene.processed:%Y%m%dT}020000Z"
    )
    return Level0(id=name, folder=f"{FOLDER}/L0/{scene.start:%Y/%m/%d}")


def make_item(scene: EnmapScene, style: Style, root: str) -> dict[str, Any]:
    """Return the L2A item of a scene."""
    properties = _properties(scene, style)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": scene.id,
        "collection": L2A,
        **_footprint(scene),
        "properties": properties,
        "assets": _assets(scene, style),
        "links": [
            {"href": L2A, "rel": "collection", "type": "application/json"},
            {
                "href": f"/geoservice/repository/{folder(scene, style)}/{scene.id}_stac.json",
                "rel": "self",
                "type": "application/json",
            },
            *_links(L2A, scene.id, root),
        ],
    }


def make_quicklook(scene: EnmapScene, root: str) -> dict[str, Any]:
    """Return the level 0 item of a scene: other types and names for the same things."""
    product = level0(scene)
    stamp = _offset_time(scene.start)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": product.id,
        "collection": QUICKLOOK,
        **_footprint(scene),
        "properties": {
            "version": _dotted(scene.version),
            "created": _offset_time(scene.processed),
            "updated": _offset_time(scene.processed),
            "datetime": stamp,
            "start_datetime": stamp,
            "end_datetime": _offset_time(scene.end),
            "platform": "EnMAP",
            "constellation": "EnMAP",
            "proj:epsg": 4326,
            "sat:absolute_orbit": 12037,
            "sat:orbit_state": "DESCENDING",
            "eo:cloud_cover": scene.cloud_cover,
            "eo:snow_cover": 0,
            "processing:facility": "NZ",
            "processing:level": "0",
            "dims:identifier": None,
            "enmap:cirrus_cover": 0.0,
            "enmap:datatakeID": scene.datatake[2:],
            "enmap:water_cover": 0.0,
        },
        "assets": {
            name: {
                "description": "description",
                "href": f"{HOST}/{product.folder}/{product.id}-{file}",
                "title": name,
                "type": kind,
                "roles": roles,
            }
            for name, (file, kind, roles) in _LEVEL0.items()
        },
        "links": _links(QUICKLOOK, product.id, root),
    }


def _footprint(scene: EnmapScene) -> dict[str, Any]:
    ring = shapely.get_coordinates(scene.footprint).round(6).tolist()
    west, south, east, north = scene.footprint.bounds
    return {
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [round(west, 7), round(south, 7), round(east, 7), round(north, 7)],
    }


def _properties(scene: EnmapScene, style: Style) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "sat:relative_orbit": 12037,
        "eo:cloud_cover": scene.cloud_cover,
        "eo:snow_cover": 0,
        "enmap:acrossOffNadirAngle": 7.8,
        "enmap:alongOffNadirAngle": 0.09,
        "enmap:cirrus_cover": 0,
        "enmap:cloud_shadow": 0,
        "enmap:haze_cover": 0,
        "enmap:nodata": -32768,
        "enmap:orbitNo": 12037,
        "enmap:overallQuality": 0,
        "enmap:ozoneValue": 330,
        "enmap:qualityAtmosphere": 0,
        "enmap:sceneAOT": 115,
        "enmap:sceneWV": 1983,
        "enmap:sunAzimuthAngle": round(scene.sun_azimuth_deg, 6),
        "enmap:sunElevationAngle": round(scene.sun_elevation_deg, 6),
        "enmap:water_cover": 0,
    }
    if style == "strings":
        numbers = {name: str(value) for name, value in numbers.items()}
    else:
        # this one stayed a text
        numbers["sat:relative_orbit"] = str(numbers["sat:relative_orbit"])
    wrong = (scene.sun_azimuth_deg + 180.0) % 360.0 if style == "strings" else scene.sun_azimuth_deg
    created = _offset_time(scene.processed)
    return {
        "version": _dotted(scene.version),
        "created": created if style == "strings" else created.replace("+00:00", "Z"),
        "updated": created,
        "datetime": scene.start.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "start_datetime": _fine_time(scene.start),
        "end_datetime": _fine_time(scene.end),
        "platform": "enmap",
        "proj:epsg": None if style == "strings" else scene.epsg,
        "sat:orbit_state": "DESCENDING",
        "view:sun_azimuth": round(wrong, 6),
        "view:sun_elevation": round(scene.sun_elevation_deg, 6),
        "processing:facility": "NZ",
        "processing:level": "L2A",
        "eop:sensorType": "OPTICAL",
        "card4l:geometric_accuracy_radial_rmse": -999.0,
        "card4l:specification": "SR",
        "card4l:specification_version": "5.0",
        **numbers,
        **({"raster:nodata": "null", "data_type": "int16"} if style == "numbers" else {}),
        "enmap:datatakeID": scene.datatake[2:],
        "enmap:tileID": f"{int(scene.tile):02d}",
        "enmap:processingDate": _fine_time(scene.processed),
        "enmap:productScreeningResultStatus": "OK",
        "enmap:instrumentStatusOK": "true",
        "eo:instrument": "HSI",
    }


def _assets(scene: EnmapScene, style: Style) -> dict[str, Any]:
    base = f"{HOST}/{folder(scene, style)}/{scene.id}"
    a, _, c, _, e, f = scene.transform
    rows, columns = scene.shape
    place = {
        "proj:epsg": scene.epsg,
        "proj:shape": [rows, columns],
        "proj:transform": [a, 0.0, c, 0.0, e, f, 0.0, 0.0, 1.0],
        "proj:bbox": [c, f + e * rows, c + a * columns, f],
    }
    image: dict[str, Any] = {
        "href": f"{base}-SPECTRAL_IMAGE_COG.TIF",
        "type": _COG,
        "title": "Spectral Image",
        "description": "Earth image measurement data covering 1 tile (30x30km) in orthorectified geometry",
        **place,
        "roles": ["data"],
    }
    if style == "strings":
        image["eo:bands"] = _bands(scene)
    thumbnail = "thumbnail.jpg" if style == "strings" else "thumbnail.png"
    return {
        "metadata": {
            "href": f"{base}-METADATA.XML",
            "type": "application/xml",
            "title": "Metadata",
            "description": "Original XML metadata",
            "roles": ["metadata"],
        },
        "image": image,
        "thumbnail": {
            "href": f"{base}-QL_VNIR_COG_{thumbnail}",
            "type": "image/jpeg" if style == "strings" else "image/png",
            "title": "Thumbnail VNIR",
            "roles": ["thumbnail"],
        },
        **{
            name: {"href": f"{base}-{part}", "type": _COG, "title": title, **place, "roles": [role]}
            for name, (part, title, role) in _RASTERS.items()
        },
    }


def _bands(scene: EnmapScene) -> list[dict[str, Any]]:
    found: Sequence[tuple[str, str, str, str]] = _BAND.findall(
        scene.files["METADATA"].read_text(encoding="utf-8")
    )
    return [
        {
            "name": number,
            "center_wavelength": float(centre),
            "full_width_half_max": float(width),
            "enmap:gain_of_band": float(gain),
            "enmap:offset_of_band": int(float(offset)),
        }
        for number, (centre, width, gain, offset) in enumerate(found, 1)
    ]


def _links(collection: str, identifier: str, root: str) -> list[dict[str, str]]:
    own = f"{root}/collections/{collection}/items/{identifier}"
    geo = "application/geo+json"
    return [
        {"title": "Root", "rel": "root", "href": f"{root}?f=application/json", "type": "application/json"},
        {
            "title": "Parent",
            "rel": "parent",
            "href": f"{root}?f=application/json",
            "type": "application/json",
        },
        {"title": "Self", "rel": "self", "href": f"{own}?f=application%2Fgeo%2Bjson", "type": geo},
        {"title": "Item", "rel": "item", "href": f"{own}?f=application%2Fgeo%2Bjson", "type": geo},
        {"title": "Item as HTML", "rel": "alternate", "href": f"{own}?f=text%2Fhtml", "type": "text/html"},
        {
            "title": "Collection",
            "rel": "collection",
            "href": f"{root}/collections/{collection}?f=application%2Fjson",
            "type": "application/json",
        },
    ]


def _dotted(version: str) -> str:
    return f"{version[1:3]}.{version[3:5]}.{version[5:7]}"


def _offset_time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def _fine_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
