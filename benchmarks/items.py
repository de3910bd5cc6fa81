"""Synthetic Sentinel-2 items in the shape that Earth Search gives them: the 19 COG assets, about 12 kB of JSON each.

Numbers, names, times and outlines differ from item to item, so that nothing compresses better than it would.
"""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

COLLECTION = "sentinel-2-l2a"
AREA = (0.0, 40.0, 24.0, 52.0)
"""All items lie on it: west, south, east, north."""
FIRST_DAY = date(2024, 6, 1)

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_BUCKET = "https://sentinel-cogs.s3.us-west-2.amazonaws.com"
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
# name: (file, title, metres, common name, centre and width in micrometres)
_BANDS = {
    "coastal": ("B01", "Coastal aerosol (band 1)", 60, "coastal", 0.443, 0.027),
    "blue": ("B02", "Blue (band 2)", 10, "blue", 0.49, 0.098),
    "green": ("B03", "Green (band 3)", 10, "green", 0.56, 0.045),
    "red": ("B04", "Red (band 4)", 10, "red", 0.665, 0.038),
    "rededge1": ("B05", "Red edge 1 (band 5)", 20, "rededge", 0.704, 0.019),
    "rededge2": ("B06", "Red edge 2 (band 6)", 20, "rededge", 0.74, 0.018),
    "rededge3": ("B07", "Red edge 3 (band 7)", 20, "rededge", 0.783, 0.028),
    "nir": ("B08", "NIR 1 (band 8)", 10, "nir", 0.842, 0.145),
    "nir08": ("B8A", "NIR 2 (band 8A)", 20, "nir08", 0.865, 0.033),
    "nir09": ("B09", "NIR 3 (band 9)", 60, "nir09", 0.945, 0.026),
    "swir16": ("B11", "SWIR 1 (band 11)", 20, "swir16", 1.61, 0.143),
    "swir22": ("B12", "SWIR 2 (band 12)", 20, "swir22", 2.19, 0.242),
}
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
_CLASSES = (
    "degraded_msi_data",
    "nodata_pixel",
    "saturated_defective_pixel",
    "dark_features",
    "cloud_shadow",
    "vegetation",
    "not_vegetated",
    "water",
    "unclassified",
    "medium_proba_clouds",
    "high_proba_clouds",
    "thin_cirrus",
    "snow_ice",
)


def make_items(count: int, days: int) -> list[dict[str, Any]]:
    """Return items spread evenly over days, newest first as the catalog sorts them; the same for the same arguments.

    A day's overpasses lie within the three hours in which the satellites cross a region.
    """
    dice = random.Random(20240601)
    items = []
    for number in range(count):
        day = FIRST_DAY + timedelta(days=number % days)
        # a place of its own per day and 10,800,000 ms in three hours: no two items share an id or a time
        place = number // days
        moment = datetime.combine(day, datetime.min.time(), UTC) + timedelta(
            hours=9, milliseconds=(place * 7919 + dice.randrange(7919)) % 10_800_000
        )
        items.append(_item(dice, moment, place))
    return sorted(items, key=lambda item: (item["properties"]["datetime"], item["id"]), reverse=True)


def _item(dice: random.Random, moment: datetime, place: int) -> dict[str, Any]:
    zone = 31 + place % 4
    square = _LETTERS[place // 4 % 24] + _LETTERS[place // 96 % 20]
    tile = f"{zone}T{square}"
    # beyond 1,920 places a day a tile repeats, as tiles do where two processings of a scene are listed
    sequence = place // 1920
    satellite = dice.choice("AB")
    identifier = f"S2{satellite}_{tile}_{moment:%Y%m%d}_{sequence}_L2A"
    folder = f"sentinel-s2-l2a-cogs/{zone}/T/{square}/{moment.year}/{moment.month}/{identifier}"
    west, south = round(dice.uniform(0.0, 22.4), 12), round(dice.uniform(40.0, 51.0), 12)
    east, north = west + dice.uniform(1.3, 1.5), south + dice.uniform(0.95, 1.0)
    lean = dice.uniform(0.0, 0.05)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": identifier,
        "properties": _properties(dice, moment, satellite, tile, sequence, folder),
        "geometry": {
            "type": "Polygon",
            "coordinates": [
                [
                    [west, south + lean],
                    [west + lean, north],
                    [east, north - lean],
                    [east - lean, south],
                    [west, south + lean],
                ]
            ],
        },
        "links": _links(identifier, folder),
        "assets": _assets(dice, folder),
        "bbox": [west, south, east, north],
        "stac_extensions": list(_EXTENSIONS),
        "collection": COLLECTION,
    }


def _properties(
    dice: random.Random, moment: datetime, satellite: str, tile: str, sequence: int, folder: str
) -> dict[str, Any]:
    start = moment - timedelta(minutes=dice.uniform(1.0, 9.0))
    made = start + timedelta(hours=dice.uniform(4.0, 20.0))
    orbit = dice.randrange(1, 144)
    absolute = dice.randrange(20_000, 50_000)
    created = f"{made + timedelta(hours=5):%Y-%m-%dT%H:%M:%S}.{dice.randrange(1000):03d}Z"
    taken, stamp = f"{start:%Y%m%dT%H%M%S}", f"{made:%Y%m%dT%H%M%S}"
    product = f"S2{satellite}_OPER_MSI_L2A"
    return {
        "created": created,
        "platform": f"sentinel-2{satellite.lower()}",
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "eo:cloud_cover": round(dice.uniform(0.0, 100.0), 6),
        "proj:epsg": 32600 + int(tile[:2]),
        "mgrs:utm_zone": int(tile[:2]),
        "mgrs:latitude_band": tile[2],
        "mgrs:grid_square": tile[3:],
        "grid:code": f"MGRS-{tile}",
        "view:sun_azimuth": dice.uniform(130.0, 170.0),
        "view:sun_elevation": dice.uniform(55.0, 72.0),
        **{f"s2:{name}_percentage": round(dice.uniform(0.0, 30.0), 6) for name in _CLASSES},
        "s2:product_type": "S2MSI2A",
        "s2:processing_baseline": "05.10",
        "s2:product_uri": f"S2{satellite}_MSIL2A_{taken}_N0510_R{orbit:03d}_T{tile}_{stamp}.SAFE",
        "s2:generation_time": f"{made:%Y-%m-%dT%H:%M:%S}.000000Z",
        "s2:datatake_id": f"GS2{satellite}_{taken}_{absolute:06d}_N05.10",
        "s2:datatake_type": "INS-NOBS",
        "s2:datastrip_id": f"{product}_DS_2APS_{stamp}_S{taken}_N05.10",
        "s2:granule_id": f"{product}_TL_2APS_{stamp}_A{absolute:06d}_T{tile}_N05.10",
        "s2:reflectance_conversion_factor": dice.uniform(0.96, 1.04),
        "datetime": f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z",
        "s2:sequence": str(sequence),
        "earthsearch:s3_path": f"s3://sentinel-cogs/{folder}",
        "earthsearch:payload_id": "roda-sentinel2/workflow-sentinel2-to-stac/"
        + hashlib.md5(folder.encode(), usedforsecurity=False).hexdigest(),
        "earthsearch:boa_offset_applied": True,
        "processing:software": {"sentinel2-to-stac": "0.1.1"},
        "updated": created,
    }


def _links(identifier: str, folder: str) -> list[dict[str, str]]:
    root = "https://earth-search.aws.element84.com/v1"
    collection = f"{root}/collections/{COLLECTION}"
    geojson = "application/geo+json"
    return [
        {"rel": "self", "type": geojson, "href": f"{collection}/items/{identifier}"},
        {
            "rel": "canonical",
            "href": f"s3://sentinel-cogs/{folder}/{identifier}.json",
            "type": "application/json",
        },
        {
            "rel": "license",
            "href": "https://sentinel.esa.int/documents/247904/690755/Sentinel_Data_Legal_Notice",
        },
        {"rel": "parent", "type": "application/json", "href": collection},
        {"rel": "collection", "type": "application/json", "href": collection},
        {"rel": "root", "type": "application/json", "href": root},
        {"rel": "thumbnail", "href": f"{collection}/items/{identifier}/thumbnail"},
    ]


def _assets(dice: random.Random, folder: str) -> dict[str, Any]:
    west, north = 100_000 + 20 * dice.randrange(30_000), 4_500_000 + 20 * dice.randrange(50_000)

    def grid(metres: int) -> dict[str, Any]:
        side = 109_800 // metres
        return {"proj:shape": [side, side], "proj:transform": [metres, 0, west, 0, -metres, north]}

    def stored(metres: int, scale: float, offset: float) -> dict[str, Any]:
        return {
            "nodata": 0,
            "data_type": "uint16",
            "bits_per_sample": 15,
            "spatial_resolution": metres,
            "scale": scale,
            "offset": offset,
        }

    def band(name: str) -> dict[str, Any]:
        _, title, _, common, centre, width = _BANDS[name]
        return {
            "name": name,
            "common_name": common,
            "description": title,
            "center_wavelength": centre,
            "full_width_half_max": width,
        }

    base = f"{_BUCKET}/{folder}"
    assets: dict[str, Any] = {
        name: {
            "href": f"{base}/{file}.tif",
            "type": _COG,
            "title": f"{title} - {metres}m",
            "eo:bands": [band(name)],
            "gsd": metres,
            **grid(metres),
            "raster:bands": [stored(metres, 0.0001, -0.1)],
            "roles": ["data", "reflectance"],
        }
        for name, (file, title, metres, *_) in _BANDS.items()
    }
    for name, title in (("aot", "Aerosol optical thickness (AOT)"), ("wvp", "Water vapour (WVP)")):
        assets[name] = {
            "href": f"{base}/{name.upper()}.tif",
            "type": _COG,
            "title": title,
            **grid(20),
            "raster:bands": [stored(20, 0.001, 0)],
            "roles": ["data", "reflectance"],
        }
    assets["scl"] = {
        "href": f"{base}/SCL.tif",
        "type": _COG,
        "title": "Scene classification map (SCL)",
        **grid(20),
        "raster:bands": [{"nodata": 0, "data_type": "uint8", "spatial_resolution": 20}],
        "roles": ["data", "reflectance"],
    }
    assets["visual"] = {
        "href": f"{base}/TCI.tif",
        "type": _COG,
        "title": "True color image",
        "eo:bands": [band(name) for name in ("red", "green", "blue")],
        **grid(10),
        "roles": ["visual"],
    }
    for name, file, kind, role in (
        ("thumbnail", "thumbnail.jpg", "image/jpeg", "thumbnail"),
        ("granule_metadata", "granule_metadata.xml", "application/xml", "metadata"),
        ("tileinfo_metadata", "tileinfo_metadata.json", "application/json", "metadata"),
    ):
        assets[name] = {"href": f"{base}/{file}", "type": kind, "roles": [role]}
    return dict(sorted(assets.items()))
