"""Sentinel Hub on the Data Space: catalog, token server and Process API over the world's scenes.

As recorded and documented: every call needs a bearer token; a search takes one collection, a time and an area, at most
100 items a page; ``context.next`` is a number to send back as ``next``, and there is neither a next link nor a count;
``filter`` is CQL2; ``query`` and ``sortby`` are not known and are passed over.  The items' one asset is a folder in the
bucket ``EODATA``, whose files lie on the S3 that checks signatures, under ``eodata``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import shapely
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from geostack_pipeline.sandbox.dialects import cql2
from geostack_pipeline.sandbox.dialects.base import Addresses, Dialect, Item, Publication, StoredObject
from geostack_pipeline.sandbox.dialects.safe import (
    BUCKET,
    product_folder,
    product_objects,
    s3_credentials,
    safe_encodings,
)
from geostack_pipeline.sandbox.dialects.sentinel_hub_auth import (
    CLIENT_ID,
    CLIENT_SECRET,
    TokenBook,
    faults_of,
    make_auth_app,
)
from geostack_pipeline.sandbox.dialects.sentinel_hub_items import COLLECTION, make_item
from geostack_pipeline.sandbox.dialects.sentinel_hub_process import Picture, make_process_app
from geostack_pipeline.sandbox.dialects.stac_query import BadRequestError, Query, parse, pick
from geostack_pipeline.sandbox.server.faults import spoil_page
from geostack_pipeline.sandbox.world.scene import PhysicalScene
from geostack_pipeline.sandbox.world.world import Encoding, World

DEFAULT_LIMIT = 10
LARGEST_LIMIT = 100
_GEOJSON = "application/geo+json;charset=UTF-8"
_JSON = "application/json;charset=UTF-8"
_STAC = "https://api.stacspec.org/v1.0.0"
_OGC = "http://www.opengis.net/spec"
CONFORMANCE = [
    f"{_OGC}/ogcapi-features-1/1.0/conf/core",
    f"{_OGC}/ogcapi-features-1/1.0/conf/oas30",
    f"{_OGC}/ogcapi-features-1/1.0/conf/geojson",
    f"{_STAC}/core",
    f"{_STAC}/collections",
    f"{_STAC}/ogcapi-features",
    f"{_STAC}/ogcapi-features#fields",
    f"{_STAC}/ogcapi-features#context",
    f"{_STAC}/ogcapi-features#filter",
    f"{_STAC}/item-search",
    f"{_STAC}/item-search#fields",
    f"{_STAC}/item-search#context",
    f"{_STAC}/item-search#filter",
    f"{_OGC}/ogcapi-features-3/1.0/conf/filter",
    f"{_OGC}/ogcapi-features-3/1.0/conf/features-filter",
    f"{_OGC}/cql2/1.0/conf/cql2-json",
    f"{_OGC}/cql2/1.0/conf/basic-cql2",
]
"""The recorded classes but ``cql2-text``: the filter is taken as JSON only."""
_QUERYABLES = "http://www.opengis.net/def/rel/ogc/1.0/queryables"


class SentinelHubDialect(Dialect):
    """The catalog of Sentinel Hub, its login and its Process API."""

    key: ClassVar[str] = "sentinel_hub"
    mount: ClassVar[str] = "/sentinel-hub/api/v1/catalog/1.0.0"
    servers: ClassVar[tuple[str, ...]] = ("sh-auth", "sh-api")

    def __init__(self) -> None:
        self._tokens = TokenBook()
        self._pictures: list[Picture] = []

    def encodings(self, scene: PhysicalScene) -> Sequence[Encoding]:
        """Return the product's own files, as the other catalog of the Data Space lists them."""
        return safe_encodings(scene)

    def publish(self, world: World, at: Addresses) -> Publication:
        """Return an item per processing of each scene, and the products on the S3 with keys."""
        items: list[Item] = []
        objects: dict[str, StoredObject] = {}
        self._pictures = []
        for scene in world.scenes:
            facts = world.facts(scene)
            for processing, encoding in zip(scene.overpass.processings, self.encodings(scene), strict=True):
                folder = product_folder(scene, processing)
                items.append(make_item(scene, processing, facts, at.root, folder))
                objects |= product_objects(world, scene, processing, encoding)
                if processing is scene.newest:
                    files = {
                        name.partition(".")[0]: path
                        for name, (path, _) in world.files(scene, encoding).items()
                    }
                    self._pictures.append(Picture(scene=scene, files=files, offset=encoding.offset))
        return Publication(items=items, private_buckets={BUCKET: objects})

    def app(self, publication: Publication, at: Addresses) -> ASGIApp:
        """Return the catalog as an ASGI application."""
        api = _Api(publication.items, at.root)
        routes = [
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
        ]
        return OnlyWithToken(Starlette(routes=routes, exception_handlers={404: _not_found}), self._tokens)

    def services(self, publication: Publication, at: Addresses) -> Mapping[str, ASGIApp]:  # noqa: ARG002
        """Return the token server and the Process API."""
        process = OnlyWithToken(make_process_app(self._pictures), self._tokens)
        return {"sh-auth": make_auth_app(self._tokens), "sh-api": process}

    def settings(self, at: Addresses) -> dict[str, Any]:
        """Return the provider's settings: its addresses, and where the products' bucket answers."""
        return {
            "url": at.root,
            "collections": [COLLECTION],
            "where": '"eo:cloud_cover" < 80',
            "min_coverage": 0.0,
            "bands": ["B02", "B03", "B04", "B11", "B12"],
            "endpoints": {
                "sh-auth": {"url": at.servers["sh-auth"], "allow_http": True},
                "sh-api": {"url": at.servers["sh-api"], "allow_http": True},
                BUCKET: {"url": at.private, "region": "default", "allow_http": True},
            },
        }

    def credentials(self, at: Addresses) -> Mapping[str, str]:
        """Return the OAuth client, and the S3 keys of the products."""
        return {"SH_CLIENT_ID": CLIENT_ID, "SH_CLIENT_SECRET": CLIENT_SECRET, **s3_credentials(at)}


class OnlyWithToken:
    """An application behind the check of the bearer token."""

    def __init__(self, app: ASGIApp, tokens: TokenBook) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, or refuse it with 401."""
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"").decode("latin-1")
        if any(fault.kind == "revoked-token" for fault in faults_of(scope)):
            self._tokens.revoke(given)
        if self._tokens.accepts(given):
            await self._app(scope, receive, send)
            return
        refusal = _refusal(
            401, "Unauthorized", "You are not authorized! Please provide a valid access token."
        )
        await refusal(scope, receive, send)


def _answer(content: Mapping[str, Any], kind: str = _JSON, status: int = 200) -> Response:
    response = Response(json.dumps(content, separators=(",", ":")).encode(), status, media_type=None)
    response.headers["Content-Type"] = kind
    return response


def _refusal(status: int, code: str, description: str) -> Response:
    return _answer({"code": status, "description": f"{code}: {description}"}, status=status)


async def _not_found(_: Request, __: Exception) -> Response:
    return _refusal(404, "NotFound", "Not Found")


class _Api:
    """The routes, over a fixed list of items, the newest first."""

    def __init__(self, items: Sequence[Item], root: str) -> None:
        self._root = root
        ordered = sorted(items, key=lambda item: (item["properties"]["datetime"], item["id"]), reverse=True)
        self._items = {item["id"]: item for item in ordered}
        self._shapes = {key: shapely.geometry.shape(item["geometry"]) for key, item in self._items.items()}

    def _link(self, rel: str, path: str, kind: str = "application/json", **more: str) -> dict[str, str]:
        return {"href": f"{self._root}{path}", "rel": rel, "type": kind, **more}

    async def landing(self, _: Request) -> Response:
        geojson = "application/geo+json"
        return _answer(
            {
                "type": "Catalog",
                "stac_version": "1.0.0",
                "id": "sentinel-hub",
                "title": "Sentinel Hub STAC catalog",
                "description": "STAC v1.0.0 implementation by Sentinel Hub",
                "conformsTo": CONFORMANCE,
                "links": [
                    self._link("root", "/"),
                    self._link("self", "/"),
                    self._link("data", "/collections"),
                    self._link("conformance", "/conformance"),
                    self._link("search", "/search", geojson, title="STAC search", method="GET"),
                    self._link("search", "/search", geojson, title="STAC search", method="POST"),
                    self._link(_QUERYABLES, "/queryables", "application/schema+json"),
                    self._link("child", f"/collections/{COLLECTION}", title="Sentinel 2 L2A"),
                ],
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
                "properties": {"eo:cloud_cover": {"type": "number", "minimum": 0, "maximum": 100}},
            },
            "application/schema+json",
        )

    def _collection(self) -> dict[str, Any]:
        own = f"/collections/{COLLECTION}"
        return {
            "stac_version": "1.0.0",
            "stac_extensions": ["https://stac-extensions.github.io/eo/v1.0.0/schema.json"],
            "type": "Collection",
            "id": COLLECTION,
            "title": "Sentinel 2 L2A",
            "description": "Sentinel 2 imagery processed to level 2A",
            "license": "proprietary",
            "providers": [{"name": "ESA", "roles": ["producer"], "url": "https://esa.int/"}],
            "extent": {
                "spatial": {"bbox": [[-180.0, -56.0, 180.0, 83.0]]},
                "temporal": {"interval": [["2016-11-01T00:00:00Z", None]]},
            },
            "links": [
                self._link("root", "/"),
                self._link("self", own),
                self._link("parent", "/collections"),
                self._link(_QUERYABLES, f"{own}/queryables", "application/schema+json"),
                self._link("items", f"{own}/items", "application/geo+json"),
            ],
        }

    async def collections(self, _: Request) -> Response:
        links = [self._link("root", "/"), self._link("self", "/collections")]
        return _answer({"collections": [self._collection()], "links": links})

    async def collection(self, request: Request) -> Response:
        if request.path_params["collection"] != COLLECTION:
            return _refusal(404, "NotFound", "Collection not found")
        return _answer(self._collection())

    async def item(self, request: Request) -> Response:
        found = self._items.get(request.path_params["item"])
        if found is None or request.path_params["collection"] != COLLECTION:
            return _refusal(404, "NotFound", "Item not found")
        return _answer(found, _GEOJSON)

    # --- search --------------------------------------------------------------------------------------------

    async def search_post(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"{}")
        except ValueError:
            return _refusal(400, "BadRequest", "Invalid JSON")
        if not isinstance(body, dict):
            return _refusal(400, "BadRequest", "Expected a JSON object")
        lacking = [name for name in ("collections", "datetime") if not body.get(name)]
        if lacking or not (body.get("bbox") or body.get("intersects")):
            return _refusal(400, "BadRequest", f"Missing {', '.join([*lacking, 'bbox or intersects'])}")
        return self._search(request, body)

    async def search_get(self, request: Request) -> Response:
        try:
            return self._search(request, _from_query(request.query_params))
        except BadRequestError as error:
            return _refusal(400, "BadRequest", str(error))

    async def collection_items(self, request: Request) -> Response:
        if request.path_params["collection"] != COLLECTION:
            return _refusal(404, "NotFound", "Collection not found")
        try:
            body = {**_from_query(request.query_params), "collections": [COLLECTION]}
        except BadRequestError as error:
            return _refusal(400, "BadRequest", str(error))
        return self._search(request, body)

    def _search(self, request: Request, body: dict[str, Any]) -> Response:
        try:
            query = self._query(body)
            start = _start(body.get("next", 0))
            wanted = body.get("filter")
            found = [
                item
                for key, item in self._items.items()
                if query.matches(item, self._shapes[key]) and (wanted is None or cql2.holds(wanted, item))
            ]
        except BadRequestError as error:
            return _refusal(400, "BadRequest", str(error))
        page = found[start : start + query.limit]
        fields = body.get("fields") or {}
        shown = [pick(item, fields.get("include") or [], fields.get("exclude") or []) for item in page]
        context: dict[str, Any] = {"limit": query.limit, "returned": len(page)}
        if start + query.limit < len(found):
            context["next"] = start + query.limit
        answer = {
            "type": "FeatureCollection",
            "features": shown,
            "links": [self._link("self", "/search"), self._link("root", "/")],
            "context": context,
        }
        return _answer(_spoiled(request.scope, answer, start), _GEOJSON)

    def _query(self, body: Mapping[str, Any]) -> Query:
        limit = body.get("limit", DEFAULT_LIMIT)
        if isinstance(limit, int) and limit > LARGEST_LIMIT:
            raise BadRequestError(f"Invalid limit, must be at most {LARGEST_LIMIT}")
        if isinstance(body.get("collections"), list) and len(body["collections"]) != 1:
            raise BadRequestError("Invalid collections, exactly one is supported")
        if body.get("filter") is not None and body.get("filter-lang", "cql2-json") != "cql2-json":
            raise BadRequestError("Invalid filter-lang")
        known = {name: value for name, value in body.items() if name != "query"}
        return parse(known, default_limit=DEFAULT_LIMIT, largest_limit=LARGEST_LIMIT)


def _start(token: Any) -> int:
    if isinstance(token, bool) or not isinstance(token, int) or token < 0:
        raise BadRequestError("Invalid next, must be a number of a former answer")
    return token


def _spoiled(scope: Any, answer: dict[str, Any], start: int) -> dict[str, Any]:
    """Return a page with its page faults: there is no count to make wrong, and the token is a number in ``context``."""
    faults = scope.get("sandbox.faults", ())
    mine = [fault for fault in faults if fault.kind in {"wrong-count", "repeat-token"}]
    others = [fault for fault in faults if fault not in mine]
    answer = spoil_page({**scope, "sandbox.faults": others}, answer, start)
    if any(fault.kind == "repeat-token" for fault in mine) and "next" in answer["context"]:
        answer = copy.deepcopy(answer)
        answer["context"]["next"] = start
    return answer


def _from_query(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the search body that a GET query means."""
    body: dict[str, Any] = {}
    for name, text in parameters.items():
        try:
            if name == "bbox":
                body[name] = [float(part) for part in text.split(",")]
            elif name in {"collections", "ids"}:
                body[name] = text.split(",")
            elif name in {"limit", "next"}:
                body[name] = int(text)
            elif name in {"filter", "intersects"}:
                body[name] = json.loads(text)
            else:
                body[name] = text
        except ValueError as error:
            raise BadRequestError(f"Invalid {name}") from error
    return body
