"""Scores of retrievals on maps whose scores are known by counting, and the study on one small granule."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is in the extra `bench`")

from benchmarks.quality_scores import Leak, Map, score


def scene(seed: int, estimate: np.ndarray, column: np.ndarray, *, rate: float = 1000.0) -> Map:
    leak = Leak(rate_kg_h=rate, wind_m_s=3.0, column=column)
    return Map(seed=seed, estimate=estimate, column=column, leaks=[leak], pixel_m=60.0)


def truth() -> np.ndarray:
    column = np.zeros((40, 50), np.float32)
    column[10:14, 10:20] = 1500.0
    return column


def test_a_perfect_map_has_perfect_scores():
    noise = np.random.default_rng(1).normal(0.0, 10.0, (40, 50)).astype(np.float32)
    found = score([scene(0, truth() + noise, truth()), scene(1, truth() - noise, truth())])
    assert found.auprc == found.auprc_strong == found.f1 == [1.0, 1.0]
    assert found.f1_all == 1.0
    assert found.noise_ppm_m == pytest.approx([10.0, 10.0], rel=0.1)
    assert found.bias_ppm_m == pytest.approx([0.0, 0.0], abs=5.0)
    assert found.slope == pytest.approx([1.0, 1.0], abs=0.01)
    assert found.found == [True, True]
    # Q = 3600 (0.36 U + 0.43) IME / sqrt(area), by hand: 40 pixels of 1500 ppm m.
    area = 40 * 3600.0
    kilograms = 1500.0 * area * 1e-6 * 0.01604 / 22.4e-3
    assert found.estimated == pytest.approx(
        [3600.0 * (0.36 * 3.0 + 0.43) * kilograms / np.sqrt(area)] * 2, rel=0.05
    )


def test_false_plumes_and_missed_pixels_are_counted():
    column = truth()
    estimate = np.zeros_like(column)
    estimate[10:14, 10:15] = 1000.0  # half of the plume
    estimate[30:34, 30:35] = 1000.0  # as many pixels of something else
    found = score([scene(0, estimate, column)])
    # Half of what is said is true, half of what is true is said.
    assert found.f1 == [pytest.approx(0.5)]
    assert found.bias_ppm_m == [pytest.approx(-1000.0)]
    assert found.slope == [pytest.approx(1.0 / 3.0)]
    masked = estimate.copy()
    masked[30:34, 30:35] = np.nan
    assert score([scene(0, masked, column)]).f1 == [pytest.approx(2.0 / 3.0)]


def test_the_threshold_for_plumes_allows_one_false_one_per_hundred_square_kilometres():
    rng = np.random.default_rng(3)
    column = np.zeros((300, 300), np.float32)
    column[100:104, 100:110] = 600.0
    estimate = column.copy()
    # Twelve false objects of growing strength on 324 km2: the strongest three may stay.
    for number in range(12):
        row, at = 20 + 20 * number, 200 + int(rng.integers(0, 50))
        estimate[row : row + 3, at : at + 3] = 100.0 * (number + 1)
    found = score([scene(0, estimate, column, rate=500.0)])
    assert 900.0 < found.plume_threshold < 1100.0  # thresholds are tried in steps of a tenth
    assert found.found == [False]
    estimate[100:104, 100:110] = 1100.0
    assert score([scene(0, estimate, column)]).found == [True]


@pytest.mark.slow  # compiles both filters
def test_the_study_knows_all_methods():
    from benchmarks.retrieval_quality import METHODS, maps_of, tables
    from geostack_pipeline.sandbox.world.scenario import scenario

    planned = scenario(2000, lines=128, samples=24, plumes=2)
    maps = maps_of(0, planned)
    assert tuple(maps) == METHODS
    for name, one in maps.items():
        assert one.estimate.shape == one.column.shape, name
        assert one.known.mean() > 0.3, name
        assert len(one.leaks) == 2
    assert maps["CMF"].column.shape == (128, 24)
    assert (maps["MBMP"].estimate[maps["MBMP"].known]).std() > 0.0
    text = tables({name: score([one]) for name, one in maps.items() if (one.column >= 200.0).any()})
    assert all(f"| {name} |" in text for name in METHODS)
