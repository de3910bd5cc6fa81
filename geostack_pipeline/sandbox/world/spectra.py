"""Spectra: what an imaging spectrometer sees of the ground, the air and methane, band by band.

The ground is the one of :mod:`~geostack_pipeline.sandbox.world.ground`; between its six bands the spectra are smooth,
with absorptions of clay and carbonate near 2200 and 2335 nm, which a retrieval of methane has to live with.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from geostack_pipeline.sandbox.world.gas import TABLE_AIR_MASS_FACTOR
from geostack_pipeline.sandbox.world.grids import Floats
from geostack_pipeline.sandbox.world.surfaces import absorbed

NODES_PPM_M = np.array([0.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16000.0])
_CENTRES_NM = np.array([380.0, 492.0, 560.0, 665.0, 842.0, 1250.0, 1614.0, 2202.0, 2500.0])
_CLOUD = {380.0: 0.70, 900.0: 0.74, 1300.0: 0.60, 1600.0: 0.42, 2200.0: 0.30, 2500.0: 0.22}
_SUN_KELVIN = 5772.0
_SUN_STERADIAN = 6.794e-5


@dataclass(frozen=True, kw_only=True)
class Bands:
    """The bands of a spectrometer."""

    wavelength: npt.NDArray[np.float64]
    """Centres, nm."""
    fwhm: npt.NDArray[np.float64]
    """Full widths at half maximum, nm."""
    air: npt.NDArray[np.float64]
    """Share of light that the air lets through on its way down and up."""
    depth: npt.NDArray[np.float64]
    """Optical depth of added methane along the table's light path, (bands, 7 enhancements)."""
    noise: npt.NDArray[np.float64] | None
    """(bands, 3): a, b and c of the noise ``|a sqrt(b + L) + c|`` in uW cm-2 sr-1 nm-1; None where not known."""

    def between(self, first_nm: float, last_nm: float) -> Bands:
        """Return the bands whose centres lie between two wavelengths."""
        kept = (self.wavelength >= first_nm) & (self.wavelength <= last_nm)
        return Bands(
            wavelength=self.wavelength[kept],
            fwhm=self.fwhm[kept],
            air=self.air[kept],
            depth=self.depth[kept],
            noise=None if self.noise is None else self.noise[kept],
        )

    def irradiance(self) -> npt.NDArray[np.float64]:
        """Return the sun's light above the air in each band, uW cm-2 nm-1: a black body's."""
        metres = self.wavelength * 1e-9
        radiance = 1.191042972e-16 / metres**5 / np.expm1(1.438776877e-2 / (metres * _SUN_KELVIN))
        # W m-2 sr-1 m-1 from the sun's disc -> uW cm-2 nm-1
        return np.asarray(radiance * _SUN_STERADIAN * 1e-9 * 100.0)

    def transmittance(self, column_ppm_m: Floats, *, air_mass: float, overlap: float = 1.0) -> Floats:
        """Return the share of light that passes columns of any shape: (..., bands), float32."""
        slant = np.asarray(column_ppm_m, np.float64) * (air_mass / TABLE_AIR_MASS_FACTOR)
        out = np.ones((*slant.shape, len(self.wavelength)), np.float32)
        inside = slant > 0.0
        if inside.any():
            curve = PchipInterpolator(NODES_PPM_M, self.depth, axis=1)
            # Beyond the table the depth keeps its share per ppm m of the table's end.
            held = np.minimum(slant[inside], NODES_PPM_M[-1])
            depth = curve(held) * (slant[inside] / held)
            out[inside] = np.exp(-overlap * depth.T).astype(np.float32)
        return out


@lru_cache(maxsize=2)
def bands_of(instrument: str) -> Bands:
    """Return the bands of ``emit`` or ``enmap``."""
    path = resources.files("geostack_pipeline").joinpath(f"data/sandbox_{instrument}.csv")
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    table = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    depth = np.stack(
        [np.zeros(len(rows)), *(table[f"depth_{int(node)}"] for node in NODES_PPM_M[1:])], axis=1
    )
    noise = None
    if "noise_a" in table:
        noise = np.stack([table[f"noise_{name}"] for name in "abc"], axis=1)
    return Bands(
        wavelength=table["wavelength"], fwhm=table["fwhm"], air=table["air"], depth=depth, noise=noise
    )


def surface(
    ground: Mapping[str, Floats],
    vegetated: Floats,
    carbonate: Floats,
    wavelength: npt.NDArray[np.float64],
    covers: Mapping[str, Floats] | None = None,
) -> Floats:
    """Return reflectance spectra (rows, columns, bands) of a ground given in Sentinel-2's bands.

    Args:
        ground: Band -> reflectance of pixels.
        vegetated: Share of green plants.
        carbonate: Share of carbonate rock.
        wavelength: Where, nm.
        covers: Material of :mod:`~geostack_pipeline.sandbox.world.surfaces` -> share of each pixel, whose
            continuum is already in ``ground``.
    """
    b02, b03, b04, b08, b11, b12 = (ground[name] for name in ("B02", "B03", "B04", "B08", "B11", "B12"))
    between = vegetated * (0.85 * b08) + (1.0 - vegetated) * (0.45 * b08 + 0.58 * b11)
    last = b12 * (0.97 - 0.35 * vegetated)
    nodes = np.stack([0.72 * b02, b02, b03, b04, b08, between, b11, b12, last]).astype(np.float64)
    curves = PchipInterpolator(_CENTRES_NM, nodes, axis=0)(wavelength)
    out: Floats = np.moveaxis(curves, 0, -1).astype(np.float32)
    clay = np.clip(0.7 * (0.93 - b12 / np.maximum(b11, 0.02)), 0.0, 0.18) * (1.0 - vegetated)

    def dim(share: Floats, *dips: tuple[float, float, float]) -> None:
        """Multiply with ``1 - share * sum of depth * dip`` of (centre, half width, depth), where it matters."""
        shape = sum(depth * np.exp(-(((wavelength - at) / half) ** 2)) for at, half, depth in dips)
        near = np.flatnonzero(shape > 1e-5)
        if len(near):
            part = slice(int(near[0]), int(near[-1]) + 1)
            out[..., part] *= 1.0 - share[..., None] * np.asarray(shape, np.float32)[part]

    dim(clay, (2206.0, 17.0, 1.0), (2166.0, 12.0, 0.35))
    dim(np.clip(carbonate, 0.0, 1.0), (2337.0, 21.0, 0.10))
    # The edge of chlorophyll lies between two of Sentinel-2's bands.
    dim(vegetated, (690.0, 22.0, 0.25))
    for name, share in (covers or {}).items():
        taken = absorbed(name, wavelength)
        near = np.flatnonzero(taken > 1e-5)
        if len(near) and share.any():
            part = slice(int(near[0]), int(near[-1]) + 1)
            out[..., part] -= share[..., None] * taken[part]
    return np.maximum(out, np.float32(0.002))


def cloud(wavelength: npt.NDArray[np.float64]) -> Floats:
    """Return the reflectance of a thick water cloud."""
    return np.asarray(np.interp(wavelength, list(_CLOUD), list(_CLOUD.values())), np.float32)
