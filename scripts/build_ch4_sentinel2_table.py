"""Build the table that turns Sentinel-2 band ratios into methane, from radiances and spectral responses.

Usage::

    python scripts/build_ch4_sentinel2_table.py ch4.lut sentinel2_srf_b11_b12.csv \
        geostack_pipeline/data/ch4_sentinel2.csv

``ch4.lut`` (with ``ch4.hdr`` beside it) is the MODTRAN radiance table of mag1c: about 0.1 cm-1 sampling and seven
methane enhancements.  At that resolution Beer-Lambert's law holds almost line by line, so the optical depth
``tau = -ln(L(l) / L(0))`` of every wavelength is interpolated in the enhancement ``l`` (shape-preserving cubic)
and only then averaged over the band::

    T_band(l) = sum(S L(0) exp(-tau(l)) dw) / sum(S L(0) dw)

Outside the seven enhancements ``tau`` goes on along a straight line per wavelength: below zero with the slope
of the first step (retrieval noise is two-sided, and clipping it at zero would make every mean too high), above
the last one with the slope of the last step.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

PLATFORMS = ("S2A", "S2B", "S2C")
BANDS = ("B11", "B12")
LUT_ENHANCEMENTS_PPM_M = np.array([0.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16000.0])
"""The columns of ch4.lut (mag1c 1.2.0)."""
NODES_PPM_M = np.concatenate(
    [
        np.arange(-32000.0, 0.0, 1000.0),
        np.arange(0.0, 16000.0, 500.0),
        np.arange(16000.0, 64001.0, 2000.0),
    ]
)
"""Rows of the table: dense where the curve bends and where plumes are."""

Array = NDArray[np.float64]

HEADER = """\
# Transmittance of extra methane in Sentinel-2 B11 and B12, averaged over the band.
# schema: geostack-ch4-band-transmittance/1
# enhancement_ppm_m: methane enhancement in the geometry of the radiance table, ppm m. For another air-mass
#   factor A the row to use is enhancement * A / A_table; the table's own A is undocumented (see transmittance.py).
# <platform>_<band>: mean of S*L0*exp(-tau) over mean of S*L0; S spectral response, L0 radiance without the extra methane.
# Rows from 0 to 16000 ppm m are interpolated; outside, the optical depth of each wavelength is continued linearly.
# Derived from: mag1c 1.2.0 ch4.lut (MODTRAN radiance; BSD-3-Clause, text in ch4_sentinel2.LICENSE) and the
#   Sentinel-2 spectral response functions, ESA COPE-GSEG-EOPG-TN-15-0007 version 4.0 (2024).
# Built by scripts/build_ch4_sentinel2_table.py
"""


def read_lut(lut: Path) -> tuple[Array, Array]:
    """Return wavelengths (n,), nm, and radiances (n, 7), from the ENVI pair ``lut`` and its ``.hdr``."""
    text = lut.with_suffix(".hdr").read_text()
    found = re.search(r"wavelength = \{([^}]*)\}", text)
    if found is None:
        raise ValueError(f"{lut.with_suffix('.hdr').name}: no wavelength list in the ENVI header")
    wavelength = np.array([float(word) for word in found.group(1).split(",")])
    radiance = np.fromfile(lut, dtype="<f8")
    expected = wavelength.size * LUT_ENHANCEMENTS_PPM_M.size
    if radiance.size != expected:
        raise ValueError(f"{lut.name}: {radiance.size} values, the header promises {expected}")
    return wavelength, radiance.reshape(wavelength.size, LUT_ENHANCEMENTS_PPM_M.size)


def read_responses(path: Path) -> dict[str, dict[str, tuple[Array, Array]]]:
    """Return per platform and band the response's own samples: wavelengths (nm) and responses, both (k,)."""
    rows: dict[str, dict[str, list[tuple[float, float]]]] = {p: {b: [] for b in BANDS} for p in PLATFORMS}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for band in BANDS:
                if float(row[band]) > 0.0:
                    rows[row["platform"]][band].append((float(row["wavelength_nm"]), float(row[band])))
    curves: dict[str, dict[str, tuple[Array, Array]]] = {}
    for platform, bands in rows.items():
        curves[platform] = {}
        for band, samples in bands.items():
            table = np.array(sorted(samples))
            # One sample of zero on each side: without it, interpolation would draw a tail across the gap
            # between the two bands.
            wavelength = np.concatenate([[table[0, 0] - 1.0], table[:, 0], [table[-1, 0] + 1.0]])
            curves[platform][band] = (wavelength, np.concatenate([[0.0], table[:, 1], [0.0]]))
    return curves


def optical_depth(radiance: Array, enhancement: Array) -> Array:
    """Return -ln(L(l)/L(0)), shape (n, len(enhancement)), continued linearly outside the table's columns."""
    nodes = LUT_ENHANCEMENTS_PPM_M
    tau = -np.log(radiance / radiance[:, :1])
    inside = PchipInterpolator(nodes, tau, axis=1)(np.clip(enhancement, nodes[0], nodes[-1]))
    first = (tau[:, 1] - tau[:, 0]) / (nodes[1] - nodes[0])
    last = (tau[:, -1] - tau[:, -2]) / (nodes[-1] - nodes[-2])
    below = np.minimum(enhancement - nodes[0], 0.0)
    above = np.maximum(enhancement - nodes[-1], 0.0)
    result: Array = inside + first[:, None] * below + last[:, None] * above
    return result


def band_transmittance(
    wavelength: Array, radiance: Array, response: tuple[Array, Array], enhancement: Array
) -> Array:
    """Return the transmittance of the extra methane in one band, shape (len(enhancement),)."""
    seen = (wavelength >= response[0][0]) & (wavelength <= response[0][-1])
    grid = wavelength[seen]
    weight = np.interp(grid, *response) * radiance[seen, 0]
    through = np.exp(-optical_depth(radiance[seen], enhancement))
    result: Array = np.trapezoid(weight[:, None] * through, grid, axis=0) / np.trapezoid(weight, grid)
    return result


def build(lut: Path, responses: Path) -> str:
    """Return the table as text: comment lines, one header row, one row per enhancement."""
    wavelength, radiance = read_lut(lut)
    curves = read_responses(responses)
    names = [f"{platform}_{band}" for platform in PLATFORMS for band in BANDS]
    columns = [
        band_transmittance(wavelength, radiance, curves[platform][band], NODES_PPM_M)
        for platform in PLATFORMS
        for band in BANDS
    ]
    lines = [",".join(["enhancement_ppm_m", *names])]
    for node, values in zip(NODES_PPM_M, np.column_stack(columns), strict=True):
        lines.append(",".join([f"{node:.0f}", *(f"{value:.8f}" for value in values)]))
    return HEADER + "\n".join(lines) + "\n"


def main() -> None:
    """Write the table named on the command line."""
    parser = argparse.ArgumentParser(description="Build the Sentinel-2 methane table.")
    parser.add_argument("lut", type=Path, help="ch4.lut of mag1c, its .hdr beside it")
    parser.add_argument("responses", type=Path, help="CSV: platform, wavelength_nm, B11, B12")
    parser.add_argument("out", type=Path, help="the table to write")
    arguments = parser.parse_args()
    arguments.out.write_text(build(arguments.lut, arguments.responses))


if __name__ == "__main__":
    main()
