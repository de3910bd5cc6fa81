"""Radiance of a spectrometer over mixed ground, with plumes and noise: cubes to measure filters on.

Physics of the table ``data/ch4_radiance.csv`` with ln L interpolated in the enhancement, so that strong plumes
saturate; surfaces are mixtures of five with absorptions of clays and carbonates; each column has its own gain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geostack_pipeline.methane.noise import emit_noise
from geostack_pipeline.methane.target import FWHM_TO_SIGMA, TABLE_FWHM_NM, WINDOW_NM, built_in

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RadianceCube:
    """A synthetic cube in sensor geometry."""

    wavelength: Floats
    """nm, shape (S,)."""
    fwhm: Floats
    """nm, shape (S,)."""
    radiance: NDArray[np.float32]
    """uW cm-2 sr-1 nm-1, shape (lines, columns, S)."""
    enhancement: Floats
    """What was planted, ppm m, shape (lines, columns)."""


def make_cube(lines: int, columns: int, *, seed: int = 0, plumes: int = 3) -> RadianceCube:
    """Return a cube; the same arguments give the same cube."""
    rng = np.random.default_rng(seed)
    known = emit_noise()
    inside = (known.wavelength >= WINDOW_NM[0]) & (known.wavelength <= WINDOW_NM[1])
    wavelength = known.wavelength[inside]
    fwhm = np.full(wavelength.size, 8.8)
    light, depth, nodes = _light(wavelength, fwhm)
    planted = _plumes(rng, lines, columns, plumes)
    surface = _surface(rng, lines, columns, wavelength)
    radiance = np.empty((lines, columns, wavelength.size), np.float32)
    gain = 1.0 + 0.004 * rng.standard_normal(columns)
    for column in range(columns):
        share = np.exp(-_interpolated(planted[:, column], nodes, depth))
        clean = surface[:, column] * light * share * gain[column]
        noise = known.sigma(clean, wavelength) * rng.standard_normal(clean.shape)
        radiance[:, column] = clean + noise
    return RadianceCube(wavelength=wavelength, fwhm=fwhm, radiance=radiance, enhancement=planted)


def _light(wavelength: Floats, fwhm: Floats) -> tuple[Floats, Floats, Floats]:
    """Return radiance over a white surface (S,), optical depths (S, m) and their enhancements (m,)."""
    table = built_in()
    assert table.radiance is not None
    assert table.enhancement is not None
    sigma = np.sqrt(fwhm**2 - TABLE_FWHM_NM**2) * FWHM_TO_SIGMA
    weight = np.exp(-((table.wavelength[:, None] - wavelength) ** 2) / (2.0 * sigma**2))
    seen = (weight / weight.sum(axis=0)).T @ table.radiance
    light = seen[:, 0] / seen[:, 0].max() * 2.4
    return light, -np.log(seen / seen[:, :1]), table.enhancement


def _interpolated(enhancement: Floats, nodes: Floats, depth: Floats) -> Floats:
    place = np.clip(np.searchsorted(nodes, enhancement, side="right") - 1, 0, nodes.size - 2)
    share = (enhancement - nodes[place]) / (nodes[place + 1] - nodes[place])
    return (depth[:, place] * (1.0 - share) + depth[:, place + 1] * share).T


def _plumes(rng: np.random.Generator, lines: int, columns: int, count: int) -> Floats:
    line, column = np.mgrid[0:lines, 0:columns].astype(np.float64)
    total = np.zeros((lines, columns))
    for _ in range(count):
        top, left = rng.uniform(0.1, 0.8) * lines, rng.uniform(0.1, 0.9) * columns
        angle, peak = rng.uniform(0.0, 2.0 * np.pi), 10.0 ** rng.uniform(3.0, 4.1)
        along = (line - top) * np.cos(angle) + (column - left) * np.sin(angle)
        across = -(line - top) * np.sin(angle) + (column - left) * np.cos(angle)
        width = 1.0 + 0.12 * np.maximum(along, 0.0)
        shape = np.exp(-0.5 * (across / width) ** 2) / width * np.exp(-np.maximum(along, 0.0) / 40.0)
        total += np.where(along >= 0.0, peak * shape, 0.0)
    return total


def _surface(rng: np.random.Generator, lines: int, columns: int, wavelength: Floats) -> Floats:
    def dip(centre: float, width: float, depth: float) -> Floats:
        return 1.0 - depth * np.exp(-0.5 * ((wavelength - centre) / width) ** 2)

    slope = (wavelength - 2300.0) / 300.0
    members = np.stack(
        [
            0.42 - 0.03 * slope,
            0.36 * dip(2205.0, 22.0, 0.16) - 0.04 * slope,
            0.30 * dip(2312.0, 24.0, 0.12) - 0.02 * slope,
            0.38 * dip(2340.0, 28.0, 0.18) - 0.03 * slope,
            0.12 - 0.06 * slope,
        ]
    )
    coarse = rng.standard_normal((5, lines // 12 + 3, columns // 12 + 3))
    row, side = np.arange(lines) / 12.0, np.arange(columns) / 12.0
    fields = np.stack([_bilinear(each, row, side) for each in coarse])
    fields += 0.35 * rng.standard_normal((5, lines, columns))
    mix = np.exp(1.1 * fields)
    mix /= mix.sum(axis=0)
    brightness = 1.0 + 0.08 * rng.standard_normal((lines, columns))
    return np.einsum("mlc,ms->lcs", mix, members) * brightness[..., None]


def _bilinear(grid: Floats, row: Floats, column: Floats) -> Floats:
    r, c = row.astype(int), column.astype(int)
    fr, fc = (row - r)[:, None], (column - c)[None, :]
    top = grid[np.ix_(r, c)] * (1 - fc) + grid[np.ix_(r, c + 1)] * fc
    below = grid[np.ix_(r + 1, c)] * (1 - fc) + grid[np.ix_(r + 1, c + 1)] * fc
    return top * (1 - fr) + below * fr
