"""EMIT granules as NASA's metadata describe them (UMM-G), and the files behind them.

Every collection that the pipeline knows, an older version among them, from the same scenes of the world.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import shapely

from geostack_pipeline.sandbox.dialects.base import StoredObject
from geostack_pipeline.sandbox.world.campaign import campaign_granules
from geostack_pipeline.sandbox.world.emit import EmitGranule, EmitPlume, emit_granules
from geostack_pipeline.sandbox.world.world import World

HOST = "https://data.lpdaac.earthdatacloud.nasa.gov"
PROTECTED = "lp-prod-protected"
PUBLIC = "lp-prod-public"
CONCEPTS: Mapping[str, str] = {
    "EMITL2BCH4ENH_002": "C3242680113-LPCLOUD",
    "EMITL2BCH4PLM_002": "C3242707413-LPCLOUD",
    "EMITL1BRAD_001": "C2408009906-LPCLOUD",
    "EMITL2ARFL_001": "C2408750690-LPCLOUD",
    "EMITL2BCH4ENH_001": "C2748097305-LPCLOUD",
}
"""Collection -> concept id."""
_FORMATS = {".tif": "Cloud Optimized GeoTIFF (COG)", ".nc": "NETCDF-4", ".json": "JSON", ".png": "PNG"}
_TYPES = {
    ".tif": "image/tiff",
    ".nc": "application/x-netcdf",
    ".json": "application/json",
    ".png": "image/png",
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One granule in CMR."""

    collection: str
    """``EMITL2BCH4ENH_002``."""
    name: str
    """``GranuleUR``."""
    start: datetime
    end: datetime | None
    """None: the granule has a single time."""
    footprint: shapely.Polygon
    cloud_cover: int | None
    concept: str
    made: datetime
    """Production time."""
    revised: datetime
    revision: int
    files: Mapping[str, StoredObject]
    """File name -> object; the picture is not among them."""
    attributes: Sequence[tuple[str, Sequence[str]]] = field(default=())

    @property
    def plume(self) -> str | None:
        """Number of the plume that it outlines; None for a scene."""
        return next((values[0] for name, values in self.attributes if name == "PLUME_ID"), None)

    @property
    def sources(self) -> tuple[str, ...]:
        """Granules that a plume lies in."""
        return tuple(each for name, values in self.attributes if name == "SOURCE_SCENES" for each in values)

    @property
    def folder(self) -> str:
        """Folder below a bucket."""
        return f"{self.collection.replace('_', '.')}/{self.name}"

    def umm_json(self) -> dict[str, Any]:
        """Return the granule as ``granules.umm_json`` gives it."""
        short_name, version = self.collection.split("_")
        corners = list(shapely.orient_polygons(self.footprint, exterior_cw=True).exterior.coords)
        points = [{"Longitude": round(x, 8), "Latitude": round(y, 8)} for x, y in corners]
        umm: dict[str, Any] = {
            "TemporalExtent": self._extent(),
            "GranuleUR": self.name,
            "AdditionalAttributes": [
                {"Name": name, "Values": list(values)} for name, values in self.attributes
            ],
            "SpatialExtent": {
                "HorizontalSpatialDomain": {"Geometry": {"GPolygons": [{"Boundary": {"Points": points}}]}}
            },
            "ProviderDates": [{"Date": _stamp(self.revised), "Type": "Update"}],
            "CollectionReference": {"ShortName": short_name, "Version": version},
            "PGEVersionClass": {"PGEName": "emit-sds", "PGEVersion": "v2.0.1"},
            "RelatedUrls": list(self._urls()),
            "DataGranule": {
                "DayNightFlag": "Day",
                "ArchiveAndDistributionInformation": [
                    {
                        "Name": name,
                        "SizeInBytes": stored.size,
                        "Format": _FORMATS[Path(name).suffix],
                        "Checksum": {"Value": _sha512(stored), "Algorithm": "SHA-512"},
                    }
                    for name, stored in self.files.items()
                ],
                "ProductionDateTime": _stamp(self.made),
            },
            "Platforms": [{"ShortName": "ISS", "Instruments": [{"ShortName": "EMIT Imaging Spectrometer"}]}],
            "MetadataSpecification": {
                "URL": "https://cdn.earthdata.nasa.gov/umm/granule/v1.6.7",
                "Name": "UMM-G",
                "Version": "1.6.7",
            },
        }
        if self.cloud_cover is not None:
            umm["CloudCover"] = self.cloud_cover
        meta = {
            "concept-type": "granule",
            "concept-id": self.concept,
            "revision-id": self.revision,
            "native-id": self.name,
            "collection-concept-id": CONCEPTS[self.collection],
            "provider-id": "LPCLOUD",
            "format": "application/vnd.nasa.cmr.umm+json",
            "revision-date": self.revised.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        }
        return {"meta": meta, "umm": umm}

    def _extent(self) -> dict[str, Any]:
        if self.end is None:
            return {"SingleDateTime": _stamp(self.start)}
        return {
            "RangeDateTime": {
                "BeginningDateTime": _stamp(self.start),
                "EndingDateTime": _stamp(self.end),
            }
        }

    def _urls(self) -> Iterator[dict[str, str]]:
        via_s3 = "This link provides direct download access via S3 to the granule"
        picture = f"{PUBLIC}/{self.folder}/{self.name}.png"
        yield {
            "URL": f"https://opendap.earthdata.nasa.gov/collections/{CONCEPTS[self.collection]}/granules/{self.name}",
            "Type": "USE SERVICE API",
            "Subtype": "OPENDAP DATA",
            "Description": "OPeNDAP request URL",
        }
        for name in self.files:
            path = f"{PROTECTED}/{self.folder}/{name}"
            yield {"URL": f"{HOST}/{path}", "Description": f"Download {name}", "Type": "GET DATA"}
        yield {
            "URL": f"{HOST}/{picture}",
            "Description": f"Download {self.name}.png",
            "Type": "GET RELATED VISUALIZATION",
        }
        for name in self.files:
            path = f"{PROTECTED}/{self.folder}/{name}"
            yield {"URL": f"s3://{path}", "Description": via_s3, "Type": "GET DATA VIA DIRECT ACCESS"}
        yield {"URL": f"s3://{picture}", "Description": via_s3, "Type": "GET RELATED VISUALIZATION"}
        yield {
            "URL": f"{HOST}/s3credentials",
            "Description": "api endpoint to retrieve temporary credentials valid for same-region direct s3 access",
            "Type": "VIEW RELATED INFORMATION",
        }


def records(world: World) -> list[Record]:
    """Return the granules of all collections, by time and name."""
    found: list[Record] = []
    for granule in emit_granules(world):
        found += [
            _scene(
                granule, "EMITL2BCH4ENH_002", "L2B", "CH4ENH", ("CH4ENH", "CH4UNCERT", "CH4SENS"), len(found)
            ),
            _scene(granule, "EMITL2BCH4ENH_001", "L2B", "CH4ENH", ("CH4ENH",), len(found) + 1),
            _scene(granule, "EMITL1BRAD_001", "L1B", "RAD", ("RAD", "OBS"), len(found) + 2),
            _scene(granule, "EMITL2ARFL_001", "L2A", "RFL", ("RFL", "MASK"), len(found) + 3),
        ]
        for plume in granule.plumes:
            found.append(_plume(granule, plume, len(found)))
    for granule in campaign_granules(world):
        # Its scenes have the methane product alone.
        found.append(_scene(granule, "EMITL2BCH4ENH_002", "L2B", "CH4ENH", tuple(granule.files), len(found)))
        for plume in granule.plumes:
            found.append(_plume(granule, plume, len(found)))
    return sorted(found, key=lambda record: (record.start, record.name))


def objects(found: Sequence[Record]) -> dict[str, dict[str, StoredObject]]:
    """Return bucket -> key -> object of all granules' files and pictures."""
    buckets: dict[str, dict[str, StoredObject]] = {PROTECTED: {}, PUBLIC: {}}
    picture = _stored(_png(), ".png")
    for record in found:
        for name, stored in record.files.items():
            buckets[PROTECTED][f"{record.folder}/{name}"] = stored
        buckets[PUBLIC][f"{record.folder}/{record.name}.png"] = picture
    return buckets


def _scene(
    granule: EmitGranule, collection: str, level: str, product: str, keys: Sequence[str], number: int
) -> Record:
    version = collection[-3:]
    made = granule.end + timedelta(days=4, hours=number % 7)
    return Record(
        collection=collection,
        name=f"EMIT_{level}_{product}_{version}_{granule.name}",
        start=granule.start,
        end=granule.end,
        footprint=granule.footprint,
        cloud_cover=granule.cloud_cover,
        concept=f"G{3250000000 + number}-LPCLOUD",
        made=made,
        revised=made + timedelta(minutes=37, milliseconds=862),
        revision=1,
        files={
            f"EMIT_{level}_{key}_{version}_{granule.name}{granule.files[key].suffix}": _stored(
                granule.files[key], granule.files[key].suffix
            )
            for key in keys
        },
        attributes=(
            ("SOFTWARE_BUILD_VERSION", ("020001",)),
            ("Identifier_product_doi", (f"10.5067/EMIT/{collection.replace('_', '.')}",)),
            ("ORBIT", (granule.orbit,)),
            ("SCENE", (str(int(granule.scene)),)),
            ("SOLAR_ZENITH", (f"{granule.sun_zenith_deg:.2f}",)),
            ("SOLAR_AZIMUTH", (f"{granule.sun_azimuth_deg:.2f}",)),
        ),
    )


def _plume(granule: EmitGranule, plume: EmitPlume, number: int) -> Record:
    made = granule.end + timedelta(days=21)
    return Record(
        collection="EMITL2BCH4PLM_002",
        name=f"EMIT_L2B_CH4PLM_002_{plume.name}",
        start=plume.single_date_time,
        end=None,
        footprint=plume.footprint,
        cloud_cover=None,
        concept=f"G{3250000000 + number}-LPCLOUD",
        made=made,
        revised=made + timedelta(days=3, milliseconds=155),
        revision=2,
        files={
            f"EMIT_L2B_{key}_002_{plume.name}{path.suffix}": _stored(path, path.suffix)
            for key, path in sorted(plume.files.items())
        },
        attributes=(
            ("SOFTWARE_BUILD_VERSION", ("020001",)),
            ("PLUME_ID", (plume.number,)),
            ("SOURCE_SCENES", tuple(plume.scenes)),
        ),
    )


def _stored(content: Path | bytes, suffix: str) -> StoredObject:
    data = content if isinstance(content, bytes) else content.read_bytes()
    return StoredObject(
        content_type=_TYPES[suffix],
        size=len(data),
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        path=None if isinstance(content, bytes) else content,
        data=data if isinstance(content, bytes) else b"",
    )


def _sha512(stored: StoredObject) -> str:
    data = stored.data if stored.path is None else stored.path.read_bytes()
    return hashlib.sha512(data).hexdigest()


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _png() -> bytes:
    """Return a picture of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(b"\x00\x80")),
            chunk(b"IEND", b""),
        ]
    )
