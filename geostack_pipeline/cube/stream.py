"""A cube straight into its Zarr node, band by band: memory holds a few bands, whatever the number of bands and days."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store

from geostack_pipeline.areas import Resampling
from geostack_pipeline.cube import kernels, packing
from geostack_pipeline.cube.build import CLIPPED, check, clipped, described
from geostack_pipeline.cube.days import by_solar_day
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.layers import SceneLayer
from geostack_pipeline.cube.mosaic import NOBODY, Mosaic
from geostack_pipeline.cube.write import create_node, quiet, write_plane

_LARGE = ("reflectance", "scl", "source_scene")
_PLANE_BYTES = 32 << 20
"""Bands that are worked on at the same time take about as much, but there are two at least: one is written meanwhile."""
_ROWS = 512
"""Rows that are looked at in one piece: no second plane is made for it."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of one time while it was written."""

    time: np.datetime64
    """Of the earliest acquisition, UTC."""
    shape: tuple[int, int, int]
    """Bands, rows, columns."""
    valid: int
    """Numbers with data, in all bands."""
    lowest: int | None
    """Smallest packed number with data; None where there is none."""
    highest: int | None
    scenes: int
    """How many scenes gave a pixel."""

    @property
    def valid_fraction(self) -> float:
        """Share of the numbers with data; NaN of none."""
        size = math.prod(self.shape)
        return self.valid / size if size else math.nan

    @property
    def smallest(self) -> float | None:
        """Smallest reflectance."""
        return None if self.lowest is None else decoded(self.lowest)

    @property
    def largest(self) -> float | None:
        """Largest reflectance."""
        return None if self.highest is None else decoded(self.highest)


def write_cube(
    store: Store,
    node: str,
    grid: GridSpec,
    scenes: Sequence[SceneLayer],
    bands: Sequence[str],
    *,
    attributes: Mapping[str, Any] | None = None,
    threads: int | None = None,
    resampling: Resampling = "auto",
    overviews: bool = False,
) -> list[Seen]:
    """Build the cube of an area in a node of a Zarr tree, replacing what stood there; return what was seen of each time.

    The node is the same, byte for byte, as :func:`~geostack_pipeline.cube.write.write_node` makes of
    :func:`~geostack_pipeline.cube.build.build_packed`, which have the description.  The cube never is in memory: that holds
    a day's classes and source scenes, two bands of it (32 MiB of them where they are small), and a few tiles per
    thread.  A band is written while the next ones are read.

    Args:
        store: Zarr store of the whole tree, writable.
        node: Name of the node, e.g. of an area.
        grid: Where the pixels lie.
        scenes: Scenes of one UTC date in order of priority.
        bands: Names of the bands wanted.
        attributes: Attributes of the node besides the cube's own.
        threads: Threads that read and decode; None chooses by the cores.
        resampling: How reflectance comes onto the grid.
        overviews: Whether reduced images in the files may be read for a coarser grid.

    Raises:
        RasterError: A raster is corrupt or has no georeferencing.
        TransferError: A raster's bytes could not be moved.
        ValueError: Item ids or bands repeat, a scene's time has no time zone, or ``node`` is no name of a node.
    """
    check(scenes, bands)
    days = by_solar_day([scene.datetime for scene in scenes], grid.centre_longitude)
    shape = (len(days), *grid.shape)
    # Only their shapes count: an array of one number repeated takes no memory.
    parts = (
        np.broadcast_to(np.zeros((), np.uint16), (len(days), len(bands), *grid.shape)),
        np.broadcast_to(np.zeros((), np.uint8), shape),
        np.broadcast_to(np.zeros((), np.int16), shape),
    )
    about = described(grid, scenes, bands, days, parts, resampling=resampling, overviews=overviews)
    group = create_node(store, node, about.assign_attrs(attributes or {}), _LARGE)
    seen = []
    planes = _Planes(_array(group, "reflectance"), grid.shape)
    scl = np.empty(grid.shape, np.uint8)
    owner = np.empty(grid.shape, np.int16)
    with (
        quiet(),
        Mosaic(grid, threads=threads, resampling=resampling, overviews=overviews) as mosaic,
    ):
        for t, members in enumerate(days.values()):
            planes.begin(t)
            scl.fill(0)
            owner.fill(NOBODY)
            mosaic.build({i: scenes[i] for i in members}, bands, planes, scl, owner)
            write_plane(_array(group, "scl"), (t,), scl)
            write_plane(_array(group, "source_scene"), (t,), owner)
            giving = np.zeros(len(scenes), np.bool_)
            kernels.present(owner, giving)
            seen.append(
                Seen(
                    time=np.datetime64(int(about["time"].values[t]), "us"),
                    shape=(len(bands), *grid.shape),
                    valid=planes.valid,
                    lowest=planes.lowest,
                    highest=planes.highest,
                    scenes=int(giving.sum()),
                )
            )
        _array(group, "reflectance").update_attributes({CLIPPED: planes.clipped})
    return seen


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    found = group[name]
    assert isinstance(found, zarr.Array)
    return found


class _Planes:
    """Bands of one day after the other, written when they are finished; their memory is used again."""

    def __init__(self, array: zarr.Array[Any], shape: tuple[int, int]) -> None:
        self._array = array
        self._shape = shape
        self._open: dict[int, npt.NDArray[np.uint16]] = {}
        self._free: list[npt.NDArray[np.uint16]] = []
        self.clipped = 0
        """Numbers at the upper end of the packing, of all days."""
        self.begin(0)

    def begin(self, day: int) -> None:
        """Turn to a day."""
        self._day = day
        self.valid = 0
        self.lowest: int | None = None
        self.highest: int | None = None

    @property
    def at_once(self) -> int:
        return max(2, _PLANE_BYTES // (2 * max(1, self._shape[0] * self._shape[1])))

    def plane(self, band: int) -> npt.NDArray[np.uint16]:
        if band not in self._open:
            plane = self._free.pop() if self._free else np.empty(self._shape, np.uint16)
            plane.fill(packing.FILL)
            self._open[band] = plane
        return self._open[band]

    def finished(self, band: int) -> None:
        plane = self._open.pop(band, None)
        if plane is None:
            return  # no scene has it: nothing is stored, which reads as no data
        write_plane(self._array, (self._day, band), plane)
        for row in range(0, plane.shape[0], _ROWS):
            self._look_at(plane[row : row + _ROWS])
        self._free.append(plane)

    def _look_at(self, part: npt.NDArray[np.uint16]) -> None:
        valid = int(np.count_nonzero(part))
        if not valid:
            return
        self.valid += valid
        self.clipped += clipped(part)
        # No data is 0, so one less than it is the largest number.
        low, high = int((part - np.uint16(1)).min()) + 1, int(part.max())
        self.lowest = low if self.lowest is None else min(self.lowest, low)
        self.highest = high if self.highest is None else max(self.highest, high)


def decoded(number: int) -> float:
    """Return the reflectance that a packed number stands for, in double precision, as xarray decodes it."""
    return number * packing.SCALE_FACTOR + packing.ADD_OFFSET
