"""Emission rates by the integrated mass enhancement, and where a plume begins when the wind is known.

    Q = 3600 * U_eff * IME / L   [kg/h],   L = sqrt(area),   U_eff = a * U10 + b

U_eff is the effective wind speed, fitted per instrument to large-eddy simulations, because a plume's length is cut by
the noise of the map (Varon et al. 2018, AMT 11, 5673, doi:10.5194/amt-11-5673-2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from geostack_pipeline.methane.wind import WindRecord


@dataclass(frozen=True, kw_only=True)
class EffectiveWind:
    """Coefficients of U_eff = slope * U10 + offset."""

    slope: float
    offset_m_s: float
    origin: str
    """Whose fit it is."""


EFFECTIVE_WIND: Mapping[str, EffectiveWind] = {
    "emit": EffectiveWind(slope=0.36, offset_m_s=0.43, origin="HyperGas, IME of point sources"),
    "enmap": EffectiveWind(slope=0.33, offset_m_s=0.44, origin="HyperGas, IME of point sources"),
    "sentinel-2": EffectiveWind(slope=0.33, offset_m_s=0.45, origin="marss2l"),
}
"""Instrument -> fit."""


def instrument_of(text: str) -> str:
    """Return the key in `EFFECTIVE_WIND` that a description of an instrument begins with, else the description."""
    return next((key for key in EFFECTIVE_WIND if text.casefold().startswith(key)), text)


CALIBRATION_SIGMA = 0.12
"""Relative 1-sigma of what is left when wind and mass are known: turbulence makes plumes of one rate differ.  Varon et
al. 2018 (abstract) state "0.07-0.17 t/h + 5 %-12 % depending on instrument precision (1 %-5 %)" for simulated plumes that
their fit had not seen; the upper end of the share is taken, and the fixed part, which is the instrument's noise, is in
the uncertainty of the mass.  The fits themselves leave less: HyperGas lists residuals of U_eff of 0.05 m/s (EMIT) and
0.04 m/s (EnMAP), 3 % at 3 m/s."""
RELATIVE_WIND_SIGMA = 0.5
"""Relative 1-sigma of a wind that states none, as the Methane Alert and Response System takes for reanalyses."""
CALM_M_S = 0.5
"""Below this the fit holds no more: the plume is a cloud that goes nowhere, and Q would be its offset alone."""
DRAWS = 20_000
SEED = 20_240_601
"""The same draws for every plume: a rate depends on its own numbers only."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """An emission rate."""

    q_kg_h: float
    sigma_kg_h: float | None
    """1-sigma from wind, mass and calibration; None where the uncertainty of the mass is not known."""
    u_eff_m_s: float
    length_m: float
    wind_sigma_m_s: float


def emission_rate(
    *,
    instrument: str,
    ime_kg: float,
    ime_sigma_kg: float | None,
    area_m2: float,
    wind_m_s: float,
    wind_sigma_m_s: float | None,
    relative_wind_sigma: float = RELATIVE_WIND_SIGMA,
    calm_m_s: float = CALM_M_S,
    calibration_sigma: float = CALIBRATION_SIGMA,
) -> Rate | str:
    """Return the emission rate, or why there is none.

    Wind, mass and calibration are drawn independently from normal distributions (wind and mass not below zero), `DRAWS`
    times from `SEED`; sigma is the standard deviation of the rates.
    """
    fit = EFFECTIVE_WIND.get(instrument)
    if fit is None:
        return f"no effective wind speed is known for the instrument {instrument or 'that is not named'}"
    if wind_m_s < calm_m_s:
        return f"calm: {wind_m_s:.2f} m/s is below {calm_m_s:g} m/s"
    if not (ime_kg > 0.0 and area_m2 > 0.0):
        return "the plume has no positive mass"
    length = math.sqrt(area_m2)
    u_eff = fit.slope * wind_m_s + fit.offset_m_s
    spread = relative_wind_sigma * wind_m_s if wind_sigma_m_s is None else wind_sigma_m_s
    q = 3600.0 * u_eff * ime_kg / length
    sigma = None
    if ime_sigma_kg is not None:
        draws = np.random.default_rng(SEED).standard_normal((3, DRAWS))
        winds = np.maximum(wind_m_s + spread * draws[0], 0.0)
        masses = np.maximum(ime_kg + ime_sigma_kg * draws[1], 0.0)
        fits = 1.0 + calibration_sigma * draws[2]
        rates = 3600.0 * (fit.slope * winds + fit.offset_m_s) * fits * masses / length
        sigma = float(rates.std(ddof=1))
    return Rate(q_kg_h=q, sigma_kg_h=sigma, u_eff_m_s=u_eff, length_m=length, wind_sigma_m_s=spread)


UPWIND = "most upwind part of the outline"


def upwind_point(outline: bytes, wind: WindRecord) -> tuple[float, float]:
    """Return longitude and latitude where a plume begins: the middle of the outline's most upwind end.

    The end is the outline within a twentieth of the plume's length along the wind, so that a single pixel that
    sticks out sideways moves it little.

    Args:
        outline: WKB in degrees.
        wind: Blows over it.
    """
    shape = _in_one_piece(shapely.from_wkb(outline))
    middle = shape.centroid
    scale = math.cos(math.radians(middle.y))
    points = shapely.get_coordinates(shapely.segmentize(shape, 1e-4))
    local = (points - [middle.x, middle.y]) * [scale, 1.0]
    along = local @ np.array([wind.east_m_s, wind.north_m_s]) / max(wind.speed_m_s, 1e-9)
    reach = float(along.max() - along.min())
    end = points[along <= along.min() + 0.05 * reach]
    longitude = float(end[:, 0].mean())
    # Only what was unwrapped lies beyond: others keep their last bits.
    return (longitude - 360.0 if longitude >= 180.0 else longitude), float(end[:, 1].mean())


def _in_one_piece(shape: Any) -> Any:
    """Return an outline that the antimeridian has split as one shape, its longitudes up to 360 degrees."""
    west, _, east, _ = shape.bounds
    if east - west <= 180.0:
        return shape
    parts = [
        shapely.transform(part, lambda xy: xy + np.array([360.0, 0.0])) if part.bounds[2] < 0.0 else part
        for part in shapely.get_parts(shape)
    ]
    # United, so that the cut along the meridian is no edge of the plume.
    return shapely.union_all(parts)


def with_rate(
    row: Mapping[str, Any],
    wind: WindRecord | str,
    *,
    source: str,
    relative_wind_sigma: float,
    calm_m_s: float,
    calibration_sigma: float = CALIBRATION_SIGMA,
) -> dict[str, Any]:
    """Return a plume row (of :func:`~.plume_table.plume_schema`) with its rate and wind, or with the reason it has none.

    Args:
        row: The plume.
        wind: The wind near it, or why there is none.
        source: Where the wind comes from.
        relative_wind_sigma: For a wind that states no uncertainty.
        calm_m_s: Smallest wind that gives a rate.
        calibration_sigma: Relative 1-sigma of the method itself.
    """
    rated = {**row, "rate_missing_reason": wind if isinstance(wind, str) else None}
    if isinstance(wind, str):
        return rated
    rated |= {
        "wind_speed_m_s": wind.speed_m_s,
        "wind_from_deg": wind.from_deg,
        "wind_sigma_m_s": wind.sigma_m_s,
        "wind_time": wind.time,
        "wind_longitude": wind.longitude,
        "wind_latitude": wind.latitude,
        "wind_distance_km": wind.distance_km,
        "wind_source": source,
    }
    rate = emission_rate(
        instrument=str(row.get("instrument") or ""),
        ime_kg=row["ime_kg"],
        ime_sigma_kg=row["ime_sigma_kg"],
        area_m2=row["area_m2"],
        wind_m_s=wind.speed_m_s,
        wind_sigma_m_s=wind.sigma_m_s,
        relative_wind_sigma=relative_wind_sigma,
        calm_m_s=calm_m_s,
        calibration_sigma=calibration_sigma,
    )
    if isinstance(rate, str):
        return {**rated, "rate_missing_reason": rate}
    longitude, latitude = upwind_point(row["geometry"], wind)
    return {
        **rated,
        "emission_rate_kg_h": rate.q_kg_h,
        "emission_rate_sigma_kg_h": rate.sigma_kg_h,
        "u_eff_m_s": rate.u_eff_m_s,
        "plume_length_m": rate.length_m,
        "wind_sigma_m_s": rate.wind_sigma_m_s,
        "source_longitude": longitude,
        "source_latitude": latitude,
        "source_method": UPWIND,
    }
