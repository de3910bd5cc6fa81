"""Reflectance as 16-bit integers: reflectance = packed * 1e-4 - 0.1, and 0 is no data.

One packing for all sources, whatever offset they use: a source in units of 1e-4 keeps its
integers exactly.  Values outside [-0.0999, 6.4535] are set to the nearest end.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SCALE_FACTOR = 1e-4
ADD_OFFSET = -0.1
FILL = 0
LOWEST, HIGHEST = 1, 65535

_IDENTITY = np.arange(65536, dtype=np.uint16)


def packed(
    numbers: npt.NDArray[np.generic], *, scale: float, offset: float, nodata: float | None
) -> npt.NDArray[np.uint16]:
    """Return stored numbers as packed reflectance; no data, NaN and infinities become 0."""
    values = numbers.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.floor((values * scale + offset - ADD_OFFSET) / SCALE_FACTOR + 0.5)
    out: npt.NDArray[np.uint16] = np.clip(np.nan_to_num(scaled, nan=LOWEST), LOWEST, HIGHEST).astype(
        np.uint16
    )
    missing = ~np.isfinite(values)
    if nodata is not None and np.isfinite(nodata):
        missing |= numbers == nodata
    out[missing] = FILL
    return out


def classes(numbers: npt.NDArray[np.generic], *, nodata: float | None) -> npt.NDArray[np.uint16]:
    """Return stored numbers as classes 0 to 255; no data becomes 0."""
    out: npt.NDArray[np.uint16] = np.clip(np.nan_to_num(numbers.astype(np.float64)), 0, 255).astype(np.uint16)
    if nodata is not None and np.isfinite(nodata):
        out[numbers == nodata] = 0
    return out


def all_numbers(dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic] | None:
    """Return every number of an integer type of at most 16 bits, indexed by its bits; None for others."""
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        return None
    return np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}").view(dtype)


def identity() -> npt.NDArray[np.uint16]:
    """Return the table that leaves packed numbers as they are."""
    return _IDENTITY
