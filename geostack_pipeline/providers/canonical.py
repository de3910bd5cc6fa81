"""Raw items to canonical items: the engine that every provider declares its :class:`ItemForm` to.

What a catalog says is coerced to declared types; what has no column, or does not fit its column's type, is kept as
text in ``geostack:extra`` under its JSON pointer.  Nothing is lost, and the same item always gives the same row.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from geostack_pipeline.providers.coerce import MISSING, Shape, coerce, escape, json_text
from geostack_pipeline.providers.contract import CANONICAL_PROPERTIES, Item, Radiometry, RejectedItemError
from geostack_pipeline.providers.geometry import GeometryError, bbox_of, canonical_bbox, canonical_geometry

MAX_ITEM_BYTES = 1 << 20
"""Items are 2 to 70 kB; one of a megabyte is damage or an attack."""

EXTRA = "geostack:extra"
"""Property with everything that has no column, as JSON text: JSON pointer in the raw item -> value."""

LINK_SHAPE: dict[str, Shape] = {"rel": "str", "href": "str", "type": "str", "title": "str"}
OWN_PROPERTIES: Mapping[str, Shape] = {
    "datetime": "time",
    "platform": "str",
    "eo:cloud_cover": "float",
    "proj:code": "str",
    "grid:code": "str",
    "sat:relative_orbit": "int",
    "view:sun_elevation": "float",
    "view:incidence_angle": "float",
    "processing:baseline": "str",
    "processing:datetime": "time",
    "geostack:scene": "str",
    "geostack:radiometry": "str",
    EXTRA: "str",
}
"""Shapes of the properties that every canonical item has."""

_TOP = frozenset(
    {
        "type",
        "stac_version",
        "stac_extensions",
        "id",
        "geometry",
        "bbox",
        "properties",
        "links",
        "assets",
        "collection",
    }
)
_NAVIGATION = frozenset({"self", "root", "parent", "collection", "items", "next", "prev", "thumbnail"})
_SET_HERE = frozenset({"geostack:scene", "geostack:radiometry", EXTRA})


class ItemForm(ABC):
    """What is particular about the items of one provider; :meth:`canonical` does the rest.

    Hooks get what was coerced already and change it in place; what they take away they add to ``leftovers``
    (JSON pointer in the raw item -> value).
    """

    property_shapes: Mapping[str, Shape]
    """Every property that has a column, :data:`OWN_PROPERTIES` among them."""
    reasons: Mapping[str, str] = {}
    """Radiometry code -> what it means."""
    homes: Sequence[str] = ()
    """Addresses of the catalog: a ``self`` link below one of them is navigation."""

    # -- hooks ----------------------------------------------------------------------------------------

    @abstractmethod
    def collection(self, name: str) -> str | None:
        """Return the canonical id of a collection; None for one that this provider does not read."""

    @abstractmethod
    def asset_key(self, name: str, asset: Mapping[str, Any]) -> str | None:
        """Return the canonical key of an asset (its own key for a canonical one); None to keep it as text only."""

    @abstractmethod
    def asset_shape(self, key: str) -> Mapping[str, Shape]:
        """Return the members of an asset that have columns."""

    @abstractmethod
    def asset_keys(self) -> Sequence[str]:
        """Return every canonical key: the columns of the table."""

    @abstractmethod
    def describe(self, properties: dict[str, Any], item: Item, leftovers: dict[str, Any]) -> None:
        """Set what identifies the scene: :data:`~geostack_pipeline.providers.contract.CANONICAL_PROPERTIES`.

        Raises:
            RejectedItemError: The item is none of this product.
        """

    def prepare(self, item: Item) -> Item:
        """Return the item in the arrangement that the shapes expect; canonical items come back unchanged."""
        return item

    def settle(
        self,
        key: str,  # noqa: ARG002 - for those that have a radiometry
        asset: dict[str, Any],  # noqa: ARG002
        properties: Mapping[str, Any],  # noqa: ARG002
        pointer: str,  # noqa: ARG002
        leftovers: dict[str, Any],  # noqa: ARG002
        *,
        decided: bool,  # noqa: ARG002
    ) -> str | None:
        """Write the decided radiometry into an asset and return its reason; None where it has none.

        ``decided`` says that the item is canonical already: its numbers are decisions, not claims.
        """
        return None

    # -- the engine -----------------------------------------------------------------------------------

    def canonical(self, item: Item) -> Item:
        """Return the canonical form of an item. Pure and idempotent.

        Null, empty lists and empty objects are left out, except for the canonical properties, which are null where
        unknown.  Navigation links (``self``, ``root`` …) are left out: they are the API's root, the collection and
        the id again, and would make the rows depend on which mirror answered.

        Raises:
            RejectedItemError: With one of the reasons ``not_json``, ``too_large``, ``too_deep``, ``id``,
                ``collection``, ``properties``, ``geometry``, ``assets``, or one of :meth:`describe`.
        """
        _check_json(item)
        try:
            return self._canonical(item)
        except RecursionError:
            raise RejectedItemError("too_deep", "nested deeper than can be read") from None

    def template(self, collection: str) -> Item:
        """Return a canonical item whose every column holds a value of its type."""
        properties = {name: sample(shape) for name, shape in self.property_shapes.items()}
        properties |= {"datetime": "2020-01-01T00:00:00.000000Z"}
        assets = {key: sample(dict(self.asset_shape(key))) for key in self.asset_keys()}
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": ["https://example.com/schema.json"],
            "id": "template",
            "collection": collection,
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]],
            },
            "bbox": [0.0, 0.0, 1.0, 1.0],
            "properties": dict(sorted(properties.items())),
            "links": [sample(LINK_SHAPE)],
            "assets": dict(sorted(assets.items())),
        }

    def explain(self, code: str) -> str:
        """Return the sentences behind a ``geostack:radiometry`` code such as ``boa_offset_applied``."""
        return "; ".join(self.reasons.get(part, part) for part in code.split("+"))

    def _canonical(self, raw_item: Item) -> Item:
        identifier, name = raw_item.get("id"), raw_item.get("collection")
        if not isinstance(identifier, str) or not 0 < len(identifier) <= 256:
            raise RejectedItemError("id", f"an id that is {str(identifier)[:60]!r}")
        collection = self.collection(name) if isinstance(name, str) else None
        if collection is None:
            raise RejectedItemError("collection", f"{str(name)[:60]!r} is no collection of this provider")
        if not isinstance(raw_item.get("properties"), dict):
            raise RejectedItemError("properties", "no properties object")
        item = self.prepare(raw_item)
        raw = item["properties"]
        leftovers = _extra(raw)
        properties = self._properties(raw, leftovers)
        self.describe(properties, item, leftovers)
        geometry, bbox = _footprint(item, leftovers)
        decided = self._decided(raw)
        assets, reasons = self._assets(item.get("assets"), properties, leftovers, decided=decided is not None)
        properties["geostack:radiometry"] = decided or "+".join(sorted(reasons)) or None
        for known in CANONICAL_PROPERTIES:
            properties.setdefault(known, None)
        links = self._links(item.get("links"), leftovers)
        for member, value in item.items():
            if member not in _TOP and value is not None:
                leftovers[f"/{escape(member)}"] = value
        if leftovers:
            properties[EXTRA] = json_text(leftovers)
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": _extensions(item.get("stac_extensions")),
            "id": item["id"],
            "collection": collection,
            "geometry": geometry,
            "bbox": bbox,
            "properties": dict(sorted(properties.items())),
            "links": links,
            "assets": dict(sorted(assets.items())),
        }

    def _properties(self, raw: Mapping[str, Any], leftovers: dict[str, Any]) -> dict[str, Any]:
        named = {name: value for name, value in raw.items() if name not in _SET_HERE}
        result = coerce(named, dict(self.property_shapes), "/properties", leftovers)
        return {} if result is MISSING else result

    def _decided(self, raw: Mapping[str, Any]) -> str | None:
        """Return the radiometry code of an item that is canonical already."""
        code = raw.get("geostack:radiometry")
        if (
            isinstance(code, str)
            and isinstance(raw.get("geostack:scene"), str)
            and set(code.split("+")) <= self.reasons.keys()
        ):
            return code
        return None

    def _assets(
        self, value: Any, properties: Mapping[str, Any], leftovers: dict[str, Any], *, decided: bool
    ) -> tuple[dict[str, Any], set[str]]:
        """Return the assets under canonical keys, and the reasons of the radiometry of the bands."""
        assets: dict[str, Any] = {}
        reasons: set[str] = set()
        for name, raw in sorted(value.items()) if isinstance(value, dict) else ():
            pointer = f"/assets/{escape(name)}"
            known = isinstance(raw, dict) and isinstance(raw.get("href"), str)
            key = self.asset_key(name, raw) if known else None
            if key is None or key in assets:
                leftovers[pointer] = raw
                continue
            asset = coerce(raw, dict(self.asset_shape(key)), pointer, leftovers)
            if asset is MISSING:
                leftovers[pointer] = raw
                continue
            reason = self.settle(key, asset, properties, pointer, leftovers, decided=decided)
            if reason is not None:
                reasons.add(reason)
            assets[key] = dict(sorted(asset.items()))
        if not assets:
            raise RejectedItemError("assets", "no asset of this product")
        return assets, reasons

    def _links(self, value: Any, leftovers: dict[str, Any]) -> list[dict[str, Any]]:
        kept: list[dict[str, Any]] = []
        if not isinstance(value, list):
            return kept
        for index, link in enumerate(value):
            if not isinstance(link, dict) or not isinstance(link.get("href"), str):
                leftovers[f"/links/{index}"] = link
                continue
            rel, own = str(link.get("rel")), link["href"].startswith(tuple(self.homes))
            if rel in _NAVIGATION and (own or rel != "self"):
                continue
            aside: dict[str, Any] = {}
            coerced = coerce(link, LINK_SHAPE, f"/links/{index}", aside)
            if coerced is MISSING or not {"rel", "href"} <= coerced.keys():
                # STAC asks for both, and so do those who write the scene list.
                leftovers[f"/links/{index}"] = link
                continue
            leftovers.update(aside)
            kept.append(dict(sorted(coerced.items())))
        return sorted(kept, key=json_text)


def write_radiometry(
    asset: dict[str, Any], chosen: Radiometry, pointer: str, leftovers: dict[str, Any]
) -> None:
    """Write the decision into an asset's one ``raster:bands`` entry; a claim that is overruled is kept aside."""
    bands, band = asset.get("raster:bands", []), first_band(asset)
    if len(bands) > 1:
        leftovers[f"{pointer}/raster:bands"] = bands
    elif "offset" in band and band["offset"] != chosen.offset:
        leftovers[f"{pointer}/raster:bands/0/offset"] = band["offset"]
    asset["raster:bands"] = [
        {**band, "scale": chosen.scale, "offset": chosen.offset, "nodata": chosen.nodata}
    ]


def first_band(asset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first entry of ``raster:bands``; empty where there is none."""
    bands = asset.get("raster:bands")
    return bands[0] if isinstance(bands, list) and bands and isinstance(bands[0], dict) else {}


def finite(value: Any) -> float | None:
    """Return a JSON number as a finite float, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def sample(shape: Shape) -> Any:
    """Return a value of a shape, no part of it null: an empty table takes its types from it."""
    if isinstance(shape, dict):
        return {name: sample(member) for name, member in sorted(shape.items())}
    if isinstance(shape, list):
        return [sample(shape[0])]
    samples: Mapping[str, Any] = {
        "str": "text",
        "float": 0.5,
        "int": 1,
        "bool": True,
        "time": "2020-01-01T00:00:00.000000Z",
    }
    return samples[shape]


def _check_json(item: Item) -> None:
    """Reject what cannot be written as UTF-8 JSON of a sane size."""
    try:
        size = len(json.dumps(item, ensure_ascii=False).encode())
    except RecursionError:
        raise RejectedItemError("too_deep", "nested deeper than can be read") from None
    except UnicodeEncodeError:
        raise RejectedItemError(
            "not_json", "a string with a lone surrogate, which is no Unicode text"
        ) from None
    except (TypeError, ValueError) as error:
        raise RejectedItemError("not_json", str(error)[:100]) from None
    if size > MAX_ITEM_BYTES:
        raise RejectedItemError("too_large", f"{size} bytes of JSON, more than {MAX_ITEM_BYTES}")


def _extra(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leftovers that an already canonical item carries, so that nothing is lost on the way again."""
    text = raw.get(EXTRA)
    if text is None:
        return {}
    if isinstance(text, str):
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if isinstance(value, dict) and all(pointer.startswith("/") for pointer in value):
            return value
    return {f"/properties/{EXTRA}": text}


def _footprint(item: Item, leftovers: dict[str, Any]) -> tuple[dict[str, Any], list[float]]:
    try:
        geometry = canonical_geometry(item.get("geometry"))
    except GeometryError as error:
        raise RejectedItemError("geometry", str(error)) from None
    for name, value in item["geometry"].items():
        if name not in {"type", "coordinates"} and value is not None:
            leftovers[f"/geometry/{escape(name)}"] = value
    bbox = canonical_bbox(item.get("bbox"))
    if bbox is None:
        if item.get("bbox") is not None:
            leftovers["/bbox"] = item["bbox"]
        bbox = bbox_of(geometry)
    return geometry, bbox


def _extensions(value: Any) -> list[str]:
    return sorted({text for text in value if isinstance(text, str)}) if isinstance(value, list) else []
