"""Which pixels may take part, and why the others may not: scene classification to CF flags."""

from __future__ import annotations

from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


class Quality(IntFlag):
    """Bits of ``quality_flags`` (uint16).  A pixel with no bit set is used without reservation."""

    NO_DATA = 1
    """No scene, no reflectance, or a reflectance not above zero."""
    CLOUD = 2
    """Medium or high cloud probability, or cirrus."""
    CLOUD_SHADOW = 4
    """Shadow of a cloud."""
    NEAR_CLOUD = 8
    """Within the buffer round clouds and shadows, whose edges the classification misses."""
    WATER = 16
    """Open water: too dark in both bands."""
    SNOW = 32
    """Snow or ice."""
    DEFECTIVE_OR_DARK = 64
    """Saturated, defective, or in terrain shadow."""
    NO_REFERENCE = 128
    """No multi-pass signal; the enhancement comes from the single pass alone."""
    EXTRAPOLATED = 256
    """The enhancement lies above the strongest radiance that the table was computed from."""
    CLIPPED = 512
    """The signal lies outside the table; the enhancement is the table's end."""
    VIEW_ASSUMED = 1024
    """The view zenith is unknown; nadir was taken (at most 2 % off for Sentinel-2)."""
    NO_CONVERSION = 2048
    """The sun zenith or the platform is unknown, so the signal has no enhancement."""
    OTHER_PLATFORM = 4096
    """The reference was seen by another satellite, whose bands differ a little."""


EXCLUDED = (
    Quality.NO_DATA
    | Quality.CLOUD
    | Quality.CLOUD_SHADOW
    | Quality.NEAR_CLOUD
    | Quality.WATER
    | Quality.SNOW
    | Quality.DEFECTIVE_OR_DARK
)
"""Pixels with one of these bits have no signal."""

CLOUD_BUFFER_M = 60.0
"""Width of the strip left out round clouds and their shadows."""

_CLASSES = {
    0: Quality.NO_DATA,
    1: Quality.DEFECTIVE_OR_DARK,
    2: Quality.DEFECTIVE_OR_DARK,
    3: Quality.CLOUD_SHADOW,
    6: Quality.WATER,
    8: Quality.CLOUD,
    9: Quality.CLOUD,
    10: Quality.CLOUD,
    11: Quality.SNOW,
}
"""Scene classification of Sen2Cor; 4 vegetation, 5 bare soil and 7 unclassified (often bright sand) take part."""


def quality_attributes() -> dict[str, Any]:
    """Return the CF attributes of ``quality_flags``: masks (uint16) and meanings in the same order."""
    return {
        "long_name": "quality of the methane retrieval",
        "standard_name": "quality_flag",
        "flag_masks": np.array([int(flag) for flag in Quality], dtype=np.uint16),
        "flag_meanings": " ".join(str(flag.name).lower() for flag in Quality),
    }


def classify(
    scl: NDArray[np.uint8],
    r11: NDArray[np.float32],
    r12: NDArray[np.float32],
    seen: NDArray[np.bool_],
    *,
    pixel_size_m: float,
) -> NDArray[np.uint16]:
    """Return the quality bits that the scene itself sets, uint16, shape (h, w).

    ``scl`` is the scene classification, ``r11`` and ``r12`` reflectances (NaN: none), ``seen`` says where a
    scene gave the pixel.
    """
    lookup = np.zeros(256, dtype=np.uint16)
    for number, flag in _CLASSES.items():
        lookup[number] = int(flag)
    lookup[12:] = int(Quality.NO_DATA)
    flags: NDArray[np.uint16] = lookup[scl]
    with np.errstate(invalid="ignore"):
        usable = seen & np.isfinite(r11) & np.isfinite(r12) & (r11 > 0.0) & (r12 > 0.0)
    flags[~usable] |= np.uint16(Quality.NO_DATA)
    cloudy = (flags & np.uint16(Quality.CLOUD | Quality.CLOUD_SHADOW)) != 0
    reach = int(np.ceil(CLOUD_BUFFER_M / pixel_size_m))
    if cloudy.any() and reach > 0:
        # A square grown step by step (cross, then square) is close to a disc and costs little.
        cross, square = ndimage.generate_binary_structure(2, 1), np.ones((3, 3), dtype=bool)
        grown = cloudy
        for step in range(reach):
            grown = ndimage.binary_dilation(grown, cross if step % 2 == 0 else square)
        flags[grown & ~cloudy] |= np.uint16(Quality.NEAR_CLOUD)
    return flags


def is_clear(flags: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return where no excluding bit is set."""
    clear: NDArray[np.bool_] = (flags & np.uint16(EXCLUDED)) == 0
    return clear
