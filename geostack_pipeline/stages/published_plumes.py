"""Plumes of a published version: an item with outline and picture for each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from geostack_pipeline.stages.published_fields import WrittenField
from geostack_pipeline.stages.published_shelf import Retrieval, Shelf, stored_version, times_of
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from geostack_pipeline.publish.items import Document


def write_plume(
    shelf: Shelf,
    retrieval: Retrieval,
    counted: Snapshot,
    row: Mapping[str, Any],
    fields: Sequence[WrittenField],
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
    outline = json.dumps(plume_feature(row), ensure_ascii=False).encode()
    assets["outline"] = {
        "href": "./plume.geojson",
        "type": GEOJSON,
        "title": "Outline with all numbers",
        "roles": ["data"],
        **shelf.put(f"{folder}/plume.geojson", outline),
    }
    origin = Origin(
        sources=retrieval.lists.sources([*row["item_ids"], *row["reference_item_ids"]]),
        versions=[stored_version(counted), retrieval.stored()],
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


def _field_of(row: Mapping[str, Any], fields: Sequence[WrittenField]) -> WrittenField | None:
    """Return the field that shows a plume: that of its area, or of a swath that of its granule; None without a map.

    Of a plume that was put together of several granules it is the one of the row's time, that of the leading part.
    """
    near = [one for one in fields if (one.provider, one.time) == (row["provider"], row["time"])]
    own = [one for one in near if one.node == row["area"]]
    return next(iter(own or [one for one in near if not one.items.isdisjoint(row["item_ids"])]), None)


def _picture(retrieval: Retrieval, name: str, row: Mapping[str, Any]) -> bytes:
    from geostack_pipeline.publish.ground_colours import ground_colours
    from geostack_pipeline.publish.plume_picture import plume_picture

    node = retrieval.tree[name].to_dataset()
    index = times_of(node).index(row["time"])
    ground = retrieval.ground(name, str(node.attrs.get("scene", "")))
    if name not in retrieval.colours:
        # The plumes of a granule come one after another, and its colours are read from chunks of all bands.
        retrieval.colours.clear()
        retrieval.colours[name] = ground_colours(ground, node)
    return plume_picture(
        node,
        row,
        time_index=index,
        cube=ground[0] if ground else None,
        colours=retrieval.colours[name],
    )


def plume_feature(row: Mapping[str, Any]) -> Document:
    """Return a plume as a GeoJSON feature."""
    import shapely

    from geostack_pipeline.publish.items import placed, stamp

    return {
        "type": "Feature",
        "id": row["plume_id"],
        **placed(shapely.from_wkb(row["geometry"])),
        "properties": {
            name: stamp(value) if isinstance(value, datetime) else value
            for name, value in row.items()
            if name not in {"geometry", "bbox"}
        },
    }
