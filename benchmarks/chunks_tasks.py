"""Measured tasks: a row of dates written in one layout, and read again in the ways that cubes are read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from obstore.store import LocalStore
from zarr.codecs import BloscCodec
from zarr.storage import ObjectStore

from benchmarks.cube_nodes import FIRST, grid, packed_cube

_CODECS: dict[str, Callable[[], Any]] = {
    "zstd 1, shuffle": lambda: BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
    "zstd 1, bitshuffle": lambda: BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
    "lz4, shuffle": lambda: BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
}


def layout(
    folder: str, days: int, height: int, width: int, chunk: int, shard: int, bands: int, codec: str
) -> Callable[[], dict[str, Any]]:
    """Write reflectance of some dates (an array each) and read it: whole, one pixel's series, a window's series.

    ``shard`` is the side of a shard in pixels, 0 for none; ``bands`` the bands of a shard.
    """
    cubes = [
        packed_cube(grid(height, width), FIRST + timedelta(days=i), i)["reflectance"].values
        for i in range(min(days, 3))
    ]
    root = Path(folder)

    def work() -> dict[str, Any]:
        facts: dict[str, Any] = {}
        arrays = []

        def write() -> None:
            for day in range(days):
                (root / str(day)).mkdir(parents=True)
                values = cubes[day % len(cubes)]
                arrays.append(
                    zarr.create_array(
                        ObjectStore(LocalStore(root / str(day))),
                        shape=values.shape,
                        dtype=values.dtype,
                        chunks=(1, 1, chunk, chunk),
                        shards=(1, bands, shard, shard) if shard else None,
                        compressors=_CODECS[codec](),
                        fill_value=0,
                        zarr_format=3,
                    )
                )
                side = shard or chunk
                for first in range(0, values.shape[1], bands):
                    for row in range(0, height, side):
                        part = (slice(None), slice(first, first + bands), slice(row, row + side))
                        arrays[-1][part] = values[part]

        def whole() -> None:
            for day, array in enumerate(arrays[:4]):
                assert array[...].sum() == cubes[day % len(cubes)].sum()

        def point() -> None:
            y, x = height // 2, width // 2
            found = [int(array[0, 2, y, x]) for array in arrays]
            assert found == [int(cubes[day % len(cubes)][0, 2, y, x]) for day in range(days)]

        def window() -> None:
            place = (
                slice(None),
                slice(None),
                slice(height // 3, height // 3 + 64),
                slice(width // 3, width // 3 + 64),
            )
            for day, array in enumerate(arrays):
                assert np.array_equal(array[place], cubes[day % len(cubes)][place])

        for name, step in (("write", write), ("whole", whole), ("point", point), ("window", window)):
            cpu, start = time.process_time(), time.perf_counter()
            step()
            facts[f"{name}_cpu"] = time.process_time() - cpu
            facts[f"{name}_wall"] = time.perf_counter() - start
        files = [path for path in (root / "0").rglob("*") if path.is_file() and path.name != "zarr.json"]
        facts["files"] = len(files)
        facts["bytes"] = sum(os.path.getsize(path) for path in files)
        facts["raw"] = cubes[0].nbytes
        return facts

    return work
