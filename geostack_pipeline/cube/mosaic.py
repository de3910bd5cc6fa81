"""One picture of an area from the scenes of one solar day.

First it is decided which scene gives each pixel, from one layer per scene; then every band is
filled from the scenes decided on.  So a pixel comes from one scene in all bands, and only
those tiles are fetched and decoded that a pixel needs.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from geostack_pipeline.areas import Resampling
from geostack_pipeline.cube import kernels
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.layers import CLASSIFICATION, BandLayer, SceneLayer
from geostack_pipeline.cube.placing import Band, Method, Need, method
from geostack_pipeline.cube.warp import CoordinateMap, coordinate_map
from geostack_pipeline.errors import GeostackError, RasterError

NOBODY = -1
"""Owner of a pixel that no scene has."""

_HELD = 4
"""Bands that are worked on at once of those that hold open files: each thread opens one, and a process may have few."""
_Plane = npt.NDArray[np.uint16]
_Choice = tuple[int, str]
"""A scene's index and the name of one of its bands."""


class _Opened(NamedTuple):
    """A band, where the grid's pixels lie in it, and how they are made of its own."""

    band: Band
    where: CoordinateMap
    how: Method


class _Running(NamedTuple):
    """A band that is being placed."""

    scene: SceneLayer
    name: str
    band: Band
    futures: list[Future[None]]


class Planes(Protocol):
    """Where the bands of one picture come to lie, by their number."""

    @property
    def at_once(self) -> int:
        """Most bands that are worked on at the same time."""

    def plane(self, band: int) -> _Plane:
        """Return a band's plane (row, column): zeros at first, and the same one until it is finished."""

    def finished(self, band: int) -> None:
        """Take notice that nothing more is put into a band; called once for each, in their order."""


class Picture:
    """All bands of a picture in one array of zeros (band, row, column)."""

    def __init__(self, reflectance: _Plane) -> None:
        self._reflectance = reflectance

    @property
    def at_once(self) -> int:
        """All of them: their memory is there anyway."""
        return max(1, len(self._reflectance))

    def plane(self, band: int) -> _Plane:
        """Return a view."""
        plane: _Plane = self._reflectance[band]
        return plane

    def finished(self, band: int) -> None:
        """Nothing is to be done."""


class Mosaic:
    """Builds the pictures of one grid; shares threads and coordinate maps between them.

    Args:
        grid: The target grid.
        threads: Threads that read and decode; None takes one per core, at least four, because
            some of them wait for bytes.
        resampling: How reflectance comes onto the grid.
        overviews: Whether reduced images may stand for the full one where the grid is coarser.
    """

    def __init__(
        self,
        grid: GridSpec,
        *,
        threads: int | None = None,
        resampling: Resampling = "auto",
        overviews: bool = False,
    ) -> None:
        self.grid = grid
        self._resampling = resampling
        self._overviews = overviews
        self._threads = threads or max(4, _cores())
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="cube")
        self._maps: dict[tuple[object, ...], CoordinateMap] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def build(
        self,
        scenes: Mapping[int, SceneLayer],
        bands: Sequence[str],
        planes: Planes,
        scl: npt.NDArray[np.uint8],
        owner: npt.NDArray[np.int16],
    ) -> None:
        """Fill one picture.

        A scene gives a pixel if its classification has a class other than 0 there, or, for a
        scene without a classification, if the first band it has is valid there.  Among several
        the first one in the order given has it.  A band that is missing or has no data there
        stays without data: no other scene fills it in.

        Args:
            scenes: Scenes in order of priority, by their index.
            bands: Bands wanted.
            planes: Where the packed numbers of each band go.
            scl: Filled: classes, shaped (row, column); zeros before.
            owner: Filled: index of the scene that gives the pixel, shaped (row, column); -1 before.
        """
        with ExitStack() as stack:
            done: set[_Choice] = set()
            claimed: dict[_Choice, _Opened] = {}
            for index, scene in scenes.items():
                name = next((n for n in (CLASSIFICATION, *bands) if n in scene.bands), None)
                if name is None or not (owner == NOBODY).any():
                    continue
                with _about(scene, name):
                    classes = name == CLASSIFICATION
                    band = Band(scene.bands[name], "classes" if classes else "reflectance")
                    stack.callback(band.close)
                    where, how = self._open(band, classes=classes)
                    need = band.need(where, owner, NOBODY)
                    if not need.any:
                        band.close()
                        continue
                    out: npt.NDArray[np.unsignedinteger] = (
                        scl if classes else planes.plane(list(bands).index(name))
                    )
                    futures = band.place(where, owner, NOBODY, need, out, self._pool, claim=index)
                    _finish([_Running(scene, name, band, futures)])
                    if classes:
                        band.close()
                    elif how == "nearest":
                        done.add((index, name))
                        band.close()
                    else:
                        # filled from the same file, which may have been fetched for it
                        claimed[index, name] = _Opened(band, where, how)
                        band.rest()
            self._fill(scenes, bands, planes, owner, done, claimed)

    def _open(self, band: Band, *, classes: bool) -> tuple[CoordinateMap, Method]:
        """Return where the grid's pixels lie in a band, and how they are made of its own; may turn to an overview."""
        where = self._map(band)
        # an overview of classes may have been averaged: their full image is read, whatever it costs
        if classes:
            return where, "nearest"
        if self._overviews and not band.is_overview and band.take_overview(where):
            where = self._map(band)
        return where, method(self._resampling, where, is_overview=band.is_overview)

    def _fill(
        self,
        scenes: Mapping[int, SceneLayer],
        bands: Sequence[str],
        planes: Planes,
        owner: npt.NDArray[np.int16],
        done: set[_Choice],
        claimed: dict[_Choice, _Opened],
    ) -> None:
        giving = np.zeros(max(scenes, default=0) + 1, np.bool_)
        kernels.present(owner, giving)
        wanted = {
            (index, name): scene.bands[name]
            for name in bands
            for index, scene in scenes.items()
            if giving[index] and name in scene.bands and (index, name) not in done
        }
        for choice in claimed.keys() - wanted.keys():
            claimed.pop(choice).band.close()
        known: dict[tuple[object, ...], Need] = {}
        running: deque[tuple[int, list[_Running]]] = deque()
        holding: deque[_Running] = deque()
        layers = [layer for choice, layer in wanted.items() if choice not in claimed]
        with _Ahead(self._pool, layers, self._threads) as ahead:
            try:
                for number, name in enumerate(bands):
                    # Scenes of one band write different pixels, as do bands.
                    own: list[_Running] = []
                    running.append((number, own))
                    for index, scene in scenes.items():
                        if (index, name) not in wanted:
                            continue
                        while len(holding) >= _HELD:
                            _end_band(holding.popleft())
                        with _about(scene, name):
                            opened = claimed.pop((index, name), None)
                            if opened is None:
                                band = ahead.take()
                                opened = _Opened(band, *self._open(band, classes=False))
                            band, where, how = opened
                            key = (index, *_lattice(band))
                            if key not in known:
                                known[key] = band.need(where, owner, index)
                            futures = band.place(
                                where, owner, index, known[key], planes.plane(number), self._pool, how=how
                            )
                        own.append(_Running(scene, name, band, futures))
                        if band.raster.holds_files:
                            holding.append(own[-1])
                    while len(running) >= planes.at_once:
                        _end(running, planes)
                while running:
                    _end(running, planes)
            except BaseException:
                _stop([each for _, own in running for each in own])
                raise

    def _map(self, band: Band) -> CoordinateMap:
        raster = band.raster
        if raster.crs is None or raster.transform is None:
            raise RasterError(
                "The raster has no georeferencing",
                subject=raster.key,
                found="no CRS" if raster.crs is None else "no affine transform",
                action="leave the scene out, or give the file a CRS and a transform",
            )
        key = (raster.crs, raster.transform, raster.width, raster.height)
        if key not in self._maps:
            self._maps[key] = coordinate_map(
                self.grid, raster.crs, raster.transform, raster.width, raster.height
            )
        return self._maps[key]


class _Ahead:
    """Opens bands in the pool a little before they are taken, in their order, and closes them all at the end.

    Opening waits for bytes: as many are opened at once as there are threads.  All of them at once would be all files
    of a day where they are read by way of a local copy.
    """

    def __init__(self, pool: ThreadPoolExecutor, layers: Iterable[BandLayer], most: int) -> None:
        self._pool = pool
        self._layers = iter(layers)
        self._most = most
        self._opening: deque[Future[Band]] = deque()
        self._taken: list[Band] = []

    def take(self) -> Band:
        """Return the next band; an error in opening it is raised here."""
        while len(self._opening) < self._most and (layer := next(self._layers, None)) is not None:
            self._opening.append(self._pool.submit(Band, layer, "reflectance"))
        band = self._opening.popleft().result()
        if band.raster.holds_files:
            self._taken.append(band)
        return band

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for future in self._opening:
            future.cancel()
        wait(self._opening)
        for future in self._opening:
            if not future.cancelled() and future.exception() is None:
                future.result().close()
        for band in self._taken:
            band.close()


def _finish(running: Sequence[_Running]) -> None:
    """Wait until all is placed; the first error is raised, with its item and band, when nothing runs any more."""
    try:
        for each in running:
            with _about(each.scene, each.name):
                for future in each.futures:
                    future.result()
    finally:
        _stop(running)


def _end_band(running: _Running) -> None:
    """Wait for a band of a scene, and close it."""
    _finish([running])
    running.band.close()


def _end(running: deque[tuple[int, list[_Running]]], planes: Planes) -> None:
    """Wait for the first of the bands that are worked on, and tell that it is finished."""
    number, own = running[0]
    _finish(own)
    for each in own:
        each.band.close()
    planes.finished(number)
    running.popleft()


def _stop(running: Sequence[_Running]) -> None:
    """Begin nothing more and wait for what runs: nothing may read a raster that is closed after an error."""
    everything = [future for each in running for future in each.futures]
    for future in everything:
        future.cancel()
    wait(everything)


@contextmanager
def _about(scene: SceneLayer, band: str) -> Iterator[None]:
    """Let errors inside name the item and the band."""
    try:
        yield
    except GeostackError as error:
        error.subject = f"item {scene.item_id}, band {band} ({error.subject})"
        raise


def _lattice(band: Band) -> tuple[object, ...]:
    raster = band.raster
    return (
        raster.crs, raster.transform, raster.width, raster.height, raster.tile_width, raster.tile_height,
    )  # fmt: skip


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
