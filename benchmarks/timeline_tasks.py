"""Measured tasks: a year of stored dates opened as one dataset, by us and by peers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from benchmarks import cube_nodes


def store(folder: str, days: int, height: int, width: int) -> Callable[[], dict[str, Any]]:
    """Commit the dates."""
    return lambda: cube_nodes.store_days(folder, days, height, width)


def _paths(folder: str) -> list[str]:
    found = Path(folder, "store", "artifacts", cube_nodes.ASSET).glob("*/*/attempt-*/tree.zarr")
    return sorted(str(path) for path in found)


def _used(cube: xr.Dataset, y: int, x: int, days: int) -> dict[str, Any]:
    assert cube.sizes["time"] == days
    series = np.asarray(cube["reflectance"].isel(band=1, y=y, x=x))
    return {"dates": days, "sum": float(np.nansum(series))}


def ours(folder: str, days: int, pixel: bool) -> Callable[[], dict[str, Any]]:
    """``load_timeline``; with ``pixel`` also a pixel's series."""
    import geostack_pipeline as gp
    import geostack_pipeline.cube.timeline
    import geostack_pipeline.reading

    last = (cube_nodes.FIRST + timedelta(days=days - 1)).date()

    def work() -> dict[str, Any]:
        cube = gp.load_timeline(
            "earth_search", cube_nodes.AREA, "2024-01-01", last, settings=Path(folder, "geostack.yaml")
        )
        assert cube.sizes["time"] == days
        return _used(cube, 20, 30, days) if pixel else {"dates": days}

    return work


def concat(folder: str, days: int, pixel: bool) -> Callable[[], dict[str, Any]]:
    """``xarray.open_zarr`` of every date with dask, joined by ``xarray.concat``."""
    import dask.array  # noqa: F401

    def work() -> dict[str, Any]:
        cubes = [xr.open_zarr(path, group=cube_nodes.AREA).drop_dims("scene") for path in _paths(folder)]
        cube = xr.concat(
            cubes, "time", data_vars="minimal", coords="minimal", compat="override", join="override"
        )
        return _used(cube, 20, 30, days) if pixel else {"dates": cube.sizes["time"]}

    return work


def mfdataset(folder: str, days: int, pixel: bool) -> Callable[[], dict[str, Any]]:
    """``xarray.open_mfdataset`` with the fastest of its settings that give the right result."""
    import dask.array  # noqa: F401

    def work() -> dict[str, Any]:
        cube = xr.open_mfdataset(
            _paths(folder),
            engine="zarr",
            group=cube_nodes.AREA,
            preprocess=lambda one: one.drop_dims("scene"),
            combine="nested",
            concat_dim="time",
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="override",
            parallel=False,
        )
        return _used(cube, 20, 30, days) if pixel else {"dates": cube.sizes["time"]}

    return work
