"""One picture of an area from the scenes of one solar day.

First it is decided which scene gives each pixel, from one layer per scene; then every band is
filled from the scenes decided on.  So a pixel comes from one scene in all bands, and only
those tiles are fetched and decoded that a pixel needs.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from geostack_pipeline.areas import Resampling
from geostack_pipeline.cube import kernels
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.layers import CLASSIFICATION, SceneLayer
from geostack_pipeline.cube.placing import Band, Method, Need, method
from geostack_pipeline.cube.warp import CoordinateMap, coordinate_map
from geostack_pipeline.errors import GeostackError, RasterError

NOBODY = -1
"""Owner of a pixel that no scene has."""

_Running = tuple[SceneLayer, str, list[Future[None]]]
_Plane = npt.NDArray[np.uint16]


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
        self._pool = ThreadPoolExecutor(threads or max(4, _cores()), thread_name_prefix="cube")
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
            done = set()
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
                        continue
                    out: npt.NDArray[np.unsignedinteger] = (
                        scl if classes else planes.plane(list(bands).index(name))
                    )
                    if not classes and how == "nearest":
                        done.add((index, name))
                    _finish(
                        [(scene, name, band.place(where, owner, NOBODY, need, out, self._pool, claim=index))]
                    )
            self._fill(stack, scenes, bands, planes, owner, done)

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
        stack: ExitStack,
        scenes: Mapping[int, SceneLayer],
        bands: Sequence[str],
        planes: Planes,
        owner: npt.NDArray[np.int16],
        done: set[tuple[int, str]],
    ) -> None:
        giving = np.zeros(max(scenes, default=0) + 1, np.bool_)
        kernels.present(owner, giving)
        wanted = [
            (index, name)
            for name in bands
            for index, scene in scenes.items()
            if giving[index] and name in scene.bands and (index, name) not in done
        ]

        def opened(choice: tuple[int, str]) -> Band:
            index, name = choice
            with _about(scenes[index], name):
                return Band(scenes[index].bands[name], "reflectance")

        layers = dict(zip(wanted, self._pool.map(opened, wanted), strict=True))
        for band in layers.values():
            stack.callback(band.close)
        known: dict[tuple[object, ...], Need] = {}
        running: deque[tuple[int, list[_Running]]] = deque()
        try:
            for number, name in enumerate(bands):
                # Scenes of one band write different pixels, as do bands.
                own: list[_Running] = []
                running.append((number, own))
                for index, scene in scenes.items():
                    if (index, name) not in layers:
                        continue
                    band = layers[index, name]
                    with _about(scene, name):
                        where, how = self._open(band, classes=False)
                        key = (index, *_lattice(band))
                        if key not in known:
                            known[key] = band.need(where, owner, index)
                        futures = band.place(
                            where, owner, index, known[key], planes.plane(number), self._pool, how=how
                        )
                        own.append((scene, name, futures))
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


def _finish(running: Sequence[_Running]) -> None:
    """Wait until all is placed; the first error is raised, with its item and band, when nothing runs any more."""
    try:
        for scene, name, futures in running:
            with _about(scene, name):
                for future in futures:
                    future.result()
    finally:
        _stop(running)


def _end(running: deque[tuple[int, list[_Running]]], planes: Planes) -> None:
    """Wait for the first of the bands that are worked on, and tell that it is finished."""
    number, own = running[0]
    _finish(own)
    planes.finished(number)
    running.popleft()


def _stop(running: Sequence[_Running]) -> None:
    """Begin nothing more and wait for what runs: nothing may read a raster that is closed after an error."""
    everything = [future for _, _, futures in running for future in futures]
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
