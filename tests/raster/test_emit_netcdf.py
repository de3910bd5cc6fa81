"""EMIT's NetCDF files read by the project, against h5py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import LocalStore, MemoryStore

from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.emit_netcdf import EmitFile, _runs
from geostack_pipeline.sandbox.world.emit import emit_granules


@pytest.fixture(scope="module")
def granule(swath_world: Any) -> Any:
    return emit_granules(swath_world)[1]


def opened(path: Path) -> EmitFile:
    return EmitFile(LocalStore(path.parent), path.name)


@pytest.mark.parametrize(
    ("key", "variable"),
    [("RAD", "radiance"), ("RFL", "reflectance"), ("OBS", "obs"), ("MASK", "mask")],
)
def test_numbers_and_description_are_those_of_h5py(granule: Any, key: str, variable: str) -> None:
    with opened(granule.files[key]) as file, h5py.File(granule.files[key]) as oracle:
        assert file.variable == variable
        main = oracle[variable]
        assert (file.lines, file.samples, file.bands) == main.shape
        bands = [0, 1, 2, file.bands - 1]
        found = file.read(slice(3, 40), slice(10, 64), bands)
        assert np.array_equal(found, main[3:40, 10:64][..., bands])
        assert np.array_equal(file.plane(1), main[:, :, 1])
        parameters = oracle["sensor_band_parameters"]
        if "wavelengths" in parameters:
            assert file.wavelength is not None
            assert np.array_equal(file.wavelength, parameters["wavelengths"][:])
            assert np.array_equal(file.fwhm, parameters["fwhm"][:])
            assert file.names == ()
        else:
            assert file.wavelength is None
            listed = next(parameters[name] for name in parameters if name.endswith("_bands"))
            assert file.names == tuple(text.decode() for text in listed[:])
        for name in ("lon", "lat", "elev", "glt_x", "glt_y"):
            assert np.array_equal(file.location(name), oracle[f"location/{name}"][:])
        west, step, _, north, _, down = oracle.attrs["geotransform"]
        assert file.geotransform == (step, 0.0, west, 0.0, down, north)


def test_good_wavelengths_are_told_by_reflectance_alone(granule: Any) -> None:
    with opened(granule.files["RFL"]) as file, h5py.File(granule.files["RFL"]) as oracle:
        assert file.good is not None
        assert np.array_equal(file.good, oracle["sensor_band_parameters/good_wavelengths"][:] == 1)
        assert not file.good.all()
    with opened(granule.files["RAD"]) as file:
        assert file.good is None


def test_a_remote_file_is_read_by_ranges(granule: Any) -> None:
    path = granule.files["MASK"]
    store = MemoryStore()
    store.put("deep/mask.nc", path.read_bytes())
    with EmitFile(store, "deep/mask.nc") as file, h5py.File(path) as oracle:
        assert np.array_equal(file.plane(5), oracle["mask"][:, :, 5])


def test_no_data_of_the_look_up_table_is_zero(tmp_path: Path, granule: Any) -> None:
    path = tmp_path / "rad.nc"
    path.write_bytes(granule.files["MASK"].read_bytes())
    with h5py.File(path, "r+") as file:
        table = file["location/glt_x"][:]
        table[table == 0] = -9999
        file["location/glt_x"][:] = table
    with opened(path) as file:
        assert file.location("glt_x").min() == 0
        assert np.array_equal(file.location("glt_x") > 0, table > 0)


def _without(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "NetCDF-4"),
        (lambda path: path.write_bytes(b"<html>log in</html>" * 100), "NetCDF-4"),
        (lambda path: path.unlink(), "missing"),
        (lambda path: _without(path, "mask"), "structure"),
        (lambda path: _without(path, "location"), "location"),
        (lambda path: _without(path, "sensor_band_parameters"), "sensor_band_parameters"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, granule: Any, spoil: Any, found: str) -> None:
    path = tmp_path / "mask.nc"
    path.write_bytes(granule.files["MASK"].read_bytes())
    spoil(path)
    with pytest.raises(RasterError, match=found):
        opened(path)


@settings(max_examples=200)
@given(st.sets(st.integers(0, 40), min_size=1))
def test_runs_cover_each_band_once_in_order(chosen: set[int]) -> None:
    bands = sorted(chosen)
    out = np.full(len(bands), -1)
    for where, run in _runs(bands):
        out[where] = np.arange(41)[run]
    assert out.tolist() == bands
