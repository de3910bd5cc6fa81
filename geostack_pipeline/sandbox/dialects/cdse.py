"""The Data Space's catalog (stac-fastapi over pgstac) and its bucket.

As recorded: anyone may search; a page says how many items it has and nothing of the others; the collection's items are
STAC 1.1.  Not recorded but known of pgstac: a next link (POST, the query again with ``token``) stands where more items
follow, a previous link where some came before.  Answers carry the rate limit that was recorded with the files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlencode

import shapely
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from geostack_pipeline.sandbox.dialects import cql2
from geostack_pipeline.sandbox.dialects.base import Addresses, Dialect, Item, Publication, StoredObject
from geostack_pipeline.sandbox.dialects.cdse_items import COLLECTION, make_item
from geostack_pipeline.sandbox.dialects.safe import (
    BUCKET,
    product_objects,
    s3_credentials,
    safe_encodings,
)
from geostack_pipeline.sandbox.dialects.stac_query import BadRequestError, dig, parse, pick
from geostack_pipeline.sandbox.server.faults import Fault, spoil_page
from geostack_pipeline.sandbox.world.scene import PhysicalScene
from geostack_pipeline.sandbox.world.world import Encoding, World

DEFAULT_LIMIT = 10
LARGEST_LIMIT = 1000
_GEOJSON = "application/geo+json"
_STAC = "https://api.stacspec.org/v1.0.0"
_OGC = "http://www.opengis.net/spec"
CONFORMANCE = [
    f"{_OGC}/cql2/1.0/conf/basic-cql2",
    f"{_OGC}/cql2/1.0/conf/cql2-json",
    f"{_OGC}/ogcapi-features-1/1.0/conf/core",
    f"{_OGC}/ogcapi-features-1/1.0/conf/geojson",
    f"{_OGC}/ogcapi-features-1/1.0/conf/oas30",
    f"{_OGC}/ogcapi-features-3/1.0/conf/features-filter",
    f"{_OGC}/ogcapi-features-3/1.0/conf/filter",
    "https://api.stacspec.org/v1.0.0-rc.2/item-search#filter",
    f"{_STAC}/collections",
    f"{_STAC}/core",
    f"{_STAC}/item-search",
    f"{_STAC}/item-search#fields",
    f"{_STAC}/item-search#query",
    f"{_STAC}/item-search#sort",
    f"{_STAC}/ogcapi-features",
    f"{_STAC}/ogcapi-features#fields",
    f"{_STAC}/ogcapi-features#query",
    f"{_STAC}/ogcapi-features#sort",
]
"""The recorded classes but ``cql2-text`` (the filter is taken as JSON only) and the transactions."""
_QUERYABLES = "http://www.opengis.net/def/rel/ogc/1.0/queryables"
_ASSETS = {"swir22": "B12_20m", "swir16": "B11_20m", "red": "B04_10m", "B12": "B12_20m", "SCL": "SCL_20m"}
"""Asset that a fault names by another catalog's key."""


class CdseDialect(Dialect):
    """The catalog's collection ``sentinel-2-l2a``, and ESA's own files in the bucket ``eodata``."""

    key: ClassVar[str] = "cdse"
    mount: ClassVar[str] = "/cdse/v1"

    def encodings(self, scene: PhysicalScene) -> Sequence[Encoding]:
        """Return ESA's own files of each processing."""
        return safe_encodings(scene)

    def publish(self, world: World, at: Addresses) -> Publication:
        """Return an item per processing of each scene, and the products on the S3 with keys."""
        items: list[Item] = []
        objects: dict[str, StoredObject] = {}
        for scene in world.scenes:
            facts = world.facts(scene)
            for processing, encoding in zip(scene.overpass.processings, self.encodings(scene), strict=True):
                files = {
                    name.removesuffix(encoding.suffix): about
                    for name, (_, about) in world.files(scene, encoding).items()
                }
                items.append(make_item(scene, processing, facts, at.root, files))
                objects |= product_objects(world, scene, processing, encoding)
        return Publication(items=items, private_buckets={BUCKET: objects})

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
        """Return the provider's settings: its address, and where the bucket answers."""
        return {
            "url": at.root,
            "collections": [COLLECTION],
            "where": '"eo:cloud_cover" < 80',
            "min_coverage": 0.0,
            "bands": ["B02", "B03", "B04", "B11", "B12"],
            "endpoints": {BUCKET: {"url": at.private, "region": "default", "allow_http": True}},
        }

    def credentials(self, at: Addresses) -> Mapping[str, str]:
        """Return the keys of the bucket."""
        return s3_credentials(at)


class RateLimit:
    """Requests per minute, told in the headers that were recorded; counted, never refused."""

    def __init__(self, limit: int = 2000, window_s: int = 60) -> None:
        self._limit = limit
        self._window_s = window_s
        self._began = 0.0
        self._used = 0

    def headers(self) -> dict[str, str]:
        """Count a request and return its headers."""
        now = time.monotonic()
        if now - self._began >= self._window_s or not self._began:
            self._began, self._used = now, 0
        self._used += 1
        return {
            "x-ratelimit-limit": f"{self._limit}, {self._limit};w={self._window_s}",
            # An empty limit would hold searches up until it renews, which is another server's business.
            "x-ratelimit-remaining": str(max(self._limit - self._used, 1)),
            "x-ratelimit-reset": str(max(1, round(self._began + self._window_s - now))),
        }


def _answer(content: Mapping[str, Any], kind: str = "application/json", status: int = 200) -> Response:
    body = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    return Response(body, status, headers={"Content-Type": kind})


def _refusal(status: int, code: str, description: str) -> Response:
    return _answer({"code": code, "description": description}, status=status)


async def _not_found(_: Request, __: Exception) -> Response:
    return _answer({"detail": "Not Found"}, status=404)


class _Api:
    """The routes, over a fixed list of items."""

    def __init__(self, items: Sequence[Item], root: str) -> None:
        self._root = root
        self._items = {(item["collection"], item["id"]): item for item in items}
        self._shapes = {key: shapely.geometry.shape(item["geometry"]) for key, item in self._items.items()}
        self._limit = RateLimit()

    # --- metadata ------------------------------------------------------------------------------------------

    def _link(self, rel: str, path: str, kind: str = "application/json", **more: str) -> dict[str, str]:
        return {"rel": rel, "type": kind, **more, "href": f"{self._root}{path}"}

    async def landing(self, _: Request) -> Response:
        links = [
            self._link("self", "/", title="This document"),
            self._link("root", "/", title="Root"),
            self._link("data", "/collections", title="Collections available for this Catalog"),
            self._link(
                "conformance",
                "/conformance",
                title="STAC/OGC conformance classes implemented by this server",
            ),
            {**self._link("search", "/search", _GEOJSON, title="STAC search [GET]"), "method": "GET"},
            {**self._link("search", "/search", _GEOJSON, title="STAC search [POST]"), "method": "POST"},
            {
                **self._link(
                    _QUERYABLES,
                    "/queryables",
                    "application/schema+json",
                    title="Queryables available for this Catalog",
                ),
                "method": "GET",
            },
            self._link(
                "service-desc",
                "/api",
                "application/vnd.oai.openapi+json;version=3.0",
                title="OpenAPI service description",
            ),
            self._link("service-doc", "/api.html", "text/html", title="OpenAPI service documentation"),
        ]
        return _answer(
            {
                "type": "Catalog",
                "id": "cdse-stac",
                "title": "Copernicus Data Space Ecosystem (CDSE) asset-level STAC catalogue",
                "description": "A comprehensive and searchable catalog of Earth observation and scientific datasets",
                "stac_version": "1.0.0",
                "conformsTo": CONFORMANCE,
                "links": links,
                "stac_extensions": [],
            }
        )

    async def conformance(self, _: Request) -> Response:
        return _answer({"conformsTo": CONFORMANCE})

    async def queryables(self, request: Request) -> Response:
        return _answer(
            {
                "$schema": "https://json-schema.org/draft/2019-09/schema",
                "$id": f"{self._root}{request.scope['path']}",
                "type": "object",
                "title": "STAC Queryables.",
                "properties": {"eo:cloud_cover": {"type": "number", "minimum": 0, "maximum": 100}},
                "additionalProperties": True,
            },
            "application/schema+json",
        )

    def _collection(self) -> dict[str, Any]:
        own = f"/collections/{COLLECTION}"
        return {
            "id": COLLECTION,
            "type": "Collection",
            "links": [
                self._link("items", f"{own}/items", _GEOJSON),
                self._link("parent", "/"),
                self._link("root", "/"),
                self._link("self", own),
                {
                    "rel": "license",
                    "href": "https://sentinel.esa.int/documents/247904/690755/Sentinel_Data_Legal_Notice",
                    "title": "Copernicus Sentinel data terms",
                },
            ],
            "title": "Sentinel-2 Level-2A",
            "extent": {
                "spatial": {"bbox": [[-180, -90, 180, 90]]},
                "temporal": {"interval": [["2015-06-27T10:25:31Z", None]]},
            },
            "license": "other",
            "keywords": [
                "Copernicus",
                "Sentinel",
                "EU",
                "ESA",
                "Satellite",
                "Global",
                "Imagery",
                "Reflectance",
            ],
            "providers": [
                {"url": "https://cloudferro.com/", "name": "CloudFerro", "roles": ["host", "processor"]}
            ],
            "summaries": {"gsd": [10, 20, 60], "platform": ["sentinel-2a", "sentinel-2b"]},
            "description": "Orthorectified surface reflectance with its scene classification.",
            "stac_version": "1.1.0",
            "stac_extensions": [],
        }

    async def collections(self, _: Request) -> Response:
        links = [self._link("root", "/"), self._link("parent", "/"), self._link("self", "/collections")]
        return _answer({"collections": [self._collection()], "links": links})

    async def collection(self, request: Request) -> Response:
        name = request.path_params["collection"]
        if name != COLLECTION:
            return _refusal(404, "NotFoundError", f"Collection {name} does not exist.")
        return _answer(self._collection())

    async def item(self, request: Request) -> Response:
        name, identifier = request.path_params["collection"], request.path_params["item"]
        found = self._items.get((name, identifier))
        if found is None:
            return _refusal(404, "NotFoundError", f"Item {identifier} in Collection {name} does not exist.")
        return _answer(found, _GEOJSON)

    # --- search --------------------------------------------------------------------------------------------

    async def search_post(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return _refusal(400, "RequestValidationError", "JSON decode error")
        return self._search(request, body, post=True, path="/search")

    async def search_get(self, request: Request) -> Response:
        return self._get(request, {}, "/search")

    async def collection_items(self, request: Request) -> Response:
        name = request.path_params["collection"]
        if name != COLLECTION:
            return _refusal(404, "NotFoundError", f"Collection {name} does not exist.")
        return self._get(request, {"collections": [name]}, f"/collections/{name}/items")

    def _get(self, request: Request, fixed: Mapping[str, Any], path: str) -> Response:
        try:
            body = {**_from_query(request.query_params), **fixed}
        except ValueError as error:
            return _refusal(400, "RequestValidationError", str(error))
        return self._search(request, body, post=False, path=path)

    def _search(self, request: Request, body: dict[str, Any], *, post: bool, path: str) -> Response:
        try:
            query = parse(body, default_limit=DEFAULT_LIMIT, largest_limit=LARGEST_LIMIT)
            expression = body.get("filter")
            found = [
                item
                for key, item in self._items.items()
                if query.matches(item, self._shapes[key])
                and (expression is None or cql2.holds(expression, item))
            ]
            for name, descending in reversed(_order(body.get("sortby"))):
                found.sort(key=lambda item: str(dig(item, name)), reverse=descending)
            start = _start(found, body.get("token"), query.limit)
        except BadRequestError as error:
            return _refusal(400, "RequestValidationError", str(error))
        page = found[start : start + query.limit]
        links: list[dict[str, Any]] = []
        if start + query.limit < len(found):
            links.append(self._turn("next", body, page[-1], post=post, path=path))
        if start > 0 and page:
            links.append(self._turn("previous", body, page[0], post=post, path=path))
        links += [self._link("root", "/"), self._link("self", path)]
        fields = body.get("fields") or {}
        shown = [pick(item, fields.get("include") or [], fields.get("exclude") or []) for item in page]
        answer = {
            "type": "FeatureCollection",
            "links": links,
            "features": shown,
            "numberReturned": len(shown),
        }
        response = _answer(_spoil(request.scope, answer, body.get("token")), _GEOJSON)
        response.headers.update(self._limit.headers())
        return response

    def _turn(
        self, rel: str, body: Mapping[str, Any], item: Item, *, post: bool, path: str
    ) -> dict[str, Any]:
        """Return the link to the next or the previous page."""
        token = f"{'next' if rel == 'next' else 'prev'}:{item['collection']}:{item['id']}"
        href = f"{self._root}{path}"
        link = {"rel": rel, "type": _GEOJSON, "method": "POST" if post else "GET", "href": href}
        asked = {name: value for name, value in body.items() if name != "token" and value is not None}
        if post:
            return {**link, "body": {**asked, "token": token}}
        if path != "/search":
            asked.pop("collections", None)
        flat = {name: _to_query(value) for name, value in asked.items()}
        return {**link, "href": f"{href}?{urlencode({**flat, 'token': token})}"}


def _start(found: Sequence[Item], token: Any, limit: int) -> int:
    """Return where the page of a token begins."""
    if not token:
        return 0
    way, _, place = str(token).partition(":")
    ids = [f"{item['collection']}:{item['id']}" for item in found]
    if way not in {"next", "prev"} or place not in ids:
        raise BadRequestError(f"Invalid token {str(token)[:60]!r}")
    position = ids.index(place)
    return position + 1 if way == "next" else max(0, position - limit)


def _order(sortby: Any) -> list[tuple[str, bool]]:
    """Return sort fields and whether each is descending; the newest first where nothing is asked."""
    rules = sortby or [{"field": "properties.datetime", "direction": "desc"}]
    if not isinstance(rules, list) or not all(isinstance(rule, dict) and "field" in rule for rule in rules):
        raise BadRequestError("sortby: expected a list of field and direction")
    return [(str(rule["field"]), rule.get("direction", "asc") == "desc") for rule in rules] + [("id", True)]


def _from_query(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the search body that a GET query means; raises ``ValueError`` where it is malformed."""
    body: dict[str, Any] = {}
    for name, text in parameters.items():
        if name == "bbox":
            body[name] = [float(part) for part in text.split(",")]
        elif name in {"collections", "ids"}:
            body[name] = text.split(",")
        elif name in {"intersects", "query", "filter"}:
            body[name] = json.loads(text)
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


def _to_query(value: Any) -> str:
    """Return a member of a search body as the value of a GET parameter."""
    if isinstance(value, list) and all(isinstance(rule, dict) for rule in value):
        return ",".join(("-" if rule.get("direction") == "desc" else "+") + rule["field"] for rule in value)
    if isinstance(value, dict) and value.keys() <= {"include", "exclude"}:
        return ",".join([*value.get("include", ()), *(f"-{part}" for part in value.get("exclude", ()))])
    if isinstance(value, dict):
        return json.dumps(value, separators=(",", ":"))
    return ",".join(str(part) for part in value) if isinstance(value, list) else str(value)


def _spoil(scope: Any, page: dict[str, Any], token: Any) -> dict[str, Any]:
    """Return the page with the faults of this request, in this catalog's words: other asset keys, tokens, no count."""
    kept: list[Fault] = []
    for fault in scope.get("sandbox.faults", ()):
        if fault.kind == "wrong-count":
            page = {**page, "numberMatched": page["numberReturned"] + 1}
        elif fault.kind == "repeat-token":
            page = {**page, "links": [_repeated(link, token) for link in page["links"]]}
        elif fault.kind == "wrong-offset-flag":
            page = {**page, "features": [_misstated(item, fault) for item in page["features"]]}
        else:
            kept.append(fault.__class__(**{**fault.__dict__, "asset": _ASSETS.get(fault.asset, fault.asset)}))
    return spoil_page({**scope, "sandbox.faults": kept}, page, token)


def _repeated(link: dict[str, Any], token: Any) -> dict[str, Any]:
    if link["rel"] != "next" or "body" not in link:
        return link
    body = {name: value for name, value in link["body"].items() if name != "token"}
    return {**link, "body": {**body, **({"token": token} if token is not None else {})}}


def _misstated(item: Item, fault: Fault) -> Item:
    """Return an item whose bands say another offset than their numbers have."""
    if fault.item is not None and fault.item not in item.get("id", ""):
        return item
    assets = {
        key: {**asset, "raster:offset": -0.1 - asset["raster:offset"]} if "raster:offset" in asset else asset
        for key, asset in item.get("assets", {}).items()
    }
    return {**item, "assets": assets}
