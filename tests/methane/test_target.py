"""Unit absorption of methane: against mag1c's own numbers, its scaling, and a user's own tables."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geostack_pipeline.errors import GeostackError, SettingsError
from geostack_pipeline.methane.noise import emit_noise
from geostack_pipeline.methane.target import built_in, read_target, unit_absorption

_NUMBERS = (
    -0.00278736, -0.00719244, -0.01633043, -0.03111567, -0.05545398, -0.08266093, -0.09661387, -0.0909422,
    -0.062052, -0.04774893, -0.32999268, -0.42777442, -0.1219678, -0.19501026, -0.28723302, -0.42826665,
    -0.52955724, -0.62127367, -0.69009346, -0.75908703, -0.68837714, -0.70708198, -0.79415449, -1.04107641,
    -1.12752425, -0.62345294, -0.83723953, -0.94378231, -0.6876594, -1.06414254, -1.45511635, -1.30513618,
    -0.72722989, -0.92352127, -1.34663233, -0.71864031, -0.71376433, -0.65473225, -0.4998767, -0.29084515,
    -0.2596445, -0.29102665, -0.17598634, -0.13397312, -0.11944147, -0.08782895, -0.05877425, -0.04585473,
    -0.02951097, -0.02323655,
)  # fmt: skip
"""What generate_template_from_bands of mag1c 1.2.0 gives for EMIT's bands from 2122 to 2488 nm, 8.8 nm wide."""


def _bands():
    nm = emit_noise().wavelength
    return nm[(nm >= 2122) & (nm <= 2488)]


def test_the_target_is_that_of_mag1c_but_for_the_spacing_of_its_samples():
    bands = _bands()
    ours = unit_absorption(bands, np.full(bands.size, 8.8), air_mass=2.0) * 1e5
    # mag1c counts samples that are even in wavenumber as if they were in wavelength: 0.3 % where the curve is steep.
    assert np.allclose(ours, _NUMBERS, rtol=4e-3)
    assert np.abs(ours - np.array(_NUMBERS)).max() < 2e-3


def test_absorption_grows_with_the_light_path():
    bands = _bands()
    two, three = (unit_absorption(bands, np.full(bands.size, 9.0), air_mass=each) for each in (2.0, 3.0))
    assert np.allclose(three, 1.5 * two, rtol=1e-12)
    assert (two < 0).all()


def test_a_wide_band_is_the_mean_of_the_narrow_ones_in_it():
    """Seen through 12 nm, or through 8 nm and then sqrt(12^2 - 8^2) nm: the table holds convolved radiances."""
    centre = np.array([2300.0])
    steps = np.linspace(-20, 20, 401)
    sigma = np.sqrt(12.0**2 - 8.0**2) / np.sqrt(8 * np.log(2))
    weight = np.exp(-(steps**2) / (2 * sigma**2))
    table = built_in()
    s = np.sqrt(8.0**2 - 4.0) / np.sqrt(8 * np.log(2))
    response = np.exp(-((table.wavelength[:, None] - centre - steps) ** 2) / (2 * s**2))
    narrow = (response / response.sum(axis=0)).T @ table.radiance
    seen = weight @ narrow / weight.sum()
    slope = np.polyfit(table.enhancement, np.log(seen), 1)[0]
    assert unit_absorption(centre, [12.0], air_mass=2.0)[0] == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(
    ("bands", "fwhm", "air_mass", "said"),
    [
        ([1650.0], [9.0], 2.0, "does not reach"),
        ([2300.0], None, 2.0, "widths"),
        ([2300.0], [np.nan], 2.0, "widths"),
        ([2300.0], [1.0], 2.0, "narrower"),
        ([2300.0], [9.0], np.nan, "light path"),
    ],
)
def test_what_cannot_be_made_is_said(bands, fwhm, air_mass, said):
    with pytest.raises(GeostackError, match=said):
        unit_absorption(bands, fwhm, air_mass=air_mass)


def test_a_table_of_ones_own_is_used_as_it_is(tmp_path):
    bands = _bands()
    mine = unit_absorption(bands, np.full(bands.size, 8.8), air_mass=2.7)
    file = tmp_path / "mine.csv"
    rows = "\n".join(f"{nm + 0.05:.3f},{value:.6e}" for nm, value in zip(bands, mine, strict=True))
    file.write_text(f"# of this very scene\nwavelength_nm,unit_absorption_per_ppm_m\n{rows}\n")
    table = read_target(file)
    fwhm = np.full(bands.size, 8.8)
    assert np.allclose(unit_absorption(bands, fwhm, air_mass=2.1, table=table), mine, rtol=1e-5)
    file.write_text(f"# air_mass: 2.7\nwavelength_nm,unit_absorption_per_ppm_m\n{rows}\n")
    scaled = read_target(file)
    assert scaled.digest != table.digest
    assert np.allclose(unit_absorption(bands, fwhm, air_mass=5.4, table=scaled), 2 * mine, rtol=1e-5)
    with pytest.raises(GeostackError, match="lacks bands"):
        unit_absorption(bands + 30.0, fwhm, air_mass=2.1, table=table)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "rows"),
        ("a,b\n1,2\n3,4\n", "columns a, b"),
        ("wavelength_nm,unit_absorption_per_ppm_m\n2300,-1e-5\n2290,-1e-5\n", "do not rise"),
        ("wavelength_nm,unit_absorption_per_ppm_m\n2.30,-1e-5\n2.31,-1e-5\n", "nm"),
        ("wavelength_nm,unit_absorption_per_ppm_m\n2300,-1.4\n2310,-1.2\n", "per ppm m"),
        ("wavelength_nm,unit_absorption_per_ppm_m\n2300,1e-5\n2310,1e-5\n", "negative"),
        ("wavelength_nm,unit_absorption_per_ppm_m\n2300,x\n2310,1e-5\n", "no number"),
        ("wavelength_nm,unit_absorption_per_ppm_m\n2300,nan\n2310,1e-5\n", "not finite"),
        ("# air_mass: 400\nwavelength_nm,unit_absorption_per_ppm_m\n2300,-1e-5\n2310,-1e-5\n", "air_mass"),
        ("wavelength_nm,radiance,share_500\n2300,1.0,0.0\n2310,1.0,0.9\n", "not positive"),
        ("wavelength_nm,radiance,share_500,share_400\n2300,1,1,1\n2310,1,1,1\n", "do not rise"),
    ],
)
def test_a_table_that_is_none_is_refused_with_what_was_found(tmp_path, text, said):
    file = tmp_path / "mine.csv"
    file.write_text(text)
    with pytest.raises(SettingsError, match=said):
        read_target(file)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_target(tmp_path / "none.csv")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="wavelength_nm,unit_absorption_per_ppm_m\n#: 0123456789.-e", max_size=200))
def test_any_text_is_a_table_or_a_settings_error(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_text(text)
    with contextlib.suppress(SettingsError):
        read_target(file)
