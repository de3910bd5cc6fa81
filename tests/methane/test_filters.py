"""Matched filters per detector column against their float64 twins; the twin of mag1c is proven by a benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.filter_twins import cmf_twin, loo_shrinkage, mag1c_twin
from benchmarks.radiance_cube import make_cube
from geostack_pipeline.methane.columns import COLUMNS, METHODS, filter_block, filter_columns
from geostack_pipeline.methane.mag1c import mag1c_column
from geostack_pipeline.methane.noise import emit_noise
from geostack_pipeline.methane.target import unit_absorption

LINES, WIDE = 200, 24
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scene():
    """Radiance (columns, lines, S), good pixels, unit absorption (S,) and noise (3, S)."""
    cube = make_cube(LINES, WIDE, seed=3)
    unit = unit_absorption(cube.wavelength, cube.fwhm, air_mass=2.2)
    good = np.random.default_rng(5).random((WIDE, LINES)) > 0.1
    x = np.ascontiguousarray(cube.radiance.transpose(1, 0, 2))
    return x, good, unit, emit_noise().coefficients(cube.wavelength)


def _run(x, good, unit, noise, method):
    return filter_columns(x, good, np.tile(unit, (len(x), 1)), noise, method=method)


def test_mag1c_agrees_with_float64_to_five_ppm_m_without_a_flip_of_the_support(scene):
    x, good, unit, noise = scene
    found = _run(x, good, unit, noise, "mag1c")
    expected = np.stack([mag1c_twin(x[i], good[i], unit)[0] for i in range(WIDE)])
    assert found.usable.all()
    assert np.array_equal(np.isnan(found.enhancement), ~good)
    difference = found.enhancement[good] - expected[good]
    assert (expected[good] > 0).sum() > 100, "the scene shows nothing"
    assert np.abs(difference).max() <= 5.0
    assert np.sqrt((difference**2).mean()) <= 0.05
    assert np.array_equal(found.enhancement[good] > 0, expected[good] > 0)


@pytest.mark.slow  # compiles a kernel of its own
def test_mag1c_without_64_bit_types_agrees_too(scene):
    """What accelerators compute: CholeskyQR2, all in single precision."""
    x, good, unit, _ = scene
    run = jax.jit(lambda x, good, unit: jax.lax.map(lambda one: mag1c_column(*one, unit), (x, good)))
    found = run(np.where(good[..., None], x, 0), good.astype(np.float32), unit.astype(np.float32))
    expected = np.stack([mag1c_twin(x[i], good[i], unit)[0] for i in range(WIDE)])
    difference = np.asarray(found.enhancement)[good] - expected[good]
    assert found.enhancement.dtype == np.float32
    assert np.abs(difference).max() <= 5.0
    assert np.sqrt((difference**2).mean()) <= 0.05


@pytest.mark.slow  # compiles kernels of its own
@pytest.mark.parametrize("method", METHODS)
def test_all_columns_at_once_as_on_accelerators_agree_too(scene, method, monkeypatch):
    x, good, unit, noise = scene
    mapped = []
    vmap = jax.vmap
    monkeypatch.setattr(jax, "vmap", lambda *given, **more: mapped.append(given) or vmap(*given, **more))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    filter_block.clear_cache()
    try:
        found = _run(x, good, unit, noise, method)
    finally:
        filter_block.clear_cache()
    assert mapped
    assert np.array_equal(np.isnan(found.enhancement), ~good)
    twin = mag1c_twin if method == "mag1c" else cmf_twin
    expected = np.stack([twin(x[i], good[i], unit)[0] for i in range(WIDE)])
    difference = found.enhancement[good] - expected[good]
    if method == "mag1c":
        assert np.abs(difference).max() <= 5.0
        assert np.sqrt((difference**2).mean()) <= 0.05
        # In single precision a pixel at the very edge of the support may end on its other side.
        flipped = (found.enhancement[good] > 0) != (expected[good] > 0)
        assert np.abs(difference[flipped]).max(initial=0.0) <= 1.0
        assert flipped.mean() <= 1e-4
    else:
        assert np.abs(difference).max() <= 1e-3 * np.std(expected[good])


def test_cmf_agrees_with_float64_to_a_thousandth_and_chooses_the_same_shrinkage(scene):
    x, good, unit, noise = scene
    found = _run(x, good, unit, noise, "cmf")
    for i in range(WIDE):
        expected, _, alpha = cmf_twin(x[i], good[i], unit)
        scale = np.nanstd(expected)
        assert np.nanmax(np.abs(found.enhancement[i] - expected)) <= 1e-3 * scale
        assert found.shrinkage[i] == pytest.approx(alpha, rel=1e-5)
    assert np.array_equal(np.isnan(found.enhancement), ~good)


@pytest.mark.parametrize("method", METHODS)
def test_uncertainty_and_sensitivity_follow_their_formulas_in_float64(scene, method):
    x, good, unit, noise = scene
    found = _run(x, good, unit, noise, method)
    for i in range(4):
        spectra = x[i].astype(np.float64)
        if method == "mag1c":
            _, weights, denominator = mag1c_twin(x[i], good[i], unit)
            scaled = unit * 1e5
        else:
            _, weights, _ = cmf_twin(x[i], good[i], unit)
            denominator, scaled = np.where(good[i], 1.0, np.nan), unit
        response = np.abs((spectra * scaled) @ weights)
        sigma = np.abs(noise[0] * np.sqrt(noise[1] + spectra) + noise[2])
        spread = np.sqrt((sigma**2) @ (weights**2)) / response * (1e5 if method == "mag1c" else 1.0)
        inside = good[i]
        assert np.allclose(found.sensitivity[i][inside], (response / denominator)[inside], rtol=2e-3)
        assert np.allclose(found.uncertainty[i][inside], spread[inside], rtol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_misfit_is_the_distance_that_methane_does_not_explain(scene, method):
    x, good, unit, noise = scene
    found = _run(x, good, unit, noise, method)
    for i in range(4):
        spectra = x[i][good[i]].astype(np.float64)
        apart = spectra - spectra.mean(axis=0)
        covariance = loo_shrinkage(spectra)[0] if method == "cmf" else np.cov(spectra.T, ddof=0)
        solved = np.linalg.solve(covariance, apart.T)
        target = unit * spectra.mean(axis=0)
        along = (target @ solved) ** 2 / (target @ np.linalg.solve(covariance, target))
        expected = ((apart.T * solved).sum(axis=0) - along) / (unit.size - 1)
        # mag1c's target is that of the mean without the methane that it found: a little longer, hardly turned.
        assert found.misfit[i][good[i]] == pytest.approx(expected, rel=1e-3 if method == "cmf" else 1e-2)
        assert np.isnan(found.misfit[i][~good[i]]).all()


def test_the_uncertainty_is_the_scatter_over_even_ground():
    """An oracle without a formula: noise alone on one spectrum scatters by the uncertainty times the sensitivity."""
    cube = make_cube(8, 8, seed=1, plumes=0)
    spectrum = cube.radiance.reshape(-1, cube.wavelength.size).mean(axis=0)
    rng = np.random.default_rng(0)
    shape = (16, LINES, spectrum.size)
    # A little brightness of its own gives every column a covariance that is not noise alone.
    clean = spectrum * (1.0 + 0.05 * rng.standard_normal((*shape[:2], 1)))
    x = clean + emit_noise().sigma(clean, cube.wavelength) * rng.standard_normal(shape)
    unit = unit_absorption(cube.wavelength, cube.fwhm, air_mass=2.0)
    found = _run(
        x.astype(np.float32),
        np.ones(shape[:2], bool),
        unit,
        emit_noise().coefficients(cube.wavelength),
        "cmf",
    )
    scatter = (found.enhancement / found.sensitivity).std()
    # The covariance of 200 pixels in 50 bands fits their noise: the scatter within the sample is sqrt(1 - 50 / 200).
    assert scatter == pytest.approx(np.median(found.uncertainty) * np.sqrt(1 - 50 / 200), rel=0.15)


def _spoiled(x, good):
    """Return copies in which the first columns are as bad as detectors get, and what is wrong with each."""
    x, good = x.copy(), good.copy()
    names = []

    def spoil(name):
        names.append(name)
        return len(names) - 1

    i = spoil("no good pixel")
    good[i] = False
    i = spoil("too few good pixels")
    good[i, 60:] = False
    i = spoil("zeros")
    x[i] = 0.0
    i = spoil("constant")
    x[i] = x[i, :1]
    i = spoil("NaN")
    x[i] = np.nan
    i = spoil("infinite")
    x[i] = np.inf
    i = spoil("negative")
    x[i] *= -1.0
    hopeless = len(names)
    i = spoil("a dead band")
    x[i, :, 20] = 0.0
    i = spoil("a band that is constant but for rounding")
    x[i, :, 21] = 1.2345678
    i = spoil("the same band twice")
    x[i, :, 10] = x[i, :, 11]
    i = spoil("some pixels saturated")
    x[i, :20] = 60.0
    i = spoil("single NaN")
    x[i, ::7, 3] = np.nan
    i = spoil("twice the same pixels")
    x[i, LINES // 2 :] = x[i, : LINES - LINES // 2]
    i = spoil("numbers near the end of float32")
    x[i, 5] = 3e38
    return x, good, names, hopeless


@pytest.mark.parametrize("method", METHODS)
def test_bad_columns_are_finite_or_masked_and_leave_the_others_alone(scene, method):
    x, good, unit, noise = scene
    bad, weights, names, hopeless = _spoiled(x, good)
    found = _run(bad, weights, unit, noise, method)
    plain = _run(x, good, unit, noise, method)
    for i, name in enumerate(names):
        assert found.usable[i] == (i >= hopeless) or name.startswith("numbers"), name
        valid = weights[i] & np.isfinite(bad[i]).all(axis=-1) & found.usable[i]
        for field in (*found[:4], found.misfit):
            assert np.array_equal(np.isfinite(field[i]), valid), name
    for before, after in zip(plain[:3], found[:3], strict=True):
        assert np.array_equal(before[len(names) :], after[len(names) :], equal_nan=True)


def test_the_dead_band_is_left_out_exactly(scene):
    x, good, unit, noise = scene
    bad = x.copy()
    bad[:, :, 20] = 0.0
    kept = np.delete(np.arange(unit.size), 20)
    for method, twin in (("mag1c", mag1c_twin), ("cmf", cmf_twin)):
        found = _run(bad, good, unit, noise, method).enhancement
        expected = np.stack([twin(x[i][:, kept], good[i], unit[kept])[0] for i in range(4)])
        assert np.nanmax(np.abs(found[:4] - expected)) < 5.0


def test_a_kernel_is_compiled_once_for_all_granules_of_a_shape(scene):
    x, _, unit, noise = scene
    filter_block.clear_cache()
    for columns, lines in ((24, 200), (3, 190), (1, 130), (24, 256)):
        part = np.resize(x, (columns, lines, x.shape[2]))
        _run(part, np.ones((columns, lines), bool), unit, noise, "cmf")
    assert filter_block._cache_size() == 1
    with pytest.raises(ValueError, match="at most"):
        _run(np.resize(x, (COLUMNS + 1, 8, x.shape[2])), np.ones((COLUMNS + 1, 8), bool), unit, noise, "cmf")


_SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from geostack_pipeline.methane.runtime import prepare
prepare(Path(sys.argv[1]))
import jax
from jax import monitoring
events = []
monitoring.register_event_listener(lambda name, **_: events.append(name))
from geostack_pipeline.methane.columns import filter_columns
data = np.load(sys.argv[2])
out = {}
for method in ("mag1c", "cmf"):
    unit = np.tile(data["unit"], (len(data["x"]), 1))
    found = filter_columns(data["x"], data["good"], unit, data["noise"], method=method)
    np.save(f"{sys.argv[3]}-{method}.npy", np.stack(found[:3]))
print(json.dumps({"devices": len(jax.local_devices()), "hits": sum("cache_hits" in name for name in events)}))
"""


def _elsewhere(folder: Path, name: str, flags: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(folder / "compiled"), str(folder / "in.npz"), str(folder / name)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_four_devices_give_the_answers_of_one_and_kernels_are_found_again(scene, tmp_path):
    x, good, unit, noise = scene
    np.savez(tmp_path / "in.npz", x=x, good=good, unit=unit, noise=noise)
    four = "--xla_force_host_platform_device_count=4"
    assert _elsewhere(tmp_path, "one", "--xla_force_host_platform_device_count=1") == {
        "devices": 1,
        "hits": 0,
    }
    assert _elsewhere(tmp_path, "four", four) == {"devices": 4, "hits": 0}
    assert _elsewhere(tmp_path, "again", four) == {"devices": 4, "hits": 2}
    for method in METHODS:
        one, several, again = (
            np.load(tmp_path / f"{name}-{method}.npy") for name in ("one", "four", "again")
        )
        assert np.array_equal(np.isnan(one), np.isnan(several))
        assert np.allclose(one, several, rtol=1e-5, atol=0.01, equal_nan=True)
        assert np.array_equal(several, again, equal_nan=True)
