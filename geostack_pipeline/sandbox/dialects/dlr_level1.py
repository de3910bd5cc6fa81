"""EnMAP items of level 1, in the form that DLR's catalog gives to its newer L2A items.

None were recorded, since who may read them is decided person by person: names of collections and files are those of the
product specification, everything else is as in L2A.
"""

from __future__ import annotations

from typing import Any

from geostack_pipeline.sandbox.dialects.dlr_items import FOLDER, HOST, make_item
from geostack_pipeline.sandbox.world.enmap_level1 import EnmapRadiance

L1B = "ENMAP_HSI_L1B"
L1C = "ENMAP_HSI_L1C"
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_KINDS = {".TIF": _COG, ".XML": "application/xml", ".png": "image/png"}
# Canonical asset -> name in the catalog, where lower case is not all.
_NAMES = {
    "SPECTRAL_IMAGE": "image",
    "SPECTRAL_IMAGE_VNIR": "image_vnir",
    "SPECTRAL_IMAGE_SWIR": "image_swir",
    "QUALITY_CLOUDSHADOW": "quality_cloud_shadow",
    "QUALITY_PIXELMASK": "defective_pixel_mask",
    "QUALITY_PIXELMASK_VNIR": "pixelmask_vnir",
    "QUALITY_PIXELMASK_SWIR": "pixelmask_swir",
    "QUALITY_TESTFLAGS_VNIR": "testflags_vnir",
    "QUALITY_TESTFLAGS_SWIR": "testflags_swir",
}


def collection_of(product: EnmapRadiance) -> str:
    """Return the product's collection."""
    return L1B if product.level == "L1B" else L1C


def level1_folder(product: EnmapRadiance) -> str:
    """Return the folder of a product's files below the file server's root."""
    scene = product.scene
    return (
        f"{FOLDER}/{product.level}/{scene.start:%Y/%m/%d}/{scene.datatake}/{int(scene.tile):02d}/{product.id}"
    )


def content_type(name: str) -> str:
    """Return the media type of a file of a product."""
    return next(kind.partition(";")[0] for ending, kind in _KINDS.items() if name.endswith(ending))


def make_level1(product: EnmapRadiance, root: str) -> dict[str, Any]:
    """Return the item of a product."""
    item = make_item(product.scene, "numbers", root)
    place = {name: value for name, value in item["assets"]["image"].items() if name.startswith("proj:")}
    on_map = product.level == "L1C"
    assets: dict[str, Any] = {}
    for key, path in product.files.items():
        asset: dict[str, Any] = {
            "href": f"{HOST}/{level1_folder(product)}/{path.name}",
            "title": path.name.rsplit("-", 1)[-1].partition(".")[0],
            "type": _KINDS[path.suffix],
            "roles": _roles(key),
        }
        if path.suffix == ".TIF":
            if on_map:
                asset |= place
            else:
                asset["type"] = "image/tiff; application=geotiff"
        assets[_NAMES.get(key, key.lower())] = asset
    properties = {
        **item["properties"],
        "processing:level": product.level,
        "enmap:nodata": 0,
        "data_type": "uint16",
        **({} if on_map else {"proj:epsg": None}),
    }
    old, new = product.scene.id, product.id
    return {
        **item,
        "id": new,
        "collection": collection_of(product),
        "properties": {name: value for name, value in properties.items() if not name.startswith("card4l:")},
        "assets": assets,
        "links": [
            {**link, "href": link["href"].replace(old, new).replace("ENMAP_HSI_L2A", collection_of(product))}
            for link in item["links"]
        ],
    }


def _roles(key: str) -> list[str]:
    if key.startswith("SPECTRAL_IMAGE"):
        return ["data"]
    return {"METADATA": ["metadata"], "THUMBNAIL": ["thumbnail"]}.get(key, ["quality"])
