"""Rational polynomials against GDAL's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rasterio.rpc import RPC
from rasterio.transform import RPCTransformer

from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.rational import RationalModel

LINES, SAMPLES = 1024, 1000


def model(longitude: float = 54.2, seed: int = 3, **changes: Any) -> RationalModel:
    """A tilted view: mostly a plane, with terms of all orders that bend it by some pixels."""
    dice = np.random.default_rng(seed)

    def bent(*plane: float) -> np.ndarray[Any, Any]:
        found = 2e-3 * dice.standard_normal(20)
        found[: len(plane)] = plane
        return found

    told: dict[str, Any] = {
        "offset": np.array([511.5, 499.5, 38.4, longitude, 300.0]),
        "scale": np.array([512.0, 500.0, 0.14, 0.18, 800.0]),
        "row_numerator": bent(0.01, -0.2, -1.0, 0.001),
        "row_denominator": bent(1.0),
        "column_numerator": bent(-0.02, 0.95, -0.25, 0.01),
        "column_denominator": bent(1.0),
    }
    return RationalModel(**{**told, **changes})


def gdal(of: RationalModel) -> RPCTransformer:
    rpc = RPC(
        height_off=of.offset[4], height_scale=of.scale[4], lat_off=of.offset[2], lat_scale=of.scale[2],
        long_off=of.offset[3], long_scale=of.scale[3], line_off=of.offset[0], line_scale=of.scale[0],
        samp_off=of.offset[1], samp_scale=of.scale[1], line_num_coeff=of.row_numerator.tolist(),
        line_den_coeff=of.row_denominator.tolist(), samp_num_coeff=of.column_numerator.tolist(),
        samp_den_coeff=of.column_denominator.tolist(), err_bias=None, err_rand=None,
    )  # fmt: skip
    return RPCTransformer(rpc, RPC_PIXEL_ERROR_THRESHOLD="1e-7", RPC_MAX_ITERATIONS="50")


@pytest.mark.parametrize("height", [-20.0, 300.0, 1450.0])
def test_places_fall_on_the_pixels_that_gdal_says(height: float) -> None:
    of = model()
    dice = np.random.default_rng(1)
    longitude = of.offset[3] + of.scale[3] * dice.uniform(-1, 1, 500)
    latitude = of.offset[2] + of.scale[2] * dice.uniform(-1, 1, 500)
    rows, columns = of.image(longitude, latitude, height)
    with gdal(of) as oracle:
        theirs = oracle.rowcol(longitude, latitude, zs=np.full(500, height), op=lambda value: value)
    # there pixels count from their corners
    np.testing.assert_allclose(rows, np.asarray(theirs[0]) - 0.5, rtol=0, atol=1e-6)
    np.testing.assert_allclose(columns, np.asarray(theirs[1]) - 0.5, rtol=0, atol=1e-6)


@pytest.mark.parametrize("height", [-20.0, 1450.0])
def test_pixels_lie_where_gdal_says(height: float) -> None:
    of = model()
    dice = np.random.default_rng(2)
    rows, columns = dice.integers(0, LINES, 300), dice.integers(0, SAMPLES, 300)
    longitude, latitude = of.ground(rows.astype(float), columns.astype(float), height)
    with gdal(of) as oracle:
        theirs = oracle.xy(rows, columns, zs=np.full(300, height))
    pixel = 0.36 / SAMPLES
    assert np.abs(longitude - np.asarray(theirs[0])).max() < 1e-4 * pixel
    assert np.abs(latitude - np.asarray(theirs[1])).max() < 1e-4 * pixel


def test_the_way_back_meets_every_pixel_also_across_the_antimeridian() -> None:
    of = model(longitude=179.95)
    rows, columns = np.meshgrid(np.arange(0.0, LINES, 8), np.arange(0.0, SAMPLES, 8), indexing="ij")
    longitude, latitude = of.ground(rows, columns, 100.0)
    assert longitude.shape == rows.shape
    assert longitude.min() >= -180.0
    assert longitude.max() < 180.0
    assert (longitude < 0).any()
    again = of.image(longitude, latitude, 100.0)
    np.testing.assert_allclose(again[0], rows, rtol=0, atol=2e-6)
    np.testing.assert_allclose(again[1], columns, rtol=0, atol=2e-6)


def test_models_that_lead_nowhere_are_refused() -> None:
    one = np.eye(20)[0]
    flat = model(row_numerator=one, row_denominator=one, column_numerator=one, column_denominator=one)
    with pytest.raises(RasterError, match="lead nowhere"):
        flat.ground(np.zeros((2, 2)), np.zeros((2, 2)), 0.0)
    folded = model(row_numerator=np.eye(20)[2] * 1e-3 + np.eye(20)[8])
    with pytest.raises(RasterError, match=r"lead nowhere|lead back"):
        folded.ground(np.full((2, 2), 5000.0), np.zeros((2, 2)), 0.0)
