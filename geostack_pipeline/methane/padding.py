"""Images padded to a few shapes, so that a kernel is compiled a few times, not once per area."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

MULTIPLE = 128
"""Heights and widths grow to multiples of this: areas that differ by less share a compiled kernel."""

T = TypeVar("T", bound=np.generic)


def pad_image(image: NDArray[T], fill: T | float | bool) -> NDArray[T]:  # noqa: FBT001 - the fill of a mask
    """Return ``image`` (h, w) with rows and columns of ``fill`` added below and right, up to `MULTIPLE`."""
    height, width = image.shape
    below, right = -height % MULTIPLE, -width % MULTIPLE
    return np.pad(image, ((0, below), (0, right)), constant_values=fill)
