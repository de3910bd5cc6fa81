"""Boxes of HDF5 variables read past the library, against h5py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.hdf5_direct import open_direct

SHAPE = (13, 11, 17)
LAYOUTS: dict[str, dict[str, Any]] = {
    "one piece": {},
    "chunks": {"chunks": (4, 5, 6)},
    "deflate": {"chunks": (4, 5, 6), "compression": "gzip", "compression_opts": 1},
    "shuffle and deflate": {"chunks": (4, 5, 6), "compression": "gzip", "shuffle": True},
    "long chunks": {"chunks": (13, 2, 17), "compression": "gzip", "shuffle": True},
    "one chunk": {"chunks": SHAPE, "compression": "gzip", "shuffle": True},
}


def values() -> np.ndarray[Any, Any]:
    numbers = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    numbers[3, 4, 5] = np.nan
    numbers[0, 0, 0] = -9999.0
    return numbers


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    found = {}
    for name, layout in LAYOUTS.items():
        for kind, libver in (("old", "earliest"), ("new", "latest")):
            path = folder / f"{name}-{kind}.h5"
            with h5py.File(path, "w", libver=libver) as file:
                file.create_dataset("radiance", data=values(), fillvalue=-9999.0, **layout)
            found[f"{name}-{kind}"] = path
    return found


@settings(max_examples=100)
@given(data=st.data())
def test_any_box_is_what_h5py_reads(files: dict[str, Path], data: st.DataObject) -> None:
    path = files[data.draw(st.sampled_from(sorted(files)))]
    box = []
    for size in SHAPE[:2]:
        start = data.draw(st.integers(0, size))
        box.append(slice(start, data.draw(st.integers(start, size))))
    bands = sorted(data.draw(st.sets(st.integers(0, SHAPE[2] - 1), min_size=1)))
    direct = open_direct(path, "radiance")
    assert direct is not None
    try:
        found = direct.read(box[0], box[1], bands)
    finally:
        direct.close()
    with h5py.File(path) as file:
        expected = file["radiance"][box[0], box[1]][..., bands]
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def test_a_variable_of_other_files_is_left_to_the_library(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["x"] = values()
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        layout = h5py.VirtualLayout(SHAPE, "<f4")
        layout[...] = h5py.VirtualSource("part.h5", "x", SHAPE)
        file.create_virtual_dataset("radiance", layout, fillvalue=-9999.0)
    assert open_direct(tmp_path / "whole.h5", "radiance") is None


@pytest.mark.parametrize("name", ["chunks", "shuffle and deflate", "one piece"])
def test_what_was_never_written_is_fill(tmp_path: Path, name: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        variable = file.create_dataset("a", SHAPE, "<f4", fillvalue=-9999.0, **LAYOUTS[name])
        if name != "one piece":
            variable[:5, :3, 7] = 2.0
    direct = open_direct(tmp_path / "a.h5", "a")
    assert direct is not None
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.array_equal(direct.read(slice(None), slice(1, 9), [0, 7, 8]), file["a"][:, 1:9, [0, 7, 8]])
    direct.close()
    direct.close()


@pytest.mark.parametrize(
    ("dtype", "shape", "options"),
    [
        ("<f8", SHAPE, {}),
        (">f4", SHAPE, {}),
        ("<i4", SHAPE, {}),
        ("<f4", SHAPE[:2], {}),
        ("<f4", SHAPE, {"chunks": (4, 5, 6), "fletcher32": True}),
        ("<f4", SHAPE, {"chunks": (4, 5, 6), "compression": "lzf"}),
        ("<f4", SHAPE, {"chunks": (4, 5, 6), "scaleoffset": 3}),
    ],
)
def test_other_packings_are_left_to_the_library(
    tmp_path: Path, dtype: str, shape: Any, options: dict[str, Any]
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=np.zeros(shape, dtype), **options)
    assert open_direct(tmp_path / "a.h5", "a") is None


def test_chunks_that_skipped_a_filter_and_files_behind_others_are_left_to_the_library(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        variable = file.create_dataset("a", SHAPE, "<f4", **LAYOUTS["deflate"])
        variable.id.write_direct_chunk((0, 0, 0), np.ones((4, 5, 6), "<f4").tobytes(), filter_mask=1)
    assert open_direct(tmp_path / "a.h5", "a") is None
    with h5py.File(tmp_path / "b.h5", "w", userblock_size=512) as file:
        file.create_dataset("a", data=values())
    assert open_direct(tmp_path / "b.h5", "a") is None
    with pytest.raises(KeyError):
        open_direct(tmp_path / "b.h5", "b")


@pytest.mark.parametrize("name", ["deflate", "shuffle and deflate"])
def test_a_corrupt_chunk_is_an_error_with_its_place(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        variable = file.create_dataset("a", data=values(), **LAYOUTS[name])
        info = variable.id.get_chunk_info_by_coord((4, 5, 6))
        place, size = info.byte_offset, info.size
    data = bytearray(path.read_bytes())
    for spoiled in (data[:place] + bytes(size) + data[place + size :], data[: place + size // 2]):
        path.write_bytes(spoiled)
        direct = None
        try:
            direct = open_direct(path, "a")
        except OSError:
            continue  # the library sees that the file is cut off
        assert direct is not None
        with pytest.raises(RasterError, match=r"a\.h5.*chunk \(1, 1, 1\)"):
            direct.read(slice(None), slice(None), [0, 6])
        assert direct.read(slice(0, 4), slice(0, 5), [0]).shape == (4, 5, 1)
        direct.close()
