"""The light that reaches a spectrometer: sun, air and methane, in bands whose centres vary across the track.

A detector's band centres shift by some tenths of a nanometre between its columns ("smile").  Over so little, what a
band measures changes linearly with the shift; the slopes come from a table in steps of a nanometre, which like all
tables of this sandbox is its own (``scripts/build_sandbox_spectral_tables.py``).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from geostack_pipeline.sandbox.world.gas import TABLE_AIR_MASS_FACTOR
from geostack_pipeline.sandbox.world.grids import Floats
from geostack_pipeline.sandbox.world.spectra import NODES_PPM_M, Bands

_TABLE_FWHM_NM = 3.0
_STEP_NM = 0.25
"""Half the distance over which slopes are taken: as large as the shifts are."""


@dataclass(frozen=True, kw_only=True)
class Light:
    """Optical depths in the bands of a detector along the table's light path, and their slopes with the shift."""

    bands: Bands
    vapour: npt.NDArray[np.float64]
    """Optical depth of the air's other gases, water vapour above all, (bands,)."""
    air_slope: npt.NDArray[np.float64]
    """d(optical depth of all the air) / d(shift), 1/nm, (bands,)."""
    vapour_slope: npt.NDArray[np.float64]
    """The same of :attr:`vapour`, (bands,)."""
    methane_slope: npt.NDArray[np.float64]
    """The same of each tabulated enhancement of methane, (bands, 7)."""

    def air(self, air_mass: float, shift_nm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the share of light that clear air of the table's kind lets through, (columns, bands)."""
        depth = -np.log(self.bands.air) + shift_nm[:, None] * self.air_slope
        return np.asarray(np.exp(-depth * (air_mass / TABLE_AIR_MASS_FACTOR)))

    def moisten(
        self, values: Floats, excess: Floats, air_mass: float, shift_nm: npt.NDArray[np.float64]
    ) -> None:
        """Dim ``values`` (lines, columns, bands) in place by water vapour beyond the table's: ``excess``, relative."""
        dimmed = np.flatnonzero(self.vapour > 1e-6)
        depth = self.vapour[dimmed] + shift_nm[:, None] * self.vapour_slope[dimmed]
        depth *= air_mass / TABLE_AIR_MASS_FACTOR
        values[..., dimmed] *= np.exp(-excess[..., None] * depth.astype(np.float32))

    def absorb(
        self,
        values: Floats,
        column_ppm_m: Floats,
        air_mass: float,
        shift_nm: npt.NDArray[np.float64],
        *,
        overlap: float,
    ) -> None:
        """Dim ``values`` (lines, columns, bands) in place by added methane.

        Args:
            values: Radiance or reflectance.
            column_ppm_m: Vertical column above the background, ppm m, (lines, columns).
            air_mass: Light path in vertical columns.
            shift_nm: Shift of the band centres of each column, nm.
            overlap: Factor on the optical depth: pressure and temperature of the plume are not those of the table.
        """
        inside = column_ppm_m > 0.0
        if not inside.any():
            return
        slant = column_ppm_m[inside].astype(np.float64) * (air_mass / TABLE_AIR_MASS_FACTOR)
        # Beyond the table the depth keeps its share per ppm m of the table's end.
        held = np.minimum(slant, NODES_PPM_M[-1])
        dimmed = np.flatnonzero(self.bands.depth[:, -1] > 0.0)
        both = np.concatenate([self.bands.depth[dimmed], self.methane_slope[dimmed]])
        depths = PchipInterpolator(NODES_PPM_M, both, axis=1)(held) * (slant / held)
        depth, slope = depths[: len(dimmed)], depths[len(dimmed) :]
        shift = np.broadcast_to(shift_nm, inside.shape)[inside]
        passed = np.ones((len(slant), len(self.vapour)), np.float32)
        passed[:, dimmed] = np.exp(-overlap * (depth + slope * shift)).T
        values[inside] *= passed


@lru_cache(maxsize=1)
def _fine() -> dict[str, npt.NDArray[np.float64]]:
    text = resources.files("geostack_pipeline").joinpath("data/sandbox_light.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def light_in(bands: Bands) -> Light:
    """Return the light in the bands of an instrument; outside the fine table (1990 to 2520 nm) nothing shifts."""
    fine = _fine()
    nm = fine["wavelength"]
    covered = (bands.wavelength > nm[0] + 1.2 * bands.fwhm) & (bands.wavelength < nm[-1] - 1.2 * bands.fwhm)
    # Widths add in squares: the table is already smoothed a little.
    sigma = np.sqrt(np.maximum(bands.fwhm**2 - _TABLE_FWHM_NM**2, 1.0)) / 2.3548
    gas = np.exp(-np.stack([fine[f"depth_{int(node)}"] for node in NODES_PPM_M[1:]], axis=1))
    ingredients = np.column_stack([np.ones_like(nm), gas]) * fine["air"][:, None]
    vapour = np.exp(-fine["vapour"])[:, None]

    def depths(shift: float) -> npt.NDArray[np.float64]:
        """Return optical depths (bands, 8): all the air, six enhancements on top of it, vapour alone."""
        weight = np.exp(-0.5 * ((nm[None, :] - (bands.wavelength + shift)[:, None]) / sigma[:, None]) ** 2)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
        signal = weight @ ingredients
        parts = [signal[:, :1], signal[:, 1:] / np.maximum(signal[:, :1], 1e-12), weight @ vapour]
        return np.asarray(-np.log(np.maximum(np.concatenate(parts, axis=1), 1e-12)))

    here, lower, upper = depths(0.0), depths(-_STEP_NM), depths(_STEP_NM)
    slope = np.where(covered[:, None], (upper - lower) / (2.0 * _STEP_NM), 0.0)
    return Light(
        bands=bands,
        vapour=np.where(covered, here[:, 7], 0.0),
        air_slope=slope[:, 0],
        vapour_slope=slope[:, 7],
        methane_slope=np.concatenate([np.zeros((len(slope), 1)), slope[:, 1:7]], axis=1),
    )
