"""The Data Space's Sentinel-2 items, in the shape that was recorded: STAC 1.1, 43 assets, every field in order.

What is odd in them is odd in the original: scale and offset of reflectance on the aerosol map, ``raster:offset: -0.1``
on baselines that have none, checksums that say md5 and are longer, a ``storage:refs`` of two characters, B07 at 60 m
that says 20 m.  The world has B02, B03, B04, B11, B12 and SCL at their own pixel size; the other files are listed, and
are not there.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import shapely

from geostack_pipeline.sandbox.dialects.safe import granule_folder, product_folder, product_name
from geostack_pipeline.sandbox.world.plan import ProcessingPlan
from geostack_pipeline.sandbox.world.scene import PhysicalScene

COLLECTION = "sentinel-2-l2a"
FORGOTTEN_QUIRK = "cdse:offset-forgotten"
"""Mark of an overpass whose items say ``raster:offset: 0``, though the files hold the +1000."""

_ZIPPER = "https://zipper.dataspace.copernicus.eu/odata/v1"
_EXTENSIONS = [
    *(
        f"https://stac-extensions.github.io/{name}/schema.json"
        for name in (
            "eo/v2.0.0",
            "raster/v2.0.0",
            "sat/v1.0.0",
            "projection/v2.0.0",
            "grid/v1.1.0",
            "view/v1.0.0",
            "file/v2.1.0",
            "processing/v1.2.0",
            "alternate-assets/v1.2.0",
            "timestamps/v1.1.0",
            "authentication/v1.1.0",
            "classification/v2.0.0",
            "product/v0.1.0",
        )
    ),
    "https://cs-si.github.io/eopf-stac-extension/v1.2.0/schema.json",
    "https://stac-extensions.github.io/storage/v2.0.0/schema.json",
]

# Band -> title, common name, centre and width in micrometres (the recorded width is twice the real one).
_BANDS: dict[str, tuple[str, str, float, float]] = {
    "B01": ("Coastal aerosol (band 1)", "coastal", 0.443, 0.228),
    "B02": ("Blue (band 2)", "blue", 0.493, 0.267),
    "B03": ("Green (band 3)", "green", 0.56, 0.291),
    "B04": ("Red (band 4)", "red", 0.665, 0.342),
    "B05": ("Red edge 1 (band 5)", "rededge071", 0.704, 0.357),
    "B06": ("Red edge 2 (band 6)", "rededge075", 0.741, 0.374),
    "B07": ("Red edge 3 (band 7)", "rededge078", 0.783, 0.399),
    "B08": ("NIR 1 (band 8)", "nir", 0.833, 0.454),
    "B09": ("NIR 3 (band 9)", "nir09", 0.945, 0.479),
    "B11": ("SWIR 1 (band 11)", "swir16", 1.614, 0.841),
    "B12": ("SWIR 2 (band 12)", "swir22", 2.202, 1.16),
    "B8A": ("NIR 2 (band 8A)", "nir08", 0.865, 0.441),
}
_NATIVE = {"B01": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10, "B09": 60, "TCI": 10}
_TITLES = {
    "AOT": "Aerosol optical thickness (AOT)",
    "SCL": "Scene classfication map (SCL)",
    "WVP": "Water vapour (WVP)",
}
_SIZES: dict[str, tuple[int, ...]] = {
    "AOT": (10, 20, 60),
    "B01": (20, 60),
    "B02": (10, 20, 60),
    "B03": (10, 20, 60),
    "B04": (10, 20, 60),
    "B05": (20, 60),
    "B06": (20, 60),
    "B07": (20, 60),
    "B08": (10,),
    "B09": (60,),
    "B11": (20, 60),
    "B12": (20, 60),
    "B8A": (20, 60),
    "Product": (),
    "SCL": (20, 60),
    "TCI": (10, 20, 60),
    "WVP": (10, 20, 60),
}
"""Band -> its pixel sizes, in the recorded order; ``Product`` stands among them."""
_CLASSES = (
    "no_data",
    "saturated_or_defective",
    "dark_area_pixels",
    "cloud_shadows",
    "vegetation",
    "not_vegetated",
    "water",
    "unclassified",
    "cloud_medium_probability",
    "cloud_high_probability",
    "thin_cirrus",
    "snow",
)
_S3_NOTE = (
    "S3 storage provided by CloudFerro Cloud and OpenTelekom Cloud (OTC). Use endpoint URL "
    "`https://eodata.dataspace.copernicus.eu`."
)


def make_item(
    scene: PhysicalScene,
    processing: ProcessingPlan,
    facts: dict[str, Any],
    root: str,
    files: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the item of one processing of a scene.

    Args:
        scene: The scene.
        processing: The processing.
        facts: The world's counts of classes.
        root: Root of the catalog.
        files: Band -> ``size`` and ``sha3_256`` of its file.
    """
    outline = scene.footprint()
    identifier = product_name(scene, processing)
    collection = f"{root}/collections/{COLLECTION}"
    trace = "https://trace.dataspace.copernicus.eu/api/v1/traces/name"
    return {
        "id": identifier,
        "bbox": [round(value, 6) for value in outline.bounds],
        "type": "Feature",
        "links": [
            {"rel": "collection", "type": "application/json", "href": collection},
            {"rel": "parent", "type": "application/json", "href": collection},
            {"rel": "root", "type": "application/json", "href": f"{root}/"},
            {"rel": "self", "type": "application/geo+json", "href": f"{collection}/items/{identifier}"},
            {
                "rel": "version-history",
                "href": f"{trace}/{identifier}.SAFE.zip",
                "type": "application/json",
                "title": "Product history record from the CDSE traceability service",
            },
        ],
        "assets": _assets(scene, processing, facts, files),
        "geometry": {"type": "Polygon", "coordinates": shapely.get_coordinates(outline)[None].tolist()},
        "collection": COLLECTION,
        "properties": _properties(scene, processing, facts),
        "stac_extensions": list(_EXTENSIONS),
        "stac_version": "1.1.0",
    }


def _properties(scene: PhysicalScene, processing: ProcessingPlan, facts: dict[str, Any]) -> dict[str, Any]:
    overpass, share = scene.overpass, facts["percentages"]
    start, made = overpass.start, overpass.start + processing.delay
    # As recorded: the start of the datatake and 24 milliseconds, not the tile's own time.
    when = f"{start:%Y-%m-%dT%H:%M:%S}.024Z"
    created = f"{made + timedelta(hours=5):%Y-%m-%dT%H:%M:%S}.346000Z"
    centre = _centre(processing)
    return {
        "gsd": 10,
        "created": created,
        "updated": f"{made + timedelta(hours=6):%Y-%m-%dT%H:%M:%S}.794294Z",
        "datetime": when,
        "platform": f"sentinel-{scene.platform[1:].lower()}",
        "grid:code": f"MGRS-{scene.tile.mgrs}",
        "published": f"{made + timedelta(hours=5, minutes=19):%Y-%m-%dT%H:%M:%S}.585003Z",
        "statistics": {
            "water": 0.0,
            "nodata": share["nodata"],
            "dark_area": 0.0,
            "vegetation": share["vegetation"],
            "thin_cirrus": share["cirrus"],
            "cloud_shadow": share["shadow"],
            "unclassified": 0.0,
            "not_vegetated": share["soil"],
            "high_proba_clouds": share["high"],
            "medium_proba_clouds": share["medium"],
            "saturated_defective": 0.0,
        },
        "instruments": ["msi"],
        "auth:schemes": {
            "s3": {"type": "s3"},
            "oidc": {
                "type": "openIdConnect",
                "openIdConnectUrl": "https://identity.dataspace.copernicus.eu/auth/realms/CDSE/"
                ".well-known/openid-configuration",
            },
        },
        "end_datetime": when,
        "product:type": "S2MSI2A",
        "view:azimuth": scene.view_azimuth_deg,
        "constellation": "sentinel-2",
        "eo:snow_cover": 0.0,
        "eo:cloud_cover": round(share["cloud_cover"], 2),
        "start_datetime": when,
        "sat:orbit_state": "descending",
        "storage:schemes": _schemes(),
        "eopf:datatake_id": f"G{scene.platform}_{start:%Y%m%dT%H%M%S}_{overpass.absolute_orbit:06d}_N{processing.baseline}",
        "processing:level": "L2",
        "view:sun_azimuth": scene.sun.azimuth_deg,
        "eopf:datastrip_id": f"{scene.platform}_OPER_MSI_L2A_DS_{centre}_{made:%Y%m%dT%H%M%S}"
        f"_S{start:%Y%m%dT%H%M%S}_N{processing.baseline}",
        "processing:version": processing.baseline,
        "product:timeliness": "PT24H",
        "sat:absolute_orbit": overpass.absolute_orbit,
        "sat:relative_orbit": overpass.relative_orbit,
        "view:sun_elevation": 90.0 - scene.sun.zenith_deg,
        "processing:datetime": f"{made:%Y-%m-%dT%H:%M:%S}.000000Z",
        "processing:facility": "ESA",
        "eopf:instrument_mode": "INS-NOBS",
        "eopf:origin_datetime": created,
        "view:incidence_angle": scene.view_zenith_deg,
        "product:timeliness_category": "NRT",
        "sat:platform_international_designator": "2015-028A" if scene.platform == "S2A" else "2017-013A",
    }


def _centre(processing: ProcessingPlan) -> str:
    return "S2RP" if processing.delay > timedelta(days=30) else "2APS"


def _schemes() -> dict[str, Any]:
    return {
        "cdse-s3": {
            "title": "Copernicus Data Space Ecosystem S3",
            "platform": "https://eodata.dataspace.copernicus.eu",
            "description": "This endpoint provides access to EO data which is stored on the Object Storage.",
            "requester_pays": False,
        },
        "creodias-s3": {
            "title": "CREODIAS S3",
            "platform": "https://eodata.cloudferro.com",
            "description": "Comprehensive Earth Observation Data (EODATA) archive offered by CREODIAS.",
            "requester_pays": True,
        },
    }


def _assets(
    scene: PhysicalScene,
    processing: ProcessingPlan,
    facts: dict[str, Any],
    files: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    folder, granule = product_folder(scene, processing), granule_folder(scene, processing)
    name = product_name(scene, processing)
    inside = granule.removeprefix(f"{folder}/")
    strip = (
        f"DATASTRIP/DS_{_centre(processing)}_{scene.overpass.start + processing.delay:%Y%m%dT%H%M%S}"
        f"_S{scene.overpass.start:%Y%m%dT%H%M%S}"
    )
    assets: dict[str, Any] = {}
    for band, sizes in _SIZES.items():
        if band == "Product":
            assets[band] = _product(name)
        for metres in sizes:
            assets[f"{band}_{metres}m"] = _raster(scene, processing, facts, band, metres, inside, files)
    assets["thumbnail"] = _thumbnail(folder, name)
    for key, path in {
        "safe_manifest": "manifest.safe",
        "granule_metadata": f"{inside}/MTD_TL.xml",
        "inspire_metadata": "INSPIRE.xml",
        "product_metadata": "MTD_MSIL2A.xml",
        "datastrip_metadata": f"{strip}/MTD_DS.xml",
    }.items():
        assets[key] = _metadata(folder, name, path)
    return assets


def _nodes(name: str, path: str) -> str:
    """Return the address of a file below a product in the other way to it, by OData."""
    parts = "".join(f"/Nodes({part})" for part in (f"{name}.SAFE", *path.split("/")))
    return f"{_ZIPPER}/Products({uuid.uuid5(uuid.NAMESPACE_URL, name)}){parts}/$value"


def _by_https(name: str, path: str) -> dict[str, Any]:
    return {
        "https": {
            "href": _nodes(name, path),
            "auth:refs": ["oidc"],
            "storage:refs": [],
            "alternate:name": "HTTPS",
        }
    }


def _raster(
    scene: PhysicalScene,
    processing: ProcessingPlan,
    facts: dict[str, Any],
    band: str,
    metres: int,
    inside: str,
    files: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    size = f"{metres}m"
    key = f"{band}_{size}"
    folder, name = product_folder(scene, processing), product_name(scene, processing)
    file = f"T{scene.tile.mgrs}_{scene.overpass.start:%Y%m%dT%H%M%S}_{key}.jp2"
    path = f"{inside}/IMG_DATA/R{size}/{file}"
    native = _NATIVE.get(band, 20)
    grid = scene.grid.coarser(metres // 10)
    west, south, east, north = grid.bounds
    known = files.get(band) if metres == native else None
    absent = hashlib.sha3_256(path.encode()).hexdigest()
    reflectance = band in _BANDS
    asset: dict[str, Any] = {"href": f"s3://eodata/{folder}/{path}"}
    if reflectance or band == "TCI":
        asset["bands"] = [_band(each, described=band == "TCI") for each in _shown(band)]
    asset["alternate"] = _by_https(name, path)
    asset["file:size"] = known["size"] if known else 1000 * metres
    asset["proj:bbox"] = [west, south, east, north]
    asset["proj:code"] = f"EPSG:{scene.tile.epsg}"
    if key == "B06_20m":
        asset["description"] = _S3_NOTE
    if reflectance:
        asset["view:azimuth"] = scene.view_azimuth_deg
    asset["file:checksum"] = f"1620{known['sha3_256'] if known else absent}"
    asset["proj:transform"] = list(grid.transform)
    asset["file:local_path"] = f"{name}.SAFE/{path}"
    if reflectance:
        asset["view:incidence_angle"] = scene.view_zenith_deg
    if band == "SCL":
        asset["classification:classes"] = _classes(facts)
    sampling = "original" if metres == native else "upsampled" if metres < native else "downsampled"
    asset["gsd"] = 20 if key == "B07_60m" else metres
    asset["type"] = "image/jp2"
    asset["roles"] = _roles(band, sampling, size)
    asset["title"] = _title(band, size)
    asset["nodata"] = 0
    asset["auth:refs"] = ["s3"]
    asset["data_type"] = "uint8" if band in {"SCL", "TCI"} else "uint16"
    asset["proj:shape"] = [grid.height, grid.width]
    numbers = band not in {"SCL", "TCI"}
    if numbers:
        asset["raster:scale"] = 0.0001
    asset["storage:refs"] = ["cdse-s3", "creodias-s3"]
    if numbers:
        asset["raster:offset"] = 0.0 if FORGOTTEN_QUIRK in scene.overpass.quirks else -0.1
    asset["alternate:name"] = "S3"
    return asset


def _shown(band: str) -> tuple[str, ...]:
    return ("B04", "B03", "B02") if band == "TCI" else (band,)


def _band(name: str, *, described: bool) -> dict[str, Any]:
    title, common, centre, width = _BANDS[name]
    about: dict[str, Any] = {"eo:center_wavelength": centre, "eo:full_width_half_max": width, "name": name}
    if described:
        about["description"] = title
    return {**about, "eo:common_name": common}


def _roles(band: str, sampling: str, size: str) -> list[str]:
    if band == "TCI":
        return ["visual", f"sampling:{sampling}", f"gsd:{size}"]
    if band in _BANDS:
        return ["data", "reflectance", f"sampling:{sampling}", f"gsd:{size}"]
    return ["data", *([f"sampling:{sampling}"] if band == "SCL" else []), f"gsd:{size}"]


def _title(band: str, size: str) -> str:
    if band == "TCI":
        return "True color image"
    return f"{_BANDS[band][0] if band in _BANDS else _TITLES[band]} - {size}"


def _classes(facts: dict[str, Any]) -> list[dict[str, Any]]:
    share = facts["percentages"]
    counted = {3: "shadow", 4: "vegetation", 5: "soil", 8: "medium", 9: "high", 10: "cirrus"}
    classes: list[dict[str, Any]] = [
        {"name": name, "value": value, "percentage": share[counted[value]] if value in counted else 0.0}
        for value, name in enumerate(_CLASSES)
    ]
    classes[0]["nodata"] = True
    return classes


def _product(name: str) -> dict[str, Any]:
    digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
    return {
        "href": f"{_ZIPPER}/Products({uuid.uuid5(uuid.NAMESPACE_URL, name)})/$value",
        "auth:refs": ["oidc"],
        "file:size": 890472483,
        "storage:refs": "\U0001235f※",
        "file:checksum": f"d50110{digest}",
        "alternate:name": "HTTPS",
        "file:local_path": f"{name}.SAFE.zip",
        "type": "application/zip",
        "roles": ["data", "metadata", "archive"],
        "title": "Zipped product",
    }


def _thumbnail(folder: str, name: str) -> dict[str, Any]:
    digest = hashlib.md5(f"{name}-ql".encode(), usedforsecurity=False).hexdigest()
    return {
        "href": f"https://datahub.creodias.eu/odata/v1/Assets({uuid.uuid5(uuid.NAMESPACE_URL, f'{name}-ql')})/$value",
        "alternate": {
            "s3": {
                "href": f"s3://eodata/{folder}/{name}-ql.jpg",
                "auth:refs": ["s3"],
                "storage:refs": ["cdse-s3", "creodias-s3"],
                "alternate:name": "S3",
            }
        },
        "auth:refs": ["oidc"],
        "file:size": 14505,
        "file:checksum": f"d50110{digest}",
        "file:local_path": f"{name}.SAFE/{name}-ql.jpg",
        "type": "image/jpeg",
        "roles": ["thumbnail", "overview"],
        "title": "Quicklook",
        "data_type": "uint8",
        "proj:code": None,
        "proj:shape": [343, 343],
        "alternate:name": "HTTPS",
    }


def _metadata(folder: str, name: str, path: str) -> dict[str, Any]:
    # As recorded: an md5 for the manifest; for the others the code of an md5 before twice as many digits.
    if path == "manifest.safe":
        checksum = f"d50110{hashlib.md5(path.encode(), usedforsecurity=False).hexdigest()}"
    else:
        checksum = f"d50120{hashlib.sha256(path.encode()).hexdigest()}"
    return {
        "href": f"s3://eodata/{folder}/{path}",
        "alternate": _by_https(name, path),
        "file:size": 68897,
        "file:checksum": checksum,
        "file:local_path": f"{name}.SAFE/{path}",
        "type": "application/xml",
        "roles": ["metadata"],
        "title": path.rpartition("/")[2],
        "auth:refs": ["s3"],
        "storage:refs": ["cdse-s3", "creodias-s3"],
        "alternate:name": "S3",
    }
