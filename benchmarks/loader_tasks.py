"""Measured tasks: a cube read from Zarr into a jitted reduction."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cube_nodes


def store(folder: str, days: int, height: int, width: int) -> Callable[[], dict[str, Any]]:
    """Write one node with many times."""
    import xarray as xr
    from zarr.storage import ObjectStore

    from geostack_pipeline.cube.write import finish_tree, write_node
    from geostack_pipeline.storage.roots import open_root

    def work() -> dict[str, Any]:
        place = cube_nodes.grid(height, width)
        cubes = [
            cube_nodes.packed_cube(place, cube_nodes.FIRST + timedelta(days=i), i)[["reflectance"]]
            for i in range(days)
        ]
        target = ObjectStore(open_root(folder).prefixed("tree.zarr"))
        write_node(target, cube_nodes.AREA, xr.concat(cubes, "time"))
        finish_tree(target, {})
        return {"bytes": days * cubes[0]["reflectance"].nbytes}

    return work


def ahead(folder: str, prefetch: int, threads: int) -> Callable[[], dict[str, Any]]:
    """``cube.loader.blocks``, packed numbers decoded on the device."""
    import jax
    import jax.numpy as jnp
    import zarr
    from obstore.store import LocalStore
    from zarr.storage import ObjectStore

    from geostack_pipeline.cube.loader import blocks, unpacked

    group = zarr.open_group(
        ObjectStore(LocalStore(Path(folder, "tree.zarr")), read_only=True), path=cube_nodes.AREA, mode="r"
    )
    about = group["reflectance"].attrs.asdict()
    reduce = jax.jit(lambda stored: jnp.nansum(unpacked(stored, about), dtype=jnp.float32))
    reduce(jnp.zeros((1, *group["reflectance"].shape[1:]), jnp.uint16)).block_until_ready()

    def work() -> dict[str, Any]:
        start = time.perf_counter()
        total = 0.0
        for block in blocks(group, ["reflectance"], {"time": 1}, prefetch=prefetch, threads=threads):
            total += float(reduce(block["reflectance"]))
        return {"sum": total, "seconds": time.perf_counter() - start}

    return work


def plain(folder: str, blockwise: bool, decoded: bool) -> Callable[[], dict[str, Any]]:
    """``xr.open_zarr(...).values`` and ``jnp.asarray``; whole or time by time, decoded by xarray or on the device."""
    import jax
    import jax.numpy as jnp
    import xarray as xr

    from geostack_pipeline.cube.loader import unpacked

    cube = xr.open_zarr(
        Path(folder, "tree.zarr"), group=cube_nodes.AREA, chunks=None, mask_and_scale=decoded
    )["reflectance"]
    about = dict(cube.attrs)
    reduce = jax.jit(
        (lambda values: jnp.nansum(values, dtype=jnp.float32))
        if decoded
        else (lambda stored: jnp.nansum(unpacked(stored, about), dtype=jnp.float32))
    )
    shape = (1, *cube.shape[1:]) if blockwise else cube.shape
    reduce(jnp.zeros(shape, jnp.float32 if decoded else jnp.uint16)).block_until_ready()

    def work() -> dict[str, Any]:
        start = time.perf_counter()
        parts = [cube.isel(time=slice(t, t + 1)) for t in range(cube.sizes["time"])] if blockwise else [cube]
        total = sum(float(reduce(jnp.asarray(part.values))) for part in parts)
        return {"sum": total, "seconds": time.perf_counter() - start}

    return work


def decoding(folder: str) -> Callable[[], dict[str, Any]]:
    """What zarr-python takes to decode the array into NumPy memory, without JAX: the bound of all ways."""
    import zarr
    from obstore.store import LocalStore
    from zarr.storage import ObjectStore

    group = zarr.open_group(
        ObjectStore(LocalStore(Path(folder, "tree.zarr")), read_only=True), path=cube_nodes.AREA, mode="r"
    )
    array = group["reflectance"]

    def work() -> dict[str, Any]:
        start = time.perf_counter()
        for t in range(array.shape[0]):
            np.asarray(array[t])
        return {"seconds": time.perf_counter() - start}

    return work
