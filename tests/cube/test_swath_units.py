"""Every number of the swath products says what it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from product_swaths import PRODUCTS, store_product

SAYS = {"units", "flag_values", "flag_masks"}


@pytest.mark.parametrize("product", PRODUCTS)
def test_numbers_have_units_or_flags(tmp_path: Path, swath_world: Any, product: str) -> None:
    folder = store_product(swath_world, product, tmp_path / "t")
    node = xr.open_zarr(folder, group="a", chunks=None, decode_cf=False)
    numbers = {
        str(name): set(variable.attrs)
        for name, variable in node.variables.items()
        # CF asks for none of a grid mapping, whose value means nothing
        if variable.dtype.kind in "iuf" and "grid_mapping_name" not in variable.attrs
    }
    assert len(numbers) >= 4
    assert sorted(name for name, about in numbers.items() if not about & SAYS) == []
    assert not [name for name, about in numbers.items() if "flag_meanings" in about and "units" in about]
