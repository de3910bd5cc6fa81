"""Average precision is exact, ties and all, and a resample of granules is what sorting their copies gives."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geostack_pipeline.learning.average_precision import interval, ranking, resamples

pixels = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=25)


def by_definition(pairs: list[tuple[int, bool]]) -> Fraction | None:
    """Sum over thresholds of the gain in recall times precision, in fractions."""
    plumes = sum(truth for _, truth in pairs)
    if not plumes:
        return None
    total, before = Fraction(0), 0
    for level in sorted({score for score, _ in pairs}, reverse=True):
        above = [truth for score, truth in pairs if score >= level]
        hits = sum(above)
        total += Fraction(hits - before, plumes) * Fraction(hits, len(above))
        before = hits
    return total


@settings(max_examples=50)
@given(
    granules=st.lists(pixels, min_size=1, max_size=4),
    times=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_it_is_the_sum_of_precision_over_recall(
    granules: list[list[tuple[int, bool]]], times: list[int]
) -> None:
    scores = [np.array([score for score, _ in one], np.float64) for one in granules]
    truth = [np.array([plume for _, plume in one], bool) for one in granules]
    ranked = ranking(scores, truth)
    once = by_definition([pair for one in granules for pair in one])
    found = ranked.average_precision()[0]
    assert np.isnan(found) if once is None else found == pytest.approx(float(once), abs=1e-12)
    counts = np.array(times[: len(granules)], np.float64)
    copies = [pair for one, n in zip(granules, times, strict=False) for _ in range(n) for pair in one]
    drawn = by_definition(copies)
    found = ranked.average_precision(counts[None])[0]
    assert np.isnan(found) if drawn is None else found == pytest.approx(float(drawn), abs=1e-12)


def test_many_scores_go_through_in_blocks() -> None:
    rng = np.random.default_rng(0)
    score, truth = rng.standard_normal(20_000), rng.random(20_000) < 0.5
    order = np.argsort(-score)
    precision = np.cumsum(truth[order]) / np.arange(1, 20_001)
    expected = precision[truth[order]].mean()
    assert ranking([score], [truth]).average_precision()[0] == pytest.approx(expected, abs=1e-12)


def test_resamples_draw_as_many_granules_as_there_are_and_follow_the_seed() -> None:
    drawn = resamples(7, 50, 3)
    assert drawn.shape == (50, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert np.array_equal(drawn, resamples(7, 50, 3))
    assert not np.array_equal(drawn, resamples(7, 50, 4))
    assert drawn.mean() == pytest.approx(1.0)


def test_an_interval_leaves_out_what_is_not_defined() -> None:
    assert np.isnan(interval(0.5, np.array([np.nan])).low)
    found = interval(0.5, np.array([np.nan, *np.linspace(0.0, 1.0, 1001)]))
    assert (found.low, found.high) == (pytest.approx(0.025), pytest.approx(0.975))
    assert interval(float("nan"), np.array([0.0])).as_dict()["value"] is None
