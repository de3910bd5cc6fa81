"""Fields as COGs, read back by GDAL and judged by rio-cogeo."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import rasterio
import xarray as xr
from rasterio.io import MemoryFile
from rio_cogeo.cogeo import cog_validate

from geostack_pipeline.errors import GeostackError
from geostack_pipeline.publish.cog import placement, to_cog


def node(code: str = "EPSG:32640", *, shape: tuple[int, int] = (300, 290), step: float = 20.0) -> xr.Dataset:
    rows, columns = shape
    origin = (410_000.0, 4_262_000.0) if step > 1 else (53.9, 38.6)
    values = np.random.default_rng(3).normal(0.0, 500.0, shape).astype(np.float32)
    values[:40, :50] = np.nan
    return xr.Dataset(
        {
            "ch4_enhancement": (("y", "x"), values),
            "quality_flags": (("y", "x"), (np.abs(np.nan_to_num(values)) > 400).astype(np.uint16) * 4097),
        },
        {
            "x": origin[0] + (np.arange(columns) + 0.5) * step,
            "y": origin[1] - (np.arange(rows) + 0.5) * step,
            "spatial_ref": ((), 0, {"crs_wkt": pyproj.CRS(code).to_wkt()}),
        },
    )


@pytest.mark.parametrize(
    ("code", "step", "shape"),
    [("EPSG:32640", 20.0, (300, 290)), ("EPSG:4326", 0.0005, (270, 300)), ("EPSG:32640", 60.0, (20, 30))],
)
@pytest.mark.parametrize("name", ["ch4_enhancement", "quality_flags"])
def test_a_field_comes_back_as_it_was_where_it_was(code, step, shape, name, tmp_path) -> None:
    fields = node(code, step=step, shape=shape)
    place = placement(fields)
    values = fields[name].values
    nodata = float("nan") if name == "ch4_enhancement" else None
    data = to_cog(values, place, nodata=nodata, description=name, unit="ppm m")
    assert data == to_cog(values, place, nodata=nodata, description=name, unit="ppm m")
    path = tmp_path / "field.tif"
    path.write_bytes(data)
    valid, problems, warnings = cog_validate(path, strict=True)
    assert (valid, problems, warnings) == (True, [], [])
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(1), values)
        assert source.crs == rasterio.CRS.from_string(code)
        assert source.descriptions == (name,)
        assert source.units == ("ppm m",)
        x, y = source.xy(7, 11)
        assert x == pytest.approx(float(fields["x"][11]), abs=1e-6 * step)
        assert y == pytest.approx(float(fields["y"][7]), abs=1e-6 * step)
        assert tuple(source.bounds) == pytest.approx(tuple(place.bbox), abs=1e-6 * step)
        assert (source.nodata is None) == (nodata is None)


def test_overviews_of_flags_are_flags_and_not_means() -> None:
    fields = node(shape=(600, 600))
    data = to_cog(
        fields["quality_flags"].values, placement(fields), nodata=None, description="quality_flags", unit=""
    )
    with MemoryFile(data) as file, file.open() as source:
        assert source.overviews(1)
        small = source.read(1, out_shape=(150, 150))
    assert set(np.unique(small)) <= {0, 4097}


def test_the_outline_holds_every_pixel_in_degrees() -> None:
    import shapely

    place = placement(node())
    shape = shapely.Polygon(place.outline())
    assert shape.is_valid
    assert shape.exterior.is_ccw
    rows, columns = place.shape
    to_degrees = pyproj.Transformer.from_crs(place.crs, "OGC:CRS84", always_xy=True)
    for row in (0.5, rows / 2, rows - 0.5):
        for column in (0.5, columns / 2, columns - 0.5):
            assert shape.contains(shapely.Point(*to_degrees.transform(*place.xy(column, row))))


def test_what_has_no_map_says_so() -> None:
    fields = node().drop_vars("spatial_ref")
    with pytest.raises(GeostackError, match="no map grid"):
        placement(fields)
    with pytest.raises(GeostackError, match="no pixel size"):
        placement(node(shape=(1, 30)))


@pytest.mark.parametrize(
    "cut", [{"y": slice(3, 4)}, {"x": slice(5, 6)}, {"x": slice(5, 6), "y": slice(3, 4)}]
)
def test_a_field_of_one_row_or_column_lies_where_its_grid_says(cut: dict[str, slice]) -> None:
    """As of a granule that an area's edge cuts to a sliver."""
    whole = node(shape=(20, 30), step=60.0)
    transform = placement(whole).transform
    whole["spatial_ref"].attrs["GeoTransform"] = " ".join(map(repr, transform.to_gdal()))
    place = placement(whole.isel(cut))
    row, column = (cut.get(name, slice(0, 1)).start for name in ("y", "x"))
    assert tuple(place.transform) == pytest.approx(
        tuple(transform @ rasterio.Affine.translation(column, row))
    )
    data = to_cog(
        whole["ch4_enhancement"].isel(cut).values, place, nodata=float("nan"), description="a", unit=""
    )
    with MemoryFile(data) as file, file.open() as source:
        assert source.shape == place.shape
