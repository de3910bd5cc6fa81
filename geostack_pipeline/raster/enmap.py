"""EnMAP products: what the metadata file says of each band.

Structure (EnMAP HSI product specification): ``level_X/specific/bandCharacterisation/bandID[@number]`` with the
centre wavelength and width in nm, and the gain and offset that turn stored numbers into reflectance (L2A) or radiance
in W m-2 sr-1 nm-1 (L1B, L1C): number * gain + offset.  Other parts of the file list ``bandID`` as well, without
wavelengths.  Of L1B the bands of the detector VNIR come first, then those of SWIR; ``product/image`` says how many.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.enmap_geometry import rational_models, smile_of
from geostack_pipeline.raster.fetch import SourceObject
from geostack_pipeline.raster.rational import RationalModel

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_MEMBERS = ("wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand")
_LARGEST = 32 << 20
"""Bytes of the largest metadata file that is read; real ones have half a megabyte."""


@dataclass(frozen=True, kw_only=True)
class EnmapMetadata:
    """What the metadata file of a product says; arrays have one number per band, in the order of the image."""

    level: str | None
    """``L1B``, ``L1C`` or ``L2A``."""
    wavelength: npt.NDArray[np.float64]
    """Centres, nm."""
    fwhm: npt.NDArray[np.float64]
    """Full widths at half maximum, nm."""
    gain: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    nodata: float | None
    """Stored number of pixels without data."""
    channels: Mapping[str, int]
    """Detector (``vnir``, ``swir``) -> number of its bands, as far as the file tells."""
    sun_elevation_deg: float | None
    sun_azimuth_deg: float | None
    across_off_nadir_deg: float | None
    """Tilt of the view across the track, degrees."""
    ground_m: float | None
    """Mean elevation of the ground, m."""
    models: tuple[RationalModel, ...]
    """From the ground to the detector, per band; empty where the file does not tell them for all."""
    smile: Mapping[str, npt.NDArray[np.float64]]
    """Detector -> coefficients of the shift of each band's centre across the track (`raster.enmap_geometry`)."""

    def bands_of(self, detector: str, subject: str) -> slice:
        """Return which bands a detector of L1B has: ``vnir`` the first ones, ``swir`` the rest.

        Raises:
            RasterError: The file does not tell how many bands the detectors have, or not all bands are theirs.
        """
        vnir, swir = (self.channels.get(name) for name in ("vnir", "swir"))
        if vnir is None or swir is None or vnir + swir != len(self.wavelength):
            raise _refused(subject, f"{vnir} VNIR and {swir} SWIR channels of {len(self.wavelength)} bands")
        return slice(0, vnir) if detector == "vnir" else slice(vnir, vnir + swir)


def read_metadata(store: ObjectStore, key: str) -> EnmapMetadata:
    """Return what a metadata file says.

    Raises:
        RasterError: It is no such file, or the bands are not told completely.
        TransferError: The bytes cannot be moved.
    """
    source = SourceObject(store, key)
    if source.size > _LARGEST:
        raise _refused(key, f"{source.size} bytes")
    return parse_metadata(source.read(0, source.size), key)


def parse_metadata(data: bytes, subject: str) -> EnmapMetadata:
    """Return what the bytes of a metadata file say; see :func:`read_metadata`.

    Raises:
        RasterError: They are no such file.
    """
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        # Real files declare neither; entities can make a small file endless.
        raise _refused(subject, "a document type declaration")
    try:
        root = ET.fromstring(data)  # noqa: S314 - no declarations, see above
    except ET.ParseError as error:
        raise _refused(subject, f"XML that does not parse: {error}") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # some tools write the file with a namespace
    found = root.find(".//bandCharacterisation")
    bands = [] if found is None else found.findall("bandID")
    if not bands:
        raise _refused(subject, "no bandCharacterisation/bandID")
    rows = sorted(_band(band, subject) for band in bands)
    if [row[0] for row in rows] != list(range(1, len(rows) + 1)):
        raise _refused(subject, f"bands numbered {rows[0][0]} to {rows[-1][0]} for {len(rows)} bands")
    table = np.array([row[1:] for row in rows], np.float64)
    channels = _channels(root)
    first = channels.get("vnir", 0)
    centres = {"vnir": table[:first, 0], "swir": table[first:, 0]} if len(channels) == 2 else {}
    return EnmapMetadata(
        level=_level(root),
        wavelength=table[:, 0],
        fwhm=table[:, 1],
        gain=table[:, 2],
        offset=table[:, 3],
        nodata=_number(root.findtext(".//specific/backgroundValue")),
        channels=channels,
        sun_elevation_deg=_number(root.findtext(".//specific/sunElevationAngle/center")),
        sun_azimuth_deg=_number(root.findtext(".//specific/sunAzimuthAngle/center")),
        across_off_nadir_deg=_number(root.findtext(".//specific/acrossOffNadirAngle/center")),
        ground_m=_number(root.findtext(".//specific/meanGroundElevation")),
        models=rational_models(root, len(rows)),
        smile=smile_of(root, centres),
    )


def _band(element: ET.Element, subject: str) -> tuple[int, float, float, float, float]:
    number = element.get("number", "")
    values = [_number(element.findtext(name)) for name in _MEMBERS]
    if values[3] is None and not (element.findtext("OffsetOfBand") or "").strip():
        values[3] = 0.0
    wavelength, fwhm, gain, offset = values
    if (
        not number.isdecimal()
        or wavelength is None
        or fwhm is None
        or gain is None
        or offset is None
        or not 100.0 < wavelength < 20_000.0
        or fwhm <= 0.0
    ):
        raise _refused(subject, f"band {number[:10] or 'without a number'}: {values}")
    return int(number), wavelength, fwhm, gain, offset


def _channels(root: ET.Element) -> dict[str, int]:
    found = {name: root.findtext(f".//product/image/{name}/channels") or "" for name in ("vnir", "swir")}
    return {
        name: int(text) for name, text in found.items() if text.strip().isdecimal() and len(text.strip()) < 6
    }


def _level(root: ET.Element) -> str | None:
    for text in (root.findtext(".//base/level"), root.findtext(".//specific/code"), root.findtext(".//name")):
        match = re.search(r"L(?:1B|1C|2A)", text or "")
        if match:
            return match.group()
    return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) else None


def _refused(subject: str, found: str) -> RasterError:
    return RasterError(
        "The metadata file of an EnMAP product cannot be read",
        subject=subject,
        found=found,
        action="fetch the object again; if it stays so, the source is corrupt or of an unknown form",
    )
