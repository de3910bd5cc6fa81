"""A cube of one UTC date: the scenes of an area as pictures on its grid, one per solar day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import xarray as xr

from geostack_pipeline.areas import Resampling
from geostack_pipeline.cube import conventions, packing
from geostack_pipeline.cube.days import by_solar_day
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.layers import SceneLayer
from geostack_pipeline.cube.mosaic import NOBODY, Mosaic, Picture

_STRING = np.dtypes.StringDType()


def build_cube(
    grid: GridSpec,
    scenes: Sequence[SceneLayer],
    bands: Sequence[str],
    *,
    threads: int | None = None,
    resampling: Resampling = "auto",
    overviews: bool = False,
) -> xr.Dataset:
    """Return the cube of an area, decoded when it is used: reflectance as floats, NaN for no data.

    In memory it holds the packed numbers of :func:`build_packed`, which has the description.
    """
    packed = build_packed(grid, scenes, bands, threads=threads, resampling=resampling, overviews=overviews)
    return xr.decode_cf(packed)


def build_packed(
    grid: GridSpec,
    scenes: Sequence[SceneLayer],
    bands: Sequence[str],
    *,
    threads: int | None = None,
    resampling: Resampling = "auto",
    overviews: bool = False,
) -> xr.Dataset:
    """Return the cube of an area as it is stored: packed numbers with their CF attributes.

    Variables: ``reflectance(time, band, y, x)`` uint16 (reflectance = number * 1e-4 - 0.1; 0 is no
    data), ``scl(time, y, x)`` uint8 (0 is no data), ``source_scene(time, y, x)`` int16, an index into the
    coordinate ``scene`` (item ids), -1 where no scene has data.  ``time`` is the earliest acquisition of each
    solar day (see :func:`~geostack_pipeline.cube.days.solar_day`); every solar day of the scenes has its step, also
    if none of its pixels is valid.  How overlapping scenes share the pixels: :meth:`Mosaic.build`.

    Resampling, by default: the nearest source pixel; reflectance with at least 1.5 source pixels per grid pixel (10 m
    on a 20 m grid) is the mean of the valid source pixels, weighted by overlap.  A source on the grid's own lattice is
    copied, and of classes the nearest is taken, always.  ``bilinear`` weighs the valid pixels around a centre, in a
    reach that grows with the grid's pixels, and keeps holes as they are.  Memory: the cube, and a few tiles per thread.

    Overviews, where they are wanted, are read in place of the full image: the one that GDAL's warper takes by itself, the
    coarsest whose pixels are not larger than the grid's, or hardly (:mod:`~geostack_pipeline.cube.levels`).  By default the
    mean of its pixels is taken.  That is faster by the square of the pixel sizes, and the values are then those of whatever the catalog made the
    overviews with, so that two catalogs of one scene may differ.  Classes are never taken from them.

    Args:
        grid: Where the pixels lie.
        scenes: Scenes of one UTC date in order of priority; where two overlap the first with data has the pixel.
        bands: Names of the bands wanted.
        threads: Threads that read and decode; None chooses by the cores.
        resampling: How reflectance comes onto the grid.
        overviews: Whether reduced images in the files may be read for a coarser grid.

    Raises:
        RasterError: A raster is corrupt or has no georeferencing.
        TransferError: A raster's bytes could not be moved.
        ValueError: Item ids or bands repeat, or a scene's time has no time zone.
    """
    check(scenes, bands)
    days = by_solar_day([scene.datetime for scene in scenes], grid.centre_longitude)
    shape = (len(days), *grid.shape)
    reflectance = np.zeros((len(days), len(bands), *grid.shape), np.uint16)
    scl = np.zeros(shape, np.uint8)
    owner = np.full(shape, NOBODY, np.int16)
    with Mosaic(grid, threads=threads, resampling=resampling, overviews=overviews) as mosaic:
        for t, members in enumerate(days.values()):
            mosaic.build({i: scenes[i] for i in members}, bands, Picture(reflectance[t]), scl[t], owner[t])
    packed = described(
        grid, scenes, bands, days, (reflectance, scl, owner), resampling=resampling, overviews=overviews
    )
    packed["reflectance"].attrs[CLIPPED] = sum(clipped(plane) for step in reflectance for plane in step)
    return packed


CLIPPED = "clipped_pixels"
"""Attribute of the reflectance: how many numbers stand at the upper end of the packing."""

Parts = tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8], npt.NDArray[np.int16]]
"""Reflectance (time, band, y, x), classes and source scenes (time, y, x)."""


def described(
    grid: GridSpec,
    scenes: Sequence[SceneLayer],
    bands: Sequence[str],
    days: Mapping[date, Sequence[int]],
    parts: Parts,
    *,
    resampling: Resampling,
    overviews: bool,
) -> xr.Dataset:
    """Return the packed cube around its pixels: coordinates and attributes; :data:`CLIPPED` is still 0."""
    reflectance, scl, owner = parts
    times = [min(scenes[i].datetime for i in members) for members in days.values()]
    return xr.Dataset(
        {
            "reflectance": (
                ("time", "band", "y", "x"),
                reflectance,
                {
                    **conventions.REFLECTANCE,
                    **({} if resampling == "auto" else {"resampling": resampling}),
                    **(
                        {"made_of": "overviews of the sources where the grid is coarser"} if overviews else {}
                    ),
                    CLIPPED: 0,
                    **conventions.PACKING,
                },
            ),
            "scl": (("time", "y", "x"), scl, conventions.SCL),
            "source_scene": (("time", "y", "x"), owner, conventions.SOURCE_SCENE),
        },
        coords={
            "time": _moments("time", times, conventions.TIME),
            "solar_day": _moments(
                "time", [datetime.combine(day, time.min, UTC) for day in days], conventions.SOLAR_DAY
            ),
            "band": xr.Variable("band", np.array(list(bands), _STRING), conventions.BAND),
            **_scene_coordinates(scenes),
            **conventions.spatial_coordinates(grid),
        },
        attrs=conventions.group_attributes(grid),
    )


def check(scenes: Sequence[SceneLayer], bands: Sequence[str]) -> None:
    """Raise ValueError where item ids or bands repeat, or there are more scenes than an index tells apart."""
    for what, names in (("item", [s.item_id for s in scenes]), ("band", list(bands))):
        for one, other in pairwise(sorted(names)):
            if one == other:
                raise ValueError(f"the {what} {one!r} is given twice")
    if len(scenes) > np.iinfo(np.int16).max:
        raise ValueError(f"{len(scenes)} scenes are more than an index of 16 bits tells apart")


def clipped(plane: npt.NDArray[np.uint16]) -> int:
    """Return how many numbers of a plane stand at an end of the packing: what was beyond it is there too."""
    return int(np.count_nonzero(plane == packing.LOWEST) + np.count_nonzero(plane == packing.HIGHEST))


def _moments(dimension: str, moments: Sequence[datetime], attributes: dict[str, object]) -> xr.Variable:
    microseconds = [
        int(np.datetime64(m.astimezone(UTC).replace(tzinfo=None), "us").astype(np.int64)) for m in moments
    ]
    return xr.Variable(
        dimension,
        np.array(microseconds, np.int64),
        {**attributes, "units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian"},
    )


def _scene_coordinates(scenes: Sequence[SceneLayer]) -> dict[str, xr.Variable]:
    about = conventions.SCENE

    def texts(name: str, values: list[str]) -> xr.Variable:
        return xr.Variable("scene", np.array(values, _STRING), about[name])

    def numbers(name: str, values: list[float | None]) -> xr.Variable:
        filled = [np.nan if v is None else v for v in values]
        return xr.Variable("scene", np.array(filled, np.float64), about[name])

    orbits = [-1 if s.relative_orbit is None else s.relative_orbit for s in scenes]
    return {
        "scene": texts("scene", [s.item_id for s in scenes]),
        "scene_id": texts("scene_id", [s.scene for s in scenes]),
        "scene_datetime": _moments("scene", [s.datetime for s in scenes], about["scene_datetime"]),
        "platform": texts("platform", [s.platform for s in scenes]),
        "relative_orbit": xr.Variable("scene", np.array(orbits, np.int32), about["relative_orbit"]),
        "sun_zenith": numbers("sun_zenith", [s.sun_zenith for s in scenes]),
        "view_zenith": numbers("view_zenith", [s.view_zenith for s in scenes]),
    }
