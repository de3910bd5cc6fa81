"""Build the sandbox's spectral tables: ``data/sandbox_emit.csv``, ``data/sandbox_enmap.csv``, ``data/sandbox_light.csv``.

Each row of the first two is a band: centre and full width at half maximum, the light that the air lets through on its
way down and up, and the optical depth of added methane along the look-up table's own light path.  EMIT's rows also
hold the coefficients of its noise.  ``sandbox_light.csv`` holds the same light in steps of a nanometre, for detectors
whose band centres vary across the track, and the optical depth of what else the air holds between 2 and 2.5 um (water
vapour above all).  The sandbox plants plumes with these tables; a retrieval must bring its own.

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


LIGHT_FWHM_NM = 3.0
"""Width to which the light is smoothed before it is sampled: narrower than any band, wider than two steps."""
LIGHT_NM = np.arange(1990.0, 2521.0)


def light_rows(folder: Path) -> list[list[float]]:
    """Return [nm, air, vapour, depth at each enhancement above 0] of the light in steps of a nanometre.

    ``vapour`` is the optical depth of the air's other gases along the table's path: what is left of the air's
    depth without its smooth part and without what methane explains.
    """
    rows = np.array(rows_of(LIGHT_NM, np.full(len(LIGHT_NM), LIGHT_FWHM_NM), folder))
    depth = -np.log(rows[:, 2])
    # The background column of methane, about 14,500 ppm m, absorbs like the largest enhancement of the table.
    methane = rows[:, -1]
    smooth = np.polynomial.Polynomial.fit(LIGHT_NM, methane, 3)(LIGHT_NM)
    inner = (LIGHT_NM > 2215.0) & (LIGHT_NM < 2340.0)
    share = np.polyfit((methane - smooth)[inner], (depth - depth[inner].mean())[inner], 1)[0]
    vapour = np.maximum(depth - max(share, 0.0) * methane, 0.0)
    window = 41
    lowest = np.array([vapour[max(0, i - window) : i + window + 1].min() for i in range(len(vapour))])
    vapour -= np.convolve(
        np.pad(lowest, window, mode="edge"), np.ones(2 * window + 1) / (2 * window + 1), "valid"
    )
    return [
        [row[0], row[2], max(float(extra), 0.0), *row[3:]] for row, extra in zip(rows, vapour, strict=True)
    ]


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
    light = [
        "# Light between 1990 and 2520 nm in the sandbox, smoothed to 3 nm. air: share of light passed, down and up.",
        "# vapour: optical depth of the air's other gases, water vapour above all. depth_N: as in sandbox_emit.csv.",
        "# Made by scripts/build_sandbox_spectral_tables.py; sources in sandbox_spectrometers.LICENSE.",
        ",".join(["wavelength", "air", "vapour", *depth_names]),
        *(
            ",".join(
                [f"{row[0]:.0f}", *(f"{value:.5f}" for value in row[1:3]), *(f"{v:.6f}" for v in row[3:])]
            )
            for row in light_rows(source)
        ),
    ]
    (data / "sandbox_light.csv").write_text("\n".join(light) + "\n", encoding="utf-8")
    attribution = (
        "sandbox_emit.csv: noise coefficients and band centres are those of instrument_noise_parameters in emit-ghg\n"
        "(https://github.com/emit-sds/emit-ghg, Apache-2.0, Copyright California Institute of Technology).\n"
        "sandbox_enmap.csv: band centres and widths are those of the metadata of EnMAP L2A products (DLR).\n"
        "The optical depths of methane and the air above 1400 nm in all three tables are derived from ch4.lut of mag1c\n"
        "(https://github.com/markusfoote/mag1c), whose licence follows.\n\n"
    )
    licence = (source / "ch4.lut.LICENSE-BSD3").read_text(encoding="utf-8")
    (data / "sandbox_spectrometers.LICENSE").write_text(attribution + licence, encoding="utf-8")


if __name__ == "__main__":
    main()
