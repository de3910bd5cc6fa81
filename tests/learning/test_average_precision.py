"""Average precision is exact, ties and all, and a resample of granules is what sorting their copies gives."""

from __future__ import annotations

import errno
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geostack_pipeline.errors import StorageError
from geostack_pipeline.learning.average_precision import Ranking, interval, ranking, resamples
from geostack_pipeline.learning.pixels import Pixels

some_pixels = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=25)


def ranked_of(
    scores: list[np.ndarray], truth: list[np.ndarray], dtype: type[np.float32 | np.float64] = np.float64
) -> Ranking:
    with Pixels(dtype=dtype) as pixels:
        for one, plume in zip(scores, truth, strict=True):
            pixels.add(one, plume)
        return ranking(pixels)


def in_memory(
    scores: list[np.ndarray], truth: list[np.ndarray], times: np.ndarray
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Average precision of resamples from all pixels at once, float64 throughout, and the curve by one sort of them."""
    plume = [one[mask] for one, mask in zip(scores, truth, strict=True)]
    levels = np.unique(np.concatenate([np.empty(0), *plume]))
    hits = np.zeros((len(scores), len(levels)))
    above = np.zeros_like(hits)
    for granule, (one, own) in enumerate(zip(scores, plume, strict=True)):
        hits[granule] = np.bincount(np.searchsorted(levels, own), minlength=len(levels))
        above[granule] = len(one) - np.searchsorted(np.sort(one), levels, side="left")
    hits, above = hits[:, ::-1], above[:, ::-1]
    gained, before = np.zeros(len(times)), np.zeros(len(times))
    for first in range(0, hits.shape[1], 4096):
        here = times @ hits[:, first : first + 4096]
        reached = before[:, None] + np.cumsum(here, axis=1)
        gained += (here * reached / np.maximum(times @ above[:, first : first + 4096], 1.0)).sum(axis=1)
        before = reached[:, -1]
    every, plumes = np.concatenate(scores).astype(np.float64), np.concatenate(truth)
    order = np.argsort(-every, kind="stable")
    found = np.cumsum(plumes[order])
    ranks = np.unique(np.searchsorted(found, np.linspace(1, found[-1], 200)))
    curve = [(float(found[rank] / found[-1]), float(found[rank] / (rank + 1))) for rank in ranks]
    return gained / (times @ hits.sum(axis=1)), curve


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
    granules=st.lists(some_pixels, min_size=1, max_size=4),
    times=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_it_is_the_sum_of_precision_over_recall(
    granules: list[list[tuple[int, bool]]], times: list[int]
) -> None:
    scores = [np.array([score for score, _ in one], np.float64) for one in granules]
    truth = [np.array([plume for _, plume in one], bool) for one in granules]
    ranked = ranked_of(scores, truth)
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
    assert ranked_of([score], [truth]).average_precision()[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_on_disk_it_is_to_the_bit_what_it_is_in_memory(ties: bool) -> None:
    """Nine granules, of other sizes, two without a plume; more scores than go through at once; 300 resamples."""
    rng = np.random.default_rng(1)
    scores, truth = [], []
    for number in range(9):
        plume = rng.random(2000 + 500 * number) < (0.2 if number % 4 else 0.0)
        score = 1.0 / (1.0 + np.exp(-rng.standard_normal(len(plume)) - plume))
        scores.append((np.round(score, 3) if ties else score).astype(np.float32))
        truth.append(plume)
    assert ties or sum(map(np.sum, truth)) > 4096
    ranked = ranked_of(scores, truth, np.float32)
    times = resamples(9, 300, 5)
    expected, curve = in_memory(scores, truth, times)
    assert ranked.average_precision(times).tobytes() == expected.tobytes()
    once, _ = in_memory(scores, truth, np.ones((1, 9)))
    assert ranked.average_precision().tobytes() == once.tobytes()
    # What is stored is small: 4 bytes per granule and score of a plume pixel, and the scores themselves.
    assert ranked.above.dtype == np.uint32
    assert ranked.hits.nnz <= sum(map(np.sum, truth))
    if not ties:
        assert list(ranked.curve(200)) == curve
    # A threshold has one precision, whatever order equal scores come in.
    backwards = ranked_of([one[::-1] for one in scores], [one[::-1] for one in truth], np.float32)
    assert backwards.curve(200) == ranked.curve(200)
    for recall, precision in ranked.curve(200)[::40]:
        every, plumes = np.concatenate(scores), np.concatenate(truth)
        level = np.sort(every[plumes])[::-1][round(recall * plumes.sum()) - 1]
        assert precision == plumes[every >= level].mean()


@settings(max_examples=60)
@given(
    granules=st.lists(
        st.lists(st.floats(-1e300, 1e300, allow_subnormal=True), max_size=12), min_size=1, max_size=4
    ),
    shares=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6),
)
def test_quantiles_are_to_the_bit_those_of_numpy(granules: list[list[float]], shares: list[float]) -> None:
    with Pixels(dtype=np.float64) as pixels:
        for number, values in enumerate(granules):
            truth = np.arange(len(values)) % 2 == 0
            pixels.add(np.array(values, np.float64), truth if number % 2 else None)
        found = pixels.quantiles(np.array(shares))
    pooled = np.concatenate([np.array(values, np.float64) for values in granules])
    # Minus zero is zero.
    expected = np.quantile(pooled, shares) if pooled.size else np.zeros(len(shares))
    assert np.array_equal(found, expected), (found, expected)


def test_a_full_disk_is_an_error_that_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, file: object) -> None:
            self._file = file

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

        def write(self, _: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with Pixels(tmp_path) as pixels:
        monkeypatch.setattr(pixels, "_file", Full(pixels._file))
        with pytest.raises(StorageError, match=r"No space left .*learning\.scratch") as caught:
            pixels.add(np.ones(3, np.float32))
        assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "a file without a name leaves nothing behind"


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
