"""Scores of the pixels of many granules, of which one granule at a time is in memory.

A test set of whole granules has more pixels than memory has room for, and what is asked of them is exact: how many
of each granule lie at or above every score of a plume pixel, and such scores are only known when the last granule was
seen.  So the scores wait on disk, sorted per granule, in a file without a name that ends with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from geostack_pipeline.errors import StorageError

Scores = npt.NDArray[np.floating[Any]]
_PART = 2**20


class Pixels:
    """The scores of granules, one after another; those of plume pixels, which are few, stay in memory.

    Args:
        folder: Where the file lies; the system's temporary folder when not given.
        dtype: Of the scores, which are stored as they are: 4 or 8 bytes of disk each.
    """

    def __init__(self, folder: Path | None = None, dtype: type[np.float32 | np.float64] = np.float32) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with this object
        self._folder = folder or Path(tempfile.gettempdir())
        self._dtype = np.dtype(dtype)
        self._ends = [0]
        self.plume: list[Scores] = []
        """Of each granule the scores of its plume pixels, the lowest first."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the disk back."""
        self._file.close()

    def __len__(self) -> int:
        """Return the number of granules."""
        return len(self.plume)

    @property
    def count(self) -> int:
        """Number of scores, of plume pixels or not."""
        return self._ends[-1] + sum(len(own) for own in self.plume)

    def add(self, scores: Scores, truth: npt.NDArray[np.bool_] | None = None) -> None:
        """Take the scores of the pixels of a granule.

        Args:
            scores: Finite, in any order.
            truth: Which of them are of plume pixels; none when not given.

        Raises:
            StorageError: The disk has no room for them.
        """
        values = np.asarray(scores, self._dtype)
        own = values[:0] if truth is None else values[truth]
        others = np.sort(values if truth is None else values[~truth])
        try:
            self._file.seek(0, 2)
            self._file.write(others.data)
            self._file.flush()
        except OSError as error:
            raise StorageError(
                "the scores of a granule cannot be put aside",
                subject=str(self._folder),
                found=f"{error.strerror or error} at {self._ends[-1] * self._dtype.itemsize / 1e9:.1f} GB",
                action="make room there, or name another folder in learning.scratch",
                retryable=True,
            ) from error
        self._ends.append(self._ends[-1] + len(others))
        self.plume.append(np.sort(own))

    def others(self, granule: int) -> Scores:
        """Return the scores of a granule's pixels that are not plume, the lowest first, mapped from the file."""
        first, last = self._ends[granule : granule + 2]
        if first == last:
            return np.empty(0, self._dtype)
        offset = first * self._dtype.itemsize
        return np.memmap(self._file, self._dtype, "r", offset=offset, shape=(last - first,))

    def at_or_above(self, granule: int, levels: Scores) -> npt.NDArray[np.int64]:
        """Return how many pixels of a granule, plume or not, have each score or a higher one."""
        parts = (self.plume[granule], self.others(granule))
        return sum(
            (len(one) - np.searchsorted(one, levels) for one in parts), np.zeros(len(levels), np.int64)
        )

    def parts(self) -> Iterator[tuple[Scores, bool]]:
        """Yield all scores, at most a million at a time, with whether they are of plume pixels."""
        for granule, own in enumerate(self.plume):
            for values, plume in ((own, True), (self.others(granule), False)):
                for first in range(0, len(values), _PART):
                    yield values[first : first + _PART], plume

    def quantiles(self, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return quantiles of all scores together, to the bit what ``numpy.quantile`` gives; 0 where there are none."""
        count = self.count
        if not count:
            return np.zeros(len(shares))
        place = (count - 1) * shares
        below = np.floor(place)
        low, high = (self._ranked(np.minimum(below + step, count - 1).astype(np.int64)) for step in (0, 1))
        share = place - below
        apart = high - low
        # From the nearer of the two, as NumPy does.
        return np.where(share >= 0.5, high - apart * (1.0 - share), low + apart * share)

    def _ranked(self, ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the scores of ranks from 0, the lowest first: bisection among all numbers of 64 bits."""
        arrays = [
            one for each in range(len(self)) for one in (self.plume[each], self.others(each)) if len(one)
        ]
        low = np.full(len(ranks), _key(np.array([min(one[0] for one in arrays)], np.float64))[0])
        high = np.full(len(ranks), _key(np.array([max(one[-1] for one in arrays)], np.float64))[0])
        while (low < high).any():
            middle = (low & high) + ((low ^ high) >> 1)
            values = _number(middle)
            enough = sum(np.searchsorted(one, values, side="right") for one in arrays) > ranks
            high, low = np.where(enough, middle, high), np.where(enough, low, middle + 1)
        return _number(low)


def _key(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return whole numbers in the order of the values."""
    bits = values.view(np.int64)
    return bits ^ ((bits >> 63) & np.int64(2**63 - 1))


def _number(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the values that keys stand for."""
    return (keys ^ ((keys >> 63) & np.int64(2**63 - 1))).view(np.float64)
