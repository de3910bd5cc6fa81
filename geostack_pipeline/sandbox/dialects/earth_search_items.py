"""Earth Search's Sentinel-2 items, in the shape that was recorded: every field, link and asset, in order.

What is odd in them is odd in the original: ``boa_offset_applied: true`` beside an offset of -0.1, a JPEG 2000
thumbnail called ``image/jpeg``, the same band under two keys, integers where a percentage is whole.
The world has B02, B03, B04, B08, B11, B12 and SCL; the other assets are listed, and their hrefs give 404.
"""

from __future__ import annotations

import hashlib
import math
from datetime import timedelta
from typing import Any

import shapely

from geostack_pipeline.sandbox.world.plan import ProcessingPlan
from geostack_pipeline.sandbox.world.scene import PhysicalScene

COLLECTION = "sentinel-2-l2a"
BUCKET = "sentinel-cogs"
HOST = f"https://{BUCKET}.s3.us-west-2.amazonaws.com"
JP2_BUCKET = "s3://sentinel-s2-l2a"
OFFSET_QUIRK = "earth_search:offset-not-applied"
"""Mark of an overpass whose files still hold the +1000 of newer baselines, and whose item says so."""

_EXTENSIONS = [
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in (
        "raster/v1.1.0",
        "mgrs/v1.0.0",
        "eo/v1.1.0",
        "grid/v1.0.0",
        "view/v1.0.0",
        "processing/v1.1.0",
        "projection/v1.1.0",
    )
]

# Key -> (file, title, metres, common name, centre and width in micrometres).
_BANDS: dict[str, tuple[str, str, int, str, float, float]] = {
    "blue": ("B02", "Blue (band 2)", 10, "blue", 0.49, 0.098),
    "coastal": ("B01", "Coastal aerosol (band 1)", 60, "coastal", 0.443, 0.027),
    "green": ("B03", "Green (band 3)", 10, "green", 0.56, 0.045),
    "nir": ("B08", "NIR 1 (band 8)", 10, "nir", 0.842, 0.145),
    "nir08": ("B8A", "NIR 2 (band 8A)", 20, "nir08", 0.865, 0.033),
    "nir09": ("B09", "NIR 3 (band 9)", 60, "nir09", 0.945, 0.026),
    "red": ("B04", "Red (band 4)", 10, "red", 0.665, 0.038),
    "rededge1": ("B05", "Red edge 1 (band 5)", 20, "rededge", 0.704, 0.019),
    "rededge2": ("B06", "Red edge 2 (band 6)", 20, "rededge", 0.74, 0.018),
    "rededge3": ("B07", "Red edge 3 (band 7)", 20, "rededge", 0.783, 0.028),
    "swir16": ("B11", "SWIR 1 (band 11)", 20, "swir16", 1.61, 0.143),
    "swir22": ("B12", "SWIR 2 (band 12)", 20, "swir22", 2.19, 0.242),
}
_COG_KEYS = [
    "aot",
    "blue",
    "coastal",
    "granule_metadata",
    "green",
    "nir",
    "nir08",
    "nir09",
    "red",
    "rededge1",
    "rededge2",
    "rededge3",
    "scl",
    "swir16",
    "swir22",
    "thumbnail",
    "tileinfo_metadata",
    "visual",
    "wvp",
]
_JP2_KEYS = [
    "aot",
    "blue",
    "coastal",
    "green",
    "nir",
    "nir08",
    "nir09",
    "red",
    "rededge1",
    "rededge2",
    "rededge3",
    "scl",
    "swir16",
    "swir22",
    "visual",
    "wvp",
]
_COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"


def has_offset(processing: ProcessingPlan) -> bool:
    """Tell whether the ground segment added 1000 to the numbers: from baseline 04.00 on."""
    return processing.baseline >= "04.00"


def sequence(scene: PhysicalScene, processing: ProcessingPlan) -> int:
    """Return the counter of ids: the first processing published is 0."""
    return len(scene.overpass.processings) - 1 - scene.overpass.processings.index(processing)


def item_id(scene: PhysicalScene, processing: ProcessingPlan) -> str:
    """Return e.g. ``S2A_32TMT_20200305_1_L2A``."""
    return f"{scene.platform}_{scene.tile.mgrs}_{scene.datetime:%Y%m%d}_{sequence(scene, processing)}_L2A"


def prefix(scene: PhysicalScene, processing: ProcessingPlan) -> str:
    """Return the folder of the item's files in the bucket."""
    mgrs, when = scene.tile.mgrs, scene.datetime
    return (
        f"sentinel-s2-l2a-cogs/{int(mgrs[:2])}/{mgrs[2]}/{mgrs[3:]}/{when.year}/{when.month}/"
        f"{item_id(scene, processing)}"
    )


def make_item(
    scene: PhysicalScene, processing: ProcessingPlan, facts: dict[str, Any], root: str
) -> dict[str, Any]:
    """Return the item of one processing of a scene; ``facts`` are the world's counts of classes."""
    outline = scene.footprint()
    identifier = item_id(scene, processing)
    west, south, east, north = outline.bounds
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": identifier,
        "properties": _properties(scene, processing, facts),
        "geometry": {"type": "Polygon", "coordinates": shapely.get_coordinates(outline)[None].tolist()},
        "links": _links(scene, processing, root),
        "assets": _assets(scene, processing),
        "bbox": [west, south, east, north],
        "stac_extensions": list(_EXTENSIONS),
        "collection": COLLECTION,
    }


def _number(value: float) -> float | int:
    """Return whole numbers as integers, as JavaScript writes them."""
    return int(value) if value == int(value) else value


def _properties(scene: PhysicalScene, processing: ProcessingPlan, facts: dict[str, Any]) -> dict[str, Any]:
    mgrs, overpass = scene.tile.mgrs, scene.overpass
    start = overpass.start.strftime("%Y%m%dT%H%M%S")
    generated = overpass.start + processing.delay
    stamp = generated.strftime("%Y%m%dT%H%M%S")
    baseline = processing.baseline
    centre = "S2RP" if processing.delay > timedelta(days=30) else "2APS" if has_offset(processing) else "SGS_"
    orbit = f"{overpass.absolute_orbit:06d}"
    newest = processing is scene.newest
    # The older processing of the recorded pairs lies one millisecond earlier.
    when = scene.datetime - timedelta(milliseconds=0 if newest else 1)
    created = (
        (generated + timedelta(hours=5, milliseconds=577))
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
    share = facts["percentages"]
    payload = hashlib.md5(item_id(scene, processing).encode(), usedforsecurity=False).hexdigest()
    day = scene.overpass.start.timetuple().tm_yday
    return {
        "created": created,
        "platform": f"sentinel-{scene.platform[1:].lower()}",
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "eo:cloud_cover": _number(share["cloud_cover"]),
        "proj:epsg": scene.tile.epsg,
        "mgrs:utm_zone": int(mgrs[:2]),
        "mgrs:latitude_band": mgrs[2],
        "mgrs:grid_square": mgrs[3:],
        "grid:code": f"MGRS-{mgrs}",
        "view:sun_azimuth": round(scene.sun.azimuth_deg, 12),
        "view:sun_elevation": round(90.0 - scene.sun.zenith_deg, 13),
        "s2:degraded_msi_data_percentage": _number(0.0082 if newest else 0.0),
        "s2:nodata_pixel_percentage": _number(share["nodata"]),
        "s2:saturated_defective_pixel_percentage": 0,
        "s2:dark_features_percentage": 0,
        "s2:cloud_shadow_percentage": _number(share["shadow"]),
        "s2:vegetation_percentage": _number(share["vegetation"]),
        "s2:not_vegetated_percentage": _number(share["soil"]),
        "s2:water_percentage": 0,
        "s2:unclassified_percentage": 0,
        "s2:medium_proba_clouds_percentage": _number(share["medium"]),
        "s2:high_proba_clouds_percentage": _number(share["high"]),
        "s2:thin_cirrus_percentage": _number(share["cirrus"]),
        "s2:snow_ice_percentage": 0,
        "s2:product_type": "S2MSI2A",
        "s2:processing_baseline": baseline,
        "s2:product_uri": (
            f"{scene.platform}_MSIL2A_{start}_N{baseline.replace('.', '')}_R{overpass.relative_orbit:03d}_"
            f"T{mgrs}_{stamp}.SAFE"
        ),
        "s2:generation_time": generated.strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "s2:datatake_id": f"G{scene.platform}_{start}_{orbit}_N{baseline}",
        "s2:datatake_type": "INS-NOBS",
        "s2:datastrip_id": f"{scene.platform}_OPER_MSI_L2A_DS_{centre}_{stamp}_S{start}_N{baseline}",
        "s2:granule_id": f"{scene.platform}_OPER_MSI_L2A_TL_{centre}_{stamp}_A{orbit}_T{mgrs}_N{baseline}",
        # Inverse square of the distance to the sun (Spencer 1971, first terms).
        "s2:reflectance_conversion_factor": round(
            1.0 + 0.0334 * math.cos(math.radians(0.9856 * (day - 3))), 14
        ),
        "datetime": when.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "000Z",
        "s2:sequence": str(sequence(scene, processing)),
        "earthsearch:s3_path": f"s3://{BUCKET}/{prefix(scene, processing)}",
        "earthsearch:payload_id": f"roda-sentinel2/workflow-sentinel2-to-stac/{payload}",
        "earthsearch:boa_offset_applied": has_offset(processing) and OFFSET_QUIRK not in overpass.quirks,
        "processing:software": {"sentinel2-to-stac": "0.1.1" if newest else "0.1.0"},
        "updated": created,
    }


def _links(scene: PhysicalScene, processing: ProcessingPlan, root: str) -> list[dict[str, str]]:
    identifier = item_id(scene, processing)
    own = f"{root}/collections/{COLLECTION}/items/{identifier}"
    collection = f"{root}/collections/{COLLECTION}"
    level1 = f"{root}/collections/sentinel-2-l1c/items/{identifier[:-3]}L1C"
    canonical = f"s3://{BUCKET}/{prefix(scene, processing)}/{identifier}.json"
    licence = "https://sentinel.esa.int/documents/247904/690755/Sentinel_Data_Legal_Notice"
    return [
        {"rel": "self", "type": "application/geo+json", "href": own},
        {"rel": "canonical", "href": canonical, "type": "application/json"},
        {"rel": "license", "href": licence},
        {"rel": "derived_from", "href": level1, "type": "application/geo+json"},
        {"rel": "parent", "type": "application/json", "href": collection},
        {"rel": "collection", "type": "application/json", "href": collection},
        {"rel": "root", "type": "application/json", "href": root},
        {"rel": "thumbnail", "href": f"{own}/thumbnail"},
    ]


def _assets(scene: PhysicalScene, processing: ProcessingPlan) -> dict[str, Any]:
    folder = f"{HOST}/{prefix(scene, processing)}"
    mgrs, when = scene.tile.mgrs, scene.datetime
    tiles = (
        f"{JP2_BUCKET}/tiles/{int(mgrs[:2])}/{mgrs[2]}/{mgrs[3:]}/{when.year}/{when.month}/{when.day}/"
        f"{sequence(scene, processing)}"
    )
    assets: dict[str, Any] = {
        key: _asset(scene, processing, key, f"{folder}/", ".tif", _COG_TYPE) for key in _COG_KEYS
    }
    for key in _JP2_KEYS:
        assets[f"{key}-jp2"] = _asset(scene, processing, key, f"{tiles}/", ".jp2", "image/jp2")
    return assets


def _grid_fields(scene: PhysicalScene, metres: int) -> dict[str, Any]:
    grid = scene.grid.coarser(metres // 10)
    return {
        "proj:shape": [grid.height, grid.width],
        "proj:transform": [metres, 0, _number(grid.west), 0, -metres, _number(grid.north)],
    }


def _eo_band(key: str) -> dict[str, Any]:
    _, title, _, common, centre, width = _BANDS[key]
    return {
        "name": key,
        "common_name": common,
        "description": title,
        "center_wavelength": centre,
        "full_width_half_max": width,
    }


def _asset(
    scene: PhysicalScene, processing: ProcessingPlan, key: str, folder: str, suffix: str, media_type: str
) -> dict[str, Any]:
    fixed = {
        "granule_metadata": ("granule_metadata.xml", "application/xml", None, ["metadata"]),
        # Newer items call a JPEG 2000 file image/jpeg, as recorded.
        "thumbnail": (
            "thumbnail.jp2" if processing is scene.newest else "thumbnail.jpg",
            "image/jpeg",
            "Thumbnail image",
            ["thumbnail"],
        ),
        "tileinfo_metadata": ("tileinfo_metadata.json", "application/json", None, ["metadata"]),
    }
    if key in fixed:
        name, kind, title, roles = fixed[key]
        return {"href": folder + name, "type": kind, **({"title": title} if title else {}), "roles": roles}
    if key == "visual":
        return {
            "href": f"{folder}TCI{suffix}",
            "type": media_type,
            "title": "True color image",
            "eo:bands": [_eo_band(name) for name in ("red", "green", "blue")],
            **_grid_fields(scene, 10),
            "roles": ["visual"],
        }
    if key in {"aot", "wvp", "scl"}:
        title = {
            "aot": "Aerosol optical thickness (AOT)",
            "wvp": "Water vapour (WVP)",
            "scl": "Scene classification map (SCL)",
        }[key]
        stored: dict[str, Any] = {"nodata": 0, "data_type": "uint8", "spatial_resolution": 20}
        if key != "scl":
            stored = {
                "nodata": 0,
                "data_type": "uint16",
                "bits_per_sample": 15,
                "spatial_resolution": 20,
                **({"unit": "cm"} if key == "wvp" else {}),
                "scale": 0.001,
                "offset": 0,
            }
        return {
            "href": f"{folder}{key.upper()}{suffix}",
            "type": media_type,
            "title": title,
            **_grid_fields(scene, 20),
            "raster:bands": [stored],
            "roles": ["data", "reflectance"],
        }
    name, title, metres, *_ = _BANDS[key]
    return {
        "href": f"{folder}{name}{suffix}",
        "type": media_type,
        "title": f"{title} - {metres}m",
        "eo:bands": [_eo_band(key)],
        "gsd": metres,
        **_grid_fields(scene, metres),
        "raster:bands": [
            {
                "nodata": 0,
                "data_type": "uint16",
                "bits_per_sample": 15,
                "spatial_resolution": metres,
                "scale": 0.0001,
                # Stated whenever the ground segment had added 1000, even where the files no longer hold it.
                "offset": -0.1 if has_offset(processing) else 0,
            }
        ],
        "roles": ["data", "reflectance"],
    }
