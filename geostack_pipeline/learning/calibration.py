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
