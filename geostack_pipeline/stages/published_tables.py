"""What holds a published version together: tables of its plumes and items, collections, the catalog, the report page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from geostack_pipeline.stages import plumes
from geostack_pipeline.stages.published_plumes import plume_feature
from geostack_pipeline.stages.published_shelf import CATALOG, NAME, REPORT, Retrieval, Shelf
from geostack_pipeline.stages.workspace import Workspace
from geostack_pipeline.storage.snapshot import Snapshot


def write_tables(shelf: Shelf, day: str, counted: Snapshot, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the plumes as tables, the collections, the catalog and the table of items."""
    from geostack_pipeline.publish.geoparquet import items_parquet
    from geostack_pipeline.publish.items import (
        GEOJSON,
        PARQUET,
        catalog_document,
        collection_document,
    )
    from geostack_pipeline.publish.products import PLUMES, sensor

    together = {"type": "FeatureCollection", "features": [plume_feature(row) for row in rows]}
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


def report(
    ws: Workspace,
    shelf: Shelf,
    day: str,
    counted: Snapshot,
    rows: Sequence[Mapping[str, Any]],
    retrievals: Mapping[str, Retrieval],
) -> bytes:
    """Return the page of the date: one HTML file that needs no other."""
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
