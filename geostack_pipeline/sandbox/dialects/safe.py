"""Sentinel-2 products as the Data Space keeps them: one SAFE folder per processing in the bucket ``eodata``.

Both catalogs of the Data Space list the same files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from geostack_pipeline.sandbox.dialects.base import StoredObject
from geostack_pipeline.sandbox.world.plan import FACTOR, ProcessingPlan
from geostack_pipeline.sandbox.world.scene import PhysicalScene
from geostack_pipeline.sandbox.world.world import Encoding, World

BUCKET = "eodata"


def safe_encodings(scene: PhysicalScene) -> Sequence[Encoding]:
    """Return ESA's own files: JPEG 2000, with 1000 added to the numbers from baseline 04.00 on."""
    return [
        Encoding(
            baseline=processing.baseline,
            offset=1000 if processing.baseline >= "04.00" else 0,
            container="jp2",
        )
        for processing in scene.overpass.processings
    ]


def product_name(scene: PhysicalScene, processing: ProcessingPlan) -> str:
    """Return ESA's name of a product, without ``.SAFE``."""
    start = scene.overpass.start
    made = start + processing.delay
    return (
        f"{scene.platform}_MSIL2A_{start:%Y%m%dT%H%M%S}_N{processing.baseline.replace('.', '')}"
        f"_R{scene.overpass.relative_orbit:03d}_T{scene.tile.mgrs}_{made:%Y%m%dT%H%M%S}"
    )


def product_folder(scene: PhysicalScene, processing: ProcessingPlan) -> str:
    """Return the key of a product in the bucket; reprocessed collections have a folder with their baseline."""
    level = f"L2A_N{processing.baseline.replace('.', '')}" if processing.delay.days > 30 else "L2A"
    return f"Sentinel-2/MSI/{level}/{scene.overpass.start:%Y/%m/%d}/{product_name(scene, processing)}.SAFE"


def granule_folder(scene: PhysicalScene, processing: ProcessingPlan) -> str:
    """Return the key of a product's only granule: its name holds the absolute orbit and the tile's sensing time."""
    name = f"L2A_T{scene.tile.mgrs}_A{scene.overpass.absolute_orbit:06d}_{scene.datetime:%Y%m%dT%H%M%S}"
    return f"{product_folder(scene, processing)}/GRANULE/{name}"


def band_key(scene: PhysicalScene, processing: ProcessingPlan, band: str) -> str:
    """Return the key of a band's file at its own pixel size."""
    metres = FACTOR.get(band, 2) * 10
    start = f"{scene.overpass.start:%Y%m%dT%H%M%S}"
    folder = granule_folder(scene, processing)
    return f"{folder}/IMG_DATA/R{metres}m/T{scene.tile.mgrs}_{start}_{band}_{metres}m.jp2"


def product_objects(
    world: World, scene: PhysicalScene, processing: ProcessingPlan, encoding: Encoding
) -> Mapping[str, StoredObject]:
    """Return the files of a product: its bands, and the metadata beside them."""
    objects: dict[str, StoredObject] = {}
    for name, (path, description) in world.files(scene, encoding).items():
        band = name.partition(".")[0]
        objects[band_key(scene, processing, band)] = StoredObject(
            content_type="binary/octet-stream", size=description["size"], md5=description["md5"], path=path
        )
    name = product_name(scene, processing)
    folder, granule = product_folder(scene, processing), granule_folder(scene, processing)
    for key, root in (
        (f"{folder}/MTD_MSIL2A.xml", "n1:Level-2A_User_Product"),
        (f"{granule}/MTD_TL.xml", "n1:Level-2A_Tile_ID"),
    ):
        objects[key] = _xml(root, name)
    return objects


def _xml(root: str, product: str) -> StoredObject:
    data = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} product="{product}"/>\n'.encode()
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return StoredObject(content_type="binary/octet-stream", size=len(data), md5=digest, data=data)


def s3_credentials(at: Any) -> Mapping[str, str]:  # noqa: ARG001 - the keys are the same wherever it answers
    """Return the S3 keys that open the bucket: environment variable -> value."""
    from geostack_pipeline.sandbox.server.strict_bucket import ACCESS_KEY, SECRET_KEY  # noqa: PLC0415 - not for clients

    return {"CDSE_S3_ACCESS_KEY": ACCESS_KEY, "CDSE_S3_SECRET_KEY": SECRET_KEY}
