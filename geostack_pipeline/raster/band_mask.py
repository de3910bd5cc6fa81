"""EMIT's mask of single bands: which bands of a pixel were interpolated, eight to a byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

NO_FLAG = 255
"""Flag of a pixel of which nothing is told."""


def band_flags(packed: npt.NDArray[np.uint8], bands: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Return the flags of bands, counted from 0: 1 where the product masks the band of the pixel, 255 for no data.

    The rule is that of NASA's ``emit_tools``: ``numpy.unpackbits`` along the last axis, band by band; here without unpacking
    the bands that are not wanted.

    Args:
        packed: (…, bytes); a pixel of 255 alone has no data: real ones have zeros behind the last band.
        bands: Which bands, shape (n,).

    Returns:
        (…, n), uint8.
    """
    chosen = np.asarray(bands, np.intp)
    flags = packed[..., chosen >> 3]
    flags >>= (7 - (chosen & 7)).astype(np.uint8)
    flags &= np.uint8(1)
    flags[(packed == NO_FLAG).all(axis=-1)] = NO_FLAG
    return flags
