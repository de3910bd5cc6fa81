"""Cubes of several dates in a root, as the cube stage leaves them, made without a catalog."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr

from geostack_pipeline.cube import conventions
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.write import finish_tree, write_node
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.snapshot import Snapshot

GRID = GridSpec(
    crs="EPSG:32639", transform=(20.0, 0.0, 600_000.0, 0.0, -20.0, 4_300_020.0), width=50, height=70
)
BANDS = ("B04", "B11")
ASSET = "earth_search/cube"
_EPOCH = {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
_TEXT = np.dtypes.StringDType()


def packed(
    moments: Sequence[datetime],
    scenes: Sequence[int],
    *,
    seed: int,
    grid: GridSpec = GRID,
    bands: Sequence[str] = BANDS,
) -> xr.Dataset:
    """A packed cube: random numbers, holes, and ``scenes[i]`` scenes at the i-th moment."""
    rng = np.random.default_rng(seed)
    count, names, owner = len(moments), [], np.full((len(moments), *grid.shape), -1, np.int16)
    for step, number in enumerate(scenes):
        if number:
            owner[step] = rng.integers(len(names) - 1, len(names) + number, grid.shape)
            owner[step][owner[step] < len(names)] = -1
        names += [f"item-{seed}-{step}-{i}" for i in range(number)]
    values = rng.integers(1, 60_000, (count, len(bands), *grid.shape)).astype(np.uint16)
    values[np.broadcast_to((owner == -1)[:, None], values.shape)] = 0
    scl = np.where(owner == -1, 0, rng.integers(1, 12, owner.shape)).astype(np.uint8)
    about, total = conventions.SCENE, len(names)

    def stamps(dimension: str, times: Sequence[datetime], attributes: dict[str, Any]) -> xr.Variable:
        numbers = np.array([int(t.timestamp() * 1_000_000) for t in times], np.int64)
        return xr.Variable(dimension, numbers, {**attributes, **_EPOCH})

    midnights = [t.replace(hour=0, minute=0, second=0, microsecond=0) for t in moments]
    of_scene = [moment for moment, number in zip(moments, scenes, strict=True) for _ in range(number)]
    return xr.Dataset(
        {
            "reflectance": (
                ("time", "band", "y", "x"),
                values,
                {**conventions.REFLECTANCE, "clipped_pixels": seed, **conventions.PACKING},
            ),
            "scl": (("time", "y", "x"), scl, conventions.SCL),
            "source_scene": (("time", "y", "x"), owner, conventions.SOURCE_SCENE),
        },
        coords={
            "time": stamps("time", moments, conventions.TIME),
            "solar_day": stamps("time", midnights, conventions.SOLAR_DAY),
            "band": ("band", np.array(list(bands), _TEXT), conventions.BAND),
            "scene": ("scene", np.array(names, _TEXT), about["scene"]),
            "scene_id": ("scene", np.array([f"id-{n}" for n in names], _TEXT), about["scene_id"]),
            "scene_datetime": stamps("scene", of_scene, about["scene_datetime"]),
            "platform": ("scene", np.array(["sentinel-2a"] * total, _TEXT), about["platform"]),
            "relative_orbit": ("scene", np.full(total, 65, np.int32), about["relative_orbit"]),
            "sun_zenith": ("scene", rng.normal(30, 1, total), about["sun_zenith"]),
            "view_zenith": ("scene", np.full(total, np.nan), about["view_zenith"]),
            **conventions.spatial_coordinates(grid),
        },
        attrs={**conventions.group_attributes(grid), "provider": "earth_search"},
    )


def store_day(
    artifacts: ArtifactStore,
    day: str,
    nodes: dict[str, xr.Dataset],
    *,
    version: str,
    chunks: dict[str, tuple[int, ...]] | None = None,
) -> Snapshot:
    """Commit a version of a date and point at it."""
    with artifacts.begin(ASSET, day, version, kind="tree", code_version="1", upstream={}) as attempt:
        for name, dataset in nodes.items():
            dataset.attrs["partition"] = day
            write_node(attempt.zarr_store(), name, dataset, chunks=chunks)
        finish_tree(attempt.zarr_store(), {"provider": "earth_search", "partition": day})
        bands = [str(band) for node in nodes.values() for band in node["band"].values][: len(BANDS)]
        snapshot = attempt.commit(meta={"bands": bands}, nodes=dict.fromkeys(nodes, version))
    artifacts.point(snapshot)
    return snapshot


def at(day: str, hour: int = 7, minute: int = 0) -> datetime:
    return datetime.fromisoformat(day).replace(hour=hour, minute=minute, tzinfo=UTC)
