"""Random fields with structure on many scales, defined over a whole site and evaluated in windows."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from geostack_pipeline.sandbox.world.grids import Floats, Grid


def generator(seed: int, *names: object) -> np.random.Generator:
    """Return the random stream of a thing, the same for the same seed and names, whatever was drawn before."""
    key = zlib.crc32("/".join(str(name) for name in names).encode())
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, key])))


def _weights(first_m: float, count: int, pixel_m: float, spacing_m: float) -> sparse.csr_array:
    """Return cubic B-spline weights (count, nodes) of pixel centres on lattice nodes."""
    position = (first_m + (np.arange(count) + 0.5) * pixel_m) / spacing_m + 1.0
    node = np.floor(position).astype(np.int64)
    t = position - node
    parts = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1)
    rows = np.repeat(np.arange(count), 4)
    columns = (node[:, None] + np.arange(-1, 3)).ravel()
    values = (parts / 6.0).astype(np.float32).ravel()
    return sparse.csr_array((values, (rows, columns)), shape=(count, int(columns.max()) + 1))


class Field:
    """A smooth random field: a sum of random lattices of several spacings, about unit variance."""

    def __init__(
        self, seed: int, name: str, ground: Grid, spacings_m: Sequence[float], roughness: float = 0.6
    ) -> None:
        self._ground = ground
        self._layers: list[tuple[float, Floats]] = []
        amplitudes = np.array([spacing**roughness for spacing in spacings_m])
        # A cubic B-spline of white noise has the variance (151/315)^2 between and at its nodes, on average.
        amplitudes /= np.sqrt((amplitudes**2).sum()) * (151.0 / 315.0)
        for spacing, amplitude in zip(spacings_m, amplitudes, strict=True):
            shape = (
                int(np.ceil(ground.height * ground.pixel_m / spacing)) + 4,
                int(np.ceil(ground.width * ground.pixel_m / spacing)) + 4,
            )
            rng = generator(seed, name, spacing)
            self._layers.append(
                (spacing, rng.standard_normal(shape, dtype=np.float32) * np.float32(amplitude))
            )

    def evaluate(self, window: tuple[slice, slice], factor: int = 1) -> Floats:
        """Return the field on a window of the ground's grid, in pixels ``factor`` times as large."""
        rows = (window[0].stop - window[0].start) // factor
        columns = (window[1].stop - window[1].start) // factor
        pixel = self._ground.pixel_m * factor
        top = window[0].start * self._ground.pixel_m
        left = window[1].start * self._ground.pixel_m
        total: Floats = np.zeros((rows, columns), np.float32)
        for spacing, lattice in self._layers:
            vertical = _weights(top, rows, pixel, spacing)
            horizontal = _weights(left, columns, pixel, spacing)
            used = lattice[: vertical.shape[1], : horizontal.shape[1]]
            across: npt.NDArray[np.float32] = (horizontal @ used.T).T
            total += vertical @ np.ascontiguousarray(across)
        return total
