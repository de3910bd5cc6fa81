"""Unit absorption of methane in the bands of a spectrometer: what a matched filter looks for.

``s = d ln L / d l``, per ppm m and negative: the relative change of the radiance L of a band with the enhancement l,
as the slope of a least-squares line through ln L at the enhancements of a radiance table (Foote et al. 2020, IEEE TGRS
58(9), 6480, and its program mag1c).  The target of a pixel or column is ``s`` times its mean radiance.

The project's own table (``data/ch4_radiance.csv``) has one light path and one water vapour, both undocumented at their
source.  To first order absorption grows with the light path, so ``s`` is scaled by the air mass of the scene over that
of the table.  Who has radiances or unit absorptions of the very scene gives them as a file (`read_target`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geostack_pipeline.errors import GeostackError, SettingsError
from geostack_pipeline.methane.transmittance import TABLE_AIR_MASS

Floats = NDArray[np.float64]

TABLE_FWHM_NM = 2.0
"""Width of the Gaussians through which the project's own table was made."""
FWHM_TO_SIGMA = 1.0 / (2.0 * np.sqrt(2.0 * np.log(2.0)))
WINDOW_NM = (2122.0, 2488.0)
"""Bands that the filters use, as mag1c does: between two absorptions of water vapour and carbon dioxide."""
MIN_BANDS = 8
"""With fewer bands in the window nothing tells methane from the surface."""
_BUILT_IN = "ch4_radiance.csv"
_SHARE = re.compile(r"share_(\d+(?:\.\d+)?)")
_UNIT = "unit_absorption_per_ppm_m"
_AIR_MASS = re.compile(r"^#\s*air_mass:\s*([0-9.eE+-]+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class TargetTable:
    """Where unit absorptions come from: radiances to be seen through bands, or one value per band of an instrument."""

    name: str
    """File name, for attributes and messages."""
    digest: str
    """sha256 of the file: part of the version of what is computed with it."""
    wavelength: Floats
    """nm, rising, shape (n,)."""
    radiance: Floats | None
    """Shape (n, m); None where the file has unit absorptions."""
    enhancement: Floats | None
    """ppm m, shape (m,), the first is 0."""
    unit: Floats | None
    """Unit absorptions per ppm m, shape (n,); None where the file has radiances."""
    air_mass: float | None
    """Air-mass factor of the table's light path; None: that of the scene, nothing is scaled."""


@cache
def built_in() -> TargetTable:
    """Return the project's own table; reads a file of 74 KB once per process."""
    text = resources.files("geostack_pipeline").joinpath("data", _BUILT_IN).read_text("utf-8")
    return _parse(text, _BUILT_IN, default_air_mass=TABLE_AIR_MASS)


def read_target(path: Path) -> TargetTable:
    """Return a user's own table: comma-separated, ``#`` before comments, a header row, one of two forms.

    * ``wavelength_nm, unit_absorption_per_ppm_m``: one row per band of the instrument, used as it is for bands whose
      centres agree;
    * ``wavelength_nm, radiance, share_<l>, …``: radiances at enhancements of ``<l>`` ppm m as shares of that without,
      through Gaussians of 2 nm, as in ``data/ch4_radiance.csv``; seen through the bands of any instrument.

    A comment ``# air_mass: 2.4`` names the light path that the table was made for; absorption is then scaled to that of
    the scene.  Without it the table is taken to be that of the scene.

    Raises:
        SettingsError: The file is missing, or is no such table; says what was found.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            "the target table cannot be read",
            subject=str(path),
            found=type(error).__name__,
            action="point the setting methane.target at a table (docs/methane.md), or leave it out",
        ) from None
    return _parse(text, path.name, default_air_mass=None)


def unit_absorption(
    wavelength: ArrayLike, fwhm: ArrayLike | None, *, air_mass: float, table: TargetTable | None = None
) -> Floats:
    """Return the unit absorption of bands, shape (S,), float64, per ppm m; negative where methane absorbs.

    Args:
        wavelength: Centres of the bands, nm, shape (S,).
        fwhm: Full widths at half maximum of their Gaussian responses, nm, shape (S,).
        air_mass: Air-mass factor of the scene (1/cos sun zenith + 1/cos view zenith).
        table: Where the numbers come from; None is the project's own.

    Raises:
        GeostackError: The table does not reach a band, a width is missing or less than the table's, or the air mass is
            no number.
    """
    table = table or built_in()
    centre = np.asarray(wavelength, np.float64)
    if not np.isfinite(air_mass) or air_mass <= 0.0:
        raise GeostackError(
            "the light path of the scene is not known",
            subject="target spectrum of methane",
            found=f"air-mass factor {air_mass}",
            action="fetch the observation angles with the radiance",
        )
    scale = 1.0 if table.air_mass is None else air_mass / table.air_mass
    if table.unit is not None:
        return _of_bands(table, centre, fwhm) * scale
    assert table.radiance is not None
    assert table.enhancement is not None
    if fwhm is None or not np.isfinite(np.asarray(fwhm, np.float64)).all():
        raise GeostackError(
            "the widths of the bands are not known",
            subject="target spectrum of methane",
            action="point the setting methane.target at a table with one unit absorption per band",
        )
    width = np.broadcast_to(np.asarray(fwhm, np.float64), centre.shape)
    if (width <= TABLE_FWHM_NM).any():
        raise GeostackError(
            "a band is narrower than the radiance table resolves",
            subject=f"target spectrum of methane from {table.name}",
            found=f"a band of {width.min():.2f} nm",
            action="point the setting methane.target at a table with one unit absorption per band",
        )
    reach = 1.5 * width
    if (centre - reach < table.wavelength[0]).any() or (centre + reach > table.wavelength[-1]).any():
        raise GeostackError(
            "the radiance table does not reach the bands",
            subject=f"target spectrum of methane from {table.name}",
            found=f"bands from {centre.min():.0f} to {centre.max():.0f} nm, the table from "
            f"{table.wavelength[0]:.0f} to {table.wavelength[-1]:.0f} nm",
            action="take bands within the table",
        )
    sigma = np.sqrt(width**2 - TABLE_FWHM_NM**2) * FWHM_TO_SIGMA
    weight = np.exp(-((table.wavelength[:, None] - centre) ** 2) / (2.0 * sigma**2))
    weight *= np.gradient(table.wavelength)[:, None]
    seen = (weight / weight.sum(axis=0)).T @ table.radiance
    offset = table.enhancement - table.enhancement.mean()
    slope: Floats = np.log(seen) @ offset / (offset @ offset)
    return slope * scale


def _of_bands(table: TargetTable, centre: Floats, fwhm: ArrayLike | None) -> Floats:
    """Return the table's own values for bands whose centres agree to a quarter of their width (1 nm without one)."""
    assert table.unit is not None
    nearest = np.abs(table.wavelength[:, None] - centre).argmin(axis=0)
    apart = np.abs(table.wavelength[nearest] - centre)
    allowed = 1.0 if fwhm is None else np.asarray(fwhm, np.float64) / 4.0
    far = np.flatnonzero(~(apart <= allowed))
    if far.size:
        raise GeostackError(
            "the target table lacks bands of the instrument",
            subject=f"target spectrum of methane from {table.name}",
            found=f"no row near {centre[far[0]]:.2f} nm, the next is {apart[far[0]]:.2f} nm away",
            action="give the table one row for each band between 2122 and 2488 nm",
        )
    result: Floats = table.unit[nearest]
    return result


def _parse(text: str, name: str, *, default_air_mass: float | None) -> TargetTable:
    def refused(found: str) -> SettingsError:
        return SettingsError(
            "the target table has not the form of one",
            subject=name,
            found=found,
            action=f"write the columns wavelength_nm and {_UNIT}, or those of data/{_BUILT_IN}",
        )

    rows = list(
        csv.DictReader(io.StringIO("".join(ln for ln in text.splitlines(keepends=True) if ln[0] != "#")))
    )
    if len(rows) < 2:
        raise refused(f"{len(rows)} rows")
    columns = [key for key in rows[0] if key]
    shares = {key: float(found[1]) for key in columns if (found := _SHARE.fullmatch(key))}
    if "wavelength_nm" not in columns or not (_UNIT in columns or ("radiance" in columns and shares)):
        raise refused(f"columns {', '.join(columns)}")

    def column(key: str) -> Floats:
        try:
            values = np.array([float(row[key]) for row in rows])
        except (TypeError, ValueError):
            raise refused(f"something that is no number in the column {key}") from None
        if not np.isfinite(values).all():
            raise refused(f"a value of {key} that is not finite")
        return values

    wavelength = column("wavelength_nm")
    if not (np.diff(wavelength) > 0.0).all():
        raise refused("wavelengths that do not rise")
    if not ((wavelength > 300.0) & (wavelength < 3000.0)).all():
        raise refused(f"wavelengths from {wavelength[0]:g} to {wavelength[-1]:g}; they are in nm")
    said = _AIR_MASS.search(text)
    try:
        air_mass = float(said[1]) if said else default_air_mass
    except ValueError:
        raise refused(f"air_mass {said[1] if said else ''}") from None
    if air_mass is not None and not 1.0 <= air_mass < 20.0:
        raise refused(f"air_mass {air_mass:g}")
    unit = radiance = enhancement = None
    if _UNIT in columns:
        unit = column(_UNIT)
        strongest = float(unit.min())
        if not -1e-3 < strongest < -1e-7 or unit.max() > 1e-7:
            raise refused(
                f"unit absorptions from {strongest:g} to {unit.max():g}; they are per ppm m and negative"
            )
    else:
        base = column("radiance")
        enhancement = np.array([0.0, *shares.values()])
        if not (np.diff(enhancement) > 0.0).all():
            raise refused("enhancements that do not rise")
        radiance = base[:, None] * np.stack([np.ones(len(rows)), *(column(key) for key in shares)], axis=1)
        if (radiance <= 0.0).any():
            raise refused("radiances or shares that are not positive")
    return TargetTable(
        name=name,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        wavelength=wavelength,
        radiance=radiance,
        enhancement=enhancement,
        unit=unit,
        air_mass=air_mass,
    )
