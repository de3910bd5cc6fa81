"""Nodes of EnMAP: reflectance (L2A) or radiance (L1C) on the product's map, radiance as the detectors saw it (L1B).

Radiance is in the units of EMIT, uW cm-2 sr-1 nm-1; gain and offset of each band are kept as coordinates.  The two
detectors of L1B look at the ground some hundred metres apart and are not co-registered, so that each has dimensions
and coordinates of its own: ``vnir_downtrack``, ``swir_wavelength`` …; :func:`detector` gives one of them alone.  What
the metadata file says of their geometry (``raster.enmap_geometry``) becomes longitudes, latitudes and a look-up table to a
map, and band centres per detector column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geostack_pipeline.cube import swath_conventions as names
from geostack_pipeline.cube.conventions import GRID_MAPPING, group_attributes, spatial_coordinates
from geostack_pipeline.cube.cut import Cut, required_cut, same_grid, window_in
from geostack_pipeline.cube.granule import Granule, Node, Ranges, band_coordinates, chosen_bands
from geostack_pipeline.cube.lazy import lazy
from geostack_pipeline.cube.swath_rpc import placed
from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.emit_netcdf import FILL
from geostack_pipeline.raster.enmap import EnmapMetadata, read_metadata
from geostack_pipeline.raster.enmap_geometry import shifts
from geostack_pipeline.raster.source import Raster, open_raster
from geostack_pipeline.raster.window import Bounds, Window

IMAGE, METADATA = "SPECTRAL_IMAGE", "METADATA"
DETECTORS: Mapping[str, str] = {"vnir": f"{IMAGE}_VNIR", "swir": f"{IMAGE}_SWIR"}
"""Detector -> asset of its image at L1B."""
IMAGES = (IMAGE, *DETECTORS.values())
_MAP_CHUNK = (128, 128)
_SENSOR_CHUNK = (256, 64)
_PER_CM2 = 100.0
"""uW cm-2 per W m-2."""
_FACTS = ("sun_elevation_deg", "sun_azimuth_deg", "across_off_nadir_deg")

Read = Callable[[tuple[slice, ...]], npt.NDArray[Any]]


def image_on_map(granule: Granule, bounds: Bounds, ranges: Ranges, stack: ExitStack) -> Node:
    """Return the node of an L2A or L1C product, cut to the bounds.

    Raises:
        RasterError: Image, metadata and quality layers do not fit each other, or no band lies in the ranges.
    """
    cut = required_cut(granule.files[IMAGE], bounds, stack, f"{granule.item_id} {IMAGE}")
    about = _metadata(granule)
    if len(about.wavelength) != cut.raster.count:
        raise _not_one_product(granule, cut.raster.count, len(about.wavelength))
    bands = chosen_bands(about.wavelength, ranges, granule.item_id)
    coordinates = {
        **spatial_coordinates(cut.grid),
        **band_coordinates(about.wavelength, about.fwhm, bands),
    }
    if _is_reflectance(granule, about):
        main = "reflectance"
        image = _reflectance(granule, cut, about, bands)
    else:
        main = "radiance"
        coordinates |= _calibration(about, bands, "wavelength")
        read = _radiance_reader(cut.raster, about, bands, _nodata(granule, about, cut.raster))
        image = lazy(
            ("wavelength", "y", "x"),
            (len(bands), *cut.grid.shape),
            np.float32,
            lambda box: read(box[0], window_in(cut, box[1:])),
            {**names.RADIANCE, "grid_mapping": GRID_MAPPING, "_FillValue": np.float32(FILL)},
        )
    variables = {main: image}
    for key, more in names.QUALITY.items():
        if key in granule.files:
            layer = required_cut(granule.files[key], bounds, stack, f"{granule.item_id} {key}")
            if not same_grid(layer.grid, cut.grid):
                raise RasterError(
                    "The quality layer lies on another grid than the image",
                    subject=f"{granule.item_id} {key}",
                    found=f"{layer.grid.transform} beside {cut.grid.transform}",
                    action="look at the catalog's item",
                )
            variables[key.lower()] = _quality(
                granule,
                key,
                layer.raster,
                bands,
                len(about.wavelength),
                ("wavelength", "y", "x"),
                {**more, "grid_mapping": GRID_MAPPING},
                cut=layer,
            )
    attributes = {**group_attributes(cut.grid), **_facts(about)}
    dataset = xr.Dataset(variables, coords=coordinates, attrs=attributes)
    return Node(dataset=dataset, main=main, chunks={main: (len(bands), *_MAP_CHUNK)})


def detectors(granule: Granule, ranges: Ranges, stack: ExitStack) -> Node:
    """Return the node of an L1B product, uncut: ``radiance_vnir``, ``radiance_swir`` and their quality layers.

    A detector that has no band in the ranges is left out.

    Raises:
        RasterError: Images, metadata and quality layers do not fit each other, or no band lies in the ranges.
    """
    about = _metadata(granule)
    variables: dict[str, xr.Variable] = {}
    coordinates: dict[str, xr.Variable] = {}
    chunks: dict[str, tuple[int, ...]] = {}
    given = [name for name, key in DETECTORS.items() if key in granule.files]
    everywhere = np.concatenate([about.wavelength[about.bands_of(name, granule.item_id)] for name in given])
    chosen_bands(everywhere, ranges, granule.item_id)  # refuses where there is none
    for name in given:
        own = about.bands_of(name, granule.item_id)
        bands = _bands_inside(about.wavelength[own], ranges)
        if not bands:
            continue
        file = granule.files[DETECTORS[name]]
        raster = stack.enter_context(open_raster(file.store, file.key))
        if raster.count != own.stop - own.start:
            raise _not_one_product(granule, raster.count, own.stop - own.start)
        numbers = [own.start + band for band in bands]
        dims = (f"{name}_downtrack", f"{name}_crosstrack", f"{name}_wavelength")
        found = band_coordinates(about.wavelength, about.fwhm, numbers) | _calibration(
            about, numbers, "wavelength"
        )
        coordinates |= {
            f"{name}_{key}": xr.Variable(dims[2], each.values, each.attrs) for key, each in found.items()
        }
        read = _radiance_reader(raster, about, numbers, _nodata(granule, about, raster), first=own.start)
        variables[f"radiance_{name}"] = lazy(
            dims,
            (raster.height, raster.width, len(bands)),
            np.float32,
            _lines(read),
            {**names.RADIANCE, "_FillValue": np.float32(FILL)},
        )
        chunks[f"radiance_{name}"] = (*_SENSOR_CHUNK, len(bands))
        coordinates |= _smile(name, about, [number - own.start for number in numbers], raster.width)
        if about.models:
            # Bands of a detector lie within a pixel of each other; the middle one stands for all.
            model = about.models[numbers[len(numbers) // 2]]
            height = model.height_m if about.ground_m is None else about.ground_m
            tables, places = placed(name, model, raster.height, raster.width, height)
            variables |= tables
            coordinates |= places
        for key, more in names.QUALITY.items():
            # What is not told per detector has the geometry of VNIR.
            layer_key = f"{key}_{name.upper()}"
            if layer_key not in granule.files:
                layer_key = key if name == "vnir" else layer_key
            if layer_key not in granule.files:
                continue
            layer_file = granule.files[layer_key]
            layer = stack.enter_context(open_raster(layer_file.store, layer_file.key))
            if (layer.height, layer.width) != (raster.height, raster.width):
                raise RasterError(
                    "The quality layer has another size than the image",
                    subject=f"{granule.item_id} {layer_key}",
                    found=f"{layer.height} x {layer.width} beside {raster.height} x {raster.width} pixels",
                    action="look at the catalog's item",
                )
            variables[layer_key.lower()] = _quality(
                granule, layer_key, layer, bands, raster.count, (dims[2], *dims[:2]), more
            )
    main = "radiance_swir" if "radiance_swir" in variables else "radiance_vnir"
    attributes: dict[str, Any] = {**_facts(about), "comment": "VNIR and SWIR are not co-registered"}
    if not about.models:
        attributes["geolocation"] = "none: the metadata file has not the rational polynomials of every band"
    return Node(dataset=xr.Dataset(variables, coords=coordinates, attrs=attributes), main=main, chunks=chunks)


def detector(node: xr.Dataset, name: str) -> xr.Dataset:
    """Return one detector of an L1B node with the names that other nodes in sensor geometry have.

    Args:
        node: What :func:`detectors` made.
        name: ``vnir`` or ``swir``.

    Returns:
        ``radiance(downtrack, crosstrack, wavelength)`` with ``fwhm``, ``gain`` …, the detector's quality layers and, where
        the product tells them, ``lon``, ``lat``, ``glt_x``, ``glt_y`` and ``wavelength_of_column(crosstrack, wavelength)``.

    Raises:
        RasterError: The node has no such detector.
    """
    if f"radiance_{name}" not in node:
        raise RasterError(
            "The node has no such detector",
            subject=str(node.attrs.get("item_id", "node")),
            found=f"{name!r} of {', '.join(sorted(map(str, node.data_vars))) or 'nothing'}",
            action="take vnir or swir, and wavelengths_nm in which it has bands",
        )
    prefix = f"{name}_"
    kept = [
        key
        for key, variable in node.data_vars.items()
        if variable.dims and all(str(dim).startswith(prefix) for dim in variable.dims)
    ]
    part = node[kept]
    renamed = {key: str(key).removeprefix(prefix) for key in part.variables if str(key).startswith(prefix)}
    renamed |= {dim: str(dim).removeprefix(prefix) for dim in part.dims if str(dim).startswith(prefix)}
    renamed |= {key: str(key).removesuffix(f"_{name}") for key in kept if str(key).endswith(f"_{name}")}
    others = [key for key in part.coords if key not in renamed and str(key).endswith(f"_{GRID_MAPPING}")]
    alone = part.drop_vars(others).rename(renamed)
    for variable in alone.data_vars.values():
        if "grid_mapping" in variable.attrs:
            variable.attrs["grid_mapping"] = GRID_MAPPING
    return alone


def _smile(name: str, about: EnmapMetadata, bands: list[int], columns: int) -> dict[str, xr.Variable]:
    """Return the centres of a detector's bands in each of its columns; nothing where the file does not tell them."""
    if name not in about.smile:
        return {}
    shift = shifts(about.smile[name][bands], columns)
    if shift is None:
        return {}
    own = about.bands_of(name, "smile")
    centres = about.wavelength[own][bands] + shift
    dims = (f"{name}_crosstrack", f"{name}_wavelength")
    return {f"{name}_wavelength_of_column": xr.Variable(dims, centres, names.WAVELENGTH_OF_COLUMN)}


def _metadata(granule: Granule) -> EnmapMetadata:
    if METADATA not in granule.files:
        raise RasterError(
            "The wavelengths of the image are not known",
            subject=granule.item_id,
            found="no metadata file",
            action=f"add {METADATA} to the setting bands",
        )
    return read_metadata(granule.files[METADATA].store, granule.files[METADATA].key)


def _not_one_product(granule: Granule, image: int, told: int) -> RasterError:
    return RasterError(
        "Image and metadata file are not of one product",
        subject=granule.item_id,
        found=f"{image} bands in the image, {told} in the metadata file",
        action="look at the catalog's item",
    )


def _bands_inside(wavelength: npt.NDArray[Any], ranges: Ranges) -> list[int]:
    return [i for i, nm in enumerate(wavelength) if any(low <= nm <= high for low, high in ranges)]


def _facts(about: EnmapMetadata) -> dict[str, float]:
    return {name: value for name in _FACTS if (value := getattr(about, name)) is not None}


def _calibration(about: EnmapMetadata, bands: list[int], dim: str) -> dict[str, xr.Variable]:
    return {
        "gain": xr.Variable(dim, about.gain[bands], names.GAIN),
        "offset": xr.Variable(dim, about.offset[bands], names.OFFSET),
    }


def _nodata(granule: Granule, about: EnmapMetadata, raster: Raster) -> float | None:
    """Return the stored number of pixels without data: as the product tells, else the item, else the file."""
    return next(
        (each for each in (about.nodata, granule.nodata, raster.nodata) if each is not None),
        None,
    )


def _is_reflectance(granule: Granule, about: EnmapMetadata) -> bool:
    """Return whether an image on a map is L2A; what does not tell its level is by the collection."""
    level = about.level or ("L1C" if granule.collection.endswith("L1C") else "L2A")
    if level not in {"L2A", "L1C"}:
        raise RasterError(
            "The image is of a level that is not on a map",
            subject=granule.item_id,
            found=f"level {level}",
            action="look at the catalog's item: L1B has an image per detector",
        )
    return level == "L2A"


def _reflectance(granule: Granule, cut: Cut, about: EnmapMetadata, bands: list[int]) -> xr.Variable:
    """Return the image's bands as the stored numbers with gain, offset and no data as CF attributes.

    Raises:
        RasterError: Gain and offset differ between bands, which are then no reflectance.
    """
    gains, offsets = np.unique(about.gain), np.unique(about.offset)
    if len(gains) > 1 or len(offsets) > 1:
        raise RasterError(
            "The image holds no surface reflectance",
            subject=granule.item_id,
            found=f"level {about.level}, {len(gains)} gains and {len(offsets)} offsets",
            action="look at the metadata file; the catalog may list a product of level 1 as L2A",
        )
    nodata = _nodata(granule, about, cut.raster)
    attributes: dict[str, Any] = {
        **names.REFLECTANCE,
        "grid_mapping": GRID_MAPPING,
        "scale_factor": float(gains[0]),
    }
    if offsets[0] != 0.0:
        attributes["add_offset"] = float(offsets[0])
    attributes |= names.no_data(nodata, cut.raster.dtype)

    def read(box: tuple[slice, ...]) -> npt.NDArray[Any]:
        return _stored(cut.raster, bands[box[0]], window_in(cut, box[1:]))

    return lazy(("wavelength", "y", "x"), (len(bands), *cut.grid.shape), cut.raster.dtype, read, attributes)


def _stored(raster: Raster, bands: list[int], window: Window) -> npt.NDArray[Any]:
    """Return (bands, rows, columns) of a window, bands counted from 0."""
    if not bands or window.width <= 0 or window.height <= 0:
        return np.empty((len(bands), max(window.height, 0), max(window.width, 0)), raster.dtype)
    return raster.read_bands(window, [band + 1 for band in bands])


def _radiance_reader(
    raster: Raster, about: EnmapMetadata, bands: list[int], nodata: float | None, *, first: int = 0
) -> Callable[[slice, Window], npt.NDArray[np.float32]]:
    """Return what reads (bands, rows, columns) of radiance in uW cm-2 sr-1 nm-1, -9999 for no data.

    ``bands`` count over the product, ``first`` is the first one of the image.
    """

    def read(chosen: slice, window: Window) -> npt.NDArray[np.float32]:
        part = bands[chosen]
        numbers = _stored(raster, [band - first for band in part], window)
        out = np.empty(numbers.shape, np.float32)
        for i, band in enumerate(part):
            radiance = (numbers[i] * about.gain[band] + about.offset[band]) * _PER_CM2
            out[i] = radiance if nodata is None else np.where(numbers[i] == nodata, FILL, radiance)
        return out

    return read


def _lines(read: Callable[[slice, Window], npt.NDArray[np.float32]]) -> Read:
    """Return a reader of (lines, samples, bands) over one of (bands, lines, samples)."""

    def turned(box: tuple[slice, ...]) -> npt.NDArray[np.float32]:
        lines, samples, chosen = box
        values = read(chosen, _box_window(lines, samples))
        return np.ascontiguousarray(np.moveaxis(values, 0, -1))

    return turned


def _box_window(rows: slice, columns: slice) -> Window:
    return Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)


def _quality(
    granule: Granule,
    key: str,
    raster: Raster,
    bands: list[int],
    count: int,
    dims: tuple[str, str, str],
    attributes: Mapping[str, Any],
    *,
    cut: Cut | None = None,
) -> xr.Variable:
    """Return a quality layer: one plane, or one per band of which those of the kept bands are taken."""
    shape = (raster.height, raster.width) if cut is None else cut.grid.shape

    def window(rows: slice, columns: slice) -> Window:
        return _box_window(rows, columns) if cut is None else window_in(cut, (rows, columns))

    if raster.count == 1:
        return lazy(
            dims[1:],
            shape,
            raster.dtype,
            lambda box: _stored(raster, [0], window(*box))[0],
            dict(attributes),
        )
    if raster.count != count:
        raise RasterError(
            "The quality layer has neither one plane nor one per band",
            subject=f"{granule.item_id} {key}",
            found=f"{raster.count} planes for {count} bands",
            action="look at the catalog's item",
        )
    return lazy(
        dims,
        (len(bands), *shape),
        raster.dtype,
        lambda box: _stored(raster, bands[box[0]], window(*box[1:])),
        dict(attributes),
    )
