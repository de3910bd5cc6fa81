"""Judging methods on whole granules: pixels, plumes, calibration, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
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
from geostack_pipeline.learning.calibration import Bins, Platt, Reliability, fit
from geostack_pipeline.learning.fields import Background, Floats, background, matched_filter_score
from geostack_pipeline.learning.injection import (
    ENOUGH_STRONG,
    RATES_KG_H,
    STRONG_KG_H,
    STRONG_RATES_KG_H,
    Injected,
    inject,
)
from geostack_pipeline.learning.pixels import Pixels
from geostack_pipeline.learning.plume_score import Counts, PlumeScore
from geostack_pipeline.learning.targets import IGNORED, NO_PLUME, PLUME

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


Granules = Callable[[], Iterable[Granule]]
"""Reads granules anew, one at a time: whoever looks at them twice reads them twice, and never holds them all."""


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
class Recovery:
    """A plume that was laid into a granule, and whether a method found it."""

    item_id: str
    rate_kg_h: float
    beside_outlines: bool
    """Whether the granule has outlines, from which the plume keeps away."""
    found: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a method did on some granules."""

    method: str
    threshold: float
    item_ids: tuple[str, ...]
    ranking: Ranking
    counts: tuple[Counts, ...]
    reliability: Reliability | None
    injected: tuple[Recovery, ...]
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
        chosen = [each.found for each in self.injected if each.rate_kg_h >= from_kg_h]
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
            "injected_beside_outlines": sum(each.beside_outlines for each in self.injected),
            "sweep": [[level, each.found, each.false] for level, each in self.sweep],
            "calibration_error": None if self.reliability is None else self.reliability.expected_error,
            "reliability": [] if self.reliability is None else self.reliability.rows(),
        }


CURVE_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What a method said of the granules so far."""

    method: Method
    pixels: Pixels
    bins: Bins = field(default_factory=Bins)
    counts: dict[float, list[Counts]] = field(default_factory=dict)
    """Of each granule, by threshold."""
    injected: list[Recovery] = field(default_factory=list)

    def add(self, granule: Granule, about: Background) -> None:
        """Judge a granule."""
        counted = granule.target != IGNORED
        truth = (granule.target == PLUME)[counted]
        values = self.method.score(granule.stack, about)
        kept = values[counted].astype(np.float32)
        self.pixels.add(kept, truth)
        if self.method.calibrated:
            self.bins.add(kept, truth)
        for level in {*self.method.levels, self.method.threshold}:
            one = plume_score.count(values, level, granule.plumes, granule.target, granule.rates_kg_h)
            self.counts.setdefault(level, []).append(one)

    def add_injected(self, granule: Granule, planted: Injected, about: Background) -> None:
        """Look for a plume that was laid into a granule."""
        one = plume_score.count(
            self.method.score(planted.stack, about),
            self.method.threshold,
            planted.plume.astype(np.int32),
            # What is outlined is no part of the question.
            np.where(granule.target == NO_PLUME, granule.target, np.uint8(IGNORED)),
            [planted.rate_kg_h],
        )
        self.injected.append(
            Recovery(
                item_id=granule.item_id,
                rate_kg_h=planted.rate_kg_h,
                beside_outlines=bool(granule.rates_kg_h),
                found=bool(one.found.any()),
            )
        )

    def result(self, item_ids: Sequence[str]) -> Result:
        """Return how the method did."""
        ranked = ranking(self.pixels)
        return Result(
            method=self.method.name,
            threshold=self.method.threshold,
            item_ids=tuple(item_ids),
            ranking=ranked,
            counts=tuple(self.counts.get(self.method.threshold, ())),
            reliability=self.bins.reliability() if self.method.calibrated else None,
            injected=tuple(self.injected),
            curve=ranked.curve(CURVE_POINTS),
            sweep=tuple(
                (level, plume_score.total(self.counts.get(level, ())))
                for level in sorted({*self.method.levels, self.method.threshold})
            ),
        )


def judge(
    methods: Sequence[Method], granules: Granules, *, seed: int, folder: Path | None = None
) -> dict[str, Result]:
    """Run methods over granules, one at a time; return the result of each by name.

    A plume is laid into each granule without outlines; where that gives fewer than 10 strong ones, the granules are read
    again and more are laid beside the outlines of the others.

    Memory: that of a granule, and 4 bytes per granule and distinct score of a plume pixel for each method.  Disk: 4 bytes
    per pixel and method in ``folder`` until it returns.

    Args:
        methods: What finds plumes.
        granules: Of the test.
        seed: Decides where plumes are injected.
        folder: Where scores wait (:class:`~geostack_pipeline.learning.pixels.Pixels`).
    """
    item_ids: list[str] = []
    strong = 0
    with ExitStack() as stack:
        seen = [_Seen(method=each, pixels=stack.enter_context(Pixels(folder))) for each in methods]
        for number, granule in enumerate(granules()):
            item_ids.append(granule.item_id)
            about = background(granule.stack)
            for each in seen:
                each.add(granule, about)
            if not granule.rates_kg_h:
                rate = RATES_KG_H[number % len(RATES_KG_H)]
                strong += _plant(seen, granule, rate, seed + number) and rate >= STRONG_KG_H
        if strong < ENOUGH_STRONG:
            for number, granule in enumerate(granules()):
                if not granule.rates_kg_h:
                    continue
                # A granule that has no room for a strong plume may have some for a weaker one.
                rates = STRONG_RATES_KG_H[strong % len(STRONG_RATES_KG_H) :: -1]
                strong += any(_plant(seen, granule, rate, seed + number) for rate in rates)
                if strong == ENOUGH_STRONG:
                    break
        return {each.method.name: each.result(item_ids) for each in seen}


def _plant(seen: Sequence[_Seen], granule: Granule, rate_kg_h: float, seed: int) -> bool:
    """Have all methods look for a plume laid into a granule; return whether it has room for one."""
    taken = None
    if granule.rates_kg_h:
        ring = (granule.target == IGNORED) & np.isfinite(granule.stack[0])
        taken = (granule.plumes > 0) | ring
    planted = inject(granule.stack, rate_kg_h, seed, taken)
    if planted is None:
        return False
    about = background(planted.stack)
    for each in seen:
        each.add_injected(granule, planted, about)
    return True


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


def calibrated(score: Score, granules: Granules, folder: Path | None = None) -> Platt:
    """Return the line that makes probabilities of a network's scores on granules, none of the test set.

    Memory: that of a granule.  Disk: 4 bytes per pixel in ``folder`` until it returns.
    """
    with Pixels(folder) as pixels:
        for granule in granules():
            counted = granule.target != IGNORED
            values = score(granule.stack, background(granule.stack))
            pixels.add(values[counted].astype(np.float32), (granule.target == PLUME)[counted])
        return fit(pixels)


THRESHOLDS = tuple(float(value) for value in np.round(np.linspace(0.05, 0.95, 37), 3))
"""Probabilities among which a model's threshold is chosen."""


def best_threshold(
    score: Score, granules: Granules, levels: Sequence[float] | None = None, folder: Path | None = None
) -> float:
    """Return the threshold with the best F1 of plumes, the middle one of several.

    Memory: that of a granule.

    Args:
        score: The method.
        granules: None of the test set.
        levels: Thresholds to try; upper quantiles of the scores when not given, for which they wait in ``folder``, 8
            bytes per pixel.
        folder: See :class:`~geostack_pipeline.learning.pixels.Pixels`.
    """
    if levels is None:
        with Pixels(folder, np.float64) as pixels:
            for granule in granules():
                values = score(granule.stack, background(granule.stack))
                pixels.add(values[np.isfinite(values)])
            levels = pixels.quantiles(1.0 - np.geomspace(1e-1, 1e-4, 40)).tolist()
    counts: list[list[Counts]] = [[] for _ in levels]
    for granule in granules():
        values = score(granule.stack, background(granule.stack))
        for level, those in zip(levels, counts, strict=True):
            those.append(plume_score.count(values, level, granule.plumes, granule.target, granule.rates_kg_h))
    f1 = np.array([plume_score.total(those).f1 for those in counts])
    best = np.flatnonzero(f1 == f1.max())
    return levels[int(best[len(best) // 2])]
