"""Published: the results of a date as STAC, GeoParquet, GeoJSON, Cloud Optimized GeoTIFFs, Zarr, and one page to read.

A version is a self-contained static catalog: all links in it are relative, so a copy of the folder is the catalog, too.
It is made of one version of ``plumes`` and of exactly the methane versions that those plumes were counted from, and is
addressed by both.  Every document is judged by its schemas before the version is shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from geostack_pipeline.errors import GeostackError
from geostack_pipeline.stages import plumes
from geostack_pipeline.stages.published_fields import WrittenField, write_fields
from geostack_pipeline.stages.published_plumes import write_plume
from geostack_pipeline.stages.published_shelf import CATALOG, NAME, REPORT, Shelf, retrievals_of
from geostack_pipeline.stages.published_tables import report, write_tables
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace, require
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from geostack_pipeline.publish.items import Document

__all__ = ["CATALOG", "CODE_VERSION", "NAME", "REPORT", "build", "documents", "items", "target", "version"]

CODE_VERSION = "5"


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


def _write(ws: Workspace, day: str, target: str, counted: Snapshot) -> Snapshot:
    retrievals = {one.provider: one for one in retrievals_of(ws, counted)}
    rows = counted.open().rows(named=True)
    upstream = {f"{counted.asset}/{day}": counted.version, **counted.upstream}
    with ws.artifacts.begin(
        NAME, day, target, kind="table", code_version=CODE_VERSION, upstream=upstream
    ) as attempt:
        shelf = Shelf(attempt)
        fields: list[WrittenField] = []
        without_map: list[str] = []
        for retrieval in retrievals.values():
            for name in sorted(retrieval.snapshot.nodes):
                made = list(write_fields(shelf, retrieval, name, target))
                fields += made
                if not made:
                    without_map.append(f"{retrieval.provider}/{name}")
        for row in rows:
            write_plume(shelf, retrievals[row["provider"]], counted, row, fields, target)
        write_tables(shelf, day, counted, rows)
        shelf.attempt.put(REPORT, report(ws, shelf, day, counted, rows, retrievals))
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
