"""Orthorectification of what was computed in sensor geometry, through the look-up table (GLT) of the granule.

The rule is the one that NASA publishes with EMIT (``apply_glt`` of the EMIT data resources): the table is a
geographic grid whose pixels name the sample (``glt_x``) and the line (``glt_y``) that they see, counted from 1; a pixel
of which either is 0 sees nothing; every other one takes the value as it is, nothing is interpolated.

Meant for results: fields, masks, a few bands.  A map of all bands of a granule has several times its bytes, and no
filter needs it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from numba import njit

from geostack_pipeline.cube.conventions import GRID_MAPPING, group_attributes, spatial_coordinates
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.errors import RasterError

SENSOR = ("downtrack", "crosstrack")
MAP = ("ortho_y", "ortho_x")
"""Dimensions of the look-up table in a node."""
NO_PIXEL = 0
GLT_FILL = -9999
"""Fill value of the file's variables; no data as well where a table has it."""
INTEGER_FILL = -9999
_LOCATED = ("lon", "lat")
"""Coordinates of pixels in sensor geometry, whose place ``x`` and ``y`` take on the map."""


def apply_glt(
    field: npt.NDArray[Any], glt_x: npt.NDArray[Any], glt_y: npt.NDArray[Any], fill: Any
) -> npt.NDArray[Any]:
    """Return a field in sensor geometry on the grid of a look-up table.

    Args:
        field: (lines, samples) or (lines, samples, bands), any dtype of 1, 2, 4 or 8 bytes.
        glt_x: (rows, columns), samples counted from 1; 0, -9999 or NaN for none.
        glt_y: The same for lines.
        fill: Value of pixels that see nothing, of the field's dtype.

    Returns:
        (rows, columns) or (rows, columns, bands) of the field's dtype, bit for bit the values of the field.

    Raises:
        RasterError: Shapes do not fit, the dtype cannot hold the fill value, or the table leads outside the field.
    """
    field = np.asarray(field)
    if field.ndim not in {2, 3}:
        raise _refused(
            "A field in sensor geometry has two or three dimensions",
            f"shape {field.shape}",
            "give (downtrack, crosstrack) or (downtrack, crosstrack, bands)",
        )
    _check_type(field.dtype)
    samples, lines = _table(glt_x), _table(glt_y)
    if samples.shape != lines.shape or samples.ndim != 2:
        raise _refused(
            "The two parts of the look-up table do not fit each other",
            f"glt_x {samples.shape} beside glt_y {lines.shape}",
            "give both as (rows, columns)",
        )
    filled = _fill_of(field.dtype, fill)
    # Values move bit by bit, so one loop per size serves every dtype, and NaN keeps its bits.
    bits = np.dtype(f"u{field.dtype.itemsize}")
    cube = np.ascontiguousarray(field).view(bits).reshape(*field.shape[:2], -1)
    out = np.empty((*samples.shape, cube.shape[2]), bits)
    wrong = int(_gather(cube, lines, samples, filled.view(bits)[0], out))
    if wrong >= 0:
        row, column = divmod(wrong, samples.shape[1])
        raise _refused(
            "The look-up table leads outside the granule",
            f"line {lines[row, column]}, sample {samples[row, column]} at row {row}, column {column} "
            f"for {field.shape[0]} x {field.shape[1]} pixels",
            "take field and look-up table of one granule, the field uncut; if they are, fetch the granule again",
        )
    return out.view(field.dtype).reshape(*samples.shape, *field.shape[2:])


def _check_type(dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "biufM" or dtype.itemsize > 8:
        raise _refused(
            "A field of this type cannot be moved to a map",
            f"dtype {dtype}",
            "convert it to numbers of at most 8 bytes",
        )


@njit(nogil=True, cache=True)
def _gather(
    field: npt.NDArray[Any],
    lines: npt.NDArray[np.int32],
    samples: npt.NDArray[np.int32],
    fill: Any,
    out: npt.NDArray[Any],
) -> int:
    """Fill the map; return the number of the first pixel that leads outside the field, -1 for none."""
    height, width, bands = field.shape
    for i in range(lines.shape[0]):
        for j in range(lines.shape[1]):
            line, sample = lines[i, j], samples[i, j]
            if line == NO_PIXEL or sample == NO_PIXEL:  # noqa: PLR1714 - compiled
                for k in range(bands):
                    out[i, j, k] = fill
            elif line < 1 or line > height or sample < 1 or sample > width:
                return int(i * lines.shape[1] + j)
            else:
                for k in range(bands):
                    out[i, j, k] = field[line - 1, sample - 1, k]
    return -1


def orthorectify(
    field: xr.Dataset | xr.DataArray | npt.NDArray[Any], node: xr.Dataset, *, fill: Any = None
) -> xr.Dataset:
    """Return fields in the sensor geometry of a granule on the geographic grid of its look-up table.

    Args:
        field: What to move, with the dimensions ``downtrack`` and ``crosstrack`` (an array without names: the first
            two) and any others, which stay where they are.  Variables without either stay as they are.
        node: The granule's node, of which ``glt_x``, ``glt_y`` and the grid are used.
        fill: Value of map pixels that see no pixel of the granule; by default the variable's flag for no data or
            its ``_FillValue``, else NaN (not a time) where the dtype has it, else -9999 where it can hold that.

    Returns:
        The variables with ``y`` and ``x`` (latitude and longitude of pixel centres, EPSG:4326, rows from the north) in the
        place of ``downtrack`` and ``crosstrack``; dtypes and attributes as they were, ``_FillValue`` told where the
        dtype has no NaN.  ``lon`` and ``lat`` of the sensor's pixels are left out, ``y`` and ``x`` tell them, and so are
        coordinates of lines or of detector columns, which a map does not have.

    Raises:
        RasterError: The node has no look-up table or no grid, the fields are not of the node's shape, the table leads
            outside the granule, or no fill value is known for an integer field; says which variable.
    """
    glt_x, glt_y, grid = _look_up(node)
    dataset = _as_dataset(field)
    shape = _sensor_shape(dataset, node)
    coordinates: dict[str, xr.Variable] = dict(spatial_coordinates(grid))
    variables: dict[str, xr.Variable] = {}
    for key, variable in dataset.variables.items():
        name = str(key)
        if name in {*SENSOR, *MAP, *_LOCATED, *coordinates} or _of_one_side(name, dataset):
            continue
        moved = _moved(name, variable, shape, glt_x, glt_y, fill)
        (coordinates if name in dataset.coords else variables)[name] = moved
    return xr.Dataset(variables, coords=coordinates, attrs={**dataset.attrs, **group_attributes(grid)})


def _of_one_side(name: str, dataset: xr.Dataset) -> bool:
    """Return whether it is a coordinate of lines or of columns alone, such as the band centres of detector columns."""
    return name in dataset.coords and len(set(SENSOR) & set(dataset[name].dims)) == 1


def _as_dataset(field: xr.Dataset | xr.DataArray | npt.NDArray[Any]) -> xr.Dataset:
    if isinstance(field, xr.Dataset):
        return field
    if isinstance(field, xr.DataArray):
        return field.to_dataset(name=field.name if field.name is not None else "field")
    values = np.asarray(field)
    if values.ndim not in {2, 3}:
        raise _refused(
            "A field in sensor geometry has two or three dimensions",
            f"shape {values.shape}",
            "give (downtrack, crosstrack) or (downtrack, crosstrack, bands)",
        )
    return xr.Dataset({"field": ((*SENSOR, "bands")[: values.ndim], values)})


def _sensor_shape(dataset: xr.Dataset, node: xr.Dataset) -> tuple[int, int]:
    """Return lines and samples of the granule, which all that moves must have."""
    sizes = {name: int(node.sizes.get(name, dataset.sizes.get(name, 0))) for name in SENSOR}
    given = {name: int(dataset.sizes[name]) for name in SENSOR if name in dataset.sizes}
    if len(given) != len(SENSOR):
        raise _refused(
            "Nothing lies in sensor geometry",
            f"dimensions {', '.join(map(str, dataset.sizes)) or 'none'}",
            f"give fields with the dimensions {' and '.join(SENSOR)}",
        )
    if given != sizes:
        raise _refused(
            "The field is not of the granule's shape",
            f"{given} beside {sizes}",
            "give the whole field: the look-up table counts lines and samples of the uncut granule",
        )
    return sizes[SENSOR[0]], sizes[SENSOR[1]]


def _look_up(node: xr.Dataset) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], GridSpec]:
    lacking = [name for name in ("glt_x", "glt_y", GRID_MAPPING) if name not in node.variables]
    told = "" if GRID_MAPPING in lacking else str(node[GRID_MAPPING].attrs.get("GeoTransform", ""))
    try:
        c, a, b, f, d, e = (float(text) for text in told.split())
    except ValueError:
        lacking = lacking or [f"{GRID_MAPPING}.GeoTransform"]
    if lacking:
        raise _refused(
            "The node cannot be orthorectified",
            f"no {', '.join(lacking)}",
            "give the node of a granule in sensor geometry, as the cube has it",
        )
    glt_x, glt_y = _table(node["glt_x"].values), _table(node["glt_y"].values)
    if glt_x.shape != glt_y.shape or glt_x.ndim != 2:
        raise _refused(
            "The two parts of the look-up table do not fit each other",
            f"glt_x {glt_x.shape} beside glt_y {glt_y.shape}",
            "fetch the granule again",
        )
    height, width = glt_x.shape
    return glt_x, glt_y, GridSpec(crs="EPSG:4326", transform=(a, b, c, d, e, f), width=width, height=height)


def _moved(
    name: str,
    variable: xr.Variable,
    shape: tuple[int, int],
    glt_x: npt.NDArray[np.int32],
    glt_y: npt.NDArray[np.int32],
    fill: Any,
) -> xr.Variable:
    """Return a variable on the map."""
    dims = [str(dim) for dim in variable.dims]
    across = [dim for dim in SENSOR if dim in dims]
    if not across:
        on_map = [{"ortho_y": "y", "ortho_x": "x"}.get(dim, dim) for dim in dims]
        return xr.Variable(on_map, variable.values, variable.attrs)
    if len(across) < len(SENSOR):
        raise _refused(
            "A variable lies along one side of the granule alone",
            f"{name}{tuple(dims)}",
            "leave it out, or spread it over both sides first",
        )
    others = [dim for dim in dims if dim not in SENSOR]
    _check_type(variable.dtype)
    flagged = _no_data_flag(variable)
    value = _fill_for(name, variable, flagged if fill is None else fill)
    on_map = [{"downtrack": "y", "crosstrack": "x"}.get(dim, dim) for dim in dims]
    attributes = {**variable.attrs, "grid_mapping": GRID_MAPPING}
    if variable.dtype.kind in "iu" and (flagged is None or fill is not None):
        # A flag that says no data itself stays one: with a fill value readers would decode flags to floats.
        attributes["_FillValue"] = _fill_of(variable.dtype, value)[0]
    elif "_FillValue" in attributes:
        attributes["_FillValue"] = _fill_of(variable.dtype, value)[0]
    if dims[-2:] == list(SENSOR):
        # Planes of the last two dimensions: as they lie in memory, each in turn.
        values = np.asarray(variable.values).reshape(-1, *shape)
        out = np.empty((len(values), *glt_x.shape), variable.dtype)
        for i, plane in enumerate(values):
            out[i] = apply_glt(plane, glt_x, glt_y, value)
        moved = out.reshape(*(variable.sizes[dim] for dim in others), *glt_x.shape)
        return xr.Variable(on_map, moved, attributes)
    first = variable.transpose(*SENSOR, *others)
    moved = apply_glt(np.asarray(first.values).reshape(*shape, -1), glt_x, glt_y, value)
    moved = moved.reshape(*glt_x.shape, *(variable.sizes[dim] for dim in others))
    return xr.Variable(["y", "x", *others], moved, attributes).transpose(*on_map)


def _fill_for(name: str, variable: xr.Variable, fill: Any) -> Any:
    """Return the value of no data of a variable."""
    dtype = variable.dtype
    told = variable.attrs.get("_FillValue") if fill is None else fill
    if told is not None:
        return told
    if dtype.kind == "f":
        return np.nan
    if dtype.kind == "M":
        return np.datetime64("NaT")
    if dtype.kind == "i" and dtype.itemsize > 1:
        return dtype.type(INTEGER_FILL)
    raise _refused(
        "No value of the field means that there is no data",
        f"{name} as {dtype} without _FillValue",
        "give fill, a value that the field does not use",
    )


def _no_data_flag(variable: xr.Variable) -> Any:
    """Return the flag that means no data, None where there is none."""
    meanings = str(variable.attrs.get("flag_meanings", "")).split()
    values = np.atleast_1d(variable.attrs.get("flag_values", ()))
    if "no_data" not in meanings or len(values) != len(meanings):
        return None
    return values[meanings.index("no_data")]


def _fill_of(dtype: np.dtype[Any], fill: Any) -> npt.NDArray[Any]:
    """Return an array of the one fill value, which the dtype must hold exactly."""
    try:
        with np.errstate(all="ignore"):
            filled = np.array([fill]).astype(dtype)
        exact = dtype.kind in "fM" or bool(filled[0] == fill)
    except (TypeError, ValueError, OverflowError):
        exact = False
    if not exact:
        raise _refused(
            "The field's type cannot hold the fill value",
            f"{fill!r} in {dtype}",
            "give another fill, or convert the field",
        )
    return filled


def _table(glt: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return a part of the look-up table as int32 with 0 for no pixel."""
    values = np.asarray(glt)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=NO_PIXEL)
    if values.dtype == np.int32 and values.size and values.min() > GLT_FILL:
        return np.ascontiguousarray(values)
    # Numbers beyond int32 stay outside every granule.
    limits = np.iinfo(np.int32)
    whole = np.clip(values, limits.min, limits.max).astype(np.int32)
    return np.where(whole == GLT_FILL, np.int32(NO_PIXEL), whole)


def _refused(problem: str, found: str, action: str) -> RasterError:
    return RasterError(problem, subject="orthorectification", found=found, action=action)
