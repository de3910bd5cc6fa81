"""Methane fields of a published version: an item with a COG per layer for every time of a node that lies on a map grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from geostack_pipeline.stages import methane
from geostack_pipeline.stages.published_shelf import Retrieval, Shelf, times_of

if TYPE_CHECKING:
    import xarray as xr

    from geostack_pipeline.publish.items import Document


@dataclass(frozen=True, kw_only=True)
class WrittenField:
    """A field that was written."""

    provider: str
    node: str
    time: datetime
    items: frozenset[str]
    """Catalog items that it shows."""
    collection: str
    item_id: str


def write_fields(shelf: Shelf, retrieval: Retrieval, name: str, target: str) -> Iterator[WrittenField]:
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
    for index, time in enumerate(times_of(node)):
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
                **{
                    f"{PREFIX}{name}": str(node.attrs[name])
                    for name in ("model_name", "model_version")
                    if name in node.attrs
                },
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
        yield WrittenField(
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
    """Return the share of the pixels that a mask tells of under clouds, per cent; None where the fields do not say.

    A methane product leaves out what lies under clouds and does not say why: its pixels with a value are clear, and tell
    nothing of the others.  Nor does a scene of which no mask of clouds tells anything.
    """
    if "quality_flags" not in step or step.attrs.get("method") == "l2b":
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
    told = seen & ((flags & int(masks.get("no_cloud_mask", 0))) == 0)
    if not told.any():
        return None
    return round(100.0 * float(((flags & int(masks["cloud"])) != 0)[told].mean()), 3)
