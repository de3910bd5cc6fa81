"""Arrays whose numbers are read when a part of them is asked for: what is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing


class _Lazy(BackendArray):
    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        read: Callable[[tuple[slice, ...]], npt.NDArray[Any]],
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._read = read

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._part)

    def _part(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        """Return a part for integers and slices; what is read is a box, of which integers drop a dimension."""
        box, chosen = [], []
        for index, size in zip(key, self.shape, strict=True):
            if isinstance(index, slice):
                start, stop, step = index.indices(size)
                if step < 0:
                    # The same pixels from the other end.
                    wanted = range(start, stop, step)
                    start, stop = (wanted[-1], wanted[0] + 1) if wanted else (0, 0)
                box.append(slice(start, max(start, stop)))
                chosen.append(slice(None, None, step))
            else:
                at = int(index) % size
                box.append(slice(at, at + 1))
                chosen.append(0)  # type: ignore[arg-type]
        return self._read(tuple(box))[tuple(chosen)]


def lazy(
    dimensions: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    read: Callable[[tuple[slice, ...]], npt.NDArray[Any]],
    attributes: dict[str, Any],
) -> xr.Variable:
    """Return a variable whose parts ``read`` gives: called with one slice of step 1 per dimension."""
    data = indexing.LazilyIndexedArray(_Lazy(shape, dtype, read))
    return xr.Variable(dimensions, data, attributes)
