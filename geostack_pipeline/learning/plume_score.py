"""Plumes found, missed and invented: the score of connected regions, not of pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label

from geostack_pipeline.learning.targets import IGNORED

MATCH_IOU = 0.1
SMALLEST_PIXELS = 3
"""Regions of fewer pixels are no candidates."""
RATE_BINS: Mapping[str, tuple[float, float]] = {
    "< 0.3 t/h": (0.0, 300.0),
    "0.3-1 t/h": (300.0, 1000.0),
    "1-3 t/h": (1000.0, 3000.0),
    ">= 3 t/h": (3000.0, np.inf),
}
SMALL_KG_H = 1000.0
"""Plumes below this rate are the small ones of the gate."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What was found in one granule."""

    found: npt.NDArray[np.bool_]
    """Whether each plume was found."""
    rates_kg_h: npt.NDArray[np.float64]
    """Its emission rate, NaN where unknown."""
    matched: int
    """Candidates that are a plume."""
    false: int
    """Candidates that touch no plume enough to be a part of it."""


def candidates(score: npt.NDArray[np.floating], threshold: float) -> tuple[npt.NDArray[np.int32], int]:
    """Return the regions (8 neighbours) of at least 3 pixels at or above a threshold, numbered from 1."""
    regions, count = label(np.nan_to_num(score, nan=-np.inf) >= threshold, np.ones((3, 3)))
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = np.flatnonzero(sizes >= SMALLEST_PIXELS)
    numbers = np.zeros(count + 1, np.int32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    return numbers[regions], len(kept)


def count(
    score: npt.NDArray[np.floating],
    threshold: float,
    plumes: npt.NDArray[np.int32],
    target: npt.NDArray[np.uint8],
    rates_kg_h: Sequence[float | None],
) -> Counts:
    """Compare the candidates of a granule with its plumes.

    A candidate is a plume, and the plume is found, when their intersection over union exceeds 0.1 outside the ignored
    ring.  A candidate is false when it matches none and less than half of it lies in plumes; one that lies in the
    ring alone is nothing.

    Args:
        score: (y, x), NaN where masked.
        threshold: Smallest score of a candidate's pixels.
        plumes: Number of the plume of each pixel, from 1.
        target: 255 where nothing counts.
        rates_kg_h: Emission rate of each plume, by number.
    """
    counted = target != IGNORED
    regions, many = candidates(score, threshold)
    regions, plumes = np.where(counted, regions, 0), np.where(counted, plumes, 0)
    known = len(rates_kg_h)
    # The pixels of neither are most of a granule, and count for nothing.
    used = (regions > 0) | (plumes > 0)
    pairs = regions[used].astype(np.int64) * (known + 1) + plumes[used]
    both = np.bincount(pairs, minlength=(many + 1) * (known + 1)).reshape(many + 1, known + 1)
    region_size, plume_size = both[1:].sum(axis=1), both[:, 1:].sum(axis=0)
    shared = both[1:, 1:]
    union = region_size[:, None] + plume_size[None, :] - shared
    match = shared > MATCH_IOU * np.maximum(union, 1)
    visible = plume_size > 0
    lone = (region_size > 0) & ~match.any(axis=1) & (shared.sum(axis=1) < 0.5 * region_size)
    rates = np.array([np.nan if rate is None else rate for rate in rates_kg_h], np.float64)
    return Counts(
        found=match.any(axis=0)[visible],
        rates_kg_h=rates[visible],
        matched=int(match.any(axis=1).sum()),
        false=int(lone.sum()),
    )


@dataclass(frozen=True, kw_only=True)
class PlumeScore:
    """Counts over granules."""

    plumes: int
    found: int
    matched: int
    false: int
    granules: int

    @property
    def precision(self) -> float:
        """Share of the candidates that are plumes; 1 where there is no candidate."""
        return self.matched / (self.matched + self.false) if self.matched + self.false else 1.0

    @property
    def recall(self) -> float:
        """Share of the plumes that were found; 1 where there is none."""
        return self.found / self.plumes if self.plumes else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2.0 * self.precision * self.recall / total if total else 0.0

    @property
    def false_per_granule(self) -> float:
        """Mean number of false candidates of a granule."""
        return self.false / self.granules if self.granules else 0.0


def total(
    counts: Sequence[Counts], times: Sequence[float] | npt.NDArray[np.floating] | None = None
) -> PlumeScore:
    """Return the sum over granules, each counted so often."""
    weights = [1] * len(counts) if times is None else [int(each) for each in times]
    pairs = list(zip(counts, weights, strict=True))
    return PlumeScore(
        plumes=sum(len(each.found) * weight for each, weight in pairs),
        found=sum(int(each.found.sum()) * weight for each, weight in pairs),
        matched=sum(each.matched * weight for each, weight in pairs),
        false=sum(each.false * weight for each, weight in pairs),
        granules=sum(weights),
    )


def recall_by_rate(counts: Sequence[Counts]) -> dict[str, tuple[int, int]]:
    """Return (found, all) of the plumes of each bin of emission rate, those of unknown rate too."""
    rates = np.concatenate([np.empty(0), *(each.rates_kg_h for each in counts)])
    found = np.concatenate([np.empty(0, bool), *(each.found for each in counts)])
    out = {}
    for name, (low, high) in RATE_BINS.items():
        inside = (rates >= low) & (rates < high)
        out[name] = (int(found[inside].sum()), int(inside.sum()))
    unknown = np.isnan(rates)
    out["unknown"] = (int(found[unknown].sum()), int(unknown.sum()))
    return out


def recall_of_small(counts: Sequence[Counts]) -> tuple[int, int]:
    """Return (found, all) of the plumes below 1 t/h."""
    rates = np.concatenate([np.empty(0), *(each.rates_kg_h for each in counts)])
    found = np.concatenate([np.empty(0, bool), *(each.found for each in counts)])
    small = rates < SMALL_KG_H
    return int(found[small].sum()), int(small.sum())
