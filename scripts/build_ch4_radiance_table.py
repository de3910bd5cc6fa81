"""Build the table from which target spectra of methane are made, for spectrometers with Gaussian bands.

Usage::

    python scripts/build_ch4_radiance_table.py ch4.lut geostack_pipeline/data/ch4_radiance.csv

``ch4.lut`` (with ``ch4.hdr`` beside it) is the MODTRAN radiance table of mag1c: samples 0.02 to 0.06 nm apart, seven methane
enhancements.  Spectrometers see it through bands many times as wide, so the table keeps it through Gaussians of 2 nm
full width, every half nanometre.  A Gaussian band of width F is then made exactly, by a second Gaussian of width
sqrt(F^2 - 2^2): the convolution of two Gaussians is the Gaussian whose variance is the sum of theirs.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ENHANCEMENTS_PPM_M = (0, 500, 1000, 2000, 4000, 8000, 16000)
"""The columns of ch4.lut (mag1c 1.2.0)."""
FWHM_NM = 2.0
"""Width of the table's Gaussians: less than that of any instrument, and four steps of the table."""
STEP_NM = 0.5
FIRST_NM, LAST_NM = 2060.0, 2518.0
"""Range of the centres: the window around 2.3 um, and what a band of 15 nm at its edges reaches."""
FWHM_TO_SIGMA = 1.0 / (2.0 * np.sqrt(2.0 * np.log(2.0)))

HEADER = """\
# Radiance at the sensor for seven enhancements of methane, through Gaussians of 2 nm full width at half maximum.
# schema: geostack-ch4-radiance/1
# wavelength_nm: centre of the Gaussian. radiance: without added methane, in the units of the source.
# share_<l>: radiance with l ppm m of added methane over radiance without.
# Derived from: mag1c 1.2.0 ch4.lut (MODTRAN radiance; BSD-3-Clause, text in ch4_radiance.LICENSE). Its angles and its
#   water vapour are not documented.
# Built by scripts/build_ch4_radiance_table.py
"""


def read_lut(lut: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return wavelengths (n,), nm, and radiances (n, 7), from the ENVI pair ``lut`` and its ``.hdr``."""
    text = lut.with_suffix(".hdr").read_text()
    found = re.search(r"wavelength = \{([^}]*)\}", text)
    if found is None:
        raise ValueError(f"{lut.with_suffix('.hdr').name}: no wavelength list in the ENVI header")
    wavelength = np.array([float(word) for word in found.group(1).split(",")])
    radiance = np.fromfile(lut, dtype="<f8")
    if radiance.size != wavelength.size * len(ENHANCEMENTS_PPM_M):
        raise ValueError(f"{lut.name}: {radiance.size} values, the header promises {wavelength.size} x 7")
    return wavelength, radiance.reshape(wavelength.size, len(ENHANCEMENTS_PPM_M))


def build(lut: Path) -> str:
    """Return the table as text: comment lines, one header row, one row per centre."""
    wavelength, radiance = read_lut(lut)
    sigma, width = FWHM_NM * FWHM_TO_SIGMA, np.gradient(wavelength)
    lines = [",".join(["wavelength_nm", "radiance", *(f"share_{each}" for each in ENHANCEMENTS_PPM_M[1:])])]
    for centre in np.arange(FIRST_NM, LAST_NM + STEP_NM / 2.0, STEP_NM):
        # Samples are evenly spaced in wavenumber: each counts with its width, or a band's centre would shift by 0.01 nm.
        weight = np.exp(-((wavelength - centre) ** 2) / (2.0 * sigma**2)) * width
        seen = weight @ radiance / weight.sum()
        shares = ",".join(f"{share:.7f}" for share in seen[1:] / seen[0])
        lines.append(f"{centre:.1f},{seen[0]:.6e},{shares}")
    return HEADER + "\n".join(lines) + "\n"


def main() -> None:
    """Write the table named on the command line."""
    parser = argparse.ArgumentParser(description="Build the radiance table of methane.")
    parser.add_argument("lut", type=Path, help="ch4.lut of mag1c, its .hdr beside it")
    parser.add_argument("out", type=Path, help="the table to write")
    arguments = parser.parse_args()
    arguments.out.write_text(build(arguments.lut))


if __name__ == "__main__":
    main()
