"""The Planetary Computer's STAC API, its token server and its blobs.

As recorded: next and previous links are POST, without ``merge``; their body repeats the query and adds the token
``next:<collection>:<id of the page's last item>`` (``prev:…`` of its first one); nothing counts the items; a next link
stands only where more items follow.  ``query``, CQL2-JSON, ``fields`` and ``sortby`` are honoured, a limit above 1000 is
an error.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import urlencode

import shapely
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from geostack_pipeline.sandbox.dialects.base import Addresses, Dialect, Item, Publication, StoredObject
from geostack_pipeline.sandbox.dialects.cql2 import holds
from geostack_pipeline.sandbox.dialects.planetary_computer_items import (
    ACCOUNT,
    COLLECTION,
    CONTAINER,
    folder,
    item_id,
    make_item,
    raster_key,
)
from geostack_pipeline.sandbox.dialects.stac_query import BadRequestError, dig, parse, pick
from geostack_pipeline.sandbox.server.azure_blob import make_blob_app
from geostack_pipeline.sandbox.server.azure_sas import Account
from geostack_pipeline.sandbox.server.faults import spoil_page
from geostack_pipeline.sandbox.server.sas_tokens import MOUNT, make_token_app
from geostack_pipeline.sandbox.world.plan import ProcessingPlan
from geostack_pipeline.sandbox.world.scene import PhysicalScene
from geostack_pipeline.sandbox.world.world import Encoding, World

DEFAULT_LIMIT = 250
LARGEST_LIMIT = 1000
SUBSCRIPTION_KEY = "sandbox-subscription-key-of-the-planetary-computer"
_GEOJSON = "application/geo+json"
_STAC = "https://api.stacspec.org/v1.0.0"
_OGC = "http://www.opengis.net/spec"
CONFORMANCE = [
    f"{_OGC}/ogcapi-features-1/1.0/conf/core",
    f"{_OGC}/ogcapi-features-1/1.0/conf/geojson",
    f"{_OGC}/ogcapi-features-1/1.0/conf/oas30",
    f"{_OGC}/ogcapi-features-3/1.0/conf/filter",
    f"{_OGC}/cql2/1.0/conf/basic-cql2",
    f"{_OGC}/cql2/1.0/conf/cql2-json",
    f"{_STAC}/core",
    f"{_STAC}/collections",
    f"{_STAC}/ogcapi-features",
    f"{_STAC}/item-search",
    f"{_STAC}/item-search#query",
    f"{_STAC}/item-search#sort",
    f"{_STAC}/item-search#fields",
    "https://api.stacspec.org/v1.0.0-rc.2/item-search#filter",
]
"""The recorded classes but ``cql2-text``."""

_QUERYABLES = "http://www.opengis.net/def/rel/ogc/1.0/queryables"
_ASSET_OF = {"swir22": "B12", "swir16": "B11", "red": "B04"}
"""Asset that a fault names by another catalog's key."""


class PlanetaryComputerDialect(Dialect):
    """Planetary Computer STAC v1, collection ``sentinel-2-l2a``, with the token server and the blobs."""

    key: ClassVar[str] = "planetary_computer"
    mount: ClassVar[str] = "/planetary-computer/api/stac/v1"
    servers: ClassVar[tuple[str, ...]] = ("pc-sas", "pc-blob")

    def encodings(self, scene: PhysicalScene) -> Sequence[Encoding]:
        """Return one encoding per processing: ESA's own numbers, shifted from baseline 04.00 on."""
        return [_encoding(processing) for processing in scene.overpass.processings]

    def publish(self, world: World, at: Addresses) -> Publication:
        """Return an item per processing of each scene, and its files below ``<account>/<container>/``."""
        items: list[Item] = []
        files: dict[str, StoredObject] = {}
        for scene in world.scenes:
            for processing in scene.overpass.processings:
                items.append(make_item(scene, processing, world.facts(scene), at.root))
                for name, (path, about) in world.files(scene, _encoding(processing)).items():
                    key = raster_key(scene, processing, name.removesuffix(".tif"))
                    files[f"{ACCOUNT}/{CONTAINER}/{key}"] = StoredObject(
                        content_type="image/tiff; application=geotiff; profile=cloud-optimized",
                        size=about["size"],
                        md5=about["md5"],
                        path=path,
                    )
                text = f"<xfdu:XFDU>{item_id(scene, processing)}</xfdu:XFDU>\n".encode()
                files[f"{ACCOUNT}/{CONTAINER}/{folder(scene, processing)}/manifest.safe"] = StoredObject(
                    content_type="application/xml",
                    size=len(text),
                    md5=hashlib.md5(text, usedforsecurity=False).hexdigest(),
                    data=text,
                )
        return Publication(items=items, files=files)

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

    def services(self, publication: Publication, at: Addresses) -> Mapping[str, ASGIApp]:  # noqa: ARG002
        """Return the token server and the blob server, which know the same account."""
        accounts = {ACCOUNT: Account(ACCOUNT)}
        return {
            "pc-sas": make_token_app(accounts, {ACCOUNT: CONTAINER}, key=SUBSCRIPTION_KEY),
            "pc-blob": make_blob_app(accounts, publication.files),
        }

    def settings(self, at: Addresses) -> dict[str, Any]:
        """Return the provider's settings: its address, and where tokens and blobs are."""
        return {
            "url": at.root,
            "collections": [COLLECTION],
            "where": '"eo:cloud_cover" < 80',
            "min_coverage": 0.0,
            "bands": ["B02", "B03", "B04", "B11", "B12"],
            "endpoints": {
                "sas": {"url": at.servers["pc-sas"] + MOUNT, "allow_http": True},
                ACCOUNT: {"url": at.servers["pc-blob"], "allow_http": True},
            },
        }

    def credentials(self, at: Addresses) -> Mapping[str, str]:  # noqa: ARG002
        """Return the subscription key that the token server knows; it also serves those without one."""
        return {"PC_SDK_SUBSCRIPTION_KEY": SUBSCRIPTION_KEY}


def _encoding(processing: ProcessingPlan) -> Encoding:
    return Encoding(baseline=processing.baseline, offset=1000 if processing.baseline >= "04.00" else 0)


def _answer(content: Mapping[str, Any], kind: str = "application/json", status: int = 200) -> Response:
    body = json.dumps(content, separators=(",", ":")).encode()
    return Response(body, status, headers={"Content-Type": kind, "Accept-Ranges": "bytes"})


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

    # --- metadata ------------------------------------------------------------------------------------------

    def _link(self, rel: str, path: str, kind: str = "application/json", **more: str) -> dict[str, str]:
        return {"rel": rel, "type": kind, "href": f"{self._root}{path}", **more}

    async def landing(self, _: Request) -> Response:
        links = [
            self._link("self", "/"),
            self._link("root", "/"),
            self._link("data", "/collections"),
            self._link(
                "conformance",
                "/conformance",
                title="STAC/OGC conformance classes implemented by this server",
            ),
            self._link("search", "/search", _GEOJSON, title="STAC search", method="GET"),
            self._link("search", "/search", _GEOJSON, title="STAC search", method="POST"),
            self._link(
                _QUERYABLES, "/queryables", "application/schema+json", title="Queryables", method="GET"
            ),
            self._link("child", f"/collections/{COLLECTION}", title="Sentinel-2 Level-2A"),
            self._link("service-desc", "/openapi.json", "application/vnd.oai.openapi+json;version=3.0"),
            self._link("service-doc", "/docs", "text/html"),
        ]
        return _answer(
            {
                "type": "Catalog",
                "id": "microsoft-pc",
                "title": "Microsoft Planetary Computer STAC API",
                "description": "Searchable spatiotemporal metadata describing Earth science datasets hosted by the "
                "Microsoft Planetary Computer",
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
            "license": "proprietary",
            "keywords": ["Sentinel", "Copernicus", "ESA", "Satellite", "Global", "Imagery", "Reflectance"],
            "providers": [
                {"name": "ESA", "roles": ["producer", "licensor"], "url": "https://sentinel.esa.int"}
            ],
            "summaries": {"platform": ["Sentinel-2A", "Sentinel-2B"], "instruments": ["msi"]},
            "description": "Sentinel-2 Level-2A as cloud-optimized GeoTIFF",
            "stac_version": "1.0.0",
            "msft:container": CONTAINER,
            "stac_extensions": [],
            "msft:storage_account": ACCOUNT,
        }

    async def collections(self, _: Request) -> Response:
        links = [self._link("root", "/"), self._link("parent", "/"), self._link("self", "/collections")]
        return _answer({"collections": [self._collection()], "links": links})

    async def collection(self, request: Request) -> Response:
        name = request.path_params["collection"]
        if name != COLLECTION:
            return _refusal(404, "NotFoundError", f"No collection with id '{name}' found!")
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
            return _refusal(400, "RequestValidationError", "Invalid JSON")
        if not isinstance(body, dict):
            return _refusal(400, "RequestValidationError", "Expected a JSON object")
        return self._search(request, body, post=True, path="/search")

    async def search_get(self, request: Request) -> Response:
        return self._get(request, {}, "/search")

    async def collection_items(self, request: Request) -> Response:
        name = request.path_params["collection"]
        if name != COLLECTION:
            return _refusal(404, "NotFoundError", f"No collection with id '{name}' found!")
        return self._get(request, {"collections": [name]}, f"/collections/{name}/items")

    def _get(self, request: Request, fixed: Mapping[str, Any], path: str) -> Response:
        try:
            body = {**_from_query(request.query_params), **fixed}
        except BadRequestError as error:
            return _refusal(400, "RequestValidationError", str(error))
        return self._search(request, body, post=False, path=path)

    def _search(self, request: Request, body: dict[str, Any], *, post: bool, path: str) -> Response:
        try:
            found = self._matching(body)
            limit = _limit(body)
            start = _start(found, body.get("token"), limit)
            page = found[start : start + limit]
            include, exclude = _fields(body.get("fields"))
        except BadRequestError as error:
            return _refusal(400, "RequestValidationError", str(error))
        links: list[dict[str, Any]] = []
        if start + limit < len(found):
            links.append(self._turn("next", body, page[-1], post=post, path=path))
        if start > 0 and page:
            links.append(self._turn("previous", body, page[0], post=post, path=path))
        links += [self._link("root", "/"), self._link("self", path)]
        answer = {
            "type": "FeatureCollection",
            "features": [pick(item, include, exclude) for item in page],
            "links": links,
        }
        return _answer(_spoil(request.scope, answer, body.get("token")), _GEOJSON)

    def _matching(self, body: Mapping[str, Any]) -> list[Item]:
        query = parse(body, default_limit=DEFAULT_LIMIT, largest_limit=LARGEST_LIMIT)
        expression = body.get("filter")
        if expression is not None and body.get("filter-lang", "cql2-json") != "cql2-json":
            raise BadRequestError("filter-lang: only cql2-json is offered here")
        found = [
            item
            for key, item in self._items.items()
            if query.matches(item, self._shapes[key]) and (expression is None or holds(expression, item))
        ]
        for name, descending in reversed(_order(body.get("sortby"))):
            found.sort(key=lambda item: _sortable(dig(item, name)), reverse=descending)
        return found

    def _turn(
        self, rel: str, body: Mapping[str, Any], item: Item, *, post: bool, path: str
    ) -> dict[str, Any]:
        """Return the link to the next or the previous page."""
        token = f"{'next' if rel == 'next' else 'prev'}:{item['collection']}:{item['id']}"
        link = {
            "rel": rel,
            "type": _GEOJSON,
            "method": "POST" if post else "GET",
            "href": f"{self._root}{path}",
        }
        asked = {name: value for name, value in body.items() if name != "token" and value is not None}
        if post:
            return {**link, "body": {**asked, "token": token}}
        if path != "/search":
            asked.pop("collections", None)
        flat = {name: _to_query(name, value) for name, value in asked.items()}
        return {**link, "href": f"{link['href']}?{urlencode({**flat, 'token': token})}"}


def _limit(body: Mapping[str, Any]) -> int:
    limit = int(body.get("limit") or DEFAULT_LIMIT)
    if limit > LARGEST_LIMIT:
        raise BadRequestError(f"limit: Input should be less than or equal to {LARGEST_LIMIT}")
    return limit


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
    if not sortby:
        return [("properties.datetime", True), ("id", True)]
    if not isinstance(sortby, list) or not all(
        isinstance(rule, dict) and isinstance(rule.get("field"), str) for rule in sortby
    ):
        raise BadRequestError("sortby: expected a list of field and direction")
    order = [(rule["field"], rule.get("direction", "asc") == "desc") for rule in sortby]
    return order if any(name == "id" for name, _ in order) else [*order, ("id", True)]


def _sortable(value: Any) -> tuple[int, Any]:
    if value is None:
        return (2, "")
    return (0, value) if isinstance(value, int | float) else (1, str(value))


def _fields(fields: Any) -> tuple[list[str], list[str]]:
    fields = fields if isinstance(fields, dict) else {}
    return list(fields.get("include") or []), list(fields.get("exclude") or [])


def _from_query(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the search body that a GET query means."""
    body: dict[str, Any] = {}
    for name, text in parameters.items():
        try:
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
        except ValueError as error:
            raise BadRequestError(f"{name}: malformed") from error
    return body


def _to_query(name: str, value: Any) -> str:
    """Return a member of a search body as the value of a GET parameter."""
    if name == "sortby":
        return ",".join(("-" if rule.get("direction") == "desc" else "+") + rule["field"] for rule in value)
    if name == "fields":
        include, exclude = _fields(value)
        return ",".join([*include, *(f"-{part}" for part in exclude)])
    if name in {"intersects", "query", "filter"}:
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, list):
        return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    return str(value)


def _spoil(scope: Mapping[str, Any], page: dict[str, Any], token: Any) -> dict[str, Any]:
    """Return a page with the faults that this protocol can show: it has no count to be wrong."""
    faults = [
        replace(fault, asset=_ASSET_OF.get(fault.asset, fault.asset))
        for fault in scope.get("sandbox.faults", ())
        if fault.kind != "wrong-count"
    ]
    repeats = any(fault.kind == "repeat-token" for fault in faults)
    page = spoil_page(
        {"sandbox.faults": [fault for fault in faults if fault.kind != "repeat-token"]}, page, token
    )
    if repeats:
        page = copy.deepcopy(page)
        for link in page["links"]:
            if link["rel"] == "next" and "body" in link:
                link["body"].pop("token", None)
                if token is not None:
                    link["body"]["token"] = token
    return page
