"""compliance-checker (CF) finds no error in the nodes of trees: gridded cubes, swaths, methane maps.

A node goes to NetCDF as it is stored, number for number.  Two things that JSON or Zarr cannot say are put right on
the way: flag values get the type of their variable, and texts along a dimension get a name of their own, since CF
knows them as labels (§6.1) while NetCDF's coordinate variables are numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from product_swaths import PRODUCTS, store_product, stored
from stored_days import at, packed

from geostack_pipeline.cube import conventions
from geostack_pipeline.cube.grid import GridSpec

pytestmark = pytest.mark.slow


def to_netcdf(folder: Path, node: str, target: Path, dims: Collection[str] | None = None) -> None:
    """Write a node; with ``dims`` only what has no other dimensions than these."""
    raw = xr.open_zarr(folder, group=node, chunks=None, decode_cf=False)
    if dims is not None:
        raw = raw.drop_dims([dim for dim in raw.dims if dim not in dims])
    labels = {
        str(name): f"{name}_name" for name in raw.dims if name in raw.coords and raw[name].dtype.kind == "T"
    }
    variables, encoding = {}, {}
    for key, variable in raw.variables.items():
        name, attributes = labels.get(str(key), str(key)), dict(variable.attrs)
        for flags in {"flag_values", "flag_masks"} & attributes.keys():
            attributes[flags] = np.asarray(attributes[flags], variable.dtype)
        # None: without, xarray would give every float a fill value of its own.
        fill = attributes.pop("_FillValue", None)
        encoding[name] = {"_FillValue": None if fill is None else _fill(fill, variable.dtype)}
        along = [labels[dim] for dim in variable.dims if dim in labels and name != labels[dim]]
        beside = str(attributes.pop("coordinates", "")).split() + along
        if beside and key in raw.data_vars:
            attributes["coordinates"] = " ".join(beside)
        values = variable.values.astype(object) if variable.dtype.kind == "T" else variable.values
        variables[name] = xr.Variable(variable.dims, values, attributes)
    attributes = {
        name: value
        for name, value in raw.attrs.items()
        # conventions of Zarr, which have no form in NetCDF
        if not isinstance(value, dict)
        and not (isinstance(value, list) and value and isinstance(value[0], dict))
    }
    xr.Dataset(variables, attrs=attributes).to_netcdf(target, engine="netcdf4", encoding=encoding)


def _fill(value: Any, dtype: np.dtype[Any]) -> Any:
    from xarray.backends.zarr import FillValueCoder

    return dtype.type(FillValueCoder.decode(value, dtype) if isinstance(value, str) else value)


def errors(file: Path) -> list[str]:
    """Every error of the CF 1.11 checks, none of them left out; recommendations (warnings) are not errors."""
    from compliance_checker.runner import CheckSuite

    CheckSuite.load_all_available_checkers()
    suite = CheckSuite()
    dataset = suite.load_dataset(str(file))
    try:
        scores, crashed = suite.run_all(dataset, ["cf:1.11"], [])["cf:1.11"]
    finally:
        dataset.close()
    assert not crashed, crashed
    assert len(scores) > 20, "the checks did run"
    high = 3  # BaseCheck.HIGH: what CF requires
    found = []
    for score in scores:
        got, possible = score.value if isinstance(score.value, tuple) else (bool(score.value), True)
        if got != possible and score.weight == high:
            found += [f"{score.name}: {text}" for text in score.msgs or ["(no text)"]]
    return found


def check(folder: Path, dims: Collection[str] | None = None) -> list[str]:
    to_netcdf(folder, "a", folder / "node.nc", dims)
    with netCDF4.Dataset(folder / "node.nc") as file:
        assert len(file.variables) > 4
    return errors(folder / "node.nc")


def test_the_checker_does_find_errors(tmp_path: Path) -> None:
    """What the other tests rest on: a wrong unit, a wrong standard name and a wrong flag type are seen."""
    cube = packed([at("2024-06-01")], [2], seed=1)
    cube["reflectance"] = cube.reflectance.assign_attrs(
        units="furlong per parsnip", standard_name="shininess"
    )
    found = "\n".join(check(stored(tmp_path / "t", cube)))
    assert "furlong" in found
    assert "shininess" in found


def test_gridded_cubes(tmp_path: Path) -> None:
    cube = packed([at("2024-06-01"), at("2024-06-01", 23)], [2, 1], seed=1)
    assert check(stored(tmp_path / "t", cube)) == []


def test_methane_maps(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "methane"))
    from methane_scenes import Plume, Scene, make_cube

    from geostack_pipeline.methane.retrieve import retrieve

    def cube(scene: Scene) -> xr.Dataset:
        """The scene with the attributes and the georeferencing of a cube."""
        plain = make_cube(scene)
        grid = GridSpec(
            crs="EPSG:32639", transform=(20.0, 0.0, 591_000.0, 0.0, -20.0, 4_262_000.0),
            width=plain.sizes["x"], height=plain.sizes["y"],
        )  # fmt: skip
        plain = plain.drop_vars(["x", "y", "spatial_ref"], errors="ignore")
        plain = plain.assign_coords(conventions.spatial_coordinates(grid)).assign_attrs(
            conventions.group_attributes(grid)
        )
        about = {**conventions.SCENE, "time": conventions.TIME, "reflectance": conventions.REFLECTANCE}
        about |= {"scl": conventions.SCL, "source_scene": conventions.SOURCE_SCENE, "band": conventions.BAND}
        for name, attributes in about.items():
            if name in plain.variables:
                plain[name].attrs.update(attributes)
        return plain

    fields = retrieve(
        cube(Scene(plumes=(Plume(row=80, col=60, rate_kg_h=10_000),))),
        [cube(Scene(time="2024-05-22T07:21:31", seed=2))],
    )
    assert check(stored(tmp_path / "t", fields)) == []


@pytest.mark.parametrize("product", PRODUCTS)
def test_swaths(tmp_path: Path, swath_world: Any, product: str) -> None:
    folder = store_product(swath_world, product, tmp_path / "t")
    names = {str(name) for name in xr.open_zarr(folder, group="a", chunks=None).dims}
    # A look-up table is a grid of its own, and so is a detector: the checker wants one pair of latitude and longitude
    # a file.
    tables = {name for name in names if "ortho_" in name}
    rest = names - tables
    detectors = [{name for name in rest if name.startswith(part)} for part in ("vnir_", "swir_")]
    maps = [{name for name in tables if name.startswith(part)} for part in ("vnir_", "swir_", "ortho_")]
    parts = [part for part in (*detectors, rest - set().union(*detectors), *maps) if part]
    assert set().union(*parts) == names
    for part in parts:
        assert check(folder, part) == []
