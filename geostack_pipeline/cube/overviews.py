"""Overviews of a cube: the same area in coarser pixels, as groups in its node, for maps and first looks.

Level ``2`` has pixels twice as wide, ``4`` four times, each computed from the cube itself: reflectance is the mean of the
valid pixels, what counts or names something is the most frequent valid value (the smallest of those as frequent).
They are described by the Zarr conventions ``multiscales``, ``spatial`` and ``proj`` (github.com/zarr-conventions).

xarray lets no group below another have other coordinates ``x`` and ``y``, so that a tree with overviews in its
consolidated metadata would not open: :func:`~geostack_pipeline.cube.write.finish_tree` leaves them out of it.
They are a tree of their own: ``xarray.open_datatree("…/tree.zarr/<node>/overviews")``, or
``geostack_pipeline.load(asset, date, name="<node>/overviews")``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from numba import njit
from zarr.abc.store import Store

from geostack_pipeline.cube import conventions
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.write import OVERVIEWS, quiet, write_node

SMALL = 256
"""Pixels: the coarsest of as many levels as needed is no larger than this on either side."""
MOST_LEVELS = 10
_PIXELS = ("reflectance", "scl", "source_scene")

_RELEASE = "https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json"
_SPEC = "https://github.com/zarr-conventions/{name}/blob/v0.1/README.md"
_CONVENTIONS = (
    ("multiscales", "d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets"),
    (
        "proj",
        "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "Coordinate reference system information for geospatial data",
    ),
    ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
)


def factors(shape: tuple[int, int], levels: bool | int) -> list[int]:  # noqa: FBT001 - a setting's value
    """Return how many pixels each level joins along a side: 2, 4, 8 and so on.

    Args:
        shape: Rows and columns of the cube.
        levels: How many levels; True takes as many as make the coarsest one no larger than 256 pixels.
    """
    if levels is True:
        levels = max(1, math.ceil(math.log2(max(*shape, 1) / SMALL)))
    return [1 << level for level in range(1, min(int(levels), MOST_LEVELS) + 1)]


def write_overviews(store: Store, node: str, grid: GridSpec, levels: bool | int) -> None:  # noqa: FBT001 - a setting's value
    """Write the overviews of a cube that is stored as a node, and describe them in its attributes.

    Memory: the overviews of a level, and one band of one time of the cube.

    Args:
        store: Zarr store of the tree, writable.
        node: Name of the node, written by :func:`~geostack_pipeline.cube.stream.write_cube`.
        grid: The cube's grid.
        levels: See :func:`factors`.
    """
    chosen = factors(grid.shape, levels)
    with quiet():
        group = zarr.open_group(store, path=node, mode="r+", zarr_format=3)
        packed = xr.open_zarr(
            store, group=node, decode_cf=False, chunks=None, consolidated=False, zarr_format=3
        )
        # As it was before it was stored: which variables are coordinates is said by attributes there.
        packed = packed.set_coords([name for name in packed.data_vars if str(name) not in _PIXELS])
        for one in (packed, *packed.variables.values()):
            one.attrs.pop("coordinates", None)
        group.update_attributes(_description(packed, grid, chosen))
        zarr.create_group(store, path=f"{node}/{OVERVIEWS}", zarr_format=3)
    for factor in chosen:
        write_node(store, f"{node}/{OVERVIEWS}/{factor}", coarsened(packed, grid, factor))
    with quiet():
        zarr.consolidate_metadata(store, path=f"{node}/{OVERVIEWS}", zarr_format=3)


def coarsened(packed: xr.Dataset, grid: GridSpec, factor: int) -> xr.Dataset:
    """Return a packed cube with pixels of ``factor`` x ``factor`` of its own; at the edges of what is there."""
    place = coarse_grid(grid, factor)
    variables: dict[str, xr.Variable] = {}
    for name, variable in packed.data_vars.items():
        if variable.dims[-2:] != ("y", "x"):
            variables[str(name)] = variable.variable
            continue
        values = np.empty((*variable.shape[:-2], *place.shape), variable.dtype)
        for index in np.ndindex(variable.shape[:-2]):
            # One plane after the other: a stored cube is not read whole.
            plane = np.ascontiguousarray(variable[index].values)
            if name == "reflectance":
                _mean(plane, factor, plane.dtype.type(variable.attrs["_FillValue"]), values[index])
            else:
                _mode(plane, factor, plane.dtype.type(_missing(str(name))), values[index])
        variables[str(name)] = xr.Variable(variable.dims, values, variable.attrs)
    kept = {
        name: coord for name, coord in packed.coords.items() if not {"y", "x"} & set(map(str, coord.dims))
    }
    attributes = {
        name: value for name, value in packed.attrs.items() if name not in {"multiscales", "zarr_conventions"}
    }
    own = {**conventions.group_attributes(place), **_spatial(place)}
    return xr.Dataset(
        variables,
        coords={**kept, **conventions.spatial_coordinates(place)},
        attrs={**attributes, **own, "zarr_conventions": [_registered(*one) for one in _CONVENTIONS[1:]]},
    )


def coarse_grid(grid: GridSpec, factor: int) -> GridSpec:
    """Return the grid with the same upper left corner whose pixels join ``factor`` x ``factor``."""
    a, b, c, d, e, f = grid.transform
    return GridSpec(
        crs=grid.crs,
        transform=(a * factor, b, c, d, e * factor, f),
        width=-(-grid.width // factor),
        height=-(-grid.height // factor),
    )


def _missing(name: str) -> int:
    """Return what stands for no data in a variable of classes or numbers."""
    return -1 if name == "source_scene" else 0


def _description(packed: xr.Dataset, grid: GridSpec, chosen: list[int]) -> dict[str, Any]:
    return {
        "zarr_conventions": [_registered(*one) for one in _CONVENTIONS],
        "multiscales": {"layout": list(_layout(packed, grid, chosen))},
        **_spatial(grid),
    }


def _layout(packed: xr.Dataset, grid: GridSpec, chosen: list[int]) -> Iterator[dict[str, Any]]:
    """Yield an entry per array and level: the cube's own arrays are the finest level, so paths lead to arrays."""
    for name in sorted(str(name) for name, v in packed.data_vars.items() if v.dims[-2:] == ("y", "x")):
        axes = packed[name].ndim - 2
        for factor in (1, *chosen):
            entry: dict[str, Any] = {
                "asset": name if factor == 1 else f"{OVERVIEWS}/{factor}/{name}",
                "transform": {"scale": [1.0] * axes + [float(factor)] * 2, "translation": [0.0] * (axes + 2)},
            }
            if factor > 1:
                entry["derived_from"] = name
                entry["resampling_method"] = "average" if name == "reflectance" else "mode"
            place = coarse_grid(grid, factor)
            spatial = _spatial(place)
            yield {**entry, **{key: spatial[key] for key in ("spatial:transform", "spatial:shape")}}


def _spatial(grid: GridSpec) -> dict[str, Any]:
    return {
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(grid.transform),
        "spatial:shape": list(grid.shape),
        "spatial:bbox": list(grid.bounds),
        "spatial:registration": "pixel",
    }


def _registered(name: str, uuid: str, description: str) -> dict[str, str]:
    return {
        "uuid": uuid,
        "schema_url": _RELEASE.format(name=name),
        "spec_url": _SPEC.format(name=name),
        "name": name,
        "description": description,
    }


@njit(nogil=True, cache=True)
def _mean(plane: npt.NDArray[Any], factor: int, fill: Any, out: npt.NDArray[Any]) -> None:
    """Write the rounded mean of the numbers of each block that are not ``fill``; halves go up."""
    rows, columns = plane.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total = np.int64(0)
            count = np.int64(0)
            for row in range(i * factor, min((i + 1) * factor, rows)):
                for column in range(j * factor, min((j + 1) * factor, columns)):
                    number = plane[row, column]
                    if number != fill:
                        total += np.int64(number)
                        count += 1
            out[i, j] = (2 * total + count) // (2 * count) if count else fill


@njit(nogil=True, cache=True)
def _mode(plane: npt.NDArray[Any], factor: int, missing: Any, out: npt.NDArray[Any]) -> None:
    """Write the most frequent number of each block that is not ``missing``, the smallest of equally frequent ones."""
    rows, columns = plane.shape
    lowest = np.int64(plane.min()) if plane.size else np.int64(0)
    highest = np.int64(plane.max()) if plane.size else np.int64(0)
    counts = np.zeros(highest - lowest + 1, np.int64)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            counts[:] = 0
            for row in range(i * factor, min((i + 1) * factor, rows)):
                for column in range(j * factor, min((j + 1) * factor, columns)):
                    counts[np.int64(plane[row, column]) - lowest] += 1
            best = np.int64(missing)
            most = np.int64(0)
            for number in range(counts.size):
                if counts[number] > most and number + lowest != missing:
                    best = number + lowest
                    most = counts[number]
            out[i, j] = best
