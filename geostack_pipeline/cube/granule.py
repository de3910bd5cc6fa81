"""A granule and its node: what swath cubes are made of, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geostack_pipeline.cube import swath_conventions as names
from geostack_pipeline.errors import RasterError

if TYPE_CHECKING:
    from obstore.store import ObjectStore


class OutsideError(RasterError):
    """A raster does not reach the areas, though the footprint of its item does."""


Ranges = Sequence[tuple[float, float]]
"""Closed ranges of wavelength, nm."""
DEFAULT_RANGES: Ranges = ((476.0, 484.0), (556.0, 564.0), (656.0, 664.0), (2100.0, 2500.0))
"""A blue, a green and a red band for the eye, and the window in which methane absorbs."""


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
    apart: frozenset[str] = frozenset()
    """Those of them whose chunks are read one by one, several at a time: the file has no chunks that would be unpacked twice."""


def chosen_bands(wavelength: npt.NDArray[Any], ranges: Ranges, subject: str) -> list[int]:
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


def band_coordinates(
    wavelength: npt.NDArray[Any], fwhm: npt.NDArray[Any] | None, bands: Sequence[int]
) -> dict[str, xr.Variable]:
    """Return the coordinates of the chosen bands, which are counted from 0: wavelength, number and FWHM."""
    found = {
        "wavelength": xr.Variable("wavelength", np.asarray(wavelength)[bands], names.WAVELENGTH),
        "band_number": xr.Variable("wavelength", np.array(bands, np.int16) + 1, names.BAND_NUMBER),
    }
    if fwhm is not None:
        found["fwhm"] = xr.Variable("wavelength", np.asarray(fwhm)[bands], names.FWHM)
    return found
