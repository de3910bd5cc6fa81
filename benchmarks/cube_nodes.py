"""Synthetic cubes as the cube stage stores them: noisy reflectance over smooth ground, clouds, two scenes a date."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from geostack_pipeline.cube import conventions
from geostack_pipeline.cube.grid import GridSpec

BANDS = ("B02", "B03", "B04", "B11", "B12")
ASSET = "earth_search/cube"
AREA = "field"
FIRST = datetime(2024, 1, 1, tzinfo=UTC)


def grid(height: int, width: int) -> GridSpec:
    """Return a grid of 20 m pixels in UTM."""
    return GridSpec(
        crs="EPSG:32639",
        transform=(20.0, 0.0, 600_000.0, 0.0, -20.0, 4_300_020.0),
        width=width,
        height=height,
    )


def packed_cube(place: GridSpec, moment: datetime, seed: int) -> xr.Dataset:
    """Return a packed cube of one moment: ``reflectance(time, band, y, x)`` uint16, ``scl``, ``source_scene``."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : place.height, 0 : place.width]
    ground = 2500 + 700 * np.sin(rows / 40.0) * np.cos(columns / 55.0)
    values = np.empty((1, len(BANDS), *place.shape), np.uint16)
    for band in range(len(BANDS)):
        values[0, band] = ground * (1 + 0.15 * band) + rng.normal(0, 60, place.shape)
    owner = np.where(columns[None] < place.width // 2, 0, 1).astype(np.int16)
    empty = (rows + columns < place.height // 6)[None]
    values[:, :, empty[0]] = 0
    owner[empty] = -1
    scl = np.where(ground > 2900, 9, 5).astype(np.uint8)[None]
    scl[empty] = 0
    stamp = np.array([_microseconds(moment)], np.int64)
    midnight = np.array([_microseconds(moment.replace(hour=0))], np.int64)
    epoch = {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
    names = [f"S2A_39SXD_{moment:%Y%m%d}_{number}_L2A" for number in range(2)]
    text = np.dtypes.StringDType()
    about = conventions.SCENE
    return xr.Dataset(
        {
            "reflectance": (
                ("time", "band", "y", "x"),
                values,
                {**conventions.REFLECTANCE, "clipped_pixels": 0, **conventions.PACKING},
            ),
            "scl": (("time", "y", "x"), scl, conventions.SCL),
            "source_scene": (("time", "y", "x"), owner, conventions.SOURCE_SCENE),
        },
        coords={
            "time": ("time", stamp, {**conventions.TIME, **epoch}),
            "solar_day": ("time", midnight, {**conventions.SOLAR_DAY, **epoch}),
            "band": ("band", np.array(BANDS, text), conventions.BAND),
            "scene": ("scene", np.array(names, text), about["scene"]),
            "scene_id": ("scene", np.array([f"id-{name}" for name in names], text), about["scene_id"]),
            "scene_datetime": ("scene", np.repeat(stamp, 2), {**about["scene_datetime"], **epoch}),
            "platform": ("scene", np.array(["sentinel-2a"] * 2, text), about["platform"]),
            "relative_orbit": ("scene", np.array([106, 106], np.int32), about["relative_orbit"]),
            "sun_zenith": ("scene", np.array([30.0, 30.1]), about["sun_zenith"]),
            "view_zenith": ("scene", np.array([4.0, np.nan]), about["view_zenith"]),
            **conventions.spatial_coordinates(place),
        },
        attrs={**conventions.group_attributes(place), "area": AREA, "provider": "earth_search"},
    )


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def store_days(folder: str | Path, days: int, height: int, width: int, distinct: int = 8) -> dict[str, Any]:
    """Commit a cube for each of a row of days and write settings beside them; pixels repeat after some days."""
    from geostack_pipeline.cube.write import finish_tree, write_node
    from geostack_pipeline.storage.artifacts import ArtifactStore
    from geostack_pipeline.storage.roots import open_root

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = ArtifactStore(open_root(str(folder / "store")))
    place = grid(height, width)
    cubes = [packed_cube(place, FIRST + timedelta(hours=7), seed) for seed in range(min(distinct, days))]
    for number in range(days):
        moment = FIRST + timedelta(days=number, hours=7)
        day = moment.date().isoformat()
        names = np.array([f"S2A_39SXD_{moment:%Y%m%d}_{i}_L2A" for i in range(2)], np.dtypes.StringDType())
        cube = cubes[number % distinct].copy()
        stamp = np.array([_microseconds(moment)], np.int64)
        for name, values in (("time", stamp), ("solar_day", stamp), ("scene", names)):
            cube = cube.assign_coords({name: (cube[name].dims, values, cube[name].attrs)})
        cube.attrs["partition"] = day
        with artifacts.begin(ASSET, day, f"v{number}", kind="tree", code_version="1", upstream={}) as attempt:
            store = attempt.zarr_store()
            write_node(store, AREA, cube)
            finish_tree(store, {"provider": "earth_search", "partition": day})
            snapshot = attempt.commit(meta={"bands": list(BANDS)}, nodes={AREA: f"v{number}"})
        artifacts.point(snapshot)
    (folder / "geostack.yaml").write_text(
        f"root: {folder / 'store'}\nstart_date: 2024-01-01\n"
        f"areas:\n  {AREA}: {{bbox: [52.2, 38.8, 52.3, 38.9], resolution_m: 20}}\n"
        "providers:\n  earth_search: {}\n",
        encoding="utf-8",
    )
    return {"days": days, "settings": str(folder / "geostack.yaml")}
