"""Published: the results of a date as STAC, GeoParquet, GeoJSON, Cloud Optimized GeoTIFFs, Zarr, and one page to read.

A version is a self-contained static catalog: all links in it are relative, so a copy of the folder is the catalog, too.
It is made of one version of ``plumes`` and of exactly the methane versions that those plumes were counted from, and is
addressed by both.  Every document is judged by its schemas before the version is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from geostack_pipeline.errors import GeostackError, StorageError
from geostack_pipeline.stages import cube, methane, plumes
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace, asset_name, require
from geostack_pipeline.storage.digest import sha256_bytes, version_of
from geostack_pipeline.storage.layout import split_reference
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

    from geostack_pipeline.publish.items import Document, Origin, StoredVersion
    from geostack_pipeline.storage.attempt import Attempt

NAME = "published"
CODE_VERSION = "1"
REPORT = "report.html"
CATALOG = "catalog.json"
_UP = "../../../../../.."
"""From an item's folder to the folder of all artifacts: item, collection, attempt, version, date, asset."""


def version(plumes_version: str, upstream: Mapping[str, str]) -> str:
    """Return the version that plumes, and the methane that they were counted from, lead to."""
    return version_of({"code": CODE_VERSION, "plumes": plumes_version, "methane": dict(upstream)})


def target(counted: Snapshot) -> str:
    """Return the version that a version of the plumes leads to."""
    return version(counted.version, counted.upstream)


def build(ws: Workspace, day: str) -> Outcome:
    """Publish one date.

    Raises:
        GeostackError: The date has no plumes.
        StorageError: A version that they were counted from is gone.
        IntegrityError: A document is no valid STAC.
    """
    counted = ws.current(plumes.NAME, day)
    if counted is None:
        raise GeostackError(
            "the plumes of this date have not been counted",
            subject=f"{NAME} {day}",
            action="run the date of a provider that may show methane",
        )
    wanted = target(counted)
    snapshot = ws.artifacts.find(NAME, day, wanted)
    reused = snapshot is not None
    if snapshot is None:
        snapshot = _write(ws, day, wanted, counted)
    checks = _checks(ws, snapshot)
    require(snapshot, checks)
    ws.artifacts.point(snapshot, run_id=ws.run_id)
    return Outcome(snapshot=snapshot, reused=reused, checks=checks)


@dataclass
class _Shelf:
    """Files of one version on their way into it."""

    attempt: Attempt
    items: list[Document] = field(default_factory=list)
    licences: dict[str, set[str]] = field(default_factory=dict)
    """Collection -> terms of the scenes."""
    pictures: dict[str, bytes] = field(default_factory=dict)
    """Plume -> its picture."""

    def put(self, path: str, data: bytes) -> Document:
        """Write a file and return size and checksum."""
        from geostack_pipeline.publish.items import file_facts

        self.attempt.put(path, data)
        return file_facts(data, sha256_bytes(data))

    def add(self, item: Document, origin: Origin) -> None:
        """Write an item."""
        self.items.append(item)
        terms = self.licences.setdefault(item["collection"], set())
        terms.update(href for source in origin.sources for href in source.licences)
        self.put_json(f"{item['collection']}/{item['id']}/{item['id']}.json", item)

    def put_json(self, path: str, document: Document) -> None:
        """Write a document."""
        self.attempt.put(
            path, (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        )

    def of(self, collection: str) -> list[Document]:
        """Return the items of a collection, by time."""
        own = [item for item in self.items if item["collection"] == collection]
        return sorted(own, key=lambda item: (item["properties"]["datetime"], item["id"]))


@dataclass(frozen=True)
class _Retrieval:
    """One provider's methane of the date."""

    ws: Workspace
    snapshot: Snapshot

    @property
    def provider(self) -> str:
        return self.snapshot.asset.rpartition("/")[0]

    @cached_property
    def tree(self) -> xr.DataTree:
        opened: xr.DataTree = self.snapshot.open()
        return opened

    @cached_property
    def lists(self) -> Any:
        from geostack_pipeline.stages.lineage import SceneLists

        return SceneLists.of(self.ws, self.provider, self.snapshot)

    @cached_property
    def cube(self) -> xr.DataTree | None:
        """The cube that the fields were made from, for the colours of the ground."""
        asset = asset_name(self.provider, cube.NAME)
        found = self.ws.artifacts.find(
            asset, self.snapshot.partition, self.snapshot.upstream[f"{asset}/{self.snapshot.partition}"]
        )
        return None if found is None else found.open()

    def stored(self) -> StoredVersion:
        return _stored(self.snapshot)


def _stored(snapshot: Snapshot) -> StoredVersion:
    from geostack_pipeline.publish.items import StoredVersion

    where = f"{_UP}/{snapshot.asset}/{snapshot.partition}/{snapshot.version}/complete.json"
    return StoredVersion(
        asset=snapshot.asset, partition=snapshot.partition, version=snapshot.version, href=where
    )


def _write(ws: Workspace, day: str, target: str, counted: Snapshot) -> Snapshot:
    retrievals = {one.provider: one for one in _retrievals(ws, counted)}
    rows = counted.open().rows(named=True)
    upstream = {f"{counted.asset}/{day}": counted.version, **counted.upstream}
    with ws.artifacts.begin(
        NAME, day, target, kind="table", code_version=CODE_VERSION, upstream=upstream
    ) as attempt:
        shelf = _Shelf(attempt)
        fields: list[_Field] = []
        without_map: list[str] = []
        for retrieval in retrievals.values():
            for name in sorted(retrieval.snapshot.nodes):
                made = list(_fields(shelf, retrieval, name, target))
                fields += made
                if not made:
                    without_map.append(f"{retrieval.provider}/{name}")
        for row in rows:
            _plume(shelf, retrievals[row["provider"]], counted, row, fields, target)
        _tables(shelf, day, counted, rows)
        shelf.attempt.put(REPORT, _report(ws, shelf, day, counted, rows, retrievals))
        return attempt.commit(
            meta={
                "rows": len(shelf.items),
                "fields": len(fields),
                "plumes": len(rows),
                "rates": sum(row["emission_rate_kg_h"] is not None for row in rows),
                "collections": sorted({item["collection"] for item in shelf.items}),
                "without_map": without_map,
            }
        )


def _retrievals(ws: Workspace, counted: Snapshot) -> Iterator[_Retrieval]:
    for name, wanted in sorted(counted.upstream.items()):
        asset, day = split_reference(name)
        source = ws.artifacts.find(asset, day, wanted)
        if source is None:
            raise StorageError(
                "the methane that the plumes were counted from is gone",
                subject=f"{name} {wanted}",
                action=f"run the date of {asset.partition('/')[0]} again",
            )
        yield _Retrieval(ws, source)


def _times(node: xr.Dataset) -> list[datetime]:
    values = np.atleast_1d(node["time"].values).astype("datetime64[us]")
    return [value.item().replace(tzinfo=UTC) for value in values]


@dataclass(frozen=True, kw_only=True)
class _Field:
    """A field that was written."""

    provider: str
    node: str
    time: datetime
    items: frozenset[str]
    """Catalog items that it shows."""
    collection: str
    item_id: str


def _fields(shelf: _Shelf, retrieval: _Retrieval, name: str, target: str) -> Iterator[_Field]:
    """Write an item for every time of a node that lies on a map grid; yield what was written."""
    from geostack_pipeline.methane.rates import instrument_of
    from geostack_pipeline.publish.cog import placement, to_cog
    from geostack_pipeline.publish.items import COG, PREFIX, ZARR, Origin, band_facts, field_item
    from geostack_pipeline.publish.products import LAYERS, fields_collection, platform_of, sensor

    node = retrieval.tree[name].to_dataset()
    if not {"x", "y"} <= set(node.dims) or "time" not in node.coords:
        return
    place = placement(node)
    instrument = instrument_of(str(node.attrs.get("instrument", "")))
    seen_by = sensor(instrument)
    area = str(node.attrs.get("area", name))
    collection = fields_collection(instrument)
    zarr = f"zarr/{retrieval.provider}/{name}"
    shelf.attempt.reference(retrieval.snapshot, f"{methane.TREE}/{name}", to=zarr)
    for index, time in enumerate(_times(node)):
        step = (node.isel(time=index) if "time" in node.dims else node).load()
        items, references = _scene_ids(step)
        item_id = f"ch4-{name}-{time:%Y%m%dT%H%M%S}-{retrieval.provider}"
        folder = f"{collection}/{item_id}"
        assets: dict[str, Document] = {}
        for layer in LAYERS:
            if layer.variable not in step:
                continue
            values = np.asarray(step[layer.variable].values)
            floating = np.issubdtype(values.dtype, np.floating)
            values = values.astype(np.float32) if floating else values
            nodata = float("nan") if floating else None
            data = to_cog(values, place, nodata=nodata, description=layer.variable, unit=layer.unit)
            assets[layer.variable] = {
                "href": f"./{layer.variable}.tif",
                "type": COG,
                "title": layer.title,
                "roles": list(layer.roles),
                **band_facts(values, layer, place, nodata),
                **shelf.put(f"{folder}/{layer.variable}.tif", data),
            }
            if layer.variable == "ch4_enhancement" and seen_by.bands:
                assets[layer.variable]["eo:bands"] = [dict(band) for band in seen_by.bands]
        assets["zarr"] = {
            "href": f"../../{zarr}",
            "type": ZARR,
            "title": "All fields of all times of this node",
            "roles": ["data"],
        }
        sources = retrieval.lists.sources([*items, *references])
        origin = Origin(
            sources=sources,
            versions=[retrieval.stored()],
            lineage=f"{node.attrs.get('method', 'methane retrieval')} of {seen_by.title} scenes",
            artifact=target,
            properties={
                f"{PREFIX}provider": retrieval.provider,
                f"{PREFIX}area": area,
                f"{PREFIX}node_version": retrieval.snapshot.nodes[name],
                f"{PREFIX}method": str(node.attrs.get("method", "")),
                f"{PREFIX}maturity": str(node.attrs.get("maturity", "screening")),
                f"{PREFIX}reference_items": references,
            },
        )
        item = field_item(
            item_id=item_id,
            collection=collection,
            title=f"Methane over {area} by {seen_by.title}, {time:%Y-%m-%d %H:%M} UTC",
            time=time,
            place=place,
            sensor=seen_by,
            platforms=map(platform_of, retrieval.lists.platforms(items)),
            cloud_cover=_cloud_cover(step),
            assets=assets,
            origin=origin,
        )
        shelf.add(item, origin)
        yield _Field(
            provider=retrieval.provider,
            node=name,
            time=time,
            items=frozenset(items),
            collection=collection,
            item_id=item_id,
        )


def _scene_ids(step: xr.Dataset) -> tuple[list[str], list[str]]:
    """Return the items that a step shows, and those of its reference."""
    references = str(step["reference_scene"].values).split() if "reference_scene" in step.coords else []
    if "scene" not in step.coords:
        granule = step.attrs.get("item_id") or step.attrs.get("granule")
        return ([str(granule)] if granule else []), references
    names = np.atleast_1d(step["scene"].values)
    if "source_scene" in step and names.size > 1:
        seen = [int(number) for number in np.unique(step["source_scene"].values) if number >= 0]
        return [str(names[number]) for number in seen], references
    return [str(name) for name in names], references


def _cloud_cover(step: xr.Dataset) -> float | None:
    """Return the share of the seen pixels under clouds, per cent; None where the fields do not say."""
    if "quality_flags" not in step:
        return None
    about = step["quality_flags"].attrs
    masks = dict(
        zip(
            str(about.get("flag_meanings", "")).split(),
            np.atleast_1d(about.get("flag_masks", [])),
            strict=False,
        )
    )
    if not {"cloud", "no_data"} <= masks.keys():
        return None
    flags = step["quality_flags"].values.astype(np.int64)
    seen = (flags & int(masks["no_data"])) == 0
    if not seen.any():
        return None
    return round(100.0 * float(((flags & int(masks["cloud"])) != 0)[seen].mean()), 3)


def _plume(
    shelf: _Shelf,
    retrieval: _Retrieval,
    counted: Snapshot,
    row: Mapping[str, Any],
    fields: Sequence[_Field],
    target: str,
) -> None:
    """Write the item of one plume, with its picture and its outline."""
    from geostack_pipeline.publish.items import GEOJSON, Origin, plume_item
    from geostack_pipeline.publish.products import PLUMES, platform_of, sensor

    shown = _field_of(row, fields)
    folder = f"{PLUMES}/{row['plume_id']}"
    assets: dict[str, Document] = {}
    if shown is not None:
        picture = _picture(retrieval, shown.node, row)
        shelf.pictures[row["plume_id"]] = picture
        assets["quicklook"] = {
            "href": "./quicklook.png",
            "type": "image/png",
            "title": "Enhancement over true colour",
            "roles": ["overview", "thumbnail"],
            **shelf.put(f"{folder}/quicklook.png", picture),
        }
    outline = json.dumps(_feature(row), ensure_ascii=False).encode()
    assets["outline"] = {
        "href": "./plume.geojson",
        "type": GEOJSON,
        "title": "Outline with all numbers",
        "roles": ["data"],
        **shelf.put(f"{folder}/plume.geojson", outline),
    }
    origin = Origin(
        sources=retrieval.lists.sources([*row["item_ids"], *row["reference_item_ids"]]),
        versions=[_stored(counted), retrieval.stored()],
        lineage=f"plume candidate of {row['method']}, counted once over {', '.join(row['providers'])}",
        artifact=target,
    )
    related = (
        []
        if shown is None
        else [
            {
                "rel": "derived_from",
                "href": f"../../{shown.collection}/{shown.item_id}/{shown.item_id}.json",
                "type": GEOJSON,
                "title": "the fields that show it",
            }
        ]
    )
    item = plume_item(
        item_id=row["plume_id"],
        row=row,
        sensor=sensor(row["instrument"]),
        platforms=map(platform_of, retrieval.lists.platforms(row["item_ids"])),
        assets=assets,
        origin=origin,
        related=related,
    )
    shelf.add(item, origin)


def _field_of(row: Mapping[str, Any], fields: Sequence[_Field]) -> _Field | None:
    """Return the field that shows a plume: that of its area, or of a swath that of its granule; None without a map."""
    near = [one for one in fields if (one.provider, one.time) == (row["provider"], row["time"])]
    own = [one for one in near if one.node == row["area"]]
    return next(iter(own or [one for one in near if set(row["item_ids"]) <= one.items]), None)


def _picture(retrieval: _Retrieval, name: str, row: Mapping[str, Any]) -> bytes:
    from geostack_pipeline.publish.plume_picture import plume_picture

    node = retrieval.tree[name].to_dataset()
    index = _times(node).index(row["time"])
    ground = (
        retrieval.cube[name].to_dataset()
        if retrieval.cube is not None and name in retrieval.cube.children
        else None
    )
    return plume_picture(node, row, time_index=index, cube=ground)


def _feature(row: Mapping[str, Any]) -> Document:
    """Return a plume as a GeoJSON feature."""
    import shapely

    from geostack_pipeline.publish.items import stamp

    shape = shapely.from_wkb(row["geometry"])
    return {
        "type": "Feature",
        "id": row["plume_id"],
        "geometry": json.loads(shapely.to_geojson(shape)),
        "bbox": [float(part) for part in shape.bounds],
        "properties": {
            name: stamp(value) if isinstance(value, datetime) else value
            for name, value in row.items()
            if name not in {"geometry", "bbox"}
        },
    }


def _tables(shelf: _Shelf, day: str, counted: Snapshot, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the plumes as tables, the collections, the catalog and the table of items."""
    from geostack_pipeline.publish.geoparquet import items_parquet
    from geostack_pipeline.publish.items import (
        GEOJSON,
        PARQUET,
        catalog_document,
        collection_document,
    )
    from geostack_pipeline.publish.products import PLUMES, sensor

    together = {"type": "FeatureCollection", "features": [_feature(row) for row in rows]}
    files = {
        "plumes": ("plumes.parquet", PARQUET, "All plumes of the date, GeoParquet", counted.read("plumes.parquet")),
        "plumes_geojson": (
            "plumes.geojson", GEOJSON, "All plumes of the date, GeoJSON",
            json.dumps(together, ensure_ascii=False, allow_nan=False).encode(),
        ),
    }  # fmt: skip
    assets = {
        key: {"href": f"../{path}", "type": kind, "title": title, "roles": ["data"]}
        for key, (path, kind, title, _) in files.items()
    }
    for path, _, _, data in files.values():
        shelf.put(path, data)
    collections = []
    for collection in sorted({PLUMES, *(item["collection"] for item in shelf.items)}):
        items = shelf.of(collection)
        if collection == PLUMES:
            title = "Methane plumes"
            description = (
                "Plume candidates over all catalogs, each physical plume once: outline, mass, and, where the wind is "
                "known, emission rate with uncertainty. Nobody has reviewed them."
            )
            makers = [sensor(row["instrument"]).provider for row in rows]
        else:
            seen = sensor(collection.removeprefix("methane-enhancement-"))
            title = f"Methane enhancement by {seen.title}"
            description = f"Column enhancement of methane in ppm m from {seen.title} scenes, with uncertainty and quality flags."
            makers = [seen.provider]
        document = collection_document(
            collection_id=collection,
            title=title,
            description=description,
            items=items,
            providers=list({maker["name"]: maker for maker in makers}.values()),
            licences=shelf.licences.get(collection, ()),
            assets=assets if collection == PLUMES else None,
        )
        collections.append(document)
        shelf.put_json(f"{collection}/collection.json", document)
    shelf.put_json(
        CATALOG,
        catalog_document(
            catalog_id=f"methane-{day}",
            title=f"Methane on {day}",
            description=f"Methane fields and plumes of {day} (UTC).",
            collections=collections,
            links=[
                {"rel": "about", "href": f"./{REPORT}", "type": "text/html", "title": "Report of the date"},
                {
                    "rel": "items", "href": f"./{NAME}.parquet", "type": PARQUET,
                    "title": "All items, stac-geoparquet; hrefs are relative to the items' own places",
                },
            ],
        ),
    )  # fmt: skip
    shelf.attempt.put(f"{NAME}.parquet", items_parquet(shelf.items))


def _report(
    ws: Workspace,
    shelf: _Shelf,
    day: str,
    counted: Snapshot,
    rows: Sequence[Mapping[str, Any]],
    retrievals: Mapping[str, _Retrieval],
) -> bytes:
    from geostack_pipeline.publish.report import ReportField, ReportPlume, report_page

    by_id = {item["id"]: item for item in shelf.items}
    return report_page(
        day=day,
        areas=[(area.name, list(area.parts)) for area in ws.areas],
        fields=[
            ReportField(
                item=item, hrefs=[link["href"] for link in item["links"] if link["rel"] == "derived_from"]
            )
            for item in shelf.items
            if item["collection"].startswith("methane-enhancement")
        ],
        plumes=[
            ReportPlume(row=row, picture=shelf.pictures.get(row["plume_id"]), item=by_id[row["plume_id"]])
            for row in rows
        ],
        versions={
            f"{NAME}": shelf.attempt.version,
            f"{plumes.NAME}": counted.version,
            **{one.snapshot.asset: one.snapshot.version for one in retrievals.values()},
        },
        missing=counted.meta["missing"],
    )


def documents(snapshot: Snapshot) -> dict[str, Document]:
    """Return every STAC document of a version by its path: catalog, collections, items."""
    paths = [
        path
        for path in snapshot.files
        if path == CATALOG
        or (
            path.endswith(".json")
            and path.split("/")[0] != "zarr"
            and PurePosixPath(path).name != "zarr.json"
        )
    ]
    return {path: json.loads(snapshot.read(path)) for path in sorted(paths)}


def items(snapshot: Snapshot) -> dict[str, Document]:
    """Return the items of a version by their paths."""
    return {path: one for path, one in documents(snapshot).items() if one["type"] == "Feature"}


def _checks(ws: Workspace, snapshot: Snapshot) -> tuple[Check, ...]:
    from geostack_pipeline.publish.schemas import problems

    found = documents(snapshot)
    wrong = [f"{path}: {problem}" for path, one in found.items() for problem in problems(one)]
    lost = [
        f"{path}: {asset['href']}"
        for path, one in found.items()
        for asset in one.get("assets", {}).values()
        if not _held(snapshot, path, asset["href"])
    ]
    kept = [one for one in found.values() if one["type"] == "Feature"]
    counted = ws.artifacts.find(
        plumes.NAME, snapshot.partition, snapshot.upstream[f"{plumes.NAME}/{snapshot.partition}"]
    )
    shown = sum(one["collection"] == "methane-plumes" for one in kept)
    return (
        Check(
            name="stac_valid",
            passed=not wrong,
            detail={"documents": len(found), "wrong": "; ".join(wrong[:3]) or "none"},
        ),
        Check(
            name="assets_present",
            passed=not lost,
            detail={"items": len(kept), "missing": "; ".join(lost[:3]) or "none"},
        ),
        Check(
            name="every_plume_published",
            passed=counted is not None and counted.meta["rows"] == shown,
            detail={"plumes": counted.meta["rows"] if counted is not None else None, "items": shown},
        ),
        Check(
            name="sources_named",
            passed=all(one["properties"]["geostack:source_items"] for one in kept),
            detail={
                "items": len(kept),
                "nodes without a map": ", ".join(snapshot.meta["without_map"]) or "none",
            },
        ),
    )


def _held(snapshot: Snapshot, path: str, href: str) -> bool:
    """Whether a version holds the file or folder that a document's relative href leads to."""
    parts = list(PurePosixPath(path).parent.parts)
    for part in PurePosixPath(href).parts:
        if part == "..":
            if not parts:
                return False
            parts.pop()
        elif part != ".":
            parts.append(part)
    place = "/".join(parts)
    return place in snapshot.files or f"{place}/zarr.json" in snapshot.files
