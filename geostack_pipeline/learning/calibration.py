"""Whether a probability of 0.7 means 7 in 10."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geostack_pipeline.learning.pixels import Pixels

BINS = 15


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Pixels by predicted probability, in bins of equal width."""

    count: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.float64]
    """Mean probability, NaN in empty bins."""
    observed: npt.NDArray[np.float64]
    """Share of plume pixels, NaN in empty bins."""

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean of |predicted - observed| weighted by pixels (Naeini et al. 2015)."""
        used = self.count > 0
        gap = np.abs(self.predicted[used] - self.observed[used])
        return float((gap * self.count[used]).sum() / max(self.count.sum(), 1))

    def rows(self) -> list[dict[str, float]]:
        """Return the bins that hold pixels."""
        return [
            {"pixels": int(n), "predicted": float(p), "observed": float(o)}
            for n, p, o in zip(self.count, self.predicted, self.observed, strict=True)
            if n
        ]


class Bins:
    """Pixels by predicted probability, granule after granule."""

    def __init__(self) -> None:
        self._count = np.zeros(BINS, np.int64)
        self._predicted = np.zeros(BINS)
        self._observed = np.zeros(BINS)

    def add(self, probability: npt.NDArray[np.floating], truth: npt.NDArray[np.bool_]) -> None:
        """Take pixels with probabilities in [0, 1], and whether they are plume."""
        numbers = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
        self._count += np.bincount(numbers, minlength=BINS)
        self._predicted = _summed(self._predicted, numbers, probability)
        self._observed = _summed(self._observed, numbers, truth)

    def reliability(self) -> Reliability:
        """Return the reliability of the pixels so far."""
        with np.errstate(invalid="ignore"):
            return Reliability(
                count=self._count.copy(),
                predicted=self._predicted / self._count,
                observed=self._observed / self._count,
            )


def _summed(
    before: npt.NDArray[np.float64], numbers: npt.NDArray[np.int64], values: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Return sums of bins that go on from what they were, pixel by pixel: to the bit those of one array of everything."""
    places = np.concatenate([np.arange(BINS), numbers])
    return np.asarray(np.bincount(places, weights=np.concatenate([before, values])), np.float64)


_LARGEST_LOGIT = 15.0
"""Beyond it a float32 probability is 0 or 1."""


@dataclass(frozen=True, kw_only=True)
class Platt:
    """A line in the logit that turns a network's confidence into a probability (Platt 1999)."""

    scale: float = 1.0
    """Greater than 0, so that the order of pixels stays."""
    shift: float = 0.0


def fit(pixels: Pixels) -> Platt:
    """Return the line of greatest likelihood, by Newton's method; none where there is one class only.

    Training shows plumes far more often than granules do, so what a network says must be brought down again.

    Args:
        pixels: Probabilities as the network gives them, and which of them are of plume pixels.
    """
    plumes = sum(len(own) for own in pixels.plume)
    if plumes in (0, pixels.count):
        return Platt()
    line = np.array([1.0, 0.0])
    for _ in range(50):
        # A weak pull towards the identity keeps separable pixels finite.
        gradient, curvature = 1e-2 * (line - [1.0, 0.0]), 1e-2 * np.eye(2)
        for probability, plume in pixels.parts():
            p = np.clip(probability.astype(np.float64), 1e-12, 1.0 - 1e-7)
            x = np.clip(np.log(p) - np.log1p(-p), -_LARGEST_LOGIT, _LARGEST_LOGIT)
            design = np.stack([x, np.ones_like(x)])
            now = 1.0 / (1.0 + np.exp(-np.clip(line @ design, -40.0, 40.0)))
            gradient += design @ (now - plume)
            curvature += (design * (now * (1.0 - now))) @ design.T
        step = np.linalg.solve(curvature, gradient)
        line -= step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return Platt(scale=float(line[0]), shift=float(line[1])) if line[0] > 0.0 else Platt()
