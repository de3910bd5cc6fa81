"""Whether the spectra under a candidate are those of methane: the part of their distance that methane does not explain.

A matched filter answers to whatever has a component along its target: carbonate, serpentine, plastic and oil absorb
near 2.3 um as well.  But their spectra depart from the background in other directions too, and much further, while a
plume's depart along the target alone.  The filter states that rest as ``spectral_misfit``, in units of the background's
own covariance, so that both parts can be compared: the adaptive coherence estimator makes the same comparison with one
pixel (Kraut, Scharf & McWhorter 2001, IEEE Trans. Signal Process. 49, 1), here it is made with all pixels of a
candidate, where the noise of single ones has averaged out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Local = Callable[[Floats, Bools], tuple[Floats, Floats]]
"""Image and valid pixels -> its local median and robust scatter, of the image's shape."""

Smooth = Callable[[Floats, Bools], tuple[Floats, Bools]]
"""Image and valid pixels -> its smoothed form, and where that rests on enough of them."""

UNLIKE = "spectra unlike methane"
_SIGMAS = 2.0
"""So many standard errors of the mean misfit are granted: a weak plume must not fall to the noise."""
_SIGMAS_OF_A_PIXEL = 4.0
"""The same for the smoothed misfit of one pixel, of which there are many."""


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """``spectral_misfit`` of a map with the number of bands it is made of."""

    values: Floats
    """(h, w); NaN where not known."""
    bands: int

    @property
    def freedom(self) -> int:
        """Degrees of freedom: the bands less the one direction that is the target's."""
        return max(self.bands - 1, 1)


@dataclass(frozen=True, kw_only=True)
class Departures:
    """How far each pixel's spectrum is from the background, squared, in units of the background's covariance."""

    explained: Floats
    """Along the target, less the 1 that noise makes."""
    unexplained: Floats
    """In all other directions, less what is usual nearby."""
    noise: Floats
    """1-sigma of ``unexplained`` nearby."""
    known: Bools

    def surface(self, smooth: Smooth, local: Local, ratio: float, reach: int) -> Bools:
        """Return the pixels that depart far, and in other directions more than along the target, and all near them.

        They can belong to no candidate, so that a plume that touches a surface is not judged by it.  ``reach`` pixels
        around them go too: so far the smoothing carries a surface's signal, and what is left there looks like methane.
        """
        across, solid = smooth(self.unexplained, self.known)
        along, _ = smooth(self.explained, self.known)
        usual, spread = local(across, solid)
        far = across - usual > _SIGMAS_OF_A_PIXEL * spread
        unlike = solid & far & (across > ratio * np.maximum(along, np.float32(0.0)))
        if reach > 0:
            unlike = ndimage.binary_dilation(unlike, np.ones((3, 3), bool), iterations=reach)
        return np.asarray(unlike)

    def problem(self, inside: Bools, ratio: float) -> str | None:
        """Say so when the pixels ``inside`` depart in other directions by more than ``ratio`` times along the target."""
        here = inside & self.known
        count = int(here.sum())
        if not count:
            return None
        along = float(np.mean(self.explained[here], dtype=np.float64))
        across = float(np.mean(self.unexplained[here], dtype=np.float64))
        granted = _SIGMAS * float(np.mean(self.noise[here], dtype=np.float64)) / count**0.5
        return UNLIKE if across > ratio * max(along, 0.0) + granted else None


def departures(enhancement: Floats, misfit: Misfit, local: Local) -> Departures:
    """Return both parts for each pixel.

    Args:
        enhancement: ppm m, (h, w), NaN where not valid.
        misfit: Of the same pixels.
        local: Takes the local median and scatter.
    """
    known = np.isfinite(enhancement) & np.isfinite(misfit.values)
    around, scatter = local(enhancement, known)
    usual, spread = local(misfit.values, known)
    with np.errstate(invalid="ignore", divide="ignore"):
        along = ((enhancement - around) / np.maximum(scatter, np.float32(1.0))) ** 2 - np.float32(1.0)
    freedom = np.float32(misfit.freedom)
    return Departures(
        explained=np.where(known, along, np.float32(0.0)),
        unexplained=np.where(known, freedom * (misfit.values - usual), np.float32(0.0)),
        noise=freedom * spread,
        known=known,
    )
