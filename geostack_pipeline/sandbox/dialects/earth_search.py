"""Element 84's Earth Search: a stac-server without the filter extension.

As recorded: next links are POST with ``merge: false`` and the whole query in ``body``; the token holds the sort
values of the last item; a next link stands on every page that has items, so the last page is an empty one;
``context`` and ``numberMatched`` count; ``filter`` and other unknown members are silently ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlencode

import shapely
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from geostack_pipeline.sandbox.dialects.base import Addresses, Dialect, Item, Publication, StoredObject
from geostack_pipeline.sandbox.dialects.earth_search_items import (
    BUCKET,
    COLLECTION,
    OFFSET_QUIRK,
    has_offset,
    item_id,
    make_item,
    prefix,
)
from geostack_pipeline.sandbox.dialects.stac_query import BadRequestError, Query, dig, parse, pick
from geostack_pipeline.sandbox.server.faults import spoil_page
from geostack_pipeline.sandbox.world.scene import PhysicalScene
from geostack_pipeline.sandbox.world.world import Encoding, World

DEFAULT_LIMIT = 10
LARGEST_LIMIT = 10_000
_GEOJSON = "application/geo+json; charset=utf-8"
_JSON = "application/json; charset=utf-8"
_STAC = "https://api.stacspec.org/v1.0.0"
CONFORMANCE = [
    f"{_STAC}/core",
    f"{_STAC}/collections",
    f"{_STAC}/ogcapi-features",
    f"{_STAC}/item-search",
    f"{_STAC}/ogcapi-features#fields",
    f"{_STAC}/ogcapi-features#sort",
    f"{_STAC}/ogcapi-features#query",
    f"{_STAC}/item-search#fields",
    f"{_STAC}/item-search#sort",
    f"{_STAC}/item-search#query",
    "https://api.stacspec.org/v0.3.0/aggregation",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/oas30",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
]
_QUERYABLES = "http://www.opengis.net/def/rel/ogc/1.0/queryables"


class EarthSearchDialect(Dialect):
    """Earth Search v1, collection ``sentinel-2-l2a``, and its bucket."""

    key: ClassVar[str] = "earth_search"
    mount: ClassVar[str] = "/earth-search/v1"

    def encodings(self, scene: PhysicalScene) -> Sequence[Encoding]:
        """Return one encoding per processing: the offset is removed from the files, but for one mishap."""
        return [
            Encoding(
                baseline=processing.baseline,
                offset=1000 if has_offset(processing) and OFFSET_QUIRK in scene.overpass.quirks else 0,
            )
            for processing in scene.overpass.processings
        ]

    def publish(self, world: World, at: Addresses) -> Publication:
        """Return an item per processing of each scene, with its files, its own JSON and its metadata."""
        items: list[Item] = []
        objects: dict[str, StoredObject] = {}
        for scene in world.scenes:
            for processing, encoding in zip(scene.overpass.processings, self.encodings(scene), strict=True):
                item = make_item(scene, processing, world.facts(scene), at.root)
                items.append(item)
                folder = prefix(scene, processing)
                for name, (path, description) in world.files(scene, encoding).items():
                    objects[f"{folder}/{name}"] = StoredObject(
                        content_type="image/tiff; application=geotiff; profile=cloud-optimized",
                        size=description["size"],
                        md5=description["md5"],
                        path=path,
                    )
                made_up = {
                    f"{item_id(scene, processing)}.json": (json.dumps(item).encode(), "application/json"),
                    "granule_metadata.xml": (_granule_metadata(scene).encode(), "application/xml"),
                    "tileinfo_metadata.json": (_tile_info(scene).encode(), "application/json"),
                }
                for name, (data, kind) in made_up.items():
                    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
                    objects[f"{folder}/{name}"] = StoredObject(
                        content_type=kind, size=len(data), md5=digest, data=data
                    )
        return Publication(items=items, buckets={BUCKET: objects})

    def app(self, publication: Publication, at: Addresses) -> ASGIApp:
        """Return the API as an ASGI application."""
        api = _Api(publication.items, at.root)
        return Starlette(
            routes=[
                Route("/", api.landing),
                Route("/conformance", api.conformance),
                Route("/queryables", api.queryables),
                Route("/collections", api.collections),
                Route("/collections/{collection}", api.collection),
                Route("/collections/{collection}/queryables", api.queryables),
                Route("/collections/{collection}/items", api.collection_items),
                Route("/collections/{collection}/items/{item}", api.item),
                Route("/search", api.search_get, methods=["GET"]),
                Route("/search", api.search_post, methods=["POST"]),
            ],
            exception_handlers={404: _not_found},
        )

    def settings(self, at: Addresses) -> dict[str, Any]:
        """Return the provider's settings: its address, and where its bucket answers."""
        return {
            "url": at.root,
            "collections": [COLLECTION],
            "where": '"eo:cloud_cover" < 80',
            "min_coverage": 0.0,
            "bands": ["B02", "B03", "B04", "B11", "B12"],
            "endpoints": {BUCKET: {"url": at.buckets, "region": "us-west-2", "allow_http": True}},
        }


def _answer(content: Mapping[str, Any], kind: str = _JSON, status: int = 200) -> Response:
    body = json.dumps(content, separators=(",", ":")).encode()
    response = Response(body, status, media_type=None)
    response.headers["Content-Type"] = kind
    response.headers["ETag"] = (
        f'W/"{len(body):x}-{hashlib.sha1(body, usedforsecurity=False).hexdigest()[:27]}"'
    )
    return response


def _refusal(status: int, code: str, description: str) -> Response:
    return _answer({"code": code, "description": description}, status=status)


async def _not_found(_: Request, __: Exception) -> Response:
    return _refusal(404, "NotFound", "Not Found")


class _Api:
    """The routes, over a fixed list of items."""

    def __init__(self, items: Sequence[Item], root: str) -> None:
        self._root = root
        self._items = {(item["collection"], item["id"]): item for item in items}
        self._shapes = {key: shapely.geometry.shape(item["geometry"]) for key, item in self._items.items()}

    # --- metadata ------------------------------------------------------------------------------------------

    def _link(self, rel: str, path: str, kind: str = "application/json", **more: str) -> dict[str, str]:
        return {"rel": rel, "type": kind, "href": f"{self._root}{path}", **more}

    async def landing(self, _: Request) -> Response:
        links = [
            self._link("self", ""),
            self._link("root", ""),
            self._link("conformance", "/conformance"),
            self._link("data", "/collections"),
            self._link("search", "/search", "application/geo+json", method="GET"),
            self._link("search", "/search", "application/geo+json", method="POST"),
            self._link("aggregate", "/aggregate", method="GET"),
            self._link("aggregations", "/aggregations"),
            self._link("service-desc", "/api", "application/vnd.oai.openapi"),
            self._link("service-doc", "/api.html", "text/html"),
            self._link(_QUERYABLES, "/queryables", "application/schema+json"),
            {"rel": "server", "type": "text/html", "href": "https://stac-utils.github.io/stac-server/"},
            self._link("child", f"/collections/{COLLECTION}", "application/geo+json"),
        ]
        return _answer(
            {
                "stac_version": "1.0.0",
                "type": "Catalog",
                "id": "earth-search-aws",
                "title": "Earth Search by Element 84",
                "description": "A STAC API of public datasets on AWS",
                "links": links,
                "conformsTo": CONFORMANCE,
            }
        )

    async def conformance(self, _: Request) -> Response:
        return _answer({"conformsTo": CONFORMANCE})

    async def queryables(self, request: Request) -> Response:
        return _answer(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "$id": f"{self._root}{request.scope['path']}",
                "type": "object",
                "title": "Queryables for Earth Search by Element 84",
                "properties": {"eo:cloud_cover": {"type": "number", "minimum": 0, "maximum": 100}},
                "additionalProperties": True,
            },
            "application/schema+json; charset=utf-8",
        )

    def _collection(self) -> dict[str, Any]:
        own = f"/collections/{COLLECTION}"
        licence = "https://sentinel.esa.int/documents/247904/690755/Sentinel_Data_Legal_Notice"
        return {
            "type": "Collection",
            "id": COLLECTION,
            "title": "Sentinel-2 Level-2A",
            "description": "Global Sentinel-2 data from the Multispectral Instrument (MSI) onboard Sentinel-2",
            "stac_version": "1.0.0",
            "links": [
                self._link("self", own),
                {"rel": "license", "href": licence, "title": "proprietary"},
                self._link("parent", ""),
                self._link("root", ""),
                self._link("items", f"{own}/items", "application/geo+json"),
                self._link(_QUERYABLES, f"{own}/queryables", "application/schema+json"),
            ],
            "stac_extensions": ["https://stac-extensions.github.io/eo/v1.0.0/schema.json"],
            "extent": {
                "spatial": {"bbox": [[-180, -90, 180, 90]]},
                "temporal": {"interval": [["2015-06-27T10:25:31.456000Z", None]]},
            },
            "license": "proprietary",
            "keywords": ["sentinel", "earth observation", "esa"],
            "providers": [
                {"name": "ESA", "roles": ["producer"], "url": "https://earth.esa.int/web/guest/home"},
                {"name": "Element 84", "roles": ["processor"], "url": "https://element84.com"},
            ],
            "summaries": {
                "platform": ["sentinel-2a", "sentinel-2b"],
                "constellation": ["sentinel-2"],
                "instruments": ["msi"],
                "gsd": [10, 20, 60],
            },
        }

    async def collections(self, _: Request) -> Response:
        links = [self._link("self", "/collections"), self._link("root", "")]
        return _answer({"collections": [self._collection()], "links": links})

    async def collection(self, request: Request) -> Response:
        if request.path_params["collection"] != COLLECTION:
            return _refusal(404, "NotFound", "Collection not found")
        return _answer(self._collection())

    async def item(self, request: Request) -> Response:
        found = self._items.get((request.path_params["collection"], request.path_params["item"]))
        if found is None:
            return _refusal(404, "NotFound", "Item not found")
        return _answer(found, _GEOJSON)

    # --- search --------------------------------------------------------------------------------------------

    async def search_post(self, request: Request) -> Response:
        raw = await request.body()
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            return _refusal(400, "BadRequest", "Invalid JSON")
        if not isinstance(body, dict):
            return _refusal(400, "BadRequest", "Expected a JSON object")
        return self._search(request, body, post=True, path="/search")

    async def search_get(self, request: Request) -> Response:
        try:
            body = _from_query(request.query_params)
        except BadRequestError as error:
            return _refusal(400, "BadRequest", str(error))
        return self._search(request, body, post=False, path="/search")

    async def collection_items(self, request: Request) -> Response:
        name = request.path_params["collection"]
        if name != COLLECTION:
            return _refusal(404, "NotFound", "Collection not found")
        try:
            body = {**_from_query(request.query_params), "collections": [name]}
        except BadRequestError as error:
            return _refusal(400, "BadRequest", str(error))
        return self._search(request, body, post=False, path=f"/collections/{name}/items")

    def _search(self, request: Request, body: dict[str, Any], *, post: bool, path: str) -> Response:
        try:
            query = parse(body, default_limit=DEFAULT_LIMIT, largest_limit=LARGEST_LIMIT)
            order = _order(body.get("sortby"))
            found = self._matching(query, order)
            start = _after(found, order, body["next"]) if body.get("next") else 0
        except BadRequestError as error:
            return _refusal(400, "BadRequest", str(error))
        page = found[start : start + query.limit]
        fields = body.get("fields") or {}
        shown = [pick(item, fields.get("include") or [], fields.get("exclude") or []) for item in page]
        links: list[dict[str, Any]] = []
        if page:
            links.append(self._next(body, _token(page[-1], order), post=post, path=path))
        links.append({"rel": "root", "type": "application/json", "href": self._root})
        answer = {
            "type": "FeatureCollection",
            "stac_version": "1.0.0",
            "stac_extensions": [],
            "context": {"limit": query.limit, "matched": len(found), "returned": len(page)},
            "numberMatched": len(found),
            "numberReturned": len(page),
            "features": shown,
            "links": links,
        }
        return _answer(spoil_page(request.scope, answer, body.get("next")), _GEOJSON)

    def _matching(self, query: Query, order: _Order) -> list[Item]:
        found = [item for key, item in self._items.items() if query.matches(item, self._shapes[key])]
        for name, descending in reversed(order):
            found.sort(key=lambda item: _sortable(dig(item, name)), reverse=descending)
        return found

    def _next(self, body: Mapping[str, Any], token: str, *, post: bool, path: str) -> dict[str, Any]:
        link: dict[str, Any] = {
            "rel": "next",
            "title": "Next page of Items",
            "method": "POST" if post else "GET",
            "type": "application/geo+json",
            "href": f"{self._root}{path}",
        }
        asked = {name: value for name, value in body.items() if name != "next" and value is not None}
        if post:
            return {**link, "merge": False, "body": {**asked, "next": token}}
        flat = {name: _to_query(name, value) for name, value in asked.items()}
        if path != "/search":
            flat.pop("collections", None)
        link["href"] += "?" + urlencode({**flat, "next": token})
        return link


_Order = list[tuple[str, bool]]
"""Sort fields, the first one leading, and whether each is descending."""


def _order(sortby: Any) -> _Order:
    """Return the order of a search: as asked, or the newest first; ids break ties."""
    if not sortby:
        return [("properties.datetime", True), ("id", True), ("collection", True)]
    order: _Order = []
    if not isinstance(sortby, list):
        raise BadRequestError("Invalid sortby, must be an array")
    for rule in sortby:
        if not isinstance(rule, dict) or not isinstance(rule.get("field"), str):
            raise BadRequestError("Invalid sortby, each rule needs a field")
        order.append((rule["field"], rule.get("direction", "asc") == "desc"))
    named = {name for name, _ in order}
    return order + [(name, True) for name in ("id", "collection") if name not in named]


def _sortable(value: Any) -> tuple[int, Any]:
    if value is None:
        return (2, "")
    return (0, value) if isinstance(value, int | float) else (1, str(value))


def _token(item: Item, order: _Order) -> str:
    return ",".join(str(dig(item, name)) for name, _ in order)


def _after(found: Sequence[Item], order: _Order, token: Any) -> int:
    """Return the position behind the item whose token this is."""
    for position, item in enumerate(found):
        if _token(item, order) == token:
            return position + 1
    raise BadRequestError("Invalid next token")


def _from_query(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the search body that a GET query means."""
    body: dict[str, Any] = {}
    for name, text in parameters.items():
        if name == "bbox":
            try:
                body[name] = [float(part) for part in text.split(",")]
            except ValueError as error:
                raise BadRequestError("Invalid bbox") from error
        elif name in {"collections", "ids"}:
            body[name] = text.split(",")
        elif name in {"intersects", "query"}:
            try:
                body[name] = json.loads(text)
            except ValueError as error:
                raise BadRequestError(f"Invalid {name}, must be JSON") from error
        elif name == "sortby":
            body[name] = [
                {"field": part.lstrip("+- "), "direction": "desc" if part.startswith("-") else "asc"}
                for part in text.split(",")
            ]
        elif name == "fields":
            parts = text.split(",")
            body[name] = {
                "include": [part.lstrip("+ ") for part in parts if not part.startswith("-")],
                "exclude": [part[1:] for part in parts if part.startswith("-")],
            }
        else:
            body[name] = text
    return body


def _to_query(name: str, value: Any) -> str:
    """Return a member of a search body as the value of a GET parameter."""
    if name == "sortby":
        return ",".join(("-" if rule.get("direction") == "desc" else "+") + rule["field"] for rule in value)
    if name == "fields":
        return ",".join([*(value.get("include") or []), *(f"-{part}" for part in value.get("exclude") or [])])
    if name in {"intersects", "query"}:
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, list):
        return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    return str(value)


def _granule_metadata(scene: PhysicalScene) -> str:
    """Return the part of a granule's XML that people read: angles of sun and view."""
    bands = "".join(
        f'<Mean_Viewing_Incidence_Angle bandId="{number}"><ZENITH_ANGLE unit="deg">{scene.view_zenith_deg}'
        f'</ZENITH_ANGLE><AZIMUTH_ANGLE unit="deg">{scene.view_azimuth_deg}</AZIMUTH_ANGLE>'
        "</Mean_Viewing_Incidence_Angle>"
        for number in range(13)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Level-2A_Tile_ID><Geometric_Info><Tile_Angles>'
        f'<Mean_Sun_Angle><ZENITH_ANGLE unit="deg">{scene.sun.zenith_deg}</ZENITH_ANGLE>'
        f'<AZIMUTH_ANGLE unit="deg">{scene.sun.azimuth_deg}</AZIMUTH_ANGLE></Mean_Sun_Angle>'
        f"<Mean_Viewing_Incidence_Angle_List>{bands}</Mean_Viewing_Incidence_Angle_List>"
        "</Tile_Angles></Geometric_Info></Level-2A_Tile_ID>\n"
    )


def _tile_info(scene: PhysicalScene) -> str:
    mgrs, when = scene.tile.mgrs, scene.datetime
    return json.dumps(
        {
            "path": f"tiles/{int(mgrs[:2])}/{mgrs[2]}/{mgrs[3:]}/{when.year}/{when.month}/{when.day}/0",
            "timestamp": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "utmZone": int(mgrs[:2]),
            "latitudeBand": mgrs[2],
            "gridSquare": mgrs[3:],
        }
    )
