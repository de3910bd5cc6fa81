"""Emission rates: the published formula, its uncertainty against the closed form, and every way to have none."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geostack_pipeline.methane.rates import (
    CALIBRATION_SIGMA,
    EFFECTIVE_WIND,
    UPWIND,
    Rate,
    emission_rate,
    upwind_point,
    with_rate,
)
from geostack_pipeline.methane.wind import WindRecord

BASE = {
    "instrument": "emit",
    "ime_kg": 500.0,
    "ime_sigma_kg": 60.0,
    "area_m2": 4.0e5,
    "wind_m_s": 4.0,
    "wind_sigma_m_s": 0.8,
}


def record(east: float, north: float) -> WindRecord:
    return WindRecord(
        time=datetime(2024, 6, 7, 7, tzinfo=UTC),
        longitude=54.0,
        latitude=38.5,
        east_m_s=east,
        north_m_s=north,
        sigma_m_s=None,
        distance_km=3.0,
    )


@pytest.mark.parametrize(
    ("instrument", "by_hand"),
    # 3600 (a U10 + b) IME / sqrt(area), reckoned by hand: 3600 * 500 / 632.4555 = 2846.0499 per m/s.
    [("emit", 1.87 * 2846.0499), ("enmap", 1.76 * 2846.0499), ("sentinel-2", 1.77 * 2846.0499)],
)
def test_the_formula(instrument: str, by_hand: float) -> None:
    rate = emission_rate(**{**BASE, "instrument": instrument})
    assert isinstance(rate, Rate)
    assert rate.q_kg_h == pytest.approx(by_hand, rel=1e-6)
    assert rate.length_m == pytest.approx(632.4555, rel=1e-6)
    assert rate.u_eff_m_s == pytest.approx(by_hand / 2846.0499, rel=1e-6)


@given(
    instrument=st.sampled_from(sorted(EFFECTIVE_WIND)),
    wind=st.floats(1.0, 12.0),
    wind_share=st.floats(0.0, 0.3),
    mass=st.floats(10.0, 5000.0),
    mass_share=st.floats(0.0, 0.3),
)
def test_sigma_is_that_of_a_product_of_independent_numbers(
    instrument, wind, wind_share, mass, mass_share
) -> None:
    rate = emission_rate(
        instrument=instrument,
        ime_kg=mass,
        ime_sigma_kg=mass_share * mass,
        area_m2=1e6,
        wind_m_s=wind,
        wind_sigma_m_s=wind_share * wind,
    )
    assert isinstance(rate, Rate)
    fit = EFFECTIVE_WIND[instrument]
    relative = [fit.slope * wind_share * wind / rate.u_eff_m_s, mass_share, CALIBRATION_SIGMA]
    # Var(XYZ) of independent X, Y, Z: the product of (1 + relative variance), less one.
    exact = rate.q_kg_h * math.sqrt(math.prod(1.0 + part**2 for part in relative) - 1.0)
    assert rate.sigma_kg_h == pytest.approx(exact, rel=0.03)
    assert rate == emission_rate(
        instrument=instrument,
        ime_kg=mass,
        ime_sigma_kg=mass_share * mass,
        area_m2=1e6,
        wind_m_s=wind,
        wind_sigma_m_s=wind_share * wind,
    )


def test_a_wind_that_states_no_uncertainty_is_half_uncertain() -> None:
    bare = emission_rate(**{**BASE, "wind_sigma_m_s": None})
    told = emission_rate(**{**BASE, "wind_sigma_m_s": 2.0})
    assert bare == told


def test_a_mass_without_uncertainty_gives_a_rate_without_one() -> None:
    rate = emission_rate(**{**BASE, "ime_sigma_kg": None})
    assert isinstance(rate, Rate)
    assert rate.sigma_kg_h is None
    assert rate.q_kg_h > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wind_m_s": 0.3}, "calm: 0.30 m/s is below 0.5 m/s"),
        ({"instrument": "prisma"}, "prisma"),
        ({"instrument": ""}, "not named"),
        ({"ime_kg": 0.0}, "no positive mass"),
    ],
)
def test_no_rate_says_why(change, words) -> None:
    assert words in emission_rate(**{**BASE, **change})


@pytest.mark.parametrize("to_deg", range(0, 360, 30))
def test_a_plume_begins_at_its_upwind_end(to_deg: int) -> None:
    angle = math.radians(to_deg)
    scale = math.cos(math.radians(38.5))
    t = np.linspace(0.0, 0.03, 40)
    # A cone that opens downwind, in degrees.
    line = np.stack([54.0 + t * math.sin(angle) / scale, 38.5 + t * math.cos(angle)], axis=1)
    cone = shapely.union_all(
        [shapely.Point(xy).buffer(0.0003 + 0.2 * d) for xy, d in zip(line, t, strict=True)]
    )
    longitude, latitude = upwind_point(
        shapely.to_wkb(cone), record(4.0 * math.sin(angle), 4.0 * math.cos(angle))
    )
    off = math.hypot((longitude - 54.0) * scale, latitude - 38.5) * 111_195.0
    assert off < 130.0  # the plume is 3.3 km long


def test_a_plume_across_the_antimeridian_begins_at_its_upwind_end() -> None:
    west, east = shapely.box(179.98, 60.0, 180.0, 60.01), shapely.box(-180.0, 60.0, -179.97, 60.01)
    for halves in ([west, east], [east, west]):
        split = shapely.to_wkb(shapely.MultiPolygon(halves))
        assert upwind_point(split, record(3.0, 0.0)) == pytest.approx((179.98, 60.005), abs=2e-3)
        assert upwind_point(split, record(-3.0, 0.0)) == pytest.approx((-179.97, 60.005), abs=2e-3)
        # From the south the whole southern edge is the end, and its middle lies east of the meridian.
        assert upwind_point(split, record(0.0, 3.0)) == pytest.approx((-179.995, 60.0), abs=1e-3)
    beyond = shapely.to_wkb(shapely.box(180.01, 60.0, 180.02, 60.01))
    assert upwind_point(beyond, record(3.0, 0.0))[0] == pytest.approx(-179.99, abs=1e-3)


def test_a_row_keeps_the_wind_even_where_it_gives_no_rate() -> None:
    row = {
        "instrument": "emit", "geometry": shapely.to_wkb(shapely.box(54.0, 38.5, 54.01, 38.51)),
        "ime_kg": 10.0, "ime_sigma_kg": 1.0, "area_m2": 1e5, "source_longitude": 54.005, "source_latitude": 38.505,
        "source_method": "largest smoothed enhancement",
    }  # fmt: skip
    how = {"source": "wind.csv sha256:0", "relative_wind_sigma": 0.5, "calm_m_s": 0.5}
    calm = with_rate(row, record(0.1, 0.2), **how)
    assert calm["rate_missing_reason"].startswith("calm")
    assert calm["wind_speed_m_s"] == pytest.approx(math.hypot(0.1, 0.2))
    assert calm["source_longitude"] == 54.005
    assert "emission_rate_kg_h" not in calm
    none = with_rate(row, "no wind within 1 h", **how)
    assert none["rate_missing_reason"] == "no wind within 1 h"
    assert "wind_source" not in none
    given_ = with_rate(row, record(3.0, 0.0), **how)
    assert given_["rate_missing_reason"] is None
    assert given_["emission_rate_kg_h"] > 0
    assert given_["source_method"] == UPWIND
    assert given_["source_longitude"] == pytest.approx(54.0, abs=1e-3)
    assert given_["wind_from_deg"] == pytest.approx(270.0)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_the_methods_own_uncertainty_is_a_number_of_its_own(share: float) -> None:
    certain = {**BASE, "ime_sigma_kg": 0.0, "wind_sigma_m_s": 0.0}
    rate = emission_rate(**certain, calibration_sigma=share)
    assert isinstance(rate, Rate)
    assert rate.sigma_kg_h == pytest.approx(share * rate.q_kg_h, rel=0.02, abs=1e-9)
