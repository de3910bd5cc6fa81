"""``gdalwarp`` as the GDAL inside rasterio has it: rasterio itself offers its warper without the choice of overviews."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geostack_pipeline.cube.grid import GridSpec


@cache
def _library() -> ctypes.CDLL:
    package = Path(rasterio.__file__).parent
    found = sorted([*package.parent.glob("rasterio.libs/libgdal*"), *package.glob(".dylibs/libgdal*")])
    if not found:
        pytest.skip("this rasterio brings no GDAL library of its own, which is asked directly here")
    library = ctypes.CDLL(os.fspath(found[0]))
    text, pointer = ctypes.c_char_p, ctypes.c_void_p
    library.GDALOpen.restype, library.GDALOpen.argtypes = pointer, [text, ctypes.c_int]
    library.GDALClose.argtypes = [pointer]
    library.GDALWarpAppOptionsNew.restype = pointer
    library.GDALWarpAppOptionsNew.argtypes = [ctypes.POINTER(text), pointer]
    library.GDALWarpAppOptionsFree.argtypes = [pointer]
    library.GDALWarp.restype = pointer
    library.GDALWarp.argtypes = [
        text, pointer, ctypes.c_int, ctypes.POINTER(pointer), pointer, ctypes.POINTER(ctypes.c_int),
    ]  # fmt: skip
    library.GDALAllRegister()
    return library


def gdalwarp(path: Path, grid: GridSpec, how: str, into: Path, options: Sequence[str] = ()) -> np.ndarray:
    """The first band of a file on the grid, as ``gdalwarp -ovr AUTO`` makes it."""
    library = _library()
    west, south, east, north = grid.bounds
    words = [
        "-t_srs", grid.crs, "-te", *map(repr, (west, south, east, north)),
        "-ts", str(grid.width), str(grid.height), "-r", how, "-et", "0.0001", "-ovr", "AUTO", *options,
    ]  # fmt: skip
    array = (ctypes.c_char_p * (len(words) + 1))(*[word.encode() for word in words], None)
    chosen = library.GDALWarpAppOptionsNew(array, None)
    source = library.GDALOpen(os.fspath(path).encode(), 0)
    assert source
    assert chosen
    wrong = ctypes.c_int(0)
    target = library.GDALWarp(
        os.fspath(into).encode(), None, 1, (ctypes.c_void_p * 1)(source), chosen, ctypes.byref(wrong)
    )
    assert target
    library.GDALClose(target)
    library.GDALClose(source)
    library.GDALWarpAppOptionsFree(chosen)
    with rasterio.open(into) as file:
        return file.read(1)
