"""How a methane column dims B11 and B12: the sandbox's own table and light path.

This is a witness against the retrieval and shares no code or table with it: see
``scripts/build_sandbox_ch4_table.py`` for how the table was made, and with what it differs.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib import resources

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from geostack_pipeline.sandbox.world.grids import Floats

TABLE_AIR_MASS_FACTOR = 2.0
"""Light path of the look-up table in vertical columns: its angles are not documented; down and up once."""
MOLAR_MASS_KG = 0.01604
MOLAR_VOLUME_M3 = 22.4e-3
"""At standard conditions, the convention of EMIT's ppm m."""


def ppm_m_per_kg_m2() -> float:
    """Return the enhancement in ppm m of one kilogram of methane per square metre."""
    return 1e6 * MOLAR_VOLUME_M3 / MOLAR_MASS_KG


@lru_cache(maxsize=1)
def _table() -> dict[str, npt.NDArray[np.float64]]:
    text = resources.files("geostack_pipeline").joinpath("data/sandbox_ch4.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def transmittance(
    enhancement_ppm_m: npt.NDArray[np.floating], *, platform: str, band: str, air_mass: float, overlap: float
) -> Floats:
    """Return the share of light that passes a methane column, dimensionless, float32.

    Args:
        enhancement_ppm_m: Vertical column above the background, ppm m.
        platform: ``S2A``, ``S2B`` or ``S2C``.
        band: ``B11`` or ``B12``.
        air_mass: Light path in vertical columns.
        overlap: Factor on the optical depth, around 1: water vapour and pressure are not those of the table.
    """
    table = _table()
    nodes, depths = table["enhancement_ppm_m"], table[f"{platform}_{band}"]
    slant = np.asarray(enhancement_ppm_m, np.float64) * (air_mass / TABLE_AIR_MASS_FACTOR)
    curve = PchipInterpolator(nodes, depths)
    depth = curve(np.minimum(slant, nodes[-1]))
    # Beyond the table the depth keeps growing as a power of the column, as it does at the table's end.
    power = np.log(depths[-1] / depths[-3]) / np.log(nodes[-1] / nodes[-3])
    beyond = slant > nodes[-1]
    depth[beyond] *= (slant[beyond] / nodes[-1]) ** power
    return np.asarray(np.exp(-overlap * depth), np.float32)
