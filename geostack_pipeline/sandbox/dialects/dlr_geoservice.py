"""DLR's EOC Geoservice: a GeoServer's STAC API with EnMAP, its download server and its CAS login.

As recorded: ``next`` is a POST link with ``merge: true``, a body of ``startIndex`` and ``limit`` only, and an href that
ends in ``?f=application%2Fgeo%2Bjson``; ``numberMatched`` counts exactly; ``query`` and ``ids`` are ignored without a
word, ``filter`` (CQL2) works; root links come twice, as HTML and JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
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
from geostack_pipeline.sandbox.dialects.dlr_items import (
    L2A,
    QUICKLOOK,
    Style,
    folder,
    make_item,
    make_quicklook,
)
from geostack_pipeline.sandbox.dialects.dlr_level1 import (
    L1B,
    L1C,
    content_type,
    level1_folder,
    make_level1,
)
from geostack_pipeline.sandbox.dialects.dlr_login import PASSWORD, USERNAME, DlrLogin
from geostack_pipeline.sandbox.dialects.stac_query import BadRequestError, parse
from geostack_pipeline.sandbox.server.faults import spoil_page
from geostack_pipeline.sandbox.world.enmap import enmap_scenes
from geostack_pipeline.sandbox.world.enmap_level1 import radiance_products
from geostack_pipeline.sandbox.world.scene import PhysicalScene
from geostack_pipeline.sandbox.world.world import Encoding, World

COLLECTIONS = (L2A, QUICKLOOK, L1B, L1C)
DEFAULT_LIMIT = 10
LARGEST_LIMIT = 1000
GEO = "application%2Fgeo%2Bjson"
_GEOJSON = "application/geo+json"
_JSON = "application/json"
_STAC = "https://api.stacspec.org/v1.0.0"
_OGC = "http://www.opengis.net/spec"
CONFORMANCE = [
    f"{_OGC}/ogcapi-features-1/1.0/conf/core",
    f"{_OGC}/ogcapi-features-1/1.0/conf/oas30",
    f"{_OGC}/ogcapi-features-1/1.0/conf/geojson",
    f"{_STAC}/collections",
    f"{_STAC}/core",
    f"{_STAC}/ogcapi-features",
    f"{_STAC}/item-search",
    f"{_STAC}/item-search#filter",
    f"{_OGC}/ogcapi-features-3/1.0/req/features-filter",
    f"{_OGC}/ogcapi-features-3/1.0/req/filter",
    f"{_OGC}/cql2/1.0/req/basic-cql2",
    f"{_OGC}/cql2/1.0/req/advanced-comparison-operators",
    f"{_OGC}/cql2/1.0/req/cql2-text",
]
"""The recorded classes but ``html``, ``sort``, ``fields`` and those of functions and geometries."""

_SUFFIXES = {
    "SPECTRAL_IMAGE": ("-SPECTRAL_IMAGE_COG.TIF", "image/tiff"),
    "METADATA": ("-METADATA.XML", "application/xml"),
    "QUALITY_CLASSES": ("-QL_QUALITY_CLASSES_COG.TIF", "image/tiff"),
    "THUMBNAIL": ("-QL_VNIR_COG_thumbnail.png", "image/png"),
}
_STYLES: tuple[Style, ...] = ("strings", "numbers")


class DlrGeoserviceDialect(Dialect):
    """EnMAP L2A with the quicklooks of L0 and products of L1 beside it; ``cas`` and ``dlr-files`` are its servers."""

    key: ClassVar[str] = "dlr_geoservice"
    mount: ClassVar[str] = "/dlr/eoc/ogc/stac/v1"
    servers: ClassVar[tuple[str, ...]] = ("cas", "dlr-files")

    def encodings(self, scene: PhysicalScene) -> Sequence[Encoding]:  # noqa: ARG002
        """Return nothing: no Sentinel-2 here."""
        return []

    def publish(self, world: World, at: Addresses) -> Publication:
        """Return an item of each kind per scene; the shapes of the items take turns."""
        items: list[Item] = []
        files: dict[str, StoredObject] = {}
        for number, scene in enumerate(enmap_scenes(world)):
            style = _STYLES[number % 2]
            items += [make_item(scene, style, at.root), make_quicklook(scene, at.root)]
            place = folder(scene, style)
            for key, (suffix, kind) in _SUFFIXES.items():
                path = scene.files[key]
                data = path.read_bytes()
                files[f"{place}/{scene.id}{suffix}"] = StoredObject(
                    content_type=kind,
                    size=len(data),
                    md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
                    path=path,
                )
        for level in ("L1B", "L1C"):
            for product in radiance_products(world, level):
                items.append(make_level1(product, at.root))
                for path in product.files.values():
                    data = path.read_bytes()
                    files[f"{level1_folder(product)}/{path.name}"] = StoredObject(
                        content_type=content_type(path.name),
                        size=len(data),
                        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
                        path=path,
                    )
        return Publication(items=items, files=files)

    def app(self, publication: Publication, at: Addresses) -> ASGIApp:
        """Return the API."""
        api = _Api(publication.items, at.root)
        return Starlette(
            routes=[
                Route("/", api.landing),
                Route("/conformance", api.conformance),
                Route("/collections", api.collections),
                Route("/collections/{collection}", api.collection),
                Route("/collections/{collection}/items", api.collection_items),
                Route("/collections/{collection}/items/{item}", api.item),
                Route("/search", api.search_get, methods=["GET"]),
                Route("/search", api.search_post, methods=["POST"]),
            ]
        )

    def services(self, publication: Publication, at: Addresses) -> Mapping[str, ASGIApp]:
        """Return the login server and the download server."""
        login = DlrLogin(cas=_cas(at), files_at=at.servers["dlr-files"], files=publication.files)
        return {"cas": login.cas_app(), "dlr-files": login.files_app()}

    def settings(self, at: Addresses) -> dict[str, Any]:
        """Return the provider's settings: its address, and where its two other servers answer."""
        return {
            "url": at.root,
            "collections": [L2A],
            "where": '"eo:cloud_cover" < 80',
            "bands": ["SPECTRAL_IMAGE", "METADATA"],
            "endpoints": {
                "files": {"url": at.servers["dlr-files"], "allow_http": True},
                "cas": {"url": _cas(at), "allow_http": True},
            },
        }

    def credentials(self, at: Addresses) -> Mapping[str, str]:  # noqa: ARG002
        """Return the account that may download."""
        return {"DLR_USERNAME": USERNAME, "DLR_PASSWORD": PASSWORD}


def _cas(at: Addresses) -> str:
    return f"{at.servers['cas']}/eoc/auth"


def _answer(content: Mapping[str, Any], kind: str = _JSON, status: int = 200) -> Response:
    body = json.dumps(content, separators=(",", ":")).encode()
    response = Response(body, status, media_type=None)
    response.headers["Content-Type"] = kind
    response.headers["Server"] = "nginx"
    return response


def _refusal(status: int, code: str, description: str) -> Response:
    return _answer({"type": code, "title": description}, status=status)


class _Api:
    """The routes, over a fixed list of items."""

    def __init__(self, items: Sequence[Item], root: str) -> None:
        self._root = root
        self._items = {(item["collection"], item["id"]): item for item in items}
        self._shapes = {key: shapely.geometry.shape(item["geometry"]) for key, item in self._items.items()}

    def _link(self, rel: str, path: str, kind: str = _JSON, **more: str) -> dict[str, str]:
        return {"href": f"{self._root}{path}", "rel": rel, "type": kind, **more}

    async def landing(self, _: Request) -> Response:
        formats = {"application%2Fjson": _JSON, "text%2Fhtml": "text/html"}
        links = [
            self._link("self", "/?f=application%2Fjson"),
            *(self._link("root", f"/?f={name}", kind) for name, kind in formats.items()),
            self._link("conformance", "/conformance?f=application%2Fjson"),
            *(self._link("data", f"/collections?f={name}", kind) for name, kind in formats.items()),
            *(self._link("child", f"/collections/{name}") for name in COLLECTIONS),
            self._link("search", "/search", _GEOJSON, method="GET"),
            self._link("search", f"/search?f={GEO}", _GEOJSON, method="POST"),
            self._link("service-desc", "/openapi?f=json", "application/vnd.oai.openapi+json;version=3.0"),
            self._link("service-doc", "/openapi?f=text%2Fhtml", "text/html"),
        ]
        return _answer(
            {
                "title": "EOC EO Products Service",
                "description": "Provides interoperable access to metadata from EO collections and products of "
                "DLR's Earth Observation Center (EOC).",
                "links": links,
                "id": "GeoserverSTACLandingPage",
                "conformsTo": CONFORMANCE,
                "type": "Catalog",
                "stac_version": "1.0.0",
            }
        )

    async def conformance(self, _: Request) -> Response:
        return _answer({"conformsTo": CONFORMANCE})

    def _collection(self, name: str) -> dict[str, Any]:
        own = f"/collections/{name}"
        return {
            "type": "Collection",
            "id": name,
            "title": f"EnMAP {'L0 quicklooks' if name == QUICKLOOK else name.rpartition('_')[2]}",
            "description": "Hyperspectral scenes of the Environmental Mapping and Analysis Program",
            "stac_version": "1.0.0",
            "license": "proprietary",
            "extent": {
                "spatial": {"bbox": [[-180, -90, 180, 90]]},
                "temporal": {"interval": [["2022-04-27T00:00:00Z", None]]},
            },
            "links": [
                self._link("self", own),
                self._link("root", "/"),
                self._link("parent", "/"),
                self._link("items", f"{own}/items", _GEOJSON),
            ],
        }

    async def collections(self, _: Request) -> Response:
        links = [self._link("self", "/collections"), self._link("root", "/")]
        return _answer({"collections": [self._collection(name) for name in COLLECTIONS], "links": links})

    async def collection(self, request: Request) -> Response:
        name = request.path_params["collection"]
        if name not in COLLECTIONS:
            return _refusal(404, "NotFound", f"Unknown collection {name}")
        return _answer(self._collection(name))

    async def item(self, request: Request) -> Response:
        found = self._items.get((request.path_params["collection"], request.path_params["item"]))
        return _refusal(404, "NotFound", "Unknown item") if found is None else _answer(found, _GEOJSON)

    # --- search --------------------------------------------------------------------------------------------

    async def search_post(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"{}")
        except ValueError:
            return _refusal(400, "InvalidParameterValue", "not JSON")
        if not isinstance(body, dict):
            return _refusal(400, "InvalidParameterValue", "not an object")
        return self._search(request, body, post=True, path="/search")

    async def search_get(self, request: Request) -> Response:
        return self._get(request, {}, "/search")

    async def collection_items(self, request: Request) -> Response:
        name = request.path_params["collection"]
        if name not in COLLECTIONS:
            return _refusal(404, "NotFound", f"Unknown collection {name}")
        return self._get(request, {"collections": [name]}, f"/collections/{name}/items")

    def _get(self, request: Request, fixed: Mapping[str, Any], path: str) -> Response:
        body: dict[str, Any] = {}
        for name, text in request.query_params.items():
            if name in {"bbox", "collections"}:
                body[name] = text.split(",")
            else:
                body[name] = text
        return self._search(request, {**body, **fixed}, post=False, path=path)

    def _search(self, request: Request, body: dict[str, Any], *, post: bool, path: str) -> Response:
        try:
            # ids and query are not looked at, as there
            asked = {
                name: body.get(name) for name in ("collections", "bbox", "datetime", "intersects", "limit")
            }
            query = parse(
                {name: value for name, value in asked.items() if value is not None},
                default_limit=DEFAULT_LIMIT,
                largest_limit=LARGEST_LIMIT,
            )
            expression = _expression(body.get("filter"), str(body.get("filter-lang", "cql2-json")))
            start = int(body.get("startIndex") or 0)
            found = [
                item
                for key, item in self._items.items()
                if query.matches(item, self._shapes[key])
                and (expression is None or cql2.holds(expression, _with_numbers(item)))
            ]
        except (BadRequestError, ValueError) as error:
            return _refusal(400, "InvalidParameterValue", str(error))
        page = found[start : start + query.limit]
        href = f"{self._root}{path}?f={GEO}"
        links: list[dict[str, Any]] = [
            {"type": _GEOJSON, "rel": "self", "method": "POST", "merge": True, "href": href}
            if post
            else {"type": _GEOJSON, "rel": "self", "href": href}
        ]
        if start + query.limit < len(found):
            links.append(self._next(body, start + query.limit, query.limit, post=post, path=path))
        answer = {
            "type": "FeatureCollection",
            "features": page,
            "numberMatched": len(found),
            "numberReturned": len(page),
            "stac_version": "1.0.0",
            "links": links,
        }
        return _answer(_spoil(request, answer, start), _GEOJSON)

    def _next(
        self, body: Mapping[str, Any], start: int, limit: int, *, post: bool, path: str
    ) -> dict[str, Any]:
        turn = {"startIndex": start, "limit": limit}
        link: dict[str, Any] = {"type": _GEOJSON, "rel": "next"}
        if post:
            return {
                **link,
                "method": "POST",
                "body": turn,
                "merge": True,
                "href": f"{self._root}{path}?f={GEO}",
            }
        flat = {
            name: ",".join(str(part) for part in value) if isinstance(value, list) else str(value)
            for name, value in body.items()
            if path == "/search" or name != "collections"
        }
        return {**link, "href": f"{self._root}{path}?{urlencode({**flat, **turn})}"}


def _spoil(request: Request, answer: dict[str, Any], start: int) -> dict[str, Any]:
    """Return the page with its faults; the board's fault of a repeated token speaks of another kind of token."""
    faults = request.scope.get("sandbox.faults", ())
    for fault in faults:
        if fault.kind == "repeat-token":
            for link in answer["links"]:
                if link["rel"] == "next" and "body" in link:
                    link["body"]["startIndex"] = start
        elif fault.kind == "wrong-count":
            answer["numberMatched"] += 1
    rest = [fault for fault in faults if fault.kind not in {"repeat-token", "wrong-count"}]
    return spoil_page({"sandbox.faults": rest}, answer, start)


_COMPARISON = re.compile(r'\s*"?([\w:]+)"?\s*(<=|>=|<>|=|<|>)\s*(?:\'([^\']*)\'|(-?\d+(?:\.\d+)?))\s*')


def _expression(value: Any, language: str) -> Any:
    """Return a filter as CQL2 JSON; of the text form only comparisons joined by AND."""
    if value is None:
        return None
    if language == "cql2-json":
        return json.loads(value) if isinstance(value, str) else value
    if language != "cql2-text" or not isinstance(value, str):
        raise BadRequestError(f"Unsupported filter-lang {language[:20]}")
    parts = []
    for part in re.split(r"\s+AND\s+", value, flags=re.IGNORECASE):
        match = _COMPARISON.fullmatch(part)
        if match is None:
            raise BadRequestError(f"Could not parse filter {part[:60]!r}")
        right: Any = match[3] if match[4] is None else float(match[4])
        parts.append({"op": match[2], "args": [{"property": match[1]}, right]})
    return {"op": "and", "args": parts}


def _with_numbers(item: Item) -> Item:
    """Return an item as the database behind the API has it: a cloud cover is a number there."""
    properties = item["properties"]
    return {**item, "properties": {**properties, "eo:cloud_cover": float(properties["eo:cloud_cover"])}}
