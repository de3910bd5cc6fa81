"""Orthorectification against a NumPy twin of the rule that NASA publishes with EMIT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_swath import RANGES, granule_of, stored

from geostack_pipeline.cube.conventions import spatial_coordinates
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.ortho import apply_glt, orthorectify
from geostack_pipeline.errors import RasterError
from geostack_pipeline.sandbox.world.emit import emit_granules


def published_rule(field: Any, glt_x: Any, glt_y: Any, fill: Any) -> Any:
    """Valid is a pixel of which no part of the table is 0; the table counts from 1."""
    glt = np.stack([glt_x, glt_y], axis=-1).astype(int)
    out = np.full((*glt.shape[:2], *field.shape[2:]), fill, field.dtype)
    valid = np.all(glt != 0, axis=-1)
    out[valid] = field[glt[valid][:, 1] - 1, glt[valid][:, 0] - 1]
    return out


def node_of(glt_x: Any, glt_y: Any, lines: int, samples: int) -> xr.Dataset:
    height, width = glt_x.shape
    grid = GridSpec(crs="EPSG:4326", transform=(0.5, 0.0, 10.0, 0.0, -0.25, 40.0), width=width, height=height)
    return xr.Dataset(
        {
            "glt_x": (("ortho_y", "ortho_x"), glt_x),
            "glt_y": (("ortho_y", "ortho_x"), glt_y),
            "radiance": (("downtrack", "crosstrack"), np.zeros((lines, samples), np.float32)),
        },
        coords={"spatial_ref": spatial_coordinates(grid)["spatial_ref"]},
    )


@st.composite
def gathers(draw: st.DrawFn) -> tuple[Any, Any, Any, Any]:
    lines, samples = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    rest = draw(st.sampled_from([(), (1,), (3,)]))
    dtype, fill = draw(
        st.sampled_from(
            [
                (np.float32, np.float32(-9999)),
                (np.float64, np.float64(np.nan)),
                (np.int16, np.int16(-9999)),
                (np.uint8, np.uint8(255)),
                (np.int64, np.int64(-1)),
                (np.dtype(">f4"), -9999.0),
                (np.bool_, False),
            ]
        )
    )
    field = draw(hnp.arrays(dtype, (lines, samples, *rest)))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=8))
    kind = draw(st.sampled_from([np.int32, np.int64, np.int16]))
    glt_x = draw(hnp.arrays(kind, shape, elements=st.integers(0, samples)))
    glt_y = draw(hnp.arrays(kind, shape, elements=st.integers(0, lines)))
    return field, glt_x, glt_y, fill


@settings(max_examples=150)
@given(gathers())
def test_the_gather_is_the_published_rule(case: tuple[Any, Any, Any, Any]) -> None:
    field, glt_x, glt_y, fill = case
    found = apply_glt(field, glt_x, glt_y, fill)
    expected = published_rule(field, glt_x, glt_y, fill)
    assert found.dtype == field.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()  # bit for bit, NaN as well


@settings(max_examples=50)
@given(gathers(), st.sampled_from([np.float32, np.float64]))
def test_a_table_of_floats_has_nan_for_none(case: tuple[Any, Any, Any, Any], kind: Any) -> None:
    field, glt_x, glt_y, fill = case
    spoiled = np.where(glt_x == 0, np.nan, glt_x).astype(kind)
    expected = published_rule(field, glt_x, glt_y, fill)
    assert apply_glt(field, spoiled, glt_y, fill).tobytes() == expected.tobytes()


def test_a_granule_on_the_map(tmp_path: Path, swath_world: Any) -> None:
    emit = next(granule for granule in emit_granules(swath_world) if granule.plumes)
    bounds = next(area.bbox for area in swath_world.areas if area.name == emit.area)
    node = stored(tmp_path / "t", granule_of(emit, "RAD", "OBS", "MASK"), bounds=bounds, ranges=RANGES)
    with h5py.File(emit.files["RAD"]) as file, h5py.File(emit.files["MASK"]) as masks:
        glt_x, glt_y = file["location/glt_x"][:], file["location/glt_y"][:]
        place = file.attrs["geotransform"][:]
        elev = file["location/elev"][:]
        cloud = masks["mask"][:, :, 0].astype(np.uint8)
    enhancement = node["radiance"].isel(wavelength=-1, drop=True).astype(np.float64).rename("enhancement")
    fields = xr.Dataset(
        {"enhancement": enhancement, "pair": node["radiance"][..., -2:], "mask_cloud": node["mask_cloud"]}
    )
    found = orthorectify(fields, node)
    assert (found.sizes["y"], found.sizes["x"]) == glt_x.shape
    assert (glt_x == 0).any()
    assert (glt_x > 0).any()
    rad = node["radiance"].values
    expected = published_rule(rad[..., -1].astype(np.float64), glt_x, glt_y, np.nan)
    assert np.array_equal(found["enhancement"].values, expected, equal_nan=True)
    assert found["pair"].dims == ("y", "x", "wavelength")
    assert np.array_equal(
        found["pair"].values, published_rule(rad[..., -2:], glt_x, glt_y, np.nan), equal_nan=True
    )
    assert np.array_equal(found["wavelength"], node["wavelength"][-2:])
    assert np.array_equal(found["elev"].values, published_rule(elev, glt_x, glt_y, np.nan), equal_nan=True)
    # A flag stays a flag.
    assert found["mask_cloud"].dtype == np.uint8
    assert np.array_equal(found["mask_cloud"].values, published_rule(cloud, glt_x, glt_y, 255))
    assert found["x"].values == pytest.approx(
        place[0] + 0.5 * place[1] + np.arange(glt_x.shape[1]) * place[1], abs=1e-9
    )
    assert found["y"].values == pytest.approx(
        place[3] + 0.5 * place[5] + np.arange(glt_x.shape[0]) * place[5], abs=1e-9
    )
    assert found.attrs["proj:code"] == "EPSG:4326"
    assert found["enhancement"].attrs["units"] == "uW cm-2 sr-1 nm-1"
    assert not {"lon", "lat"} & set(found.variables)
    pytest.importorskip("rioxarray")
    assert found["enhancement"].rio.crs.to_epsg() == 4326
    assert found["enhancement"].rio.transform().to_gdal() == pytest.approx(tuple(place))
    # And it reads back from Zarr as the same numbers.
    found.to_zarr(tmp_path / "ortho.zarr")
    again = xr.open_zarr(tmp_path / "ortho.zarr", chunks=None)
    assert np.array_equal(again["mask_cloud"].values, found["mask_cloud"].values)
    assert again["mask_cloud"].dtype == np.uint8


def test_dimensions_keep_their_place_and_plain_arrays_do() -> None:
    glt_x, glt_y = np.array([[1, 0, 3]], np.int32), np.array([[2, 1, 1]], np.int32)
    node = node_of(glt_x, glt_y, 2, 3)
    field = np.arange(24).reshape(4, 2, 3)
    planes = xr.DataArray(field, dims=("method", "downtrack", "crosstrack"), name="planes")
    expected = published_rule(np.moveaxis(field, 0, -1), glt_x, glt_y, -9999)
    found = orthorectify(planes, node)["planes"]
    assert found.dims == ("method", "y", "x")
    assert np.array_equal(found.values, np.moveaxis(expected, -1, 0))
    assert found.attrs["_FillValue"] == -9999
    middle = orthorectify(planes.transpose("downtrack", "method", "crosstrack"), node)["planes"]
    assert middle.dims == ("y", "method", "x")
    assert np.array_equal(middle.transpose("method", "y", "x").values, found.values)
    plain = orthorectify(np.moveaxis(field, 0, -1), node)["field"]
    assert plain.dims == ("y", "x", "bands")
    assert np.array_equal(plain.values, expected)
    filled = orthorectify((field[0] > 2), node, fill=False)["field"]
    assert filled.dtype == np.bool_
    assert filled.values.tolist() == [[True, False, False]]
    stored = xr.DataArray(
        np.ones((2, 3), np.float32),
        dims=("downtrack", "crosstrack"),
        attrs={"_FillValue": np.float32(-9999)},
    )
    assert orthorectify(stored, node)["field"].values.tolist() == [[1, -9999, 1]]


def test_minus_9999_in_a_table_is_no_pixel() -> None:
    glt = np.array([[1, -9999, 0]], np.int32)
    field = np.array([[7.0, 8.0]], np.float32)
    assert apply_glt(field, glt, np.array([[1, -9999, 1]], np.int32), -9999).tolist() == [[7, -9999, -9999]]


@pytest.mark.parametrize(("x", "y"), [(4, 1), (1, 3), (-1, 1), (1, -2), (2**40, 1), (1, 1e300)])
def test_a_table_that_leads_outside_is_refused(x: Any, y: Any) -> None:
    glt_x, glt_y = np.array([[1, 0, x]]), np.array([[1, 0, y]])
    with pytest.raises(RasterError, match=r"row 0, column 2 for 2 x 3 pixels"):
        apply_glt(np.zeros((2, 3), np.float32), glt_x, glt_y, np.nan)
    with pytest.raises(RasterError, match="outside the granule"):
        orthorectify(np.zeros((2, 3), np.float32), node_of(glt_x, glt_y, 2, 3))


def test_what_does_not_fit_is_refused() -> None:
    glt = np.ones((2, 2), np.int32)
    node = node_of(glt, glt, 2, 3)
    field = np.zeros((2, 3), np.float32)
    named = xr.DataArray(field, dims=("downtrack", "crosstrack"), name="a")
    for wrong, match in (
        (np.zeros(3), "two or three dimensions"),
        (field.T, "granule's shape"),
        (named.isel(downtrack=slice(0, 1)), "granule's shape"),
        (named.rename(downtrack="y"), "Nothing lies in sensor geometry"),
        (xr.Dataset({"a": named, "mean": named.mean("downtrack")}), "mean"),
        (field.astype(np.uint16), "no data"),
        (field.astype(np.complex128), "type"),
    ):
        with pytest.raises(RasterError, match=match):
            orthorectify(wrong, node)
    with pytest.raises(RasterError, match="cannot hold"):
        orthorectify(field.astype(np.uint8), node, fill=-9999)
    for lacking in ("glt_x", "glt_y", "spatial_ref"):
        with pytest.raises(RasterError, match=lacking):
            orthorectify(field, node.drop_vars(lacking))
    with pytest.raises(RasterError, match="fit each other"):
        apply_glt(field, glt, glt[:1], np.nan)
