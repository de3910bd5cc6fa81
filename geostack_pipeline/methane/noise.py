"""Noise of a spectrometer's radiance, as a function of band and radiance."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NoiseTable:
    """``sigma(L) = |a sqrt(b + L) + c|``, uW cm-2 sr-1 nm-1, per band; all arrays have the shape (n,)."""

    name: str
    wavelength: Floats
    """nm, rising."""
    a: Floats
    b: Floats
    c: Floats

    def coefficients(self, wavelength: ArrayLike) -> Floats:
        """Return a, b and c at the centres of other bands, shape (3, S), interpolated."""
        centre = np.asarray(wavelength, np.float64)
        return np.stack([np.interp(centre, self.wavelength, each) for each in (self.a, self.b, self.c)])

    def sigma(self, radiance: ArrayLike, wavelength: ArrayLike) -> Floats:
        """Return the standard deviation of radiances (..., S)."""
        a, b, c = self.coefficients(wavelength)
        result: Floats = np.abs(a * np.sqrt(np.maximum(b + np.asarray(radiance, np.float64), 0.0)) + c)
        return result


@cache
def emit_noise() -> NoiseTable:
    """Return the noise of EMIT around 2.3 um (emit-ghg); reads a file of 3 KB once per process."""
    text = resources.files("geostack_pipeline").joinpath("data", "emit_noise.csv").read_text("utf-8")
    rows = list(
        csv.DictReader(io.StringIO("".join(ln for ln in text.splitlines(keepends=True) if ln[0] != "#")))
    )
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    return NoiseTable(
        name="emit_noise.csv",
        wavelength=columns["wavelength_nm"],
        a=columns["a"],
        b=columns["b"],
        c=columns["c"],
    )
