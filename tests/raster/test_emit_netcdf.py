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
from geostack_pipeline.raster.band_mask import NO_FLAG, band_flags
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


def _bit(packed: bytes, band: int) -> int:
    """Bit of a band of one pixel, by arithmetic on one long number."""
    return int.from_bytes(packed, "big") >> (8 * len(packed) - 1 - band) & 1


@settings(max_examples=60)
@given(data=st.data())
def test_flags_of_bands_are_bits_of_one_long_number(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 5))
    pixels = data.draw(st.lists(st.binary(min_size=size, max_size=size), min_size=1, max_size=6))
    bands = sorted(data.draw(st.sets(st.integers(0, 8 * size - 1), min_size=1)))
    packed = np.frombuffer(b"".join(pixels), np.uint8).reshape(len(pixels), size)
    found = band_flags(packed, bands)
    for pixel, flags in zip(pixels, found, strict=True):
        expected = [NO_FLAG if pixel == b"\xff" * size else _bit(pixel, band) for band in bands]
        assert flags.tolist() == expected
    # NASA's emit_tools unpacks all bands and takes the wanted ones
    told = ~(packed == 255).all(axis=-1)
    assert np.array_equal(found[told], np.unpackbits(packed, axis=-1)[told][:, bands])


@pytest.mark.parametrize("dtype", ["u1", "u8"])
def test_the_mask_of_single_bands_is_read_whatever_its_type(tmp_path: Path, granule: Any, dtype: str) -> None:
    path = tmp_path / "mask.nc"
    path.write_bytes(granule.files["MASK"].read_bytes())
    with h5py.File(path, "r+") as file:
        packed = file["band_mask"][:]
        assert packed.any()
        assert packed.shape[2] == 36
        if dtype != "u1":
            del file["band_mask"]
            fill = np.uint64(2**64 - 9999)
            wide = file.create_dataset("band_mask", data=packed.astype(dtype), chunks=(32, 32, 32))
            wide.attrs["_FillValue"] = np.array([fill])
            for axis, name in enumerate(("downtrack", "crosstrack", "packed_wavelength_bands")):
                wide.dims[axis].attach_scale(file[name])
            wide[3, 4, :] = fill
    with opened(path) as file:
        found = file.band_mask(slice(2, 40), slice(1, 30))
    assert found.dtype == np.uint8
    expected = packed[2:40, 1:30].copy()
    if dtype != "u1":
        expected[1, 3] = 255
    assert np.array_equal(found, expected)
    with opened(granule.files["RAD"]) as file:
        assert file.band_mask_bytes == 0


def test_a_mask_of_single_bands_of_another_shape_is_refused(tmp_path: Path, granule: Any) -> None:
    path = tmp_path / "mask.nc"
    path.write_bytes(granule.files["MASK"].read_bytes())
    with h5py.File(path, "r+") as file:
        del file["band_mask"]
        file.create_dataset("band_mask", data=np.zeros((3, 4, 36), np.uint8))
    with pytest.raises(RasterError, match="band_mask"):
        opened(path)
