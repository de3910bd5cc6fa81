"""Area under the precision-recall curve, exact, and what it would be over other granules.

Average precision is the sum over plume pixels of the precision at their score, divided by their number; equal scores
share one threshold.  Precision there depends only on how many plume and other pixels of each granule score as
high.  With these counts per granule, a resample of granules is a matrix product, not another sort.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_array

from geostack_pipeline.learning.pixels import Pixels

Doubles = npt.NDArray[np.float64]
_BLOCK = 4096
"""Scores at a time.  The sums of blocks are added up, so another number changes the last bit of a result."""
_RESAMPLES = 128
"""Resamples at a time: each is summed by itself, so the number changes the memory alone."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How the pixels of some granules rank: counts at each distinct score of a plume pixel, highest first.

    Memory: 4 bytes per granule and distinct score.
    """

    hits: Any
    """Plume pixels of each granule at exactly that score: a sparse array of float64, (granule, score)."""
    above: npt.NDArray[np.uint32]
    """Pixels of each granule, plume or not, at that score or a higher one, (granule, score)."""

    @property
    def granules(self) -> int:
        """Number of granules."""
        return len(self.above)

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
        for first in range(0, self.above.shape[1], _BLOCK):
            hits = self.hits[:, first : first + _BLOCK].toarray()
            above = self.above[:, first : first + _BLOCK].astype(np.float64)
            for start in range(0, len(weights), _RESAMPLES):
                some = slice(start, start + _RESAMPLES)
                here = weights[some] @ hits
                reached = before[some, None] + np.cumsum(here, axis=1)
                everything = weights[some] @ above
                gained[some] += (here * reached / np.maximum(everything, 1.0)).sum(axis=1)
                before[some] = reached[:, -1]
        return np.where(total > 0.0, gained / np.maximum(total, 1.0), np.nan)

    def curve(self, points: int) -> tuple[tuple[float, float], ...]:
        """Return (recall, precision) at scores that divide the plume pixels of all granules evenly."""
        hits = np.cumsum(self.hits.sum(axis=0))
        if not hits.size:
            return ()
        above = self.above.sum(axis=0, dtype=np.float64)
        places = np.unique(np.searchsorted(hits, np.linspace(1, hits[-1], points)))
        return tuple((float(hits[each] / hits[-1]), float(hits[each] / above[each])) for each in places)


def ranking(pixels: Pixels) -> Ranking:
    """Return the ranking of granules by the scores of their pixels."""
    levels = np.unique(np.concatenate([np.empty(0, np.float32), *pixels.plume]))
    above = np.zeros((len(pixels), len(levels)), np.uint32)
    granules, places, counts = [], [], []
    for granule, own in enumerate(pixels.plume):
        above[granule] = pixels.at_or_above(granule, levels)[::-1]
        values, number = np.unique(own, return_counts=True)
        granules.append(np.full(len(values), granule))
        places.append(len(levels) - 1 - np.searchsorted(levels, values))
        counts.append(number)
    hits = csc_array(
        (_joined(counts).astype(np.float64), (_joined(granules), _joined(places))), shape=above.shape
    )
    return Ranking(hits=hits, above=above)


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, np.int64), *parts])


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
