"""Build the table of EMIT's noise from that of emit-ghg, for the bands around 2.3 um.

Usage::

    python scripts/build_emit_noise_table.py emit_noise.txt geostack_pipeline/data/emit_noise.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

FIRST_NM = 2050.0

HEADER = """\
# Noise of EMIT: standard deviation of the radiance L of a band, abs(a * sqrt(b + L) + c), uW cm-2 sr-1 nm-1.
# schema: geostack-noise/1
# Derived from: emit-sds/emit-ghg, instrument_noise_parameters/emit_noise.txt (Apache-2.0): bands beyond 2050 nm.
# Built by scripts/build_emit_noise_table.py
wavelength_nm,a,b,c
"""


def build(source: Path) -> str:
    """Return the table as text."""
    rows = np.genfromtxt(source)
    return HEADER + "".join(
        f"{nm:.5f},{a:.8f},{b:.8f},{c:.8f}\n" for nm, a, b, c in rows[rows[:, 0] >= FIRST_NM, :4]
    )


def main() -> None:
    """Write the table named on the command line."""
    parser = argparse.ArgumentParser(description="Build the table of EMIT's noise.")
    parser.add_argument("source", type=Path, help="emit_noise.txt of emit-ghg")
    parser.add_argument("out", type=Path, help="the table to write")
    arguments = parser.parse_args()
    arguments.out.write_text(build(arguments.source))


if __name__ == "__main__":
    main()
