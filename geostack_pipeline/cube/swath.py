"""Swath cubes: each granule of an imaging spectrometer as a node of its own, in its own geometry.

* EMIT L1B and L2A: (downtrack, crosstrack, wavelength), as the detector saw it, with the look-up table to a map;
* EMIT L2B, EnMAP L2A and L1C: (y, x), on the grid of the product, cut to the areas;
* EnMAP L1B: each detector in its own geometry.

Nothing is resampled, and large variables are read lazily, for the bands that are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geostack_pipeline.cube import swath_conventions as names
from geostack_pipeline.cube.conventions import GRID_MAPPING, group_attributes, spatial_coordinates
from geostack_pipeline.cube.cut import open_cut, plane_reader, required_cut, same_grid
from geostack_pipeline.cube.granule import (
    DEFAULT_RANGES,
    Granule,
    Node,
    Outline,
    OutsideError,
    Ranges,
    SourceFile,
    band_coordinates,
    chosen_bands,
)
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.lazy import lazy
from geostack_pipeline.cube.swath_enmap import DETECTORS, IMAGE, IMAGES, METADATA, detectors, image_on_map
from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.band_mask import NO_FLAG, band_flags
from geostack_pipeline.raster.emit_netcdf import FILL, EmitFile
from geostack_pipeline.raster.window import Bounds

__all__ = [
    "DEFAULT_RANGES",
    "IMAGE",
    "IMAGES",
    "METADATA",
    "METHANE",
    "NETCDF",
    "Granule",
    "Node",
    "Outline",
    "OutsideError",
    "Ranges",
    "SourceFile",
    "node_name",
    "open_granule",
    "readable",
]

NETCDF = ("RAD", "RFL", "RFLUNCERT", "OBS", "MASK")
METHANE = ("CH4ENH", "CH4UNCERT", "CH4SENS", "CH4PLM")
_SPECTRAL_CHUNK = (256, 64)
"""Lines and samples of a chunk in sensor geometry, with all its bands: filters work along the track."""


def readable(assets: Sequence[str]) -> bool:
    """Return whether files of these assets make a node."""
    return any(asset in {*NETCDF, *METHANE, *IMAGES} for asset in assets)


def node_name(item_id: str) -> str:
    """Return the name of a granule's node: the id, where it has none but safe characters.

    Else a digest of the id follows, so that no two granules meet in one node.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", item_id).strip(".")
    safe = safe if safe and not safe.startswith("__") else f"x{safe}"
    return safe if safe == item_id else f"{safe}-{sha256(item_id.encode()).hexdigest()[:8]}"


@contextmanager
def open_granule(
    granule: Granule, *, bounds: Bounds, ranges: Ranges = DEFAULT_RANGES, outlines: Sequence[Outline] = ()
) -> Iterator[Node]:
    """Open a granule's files and give its node; close them afterwards.

    Memory: what is read of the node at a time, and planes of (downtrack, crosstrack) or (y, x).

    Args:
        granule: What to read.
        bounds: Box in degrees to which products on a map are cut; west > east crosses the antimeridian.
        ranges: Wavelengths to keep.
        outlines: Plumes to mark in a methane product.

    Raises:
        RasterError: A file is not what its asset key says, or no band lies in the ranges.
        TransferError: Bytes cannot be moved.
    """
    with ExitStack() as stack:
        if any(key in granule.files for key in NETCDF):
            node = _sensor_geometry(granule, ranges, stack)
        elif IMAGE in granule.files:
            node = image_on_map(granule, bounds, ranges, stack)
        elif any(key in granule.files for key in DETECTORS.values()):
            node = detectors(granule, ranges, stack)
        elif any(key in granule.files for key in METHANE):
            node = _methane(granule, bounds, outlines, stack)
        else:
            raise RasterError(
                "No file of the granule can be read into a cube",
                subject=granule.item_id,
                found=", ".join(sorted(granule.files)) or "no file",
                action=f"fetch one of {', '.join((*NETCDF, *METHANE, *IMAGES))}",
            )
        dataset = node.dataset.assign_coords(time=_time(granule.datetime))
        dataset.attrs = {**_identity(granule), **dataset.attrs}
        yield replace(node, dataset=dataset)


def _identity(granule: Granule) -> dict[str, Any]:
    keys = sorted(granule.files)
    return {
        "Conventions": "CF-1.11",
        "item_id": granule.item_id,
        "scene": granule.scene,
        "collection": granule.collection,
        "datetime": granule.datetime.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "platform": granule.platform,
        "area": granule.area,
        "source_assets": keys,
        "source_sha256": [granule.files[key].sha256 for key in keys],
        "source_objects": [granule.files[key].canonical for key in keys],
    }


def _time(moment: datetime) -> xr.Variable:
    stamp = np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "ns")
    return xr.Variable((), stamp, names.TIME)


# --- sensor geometry ---------------------------------------------------------------------------------------


def _sensor_geometry(granule: Granule, ranges: Ranges, stack: ExitStack) -> Node:
    files = {
        key: stack.enter_context(EmitFile(granule.files[key].store, granule.files[key].key))
        for key in NETCDF
        if key in granule.files
    }
    first = next(iter(files.values()))
    for key, file in files.items():
        if (file.lines, file.samples) != (first.lines, first.samples):
            raise RasterError(
                "The files of the granule are not of one scene",
                subject=f"{granule.item_id} {key}",
                found=f"{file.lines} x {file.samples} pixels beside {first.lines} x {first.samples}",
                action="look at the catalog's item",
            )
    variables: dict[str, xr.Variable] = {}
    coordinates: dict[str, xr.Variable] = {}
    chunks: dict[str, tuple[int, ...]] = {}
    apart = set()
    for file in files.values():
        if file.variable == "obs":
            variables |= _observation(file)
        elif file.variable == "mask":
            variables |= _masks(file)
        else:
            bands = _bands_of(file, ranges)
            coordinates |= bands
            variables[file.variable] = _spectra(file, [int(n) - 1 for n in bands["band_number"].values])
            chunks[file.variable] = (*_SPECTRAL_CHUNK, bands["wavelength"].size)
            if file.in_one_piece:
                apart.add(file.variable)
    for name, mask in _band_mask(files.values(), coordinates.get("band_number")).items():
        variables[name], chunks[name] = mask, (*_SPECTRAL_CHUNK, mask.shape[2])
    main = next((name for name in names.MAIN if name in variables), next(iter(variables)))
    coordinates |= _placed(first) | _look_up_grid(first)
    attributes: dict[str, Any] = {
        key: first.attributes[key]
        for key in (
            "product_version",
            "software_build_version",
            "crosstrack_orientation",
            "time_coverage_start",
        )
        if key in first.attributes
    }
    variables |= {
        name: _located(first, name, ("ortho_y", "ortho_x"), dict(about)) for name, about in names.GLT.items()
    }
    dataset = xr.Dataset(variables, coords=coordinates, attrs=_plain(attributes))
    return Node(dataset=dataset, main=main, chunks=chunks, apart=frozenset(apart))


def _bands_of(file: EmitFile, ranges: Ranges) -> dict[str, xr.Variable]:
    if file.wavelength is None:
        raise RasterError(
            "The file does not tell the wavelengths of its bands",
            subject=file.key,
            action="fetch the object again; if it stays so, the source is another product",
        )
    bands = chosen_bands(file.wavelength, ranges, file.key)
    found = band_coordinates(file.wavelength, file.fwhm, bands)
    if file.good is not None:
        found["good_wavelengths"] = xr.Variable("wavelength", file.good[bands].astype(np.uint8), names.GOOD)
    return found


def _spectra(file: EmitFile, bands: list[int]) -> xr.Variable:
    about = dict(names.MAIN[file.variable])

    def read(box: tuple[slice, ...]) -> npt.NDArray[np.float32]:
        lines, samples, chosen = box
        return file.read(lines, samples, bands[chosen])

    return lazy(
        ("downtrack", "crosstrack", "wavelength"),
        (file.lines, file.samples, len(bands)),
        np.float32,
        read,
        {**about, "_FillValue": np.float32(FILL)},
    )


def _plane(file: EmitFile, band: int, attributes: Mapping[str, Any]) -> xr.Variable:
    def read(box: tuple[slice, ...]) -> npt.NDArray[np.float32]:
        return file.read(box[0], box[1], [band])[..., 0]

    about = {**attributes, "_FillValue": np.float32(FILL)}
    return lazy(("downtrack", "crosstrack"), (file.lines, file.samples), np.float32, read, about)


def _observation(file: EmitFile) -> dict[str, xr.Variable]:
    found: dict[str, xr.Variable] = {}
    for band, label in enumerate(_labels(file)):
        name, about = _known(label, names.OBSERVATION) or (f"obs_{_slug(label)}", {"long_name": label})
        found[_new(name, found, file)] = _plane(file, band, about)
    return found


def _labels(file: EmitFile) -> tuple[str, ...]:
    """Return the names of bands that are no wavelengths; without them nobody knows what the bands are."""
    if len(file.names) != file.bands:
        raise RasterError(
            "The file does not tell what its bands are",
            subject=file.key,
            found=f"{len(file.names)} names for {file.bands} bands of {file.variable}",
            action="fetch the object again; if it stays so, the source is another product",
        )
    return file.names


def _new(name: str, found: Mapping[str, xr.Variable], file: EmitFile) -> str:
    """Return a variable's name; refuse a second band of the same name, which would replace the first."""
    if name in found:
        raise RasterError(
            "Two bands of the file have one name",
            subject=file.key,
            found=name,
            action="look at sensor_band_parameters of the file",
        )
    return name


def _masks(file: EmitFile) -> dict[str, xr.Variable]:
    found: dict[str, xr.Variable] = {}
    for band, label in enumerate(_labels(file)):
        quantity = _known(label, names.MASK_QUANTITIES)
        if quantity is not None:
            found[_new(quantity[0], found, file)] = _plane(file, band, quantity[1])
            continue
        name, about = _known(label, names.MASK) or (f"mask_{_slug(label)}", {"long_name": label})
        found[_new(name, found, file)] = _flag(file, band, {**about, **names.MASK_FLAGS})
    return found


def _band_mask(files: Iterable[EmitFile], numbers: xr.Variable | None) -> dict[str, xr.Variable]:
    """Return the mask of single bands: of the bands that are kept, or packed where no spectrum says which these are."""
    file = next((each for each in files if each.band_mask_bytes), None)
    if file is None:
        return {}
    if numbers is None:
        return {
            "band_mask_packed": lazy(
                ("downtrack", "crosstrack", "packed_band"),
                (file.lines, file.samples, file.band_mask_bytes),
                np.uint8,
                lambda box: file.band_mask(box[0], box[1])[..., box[2]],
                dict(names.BAND_MASK_PACKED),
            )
        }
    bands = [int(number) - 1 for number in numbers.values]
    if max(bands) >= 8 * file.band_mask_bytes:
        raise RasterError(
            "The files of the granule are not of one scene",
            subject=file.key,
            found=f"a mask of {8 * file.band_mask_bytes} bands beside band {max(bands) + 1}",
            action="look at the catalog's item",
        )
    return {
        "band_mask": lazy(
            ("downtrack", "crosstrack", "wavelength"),
            (file.lines, file.samples, len(bands)),
            np.uint8,
            lambda box: band_flags(file.band_mask(box[0], box[1]), bands[box[2]]),
            {**names.BAND_MASK, **names.MASK_FLAGS},
        )
    }


def _flag(file: EmitFile, band: int, attributes: Mapping[str, Any]) -> xr.Variable:
    def read(box: tuple[slice, ...]) -> npt.NDArray[np.uint8]:
        values = file.read(box[0], box[1], [band])[..., 0]
        return np.where(values == FILL, NO_FLAG, values != 0).astype(np.uint8)

    return lazy(("downtrack", "crosstrack"), (file.lines, file.samples), np.uint8, read, dict(attributes))


def _placed(file: EmitFile) -> dict[str, xr.Variable]:
    """Return where the pixels lie."""
    across = ("downtrack", "crosstrack")
    return {
        name: _located(file, name, across, {**names.LOCATION[name], "_FillValue": FILL})
        for name in ("lon", "lat", "elev")
    }


def _located(file: EmitFile, name: str, dims: tuple[str, str], attributes: dict[str, Any]) -> xr.Variable:
    shape, dtype = file.location_type(name)
    return lazy(dims, shape, dtype, lambda box: file.location(name, *box), attributes)


def _look_up_grid(file: EmitFile) -> dict[str, xr.Variable]:
    """Return the geographic grid of the look-up table, where the file tells it."""
    place = file.geotransform
    if place is None:
        return {}
    height, width = file.ortho_shape
    spatial = spatial_coordinates(GridSpec(crs="EPSG:4326", transform=place, width=width, height=height))
    found = {GRID_MAPPING: spatial[GRID_MAPPING]}
    for ortho, axis in (("ortho_y", "y"), ("ortho_x", "x")):
        about = {key: value for key, value in spatial[axis].attrs.items() if key != "axis"}
        found[ortho] = xr.Variable(ortho, spatial[axis].values, about)
    return found


def _known(label: str, table: Mapping[str, tuple[str, dict[str, Any]]]) -> tuple[str, dict[str, Any]] | None:
    text = " ".join(label.lower().split())
    return next((entry for start, entry in table.items() if text.startswith(start)), None)


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")[:40]


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.item() if isinstance(value, np.generic) else value for key, value in attributes.items()
    }


# --- products on a map -------------------------------------------------------------------------------------


def _methane(granule: Granule, bounds: Bounds, outlines: Sequence[Outline], stack: ExitStack) -> Node:
    keys = [key for key in METHANE if key in granule.files]
    cuts = {key: required_cut(granule.files[key], bounds, stack, f"{granule.item_id} {key}") for key in keys}
    first = cuts[keys[0]]
    variables: dict[str, xr.Variable] = {}
    for key, cut in cuts.items():
        if not same_grid(cut.grid, first.grid):
            raise RasterError(
                "The rasters of the granule lie on different grids",
                subject=f"{granule.item_id} {key}",
                found=f"{cut.grid.transform} beside {first.grid.transform}",
                action="look at the catalog's item",
            )
        name, about = names.METHANE[key]
        fill = names.no_data(FILL if cut.raster.nodata is None else cut.raster.nodata, cut.raster.dtype)
        variables[name] = lazy(
            ("y", "x"),
            cut.grid.shape,
            cut.raster.dtype,
            plane_reader(cut),
            {**about, "grid_mapping": GRID_MAPPING, **fill},
        )
    if "CH4PLM" not in granule.files:
        mask, marked = _plume_mask(first.grid, outlines, bounds, stack)
        about = {**names.PLUME_MASK, "plumes": marked, "grid_mapping": GRID_MAPPING}
        variables["plume_mask"] = xr.Variable(("y", "x"), mask, about)
    dataset = xr.Dataset(
        variables, coords=spatial_coordinates(first.grid), attrs=group_attributes(first.grid)
    )
    return Node(dataset=dataset, main=names.METHANE[keys[0]][0])


def _plume_mask(
    grid: GridSpec, outlines: Sequence[Outline], bounds: Bounds, stack: ExitStack
) -> tuple[npt.NDArray[np.int32], list[int]]:
    """Return the numbers of plumes on a grid, and which are there; where two meet, the one named later has the pixel.

    The rasters of plumes lie on the lattice of the granule, which is checked to a tenth of a pixel.
    """
    mask = np.zeros(grid.shape, np.int32)
    marked = []
    for outline in outlines:
        cut = open_cut(outline.raster, bounds, stack)
        if cut is None:
            continue
        step_x, step_y = grid.transform[0], grid.transform[4]
        left = (cut.grid.transform[2] - grid.transform[2]) / step_x
        top = (cut.grid.transform[5] - grid.transform[5]) / step_y
        column, row = round(left), round(top)
        on_lattice = max(abs(left - column), abs(top - row)) < 0.1
        if (
            cut.grid.crs != grid.crs
            or not on_lattice
            or not np.isclose(cut.grid.transform[0], step_x, rtol=1e-4)
        ):
            raise RasterError(
                "The plume's raster does not lie on the granule's lattice",
                subject=outline.raster.canonical,
                found=f"{cut.grid.crs}, {left:.2f} columns and {top:.2f} rows from the granule's corner",
                action="look at both files with gdalinfo",
            )
        values = cut.raster.read(cut.window)
        inside = np.isfinite(values) & (values != (FILL if cut.raster.nodata is None else cut.raster.nodata))
        rows = slice(max(row, 0), max(0, min(row + cut.grid.height, grid.height)))
        columns = slice(max(column, 0), max(0, min(column + cut.grid.width, grid.width)))
        part = inside[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column]
        if rows.stop > rows.start and columns.stop > columns.start and part.any():
            mask[rows, columns][part] = outline.number
            marked.append(outline.number)
    return mask, marked
