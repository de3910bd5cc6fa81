"""Build ``data/sandbox_emit.csv`` and ``data/sandbox_enmap.csv``: bands of two imaging spectrometers in the sandbox.

Each row is a band: centre and full width at half maximum, the light that the air lets through on its way down and
up, and the optical depth of added methane along the look-up table's own light path.  EMIT's rows also hold the
coefficients of its noise.  The sandbox plants plumes with these tables; a retrieval must bring its own.

Usage::

    python scripts/build_sandbox_spectral_tables.py <folder with ch4.lut, ch4.hdr, emit_noise.txt> <EnMAP L2A item.json>

Sources: mag1c's ``ch4.lut`` (BSD-3-Clause), the instrument noise table of emit-sds/emit-ghg (Apache-2.0), and the band
list in the STAC item of an EnMAP L2A product (DLR); see ``geostack_pipeline/data/sandbox_spectrometers.LICENSE``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

ENHANCEMENTS_PPM_M = (0, 500, 1000, 2000, 4000, 8000, 16000)
SUN_KELVIN = 5772.0
WATER = (
    # centre nm, half width nm, depth: what water vapour and oxygen take out of the light below 1400 nm
    (687.0, 2.5, 0.25),
    (720.0, 8.0, 0.15),
    (761.0, 3.0, 0.55),
    (820.0, 12.0, 0.15),
    (940.0, 22.0, 0.75),
    (1130.0, 25.0, 0.80),
    (1375.0, 40.0, 0.99),
)


def read_lut(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return wavelengths (nm) and radiances (wavelength, enhancement) of the look-up table."""
    listed = re.search(r"wavelength = \{([^}]*)\}", (folder / "ch4.hdr").read_text(encoding="utf-8"))
    if listed is None:
        raise SystemExit("ch4.hdr lists no wavelengths: is it the header of mag1c's ch4.lut?")
    wavelengths = np.array([float(text) for text in listed.group(1).split(",")])
    radiance = np.fromfile(folder / "ch4.lut", dtype="<f8").reshape(len(wavelengths), len(ENHANCEMENTS_PPM_M))
    return wavelengths, radiance


def planck(nm: np.ndarray) -> np.ndarray:
    """Return the shape of a black body's spectrum at the sun's temperature."""
    return nm**-5.0 / np.expm1(1.438776877e7 / (nm * SUN_KELVIN))


def rows_of(centre: np.ndarray, width: np.ndarray, folder: Path) -> list[list[float]]:
    """Return [wavelength, fwhm, air, depth at each enhancement above 0] of each band."""
    nm, radiance = read_lut(folder)
    step = np.gradient(nm)
    shape = radiance[:, 0] / planck(nm)
    # Where the air is clearest of all, it lets through nine tenths.
    shape *= 0.9 / np.quantile(shape, 0.999)
    rows = []
    for middle, fwhm in zip(centre, width, strict=True):
        depths = np.zeros(len(ENHANCEMENTS_PPM_M) - 1)
        if middle - 2 * fwhm > nm[0]:
            near = np.abs(nm - middle) < 3.0 * fwhm
            response = np.exp(-4.0 * np.log(2.0) * ((nm[near] - middle) / fwhm) ** 2) * step[near]
            signal = response @ radiance[near]
            depths = -np.log(signal[1:] / signal[0])
            weight = response * planck(nm[near])
            air = float((weight @ shape[near]) / weight.sum())
        else:
            # Rayleigh scattering and aerosol take from the short waves.
            air = 0.93 * float(np.exp(-0.12 * (550.0 / middle) ** 4 - 0.12 * (550.0 / middle)))
            for at, half, depth in WATER:
                air *= 1.0 - depth * float(np.exp(-(((middle - at) / half) ** 2)))
        rows.append([middle, fwhm, max(air, 1e-4), *np.maximum(depths, 0.0)])
    return rows


def main() -> None:
    """Write the tables beside the package's other data."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    source = Path(sys.argv[1])
    data = Path(__file__).parents[1] / "geostack_pipeline" / "data"
    noise = np.loadtxt(source / "emit_noise.txt")
    widths = 8.4 + 0.4 * (noise[:, 0] - noise[0, 0]) / (noise[-1, 0] - noise[0, 0])
    depth_names = [f"depth_{node}" for node in ENHANCEMENTS_PPM_M[1:]]
    header = [
        "# Bands of {} in the sandbox. wavelength, fwhm: nm. air: share of light passed, down and up.",
        "# depth_N: optical depth of N ppm m of added methane along the look-up table's light path (air mass 2).",
        "# Made by scripts/build_sandbox_spectral_tables.py; sources in sandbox_spectrometers.LICENSE.",
    ]

    def write(name: str, title: str, rows: list[list[float]], more: list[str]) -> None:
        lines = [
            header[0].format(title),
            *header[1:],
            ",".join(["wavelength", "fwhm", "air", *depth_names, *more]),
        ]
        for row in rows:
            head = [
                f"{row[0]:.6f}",
                f"{row[1]:.5f}",
                f"{row[2]:.5f}",
                *(f"{value:.6f}" for value in row[3:9]),
            ]
            lines.append(",".join([*head, *(f"{value:.8g}" for value in row[9:])]))
        (data / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    emit = rows_of(noise[:, 0], widths, source)
    write(
        "sandbox_emit.csv",
        "EMIT",
        [[*row, *noise[i, 1:4]] for i, row in enumerate(emit)],
        ["noise_a", "noise_b", "noise_c"],
    )
    item = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    bands = item["assets"]["image"]["eo:bands"]
    centre = np.array([band["center_wavelength"] for band in bands])
    fwhm = np.array([band["full_width_half_max"] for band in bands])
    write("sandbox_enmap.csv", "EnMAP", rows_of(centre, fwhm, source), [])
    attribution = (
        "sandbox_emit.csv: noise coefficients and band centres are those of instrument_noise_parameters in emit-ghg\n"
        "(https://github.com/emit-sds/emit-ghg, Apache-2.0, Copyright California Institute of Technology).\n"
        "sandbox_enmap.csv: band centres and widths are those of the metadata of EnMAP L2A products (DLR).\n"
        "The optical depths of methane and the air above 1400 nm in both are derived from ch4.lut of mag1c\n"
        "(https://github.com/markusfoote/mag1c), whose licence follows.\n\n"
    )
    licence = (source / "ch4.lut.LICENSE-BSD3").read_text(encoding="utf-8")
    (data / "sandbox_spectrometers.LICENSE").write_text(attribution + licence, encoding="utf-8")


if __name__ == "__main__":
    main()
