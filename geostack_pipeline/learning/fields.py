"""The fields that the model reads, and what is known of a granule as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from geostack_pipeline.errors import RasterError

Floats = npt.NDArray[np.float32]
ENHANCEMENT, UNCERTAINTY, SENSITIVITY = "ch4_enhancement", "ch4_uncertainty", "ch4_sensitivity"
FIELDS = (ENHANCEMENT, UNCERTAINTY, SENSITIVITY)
"""Variables of a methane node, in the order of the model's input."""
BLUR_PIXELS = 1.0
_GAUSSIAN_MAD = 1.4826


@dataclass(frozen=True, kw_only=True)
class Background:
    """Robust statistics of a granule: of the enhancement as it is, and blurred."""

    centre: float
    """Median enhancement, ppm m."""
    scatter: float
    """Robust standard deviation of the enhancement, ppm m."""
    blurred_centre: float
    blurred_scatter: float
    uncertainty: float
    """Median uncertainty, ppm m."""

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, numbers: Mapping[str, float]) -> Background:
        """Return what :meth:`as_dict` gave."""
        return cls(**{name: float(numbers[name]) for name in cls.__dataclass_fields__})

    @property
    def array(self) -> Floats:
        """The numbers as float32, in the order of the fields."""
        return np.array(list(vars(self).values()), np.float32)


def stacked(fields: Mapping[str, npt.ArrayLike], subject: str = "granule") -> Floats:
    """Return enhancement, uncertainty and sensitivity as (3, y, x), NaN in all three where one is not finite.

    A product without sensitivity (the early ones) counts as 1.

    Raises:
        RasterError: A field is missing, or they are not of one shape.
    """
    missing = [name for name in (ENHANCEMENT, UNCERTAINTY) if name not in fields]
    if missing:
        raise RasterError(
            "the plume model lacks an input",
            subject=subject,
            found=f"no {', '.join(missing)}",
            action="fetch CH4ENH, CH4UNCERT and CH4SENS of the granule",
        )
    enhancement = np.asarray(fields[ENHANCEMENT], np.float32)
    uncertainty = np.asarray(fields[UNCERTAINTY], np.float32)
    sensitivity = np.asarray(fields.get(SENSITIVITY, np.ones_like(enhancement)), np.float32)
    if enhancement.ndim != 2 or not enhancement.shape == uncertainty.shape == sensitivity.shape:
        raise RasterError(
            "the fields of the granule are not of one shape",
            subject=subject,
            found=f"{enhancement.shape}, {uncertainty.shape}, {sensitivity.shape}",
            action="look at the granule's files",
        )
    out = np.stack([enhancement, uncertainty, sensitivity])
    good = np.isfinite(out).all(axis=0) & (uncertainty > 0.0)
    out[:, ~good] = np.nan
    return out


def blurred(enhancement: Floats, sigma: float = BLUR_PIXELS) -> npt.NDArray[np.float64]:
    """Return a field blurred by a Gaussian over its finite pixels alone, NaN where it is NaN."""
    good = np.isfinite(enhancement)
    weight = gaussian_filter(good.astype(np.float64), sigma, mode="constant")
    total = gaussian_filter(np.where(good, enhancement, 0.0).astype(np.float64), sigma, mode="constant")
    return np.where(good, total / np.maximum(weight, 1e-12), np.nan)


def background(stack: Floats) -> Background:
    """Return the statistics of a granule's fields (3, y, x); of one without a valid pixel: 0 and 1."""
    centre, scatter = _robust(stack[0])
    blurred_centre, blurred_scatter = _robust(blurred(stack[0]))
    known = stack[1][np.isfinite(stack[1])]
    return Background(
        centre=centre,
        scatter=scatter,
        blurred_centre=blurred_centre,
        blurred_scatter=blurred_scatter,
        uncertainty=float(np.median(known)) if known.size else 1.0,
    )


def _robust(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    known = values[np.isfinite(values)].astype(np.float64)
    if not known.size:
        return 0.0, 1.0
    centre = float(np.median(known))
    scatter = _GAUSSIAN_MAD * float(np.median(np.abs(known - centre)))
    return centre, scatter if scatter > 0.0 else 1.0


def matched_filter_score(stack: Floats, about: Background) -> npt.NDArray[np.float64]:
    """Return the baseline's score: the blurred matched filter above its median, ppm m, NaN where masked."""
    return blurred(stack[0]) - about.blurred_centre
