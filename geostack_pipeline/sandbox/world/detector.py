"""A pushbroom detector: every column has its own band centres, gains and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geostack_pipeline.sandbox.world.grids import Floats
from geostack_pipeline.sandbox.world.noise import generator

SMILE_NM = 0.2
"""Shift of the band centres at both edges against the middle."""
TILT_NM = 0.03
"""Half the difference between the two edges."""
GAIN = 0.004
"""Differences between columns in all bands alike, relative, 1 sigma: what stripes an image."""
ELEMENT_GAIN = 0.0006
"""Differences between detector elements that the flat field leaves, relative, 1 sigma."""


@dataclass(frozen=True, kw_only=True)
class Detector:
    """The state of a detector during one granule."""

    shift_nm: npt.NDArray[np.float64]
    """Shift of the band centres of each column, nm, (columns,)."""
    gain: Floats
    """Factor on the radiance of each element, (columns, bands)."""
    noise: npt.NDArray[np.float64]
    """(bands, 3): a, b and c of the noise ``|a sqrt(b + L) + c|``, uW cm-2 sr-1 nm-1."""

    def sigma(self, radiance: Floats) -> Floats:
        """Return the standard deviation of the noise at a radiance (..., bands), float32."""
        a, b, c = self.noise.astype(np.float32).T
        return np.asarray(np.abs(a * np.sqrt(np.maximum(b + radiance, np.float32(0.0))) + c), np.float32)

    def measured(self, radiance: Floats, stream: np.random.Generator) -> Floats:
        """Return what it measures of a radiance (lines, columns, bands): gains, then noise."""
        values = radiance * self.gain
        values += self.sigma(values) * stream.standard_normal(values.shape, dtype=np.float32)
        return np.asarray(values, np.float32)


def detector(seed: int, key: str, columns: int, noise: npt.NDArray[np.float64]) -> Detector:
    """Return a detector of so many columns; ``key`` names the granule."""
    across = np.linspace(-1.0, 1.0, columns) if columns > 1 else np.zeros(1)
    stream = generator(seed, key, "gain")
    grey = 1.0 + GAIN * stream.standard_normal((columns, 1))
    elements = 1.0 + ELEMENT_GAIN * stream.standard_normal((columns, len(noise)))
    return Detector(
        shift_nm=SMILE_NM * across**2 + TILT_NM * across,
        gain=(grey * elements).astype(np.float32),
        noise=noise,
    )
