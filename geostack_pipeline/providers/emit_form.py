"""What an item of NASA's EMIT spectrometer is: stable asset keys, one row form for every way it was listed.

CMR-STAC names assets after their files (``002/EMIT_L2B_CH4ENH_002_…``, and the same with ``s3_`` before it), so that a
table of 500 items would have 13,000 columns.  Here each file has its product's key, and the S3 place of the same file is
the asset's ``alternate``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geostack_pipeline.providers.canonical import OWN_PROPERTIES, ItemForm
from geostack_pipeline.providers.coerce import Shape, parse_time
from geostack_pipeline.providers.contract import Item, RejectedItemError

PLATFORM = "iss"
"""EMIT is mounted on the International Space Station."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """One collection of EMIT granules."""

    short_name: str
    """As CMR names it, e.g. ``EMITL2BCH4ENH``."""
    version: str
    """Three digits."""
    product: str
    """Product in the granules' names, e.g. ``CH4ENH``."""
    assets: tuple[str, ...]
    """Asset keys that every granule has."""
    sometimes: tuple[str, ...] = ("BROWSE",)
    """Asset keys that a granule may have."""

    @property
    def id(self) -> str:
        """The STAC id, e.g. ``EMITL2BCH4ENH_002``."""
        return f"{self.short_name}_{self.version}"


def _collections() -> dict[str, Collection]:
    known = (
        Collection(
            short_name="EMITL2BCH4ENH",
            version="002",
            product="CH4ENH",
            assets=("CH4ENH", "CH4UNCERT", "CH4SENS"),
        ),
        Collection(
            short_name="EMITL2BCH4PLM", version="002", product="CH4PLM", assets=("CH4PLM", "CH4PLMMETA")
        ),
        Collection(short_name="EMITL1BRAD", version="001", product="RAD", assets=("RAD", "OBS")),
        Collection(
            short_name="EMITL2ARFL", version="001", product="RFL", assets=("RFL", "RFLUNCERT", "MASK")
        ),
        Collection(
            short_name="EMITL2BCH4ENH",
            version="001",
            product="CH4ENH",
            assets=("CH4ENH",),
            sometimes=("CH4UNCERT", "CH4SENS", "BROWSE"),
        ),
        Collection(
            short_name="EMITL2BCH4PLM", version="001", product="CH4PLM", assets=("CH4PLM", "CH4PLMMETA")
        ),
    )
    return {each.id: each for each in known}


COLLECTIONS: Mapping[str, Collection] = _collections()
"""Collection id -> what is known of it."""
DEFAULT_COLLECTIONS = ("EMITL2BCH4ENH_002", "EMITL2BCH4PLM_002")

DATA_KEYS = (
    "CH4ENH",
    "CH4UNCERT",
    "CH4SENS",
    "CH4PLM",
    "CH4PLMMETA",
    "RAD",
    "OBS",
    "RFL",
    "RFLUNCERT",
    "MASK",
)
"""Asset keys of data files: the product's name in the file's name."""
ASSET_KEYS = (*DATA_KEYS, "BROWSE", "METADATA")
COGS = frozenset({"CH4ENH", "CH4UNCERT", "CH4SENS", "CH4PLM"})
"""Assets that are tiled GeoTIFFs on a grid of longitude and latitude."""
_COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
_NETCDF_TYPE = "application/x-netcdf"

_COLLECTION = re.compile(r"(?P<name>EMIT[A-Z0-9]+?)(?:_|\.v?)(?P<version>\d{3})", re.ASCII)
_GRANULE = re.compile(
    r"EMIT_L(?:1B|2A|2B)_(?P<product>[A-Z0-9]+)_(?P<version>\d{3})_(?P<start>\d{8}T\d{6})"
    r"_(?:(?P<orbit>\d{7})_(?P<scene>\d{3})|(?P<plume>\d{6}))",
    re.ASCII,
)
_FILE = re.compile(r"EMIT_L(?:1B|2A|2B)_(?P<product>[A-Z0-9]+)_\d{3}_\d{8}T", re.ASCII)

_ASSET_SHAPE: Mapping[str, Shape] = {
    "href": "str",
    "title": "str",
    "description": "str",
    "type": "str",
    "roles": ["str"],
    "file:size": "int",
    "file:checksum": "str",
    "alternate": {"s3": {"href": "str"}},
}
_PAGE_SHAPE: Mapping[str, Shape] = {
    name: _ASSET_SHAPE[name] for name in ("href", "title", "description", "type", "roles")
}
PROPERTY_SHAPES: Mapping[str, Shape] = {
    **OWN_PROPERTIES,
    "start_datetime": "time",
    "end_datetime": "time",
    "created": "time",
    "updated": "time",
    "instruments": ["str"],
    "view:sun_azimuth": "float",
    "geostack:product": "str",
    "emit:orbit": "str",
    "emit:scene": "str",
    "emit:plume": "str",
    "emit:source_scenes": ["str"],
    "emit:software_build": "str",
    "cmr:concept_id": "str",
    "cmr:revision_id": "int",
    "cmr:revision_date": "time",
}


@dataclass(frozen=True, kw_only=True)
class Granule:
    """The parts of a granule's name."""

    product: str
    version: str
    start: str
    """Start of the scene, ``20240616T072726``."""
    orbit: str | None
    """Seven digits: year, day of year, orbit of the day; None for a plume."""
    scene: str | None
    """Three digits: scene of the orbit; None for a plume."""
    plume: str | None
    """Six digits: number of the plume complex; None for a scene."""

    @property
    def identity(self) -> str:
        """What is shown: ``EMIT_<start>_<orbit>_<scene>``, or ``EMIT_<start>_P<plume>`` for a plume."""
        if self.plume is not None:
            return f"EMIT_{self.start}_P{self.plume}"
        return f"EMIT_{self.start}_{self.orbit}_{self.scene}"


def parse_granule(name: Any) -> Granule | None:
    """Return the parts of a granule's name (``GranuleUR``), or None where it is none of EMIT's."""
    match = _GRANULE.fullmatch(name) if isinstance(name, str) else None
    return Granule(**match.groupdict()) if match else None


def collection_id(name: Any) -> str | None:
    """Return the id that items use for a collection written ``EMITL2BCH4ENH_002``, ``….v002`` or ``….002``.

    CMR-STAC takes the older forms in requests, but its items carry the first one only.
    """
    match = _COLLECTION.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        return None
    found = f"{match['name']}_{match['version']}"
    return found if found in COLLECTIONS else None


def file_key(name: str) -> str | None:
    """Return the asset key of a file, or of an asset that is named after its file; None where it is none."""
    match = _FILE.match(name.rsplit("/", 1)[-1])
    return match["product"] if match and match["product"] in DATA_KEYS else None


class EmitForm(ItemForm):
    """EMIT items as CMR-STAC gives them, and as :mod:`~geostack_pipeline.providers.umm` makes them of granules."""

    property_shapes = PROPERTY_SHAPES

    def __init__(self, collections: Sequence[str], homes: Sequence[str]) -> None:
        self._collections = frozenset(collections)
        self.homes = tuple(homes)

    def collection(self, name: str) -> str | None:
        """Return the id that is asked for; another version of the same product is another collection."""
        found = collection_id(name)
        return found if found in self._collections else None

    def asset_keys(self) -> Sequence[str]:
        """Return all keys."""
        return ASSET_KEYS

    def asset_shape(self, key: str) -> Mapping[str, Shape]:
        """Return size, checksum and S3 place for data files, less for the others."""
        return _ASSET_SHAPE if key in DATA_KEYS else _PAGE_SHAPE

    def asset_key(self, name: str, asset: Mapping[str, Any]) -> str | None:
        """Return the product of the file that the asset's name, or else its href, names."""
        if name in ASSET_KEYS:
            return name
        if name in {"browse", "metadata"}:
            return name.upper()
        return file_key(name) or file_key(str(asset.get("href")))

    def prepare(self, item: Item) -> Item:
        """Return the item with the two places of each data file in one asset under the stable key."""
        assets = item.get("assets")
        if not isinstance(assets, dict):
            return item
        places: dict[tuple[str, bool], str] = {}
        for name, raw in sorted(assets.items()):
            if name in ASSET_KEYS or not isinstance(raw, dict) or not isinstance(raw.get("href"), str):
                continue
            key = self.asset_key(name, raw)
            if key in DATA_KEYS and key not in assets:
                # the first one of several: the others stay under their names and become extra text
                places.setdefault((key, name.startswith("s3_") or raw["href"].startswith("s3://")), name)
        if not places:
            return item
        used = set(places.values())
        arranged = {name: raw for name, raw in assets.items() if name not in used}
        for key in {key for key, _ in places}:
            web, direct = places.get((key, False)), places.get((key, True))
            if web is None:
                arranged[key] = assets[direct]
            elif direct is None or "alternate" in assets[web]:
                arranged[key] = assets[web]
                arranged |= {direct: assets[direct]} if direct is not None else {}
            else:
                arranged[key] = {**assets[web], "alternate": {"s3": assets[direct]}}
        return {**item, "assets": arranged}

    def settle(
        self,
        key: str,
        asset: dict[str, Any],
        properties: Mapping[str, Any],  # noqa: ARG002
        pointer: str,  # noqa: ARG002
        leftovers: dict[str, Any],  # noqa: ARG002
        *,
        decided: bool,  # noqa: ARG002
    ) -> str | None:
        """Add the media type, which CMR-STAC leaves out for data; there is no radiometry to decide."""
        if key in DATA_KEYS:
            kind = "application/json" if key == "CH4PLMMETA" else _NETCDF_TYPE
            asset.setdefault("type", _COG_TYPE if key in COGS else kind)
        return None

    def describe(self, properties: dict[str, Any], item: Item, leftovers: dict[str, Any]) -> None:  # noqa: ARG002
        """Set what the granule's name says; its start stands in where the item has no time.

        Raises:
            RejectedItemError: ``granule`` for another name, ``collection`` where it belongs to another collection,
                ``datetime`` for a time that is none.
        """
        granule = parse_granule(item["id"])
        if granule is None:
            raise RejectedItemError("granule", f"{item['id'][:80]!r} is no name of an EMIT granule")
        known = COLLECTIONS[str(collection_id(item["collection"]))]
        if (granule.product, granule.version) != (known.product, known.version):
            raise RejectedItemError("collection", f"{item['id']} is listed in {known.id}")
        if parse_time(properties.get("datetime")) is None:
            raw = item["properties"].get("datetime")
            start = properties.get("start_datetime")
            if raw is not None or start is None:
                raise RejectedItemError("datetime", f"{str(raw)[:60]!r} is no RFC 3339 time")
            properties["datetime"] = start
        properties["platform"] = PLATFORM
        properties["instruments"] = ["emit"]
        properties["processing:baseline"] = granule.version
        properties["geostack:scene"] = granule.identity
        # radiance and enhancement show one scene, and neither makes the other superfluous
        properties["geostack:product"] = granule.product
        if granule.product in COGS:
            properties["proj:code"] = "EPSG:4326"
        for name in ("orbit", "scene", "plume"):
            part = getattr(granule, name)
            if part is not None:
                properties[f"emit:{name}"] = part
