"""Judging methods on whole granules: pixels, plumes, calibration, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geostack_pipeline.learning import plume_score
from geostack_pipeline.learning.average_precision import (
    Interval,
    Ranking,
    interval,
    ranking,
    resamples,
)
from geostack_pipeline.learning.calibration import Platt, Reliability, fit, reliability
from geostack_pipeline.learning.fields import Background, Floats, background, matched_filter_score
from geostack_pipeline.learning.injection import RATES_KG_H, inject
from geostack_pipeline.learning.plume_score import Counts, PlumeScore
from geostack_pipeline.learning.targets import IGNORED, PLUME

Score = Callable[[Floats, Background], npt.NDArray[np.floating]]
"""(fields of a whole granule, its statistics) -> score, (y, x), NaN where masked."""
BASELINE = "blurred_matched_filter"


@dataclass(frozen=True, kw_only=True)
class Granule:
    """A whole granule with its plumes."""

    item_id: str
    stack: Floats
    plumes: npt.NDArray[np.int32]
    target: npt.NDArray[np.uint8]
    rates_kg_h: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Method:
    """Something that finds plumes."""

    name: str
    score: Score
    threshold: float
    """Score from which a pixel belongs to a candidate."""
    calibrated: bool = True
    """Whether its score is a probability."""
    levels: tuple[float, ...] = ()
    """Other thresholds at which its plumes are counted, so that it can be compared where it finds as many as another."""


LEVELS = tuple(float(value) for value in np.round(1.0 / (1.0 + np.exp(-np.arange(-8.0, 8.01, 0.25))), 6))
"""Probabilities at which a candidate's plumes are counted: even steps of the logit."""


def baseline(threshold: float) -> Method:
    """Return the blurred matched filter."""
    return Method(name=BASELINE, score=matched_filter_score, threshold=threshold, calibrated=False)


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a method did on some granules."""

    method: str
    threshold: float
    item_ids: tuple[str, ...]
    ranking: Ranking
    counts: tuple[Counts, ...]
    reliability: Reliability | None
    injected: tuple[tuple[float, bool], ...]
    """(emission rate in kg/h, whether it was found) of each injected plume."""
    curve: tuple[tuple[float, float], ...] = ()
    """(recall, precision) of pixels, for a figure."""
    sweep: tuple[tuple[float, PlumeScore], ...] = ()
    """(threshold, plumes found and invented there), the lowest first; the method's own threshold is one of them."""

    def finding(self, found: int) -> tuple[float, PlumeScore] | None:
        """Return a threshold that finds at least so many plumes, and the score there; None where none does.

        Of those from the method's own threshold on it is the one with the fewest false plumes, the highest of several;
        where they all find fewer, the highest threshold that finds enough.  Far below its own threshold regions run
        into each other, and then there are few of them whatever the method knows.
        """
        enough = [(level, score) for level, score in self.sweep if score.found >= found]
        above = [each for each in enough if each[0] >= self.threshold]
        if above:
            return min(above, key=lambda each: (each[1].false, -each[0]))
        return max(enough, key=lambda each: each[0], default=None)

    @property
    def auprc(self) -> float:
        """Average precision of the pixels of all granules together."""
        return float(self.ranking.average_precision()[0])

    @property
    def plumes(self) -> PlumeScore:
        """Plumes found, missed and invented."""
        return plume_score.total(self.counts)

    def recovered(self, from_kg_h: float) -> tuple[int, int]:
        """Return (found, all) of the injected plumes at or above a rate."""
        chosen = [found for rate, found in self.injected if rate >= from_kg_h]
        return sum(chosen), len(chosen)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        score = self.plumes
        auprc = self.auprc
        return {
            "method": self.method,
            "threshold": self.threshold,
            "granules": score.granules,
            "plumes": score.plumes,
            "auprc": auprc if np.isfinite(auprc) else None,
            "precision": score.precision,
            "recall": score.recall,
            "f1": score.f1,
            "false_per_granule": score.false_per_granule,
            "recall_by_rate": {
                name: list(pair) for name, pair in plume_score.recall_by_rate(self.counts).items()
            },
            "recall_of_small": list(plume_score.recall_of_small(self.counts)),
            "injected": list(self.recovered(0.0)),
            "sweep": [[level, each.found, each.false] for level, each in self.sweep],
            "calibration_error": None if self.reliability is None else self.reliability.expected_error,
            "reliability": [] if self.reliability is None else self.reliability.rows(),
        }


def judge(methods: Sequence[Method], granules: Iterable[Granule], *, seed: int) -> dict[str, Result]:
    """Run methods over granules, one at a time; return the result of each by name.

    Memory: some 40 bytes per pixel and method while the curve is drawn.
    """
    scores: dict[str, list[npt.NDArray[np.float32]]] = {method.name: [] for method in methods}
    counts: dict[str, list[Counts]] = {method.name: [] for method in methods}
    injected: dict[str, list[tuple[float, bool]]] = {method.name: [] for method in methods}
    levels = {method.name: sorted({*method.levels, method.threshold}) for method in methods}
    swept: dict[str, list[list[Counts]]] = {name: [[] for _ in each] for name, each in levels.items()}
    truth: list[npt.NDArray[np.bool_]] = []
    item_ids: list[str] = []
    for number, granule in enumerate(granules):
        item_ids.append(granule.item_id)
        counted = granule.target != IGNORED
        truth.append((granule.target == PLUME)[counted])
        about = background(granule.stack)
        planted = None
        if not granule.rates_kg_h:
            rate = RATES_KG_H[number % len(RATES_KG_H)]
            planted = inject(granule.stack, rate, seed + number)
        for method in methods:
            values = method.score(granule.stack, about)
            scores[method.name].append(values[counted].astype(np.float32))
            for level, those in zip(levels[method.name], swept[method.name], strict=True):
                those.append(
                    plume_score.count(values, level, granule.plumes, granule.target, granule.rates_kg_h)
                )
                if level == method.threshold:
                    counts[method.name].append(those[-1])
            if planted is not None:
                again = method.score(planted.stack, background(planted.stack))
                one = plume_score.count(
                    again,
                    method.threshold,
                    planted.plume.astype(np.int32),
                    granule.target,
                    [planted.rate_kg_h],
                )
                injected[method.name].append((planted.rate_kg_h, bool(one.found.any())))
    return {
        method.name: Result(
            method=method.name,
            threshold=method.threshold,
            item_ids=tuple(item_ids),
            ranking=ranking(scores[method.name], truth),
            counts=tuple(counts[method.name]),
            reliability=reliability(
                np.concatenate([np.empty(0, np.float32), *scores[method.name]]),
                np.concatenate([np.empty(0, bool), *truth]),
            )
            if method.calibrated
            else None,
            injected=tuple(injected[method.name]),
            curve=_curve(scores[method.name], truth),
            sweep=tuple(
                (level, plume_score.total(those))
                for level, those in zip(levels[method.name], swept[method.name], strict=True)
            ),
        )
        for method in methods
    }


def _curve(
    scores: Sequence[npt.NDArray[np.floating]], truth: Sequence[npt.NDArray[np.bool_]]
) -> tuple[tuple[float, float], ...]:
    """Return 200 points of the precision-recall curve."""
    values, plume = np.concatenate([np.empty(0), *scores]), np.concatenate([np.empty(0, bool), *truth])
    if not plume.any():
        return ()
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(plume[order])
    ranks = np.unique(np.searchsorted(hits, np.linspace(1, hits[-1], 200)))
    return tuple((float(hits[rank] / hits[-1]), float(hits[rank] / (rank + 1))) for rank in ranks)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One method minus another on the same granules, with the paired bootstrap's 95 % interval."""

    auprc: Interval
    f1: Interval

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {"auprc": self.auprc.as_dict(), "f1": self.f1.as_dict()}


def difference(one: Result, other: Result, *, count: int, seed: int) -> Difference:
    """Return how much better one method is, resampling whole granules for both together."""
    assert one.item_ids == other.item_ids, "a paired comparison needs the same granules"
    drawn = resamples(len(one.item_ids), count, seed)
    auprc = one.ranking.average_precision(drawn) - other.ranking.average_precision(drawn)
    f1 = np.array(
        [plume_score.total(one.counts, t).f1 - plume_score.total(other.counts, t).f1 for t in drawn]
    )
    return Difference(
        auprc=interval(one.auprc - other.auprc, auprc), f1=interval(one.plumes.f1 - other.plumes.f1, f1)
    )


def interval_of(result: Result, *, count: int, seed: int) -> Mapping[str, Interval]:
    """Return AUPRC and F1 of a method with their bootstrap intervals."""
    drawn = resamples(len(result.item_ids), count, seed)
    f1 = np.array([plume_score.total(result.counts, times).f1 for times in drawn])
    return {
        "auprc": interval(result.auprc, result.ranking.average_precision(drawn)),
        "f1": interval(result.plumes.f1, f1),
    }


def calibrated(score: Score, granules: Iterable[Granule]) -> Platt:
    """Return the line that makes probabilities of a network's scores on granules, none of the test set."""
    scores, truth = [np.empty(0, np.float32)], [np.empty(0, bool)]
    for granule in granules:
        counted = granule.target != IGNORED
        scores.append(score(granule.stack, background(granule.stack))[counted].astype(np.float32))
        truth.append((granule.target == PLUME)[counted])
    return fit(np.concatenate(scores), np.concatenate(truth))


THRESHOLDS = tuple(float(value) for value in np.round(np.linspace(0.05, 0.95, 37), 3))
"""Probabilities among which a model's threshold is chosen."""


def best_threshold(score: Score, granules: Iterable[Granule], levels: Sequence[float] | None = None) -> float:
    """Return the threshold with the best F1 of plumes, the middle one of several.

    Args:
        score: The method.
        granules: None of the test set.
        levels: Thresholds to try; upper quantiles of the scores when not given.
    """
    seen = [(granule, score(granule.stack, background(granule.stack))) for granule in granules]
    if levels is None:
        pooled = np.concatenate([values[np.isfinite(values)] for _, values in seen] or [np.zeros(1)])
        levels = [float(v) for v in np.quantile(pooled, 1.0 - np.geomspace(1e-1, 1e-4, 40))]
    f1 = np.array(
        [
            plume_score.total(
                [
                    plume_score.count(values, level, granule.plumes, granule.target, granule.rates_kg_h)
                    for granule, values in seen
                ]
            ).f1
            for level in levels
        ]
    )
    best = np.flatnonzero(f1 == f1.max())
    return levels[int(best[len(best) // 2])]
