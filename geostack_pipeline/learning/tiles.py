"""Tiles: squares of a granule that overlap, and how they are laid together again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin along an axis: a stride apart, the last one flush with the end.

    An axis shorter than a tile has one tile, which reaches beyond it.
    """
    if length <= tile:
        return [0]
    stride = tile - overlap
    found = list(range(0, length - tile, stride))
    return [*found, length - tile]


def corners(shape: tuple[int, int], tile: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield (row, column) of each tile's first pixel."""
    for row in starts(shape[0], tile, overlap):
        for column in starts(shape[1], tile, overlap):
            yield row, column


def cut(
    values: npt.NDArray[np.generic], row: int, column: int, tile: int, fill: float
) -> npt.NDArray[np.generic]:
    """Return the tile of (..., y, x) at a corner, filled up where it reaches beyond the granule."""
    part = values[..., row : row + tile, column : column + tile]
    if part.shape[-2:] == (tile, tile):
        return part
    out = np.full((*values.shape[:-2], tile, tile), fill, values.dtype)
    out[..., : part.shape[-2], : part.shape[-1]] = part
    return out


def hann(tile: int) -> npt.NDArray[np.float32]:
    """Return the weights of a tile when tiles are blended: a Hann window of both axes, positive everywhere."""
    inner = np.hanning(tile + 2)[1:-1]
    return np.outer(inner, inner).astype(np.float32)
