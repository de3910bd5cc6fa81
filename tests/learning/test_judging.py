"""Plumes are counted as regions, the gate says yes only where all of it is so, and injected plumes weigh what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geostack_pipeline.learning import gate, injection, plume_score
from geostack_pipeline.learning.calibration import Platt, fit, reliability
from geostack_pipeline.learning.judging import BASELINE, Granule, Method, best_threshold, difference, judge

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
    assert 0.3 < best_threshold(lambda *_: score, [granule], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]) <= 0.6


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


def run(candidate: float, reference: float, candidate_threshold: float = 0.5) -> gate.Verdict:
    mine, theirs = judged(candidate), judged(reference)
    held = {
        id(granule.stack): (score, other) for (granule, score), (_, other) in zip(mine, theirs, strict=True)
    }

    def of(which: int) -> Method:
        def score(stack: np.ndarray, _: object) -> np.ndarray:
            # Of an injected granule: what stands out.
            return held[id(stack)][which] if id(stack) in held else stack[0] / 1500.0

        return Method(
            name=("candidate", "reference")[which], score=score, threshold=(candidate_threshold, 0.5)[which]
        )

    results = judge([of(0), of(1)], (granule for granule, _ in mine), seed=1)
    paired = difference(results["candidate"], results["reference"], count=300, seed=0)
    return gate.verdict(results["candidate"], results["reference"], paired)


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
        (0.5, 0.1, 0.30, "false_plumes_not_more"),
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


def test_without_a_plume_in_the_test_nothing_is_better() -> None:
    granules = [
        replace(granule, plumes=NOTHING.astype(np.int32), target=NOTHING.astype(np.uint8), rates_kg_h=())
        for granule, _ in judged(0.5)
    ]
    methods = [
        Method(name=name, score=lambda stack, _: stack[0] / 2000.0, threshold=0.5, calibrated=False)
        for name in ("a", "b")
    ]
    results = judge(methods, granules, seed=0)
    said = gate.verdict(results["a"], results["b"], difference(results["a"], results["b"], count=100, seed=0))
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


def test_calibration_error_of_known_cases() -> None:
    truth = np.array([True] * 7 + [False] * 3)
    assert reliability(np.full(10, 0.7), truth).expected_error == pytest.approx(0.0, abs=1e-12)
    assert reliability(np.full(10, 0.9), truth).expected_error == pytest.approx(0.2)
    assert reliability(np.array([1.0]), np.array([True])).rows() == [
        {"pixels": 1, "predicted": 1.0, "observed": 1.0}
    ]


def test_against_the_baseline_f1_decides_in_place_of_false_plumes() -> None:
    mine, theirs = run(0.5, 0.1), [each for each, _ in judged(0.5)]
    methods = [
        Method(name=name, score=lambda stack, _: stack[0] / 2000.0, threshold=0.5, calibrated=False)
        for name in ("candidate", BASELINE)
    ]
    results = judge(methods, theirs, seed=0)
    paired = difference(results["candidate"], results[BASELINE], count=100, seed=0)
    said = gate.verdict(results["candidate"], results[BASELINE], paired)
    assert "false_plumes_not_more" in {each.name for each in mine.criteria}
    assert {each.name: each.passed for each in said.criteria}["f1_better"] is False


def test_calibration_finds_the_line_that_bent_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(-2.0, 2.0, 200_000)
    truth = rng.random(200_000) < 1.0 / (1.0 + np.exp(-logit))
    bent = 1.0 / (1.0 + np.exp(-(2.0 * logit + 3.0)))
    found = fit(bent, truth)
    assert found.scale == pytest.approx(0.5, abs=0.02)
    assert found.shift == pytest.approx(-1.5, abs=0.05)
    assert fit(bent, np.zeros(200_000, bool)) == Platt()
    assert np.isfinite(fit(np.array([0.0, 1.0]), np.array([False, True])).scale)
