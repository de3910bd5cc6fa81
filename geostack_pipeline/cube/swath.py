"""Swath cubes: each granule of an imaging spectrometer as a node of its own, in its own geometry.

* EMIT L1B and L2A: (downtrack, crosstrack, wavelength), as the detector saw it, with the look-up table to a map;
* EMIT L2B and EnMAP L2A: (y, x), on the grid of the product, cut to the areas.

Nothing is resampled, and large variables are read lazily, for the bands that are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geostack_pipeline.cube import swath_conventions as names
from geostack_pipeline.cube.conventions import GRID_MAPPING, group_attributes, spatial_coordinates
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.cube.lazy import lazy
from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.emit_netcdf import FILL, EmitFile
from geostack_pipeline.raster.enmap import EnmapMetadata, read_metadata
from geostack_pipeline.raster.geo import shifted
from geostack_pipeline.raster.source import Raster, open_raster
from geostack_pipeline.raster.window import Bounds, Window, window_of_bounds

if TYPE_CHECKING:
    from obstore.store import ObjectStore


class OutsideError(RasterError):
    """A raster does not reach the areas, though the footprint of its item does."""


Ranges = Sequence[tuple[float, float]]
"""Closed ranges of wavelength, nm."""
DEFAULT_RANGES: Ranges = ((476.0, 484.0), (556.0, 564.0), (656.0, 664.0), (2100.0, 2500.0))
"""A blue, a green and a red band for the eye, and the window in which methane absorbs."""

NETCDF = ("RAD", "RFL", "RFLUNCERT", "OBS", "MASK")
METHANE = ("CH4ENH", "CH4UNCERT", "CH4SENS", "CH4PLM")
IMAGE, METADATA = "SPECTRAL_IMAGE", "METADATA"
_SPECTRAL_CHUNK = (256, 64)
"""Lines and samples of a chunk in sensor geometry, with all its bands: filters work along the track."""
_MAP_CHUNK = (128, 128)
_NO_FLAG = 255


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One cached file of a granule."""

    store: ObjectStore
    key: str
    sha256: str
    canonical: str
    """Identity of the source, free of credentials."""


@dataclass(frozen=True, kw_only=True)
class Granule:
    """One catalog item of an imaging spectrometer with its files."""

    item_id: str
    scene: str
    """Identity of the physical scene, the same for all items of it."""
    collection: str
    datetime: datetime
    """Start of the acquisition, UTC."""
    platform: str
    area: str
    """Areas it touches, joined by ``+``."""
    files: Mapping[str, SourceFile]
    """Asset -> file."""
    scale: float = 1.0
    """Reflectance per stored number of an image on a map; used where no metadata file tells."""
    offset: float = 0.0
    nodata: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A plume that analysts outlined."""

    number: int
    raster: SourceFile


@dataclass(frozen=True, kw_only=True)
class Node:
    """A granule ready to be written; its files are open as long as :func:`open_granule` is."""

    dataset: xr.Dataset
    main: str
    """Variable that the granule is about."""
    chunks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Chunk shapes of variables that are not written in squares."""


def readable(assets: Sequence[str]) -> bool:
    """Return whether files of these assets make a node."""
    return any(asset in {*NETCDF, *METHANE, IMAGE} for asset in assets)


def node_name(item_id: str) -> str:
    """Return the name of a granule's node: the id, where it has none but safe characters."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", item_id).strip(".")
    return safe if not safe.startswith("__") else f"x{safe}"


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
            node = _image(granule, bounds, ranges, stack)
        elif any(key in granule.files for key in METHANE):
            node = _methane(granule, bounds, outlines, stack)
        else:
            raise RasterError(
                "No file of the granule can be read into a cube",
                subject=granule.item_id,
                found=", ".join(sorted(granule.files)) or "no file",
                action=f"fetch one of {', '.join((*NETCDF, *METHANE, IMAGE))}",
            )
        dataset = node.dataset.assign_coords(time=_time(granule.datetime))
        dataset.attrs = {**_identity(granule), **dataset.attrs}
        yield Node(dataset=dataset, main=node.main, chunks=node.chunks)


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


def _chosen(wavelength: npt.NDArray[Any], ranges: Ranges, subject: str) -> list[int]:
    """Return the bands whose centres lie in one of the ranges, in the order of the product."""
    inside = np.zeros(len(wavelength), bool)
    for low, high in ranges:
        inside |= (wavelength >= low) & (wavelength <= high)
    if not inside.any():
        raise RasterError(
            "No band lies in the wanted wavelengths",
            subject=subject,
            found=f"bands from {np.nanmin(wavelength):.0f} to {np.nanmax(wavelength):.0f} nm",
            action="change the setting wavelengths_nm",
        )
    return [int(i) for i in np.flatnonzero(inside)]


def _band_coordinates(
    wavelength: npt.NDArray[Any], fwhm: npt.NDArray[Any] | None, bands: Sequence[int]
) -> dict[str, xr.Variable]:
    found = {
        "wavelength": xr.Variable("wavelength", np.asarray(wavelength)[bands], names.WAVELENGTH),
        "band_number": xr.Variable("wavelength", np.array(bands, np.int16) + 1, names.BAND_NUMBER),
    }
    if fwhm is not None:
        found["fwhm"] = xr.Variable("wavelength", np.asarray(fwhm)[bands], names.FWHM)
    return found


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
        name: xr.Variable(("ortho_y", "ortho_x"), first.location(name), dict(about))
        for name, about in names.GLT.items()
    }
    dataset = xr.Dataset(variables, coords=coordinates, attrs=_plain(attributes))
    return Node(dataset=dataset, main=main, chunks=chunks)


def _bands_of(file: EmitFile, ranges: Ranges) -> dict[str, xr.Variable]:
    if file.wavelength is None:
        raise RasterError(
            "The file does not tell the wavelengths of its bands",
            subject=file.key,
            action="fetch the object again; if it stays so, the source is another product",
        )
    bands = _chosen(file.wavelength, ranges, file.key)
    found = _band_coordinates(file.wavelength, file.fwhm, bands)
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
    found = {}
    for band, label in enumerate(file.names):
        name, about = _known(label, names.OBSERVATION) or (f"obs_{_slug(label)}", {"long_name": label})
        found[name] = _plane(file, band, about)
    return found


def _masks(file: EmitFile) -> dict[str, xr.Variable]:
    found = {}
    for band, label in enumerate(file.names):
        quantity = _known(label, names.MASK_QUANTITIES)
        if quantity is not None:
            found[quantity[0]] = _plane(file, band, quantity[1])
            continue
        name, about = _known(label, names.MASK) or (f"mask_{_slug(label)}", {"long_name": label})
        found[name] = _flag(file, band, {**about, **names.MASK_FLAGS})
    return found


def _flag(file: EmitFile, band: int, attributes: Mapping[str, Any]) -> xr.Variable:
    def read(box: tuple[slice, ...]) -> npt.NDArray[np.uint8]:
        values = file.read(box[0], box[1], [band])[..., 0]
        return np.where(values == FILL, _NO_FLAG, values != 0).astype(np.uint8)

    return lazy(("downtrack", "crosstrack"), (file.lines, file.samples), np.uint8, read, dict(attributes))


def _placed(file: EmitFile) -> dict[str, xr.Variable]:
    """Return where the pixels lie."""
    across = ("downtrack", "crosstrack")
    return {
        name: xr.Variable(across, file.location(name), {**names.LOCATION[name], "_FillValue": FILL})
        for name in ("lon", "lat", "elev")
    }


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


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """The part of a raster that the areas need."""

    raster: Raster
    window: Window
    grid: GridSpec


def _cut(file: SourceFile, bounds: Bounds, stack: ExitStack) -> _Cut | None:
    """Open a raster and return its part inside the bounds; None where they do not meet."""
    raster = stack.enter_context(open_raster(file.store, file.key))
    if raster.crs is None or raster.transform is None:
        raise RasterError(
            "The image has no georeferencing",
            subject=file.key,
            found="no CRS" if raster.crs is None else "no affine transform",
            action="fetch the object again; if it stays so, the source is another product",
        )
    window = window_of_bounds(
        bounds,
        "EPSG:4326",
        crs=raster.crs,
        transform=raster.transform,
        width=raster.width,
        height=raster.height,
    )
    if window is None:
        return None
    grid = GridSpec(
        crs=raster.crs,
        transform=shifted(raster.transform, window.column, window.row),
        width=window.width,
        height=window.height,
    )
    return _Cut(raster=raster, window=window, grid=grid)


def _required(file: SourceFile, bounds: Bounds, stack: ExitStack, subject: str) -> _Cut:
    cut = _cut(file, bounds, stack)
    if cut is None:
        raise OutsideError(
            "The raster does not reach the areas",
            subject=subject,
            found=f"areas within {bounds}",
            action="nothing: the granule's footprint is larger than its raster",
        )
    return cut


def _window(cut: _Cut, box: tuple[slice, ...]) -> Window:
    rows, columns = box
    return Window(
        cut.window.column + columns.start,
        cut.window.row + rows.start,
        columns.stop - columns.start,
        rows.stop - rows.start,
    )


def _read_plane(cut: _Cut) -> Callable[[tuple[slice, ...]], npt.NDArray[Any]]:
    def read(box: tuple[slice, ...]) -> npt.NDArray[Any]:
        if any(side.stop <= side.start for side in box):
            return np.empty([side.stop - side.start for side in box], cut.raster.dtype)
        return cut.raster.read(_window(cut, box))

    return read


def _methane(granule: Granule, bounds: Bounds, outlines: Sequence[Outline], stack: ExitStack) -> Node:
    keys = [key for key in METHANE if key in granule.files]
    cuts = {key: _required(granule.files[key], bounds, stack, f"{granule.item_id} {key}") for key in keys}
    first = cuts[keys[0]]
    variables: dict[str, xr.Variable] = {}
    for key, cut in cuts.items():
        if not _same_grid(cut.grid, first.grid):
            raise RasterError(
                "The rasters of the granule lie on different grids",
                subject=f"{granule.item_id} {key}",
                found=f"{cut.grid.transform} beside {first.grid.transform}",
                action="look at the catalog's item",
            )
        name, about = names.METHANE[key]
        fill = FILL if cut.raster.nodata is None else cut.raster.nodata
        variables[name] = lazy(
            ("y", "x"),
            cut.grid.shape,
            cut.raster.dtype,
            _read_plane(cut),
            {**about, "grid_mapping": GRID_MAPPING, "_FillValue": cut.raster.dtype.type(fill)},
        )
    if "CH4PLM" not in granule.files:
        mask, marked = _plume_mask(first.grid, outlines, bounds, stack)
        about = {**names.PLUME_MASK, "plumes": marked, "grid_mapping": GRID_MAPPING}
        variables["plume_mask"] = xr.Variable(("y", "x"), mask, about)
    dataset = xr.Dataset(
        variables, coords=spatial_coordinates(first.grid), attrs=group_attributes(first.grid)
    )
    return Node(dataset=dataset, main=names.METHANE[keys[0]][0])


def _same_grid(one: GridSpec, other: GridSpec) -> bool:
    close = np.allclose(one.transform, other.transform, rtol=0.0, atol=1e-3 * abs(other.transform[0]))
    return one.crs == other.crs and one.shape == other.shape and bool(close)


def _plume_mask(
    grid: GridSpec, outlines: Sequence[Outline], bounds: Bounds, stack: ExitStack
) -> tuple[npt.NDArray[np.int32], list[int]]:
    """Return the numbers of plumes on a grid, and which are there; where two meet, the one named later has the pixel.

    The rasters of plumes lie on the lattice of the granule, which is checked to a tenth of a pixel.
    """
    mask = np.zeros(grid.shape, np.int32)
    marked = []
    for outline in outlines:
        cut = _cut(outline.raster, bounds, stack)
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


def _image(granule: Granule, bounds: Bounds, ranges: Ranges, stack: ExitStack) -> Node:
    file = granule.files[IMAGE]
    cut = _required(file, bounds, stack, f"{granule.item_id} {IMAGE}")
    if METADATA not in granule.files:
        raise RasterError(
            "The wavelengths of the image are not known",
            subject=granule.item_id,
            found="no metadata file",
            action=f"add {METADATA} to the setting bands",
        )
    about = read_metadata(granule.files[METADATA].store, granule.files[METADATA].key)
    if len(about.wavelength) != cut.raster.count:
        raise RasterError(
            "Image and metadata file are not of one product",
            subject=granule.item_id,
            found=f"{cut.raster.count} bands in the image, {len(about.wavelength)} in the metadata file",
            action="look at the catalog's item",
        )
    bands = _chosen(about.wavelength, ranges, granule.item_id)
    coordinates = {
        **spatial_coordinates(cut.grid),
        **_band_coordinates(about.wavelength, about.fwhm, bands),
    }
    variables = {"reflectance": _scaled(granule, cut, about, bands)}
    for key, more in names.QUALITY.items():
        if key in granule.files:
            layer = _required(granule.files[key], bounds, stack, f"{granule.item_id} {key}")
            if not _same_grid(layer.grid, cut.grid):
                raise RasterError(
                    "The quality layer lies on another grid than the image",
                    subject=f"{granule.item_id} {key}",
                    found=f"{layer.grid.transform} beside {cut.grid.transform}",
                    action="look at the catalog's item",
                )
            variables[key.lower()] = lazy(
                ("y", "x"),
                layer.grid.shape,
                layer.raster.dtype,
                _read_plane(layer),
                {**more, "grid_mapping": GRID_MAPPING},
            )
    attributes = group_attributes(cut.grid)
    for name in ("sun_elevation_deg", "sun_azimuth_deg", "across_off_nadir_deg"):
        value = getattr(about, name)
        if value is not None:
            attributes[name] = value
    dataset = xr.Dataset(variables, coords=coordinates, attrs=attributes)
    return Node(dataset=dataset, main="reflectance", chunks={"reflectance": (len(bands), *_MAP_CHUNK)})


def _scaled(granule: Granule, cut: _Cut, about: EnmapMetadata, bands: list[int]) -> xr.Variable:
    """Return the image's bands as the stored numbers with gain, offset and no data as CF attributes.

    Raises:
        RasterError: Gain and offset differ between bands, which are then no reflectance.
    """
    gains, offsets = np.unique(about.gain), np.unique(about.offset)
    if about.level not in {None, "L2A"} or len(gains) > 1 or len(offsets) > 1:
        raise RasterError(
            "The image holds no surface reflectance",
            subject=granule.item_id,
            found=f"level {about.level}, {len(gains)} gains and {len(offsets)} offsets",
            action="choose the collection ENMAP_HSI_L2A for cubes",
        )
    nodata = about.nodata if about.nodata is not None else granule.nodata
    nodata = cut.raster.nodata if nodata is None else nodata
    attributes: dict[str, Any] = {
        **names.REFLECTANCE,
        "grid_mapping": GRID_MAPPING,
        "scale_factor": float(gains[0]),
    }
    if offsets[0] != 0.0:
        attributes["add_offset"] = float(offsets[0])
    if nodata is not None:
        attributes["_FillValue"] = cut.raster.dtype.type(nodata)

    def read(box: tuple[slice, ...]) -> npt.NDArray[Any]:
        chosen = [band + 1 for band in bands[box[0]]]
        if not chosen or any(side.stop <= side.start for side in box):
            return np.empty([side.stop - side.start for side in box], cut.raster.dtype)
        return cut.raster.read_bands(_window(cut, box[1:]), chosen)

    return lazy(("wavelength", "y", "x"), (len(bands), *cut.grid.shape), cut.raster.dtype, read, attributes)
