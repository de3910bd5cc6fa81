"""The cloud cover that an item of fields states: that of a mask, or none."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from geostack_pipeline.methane.swath_quality import SwathQuality, quality_attributes
from geostack_pipeline.stages.published_fields import _cloud_cover

CLEAR, CLOUD, EMPTY, UNTOLD = 0, SwathQuality.CLOUD, SwathQuality.NO_DATA, SwathQuality.NO_CLOUD_MASK


@pytest.mark.parametrize(
    ("flags", "method", "wanted"),
    [
        ([CLEAR, CLEAR, CLOUD, CLEAR], "cmf", 25.0),
        ([CLEAR, CLOUD, EMPTY, EMPTY], "cmf", 50.0),
        ([CLEAR, CLOUD, UNTOLD, UNTOLD], "cmf", 50.0),
        ([UNTOLD, UNTOLD, UNTOLD, EMPTY], "cmf", None),
        ([EMPTY, EMPTY, EMPTY, EMPTY], "cmf", None),
        ([CLEAR, CLEAR, EMPTY, EMPTY], "l2b", None),
    ],
)
def test_what_no_mask_tells_is_not_stated(flags: list[int], method: str, wanted: float | None) -> None:
    values = np.array(flags, np.uint16).reshape(2, 2)
    step = xr.Dataset({"quality_flags": (("y", "x"), values, quality_attributes())}, attrs={"method": method})
    assert _cloud_cover(step) == wanted
