"""Swath cubes against the products' own files: h5py for NetCDF, rasterio for GeoTIFF, float64 arithmetic."""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import xarray as xr
from obstore.store import LocalStore
from zarr.storage import ObjectStore

from geostack_pipeline.cube.lazy import lazy
from geostack_pipeline.cube.swath import (
    Granule,
    Outline,
    OutsideError,
    SourceFile,
    node_name,
    open_granule,
    readable,
)
from geostack_pipeline.cube.write import finish_tree, write_node
from geostack_pipeline.errors import RasterError
from geostack_pipeline.sandbox.world.emit import emit_granules
from geostack_pipeline.sandbox.world.emit_netcdf import OBS_BANDS, write_netcdf
from geostack_pipeline.sandbox.world.enmap import enmap_scenes
from geostack_pipeline.sandbox.world.swath import Swath

RANGES = ((640.0, 670.0), (2120.0, 2480.0))


def source(path: Path) -> SourceFile:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return SourceFile(
        store=LocalStore(path.parent), key=path.name, sha256=digest, canonical=f"s3://b/{path.name}"
    )


def granule_of(emit: Any, *keys: str) -> Granule:
    return Granule(
        item_id=f"EMIT_X_{emit.name}",
        scene=f"EMIT_{emit.name}",
        collection="EMITL1BRAD_001",
        datetime=emit.start,
        platform="iss",
        area=emit.area,
        files={key: source(emit.files[key]) for key in keys},
    )


@pytest.fixture(scope="module")
def emit(swath_world: Any) -> Any:
    return next(granule for granule in emit_granules(swath_world) if granule.plumes)


@pytest.fixture(scope="module")
def enmap(swath_world: Any) -> Any:
    return enmap_scenes(swath_world)[1]


@pytest.fixture(scope="module")
def boxes(swath_world: Any) -> dict[str, Any]:
    return {area.name: area.bbox for area in swath_world.areas}


def stored(folder: Path, granule: Granule, **options: Any) -> xr.Dataset:
    folder.mkdir(exist_ok=True)
    store = ObjectStore(LocalStore(folder))
    with open_granule(granule, **options) as node:
        write_node(store, "a", node.dataset, chunks=node.chunks, apart=node.apart)
    finish_tree(store, {})
    return xr.open_datatree(folder, engine="zarr", chunks=None)["a"].to_dataset()


def test_radiance_of_the_wanted_bands_with_its_geometry(
    tmp_path: Path, emit: Any, boxes: dict[str, Any]
) -> None:
    cube = stored(tmp_path / "t", granule_of(emit, "RAD", "OBS"), bounds=boxes[emit.area], ranges=RANGES)
    with h5py.File(emit.files["RAD"]) as rad, h5py.File(emit.files["OBS"]) as obs:
        nm = rad["sensor_band_parameters/wavelengths"][:]
        kept = np.flatnonzero(((nm >= 640) & (nm <= 670)) | ((nm >= 2120) & (nm <= 2480)))
        assert cube["radiance"].dims == ("downtrack", "crosstrack", "wavelength")
        assert np.array_equal(cube["radiance"].values, rad["radiance"][:][..., kept])
        assert np.array_equal(cube["wavelength"].values, nm[kept])
        assert np.array_equal(cube["band_number"].values, kept + 1)
        assert np.array_equal(cube["fwhm"].values, rad["sensor_band_parameters/fwhm"][:][kept])
        assert np.array_equal(cube["lat"].values, rad["location/lat"][:])
        assert np.array_equal(cube["glt_x"].values, rad["location/glt_x"][:])
        assert cube["glt_x"].dtype == np.int32
        for name, band in (("sensor_zenith", 2), ("solar_zenith", 4), ("utc_hour", 9)):
            assert np.array_equal(cube[name].values, obs["obs"][:, :, band])
    assert cube["radiance"].attrs["units"] == "uW cm-2 sr-1 nm-1"
    assert cube["wavelength"].attrs["units"] == "nm"
    assert set(cube["radiance"].coords) >= {"lat", "lon", "elev", "fwhm", "time"}
    assert cube["time"].values == np.datetime64(emit.start.replace(tzinfo=None), "ns")
    assert cube.attrs["source_assets"] == ["OBS", "RAD"]
    assert cube.attrs["source_sha256"][1] == hashlib.sha256(emit.files["RAD"].read_bytes()).hexdigest()
    # The coordinates of the look-up table are the pixels it leads from.
    rows, columns = np.nonzero(cube["glt_x"].values)
    pixel = cube["glt_y"].values[rows, columns] - 1, cube["glt_x"].values[rows, columns] - 1
    assert np.abs(cube["lat"].values[pixel] - cube["ortho_y"].values[rows]).max() < 6e-4
    assert np.abs(cube["lon"].values[pixel] - cube["ortho_x"].values[columns]).max() < 6e-4


def test_a_file_in_one_piece_gives_the_cube_of_one_in_chunks(
    tmp_path: Path, emit: Any, boxes: dict[str, Any]
) -> None:
    path = tmp_path / "rad.nc"
    path.write_bytes(emit.files["RAD"].read_bytes())
    with h5py.File(path, "r+") as file:
        values, about = file["radiance"][:], dict(file["radiance"].attrs)
        scales = [file[name] for name in ("downtrack", "crosstrack", "bands")]
        del file["radiance"]
        plain = file.create_dataset("radiance", data=values, fillvalue=-9999.0)
        for axis, scale in enumerate(scales):
            plain.dims[axis].attach_scale(scale)
        plain.attrs["units"] = about["units"]
    granule = granule_of(emit, "RAD")
    apart = replace(granule, files={"RAD": source(path)})
    with open_granule(apart, bounds=boxes[emit.area], ranges=RANGES) as node:
        assert node.apart == {"radiance"}
    found, expected = (
        stored(tmp_path / name, each, bounds=boxes[emit.area], ranges=RANGES)
        for name, each in (("piece", apart), ("chunks", granule))
    )
    xr.testing.assert_equal(found, expected)


def test_reflectance_with_masks(tmp_path: Path, swath_world: Any, boxes: dict[str, Any]) -> None:
    cloudy = next(granule for granule in emit_granules(swath_world) if granule.cloud_cover)
    cube = stored(
        tmp_path / "t",
        granule_of(cloudy, "RFL", "MASK"),
        bounds=boxes[cloudy.area],
        ranges=((1300.0, 1500.0),),
    )
    with h5py.File(cloudy.files["MASK"]) as mask, h5py.File(cloudy.files["RFL"]) as rfl:
        assert np.array_equal(cube["mask_cloud"].values, mask["mask"][:, :, 0])
        assert cube["mask_cloud"].dtype == np.uint8
        assert np.array_equal(cube["mask_aggregate"].values, mask["mask"][:, :, 7])
        assert np.array_equal(cube["water_vapour"].values, mask["mask"][:, :, 6])
        nm = rfl["sensor_band_parameters/wavelengths"][:]
        good = rfl["sensor_band_parameters/good_wavelengths"][:]
        kept = (nm >= 1300) & (nm <= 1500)
        assert np.array_equal(cube["good_wavelengths"].values, good[kept])
        assert 0 < cube["good_wavelengths"].values.sum() < kept.sum()
        assert np.array_equal(cube["reflectance"].values, rfl["reflectance"][:][..., kept])
    assert cube["mask_cloud"].values.any()


def test_the_mask_of_single_bands_lies_on_the_wanted_wavelengths(
    tmp_path: Path, emit: Any, boxes: dict[str, Any]
) -> None:
    """Unpacked by NumPy as NASA's emit_tools does: all bits, then the 285 bands, then the wanted ones."""
    ranges = ((640.0, 670.0), (2120.0, 2480.0))
    with h5py.File(emit.files["MASK"]) as mask, h5py.File(emit.files["RFL"]) as rfl:
        packed, nm = mask["band_mask"][:], rfl["sensor_band_parameters/wavelengths"][:]
    kept = np.flatnonzero(((nm >= 640) & (nm <= 670)) | ((nm >= 2120) & (nm <= 2480)))
    expected = np.unpackbits(packed, axis=-1)[..., :285][..., kept]
    assert 0.0 < expected.mean() < 0.1
    cube = stored(tmp_path / "both", granule_of(emit, "RFL", "MASK"), bounds=boxes[emit.area], ranges=ranges)
    assert cube["band_mask"].dims == ("downtrack", "crosstrack", "wavelength")
    assert cube["band_mask"].dtype == np.uint8
    assert np.array_equal(cube["band_mask"].values, expected)
    assert cube["band_mask"].attrs["flag_meanings"] == "no yes no_data"
    # without a spectrum nothing says which bands are wanted
    alone = stored(tmp_path / "alone", granule_of(emit, "MASK"), bounds=boxes[emit.area], ranges=ranges)
    assert "band_mask" not in alone
    assert np.array_equal(alone["band_mask_packed"].values, packed)


def test_fill_values_become_nan(tmp_path: Path, emit: Any, boxes: dict[str, Any]) -> None:
    path = tmp_path / "rad.nc"
    path.write_bytes(emit.files["RAD"].read_bytes())
    with h5py.File(path, "r+") as file:
        file["radiance"][5, 7, :] = -9999.0
    granule = granule_of(emit, "RAD")
    granule = replace(granule, files={"RAD": source(path)})
    cube = stored(tmp_path / "t", granule, bounds=boxes[emit.area], ranges=RANGES)
    assert np.isnan(cube["radiance"].values[5, 7]).all()
    assert np.isfinite(cube["radiance"].values[5, 8]).all()


def test_methane_maps_are_cut_to_the_area_with_the_outlined_plume(
    tmp_path: Path, emit: Any, boxes: dict[str, Any]
) -> None:
    plume = emit.plumes[0]
    cube = stored(
        tmp_path / "t",
        granule_of(emit, "CH4ENH", "CH4UNCERT", "CH4SENS"),
        bounds=boxes[emit.area],
        outlines=[Outline(number=int(plume.number), raster=source(plume.files["CH4PLM"]))],
    )
    west, south, east, north = boxes[emit.area]
    assert cube["x"].values.min() < west < east < cube["x"].values.max()
    assert cube["y"].values.min() < south < north < cube["y"].values.max()
    for key, name, units in (
        ("CH4ENH", "ch4_enhancement", "ppm m"),
        ("CH4UNCERT", "ch4_uncertainty", "ppm m"),
        ("CH4SENS", "ch4_sensitivity", "1"),
    ):
        with rasterio.open(emit.files[key]) as raster:
            assert raster.width > cube.sizes["x"]
            column, row = ~raster.transform @ (cube["x"].values[0], cube["y"].values[0])
            window = rasterio.windows.Window(int(column), int(row), cube.sizes["x"], cube.sizes["y"])
            expected = raster.read(1, window=window, masked=True).filled(np.nan)
        assert np.array_equal(cube[name].values, expected, equal_nan=True)
        assert cube[name].attrs["units"] == units
    with rasterio.open(plume.files["CH4PLM"]) as raster:
        points_x, points_y = np.meshgrid(cube["x"].values, cube["y"].values)
        columns, rows = ~raster.transform @ (points_x.ravel(), points_y.ravel())
        inside = (columns >= 0) & (rows >= 0) & (columns < raster.width) & (rows < raster.height)
        marked = np.zeros(points_x.size, bool)
        marked[inside] = raster.read_masks(1)[rows[inside].astype(int), columns[inside].astype(int)] > 0
    assert marked.any()
    assert np.array_equal(cube["plume_mask"].values.ravel() == int(plume.number), marked)
    assert cube.attrs["proj:code"] == "EPSG:4326"


def test_a_plume_alone_and_one_off_the_lattice(tmp_path: Path, emit: Any, boxes: dict[str, Any]) -> None:
    plume = emit.plumes[0]
    alone = replace(granule_of(emit), files={key: source(path) for key, path in plume.files.items()})
    cube = stored(tmp_path / "t", alone, bounds=boxes[emit.area])
    assert np.isfinite(cube["plume_enhancement"].values).any()
    moved = tmp_path / "moved.tif"
    with rasterio.open(plume.files["CH4PLM"]) as raster:
        profile = {**raster.profile, "driver": "GTiff"}
        profile["transform"] = raster.transform * rasterio.Affine.translation(0.4, 0.0)
        with rasterio.open(moved, "w", **profile) as out:
            out.write(raster.read())
    with (
        pytest.raises(RasterError, match="lattice"),
        open_granule(
            granule_of(emit, "CH4ENH"),
            bounds=boxes[emit.area],
            outlines=[Outline(number=1, raster=source(moved))],
        ),
    ):
        pass


def test_enmap_reflectance_keeps_its_integers(tmp_path: Path, enmap: Any, boxes: dict[str, Any]) -> None:
    granule = Granule(
        item_id=enmap.id,
        scene="ENMAP_1",
        collection="ENMAP_HSI_L2A",
        datetime=enmap.start,
        platform="enmap",
        area=enmap.area,
        files={key: source(path) for key, path in enmap.files.items()},
    )
    bounds = boxes[enmap.area]
    cube = stored(tmp_path / "t", granule, bounds=bounds, ranges=RANGES)
    nm = np.array(
        [
            float(each.text or 0)
            for each in ET.parse(enmap.files["METADATA"]).getroot().iter("wavelengthCenterOfBand")
        ]
    )
    kept = np.flatnonzero(((nm >= 640) & (nm <= 670)) | ((nm >= 2120) & (nm <= 2480)))
    assert np.array_equal(cube["wavelength"].values, nm[kept])
    with rasterio.open(enmap.files["SPECTRAL_IMAGE"]) as raster:
        column, row = ~raster.transform @ (cube["x"].values[0], cube["y"].values[0])
        window = rasterio.windows.Window(int(column), int(row), cube.sizes["x"], cube.sizes["y"])
        numbers = raster.read((kept + 1).tolist(), window=window)
    expected = np.where(numbers == -32768, np.nan, numbers.astype(np.float64) * 1e-4)
    assert cube["reflectance"].values == pytest.approx(expected, abs=1e-12, nan_ok=True)
    raw = xr.open_dataset(tmp_path / "t", engine="zarr", group="a", mask_and_scale=False, chunks=None)
    assert raw["reflectance"].dtype == np.int16
    assert np.array_equal(raw["reflectance"].values, numbers)
    assert cube["reflectance"].attrs["units"] == "1"
    assert set(np.unique(cube["quality_classes"].values)) <= {1, 3}
    rioxarray = pytest.importorskip("rioxarray")
    assert rioxarray is not None
    assert (
        xr.open_dataset(
            tmp_path / "t", engine="zarr", group="a", decode_coords="all", chunks=None
        ).rio.crs.to_epsg()
        == enmap.epsg
    )
    for lacking, found in (({"METADATA"}, "wavelengths"), ({"SPECTRAL_IMAGE"}, "No file")):
        files = {key: file for key, file in granule.files.items() if key not in lacking}
        with (
            pytest.raises(RasterError, match=found),
            open_granule(replace(granule, files=files), bounds=bounds),
        ):
            pass


def test_what_cannot_be_is_refused_with_its_reason(emit: Any, enmap: Any, boxes: dict[str, Any]) -> None:
    with (
        pytest.raises(RasterError, match="wavelengths"),
        open_granule(granule_of(emit, "RAD"), bounds=boxes[emit.area], ranges=((3000.0, 4000.0),)),
    ):
        pass
    far = (10.0, 10.0, 10.1, 10.1)
    with pytest.raises(OutsideError), open_granule(granule_of(emit, "CH4ENH"), bounds=far):
        pass
    mixed = replace(
        granule_of(emit, "CH4ENH"),
        files={
            "CH4ENH": source(emit.files["CH4ENH"]),
            "CH4SENS": source(emit.plumes[0].files["CH4PLM"]),
        },
    )
    with pytest.raises(RasterError, match="grids"), open_granule(mixed, bounds=boxes[emit.area]):
        pass
    assert not readable(["METADATA", "BROWSE"])
    assert readable(["OBS"])


@pytest.mark.parametrize(
    ("key", "spoil", "match"),
    [
        ("OBS", lambda file: file.__delitem__("sensor_band_parameters"), "sensor_band_parameters"),
        ("OBS", lambda file: file.__delitem__("sensor_band_parameters/observation_bands"), "0 names for 11"),
        ("MASK", lambda file: file.__delitem__("sensor_band_parameters/mask_bands"), "0 names for 8"),
        ("OBS", lambda file: file.__delitem__("location"), "location"),
        ("OBS", lambda file: file.__delitem__("location/glt_x"), "location/glt_x"),
        ("RAD", lambda file: file.__delitem__("sensor_band_parameters/wavelengths"), "wavelengths"),
        ("MASK", lambda file: _rename(file, "sensor_band_parameters/mask_bands", "Cloud flag"), "one name"),
    ],
)
def test_a_file_that_lacks_a_part_is_refused_by_name(
    tmp_path: Path, emit: Any, boxes: dict[str, Any], key: str, spoil: Any, match: str
) -> None:
    path = tmp_path / "spoiled.nc"
    path.write_bytes(emit.files[key].read_bytes())
    with h5py.File(path, "r+") as file:
        spoil(file)
    granule = replace(granule_of(emit, key), files={key: source(path)})
    with (
        pytest.raises(RasterError, match=match),
        open_granule(granule, bounds=boxes[emit.area], ranges=RANGES),
    ):
        pass


def _rename(file: h5py.File, name: str, label: str) -> None:
    labels = file[name][:]
    labels[1] = label
    file[name][:] = labels


def test_files_of_two_granules_are_no_node(tmp_path: Path, emit: Any, boxes: dict[str, Any]) -> None:
    swath = Swath(epsg=32640, x=5e5, y=4.3e6, heading_deg=10.0, lines=5, samples=4)
    write_netcdf(
        tmp_path / "obs.nc",
        "obs",
        np.zeros((5, 4, 11), np.float32),
        long_name="Observation Data",
        units=None,
        root={},
        band_parameters={"observation_bands": OBS_BANDS},
        swath=swath,
        elevation=np.zeros((5, 4)),
    )
    files = {**granule_of(emit, "RAD").files, "OBS": source(tmp_path / "obs.nc")}
    with (
        pytest.raises(RasterError, match=r"OBS.*one scene.*5 x 4 pixels beside"),
        open_granule(replace(granule_of(emit, "RAD"), files=files), bounds=boxes[emit.area]),
    ):
        pass


def test_node_names_are_safe() -> None:
    assert node_name("EMIT_L1B_RAD_001_20240606T100247_2415807_025") == (
        "EMIT_L1B_RAD_001_20240606T100247_2415807_025"
    )
    assert re.fullmatch(r"a_\.\._b_c-[0-9a-f]{8}", node_name("a/../b c"))
    assert re.fullmatch(r"x__x-[0-9a-f]{8}", node_name("__x"))
    assert re.fullmatch(r"x-[0-9a-f]{8}", node_name("..."))
    close = ("EMIT:1", "EMIT_1", "EMIT/1", "EMIT_1.", ".EMIT_1")
    assert len({node_name(each) for each in close}) == len(close)


def test_only_what_is_asked_for_is_read() -> None:
    asked: list[tuple[slice, ...]] = []

    def read(box: tuple[slice, ...]) -> Any:
        asked.append(box)
        whole = np.arange(60).reshape(3, 4, 5)
        return whole[box]

    variable = lazy(("a", "b", "c"), (3, 4, 5), np.int64, read, {"units": "1"})
    expected = np.arange(60).reshape(3, 4, 5)
    assert not asked
    assert np.array_equal(variable[1:2, :, 2:4].values, expected[1:2, :, 2:4])
    assert asked == [(slice(1, 2), slice(0, 4), slice(2, 4))]
    for key in ((0,), (slice(None), -1), (slice(0, 3, 2), slice(None), slice(None, None, 3)), ([2, 0], 1)):
        assert np.array_equal(variable[key].values, expected[key])
    assert np.array_equal(variable[::-1].values, expected[::-1])
    assert np.array_equal(variable.isel(a=slice(2, 0, -1)).values, expected[2:0:-1])
