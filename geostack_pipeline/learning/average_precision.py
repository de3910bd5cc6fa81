"""Area under the precision-recall curve, exact, and what it would be over other granules.

Average precision is the sum over plume pixels of the precision at their score, divided by their number; equal scores
share one threshold.  Precision there depends only on how many plume and other pixels of each granule score as
high.  With these counts per granule, a resample of granules is a matrix product, not another sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How the pixels of some granules rank: counts at each distinct score of a plume pixel, highest first."""

    hits: Doubles
    """Plume pixels of each granule at exactly that score, (granule, score)."""
    above: Doubles
    """Pixels of each granule, plume or not, at that score or a higher one, (granule, score)."""

    @property
    def granules(self) -> int:
        """Number of granules."""
        return len(self.hits)

    def average_precision(self, times: Doubles | None = None) -> Doubles:
        """Return average precision, NaN where there is no plume pixel.

        Args:
            times: How often each granule counts, (resample, granule); each once when not given.

        Returns:
            One number per resample.
        """
        weights = np.ones((1, self.granules)) if times is None else np.asarray(times, np.float64)
        total = weights @ self.hits.sum(axis=1)
        gained = np.zeros(len(weights))
        before = np.zeros(len(weights))
        for first in range(0, self.hits.shape[1], _BLOCK):
            here = weights @ self.hits[:, first : first + _BLOCK]
            reached = before[:, None] + np.cumsum(here, axis=1)
            everything = weights @ self.above[:, first : first + _BLOCK]
            gained += (here * reached / np.maximum(everything, 1.0)).sum(axis=1)
            before = reached[:, -1]
        return np.where(total > 0.0, gained / np.maximum(total, 1.0), np.nan)


def ranking(scores: Sequence[npt.NDArray[np.floating]], truth: Sequence[npt.NDArray[np.bool_]]) -> Ranking:
    """Return the ranking of granules.

    Args:
        scores: Of the pixels that count, one array per granule, finite.
        truth: Whether each of them is plume.
    """
    plume = [one[mask] for one, mask in zip(scores, truth, strict=True)]
    levels = np.unique(np.concatenate([np.empty(0), *plume]))
    hits = np.zeros((len(scores), len(levels)))
    above = np.zeros_like(hits)
    for granule, (one, own) in enumerate(zip(scores, plume, strict=True)):
        hits[granule] = np.bincount(np.searchsorted(levels, own), minlength=len(levels))
        above[granule] = len(one) - np.searchsorted(np.sort(one), levels, side="left")
    return Ranking(hits=hits[:, ::-1], above=above[:, ::-1])


def resamples(granules: int, count: int, seed: int) -> Doubles:
    """Return how often each granule is drawn in each bootstrap resample, (count, granules)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(granules, np.full(granules, 1.0 / granules), size=count).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """Return the numbers by name; None for what is not defined."""
        return {name: value if np.isfinite(value) else None for name, value in vars(self).items()}


def interval(value: float, drawn: Doubles) -> Interval:
    """Return a value with the 2.5 and 97.5 percentiles of its resamples (NaN ones left out)."""
    known = drawn[np.isfinite(drawn)]
    if not known.size:
        return Interval(value=value, low=float("nan"), high=float("nan"))
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(value=value, low=float(low), high=float(high))
