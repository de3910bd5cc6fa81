"""The sandbox's forward model against its own tables read by NumPy, against conservation laws, and against its noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import geostack_pipeline
from geostack_pipeline.sandbox.world import gas
from geostack_pipeline.sandbox.world.confusers import Confusers
from geostack_pipeline.sandbox.world.detector import ELEMENT_GAIN, GAIN, SMILE_NM, detector
from geostack_pipeline.sandbox.world.grids import site_centre
from geostack_pipeline.sandbox.world.light import light_in
from geostack_pipeline.sandbox.world.noise import generator
from geostack_pipeline.sandbox.world.plan import SurfaceMix
from geostack_pipeline.sandbox.world.plume import enhancement
from geostack_pipeline.sandbox.world.scenario import scenario
from geostack_pipeline.sandbox.world.simple_filter import enhancement as filtered
from geostack_pipeline.sandbox.world.simple_filter import unit_absorption
from geostack_pipeline.sandbox.world.spectra import bands_of
from geostack_pipeline.sandbox.world.surfaces import MATERIALS, absorbed, in_sentinel2

DATA = Path(geostack_pipeline.__file__).parent / "data"
NODES = np.array([500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16000.0])


def table(name: str) -> np.ndarray:
    return np.loadtxt(DATA / name, delimiter=",", skiprows=4)


def passed(column, *, air_mass=2.0, shift=0.0, overlap=1.0) -> np.ndarray:
    """What the model lets through of light 1, for columns of any number: (len, bands)."""
    columns = np.atleast_2d(np.asarray(column, np.float32)).T
    bands = bands_of("emit")
    values = np.ones((*columns.shape, len(bands.wavelength)), np.float32)
    light_in(bands).absorb(values, columns, air_mass, np.array([shift]), overlap=overlap)
    return values[:, 0]


def test_methane_absorbs_as_the_table_says():
    rows = table("sandbox_emit.csv")
    assert np.abs(passed(NODES) - np.exp(-rows[:, 3:9].T)).max() < 1e-6
    # Light that goes through twice as much sees twice the column; a broader line takes a share more.
    assert np.abs(passed(NODES / 2, air_mass=4.0) - passed(NODES)).max() < 1e-6
    assert np.abs(passed(NODES, overlap=1.02) - np.exp(-1.02 * rows[:, 3:9].T)).max() < 1e-6
    # In between it is monotone, and it saturates: twice the methane takes less than twice the depth.
    strongest = int(np.argmax(rows[:, 8]))
    depth = -np.log(passed(np.linspace(0.0, 40_000.0, 81))[:, strongest].astype(np.float64))
    assert (np.diff(depth) > 0).all()
    assert depth[32] < 1.97 * depth[16]


def band_average(shift: float, *columns: np.ndarray) -> list[np.ndarray]:
    """Averages over EMIT's bands of columns of the fine table, by the plain sum, after a shift of the centres."""
    rows, bands = table("sandbox_light.csv"), bands_of("emit").between(2040.0, 2480.0)
    out = []
    for values in columns:
        averages = []
        for centre, fwhm in zip(bands.wavelength, bands.fwhm, strict=True):
            sigma = np.sqrt(fwhm**2 - 9.0) / (2.0 * np.sqrt(2.0 * np.log(2.0)))
            weight = np.exp(-0.5 * ((rows[:, 0] - centre - shift) / sigma) ** 2)
            averages.append((weight * values).sum() / weight.sum())
        out.append(np.array(averages))
    return out


def test_a_shift_of_the_bands_changes_methane_as_the_fine_table_says():
    rows = table("sandbox_light.csv")
    kept = (bands_of("emit").wavelength >= 2040.0) & (bands_of("emit").wavelength <= 2480.0)
    for shift in (0.0, 0.2):
        without, with_gas = band_average(shift, rows[:, 1], rows[:, 1] * np.exp(-rows[:, 6]))
        depth = -np.log(passed(4000.0, shift=shift)[0, kept].astype(np.float64))
        # The narrow smoothing of the fine table and the interpolation in steps of a nanometre cost little.
        assert depth == pytest.approx(-np.log(with_gas / without), abs=0.0012)
    moved = -np.log(passed(4000.0, shift=0.2)[0, kept]) + np.log(passed(4000.0)[0, kept])
    assert np.abs(moved).max() > 5e-4


def test_the_smile_is_found_again_in_the_lines_of_the_air():
    """As an instrument team would: each column's spectrum, against that of the middle, over what a shift would change."""
    planned = scenario(41, lines=160, samples=33, window_nm=(2040.0, 2480.0), plumes=0)
    planned = replace(planned, cloud_share=0.0, site=replace(planned.site, mix=SurfaceMix()))
    view = planned.view
    spectra = np.log(view.true_radiance().mean(axis=0, dtype=np.float64))
    rows = table("sandbox_light.csv")
    vapour = np.exp(-rows[:, 2])
    lower, here, upper = (np.log(band_average(shift, rows[:, 1], vapour)) for shift in (-0.1, 0.0, 0.1))
    per_nm = (upper - lower) / 0.2
    excess = float(view.vapour_excess.mean())
    wanted = (per_nm[0] + excess * per_nm[1]) * view.air_mass / 2.0
    # Brightness, slope and minerals of the ground, and the amount of water vapour, differ between columns as well.
    nm = np.linspace(-1.0, 1.0, len(wanted))
    known = np.stack([wanted, here[1], *(nm**power for power in range(8))], axis=1)
    found = np.linalg.lstsq(known, (spectra - spectra[16]).T, rcond=None)[0][0]
    assert view.detector.shift_nm[16] == 0.0
    assert view.detector.shift_nm.max() == pytest.approx(SMILE_NM, abs=0.05)
    assert np.abs(found - view.detector.shift_nm).max() < 0.03
    assert np.corrcoef(found, view.detector.shift_nm)[0, 1] > 0.98


def test_noise_and_stripes_are_those_of_the_model():
    rows = table("sandbox_emit.csv")
    chosen = [40, 120, 200, 260]
    noise = rows[chosen, 9:12]
    one = detector(7, "a granule", 400, noise)
    level = np.array([6.0, 2.0, 0.6, 0.2], np.float32)
    values = one.measured(np.broadcast_to(level, (600, 400, 4)).astype(np.float32), generator(7, "x")).astype(
        np.float64
    )
    for band in range(4):
        a, b, c = noise[band]
        at = level[band] * one.gain[:, band]
        expected = np.abs(a * np.sqrt(b + at) + c)
        spread = values[..., band].std(axis=0) / expected
        assert spread.mean() == pytest.approx(1.0, abs=0.01)
        assert (values[..., band].mean(axis=0) - at).std() < 1.3 * expected.mean() / np.sqrt(600)
    assert one.gain.mean(axis=1).std() == pytest.approx(GAIN, rel=0.15)
    assert (one.gain / one.gain.mean(axis=1, keepdims=True)).std(axis=0).mean() == pytest.approx(
        ELEMENT_GAIN, rel=0.2
    )
    assert one.shift_nm[200] == pytest.approx(0.0, abs=0.01)


def test_no_methane_is_lost_between_the_ground_and_the_detectors():
    planned = scenario(2002, lines=200, samples=200, plumes=2)
    inside = tuple(
        replace(each, east_m=200.0 * n, north_m=-300.0 * n) for n, each in enumerate(planned.plumes)
    )
    planned = replace(planned, plumes=inside)
    view, pair = planned.view, planned.sentinel2()
    patch = planned.swath.patch(view.ground.grid)
    for plume, column, coarse in zip(inside, view.columns, pair.columns, strict=True):
        ground = enhancement(planned.seed, planned.site, patch, plume, when=planned.start.isoformat())
        kilograms = ground.sum(dtype=np.float64) * 100.0 / gas.ppm_m_per_kg_m2()
        assert column.sum(dtype=np.float64) * 3600.0 / gas.ppm_m_per_kg_m2() == pytest.approx(
            kilograms, rel=0.01
        )
        assert coarse.sum(dtype=np.float64) * 400.0 / gas.ppm_m_per_kg_m2() == pytest.approx(
            kilograms, rel=0.01
        )
        # A plume that began so long ago that it reaches so far holds rate times time; gusts and its end vary that.
        reach = 1.35 * planned.site.half_size_m
        assert kilograms == pytest.approx(plume.rate_kg_h / 3600.0 * reach / plume.wind_m_s, rel=0.35)


def test_a_seed_is_a_granule_and_another_seed_another():
    one, again, other = (scenario(seed, lines=48, samples=40).render() for seed in (11, 11, 12))
    assert one.plumes == again.plumes
    for name in ("radiance", "column", "labels", "clouds"):
        assert np.array_equal(getattr(one, name), getattr(again, name)), name
    for name, layer in one.level2.items():
        assert np.array_equal(layer, again.level2[name], equal_nan=True)
    assert not np.array_equal(one.radiance, other.radiance)
    assert one.radiance.shape == (48, 40, len(one.bands.wavelength))
    assert one.radiance.dtype == one.column.dtype == np.float32
    assert np.isfinite(one.radiance).all()


def test_scenarios_cover_what_they_promise():
    planned = [scenario(seed, lines=512, samples=96, plumes_per_km2=0.022) for seed in range(60)]
    rates = np.array([plume.rate_kg_h for each in planned for plume in each.plumes])
    winds = np.array([plume.wind_m_s for each in planned for plume in each.plumes])
    # Poisson's scatter of 60 granules of 177 km2, four standard deviations.
    expected = 60 * 512 * 96 * 0.0036 * 0.022
    assert len(rates) == pytest.approx(expected, abs=4.0 * expected**0.5)
    assert 100.0 <= rates.min() < 200.0
    assert 8_000.0 < rates.max() <= 12_000.0
    # Half the leaks lie below the middle of the logarithmic scale.
    assert np.median(np.log(rates)) == pytest.approx(np.log(np.sqrt(100.0 * 12_000.0)), abs=0.5)
    assert 1.5 <= winds.min() < 2.5
    assert 6.5 < winds.max() <= 8.0
    assert 0.2 < np.mean([each.cloud_share > 0.0 for each in planned]) < 0.8
    assert all(each.sun.zenith_deg < 75.0 for each in planned)


def test_materials_absorb_where_they_should():
    nm = np.arange(1600.0, 2500.0, 1.0)
    for name, centre in (
        ("carbonate", 2343),
        ("magnesium", 2315),
        ("plastic", 2310),
        ("tar", 2310),
        ("solar", 2310),
    ):
        taken = absorbed(name, nm)
        near = (nm > centre - 25) & (nm < centre + 25)
        assert nm[near][np.argmax(taken[near])] == pytest.approx(centre, abs=6), name
        assert taken.min() >= 0.0
    for name in ("plastic", "tar", "solar"):
        assert nm[nm < 1900][np.argmax(absorbed(name, nm)[nm < 1900])] == pytest.approx(1730, abs=5)
    for name in MATERIALS:
        assert all(0.0 < value < 0.75 for value in in_sentinel2(name).values())
    assert in_sentinel2("water")["B12"] < 0.01


def test_spectrometer_and_sentinel2_see_one_ground():
    planned = scenario(2008, lines=128, samples=96, window_nm=(1560.0, 2300.0), plumes=0)
    view = planned.view
    tile = view.ground.below(planned.swath.patch(view.ground.grid))
    half = planned.swath.patch(view.ground.grid).coarser(2)
    nm = view.bands.wavelength
    assert max(cover.max() for cover in view.covers.values()) > 0.5
    assert sum(view.covers.values()).max() < 1.0 + 1e-5
    for band, first, last in (("B11", 1568, 1660), ("B12", 2115, 2290)):
        mean = view.surface[..., (nm > first) & (nm < last)].mean(axis=-1)
        other = planned.swath.sample(tile.reflectance[band], half)
        ratio = mean / other
        assert np.median(ratio) == pytest.approx(1.0, abs=0.08)
        assert np.corrcoef(mean.ravel(), other.ravel())[0, 1] > 0.97


def test_flares_shine_and_are_flagged():
    planned = scenario(2001, lines=128, samples=128, plumes=0)
    site = replace(planned.site, mix=replace(planned.site.mix, flares=40))
    view = replace(planned, site=site).view
    flares = Confusers(planned.seed, site, view.ground.grid).flares
    assert len(flares) == 40
    assert len(view.flames) > 5
    flagged = view.masks(view.radiance())["flare"]
    x, y = site_centre(site)
    assert (planned.swath.x, planned.swath.y) == (x, y)
    strongest = max(view.flames, key=lambda flame: flame.shine[-1])
    assert flagged[round(strongest.line), round(strongest.sample)]
    assert flagged.sum() < 9 * len(view.flames)
    # A black body of 1800 K: 1 m2 of it gives a pixel of 60 m about 1.6 uW cm-2 sr-1 nm-1 at 2389 nm (Planck by hand).
    shine = replace(flares[0], kelvin=1800.0, area_m2=1.0).radiance(np.array([2389.0]))[0] / 3600.0
    assert shine == pytest.approx(
        1.191043e8 / 2.389**5 / (np.exp(14387.77 / (2.389 * 1800.0)) - 1) * 0.1 / 3600.0, rel=1e-3
    )


def test_the_ground_segment_finds_what_was_planted_in_noise():
    """On a plain ground its filter is a linear estimate: unbiased for a weak gas, and as noisy as it says."""
    bands = bands_of("emit").between(2100.0, 2480.0)
    rng = np.random.default_rng(5)
    lines, samples = 300, 20
    mean = (
        2.0
        * np.exp(-((bands.wavelength - 2000.0) / 400.0))
        * (1.0 + 0.01 * rng.standard_normal((samples, 1)))
    )
    gas_ppm_m = np.zeros((lines, samples))
    gas_ppm_m[rng.random((lines, samples)) < 0.02] = 1500.0
    brightness = 1.0 + 0.1 * rng.standard_normal((lines, samples, 1))
    clean = mean * brightness * np.exp(gas_ppm_m[..., None] * unit_absorption(bands, 2.5))
    a, b, c = bands.noise.T
    radiance = clean + np.abs(a * np.sqrt(b + clean) + c) * rng.standard_normal(clean.shape)
    good = np.ones((lines, samples), bool)
    good[:5] = False
    found = filtered(radiance.astype(np.float32), good, bands, 2.5, bands.noise)
    assert np.isnan(found["CH4ENH"][:5]).all()
    values, inside = found["CH4ENH"][5:], gas_ppm_m[5:] > 0
    assert values[inside].mean() - values[~inside].mean() == pytest.approx(1500.0, rel=0.12)
    assert values[~inside].std() / np.median(found["CH4UNCERT"][5:]) == pytest.approx(1.0, abs=0.15)
    assert np.median(found["CH4SENS"][5:]) == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
def test_a_blurred_filter_finds_about_half():
    """The world is neither trivial nor hopeless: what the plainest good idea reaches, at its best threshold."""
    truth, values, plumes = [], [], 0
    for seed in range(1000, 1060):
        planned = scenario(seed, lines=320, samples=64)
        plumes += len(planned.plumes)
        granule = planned.render()
        enhanced = granule.level2["CH4ENH"]
        known = np.isfinite(enhanced)
        weight = gaussian_filter(known.astype(float), 1.0)
        smooth = gaussian_filter(np.where(known, enhanced, 0.0), 1.0) / np.maximum(weight, 1e-3)
        truth.append(granule.column[known] > 200.0)
        values.append(smooth[known])
    assert plumes > 20
    plume, estimate = np.concatenate(truth), np.concatenate(values)
    order = np.argsort(-estimate)
    right = np.cumsum(plume[order])
    scores = 2.0 * right / (np.arange(1, len(order) + 1) + plume.sum())
    assert 0.4 < scores.max() < 0.6


def test_analysts_notice_strong_plumes_only():
    noticed = {True: [], False: []}
    for seed in (2000, 2001, 2002):
        granule = scenario(seed, lines=128, samples=64, plumes=4).render()
        for number, column in enumerate(granule.columns, start=1):
            outlined = granule.labels == number
            noticed[bool(outlined.any())].append(float(column.max()))
            if outlined.any():
                assert column[outlined].max() > 150.0
                assert (column[outlined] > 20.0).mean() > 0.15  # outlines are some pixels wide of the gas
    assert noticed[True]
    assert np.median(noticed[True]) > 2.0 * np.median(noticed[False] or [0.0])
