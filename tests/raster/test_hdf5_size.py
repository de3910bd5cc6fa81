"""The size that an HDF5 file states, against the HDF5 library, which refuses files that are shorter."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import LocalStore, MemoryStore

from geostack_pipeline.errors import IntegrityError
from geostack_pipeline.providers.contract import ObjectRef, Want
from geostack_pipeline.raster.emit_netcdf import EmitFile
from geostack_pipeline.raster.hdf5_size import HEAD_BYTES, require_whole, stated_size
from geostack_pipeline.sandbox.world.emit import emit_granules
from geostack_pipeline.settings import parse_settings
from geostack_pipeline.stages.fetching import Fetcher
from geostack_pipeline.stages.traffic import Traffic
from geostack_pipeline.stages.wishes import Wish
from geostack_pipeline.stages.workspace import open_workspace


def written(path: Path, kind: str) -> bytes:
    """Write a file with a superblock of one version; return its bytes."""
    if kind == "netCDF4":
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("x", 100)
            file.createVariable("a", "f4", ("x",), zlib=True)[:] = np.arange(100.0)
        return path.read_bytes()
    if kind == "wide":
        # Bytes before the file, as some tools put there.
        with h5py.File(path, "w", userblock_size=512) as file:
            file["a"] = np.arange(100.0)
        return path.read_bytes()
    properties = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    bounds = {"0": "earliest", "2": "v108", "3": "v110"}[kind]
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    levels = {"earliest": h5py.h5f.LIBVER_EARLIEST, "v108": h5py.h5f.LIBVER_V18, "v110": h5py.h5f.LIBVER_V110}
    access.set_libver_bounds(levels[bounds], h5py.h5f.LIBVER_LATEST if kind == "3" else levels["v108"])
    identifier = h5py.h5f.create(str(path).encode(), h5py.h5f.ACC_TRUNC, fcpl=properties, fapl=access)
    with h5py.File(identifier) as file:
        file["a"] = np.arange(100.0)
    return path.read_bytes()


def opens(path: Path) -> bool:
    try:
        with h5py.File(path):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(("kind", "version"), [("0", 0), ("2", 2), ("3", 3), ("netCDF4", None)])
def test_the_stated_size_is_where_the_library_begins_to_accept(
    tmp_path: Path, kind: str, version: int | None
) -> None:
    data = written(tmp_path / "whole.h5", kind)
    if version is not None:
        assert data[8] == version
    stated = stated_size(data[:HEAD_BYTES])
    assert stated is not None
    assert stated <= len(data)
    for size, whole in ((stated, True), (stated - 1, False), (len(data) // 2, False)):
        part = tmp_path / "part.h5"
        part.write_bytes(data[:size])
        assert opens(part) is whole
        if whole:
            require_whole(data[:HEAD_BYTES], size, "x")
        else:
            with pytest.raises(IntegrityError, match=rf"{size} of {stated} bytes"):
                require_whole(data[:HEAD_BYTES], size, "x")


def test_a_superblock_of_version_1_has_four_bytes_more(tmp_path: Path) -> None:
    """No library at hand writes one: made of version 0 by the specification."""
    data = written(tmp_path / "whole.h5", "0")
    head = data[:8] + b"\x01" + data[9:24] + b"\x20\0\0\0" + data[24:HEAD_BYTES]
    assert stated_size(head) == stated_size(data[:HEAD_BYTES])


def test_what_states_no_size_is_left_to_others(tmp_path: Path) -> None:
    shifted = written(tmp_path / "wide.h5", "wide")
    tiff = b"II*\0" + bytes(100)
    for head in (b"", b"\x89HDF\r\n\x1a\n", shifted[:HEAD_BYTES], b"<html>", tiff, b"CDF\x01" + bytes(99)):
        assert stated_size(head) is None
        require_whole(head, len(head), "x")


@settings(max_examples=150)
@given(st.binary(max_size=120))
def test_any_beginning_is_judged_without_an_accident(rest: bytes) -> None:
    for head in (rest, b"\x89HDF\r\n\x1a\n" + rest):
        found = stated_size(head[:HEAD_BYTES])
        assert found is None or found >= 0


def test_half_a_granule_is_refused_by_name(tmp_path: Path, swath_world: Any) -> None:
    data = emit_granules(swath_world)[1].files["MASK"].read_bytes()
    (tmp_path / "mask.nc").write_bytes(data[: len(data) // 2])
    memory = MemoryStore()
    memory.put("mask.nc", data[:-1])
    for store in (LocalStore(tmp_path), memory):
        with pytest.raises(IntegrityError, match=rf"cut off.* of {len(data)} bytes"):
            EmitFile(store, "mask.nc")


def test_half_a_granule_never_gets_into_the_cache(tmp_path: Path, swath_world: Any) -> None:
    """The archive serves half of a file with a Content-Length that fits, and the catalog tells no size."""
    data = emit_granules(swath_world)[1].files["MASK"].read_bytes()
    archive = MemoryStore()
    archive.put("deep/mask.nc", data[: len(data) // 3])
    settings_text = {
        "root": f"file:{tmp_path / 'store'}",
        "areas": {"a": {"bbox": [0.0, 0.0, 0.1, 0.1]}},
        "providers": {"cmr_stac": {}},
    }
    ws = open_workspace(parse_settings(settings_text))
    place = ObjectRef(
        store_id="https://archive", key="deep/mask.nc", canonical="https://archive/deep/mask.nc"
    )
    wish = Wish(
        area="a",
        bounds=(0.0, 0.0, 0.1, 0.1),
        crs="EPSG:4326",
        item={"id": "G1", "assets": {"MASK": {"href": "https://archive/deep/mask.nc"}}},
        want=Want(asset="MASK", how="whole"),
        coverage=1.0,
        routes=[place],
    )
    provider: Any = SimpleNamespace(key="cmr_stac", store=lambda _: archive, renew=lambda _: False)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    fetcher = Fetcher(ws, provider, scratch, Traffic())
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"G1 asset MASK.*cut off"):
            fetcher.fetch(wish)
    assert ws.blobs.find(wish.whole_key) is None
    archive.put("deep/mask.nc", data)
    blob = fetcher.fetch(wish)
    assert blob is not None
    assert blob.size == len(data)
    assert list(scratch.iterdir()) == []
