"""Boxes of a large variable in a local HDF5 file, with chunks decoded side by side by the fastest inflate.

The HDF5 library finds the chunks; their bytes are read and inflated here, since the library decodes one chunk at a time,
with plain zlib, under one lock for the whole process.  Undoing the byte shuffle and taking the wanted bands is one pass.
What the library packs in another way is left to it: :func:`open_direct` says so by None.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import local
from typing import Any

import h5py
import imagecodecs
import numpy as np
import numpy.typing as npt
from numba import njit

from geostack_pipeline.errors import RasterError

_DTYPE = np.dtype("<f4")
_THREADS = max(1, min(4, os.cpu_count() or 1))
_PIECE_BYTES = 256 << 10
_ALONE_BYTES = 4 << 20
_SHUFFLE, _DEFLATE = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE

Cell = tuple[int, int, int]
"""Numbers of a chunk along the three dimensions."""


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """Where a variable's bytes lie."""

    shape: tuple[int, int, int]
    chunk: tuple[int, int, int]
    """Shape of a chunk; that of the whole where the bytes lie in one piece."""
    places: dict[Cell, tuple[int, int]]
    """Chunk -> offset in the file and bytes; a chunk that was never written is not there."""
    fill: float
    shuffled: bool
    deflated: bool


class DirectArray:
    """A variable of three dimensions and float32; reads are thread-safe.

    Args:
        path: The file.
        stored: Where its bytes lie.
    """

    def __init__(self, path: Path, stored: _Stored) -> None:
        self._path = path
        self._stored = stored
        self._file = os.open(path, os.O_RDONLY)

    @property
    def chunk(self) -> tuple[int, int, int]:
        """Shape of a chunk; that of the whole where the bytes lie in one piece."""
        return self._stored.chunk

    @property
    def in_one_piece(self) -> bool:
        """Whether the bytes lie unpacked in one piece."""
        stored = self._stored
        return not stored.deflated and not stored.shuffled and stored.chunk == stored.shape

    def read(self, lines: slice, samples: slice, bands: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return (lines, samples, bands) in the file's numbers; slices have step 1 and lie inside.

        Memory: what is returned, and per thread a packed and an inflated chunk.

        Raises:
            RasterError: A chunk is missing bytes or corrupt.
        """
        rows, columns = (
            range(*each.indices(size))
            for each, size in zip((lines, samples), self._stored.shape, strict=False)
        )
        out = np.empty((len(rows), len(columns), len(bands)), np.float32)
        if not out.size:
            return out
        if self.in_one_piece:
            return self._in_one_piece(rows, columns, bands, out)
        wanted = np.asarray(bands, np.int64)
        high, wide, deep = self._stored.chunk
        cells = product(
            range(rows.start // high, (rows.stop - 1) // high + 1),
            range(columns.start // wide, (columns.stop - 1) // wide + 1),
            np.unique(wanted // deep).tolist(),
        )
        _each(lambda cell: self._paste(cell, rows, columns, wanted, out), cells, out.nbytes)
        return out

    def _in_one_piece(
        self, rows: range, columns: range, bands: Sequence[int], out: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Fill ``out`` from bytes that lie in one piece, some pixels at a time into a buffer that stays in the cache.

        Mapped, whole lines would count as memory, and a file that is cut off meanwhile would end the process.
        """
        place = self._stored.places.get((0, 0, 0))
        if place is None:
            out[:] = self._stored.fill
            return out
        _, wide, deep = self._stored.shape
        first, last = int(bands[0]), int(bands[-1])
        together = list(bands) == list(range(first, last + 1))
        chosen: Any = slice(first, last + 1) if together else np.asarray(bands)
        at_once = max(1, _PIECE_BYTES // (deep * _DTYPE.itemsize))
        pieces = local()

        def line(i: int) -> None:
            buffer = getattr(pieces, "buffer", None)
            if buffer is None:
                buffer = pieces.buffer = np.empty((at_once, deep), _DTYPE)
            for j in range(0, len(columns), at_once):
                part = buffer[: min(at_once, len(columns) - j)]
                start = ((rows.start + i) * wide + columns.start + j) * deep
                size = os.preadv(self._file, [part.data], place[0] + start * _DTYPE.itemsize)
                if size != part.nbytes:
                    raise self._corrupt(f"line {rows.start + i}: {size} of {part.nbytes} bytes")
                out[i, j : j + len(part)] = part[:, chosen]

        _each(line, range(len(rows)), out.nbytes)
        return out

    def _paste(
        self,
        cell: Cell,
        rows: range,
        columns: range,
        wanted: npt.NDArray[np.int64],
        out: npt.NDArray[np.float32],
    ) -> None:
        """Write the part of one chunk that lies in the box; chunks write different pixels."""
        stored = self._stored
        high, wide, deep = stored.chunk
        top, left, first = (number * size for number, size in zip(cell, stored.chunk, strict=True))
        i0, i1 = max(rows.start, top), min(rows.stop, top + high)
        j0, j1 = max(columns.start, left), min(columns.stop, left + wide)
        places = np.flatnonzero(wanted // deep == cell[2])
        part = out[i0 - rows.start : i1 - rows.start, j0 - columns.start : j1 - columns.start]
        if cell not in stored.places:
            part[:, :, places] = stored.fill
            return
        values = self._inflated(cell)
        local = wanted[places] - first
        if stored.shuffled:
            _unshuffled(values, wide, deep, i0 - top, j0 - left, local, places, part.view(np.uint32))
        else:
            box = values.view(_DTYPE).reshape(stored.chunk)[i0 - top : i1 - top, j0 - left : j1 - left]
            part[:, :, places] = box[:, :, local]

    def _inflated(self, cell: Cell) -> npt.NDArray[np.uint8]:
        offset, size = self._stored.places[cell]
        data = os.pread(self._file, size, offset)
        expected = math.prod(self._stored.chunk) * _DTYPE.itemsize
        found = f"{len(data)} of {size} bytes"
        if len(data) == size:
            try:
                plain = imagecodecs.deflate_decode(data, out=expected) if self._stored.deflated else data
            except (RuntimeError, ValueError) as error:
                found = str(error)[:120]
            else:
                if len(plain) == expected:
                    return np.frombuffer(plain, np.uint8)
                found = f"{len(plain)} of {expected} bytes when inflated"
        raise self._corrupt(f"chunk {cell}: {found}")

    def _corrupt(self, found: str) -> RasterError:
        return RasterError(
            "A part of the file cannot be read",
            subject=self._path.name,
            found=found,
            action="fetch the object again; if it stays so, the source is corrupt",
        )

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _each(work: Callable[[Any], None], items: Iterable[Any], size: int) -> None:
    """Work on all items: side by side, unless the box is so small that starting threads costs more than it saves."""
    if size <= _ALONE_BYTES:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(work, items):
            pass


@njit(nogil=True, cache=True)
def _unshuffled(
    planes: npt.NDArray[np.uint8],
    wide: int,
    deep: int,
    top: int,
    left: int,
    local: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint32],
) -> None:
    """Join the four bytes of each wanted number, which lie in four planes one after the other."""
    count = planes.shape[0] // 4
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            base = ((top + i) * wide + left + j) * deep
            for k in range(local.shape[0]):
                at = base + local[k]
                out[i, j, places[k]] = (
                    np.uint32(planes[at])
                    | (np.uint32(planes[count + at]) << np.uint32(8))
                    | (np.uint32(planes[2 * count + at]) << np.uint32(16))
                    | (np.uint32(planes[3 * count + at]) << np.uint32(24))
                )


def open_direct(path: Path, name: str) -> DirectArray | None:
    """Return a variable that can be read this way; None for one that the HDF5 library must read.

    Args:
        path: An HDF5 file on a local disk.
        name: The variable, of three dimensions.

    Raises:
        OSError, KeyError: The library cannot open the file or has no such variable.
    """
    with h5py.File(path, "r") as file:
        stored = _stored(file, file[name])
    return None if stored is None else DirectArray(path, stored)


def _stored(file: h5py.File, variable: Any) -> _Stored | None:
    if variable.dtype != _DTYPE or variable.ndim != 3 or file.userblock_size:
        return None
    if variable.external or variable.is_virtual:
        return None  # its bytes lie in other files
    about = {"shape": variable.shape, "fill": float(variable.fillvalue)}
    if variable.chunks is None:
        offset = variable.id.get_offset()
        if offset is None and variable.id.get_storage_size():
            return None  # compact: in the header
        size = math.prod(variable.shape) * _DTYPE.itemsize
        places = {} if offset is None else {(0, 0, 0): (int(offset), size)}
        return _Stored(**about, chunk=variable.shape, places=places, shuffled=False, deflated=False)
    pipeline = variable.id.get_create_plist()
    filters = [pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())]
    if filters not in ([], [_DEFLATE], [_SHUFFLE, _DEFLATE]):
        return None
    high, wide, deep = (int(size) for size in variable.chunks)
    places = {}
    skipped = 0

    def note(info: Any) -> None:
        nonlocal skipped
        skipped |= info.filter_mask
        line, sample, band = (int(start) for start in info.chunk_offset)
        places[line // high, sample // wide, band // deep] = (int(info.byte_offset), int(info.size))

    variable.id.chunk_iter(note)
    if skipped:
        return None  # some chunks went through fewer filters
    return _Stored(
        **about,
        chunk=(high, wide, deep),
        places=places,
        shuffled=_SHUFFLE in filters,
        deflated=_DEFLATE in filters,
    )
