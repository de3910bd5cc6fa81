"""Build ``geostack_pipeline/data/sandbox_ch4.csv``: how much methane dims Sentinel-2's B11 and B12.

The sandbox plants plumes with this table.  It is kept apart from the retrieval's own table, and is built in
another way, so that a retrieval is judged by numbers that its own code did not make:

* the radiances of the MODTRAN look-up table are interpolated over the enhancement by a monotone cubic of
  the optical depth (not of the radiance);
* the band average is weighted with the reflectance slope of a desert surface, which falls across B12.

Usage::

    python scripts/build_sandbox_ch4_table.py <folder with ch4.lut, ch4.hdr, sentinel2_srf_b11_b12.csv>

The sources are mag1c's ``ch4.lut`` (BSD-3-Clause) and ESA's Sentinel-2 spectral responses
(COPE-GSEG-EOPG-TN-15-0007, version 4.0); see ``geostack_pipeline/data/sandbox_ch4.LICENSE``.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator

ENHANCEMENTS_PPM_M = np.array([0.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16000.0])
NODES_PPM_M = np.array(
    [
        0,
        50,
        100,
        200,
        350,
        500,
        750,
        1000,
        1500,
        2000,
        2750,
        3500,
        4500,
        5500,
        7000,
        8500,
        10000,
        12000,
        14000,
        16000,
    ],
    dtype=np.float64,
)
SURFACE_SLOPE_PER_NM = {"B11": 0.00012, "B12": -0.00035}
"""Relative change of a desert's reflectance per nanometre, around the band's middle."""
HEADER = (
    "# Optical depth -ln(T) of Sentinel-2 B11 and B12 for added methane, for the sandbox's plumes.",
    "# enhancement: ppm m along the look-up table's own light path (taken as air-mass factor 2).",
    "# Made by scripts/build_sandbox_ch4_table.py from mag1c's ch4.lut (BSD-3-Clause, see sandbox_ch4.LICENSE)",
    "# and from the Sentinel-2 spectral responses, ESA COPE-GSEG-EOPG-TN-15-0007 version 4.0 (2024).",
)


def read_lut(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return wavelengths (nm) and radiances (wavelength, enhancement) of the look-up table."""
    header = (folder / "ch4.hdr").read_text(encoding="utf-8")
    listed = re.search(r"wavelength = \{([^}]*)\}", header)
    if listed is None:
        raise SystemExit("ch4.hdr lists no wavelengths: is it the header of mag1c's ch4.lut?")
    wavelengths = np.array([float(text) for text in listed.group(1).split(",")])
    radiance = np.fromfile(folder / "ch4.lut", dtype="<f8").reshape(len(wavelengths), len(ENHANCEMENTS_PPM_M))
    return wavelengths, radiance


def read_responses(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return ``<platform>_<band>`` -> (wavelengths in nm, relative response)."""
    columns: dict[str, list[tuple[float, float]]] = {}
    with (folder / "sentinel2_srf_b11_b12.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            for band in ("B11", "B12"):
                columns.setdefault(f"{row['platform']}_{band}", []).append(
                    (float(row["wavelength_nm"]), float(row[band]))
                )
    return {name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1]) for name, pairs in columns.items()}


def optical_depths(folder: Path) -> dict[str, np.ndarray]:
    """Return ``<platform>_<band>`` -> optical depth at :data:`NODES_PPM_M`."""
    wavelengths, radiance = read_lut(folder)
    depth = -np.log(radiance / radiance[:, :1])
    fine = PchipInterpolator(ENHANCEMENTS_PPM_M, depth, axis=1)(NODES_PPM_M)
    table = {}
    for name, (nm, response) in read_responses(folder).items():
        weight = np.interp(wavelengths, nm, response, left=0.0, right=0.0) * radiance[:, 0]
        middle = float((weight * wavelengths).sum() / weight.sum())
        weight *= 1.0 + SURFACE_SLOPE_PER_NM[name[-3:]] * (wavelengths - middle)
        weight *= np.gradient(wavelengths)
        table[name] = -np.log((weight[:, None] * np.exp(-fine)).sum(axis=0) / weight.sum())
    return table


def main() -> None:
    """Write the table beside the package's other data."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    source = Path(sys.argv[1])
    data = Path(__file__).parents[1] / "geostack_pipeline" / "data"
    table = optical_depths(source)
    lines = [*HEADER, ",".join(["enhancement_ppm_m", *table])]
    lines += [
        ",".join([f"{node:g}", *(f"{abs(table[name][i]):.7f}" for name in table)])
        for i, node in enumerate(NODES_PPM_M)
    ]
    (data / "sandbox_ch4.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    attribution = (
        "sandbox_ch4.csv is derived from ch4.lut of mag1c (https://github.com/markusfoote/mag1c), whose licence follows,\n"
        "and from the Sentinel-2 spectral responses published by ESA (COPE-GSEG-EOPG-TN-15-0007, version 4.0, 2024;\n"
        "free use with attribution).\n\n"
    )
    licence = (source / "ch4.lut.LICENSE-BSD3").read_text(encoding="utf-8")
    (data / "sandbox_ch4.LICENSE").write_text(attribution + licence, encoding="utf-8")


if __name__ == "__main__":
    main()
