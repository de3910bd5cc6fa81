"""The Planetary Computer's Sentinel-2 items, in the shape that was recorded: every field, link and asset, in order.

Ids leave the baseline out, so that two processings of a scene differ in their last timestamp only; ``datetime`` is the
start of the datatake; neither scale nor offset is said although newer files are shifted by 1000.  The world has B02, B03,
B04, B08, B11, B12 and SCL; the other assets are listed, and their hrefs give 404.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import shapely

from geostack_pipeline.sandbox.world.plan import ProcessingPlan
from geostack_pipeline.sandbox.world.scene import PhysicalScene

COLLECTION = "sentinel-2-l2a"
ACCOUNT = "sentinel2l2a01"
CONTAINER = "sentinel2-l2"
HOST = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}"
DATA_API = "https://planetarycomputer.microsoft.com/api/data/v1"

_EXTENSIONS = [
    f"https://stac-extensions.github.io/{name}/v1.0.0/schema.json" for name in ("eo", "sat", "projection")
]

# Key -> (metres, title, common name, description, centre and width in micrometres).
_BANDS: dict[str, tuple[int, str, str | None, str, float, float]] = {
    "B01": (60, "Band 1 - Coastal aerosol - 60m", "coastal", "Band 1 - Coastal aerosol", 0.443, 0.027),
    "B02": (10, "Band 2 - Blue - 10m", "blue", "Band 2 - Blue", 0.49, 0.098),
    "B03": (10, "Band 3 - Green - 10m", "green", "Band 3 - Green", 0.56, 0.045),
    "B04": (10, "Band 4 - Red - 10m", "red", "Band 4 - Red", 0.665, 0.038),
    "B05": (
        20,
        "Band 5 - Vegetation red edge 1 - 20m",
        "rededge",
        "Band 5 - Vegetation red edge 1",
        0.704,
        0.019,
    ),
    "B06": (
        20,
        "Band 6 - Vegetation red edge 2 - 20m",
        "rededge",
        "Band 6 - Vegetation red edge 2",
        0.74,
        0.018,
    ),
    "B07": (
        20,
        "Band 7 - Vegetation red edge 3 - 20m",
        "rededge",
        "Band 7 - Vegetation red edge 3",
        0.783,
        0.028,
    ),
    "B08": (10, "Band 8 - NIR - 10m", "nir", "Band 8 - NIR", 0.842, 0.145),
    "B09": (60, "Band 9 - Water vapor - 60m", None, "Band 9 - Water vapor", 0.945, 0.026),
    "B11": (20, "Band 11 - SWIR (1.6) - 20m", "swir16", "Band 11 - SWIR (1.6)", 1.61, 0.143),
    "B12": (20, "Band 12 - SWIR (2.2) - 20m", "swir22", "Band 12 - SWIR (2.2)", 2.19, 0.242),
    "B8A": (
        20,
        "Band 8A - Vegetation red edge 4 - 20m",
        "rededge",
        "Band 8A - Vegetation red edge 4",
        0.865,
        0.033,
    ),
}
# Key -> (name in the file, metres, title); the typing error is the original's.
_OTHERS = {
    "AOT": ("AOT", 10, "Aerosol optical thickness (AOT)"),
    "SCL": ("SCL", 20, "Scene classfication map (SCL)"),
    "WVP": ("WVP", 10, "Water vapour (WVP)"),
    "visual": ("TCI", 10, "True color image"),
}
_ORDER = ("AOT", *_BANDS, "SCL", "WVP", "visual")
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def item_id(scene: PhysicalScene, processing: ProcessingPlan) -> str:
    """Return e.g. ``S2B_MSIL2A_20240825T173909_R098_T13TDE_20240825T215747``."""
    start, stamp = _start(scene), _stamp(scene, processing)
    return f"{scene.platform}_MSIL2A_{start}_R{scene.overpass.relative_orbit:03d}_T{scene.tile.mgrs}_{stamp}"


def product(scene: PhysicalScene, processing: ProcessingPlan) -> str:
    """Return the name of ESA's product, with ``.SAFE``."""
    digits = processing.baseline.replace(".", "")
    start, stamp, orbit = _start(scene), _stamp(scene, processing), scene.overpass.relative_orbit
    return f"{scene.platform}_MSIL2A_{start}_N{digits}_R{orbit:03d}_T{scene.tile.mgrs}_{stamp}.SAFE"


def folder(scene: PhysicalScene, processing: ProcessingPlan) -> str:
    """Return the folder of the product in the container."""
    mgrs = scene.tile.mgrs
    when = scene.overpass.start
    return f"{mgrs[:2]}/{mgrs[2]}/{mgrs[3:]}/{when:%Y/%m/%d}/{product(scene, processing)}"


def granule(scene: PhysicalScene, processing: ProcessingPlan) -> str:
    """Return the folder of the granule, below which the rasters lie."""
    name = f"L2A_T{scene.tile.mgrs}_A{scene.overpass.absolute_orbit:06d}_{_sensed(scene)}"
    return f"{folder(scene, processing)}/GRANULE/{name}"


def raster_key(scene: PhysicalScene, processing: ProcessingPlan, name: str) -> str:
    """Return the blob of a raster: ``B04``, ``SCL``, ``TCI`` …."""
    metres = _BANDS[name][0] if name in _BANDS else 20 if name == "SCL" else 10
    file = f"T{scene.tile.mgrs}_{_start(scene)}_{name}_{metres}m.tif"
    return f"{granule(scene, processing)}/IMG_DATA/R{metres}m/{file}"


def make_item(
    scene: PhysicalScene, processing: ProcessingPlan, facts: dict[str, Any], root: str
) -> dict[str, Any]:
    """Return the item of one processing of a scene; ``facts`` are the world's counts of classes."""
    outline = shapely.get_coordinates(scene.footprint()).round(7)
    west, south = outline.min(axis=0).tolist()
    east, north = outline.max(axis=0).tolist()
    return {
        "id": item_id(scene, processing),
        "bbox": [west, south, east, north],
        "type": "Feature",
        "links": _links(scene, processing, root),
        "assets": _assets(scene, processing),
        "geometry": {"type": "Polygon", "coordinates": [outline.tolist()]},
        "collection": COLLECTION,
        "properties": _properties(scene, processing, facts),
        "stac_extensions": list(_EXTENSIONS),
        "stac_version": "1.0.0",
    }


def _start(scene: PhysicalScene) -> str:
    return f"{scene.overpass.start:%Y%m%dT%H%M%S}"


def _stamp(scene: PhysicalScene, processing: ProcessingPlan) -> str:
    return f"{scene.overpass.start + processing.delay:%Y%m%dT%H%M%S}"


def _sensed(scene: PhysicalScene) -> str:
    """Return when the datastrip begins: in the recorded item 535 s after the datatake."""
    return f"{scene.overpass.start + timedelta(seconds=535):%Y%m%dT%H%M%S}"


def _properties(scene: PhysicalScene, processing: ProcessingPlan, facts: dict[str, Any]) -> dict[str, Any]:
    overpass, mgrs, share = scene.overpass, scene.tile.mgrs, facts["percentages"]
    start, stamp, baseline = _start(scene), _stamp(scene, processing), processing.baseline
    orbit = f"{overpass.absolute_orbit:06d}"
    centre = "S2RP" if processing.delay > timedelta(days=30) else "2BPS" if baseline >= "04.00" else "SGS_"
    day = overpass.start.timetuple().tm_yday
    return {
        "datetime": overpass.start.strftime("%Y-%m-%dT%H:%M:%S.024000Z"),
        "platform": f"Sentinel-{scene.platform[1:]}",
        "proj:epsg": scene.tile.epsg,
        "instruments": ["msi"],
        "s2:mgrs_tile": mgrs,
        "constellation": "Sentinel 2",
        "s2:granule_id": f"{scene.platform}_OPER_MSI_L2A_TL_{centre}_{stamp}_A{orbit}_T{mgrs}_N{baseline}",
        "eo:cloud_cover": share["cloud_cover"],
        "s2:datatake_id": f"G{scene.platform}_{start}_{orbit}_N{baseline}",
        "s2:product_uri": product(scene, processing),
        "s2:datastrip_id": (
            f"{scene.platform}_OPER_MSI_L2A_DS_{centre}_{stamp}_S{_sensed(scene)}_N{baseline}"
        ),
        "s2:product_type": "S2MSI2A",
        "sat:orbit_state": "descending",
        "s2:datatake_type": "INS-NOBS",
        "s2:generation_time": (overpass.start + processing.delay).strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "sat:relative_orbit": overpass.relative_orbit,
        "s2:water_percentage": 0.0,
        "s2:mean_solar_zenith": round(scene.sun.zenith_deg, 13),
        "s2:mean_solar_azimuth": round(scene.sun.azimuth_deg, 12),
        "s2:processing_baseline": baseline,
        "s2:snow_ice_percentage": 0.0,
        "s2:vegetation_percentage": share["vegetation"],
        "s2:thin_cirrus_percentage": share["cirrus"],
        "s2:cloud_shadow_percentage": share["shadow"],
        "s2:nodata_pixel_percentage": share["nodata"],
        "s2:unclassified_percentage": 0.0,
        "s2:not_vegetated_percentage": share["soil"],
        "s2:degraded_msi_data_percentage": 0.0,
        "s2:high_proba_clouds_percentage": share["high"],
        # Inverse square of the distance to the sun (Spencer 1971, first terms).
        "s2:reflectance_conversion_factor": round(
            1.0 + 0.0334 * math.cos(math.radians(0.9856 * (day - 3))), 15
        ),
        "s2:medium_proba_clouds_percentage": share["medium"],
        "s2:saturated_defective_pixel_percentage": 0.0,
    }


def _links(scene: PhysicalScene, processing: ProcessingPlan, root: str) -> list[dict[str, str]]:
    identifier = item_id(scene, processing)
    collection = f"{root}/collections/{COLLECTION}"
    licence = "https://sentinel.esa.int/documents/247904/690755/Sentinel_Data_Legal_Notice"
    return [
        {"rel": "collection", "type": "application/json", "href": collection},
        {"rel": "parent", "type": "application/json", "href": collection},
        {"rel": "root", "type": "application/json", "href": f"{root}/"},
        {"rel": "self", "type": "application/geo+json", "href": f"{collection}/items/{identifier}"},
        {"rel": "license", "href": licence},
        {
            "rel": "preview",
            "href": f"{DATA_API}/item/map?collection={COLLECTION}&item={identifier}",
            "title": "Map of item",
            "type": "text/html",
        },
    ]


def _assets(scene: PhysicalScene, processing: ProcessingPlan) -> dict[str, Any]:
    assets = {key: _raster(scene, processing, key) for key in _ORDER}
    top, inner = f"{HOST}/{folder(scene, processing)}", f"{HOST}/{granule(scene, processing)}"
    strip = f"DS_2BPS_{_stamp(scene, processing)}_S{_sensed(scene)}"
    for key, href, title in (
        ("safe-manifest", f"{top}/manifest.safe", "SAFE manifest"),
        ("granule-metadata", f"{inner}/MTD_TL.xml", "Granule metadata"),
        ("inspire-metadata", f"{top}/INSPIRE.xml", "INSPIRE metadata"),
        ("product-metadata", f"{top}/MTD_MSIL2A.xml", "Product metadata"),
        ("datastrip-metadata", f"{top}/DATASTRIP/{strip}/MTD_DS.xml", "Datastrip metadata"),
    ):
        assets[key] = {"href": href, "type": "application/xml", "roles": ["metadata"], "title": title}
    asked = (
        f"collection={COLLECTION}&item={item_id(scene, processing)}&assets=visual"
        "&asset_bidx=visual%7C1%2C2%2C3&nodata=0&format=png"
    )
    assets["tilejson"] = {
        "title": "TileJSON with default rendering",
        "href": f"{DATA_API}/item/tilejson.json?{asked}",
        "type": "application/json",
        "roles": ["tiles"],
    }
    assets["rendered_preview"] = {
        "title": "Rendered preview",
        "rel": "preview",
        "href": f"{DATA_API}/item/preview.png?{asked}",
        "roles": ["overview"],
        "type": "image/png",
    }
    return assets


def _raster(scene: PhysicalScene, processing: ProcessingPlan, key: str) -> dict[str, Any]:
    if key in _BANDS:
        name, (metres, title, *_) = key, _BANDS[key]
        described = [key]
    else:
        name, metres, title = _OTHERS[key]
        described = ["B04", "B03", "B02"] if key == "visual" else []
    grid = scene.grid.coarser(metres // 10)
    asset = {
        "href": f"{HOST}/{raster_key(scene, processing, name)}",
        "proj:bbox": [float(edge) for edge in grid.bounds],
        "proj:shape": [grid.height, grid.width],
        "proj:transform": [float(metres), 0.0, float(grid.west), 0.0, -float(metres), float(grid.north)],
        "gsd": float(metres),
        "type": _COG,
        "roles": ["data"],
        "title": title,
    }
    if described:
        asset["eo:bands"] = [_eo_band(band) for band in described]
    return asset


def _eo_band(key: str) -> dict[str, Any]:
    _, _, common, description, centre, width = _BANDS[key]
    return {
        "name": key,
        **({"common_name": common} if common else {}),
        "description": description,
        "center_wavelength": centre,
        "full_width_half_max": width,
    }
