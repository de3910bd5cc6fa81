"""Plumes are counted as regions, the gate says yes only where all of it is so, and injected plumes weigh what they say."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt

from geostack_pipeline.learning import gate, injection, plume_score
from geostack_pipeline.learning.calibration import Bins, Platt, Reliability, fit
from geostack_pipeline.learning.judging import (
    Granule,
    Method,
    Score,
    best_threshold,
    calibrated,
    difference,
    judge,
)
from geostack_pipeline.learning.pixels import Pixels

NOTHING = np.zeros((30, 30))


def regions(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    out = NOTHING.copy()
    for top, left, bottom, right in boxes:
        out[top:bottom, left:right] = 1.0
    return out


def counted(
    score: np.ndarray, plumes: np.ndarray, rates: list[float | None], ignored: np.ndarray | None = None
) -> plume_score.Counts:
    target = (plumes > 0).astype(np.uint8)
    if ignored is not None:
        target[ignored > 0] = 255
    return plume_score.count(score, 0.5, plumes.astype(np.int32), target, rates)


def test_found_missed_and_false_plumes() -> None:
    plumes = regions((2, 2, 8, 8)) + 2 * regions((20, 20, 26, 26))
    score = regions((3, 3, 8, 8), (12, 12, 15, 15))
    found = counted(score, plumes, [500.0, 5000.0])
    assert found.found.tolist() == [True, False]
    assert (found.matched, found.false) == (1, 1)
    total = plume_score.total([found])
    assert (total.precision, total.recall, total.f1, total.false_per_granule) == (0.5, 0.5, 0.5, 1.0)
    assert plume_score.recall_by_rate([found]) == {
        "< 0.3 t/h": (0, 0), "0.3-1 t/h": (1, 1), "1-3 t/h": (0, 0), ">= 3 t/h": (0, 1), "unknown": (0, 0),
    }  # fmt: skip
    assert plume_score.recall_of_small([found]) == (1, 1)


def test_a_part_of_a_plume_is_not_false_and_the_ring_counts_for_nothing() -> None:
    plumes = regions((2, 2, 22, 22))
    assert counted(regions((3, 3, 6, 6)), plumes, [None]).false == 0
    assert not counted(regions((3, 3, 6, 6)), plumes, [None]).found.any()
    ring = regions((24, 24, 30, 30))
    assert counted(regions((25, 25, 28, 28)), plumes, [None], ring).false == 0
    assert counted(regions((25, 25, 26, 27)), plumes, [None]).false == 0, "two pixels are no candidate"


def test_the_threshold_is_where_plumes_are_told_best() -> None:
    plumes = regions((5, 5, 12, 12)).astype(np.int32)
    score = 0.6 * regions((5, 5, 12, 12)) + 0.3 * regions((20, 20, 25, 25))
    granule = Granule(
        item_id="a",
        stack=np.zeros((3, 30, 30), np.float32),
        plumes=plumes,
        target=plumes.astype(np.uint8),
        rates_kg_h=(None,),
    )
    assert (
        0.3 < best_threshold(lambda *_: score, lambda: [granule], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]) <= 0.6
    )


def judged(quality: float, seed: int = 0, granules: int = 12) -> list[tuple[Granule, np.ndarray]]:
    """Return granules with scores that tell plumes from the rest as well as ``quality`` says."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(granules):
        plumes = regions((5, 5, 14, 14)).astype(np.int32) if number % 2 else NOTHING.astype(np.int32)
        stack = np.stack(
            [200.0 * rng.standard_normal((30, 30)), np.full((30, 30), 200.0), np.ones((30, 30))]
        ).astype(np.float32)
        score = np.clip(0.3 + quality * plumes + 0.05 * rng.standard_normal((30, 30)), 0.0, 1.0)
        target = plumes.astype(np.uint8)
        rates = (700.0,) if number % 2 else ()
        out.append(
            (Granule(item_id=str(number), stack=stack, plumes=plumes, target=target, rates_kg_h=rates), score)
        )
    return out


def run(
    candidate: float,
    reference: float,
    candidate_threshold: float = 0.5,
    fewest: int = 12,
    chosen: slice = slice(None),
    crowded: bool = False,
) -> gate.Verdict:
    mine, theirs = judged(candidate)[chosen], judged(reference)[chosen]
    if crowded:
        # Most of each granule with an outline is ring: no place is far enough from all of it.
        ring = np.maximum(*np.mgrid[:30, :30]) >= 15
        mine = [
            (replace(each, target=np.where(ring, 255, each.target).astype(np.uint8)), score)
            if each.rates_kg_h
            else (each, score)
            for each, score in mine
        ]
    held = {
        id(granule.stack): (score, other) for (granule, score), (_, other) in zip(mine, theirs, strict=True)
    }

    def of(which: int) -> Method:
        def score(stack: np.ndarray, _: object) -> np.ndarray:
            # Of an injected granule: what stands out.
            return held[id(stack)][which] if id(stack) in held else stack[0] / 1500.0

        return Method(
            name=("candidate", "reference")[which],
            score=score,
            threshold=(candidate_threshold, 0.5)[which],
            levels=tuple(np.linspace(0.05, 0.95, 19)),
        )

    results = judge([of(0), of(1)], lambda: (granule for granule, _ in mine), seed=1)
    paired = difference(results["candidate"], results["reference"], count=300, seed=0)
    return gate.verdict(results["candidate"], results["reference"], paired, fewest=fewest)


def test_a_better_candidate_is_promoted_with_its_numbers() -> None:
    said = run(0.5, 0.1)
    assert said.promoted, said
    (auprc, *_) = said.criteria
    assert auprc.detail["lower 95 % bound"] > 0
    assert said.as_dict()["criteria"][0]["name"] == "auprc_better"


@pytest.mark.parametrize(
    ("candidate", "reference", "threshold", "broken"),
    [
        (0.1, 0.5, 0.5, "auprc_better"),
        (0.5, 0.5, 0.5, "auprc_better"),
        (0.5, 0.25, 0.30, "f1_not_less"),
        (0.4, 0.3, 0.99, "small_plumes_not_fewer"),
        (0.5, 0.1, 3.0, "injected_plumes_recovered"),
    ],
)
def test_a_candidate_that_is_worse_in_anything_is_refused(
    candidate: float, reference: float, threshold: float, broken: str
) -> None:
    said = run(candidate, reference, threshold)
    assert not said.promoted
    assert broken in {each.name for each in said.criteria if not each.passed}


def broken(said: gate.Verdict) -> set[str]:
    return {each.name for each in said.criteria if not each.passed}


def test_chance_on_few_granules_promotes_nothing() -> None:
    """Twelve granules are judged, six of them with a plume: by the five criteria the candidate is better."""
    assert broken(run(0.5, 0.1, fewest=12)) == set()
    said = run(0.5, 0.1, fewest=13)
    assert broken(said) == {"enough_test_granules"}
    assert not said.promoted
    detail = next(each.detail for each in said.criteria if each.name == "enough_test_granules")
    assert detail == {"granules": 12, "wanted at least": 13}


def test_where_nothing_could_be_injected_nothing_is_promoted() -> None:
    # One labelled granule: every resample of it is the same, and none of no plume is missed.
    said = run(0.5, 0.1, fewest=1, chosen=slice(1, 2), crowded=True)
    by_name = {each.name: each for each in said.criteria}
    difference = by_name["auprc_better"].detail
    assert difference["lower 95 % bound"] == difference["upper 95 % bound"] > 0
    assert by_name["injected_plumes_recovered"].detail["recovered"] == "0 of 0"
    assert broken(said) == {"plumes_injected"}
    assert "no granule of the test is wide enough" in str(by_name["plumes_injected"].detail["reason"])
    # Weak plumes alone say nothing of the strong ones that must be recovered: the first granule gets one of 0.5 t/h.
    few = run(0.5, 0.1, fewest=1, chosen=slice(0, 2), crowded=True)
    assert broken(few) == {"plumes_injected"}
    assert broken(run(0.5, 0.1, fewest=1, chosen=slice(0, 4), crowded=True)) == set()


def injected(said: gate.Verdict) -> dict[str, Any]:
    return dict(next(each.detail for each in said.criteria if each.name == "plumes_injected"))


def test_where_every_granule_has_a_plume_others_are_injected_beside_it() -> None:
    """NASA publishes the methane of version 001 for scenes with plumes alone: that must not close the gate."""
    said = run(0.5, 0.1, fewest=6, chosen=slice(1, None, 2))
    assert said.promoted, said
    assert injected(said) == {
        "injected of at least 2 t/h": 6, "injected": 6, "into granules without outlines": 0, "beside outlines": 6,
    }  # fmt: skip
    # A model that does not see them is refused on such granules too.
    assert "injected_plumes_recovered" in broken(run(0.5, 0.1, 3.0, fewest=6, chosen=slice(1, None, 2)))
    # Six without outlines, three of which get a strong plume: the rest up to ten, as far as there are granules.
    assert injected(run(0.5, 0.1)) == {
        "injected of at least 2 t/h": 9, "injected": 12, "into granules without outlines": 6, "beside outlines": 6,
    }  # fmt: skip


def test_beside_outlines_no_more_is_injected_than_it_takes() -> None:
    granules = [granule for granule, _ in judged(0.5, granules=30)]
    read: list[str] = []

    def reader() -> Iterator[Granule]:
        for granule in granules:
            read.append(granule.item_id)
            yield granule

    method = Method(name="a", score=lambda stack, _: stack[0] / 1500.0, threshold=0.5, calibrated=False)
    found = judge([method], reader, seed=1)["a"].injected
    assert [each.item_id for each in found[:15]] == [str(number) for number in range(0, 30, 2)]
    assert sum(each.rate_kg_h >= 2000.0 for each in found[:15]) == 9, "one short of enough"
    (last,) = found[15:]
    assert (last.beside_outlines, last.rate_kg_h) == (True, 2000.0)
    assert read[30:][-1] == last.item_id, "and no granule is read after it"
    granules = [*granules, *(replace(granules[0], item_id=name) for name in ("30", "31", "32"))]
    read.clear()
    assert [each.item_id for each in judge([method], reader, seed=1)["a"].injected[15:]] == ["30", "31", "32"]
    assert len(read) == 33, "ten strong ones without outlines: nothing is read again"


def test_without_a_plume_in_the_test_nothing_is_better() -> None:
    granules = [
        replace(granule, plumes=NOTHING.astype(np.int32), target=NOTHING.astype(np.uint8), rates_kg_h=())
        for granule, _ in judged(0.5)
    ]
    methods = [
        Method(name=name, score=lambda stack, _: stack[0] / 2000.0, threshold=0.5, calibrated=False)
        for name in ("a", "b")
    ]
    results = judge(methods, lambda: granules, seed=0)
    paired = difference(results["a"], results["b"], count=100, seed=0)
    said = gate.verdict(results["a"], results["b"], paired, fewest=1)
    assert not said.promoted
    assert said.criteria[0].detail["lower 95 % bound"] is None


def test_an_injected_plume_has_the_mass_of_its_rate() -> None:
    """Mass per length of a steady plume is rate over wind, whatever its width."""
    gas = injection.column((400, 400), 200.0, 10.0, 0.0, 3600.0, wind_m_s=4.0)
    kg_per_m2 = gas * 1e-6 * 0.01604 / 22.4e-3
    across = kg_per_m2[:, 60].sum() * 60.0
    assert across == pytest.approx(1.0 / 4.0, rel=0.01)
    assert (gas[:, :10] == 0.0).all()


def test_injection_adds_what_the_sensitivity_shows_and_needs_room() -> None:
    stack = np.stack([np.zeros((64, 64)), np.full((64, 64), 200.0), np.full((64, 64), 0.5)]).astype(
        np.float32
    )
    one = injection.inject(stack, 4000.0, 3)
    assert one is not None
    assert np.array_equal(injection.inject(stack, 4000.0, 3).stack, one.stack)
    assert one.stack[0][one.plume].min() >= 0.5 * 150.0
    assert (stack[0] == 0.0).all()
    assert injection.inject(np.full_like(stack, np.nan), 4000.0, 3) is None


@pytest.mark.parametrize("rate", injection.STRONG_RATES_KG_H)
def test_beside_an_outline_a_plume_keeps_its_distance(rate: float) -> None:
    stack = np.stack([np.zeros((90, 90)), np.full((90, 90), 200.0), np.ones((90, 90))]).astype(np.float32)
    taken = np.zeros((90, 90), bool)
    taken[40:52, 38:60] = True
    away = distance_transform_cdt(~taken, "chessboard")
    for seed in range(10):
        one = injection.inject(stack, rate, seed, taken)
        assert one is not None
        assert one.plume.any()
        assert away[one.plume].min() > 5
        assert np.array_equal(injection.inject(stack, rate, seed, taken).stack, one.stack)
    assert injection.inject(stack, rate, 0, ~taken) is None, "no place is free"


def reliability(probability: np.ndarray, truth: np.ndarray) -> Reliability:
    bins = Bins()
    bins.add(probability, truth)
    return bins.reliability()


def test_calibration_error_of_known_cases() -> None:
    truth = np.array([True] * 7 + [False] * 3)
    assert reliability(np.full(10, 0.7), truth).expected_error == pytest.approx(0.0, abs=1e-12)
    assert reliability(np.full(10, 0.9), truth).expected_error == pytest.approx(0.2)
    assert reliability(np.array([1.0]), np.array([True])).rows() == [
        {"pixels": 1, "predicted": 1.0, "observed": 1.0}
    ]


def false_plumes(mine: list[np.ndarray], theirs: list[np.ndarray], **candidate: Any) -> gate.Criterion:
    """Return what the gate says of false plumes of scores on the granules of :func:`judged`."""
    granules = [granule for granule, _ in judged(0.5)]
    place = {id(granule.stack): number for number, granule in enumerate(granules)}

    def of(scores: list[np.ndarray]) -> Score:
        return lambda stack, _: scores[place[id(stack)]] if id(stack) in place else np.zeros(stack.shape[1:])

    methods = [
        Method(name="candidate", score=of(mine), **{"threshold": 0.5, "calibrated": False} | candidate),
        Method(name="reference", score=of(theirs), threshold=0.5, calibrated=False),
    ]
    results = judge(methods, lambda: granules, seed=0)
    paired = difference(results["candidate"], results["reference"], count=20, seed=0)
    said = gate.verdict(results["candidate"], results["reference"], paired, fewest=1)
    return next(each for each in said.criteria if each.name == "false_plumes_not_more")


GRID = tuple(np.linspace(0.05, 0.95, 19))


@given(
    quality=st.floats(0.05, 0.5),
    noise=st.floats(0.0, 0.4),
    power=st.floats(0.2, 5.0),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_false_plumes_are_compared_where_both_find_as_many(
    quality: float, noise: float, power: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = [
        np.clip(0.3 + quality * (granule.plumes > 0) + noise * rng.standard_normal((30, 30)), 0.0, 1.0)
        for granule, _ in judged(0.5)
    ]
    same = false_plumes(scores, scores, levels=GRID)
    assert same.passed, "nothing is worse than itself"
    # Only the order of pixels counts, not what the score is called at which threshold.
    bent = [score**power for score in scores]
    again = false_plumes(bent, scores, levels=tuple(level**power for level in GRID), threshold=0.5**power)
    assert {**again.detail, "at threshold": None} == {**same.detail, "at threshold": None}
    assert again.detail["at threshold"] == pytest.approx(same.detail["at threshold"] ** power)  # type: ignore[operator]


def test_a_candidate_that_is_sure_of_what_is_no_plume_is_refused_with_the_numbers() -> None:
    theirs = [score for _, score in judged(0.5)]
    mine = [score + 2.0 * regions((25, 25, 28, 28)) for score in theirs]
    said = false_plumes(mine, theirs, levels=GRID)
    assert not said.passed
    assert (said.detail["reference"], said.detail["candidate"]) == (0, 12)
    assert said.detail["where it finds"] == said.detail["plumes it finds"] == "6 of 6"
    # The more a method finds, the more it invents: one that finds little is no measure for one that finds much.
    weak = [np.where(number == 1, score, 0.0) for number, score in enumerate(theirs)]
    strong = [
        score + (0.25 * regions((25, 25, 28, 28)) if number % 2 else 0.0)
        for number, score in enumerate(theirs)
    ]
    said = false_plumes(strong, weak, levels=GRID, threshold=0.4)
    assert said.passed
    assert (said.detail["plumes it finds"], said.detail["reference"]) == ("1 of 6", 0)
    # Finding fewer at every threshold is no way out.
    said = false_plumes(weak, theirs, levels=GRID)
    assert not said.passed
    assert said.detail["reason"] == "finds 1 plumes at most"


def fitted(granules: list[tuple[np.ndarray, np.ndarray]]) -> Platt:
    with Pixels(dtype=np.float64) as pixels:
        for probability, truth in granules:
            pixels.add(probability, truth)
        return fit(pixels)


def test_calibration_finds_the_line_that_bent_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(-2.0, 2.0, 200_000)
    truth = rng.random(200_000) < 1.0 / (1.0 + np.exp(-logit))
    bent = 1.0 / (1.0 + np.exp(-(2.0 * logit + 3.0)))
    found = fitted([(bent, truth)])
    assert found.scale == pytest.approx(0.5, abs=0.02)
    assert found.shift == pytest.approx(-1.5, abs=0.05)
    # Of granules one after another it is the same line, and there the likelihood is greatest.
    cuts = [0, 70_000, 70_000, 200_000]
    parts = fitted([(bent[a:b], truth[a:b]) for a, b in itertools.pairwise(cuts)])
    assert (parts.scale, parts.shift) == pytest.approx((found.scale, found.shift), rel=1e-9)
    x = np.clip(np.log(bent) - np.log1p(-bent), -15.0, 15.0)
    off = 1.0 / (1.0 + np.exp(-(found.scale * x + found.shift))) - truth
    pull = 1e-2 * np.array([found.scale - 1.0, found.shift])
    assert np.abs(np.array([off @ x, off.sum()]) + pull).max() < 1e-3, "the gradient is nil"
    assert fitted([(bent, np.zeros(200_000, bool))]) == Platt()
    assert np.isfinite(fitted([(np.array([0.0, 1.0]), np.array([False, True]))]).scale)


def test_reliability_of_granules_one_by_one_is_to_the_bit_that_of_all_together() -> None:
    rng = np.random.default_rng(2)
    probability = rng.random(50_000).astype(np.float32) ** 3
    truth = rng.random(50_000) < probability
    bins = Bins()
    for first, last in itertools.pairwise([0, 1, 1, 20_001, 50_000]):
        bins.add(probability[first:last], truth[first:last])
    found = bins.reliability()
    numbers = np.minimum((probability * 15).astype(np.int64), 14)
    count = np.bincount(numbers, minlength=15)
    assert (found.count == count).all()
    assert (found.predicted == np.bincount(numbers, weights=probability) / count).all()
    assert (found.observed == np.bincount(numbers, weights=truth) / count).all()


def test_whoever_judges_holds_no_granule_that_it_is_done_with(tmp_path: Path) -> None:
    """The next granule is only read when those before the last one are gone."""
    alive: list[weakref.ref[Granule]] = []

    def read() -> Iterator[Granule]:
        for granule, _ in (judged(0.5, seed)[seed % 2] for seed in range(4)):
            gc.collect()
            assert sum(each() is not None for each in alive) <= 1
            alive.append(weakref.ref(granule))
            yield granule

    def score(stack: np.ndarray, _: object) -> np.ndarray:
        return np.clip(stack[0] / 1000.0, 0.0, 1.0)

    method = Method(name="a", score=score, threshold=0.5, levels=(0.2, 0.4))
    assert len(judge([method], read, seed=0, folder=tmp_path)["a"].item_ids) == 4
    assert calibrated(score, read, tmp_path).scale > 0
    assert best_threshold(score, read, folder=tmp_path) <= 1.0
    assert list(tmp_path.iterdir()) == []


def test_thresholds_to_try_are_quantiles_of_all_scores_together() -> None:
    """The best threshold by hand: every quantile of the pooled scores, counted on granules held in memory."""
    made = [granule for granule, _ in judged(0.5, 3)]

    def score(stack: np.ndarray, _: object) -> np.ndarray:
        return stack[0].astype(np.float64)

    pooled = np.concatenate([granule.stack[0].ravel() for granule in made]).astype(np.float64)
    levels = np.quantile(pooled, 1.0 - np.geomspace(1e-1, 1e-4, 40))
    f1 = [
        plume_score.total(
            [
                plume_score.count(score(each.stack, None), level, each.plumes, each.target, each.rates_kg_h)
                for each in made
            ]
        ).f1
        for level in levels
    ]
    best = np.flatnonzero(np.array(f1) == max(f1))
    assert best_threshold(score, lambda: made) == levels[best[len(best) // 2]]
