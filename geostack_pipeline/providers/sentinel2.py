"""What every Sentinel-2 L2A catalog shares: band names, product names, baselines, scene identity.

Product names follow ESA's convention (Sentinel-2 Products Specification Document, §"Naming"):
``S2A_MSIL2A_20200305T103021_N0500_R108_T32TMT_20230630T022413.SAFE`` is mission, level,
datatake start, baseline, relative orbit, tile, product discriminator (processing time).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from geostack_pipeline.providers.coerce import format_time, parse_time
from geostack_pipeline.providers.contract import Product as ProductKind

BANDS: tuple[str, ...] = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""Reflectance bands of L2A, by wavelength; B10 (cirrus) exists in L1C only."""

PRODUCT = ProductKind(
    kind="surface",
    bands=BANDS,
    default_bands=("B02", "B03", "B04", "B11", "B12"),
    classification="SCL",
    methane=True,
)
"""What Sentinel-2 L2A scenes are, whichever catalog lists them."""

SCALE = 0.0001
"""Reflectance per digital number: the L2A quantification value is 10,000."""

NODATA = 0.0
"""Digital number of pixels without data, in bands and in the scene classification."""

OFFSET_BASELINE = "04.00"
"""First baseline whose digital numbers are shifted by +1000 (in force since 2022-01-25)."""

OFFSET = -0.1
"""Reflectance offset of baselines from 04.00 on: BOA_ADD_OFFSET / quantification value = -1000 / 10,000."""

_PRODUCT = re.compile(
    r"(?P<mission>S2[A-D])_MSIL2A_(?P<datatake>\d{8}T\d{6})_N(?P<baseline>\d{4})_R(?P<orbit>\d{3})"
    r"_T(?P<tile>\d{2}[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])_(?P<made>\d{8}T\d{6})(?:\.SAFE)?",
    re.ASCII,
)
_DATATAKE = re.compile(
    r"G(?P<mission>S2[A-D])_(?P<start>\d{8}T\d{6})_(?P<orbit>\d{6})_N(?P<baseline>\d\d\.\d\d)", re.ASCII
)
_TILE = re.compile(r"(?:MGRS-|T)?(\d{1,2})([C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])", re.ASCII)
_BASELINE = re.compile(r"N?(\d{1,2})\.?(\d{2})", re.ASCII)
_PLATFORM = re.compile(r"(?:sentinel-?2|S2)([a-d])", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Product:
    """What the name of an L2A product says."""

    mission: str
    """``S2A`` … ``S2D``."""
    datatake: str
    """Start of the datatake, ``YYYYMMDDTHHMMSS`` UTC."""
    baseline: str
    """Processing baseline, ``05.00``."""
    relative_orbit: int
    """1 to 143."""
    tile: str
    """MGRS tile, ``32TMT``."""
    made: str
    """Processing time (product discriminator), ``YYYYMMDDTHHMMSS`` UTC."""


def parse_product(name: Any) -> Product | None:
    """Return the parts of an L2A product name, with or without ``.SAFE``; None where it is not one."""
    if not isinstance(name, str) or (match := _PRODUCT.fullmatch(name.strip())) is None:
        return None
    digits = match["baseline"]
    return Product(
        mission=match["mission"],
        datatake=match["datatake"],
        baseline=f"{digits[:2]}.{digits[2:]}",
        relative_orbit=int(match["orbit"]),
        tile=match["tile"],
        made=match["made"],
    )


def parse_datatake(identifier: Any) -> tuple[str, str] | None:
    """Return mission and datatake start of an id like ``GS2A_20200305T103021_024558_N05.00``, else None."""
    if not isinstance(identifier, str) or (match := _DATATAKE.fullmatch(identifier.strip())) is None:
        return None
    return match["mission"], match["start"]


def parse_baseline(value: Any) -> str | None:
    """Return a processing baseline as ``NN.NN``, which sorts as text; None where it is not one.

    Takes ``05.00``, ``5.00``, ``0500`` and ``N0500``.
    """
    if not isinstance(value, str) or (match := _BASELINE.fullmatch(value.strip())) is None:
        return None
    return f"{int(match[1]):02d}.{match[2]}"


def parse_tile(value: Any) -> str | None:
    """Return an MGRS tile as ``32TMT``, of ``MGRS-32TMT``, ``T32TMT`` or ``32TMT``; None where it is not one."""
    if not isinstance(value, str) or (match := _TILE.fullmatch(value.strip())) is None:
        return None
    zone = int(match[1])
    return f"{zone:02d}{match[2]}" if 1 <= zone <= 60 else None


def parse_platform(value: Any) -> str | None:
    """Return ``sentinel-2a`` … ``sentinel-2d`` of ``Sentinel-2A``, ``sentinel-2a`` or ``S2A``; None otherwise."""
    if not isinstance(value, str) or (match := _PLATFORM.fullmatch(value.strip())) is None:
        return None
    return f"sentinel-2{match[1].lower()}"


def parse_compact_time(text: str) -> str | None:
    """Return ``YYYYMMDDTHHMMSS`` as ``YYYY-MM-DDTHH:MM:SS.000000Z``; None where it is no time."""
    moment = parse_time(f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[9:11]}:{text[11:13]}:{text[13:15]}Z")
    return None if moment is None else format_time(moment)


def offset_of(baseline: str | None) -> float | None:
    """Return the reflectance offset of unharmonised digital numbers of a baseline; None where it is unknown."""
    if baseline is None:
        return None
    return OFFSET if baseline >= OFFSET_BASELINE else 0.0


def scene_id(properties: Mapping[str, Any], *, platform: str, tile: str, moment: datetime) -> str:
    """Return the identity of the scene that an item is one processing of: ``S2A_20200305T103021_T32TMT``.

    Two items of one scene show the same ground at the same instant, whatever their
    baseline.  The datatake's start identifies the pass; its id also holds the baseline,
    which is left out.  Where the catalog gives no datatake, the sensing time to the minute
    stands for it: between baselines it moves by milliseconds.

    Args:
        properties: The item's properties; ``s2:datatake_id`` and ``s2:product_uri`` are read.
        platform: ``sentinel-2a`` ….
        tile: MGRS tile, ``32TMT``.
        moment: The item's datetime, UTC.
    """
    mission = f"S2{platform[-1].upper()}"
    datatake = parse_datatake(properties.get("s2:datatake_id"))
    product = parse_product(properties.get("s2:product_uri"))
    if datatake is not None and datatake[0] == mission:
        start = datatake[1]
    elif product is not None and product.mission == mission:
        start = product.datatake
    else:
        start = f"{moment:%Y%m%dT%H%M}"
    return f"{mission}_{start}_T{tile}"
