"""The gate: a candidate takes over only when it is surely better and nowhere worse.

The failure it prevents: a retraining on a few wrong labels, or a lucky seed, makes the daily product worse, and nobody
sees it.  The rule: on the same frozen granules, five criteria hold, each with its numbers; otherwise the champion stays.
Two more refuse where these five would say nothing: on too few granules, and where no plume could be injected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geostack_pipeline.learning import plume_score
from geostack_pipeline.learning.injection import STRONG_KG_H
from geostack_pipeline.learning.judging import Difference, Result

RECOVERED = 0.7
"""Injected plumes of at least 2 t/h must be recovered in this share."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One condition of the gate."""

    name: str
    passed: bool
    detail: Mapping[str, float | str | None]
    """The numbers behind it."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says."""

    against: str
    criteria: tuple[Criterion, ...]

    @property
    def promoted(self) -> bool:
        """Whether all criteria hold."""
        return all(criterion.passed for criterion in self.criteria)

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        return {
            "against": self.against,
            "promoted": self.promoted,
            "criteria": [
                {"name": each.name, "passed": each.passed, "detail": dict(each.detail)}
                for each in self.criteria
            ],
        }


def verdict(candidate: Result, reference: Result, paired: Difference, *, fewest: int) -> Verdict:
    """Return whether a candidate may replace the reference: the champion, or the baseline where there is none.

    A method that finds few plumes invents few, so false plumes are compared where both find as many: the reference at
    its own threshold, the candidate at one that finds at least as many (:meth:`~.judging.Result.finding`).
    What the candidate does at its own threshold, at which it would be used, F1 and the small plumes judge.

    Args:
        candidate: What may come into use.
        reference: What it is compared with.
        paired: How much better the candidate is on the same granules.
        fewest: On fewer test granules nothing is promoted.
    """
    return Verdict(
        against=reference.method,
        criteria=(
            _auprc(candidate, reference, paired),
            _false_plumes(candidate, reference),
            _f1(candidate, reference, paired),
            _small_plumes(candidate, reference),
            _injected(candidate),
            _enough_granules(candidate, fewest),
            _something_injected(candidate),
        ),
    )


def _auprc(candidate: Result, reference: Result, paired: Difference) -> Criterion:
    low = paired.auprc.low
    return Criterion(
        name="auprc_better",
        # Also where nothing is known (NaN): not better.
        passed=bool(low > 0.0),
        detail={
            "candidate": _number(candidate.auprc),
            "reference": _number(reference.auprc),
            "difference": _number(paired.auprc.value),
            "lower 95 % bound": _number(low),
            "upper 95 % bound": _number(paired.auprc.high),
            "granules": candidate.plumes.granules,
        },
    )


def _false_plumes(candidate: Result, reference: Result) -> Criterion:
    theirs = reference.plumes
    there = candidate.finding(theirs.found)
    detail: dict[str, float | str | None] = {
        "reference": theirs.false,
        "its threshold": reference.threshold,
        "plumes it finds": f"{theirs.found} of {theirs.plumes}",
    }
    if there is None:
        most = max((score.found for _, score in candidate.sweep), default=0)
        detail |= {"candidate": None, "reason": f"finds {most} plumes at most"}
    else:
        level, mine = there
        detail |= {
            "candidate": mine.false,
            "at threshold": level,
            "where it finds": f"{mine.found} of {mine.plumes}",
        }
    return Criterion(
        name="false_plumes_not_more",
        passed=there is not None and there[1].false <= theirs.false,
        detail=detail,
    )


def _f1(candidate: Result, reference: Result, paired: Difference) -> Criterion:
    mine, theirs = candidate.plumes, reference.plumes
    return Criterion(
        name="f1_not_less",
        passed=mine.f1 >= theirs.f1,
        detail={
            "candidate": mine.f1,
            "reference": theirs.f1,
            "lower 95 % bound": _number(paired.f1.low),
            "threshold": candidate.threshold,
            "false plumes per granule": mine.false_per_granule,
            "reference's": theirs.false_per_granule,
        },
    )


def _small_plumes(candidate: Result, reference: Result) -> Criterion:
    mine, theirs = (plume_score.recall_of_small(each.counts) for each in (candidate, reference))
    return Criterion(
        name="small_plumes_not_fewer",
        passed=mine[0] >= theirs[0],
        detail={"candidate": f"{mine[0]} of {mine[1]}", "reference": f"{theirs[0]} of {theirs[1]}"},
    )


def _injected(candidate: Result) -> Criterion:
    found, injected = candidate.recovered(STRONG_KG_H)
    return Criterion(
        name="injected_plumes_recovered",
        passed=found >= RECOVERED * injected,
        detail={"recovered": f"{found} of {injected}", "wanted share": RECOVERED},
    )


def _enough_granules(candidate: Result, fewest: int) -> Criterion:
    """Of one granule every resample is the same, and the interval of the difference has no width."""
    granules = candidate.plumes.granules
    return Criterion(
        name="enough_test_granules",
        passed=granules >= fewest,
        detail={"granules": granules, "wanted at least": fewest},
    )


def _something_injected(candidate: Result) -> Criterion:
    """70 % of no plume is found by whatever there is."""
    strong, every = candidate.recovered(STRONG_KG_H)[1], candidate.recovered(0.0)[1]
    beside = sum(each.beside_outlines for each in candidate.injected)
    detail: dict[str, float | str | None] = {
        f"injected of at least {STRONG_KG_H / 1000.0:g} t/h": strong,
        "injected": every,
        "into granules without outlines": every - beside,
        "beside outlines": beside,
    }
    if not strong:
        detail["reason"] = "no granule of the test is wide enough for such a plume, be it beside its outlines"
    return Criterion(name="plumes_injected", passed=strong > 0, detail=detail)


def _number(value: float) -> float | None:
    return float(value) if value == value else None  # noqa: PLR0124 - NaN has no JSON form
