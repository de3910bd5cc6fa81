"""Batches: which tiles a step sees, turned how; a function of seed and step alone, so a training can go on anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from geostack_pipeline.learning.fields import Floats
from geostack_pipeline.learning.targets import IGNORED, PLUME

AHEAD = 3
"""Batches that are made while a step runs."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One tile with its targets."""

    stack: Floats
    """(3, y, x), see :func:`~geostack_pipeline.learning.fields.stacked`."""
    target: npt.NDArray[np.uint8]
    """(y, x)."""
    background: Floats
    """:attr:`Background.array` of its granule."""
    weight: float


class Tiles(Protocol):
    """Tiles by number; reading one may touch the disk, from several threads."""

    @property
    def plumes(self) -> npt.NDArray[np.bool_]:
        """Whether each tile has a plume."""
        ...

    def read(self, number: int) -> Tile:
        """Return a tile."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Tiles that are all held in memory."""

    tiles: list[Tile]

    @property
    def plumes(self) -> npt.NDArray[np.bool_]:
        """Whether each tile has a plume."""
        return np.array([bool((tile.target == PLUME).any()) for tile in self.tiles])

    def read(self, number: int) -> Tile:
        """Return a tile."""
        return self.tiles[number]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one step learns from."""

    stack: Floats
    """(tile, 3, y, x)."""
    target: npt.NDArray[np.uint8]
    """(tile, y, x)."""
    background: Floats
    """(tile, 5)."""
    weight: Floats
    """(tile,)."""


def batch(
    tiles: Tiles, plumes: npt.NDArray[np.bool_], *, seed: int, step: int, size: int, crop: int
) -> Batch:
    """Return the batch of a step: half of it shows plumes where there are any, crops at random, turned at random."""
    rng = np.random.default_rng([seed, step])
    with_plume, without = np.flatnonzero(plumes), np.flatnonzero(~plumes)
    if not with_plume.size or not without.size:
        chosen = rng.choice(len(plumes), size)
    else:
        half = (size + 1) // 2
        chosen = np.concatenate([rng.choice(with_plume, half), rng.choice(without, size - half)])
    made = [_augmented(tiles.read(int(number)), rng, crop, centred=bool(plumes[number])) for number in chosen]
    return Batch(
        stack=np.stack([tile.stack for tile in made]),
        target=np.stack([tile.target for tile in made]),
        background=np.stack([tile.background for tile in made]),
        weight=np.array([tile.weight for tile in made], np.float32),
    )


def _augmented(tile: Tile, rng: np.random.Generator, crop: int, *, centred: bool) -> Tile:
    high, wide = tile.target.shape
    top, left = int(rng.integers(high - crop + 1)), int(rng.integers(wide - crop + 1))
    pick = rng.random()
    if centred and crop < min(high, wide):
        # A random plume pixel lies somewhere in the crop.
        rows, columns = np.nonzero(tile.target == PLUME)
        one = int(pick * rows.size)
        top = int(np.clip(rows[one] - rng.integers(crop), 0, high - crop))
        left = int(np.clip(columns[one] - rng.integers(crop), 0, wide - crop))
    stack = tile.stack[:, top : top + crop, left : left + crop]
    target = tile.target[top : top + crop, left : left + crop]
    turns, flipped = int(rng.integers(4)), bool(rng.integers(2))
    if flipped:
        stack, target = stack[..., ::-1], target[..., ::-1]
    return Tile(
        stack=np.rot90(stack, turns, axes=(1, 2)),
        target=np.rot90(target, turns),
        background=tile.background,
        weight=tile.weight,
    )


def batches(
    tiles: Tiles, *, seed: int, first: int, last: int, size: int, crop: int, threads: int = 2
) -> Iterator[Batch]:
    """Yield the batches of steps ``first`` to ``last`` (exclusive), made ahead in threads."""
    plumes = tiles.plumes

    def make(step: int) -> Batch:
        return batch(tiles, plumes, seed=seed, step=step, size=size, crop=crop)

    with ThreadPoolExecutor(threads, thread_name_prefix="batches") as pool:
        waiting: list[Future[Batch]] = []
        try:
            for step in range(first, last):
                waiting.append(pool.submit(make, step))
                if len(waiting) > AHEAD:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for job in waiting:
                job.cancel()


def whole(tiles: Tiles, numbers: npt.NDArray[np.int64]) -> Batch:
    """Return tiles as they are."""
    made = [tiles.read(int(number)) for number in numbers]
    return Batch(
        stack=np.stack([tile.stack for tile in made]),
        target=np.stack([tile.target for tile in made]),
        background=np.stack([tile.background for tile in made]),
        weight=np.array([tile.weight for tile in made], np.float32),
    )


def padded(tile: Tile, edge: int) -> Tile:
    """Return a tile filled up with masked pixels to a square of an edge."""
    high, wide = tile.target.shape
    after = ((0, edge - high), (0, edge - wide))
    return Tile(
        stack=np.pad(tile.stack, ((0, 0), *after), constant_values=np.nan),
        target=np.pad(tile.target, after, constant_values=IGNORED),
        background=tile.background,
        weight=tile.weight,
    )
