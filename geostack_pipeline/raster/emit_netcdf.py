"""EMIT's NetCDF-4 products in sensor geometry: radiance, observation geometry, reflectance and masks.

Structure (EMIT L1B and L2A product guides, version 001): the main variable lies at the root as (downtrack,
crosstrack, bands); the group ``sensor_band_parameters`` says what the bands are, the group ``location`` where the
pixels lie, with a look-up table (GLT) from a geographic grid to lines and samples.  L2A MASK has ``band_mask`` as well: a
bit per band of a pixel, eight bands to a byte, the first one in the highest bit.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import xarray as xr
from obstore.store import LocalStore

from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.band_mask import NO_FLAG
from geostack_pipeline.raster.file_object import open_file
from geostack_pipeline.raster.geo import Affine6
from geostack_pipeline.raster.hdf5_direct import DirectArray, open_direct
from geostack_pipeline.raster.hdf5_size import HEAD_BYTES, require_whole

if TYPE_CHECKING:
    from obstore.store import ObjectStore

FILL = -9999.0
MAIN = ("radiance", "reflectance", "reflectance_uncertainty", "obs", "mask")
"""Names of main variables: L1B RAD, L2A RFL and RFLUNCERT, L1B OBS, L2A MASK."""
_NAMES = ("observation_bands", "mask_bands")
_DIMENSIONS = ("downtrack", "crosstrack", "bands")
_BAND_MASK = "band_mask"


class EmitFile:
    """One NetCDF file of EMIT, read lazily; a context manager.

    Args:
        store: Where the file lies; a remote one is read by ranges.
        key: Key in the store.

    Raises:
        RasterError: The file is no NetCDF-4, or lacks what every such product has; says what.
        IntegrityError: It is cut off.
        TransferError: The bytes cannot be moved.
    """

    variable: str
    """Name of the main variable."""
    lines: int
    """Downtrack."""
    samples: int
    """Crosstrack."""
    bands: int
    wavelength: npt.NDArray[np.float32] | None
    """Centres of the bands, nm; None where the bands are no wavelengths."""
    fwhm: npt.NDArray[np.float32] | None
    """Full widths at half maximum, nm."""
    good: npt.NDArray[np.bool_] | None
    """Bands outside strong absorptions of water vapour; None where the product does not tell."""
    names: tuple[str, ...]
    """Names of bands that are no wavelengths."""
    band_mask_bytes: int
    """Bytes per pixel of the mask of single bands; 0 where the file has none."""
    attributes: dict[str, Any]
    """Attributes of the whole file."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self.key = key
        self._stack = ExitStack()
        try:
            self._read_structure(store)
        except BaseException:
            self._stack.close()
            raise

    def _read_structure(self, store: ObjectStore) -> None:
        self._root = self._open(store, "/")
        parameters = self._open(store, "sensor_band_parameters")
        self._location = self._open(store, "location")
        found = [name for name in MAIN if name in self._root]
        if not found or self._root[found[0]].dims != _DIMENSIONS:
            raise self._refused(
                ", ".join(f"{name}{self._root[name].dims}" for name in self._root) or "nothing"
            )
        self.variable = found[0]
        self._main = self._root[self.variable].variable
        self._direct = self._direct_array(store)
        self.lines, self.samples, self.bands = self._main.shape
        self.attributes = dict(self._root.attrs)
        self.wavelength = _floats(parameters, "wavelengths")
        self.fwhm = _floats(parameters, "fwhm")
        self.good = None
        if "good_wavelengths" in parameters:
            self.good = np.asarray(parameters["good_wavelengths"].values == 1)
        self.names = tuple(
            str(text) for name in _NAMES if name in parameters for text in parameters[name].values
        )
        for what, size in (
            ("wavelengths", self.wavelength),
            ("fwhm", self.fwhm),
            ("good wavelengths", self.good),
            ("names", self.names),
        ):
            if size is not None and len(size) not in {0, self.bands}:
                raise self._refused(f"{len(size)} {what} for {self.bands} bands")
        self.band_mask_bytes = self._band_mask_bytes()

    def _band_mask_bytes(self) -> int:
        if _BAND_MASK not in self._root:
            return 0
        mask = self._root[_BAND_MASK]
        if mask.ndim != 3 or mask.shape[:2] != (self.lines, self.samples) or mask.dtype.kind not in "iu":
            raise self._refused(f"{_BAND_MASK}{mask.dims} of {mask.dtype}, shape {mask.shape}")
        return int(mask.shape[2])

    def _open(self, store: ObjectStore, group: str) -> xr.Dataset:
        source = open_file(store, self.key)
        if isinstance(source, Path) and not source.is_file():
            raise RasterError(
                "The file is missing",
                subject=self.key,
                action="run the date's granules again with --refresh",
            )
        _refuse_part(self.key, source)
        try:
            opened = xr.open_dataset(
                source,
                engine="h5netcdf",
                group=group,
                mask_and_scale=False,
                decode_times=False,
                decode_coords=False,
                cache=False,
                chunks=None,
            )
        except (OSError, KeyError, ValueError) as error:
            raise RasterError(
                "The file is no NetCDF-4 of EMIT",
                subject=self.key,
                found=f"group {group}: {str(error)[:160]}",
                action="fetch the object again; if it stays so, the source is corrupt or another product",
            ) from None
        return self._stack.enter_context(opened)

    def _direct_array(self, store: ObjectStore) -> DirectArray | None:
        """Return what reads the main variable's chunks side by side, where the file is on a local disk."""
        source = open_file(store, self.key) if isinstance(store, LocalStore) else None
        direct = open_direct(source, self.variable) if isinstance(source, Path) else None
        if direct is not None:
            self._stack.callback(direct.close)
        return direct

    def _refused(self, found: str) -> RasterError:
        return RasterError(
            "The file has not the structure of EMIT's products",
            subject=self.key,
            found=found,
            action=f"expected is one of {', '.join(MAIN)} as (downtrack, crosstrack, bands)",
        )

    @property
    def in_one_piece(self) -> bool:
        """Whether the main variable lies unpacked in one piece of a local file, so that any box of it is cheap to read."""
        return self._direct is not None and self._direct.in_one_piece

    @property
    def units(self) -> str:
        """Units of the main variable as the file has them; empty where it has none."""
        return str(self._main.attrs.get("units", ""))

    def read(self, lines: slice, samples: slice, bands: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return (lines, samples, bands) in the file's numbers, -9999 for no data.

        Memory holds what is returned, and some chunks of the file; of a remote file, one run of neighbouring bands.

        Raises:
            RasterError: A part of the file is corrupt.
        """
        shape = tuple(
            len(range(*each.indices(size)))
            for each, size in zip((lines, samples), self._main.shape, strict=False)
        )
        if self._direct is not None:
            return self._direct.read(lines, samples, bands)
        runs = list(_runs(bands))
        if len(runs) == 1:
            return self._values(self._main[lines, samples, runs[0][1]]).astype(np.float32, copy=False)
        out = np.empty((*shape, len(bands)), np.float32)
        for where, run in runs:
            out[..., where] = self._values(self._main[lines, samples, run])
        return out

    def plane(self, band: int) -> npt.NDArray[np.float32]:
        """Return one band as (lines, samples)."""
        return self.read(slice(None), slice(None), [band])[..., 0]

    def band_mask(self, lines: slice, samples: slice) -> npt.NDArray[np.uint8]:
        """Return the packed mask of single bands, (lines, samples, bytes); :func:`~geostack_pipeline.raster.band_mask.band_flags` unpacks it.

        A pixel that was never written has the fill value in all bytes, and gets 255 in all of them.
        """
        mask = self._root[_BAND_MASK].variable
        values = self._values(mask[lines, samples])
        fill = mask.attrs.get("_FillValue")
        # Some versions of the product keep the bytes in wider integers.
        packed = values.astype(np.uint8, copy=False)
        if fill is not None and fill != 0:
            packed[(values == fill).all(axis=-1)] = NO_FLAG
        return packed

    def location(self, name: str, *box: slice) -> npt.NDArray[Any]:
        """Return ``lon``, ``lat`` or ``elev`` as (lines, samples) float64, or ``glt_x`` or ``glt_y`` as int32.

        -9999 is no data in the first three; the look-up table counts from 1, and 0 is no data.

        Args:
            name: Which.
            box: Lines and samples, or rows and columns of the look-up table; all of them by default.
        """
        variable = self._located(name)
        values = self._values(variable[box or ...])
        if name.startswith("glt"):
            return np.where(values == FILL, 0, values).astype(np.int32)
        return values

    def location_type(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and dtype of what :meth:`location` gives.

        Raises:
            RasterError: The file has no such variable.
        """
        variable = self._located(name)
        return variable.shape, np.dtype(np.int32) if name.startswith("glt") else variable.dtype

    def _located(self, name: str) -> xr.Variable:
        if name not in self._location:
            raise self._refused(f"no location/{name}")
        return self._location[name].variable

    @property
    def ortho_shape(self) -> tuple[int, int]:
        """Rows and columns of the look-up table."""
        rows, columns = self._location["glt_x"].shape if "glt_x" in self._location else (0, 0)
        return rows, columns

    @property
    def geotransform(self) -> Affine6 | None:
        """Affine a to f from the corner of a pixel of the look-up table to longitude and latitude, if the file says."""
        raw = np.asarray(self.attributes.get("geotransform", ()), np.float64).ravel()
        if raw.size != 6 or not np.isfinite(raw).all():
            return None
        c, a, b, f, d, e = (float(value) for value in raw)
        return (a, b, c, d, e, f)

    def _values(self, variable: xr.Variable) -> npt.NDArray[Any]:
        try:
            return np.asarray(variable.values)
        except (OSError, ValueError) as error:
            raise RasterError(
                "A part of the file cannot be read",
                subject=self.key,
                found=str(error)[:160],
                action="fetch the object again; if it stays so, the source is corrupt",
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refuse_part(key: str, source: Path | BinaryIO) -> None:
    """Refuse a file that is shorter than it says, before a library finds it broken in its own words."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            head = file.read(HEAD_BYTES)
        require_whole(head, source.stat().st_size, key)
    else:
        head = source.read(HEAD_BYTES)
        require_whole(head, source.seek(0, io.SEEK_END), key)
        source.seek(0)


def _floats(parameters: xr.Dataset, name: str) -> npt.NDArray[np.float32] | None:
    return np.asarray(parameters[name].values, np.float32) if name in parameters else None


def _runs(bands: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yield (place in the result, slice of the file) of each run of neighbouring bands."""
    start = 0
    for i in range(1, len(bands) + 1):
        if i == len(bands) or bands[i] != bands[i - 1] + 1:
            yield slice(start, i), slice(bands[start], bands[i - 1] + 1)
            start = i
