"""Overviews against NumPy, GDAL and the published conventions; trees with them open as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import LocalStore
from rasterio.enums import Resampling
from stored_days import GRID, at, packed
from synthetic_rasters import write_tiff
from zarr.storage import ObjectStore

from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.overviews import coarse_grid, coarsened, factors, write_overviews
from geostack_pipeline.cube.write import finish_tree, write_node
from geostack_pipeline.settings import Settings


def blocks_of(plane: np.ndarray, factor: int) -> list[list[np.ndarray]]:
    return [
        [plane[row : row + factor, column : column + factor] for column in range(0, plane.shape[1], factor)]
        for row in range(0, plane.shape[0], factor)
    ]


def mean_of(block: np.ndarray) -> int:
    valid = block[block != 0].astype(np.float64)
    return int(np.floor(valid.mean() + 0.5)) if valid.size else 0


def mode_of(block: np.ndarray, missing: int) -> int:
    numbers, counts = np.unique(block[block != missing], return_counts=True)
    return int(numbers[np.argmax(counts)]) if numbers.size else missing


def cube_of(shape: tuple[int, int], seed: int = 1) -> tuple[xr.Dataset, GridSpec]:
    grid = GridSpec(crs=GRID.crs, transform=GRID.transform, width=shape[1], height=shape[0])
    return packed([at("2024-06-01"), at("2024-06-01", 23)], [3, 1], seed=seed, grid=grid), grid


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    factor=st.sampled_from([2, 4, 8]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_levels_are_means_and_modes_of_what_is_valid(shape: tuple[int, int], factor: int, seed: int) -> None:
    cube, grid = cube_of(shape, seed)
    found = coarsened(cube, grid, factor)
    for index in np.ndindex(cube.reflectance.shape[:2]):
        expected = [
            [mean_of(block) for block in row] for row in blocks_of(cube.reflectance.values[index], factor)
        ]
        assert found.reflectance.values[index].tolist() == expected
    for name, missing in (("scl", 0), ("source_scene", -1)):
        for t in range(2):
            expected = [[mode_of(b, missing) for b in row] for row in blocks_of(cube[name].values[t], factor)]
            assert found[name].values[t].tolist() == expected
            assert found[name].dtype == cube[name].dtype


def test_means_are_gdals(tmp_path: Path) -> None:
    cube, grid = cube_of((64, 48))
    plane = cube.reflectance.values[0, 0]
    file = write_tiff(tmp_path / "b.tif", plane[None])
    with rasterio.open(file) as raster:
        averaged = raster.read(1, out_shape=(16, 12), resampling=Resampling.average)
    found = coarsened(cube, grid, 4).reflectance.values[0, 0]
    assert np.abs(found.astype(int) - averaged.astype(int)).max() <= 1
    assert (found == 0).sum() == (averaged == 0).sum()


def test_coarse_pixels_lie_over_the_fine_ones() -> None:
    cube, grid = cube_of((70, 50))
    found = coarsened(cube, grid, 4)
    assert found.sizes["y"] == 18
    assert found.sizes["x"] == 13
    assert found.x.values[0] == pytest.approx(cube.x.values[:4].mean())
    assert found.y.values[3] == pytest.approx(cube.y.values[12:16].mean())
    assert coarse_grid(grid, 4).bounds[0] == grid.bounds[0]
    assert coarse_grid(grid, 4).bounds[3] == grid.bounds[3]


@pytest.mark.parametrize(
    ("shape", "levels", "expected"),
    [
        ((1300, 900), True, [2, 4, 8]),
        ((256, 256), True, [2]),
        ((257, 10), True, [2]),
        ((513, 10), True, [2, 4]),
        ((10, 10), 3, [2, 4, 8]),
        ((100, 100), 0, []),
        ((1 << 30, 1), True, [1 << i for i in range(1, 11)]),
    ],
)
def test_how_many_levels(shape: tuple[int, int], levels: Any, expected: list[int]) -> None:
    assert factors(shape, levels) == expected


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    store = ObjectStore(LocalStore(folder))
    cube, grid = cube_of((70, 50))
    write_node(store, "field", cube)
    write_overviews(store, "field", grid, 2)
    write_node(store, "other", cube)
    finish_tree(store, {"provider": "p"})
    return folder


def test_the_tree_opens_as_one_without_overviews(tree: Path) -> None:
    opened = xr.open_datatree(tree, engine="zarr", chunks=None)
    assert set(opened.children) == {"field", "other"}
    assert not opened["field"].children
    plain = opened["other"].to_dataset().load()
    cube = opened["field"].to_dataset().load()
    xr.testing.assert_equal(plain, cube)
    assert opened.attrs == {"provider": "p"}


def test_the_overviews_open_as_a_tree(tree: Path) -> None:
    levels = xr.open_datatree(tree / "field/overviews", engine="zarr", chunks=None)
    assert list(levels.children) == ["2", "4"]
    cube, grid = cube_of((70, 50))
    for factor in (2, 4):
        found = levels[str(factor)].to_dataset()
        expected = xr.decode_cf(coarsened(cube, grid, factor))
        assert np.array_equal(found.reflectance.values, expected.reflectance.values, equal_nan=True)
        assert np.array_equal(found.scl.values, expected.scl.values)
        assert found.x.values.tolist() == expected.x.values.tolist()
    rioxarray = pytest.importorskip("rioxarray")
    assert rioxarray is not None
    assert tuple(levels["4"].to_dataset().rio.transform())[:6] == (
        80.0,
        0.0,
        600_000.0,
        0.0,
        -80.0,
        4_300_020.0,
    )


def test_the_conventions_hold(tree: Path) -> None:
    """By the package of the conventions' own authors."""
    import json

    import zarr_cm

    for node in ("field", "field/overviews/2", "field/overviews/4"):
        document = json.loads((tree / node / "zarr.json").read_text())
        zarr_cm.spatial.validate_group_metadata(document)
        zarr_cm.proj.validate_group_metadata(document)
    document = json.loads((tree / "field" / "zarr.json").read_text())
    zarr_cm.multiscales.validate_group_metadata(document)
    group = zarr.open_group(tree, path="field", mode="r", use_consolidated=False)
    layout = document["attributes"]["multiscales"]["layout"]
    assert len(layout) == 9
    for entry in layout:
        array = group[entry["asset"]]
        assert isinstance(array, zarr.Array), "every path of the layout leads to an array"
        assert list(array.shape[-2:]) == entry["spatial:shape"]
        assert len(entry["transform"]["scale"]) == array.ndim
        if "derived_from" in entry:
            assert isinstance(group[entry["derived_from"]], zarr.Array)
    assert {entry.get("resampling_method") for entry in layout} == {None, "average", "mode"}


def test_the_setting() -> None:
    def overviews(key: str, value: Any) -> Any:
        return Settings.model_validate({"providers": {key: {"overviews": value}}}).providers[key].overviews

    assert overviews("earth_search", True) is True
    assert overviews("earth_search", 3) == 3
    assert (
        Settings.model_validate({"providers": {"earth_search": {}}}).providers["earth_search"].overviews
        is False
    )
    with pytest.raises(ValueError, match="a swath has none"):
        overviews("dlr_geoservice", True)
    with pytest.raises(ValueError, match="less than or equal to 10"):
        overviews("earth_search", 11)
