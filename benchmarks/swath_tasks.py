"""What the swath benchmark measures, each in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Work = Callable[[], dict[str, Any]]


def _facts(values: Any) -> dict[str, Any]:
    return {"shape": list(values.shape), "sha256": hashlib.sha256(np.ascontiguousarray(values)).hexdigest()}


def cube(path: str, folder: str, first: int, stop: int) -> Work:
    """Ours: a granule to a node of Zarr, with its location and look-up table."""
    with contextlib.suppress(ImportError):
        import dask.array  # noqa: F401 - where it is there, xarray loads it when it first makes a variable
    from datetime import UTC, datetime

    import h5netcdf  # noqa: F401 - every way imports before the work
    from obstore.store import LocalStore
    from zarr.storage import ObjectStore

    from benchmarks.granules import wavelengths
    from geostack_pipeline.cube.granule import Granule, SourceFile
    from geostack_pipeline.cube.swath import open_granule
    from geostack_pipeline.cube.write import finish_tree, write_node

    file = Path(path)
    source = SourceFile(
        store=LocalStore(file.parent), key=file.name, sha256="0" * 64, canonical="s3://b/rad.nc"
    )
    granule = Granule(
        item_id="EMIT_L1B_RAD", scene="EMIT", collection="EMITL1BRAD_001", platform="iss", area="a",
        datetime=datetime(2024, 6, 7, tzinfo=UTC), files={"RAD": source},
    )  # fmt: skip
    nm = wavelengths()
    wanted = ((float(nm[first]) - 0.1, float(nm[stop - 1]) + 0.1),)

    def work() -> dict[str, Any]:
        store = ObjectStore(LocalStore(folder))
        with open_granule(granule, bounds=(0, 0, 1, 1), ranges=wanted) as node:
            write_node(store, "granule", node.dataset, chunks=node.chunks, apart=node.apart)
        finish_tree(store, {})
        return {}

    return work


def xarray_to_zarr(path: str, folder: str, first: int, stop: int) -> Work:
    """Return the same window by xarray alone: opened with h5netcdf, written with ``to_zarr``, same chunks and codec."""
    with contextlib.suppress(ImportError):
        import dask.array  # noqa: F401 - as for ours
    import h5netcdf  # noqa: F401 - every way imports before the work
    import xarray as xr
    from zarr.codecs import BloscCodec, BloscShuffle

    codec = BloscCodec(cname="zstd", clevel=1, shuffle=BloscShuffle.shuffle)

    def work() -> dict[str, Any]:
        with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False, cache=False) as root:
            part = root[["radiance"]].isel(bands=slice(first, stop))
            part["radiance"].encoding = {}
            chunks = (min(256, part.sizes["downtrack"]), min(64, part.sizes["crosstrack"]), stop - first)
            part.to_zarr(
                f"{folder}/granule",
                zarr_format=3,
                consolidated=False,
                encoding={"radiance": {"chunks": chunks, "compressors": [codec]}},
            )
        return {}

    return work


def h5py_read(path: str, folder: str, first: int, stop: int) -> Work:  # noqa: ARG001 - nothing is written
    """Return the window read into memory by h5py."""
    import h5py

    def work() -> dict[str, Any]:
        with h5py.File(path) as file:
            return {"bytes": int(file["radiance"][:, :, first:stop].nbytes)}

    return work


def h5netcdf_read(path: str, folder: str, first: int, stop: int) -> Work:  # noqa: ARG001 - nothing is written
    """Return the window read into memory by h5netcdf."""
    import h5netcdf

    def work() -> dict[str, Any]:
        with h5netcdf.File(path) as file:
            return {"bytes": int(file["radiance"][:, :, first:stop].nbytes)}

    return work


def check(path: str, folder: str, first: int, stop: int) -> Work:
    """Compare a written cube with the file, lines by lines."""
    import h5py
    import zarr

    def work() -> dict[str, Any]:
        written = zarr.open_group(f"{folder}/granule", mode="r")["radiance"]
        with h5py.File(path) as file:
            lines = written.shape[0]
            equal = all(
                np.array_equal(written[i : i + 256], file["radiance"][i : i + 256, :, first:stop])
                for i in range(0, lines, 256)
            )
        return {"equal": equal, "shape": list(written.shape)}

    return work


def _fields(path: str, bands: int) -> tuple[Any, Any, Any]:
    import h5py

    with h5py.File(path) as file:
        glt_x, glt_y = file["location/glt_x"][:], file["location/glt_y"][:]
        lines, samples = file["location/lon"].shape
    values = np.random.default_rng(3).standard_normal((lines, samples, bands)).astype(np.float32)
    return values if bands > 1 else values[..., 0], glt_x, glt_y


def ortho_ours(path: str, bands: int) -> Work:
    """Ours: the gather through the look-up table; compiled before."""
    from geostack_pipeline.cube.ortho import apply_glt

    field, glt_x, glt_y = _fields(path, bands)
    apply_glt(field[:2, :2], glt_x[:1, :1] * 0, glt_y[:1, :1] * 0, -9999.0)

    def work() -> dict[str, Any]:
        return _kept(apply_glt(field, glt_x, glt_y, -9999.0))

    return work


def ortho_numpy(path: str, bands: int) -> Work:
    """Return the published rule in NumPy: a filled array, a mask, one fancy assignment."""
    field, glt_x, glt_y = _fields(path, bands)

    def work() -> dict[str, Any]:
        glt = np.stack([glt_x, glt_y], axis=-1).astype(int)
        values = field if field.ndim == 3 else field[:, :, np.newaxis]
        out = np.full((*glt.shape[:2], values.shape[-1]), -9999.0, np.float32)
        valid = np.all(glt != 0, axis=-1)
        glt[valid] -= 1
        out[valid, :] = values[glt[valid, 1], glt[valid, 0], :]
        return _kept(out if field.ndim == 3 else out[..., 0])

    return work


_results: list[Any] = []


def _kept(values: Any) -> dict[str, Any]:
    """Keep a result alive; its digest would be measured with the work, so it is asked for by :func:`digest`."""
    _results.append(values)
    return {"shape": list(values.shape)}


def digest(path: str, bands: int) -> Work:
    """Return the digests of both ways, which must be one."""
    ours, theirs = ortho_ours(path, bands), ortho_numpy(path, bands)

    def work() -> dict[str, Any]:
        _results.clear()
        ours()
        theirs()
        first, second = (_facts(values) for values in _results)
        return {"equal": first == second, **first}

    return work
