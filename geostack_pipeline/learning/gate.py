"""The gate: a candidate takes over only when it is surely better and nowhere worse.

The failure it prevents: a retraining on a few wrong labels, or a lucky seed, makes the daily product worse, and nobody
sees it.  The rule: on the same frozen granules, four criteria hold, each with its numbers; otherwise the champion stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geostack_pipeline.learning import plume_score
from geostack_pipeline.learning.judging import BASELINE, Difference, Result

STRONG_KG_H = 2000.0
"""Injected plumes at or above this rate must be recovered ..."""
RECOVERED = 0.7
"""... at least in this share."""


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


def verdict(candidate: Result, reference: Result, paired: Difference) -> Verdict:
    """Return whether a candidate may replace the reference: the champion, or the baseline where there is none.

    The baseline finds few plumes, and invents few: against it F1 of plumes must be better, which weighs both.
    """
    low = paired.auprc.low
    mine, theirs = candidate.plumes, reference.plumes
    small, small_before = (
        plume_score.recall_of_small(candidate.counts),
        plume_score.recall_of_small(reference.counts),
    )
    found, injected = candidate.recovered(STRONG_KG_H)
    return Verdict(
        against=reference.method,
        criteria=(
            Criterion(
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
            ),
            _f1(candidate, reference, paired)
            if reference.method == BASELINE
            else Criterion(
                name="false_plumes_not_more",
                passed=mine.false <= theirs.false,
                detail={
                    "candidate per granule": mine.false_per_granule,
                    "reference": theirs.false_per_granule,
                },
            ),
            Criterion(
                name="small_plumes_not_fewer",
                passed=small[0] >= small_before[0],
                detail={
                    "candidate": f"{small[0]} of {small[1]}",
                    "reference": f"{small_before[0]} of {small[1]}",
                },
            ),
            Criterion(
                name="injected_plumes_recovered",
                passed=found >= RECOVERED * injected,
                detail={"recovered": f"{found} of {injected}", "wanted share": RECOVERED},
            ),
        ),
    )


def _f1(candidate: Result, reference: Result, paired: Difference) -> Criterion:
    mine, theirs = candidate.plumes, reference.plumes
    return Criterion(
        name="f1_better",
        passed=mine.f1 > theirs.f1,
        detail={
            "candidate": mine.f1,
            "reference": theirs.f1,
            "lower 95 % bound": _number(paired.f1.low),
            "false plumes per granule": mine.false_per_granule,
            "reference's": theirs.false_per_granule,
        },
    )


def _number(value: float) -> float | None:
    return float(value) if value == value else None  # noqa: PLR0124 - NaN has no JSON form
