"""Whether a probability of 0.7 means 7 in 10."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


def reliability(probability: npt.NDArray[np.floating], truth: npt.NDArray[np.bool_]) -> Reliability:
    """Return the reliability of pixel probabilities in [0, 1]."""
    numbers = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(numbers, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return Reliability(
            count=count,
            predicted=np.bincount(numbers, weights=probability, minlength=BINS) / count,
            observed=np.bincount(numbers, weights=truth, minlength=BINS) / count,
        )


_LARGEST_LOGIT = 15.0
"""Beyond it a float32 probability is 0 or 1."""


@dataclass(frozen=True, kw_only=True)
class Platt:
    """A line in the logit that turns a network's confidence into a probability (Platt 1999)."""

    scale: float = 1.0
    """Greater than 0, so that the order of pixels stays."""
    shift: float = 0.0


def fit(probability: npt.NDArray[np.floating], truth: npt.NDArray[np.bool_]) -> Platt:
    """Return the line of greatest likelihood, by Newton's method; none where there is one class only.

    Training shows plumes far more often than granules do, so what a network says must be brought down again.

    Args:
        probability: Of pixels, as the network gives them.
        truth: Whether they are plume.
    """
    if truth.all() or not truth.any():
        return Platt()
    p = np.clip(probability.astype(np.float64), 1e-12, 1.0 - 1e-7)
    x = np.clip(np.log(p) - np.log1p(-p), -_LARGEST_LOGIT, _LARGEST_LOGIT)
    design = np.stack([x, np.ones_like(x)])
    line = np.array([1.0, 0.0])
    for _ in range(50):
        now = 1.0 / (1.0 + np.exp(-np.clip(line @ design, -40.0, 40.0)))
        # A weak pull towards the identity keeps separable pixels finite.
        gradient = design @ (now - truth) + 1e-2 * (line - [1.0, 0.0])
        curvature = (design * (now * (1.0 - now))) @ design.T + 1e-2 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        line -= step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return Platt(scale=float(line[0]), shift=float(line[1])) if line[0] > 0.0 else Platt()
