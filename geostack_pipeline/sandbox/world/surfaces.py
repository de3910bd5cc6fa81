"""Materials with absorptions of their own: what lies on the ground and looks a little like methane between 2.1 and 2.5 um.

A spectrum is a smooth continuum times Gaussian absorptions.  Centres and widths are those of the literature on
mineral and polymer spectroscopy (Clark et al. 1990, JGR 95, 12653, for Al-OH, Mg-OH and carbonate; C-H overtones
near 1.73 and 2.31 um for plastics, tar and the encapsulant of solar panels); depths are rounded, and no sample of a
library is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from geostack_pipeline.sandbox.world.grids import Floats

SENTINEL2_NM = {
    "B02": (459.0, 525.0),
    "B03": (542.0, 578.0),
    "B04": (650.0, 680.0),
    "B08": (780.0, 886.0),
    "B11": (1568.0, 1660.0),
    "B12": (2115.0, 2290.0),
}
"""Where the responses of Sentinel-2's bands fall to half, nm."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """A spectrum: continuum and absorptions."""

    continuum: Mapping[float, float]
    """nm -> reflectance; smooth between."""
    dips: tuple[tuple[float, float, float], ...] = ()
    """(centre nm, half width at 1/e nm, depth)."""

    def envelope(self, wavelength: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the reflectance without absorptions."""
        curve = PchipInterpolator(list(self.continuum), list(self.continuum.values()))
        return np.asarray(curve(np.clip(wavelength, min(self.continuum), max(self.continuum))))

    def passed(self, wavelength: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return what the absorptions leave of it, 0 to 1."""
        out = np.ones(len(wavelength))
        for centre, half_width, depth in self.dips:
            out *= 1.0 - depth * np.exp(-(((wavelength - centre) / half_width) ** 2))
        return out


MATERIALS: Mapping[str, Material] = {
    # Limestone and marble: 2.337 um with its shoulder towards short waves, and a weak companion.
    "carbonate": Material(
        continuum={380: 0.28, 560: 0.42, 860: 0.52, 1250: 0.58, 1650: 0.60, 2200: 0.57, 2500: 0.48},
        dips=((2343.0, 23.0, 0.32), (2302.0, 18.0, 0.09), (2160.0, 18.0, 0.03), (1995.0, 22.0, 0.04)),
    ),
    # Serpentine, talc and chlorite: 2.315 um, with 2.25 and 2.39.
    "magnesium": Material(
        continuum={380: 0.10, 560: 0.17, 860: 0.22, 1250: 0.26, 1650: 0.29, 2200: 0.28, 2500: 0.22},
        dips=((2315.0, 18.0, 0.30), (2252.0, 15.0, 0.14), (2385.0, 16.0, 0.20)),
    ),
    # Greenhouse film over soil.
    "plastic": Material(
        continuum={380: 0.40, 560: 0.52, 860: 0.58, 1250: 0.55, 1650: 0.50, 2200: 0.42, 2500: 0.34},
        dips=(
            (1730.0, 18.0, 0.25),
            (1210.0, 20.0, 0.10),
            (2310.0, 13.0, 0.30),
            (2352.0, 13.0, 0.26),
            (2378.0, 12.0, 0.17),
        ),
    ),
    # Dark cells below glass and a film of ethylene-vinyl acetate with its C-H bands, and the frames between.
    "solar": Material(
        continuum={380: 0.05, 560: 0.045, 860: 0.06, 1150: 0.14, 1650: 0.15, 2200: 0.12, 2500: 0.09},
        dips=((1730.0, 20.0, 0.12), (2310.0, 14.0, 0.20), (2350.0, 13.0, 0.16), (2256.0, 26.0, 0.12)),
    ),
    # Soil soaked with oil around old wells.
    "tar": Material(
        continuum={380: 0.05, 560: 0.07, 860: 0.11, 1250: 0.15, 1650: 0.18, 2200: 0.19, 2500: 0.17},
        dips=((1728.0, 20.0, 0.10), (2310.0, 14.0, 0.18), (2352.0, 14.0, 0.20), (2378.0, 12.0, 0.14)),
    ),
    "water": Material(
        continuum={380: 0.04, 560: 0.05, 665: 0.03, 860: 0.012, 1250: 0.006, 1650: 0.004, 2500: 0.003},
    ),
}


@cache
def in_sentinel2(name: str) -> Mapping[str, float]:
    """Return band -> reflectance of a material, absorptions included."""
    material = MATERIALS[name]
    out = {}
    for band, (first, last) in SENTINEL2_NM.items():
        nm = np.linspace(first, last, 41)
        out[band] = float((material.envelope(nm) * material.passed(nm)).mean())
    return out


def absorbed(name: str, wavelength: npt.NDArray[np.float64]) -> Floats:
    """Return the reflectance that a material's absorptions take, per share of the pixel that it covers."""
    material = MATERIALS[name]
    return np.asarray(material.envelope(wavelength) * (1.0 - material.passed(wavelength)), np.float32)
