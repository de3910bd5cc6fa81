"""Every swath product of the small world as a stored node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr
from obstore.store import LocalStore
from zarr.storage import ObjectStore

from geostack_pipeline.cube.swath import Granule, SourceFile, open_granule
from geostack_pipeline.cube.write import finish_tree, write_node

RANGES = ((640.0, 670.0), (2120.0, 2480.0))
EMIT = {
    "EMIT L1B": ("RAD", "OBS"),
    "EMIT L2A": ("RFL", "MASK"),
    "EMIT L2A MASK": ("MASK",),
    "EMIT L2B": ("CH4ENH", "CH4UNCERT", "CH4SENS"),
    "EMIT L2B CH4PLM": ("CH4PLM",),
}
"""Product -> its assets."""
ENMAP = ("EnMAP L2A", "EnMAP L1C", "EnMAP L1B")
PRODUCTS = (*EMIT, *ENMAP)


def stored(folder: Path, dataset: xr.Dataset, chunks: Any = None) -> Path:
    """Write a node ``a``; return its folder."""
    store = ObjectStore(LocalStore(folder, mkdir=True))
    write_node(store, "a", dataset, chunks=chunks)
    finish_tree(store, {})
    return folder


def store_product(world: Any, product: str, folder: Path) -> Path:
    """Write the node of a product; return its folder."""
    granule = _emit(world, product) if product in EMIT else _enmap(world, product)
    box = next(area.bbox for area in world.areas if area.name == granule.area)
    with open_granule(granule, bounds=box, ranges=RANGES) as node:
        return stored(folder, node.dataset, node.chunks)


def _file(path: Path) -> SourceFile:
    return SourceFile(
        store=LocalStore(path.parent), key=path.name, sha256="0" * 64, canonical=f"s3://b/{path.name}"
    )


def _emit(world: Any, product: str) -> Granule:
    from geostack_pipeline.sandbox.world.emit import emit_granules

    emit = next(granule for granule in emit_granules(world) if granule.plumes)
    files = emit.plumes[0].files if "PLM" in product else emit.files
    return Granule(
        item_id=f"EMIT_X_{emit.name}", scene=f"EMIT_{emit.name}", collection="C", datetime=emit.start,
        platform="iss", area=emit.area, files={key: _file(files[key]) for key in EMIT[product]},
    )  # fmt: skip


def _enmap(world: Any, product: str) -> Granule:
    from geostack_pipeline.sandbox.world.enmap import enmap_scenes
    from geostack_pipeline.sandbox.world.enmap_level1 import radiance_products

    level = product.removeprefix("EnMAP ")
    if level == "L2A":
        one: Any = enmap_scenes(world)[1]
        scene, files = one, one.files
    else:
        one = radiance_products(world, "L1B" if level == "L1B" else "L1C")[0]
        scene, files = one.scene, one.files
    return Granule(
        item_id=one.id, scene="ENMAP_1", collection=f"ENMAP_HSI_{level}", datetime=scene.start,
        platform="enmap", area=scene.area,
        files={key: _file(path) for key, path in files.items() if key != "THUMBNAIL"},
    )  # fmt: skip
