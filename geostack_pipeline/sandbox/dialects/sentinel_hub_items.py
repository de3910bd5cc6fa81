"""Sentinel Hub's Sentinel-2 items on the Data Space, in the shape that was recorded: little, and one asset, a folder."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import shapely

from geostack_pipeline.sandbox.world.grids import project
from geostack_pipeline.sandbox.world.plan import ProcessingPlan
from geostack_pipeline.sandbox.world.scene import PhysicalScene

COLLECTION = "sentinel-2-l2a"
HREF_BUCKET = "EODATA"
"""How this catalog writes the bucket ``eodata``."""

_EXTENSIONS = [
    "https://stac-extensions.github.io/eo/v1.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v1.0.0/schema.json",
]


def make_item(
    scene: PhysicalScene, processing: ProcessingPlan, facts: dict[str, Any], root: str, folder: str
) -> dict[str, Any]:
    """Return the item of one processing of a scene.

    Args:
        scene: The scene.
        processing: The processing.
        facts: The world's counts of classes.
        root: Root of the catalog.
        folder: Key of the product in the bucket, ``Sentinel-2/…SAFE``.
    """
    outline = scene.footprint()
    west, south, east, north = outline.bounds
    identifier = folder.rpartition("/")[2]
    epsg = scene.tile.epsg
    ring = shapely.get_coordinates(outline)
    x, y = project(4326, epsg, ring[:, 0], ring[:, 1])
    # The older processing of recorded pairs lies one millisecond earlier.
    when = scene.datetime - timedelta(milliseconds=0 if processing is scene.newest else 1)
    collection = f"{root}/collections/{COLLECTION}"
    return {
        "stac_version": "1.0.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": identifier,
        "type": "Feature",
        "geometry": _geometry("urn:ogc:def:crs:OGC::CRS84", ring),
        "bbox": [west, south, east, north],
        "properties": {
            "datetime": when.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
            "platform": f"sentinel-{scene.platform[1:].lower()}",
            "instruments": ["msi"],
            "constellation": "sentinel-2",
            "gsd": 10,
            "eo:cloud_cover": round(facts["percentages"]["cloud_cover"], 2),
            "proj:epsg": epsg,
            "proj:bbox": list(scene.grid.bounds),
            "proj:geometry": _geometry(f"urn:ogc:def:crs:EPSG::{epsg}", np.stack([x, y], axis=1)),
        },
        "assets": {
            "data": {"href": f"s3://{HREF_BUCKET}/{folder}", "title": "s3", "type": "inode/directory"}
        },
        "collection": COLLECTION,
        "links": [
            {"href": f"{root}/", "rel": "root", "type": "application/json"},
            {"href": f"{collection}/items/{identifier}", "rel": "self", "type": "application/geo+json"},
            {"href": collection, "rel": "parent", "type": "application/json"},
            {"href": collection, "rel": "collection", "type": "application/json"},
        ],
    }


def _geometry(crs: str, ring: Any) -> dict[str, Any]:
    return {
        "type": "MultiPolygon",
        "crs": {"type": "name", "properties": {"name": crs}},
        "coordinates": [[ring.tolist()]],
    }
