"""The conversion table: rebuilt from its sources, and its JAX interpolation against NumPy float64."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from methane_scenes import TABLE, table_columns, transmittances

from geostack_pipeline.methane.air_mass import air_mass_factor
from geostack_pipeline.methane.transmittance import (
    TABLE_AIR_MASS,
    band_table,
    enhancement_from_fraction,
    fraction_from_enhancement,
    platform_name,
)

PLATFORMS = ("S2A", "S2B", "S2C")
SCRIPT = Path(__file__).parents[2] / "scripts" / "build_ch4_sentinel2_table.py"


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_ch4_sentinel2_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rebuilt_table_equals_the_carried_one(builder, shared_dir):
    data = shared_dir / "data"
    text = builder.build(data / "ch4.lut", data / "sentinel2_srf_b11_b12.csv")
    carried = TABLE.read_text()
    heads = [[line for line in t.splitlines() if line[0] == "#" or line[0] == "e"] for t in (text, carried)]
    assert heads[0] == heads[1]
    rows = [
        np.array([line.split(",") for line in t.splitlines() if line[0] not in "#e"], dtype=float)
        for t in (text, carried)
    ]
    assert rows[0].shape == rows[1].shape == (89, 7)
    np.testing.assert_allclose(rows[0], rows[1], rtol=0, atol=1.1e-8)


def test_table_at_the_radiances_equals_a_plain_band_sum(shared_dir, builder):
    """Another way to the same numbers: band radiances summed as they are, no optical depth, no interpolation."""
    wavelength, radiance = builder.read_lut(shared_dir / "data" / "ch4.lut")
    curves = builder.read_responses(shared_dir / "data" / "sentinel2_srf_b11_b12.csv")
    columns = table_columns()
    for platform in PLATFORMS:
        for band in ("B11", "B12"):
            response = np.interp(wavelength, *curves[platform][band], left=0, right=0)
            light = np.trapezoid(response[:, None] * radiance, wavelength, axis=0)
            for column, enhancement in enumerate((0, 500, 1000, 2000, 4000, 8000, 16000)):
                row = np.flatnonzero(columns["enhancement_ppm_m"] == enhancement)[0]
                assert columns[f"{platform}_{band}"][row] == pytest.approx(light[column] / light[0], abs=2e-7)


@pytest.mark.parametrize("air_mass", [2.02, 2.3, 3.0])
def test_scaling_the_enhancement_by_the_air_mass_equals_scaling_each_wavelength(
    shared_dir, builder, air_mass
):
    wavelength, radiance = builder.read_lut(shared_dir / "data" / "ch4.lut")
    curves = builder.read_responses(shared_dir / "data" / "sentinel2_srf_b11_b12.csv")
    enhancement = np.array([500.0, 4000.0, 8000.0])
    direct = []
    for band in ("B11", "B12"):
        grid, response = curves["S2A"][band]
        seen = (wavelength >= grid[0]) & (wavelength <= grid[-1])
        tau = builder.optical_depth(radiance[seen], enhancement) * air_mass / TABLE_AIR_MASS
        weight = np.interp(wavelength[seen], grid, response) * radiance[seen, 0]
        direct.append(
            np.trapezoid(weight[:, None] * np.exp(-tau), wavelength[seen], axis=0)
            / np.trapezoid(weight, wavelength[seen])
        )
    expected = direct[1] / direct[0] - 1.0
    found = fraction_from_enhancement(jnp.asarray(enhancement), jnp.float32(air_mass), band_table("S2A"))
    np.testing.assert_allclose(found, expected, rtol=0.01)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_table_is_strictly_monotone_and_physical(platform):
    table = band_table(platform)
    assert np.all(np.diff(table.fraction) > 0)
    assert np.all(np.diff(table.enhancement) < 0)
    assert np.all(table.slope < 0)
    assert table.fraction[table.enhancement == 0.0] == 0.0
    columns = table_columns()
    strong = columns["enhancement_ppm_m"] > 0
    assert np.all(columns[f"{platform}_B12"][strong] < columns[f"{platform}_B11"][strong])
    # 1 mol/m2 is 22,400 ppm m; Varon et al. 2021 give single-pass signals of a few per cent for it.
    assert -0.08 < np.interp(22_400.0, table.enhancement[::-1], table.fraction[::-1]) < -0.025


@pytest.mark.parametrize("platform", PLATFORMS)
def test_inversion_round_trip_against_numpy_float64(platform):
    table = band_table(platform)
    rng = np.random.default_rng(1)
    enhancement = rng.uniform(-15_000, 25_000, 4000)
    air_mass = rng.uniform(2.0, 3.5, 4000)
    t11, t12 = zip(
        *(transmittances(e, platform, a) for e, a in zip(enhancement, air_mass, strict=True)), strict=True
    )
    fraction = np.array(t12) / np.array(t11) - 1.0
    found = enhancement_from_fraction(
        jnp.asarray(fraction, jnp.float32), jnp.asarray(air_mass, jnp.float32), table
    )
    # Linear interpolation of T and of its inverse differ between nodes by h^2/8 of the curvature: some ppm m
    # in the wide steps above 16,000 ppm m.
    assert np.abs(np.asarray(found.enhancement) - enhancement).max() < 12.0
    slant = np.interp(fraction, table.fraction, table.enhancement)
    np.testing.assert_allclose(found.enhancement, slant * TABLE_AIR_MASS / air_mass, rtol=1e-4, atol=0.5)
    assert not np.asarray(found.clipped).any()


def test_slope_is_the_derivative_of_the_conversion():
    table = band_table("S2B")
    fraction = np.array([-0.02, -0.005, 0.0, 0.01])
    step = 2e-4
    ends = [
        enhancement_from_fraction(jnp.asarray(fraction + d), jnp.float32(2.4), table) for d in (-step, step)
    ]
    numeric = (np.asarray(ends[0].enhancement) - np.asarray(ends[1].enhancement)) / (2 * step)
    found = enhancement_from_fraction(jnp.asarray(fraction), jnp.float32(2.4), table)
    np.testing.assert_allclose(found.slope, numeric, rtol=0.02)


def test_outside_the_table_is_clipped_and_marked():
    table = band_table("S2A")
    found = enhancement_from_fraction(
        jnp.asarray([-0.5, 0.5, -0.045, 0.0, np.nan]), jnp.asarray([2.0, 2.0, 2.0, 2.0, 2.0]), table
    )
    assert np.asarray(found.clipped).tolist() == [True, True, False, False, False]
    assert np.asarray(found.extrapolated).tolist() == [True, False, True, False, False]
    assert np.asarray(found.enhancement)[:2].tolist() == [64_000.0, -32_000.0]
    assert np.isnan(found.enhancement[4])


def test_air_mass_factor():
    assert air_mass_factor(0.0, 0.0) == 2.0
    assert air_mass_factor(60.0, 0.0) == pytest.approx(3.0)
    assert np.isnan(air_mass_factor([np.nan, 85.0, 30.0, -1.0], [0.0, 0.0, np.nan, 0.0])).all()


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("sentinel-2a", "S2A"),
        ("Sentinel-2B", "S2B"),
        ("S2C", "S2C"),
        ("sentinel_2c", "S2C"),
        ("landsat-9", None),
        ("", None),
    ],
)
def test_platform_names(name, short):
    assert platform_name(name) == short


def test_the_licence_of_the_source_is_carried():
    text = TABLE.with_suffix(".LICENSE").read_text()
    assert "BSD 3-Clause License" in text
    assert "THIS SOFTWARE IS PROVIDED" in text
    assert "COPE-GSEG-EOPG-TN-15-0007" in text
