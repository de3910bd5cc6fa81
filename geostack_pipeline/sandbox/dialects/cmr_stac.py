"""NASA's CMR-STAC, catalog LPCLOUD, with the granules of EMIT.

After its source and users' reports: next links are GET with everything in their query, after a POST search too; a page
has at most 100 items, a limit above 5,000 is an error; ``context`` counts; of ``query`` only the cloud cover is read,
``lt`` as ``lte``, and zeros are lost; collections are named in two ways in requests and in one in items; asset keys are
the paths of files; a box that ends at longitude 0 has no bbox.
"""

from __future__ import annotations

import base64
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

from geostack_pipeline.sandbox.dialects import emit_servers
from geostack_pipeline.sandbox.dialects.base import Addresses, Dialect, Item, Publication
from geostack_pipeline.sandbox.dialects.earthaccess import EarthaccessDialect, make_cmr
from geostack_pipeline.sandbox.dialects.emit_granules import PROTECTED, Record
from geostack_pipeline.sandbox.dialects.emit_history import EmitHistory
from geostack_pipeline.sandbox.dialects.stac_query import BadRequestError, Query, instant, parse
from geostack_pipeline.sandbox.server.faults import HOSTILE_HREF, spoil_page
from geostack_pipeline.sandbox.world.scene import PhysicalScene
from geostack_pipeline.sandbox.world.world import Encoding, World

CMR_MOUNT = EarthaccessDialect.mount
PAGE = 100
DEFAULT_LIMIT = 10
LARGEST_LIMIT = 5000
_GEOJSON = "application/geo+json; charset=utf-8"
_JSON = "application/json; charset=utf-8"
_STAC = "https://api.stacspec.org/v1.0.0"
_EXTENSIONS = "https://stac-extensions.github.io"
_CMR = "https://cmr.earthdata.nasa.gov/search/concepts"
CONFORMANCE = [
    f"{_STAC}/core",
    f"{_STAC}/collections",
    f"{_STAC}/ogcapi-features",
    f"{_STAC}/item-search",
    f"{_STAC}/item-search#query",
    f"{_STAC}/item-search#context",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/oas30",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
]


class CmrStacDialect(Dialect):
    """CMR-STAC, and the archive whose files it lists."""

    key: ClassVar[str] = "cmr_stac"
    mount: ClassVar[str] = "/cmr/stac/LPCLOUD"
    servers: ClassVar[tuple[str, ...]] = emit_servers.SERVERS

    def encodings(self, scene: PhysicalScene) -> Sequence[Encoding]:  # noqa: ARG002
        """Return nothing: it lists no Sentinel-2 scenes."""
        return ()

    def publish(self, world: World, at: Addresses) -> Publication:
        """Return an item per granule of every collection, and their files."""
        told = emit_servers.history(world)
        return emit_servers.publication([make_item(record, at.root) for record in told.listed()], told)

    def app(self, publication: Publication, at: Addresses) -> ASGIApp:
        """Return the API."""
        assert isinstance(publication.history, EmitHistory)
        api = _Api(publication.history, at.root)
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
            ],
            exception_handlers={404: _not_found},
        )

    def services(self, publication: Publication, at: Addresses) -> Mapping[str, ASGIApp]:
        """Return login server, archive and the server of signed URLs."""
        return emit_servers.services(publication, at)

    def neighbours(self, publication: Publication, at: Addresses) -> Mapping[str, ASGIApp]:  # noqa: ARG002
        """Return CMR's own search: what changed is asked there."""
        return {CMR_MOUNT: make_cmr(publication)}

    def settings(self, at: Addresses) -> dict[str, Any]:
        """Return the provider's settings: all products of version 2, and those of level 1 and 2A."""
        return {
            "url": at.root,
            "collections": ["EMITL2BCH4ENH_002", "EMITL2BCH4PLM_002", "EMITL1BRAD_001", "EMITL2ARFL_001"],
            "endpoints": emit_servers.endpoints(at),
            "options": {"cmr_url": at.root.removesuffix(self.mount) + CMR_MOUNT},
        }

    def credentials(self, at: Addresses) -> Mapping[str, str]:  # noqa: ARG002
        """Return the Earthdata login."""
        return emit_servers.credentials()


def make_item(record: Record, root: str) -> Item:
    """Return the item that CMR-STAC makes of a granule."""
    umm = record.umm_json()["umm"]
    properties: dict[str, Any] = {"datetime": _time(record.start)}
    extensions = [f"{_EXTENSIONS}/storage/v2.0.0/schema.json"]
    if record.cloud_cover is not None:
        extensions.insert(0, f"{_EXTENSIONS}/eo/v1.0.0/schema.json")
        properties["eo:cloud_cover"] = record.cloud_cover
    properties["storage:schemes"] = {
        "aws": {
            "type": "aws-s3",
            "platform": "https://{bucket}.s3.{region}.amazonaws.com",
            "bucket": PROTECTED,
            "region": "us-west-2",
        }
    }
    if record.end is not None:
        properties |= {"start_datetime": _time(record.start), "end_datetime": _time(record.end)}
    ring = umm["SpatialExtent"]["HorizontalSpatialDomain"]["Geometry"]["GPolygons"][0]["Boundary"]["Points"]
    corners = [[point["Longitude"], point["Latitude"]] for point in ring]
    west, south, east, north = shapely.Polygon(corners).bounds
    own = f"{root}/collections/{record.collection}"
    return {
        "type": "Feature",
        "id": record.name,
        "stac_version": "1.1.0",
        "stac_extensions": extensions,
        "properties": properties,
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        # its code asks `if (east)`
        "bbox": [west, south, east, north] if east else None,
        "assets": _assets(record, umm["RelatedUrls"]),
        "links": [
            {"rel": "self", "href": f"{own}/items/{record.name}", "type": "application/geo+json"},
            {"rel": "parent", "href": f"{own}/", "type": "application/geo+json"},
            {"rel": "collection", "href": f"{own}/", "type": "application/geo+json"},
            {"rel": "root", "href": root.rsplit("/", 1)[0], "type": "application/json"},
            {"rel": "provider", "href": root, "type": "application/json"},
            {
                "rel": "via",
                "href": f"{_CMR}/{record.concept}.json",
                "title": "CMR JSON metadata for item",
                "type": "application/json",
            },
            {
                "rel": "via",
                "href": f"{_CMR}/{record.concept}.umm_json",
                "title": "CMR UMM_JSON metadata for item",
                "type": "application/vnd.nasa.cmr.umm+json",
            },
        ],
        "collection": record.collection,
    }


def _assets(record: Record, urls: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    pictures = [url for url in urls if url["Type"] == "GET RELATED VISUALIZATION"]
    assets: dict[str, Any] = {
        "browse": {
            "href": pictures[0]["URL"],
            "title": pictures[0]["Description"],
            "type": "image/jpeg",
            "roles": ["browse"],
        }
    }
    for number, url in enumerate(pictures):
        assets[f"thumbnail_{number}"] = {
            "href": url["URL"],
            "title": f"Thumbnail [{number}]",
            "description": url["Description"],
            "roles": ["thumbnail"],
        }
    for kind, prefix, title in (
        ("GET DATA", "", "Direct Download"),
        ("GET DATA VIA DIRECT ACCESS", "s3_", "S3 Direct Download"),
    ):
        for number, url in enumerate(each for each in urls if each["Type"] == kind):
            asset: dict[str, Any] = {
                "href": url["URL"],
                "title": f"{title} [{number}]",
                "description": url["Description"],
                "roles": ["data"],
            }
            if prefix:
                asset["storage:refs"] = ["aws"]
            assets[f"{prefix}{url['URL'].split('.')[-2]}"] = asset
    assets["metadata"] = {
        "href": f"{_CMR}/{record.concept}.xml",
        "title": f"CMR XML metadata for {record.concept}",
        "type": "application/xml",
        "roles": ["metadata"],
    }
    return assets


def _time(moment: Any) -> str:
    return str(moment.strftime("%Y-%m-%dT%H:%M:%S.000Z"))


def _answer(content: Mapping[str, Any], kind: str = _JSON, status: int = 200) -> Response:
    response = Response(json.dumps(content, separators=(",", ":")).encode(), status, media_type=None)
    response.headers["Content-Type"] = kind
    return response


def _refusal(status: int, text: str) -> Response:
    return _answer({"errors": [text]}, status=status)


async def _not_found(_: Request, __: Exception) -> Response:
    return _refusal(404, "Could not find the resource")


class _Api:
    """The routes, over the granules as they change."""

    def __init__(self, history: EmitHistory, root: str) -> None:
        self._root = root
        self._history = history
        self._state = -1
        self._made: dict[tuple[str, int], Item] = {}
        self._items: dict[tuple[str, str], Item] = {}
        self._shapes: dict[tuple[str, str], Any] = {}
        self._names = sorted({record.collection for record in history.listed()})

    def _renew(self) -> None:
        """Take over what changed; items that did not are kept, as their checksums take time."""
        if self._state == self._history.state:
            return
        self._state = self._history.state
        made = {}
        for record in self._history.listed():
            key = (record.name, record.revision)
            made[key] = self._made.get(key) or make_item(record, self._root)
        self._made = made
        ordered = sorted(made.values(), key=lambda item: (item["properties"]["datetime"], item["id"]))
        self._items = {(item["collection"], item["id"]): item for item in ordered}
        self._shapes = {key: shapely.geometry.shape(item["geometry"]) for key, item in self._items.items()}

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
            self._link("service-desc", "/api", "application/vnd.oai.openapi;version=3.0"),
            self._link("service-doc", "/api.html", "text/html"),
            *(self._link("child", f"/collections/{name}") for name in self._names),
        ]
        return _answer(
            {
                "type": "Catalog",
                "id": "LPCLOUD",
                "title": "LPCLOUD STAC Catalog",
                "stac_version": "1.0.0",
                "description": "Root STAC catalog for LPCLOUD",
                "conformsTo": CONFORMANCE,
                "links": links,
            }
        )

    async def conformance(self, _: Request) -> Response:
        return _answer({"conformsTo": CONFORMANCE})

    def _collection(self, name: str) -> dict[str, Any]:
        own = f"/collections/{name}"
        return {
            "type": "Collection",
            "id": name,
            "title": name,
            "description": f"EMIT granules of {name}",
            "stac_version": "1.0.0",
            "license": "not-provided",
            "extent": {
                "spatial": {"bbox": [[-180, -54, 180, 54]]},
                "temporal": {"interval": [["2022-08-09T00:00:00Z", None]]},
            },
            "links": [
                self._link("self", own),
                self._link("root", ""),
                self._link("parent", ""),
                self._link("items", f"{own}/items", "application/geo+json"),
            ],
        }

    async def collections(self, _: Request) -> Response:
        links = [self._link("self", "/collections"), self._link("root", "")]
        return _answer({"collections": [self._collection(name) for name in self._names], "links": links})

    async def collection(self, request: Request) -> Response:
        name = _canonical(request.path_params["collection"])
        if name not in self._names:
            return _refusal(404, f"Could not find collection [{name}] in provider [LPCLOUD]")
        return _answer(self._collection(name))

    async def item(self, request: Request) -> Response:
        self._renew()
        name = _canonical(request.path_params["collection"])
        found = self._items.get((name, request.path_params["item"]))
        return _answer(found, _GEOJSON) if found else _refusal(404, "Could not find the item")

    async def search_post(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"{}")
        except ValueError:
            return _refusal(400, "Invalid JSON")
        if not isinstance(body, dict):
            return _refusal(400, "Expected a JSON object")
        return self._search(request, body, "/search")

    async def search_get(self, request: Request) -> Response:
        try:
            return self._search(request, _from_query(request.query_params), "/search")
        except BadRequestError as error:
            return _refusal(400, str(error))

    async def collection_items(self, request: Request) -> Response:
        name = _canonical(request.path_params["collection"])
        if name not in self._names:
            return _refusal(404, f"Could not find collection [{name}] in provider [LPCLOUD]")
        try:
            body = {**_from_query(request.query_params), "collections": [name]}
        except BadRequestError as error:
            return _refusal(400, str(error))
        return self._search(request, body, f"/collections/{name}/items")

    def _search(self, request: Request, body: dict[str, Any], path: str) -> Response:
        self._renew()
        try:
            query = parse(
                {name: value for name, value in body.items() if name != "query"},
                default_limit=DEFAULT_LIMIT,
                largest_limit=LARGEST_LIMIT + 1,
            )
            most, least = _clouds(body.get("query"))
            start = _position(body.get("cursor"))
        except BadRequestError as error:
            return _refusal(400, str(error))
        if query.limit > LARGEST_LIMIT:
            return _refusal(400, f"Invalid limit, must be at most {LARGEST_LIMIT}")
        found = [
            item
            for key, item in self._items.items()
            if _matches(query, item, self._shapes[key]) and _within(item, most, least)
        ]
        size = min(query.limit, PAGE)
        page = found[start : start + size]
        cursor = _cursor(start + size) if start + size < len(found) else None
        kinds = {fault.kind for fault in request.scope.get("sandbox.faults", ())}
        if "repeat-token" in kinds and cursor is not None:
            cursor = _cursor(start)
        answer = spoil_page(
            request.scope,
            {
                "type": "FeatureCollection",
                "stac_version": "1.0.0",
                "numberMatched": len(found),
                "numberReturned": len(page),
                "features": page,
                "links": self._links(body, path, cursor),
                "context": {"limit": query.limit, "matched": len(found), "returned": len(page)},
            },
            body.get("cursor"),
        )
        answer["features"] = [
            _spoil_assets(request.scope, item, n) for n, item in enumerate(answer["features"])
        ]
        # it counts in its context only
        del answer["numberMatched"], answer["numberReturned"]
        return _answer(answer, _GEOJSON)

    def _links(self, body: Mapping[str, Any], path: str, cursor: str | None) -> list[dict[str, Any]]:
        asked = {name: value for name, value in body.items() if name != "cursor" and value is not None}
        kind = "application/geo+json"
        links = [
            self._link("self", path, kind, title="This search"),
            self._link("root", "", title="Root Catalog"),
            self._link("first", f"{path}?{_to_query(asked)}", kind, title="First page of results"),
        ]
        if cursor is not None:
            more = _to_query({**asked, "cursor": cursor})
            links.append(self._link("next", f"{path}?{more}", kind, title="Next page of results"))
        return links


def _canonical(name: str) -> str:
    """Return a collection's id; ``.v`` is the separator of the first version of the catalog."""
    return name.replace(".v", "_")


def _matches(query: Query, item: Item, shape: shapely.Geometry) -> bool:
    if query.collections is not None and item["collection"] not in map(_canonical, query.collections):
        return False
    if query.ids is not None and item["id"] not in query.ids:
        return False
    properties = item["properties"]
    first = instant(properties.get("start_datetime", properties["datetime"]))
    last = instant(properties.get("end_datetime", properties["datetime"]))
    if (query.start is not None and last < query.start) or (query.end is not None and first > query.end):
        return False
    return query.shape is None or bool(shapely.intersects(query.shape, shape))


def _clouds(query: Any) -> tuple[float | None, float | None]:
    """Return the largest and the least cloud cover of a query: both inclusive, and none where it is 0."""
    asked = query.get("eo:cloud_cover") if isinstance(query, Mapping) else None
    if not isinstance(asked, Mapping):
        return None, None
    ends: list[float | None] = []
    for strict, inclusive in (("lt", "lte"), ("gt", "gte")):
        try:
            value = float(asked.get(strict) or 0) or float(asked.get(inclusive) or 0)
        except (TypeError, ValueError):
            value = 0.0
        ends.append(value or None)
    return ends[0], ends[1]


def _within(item: Item, most: float | None, least: float | None) -> bool:
    if most is None and least is None:
        return True
    cover = item["properties"].get("eo:cloud_cover")
    if cover is None:
        return False
    return (most is None or cover <= most) and (least is None or cover >= least)


def _cursor(position: int) -> str:
    return base64.b64encode(json.dumps({"json": f'["lpcloud",{position}]'}).encode()).decode()


def _position(cursor: Any) -> int:
    if not cursor:
        return 0
    try:
        return int(json.loads(json.loads(base64.b64decode(str(cursor)))["json"])[1])
    except (ValueError, KeyError, TypeError, IndexError):
        raise BadRequestError("Invalid cursor") from None


def _to_query(asked: Mapping[str, Any]) -> str:
    flat: dict[str, str] = {}
    for name, value in asked.items():
        if isinstance(value, Mapping):
            for inner, conditions in value.items():
                for sign, wanted in conditions.items():
                    flat[f"{name}[{inner}][{sign}]"] = str(wanted)
        else:
            flat[name] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return urlencode(flat)


def _from_query(parameters: Mapping[str, str]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for name, text in parameters.items():
        if name == "bbox":
            try:
                body[name] = [float(part) for part in text.split(",")]
            except ValueError:
                raise BadRequestError("Invalid bbox") from None
        elif name in {"collections", "ids"}:
            body[name] = text.split(",")
        elif name.startswith("query["):
            inner, _, sign = name[6:].rstrip("]").partition("][")
            body.setdefault("query", {}).setdefault(inner, {})[sign] = text
        else:
            body[name] = text
    return body


def _spoil_assets(scope: Any, item: Item, number: int) -> Item:
    """Return an item with the faults that concern assets: their keys here are no fixed names."""
    for fault in scope.get("sandbox.faults", ()):
        if fault.kind not in {"missing-asset", "hostile-href"}:
            continue
        if number > 0 if fault.item is None else fault.item not in item["id"]:
            continue
        wanted = f"_{fault.asset}_"
        data = [key for key, asset in item["assets"].items() if asset["roles"] == ["data"]]
        named = [key for key in data if wanted in key.rsplit("/", 1)[-1]] or data[:1] + [
            key for key in data if key == f"s3_{data[0]}"
        ]
        assets = {
            key: {**asset, "href": HOSTILE_HREF} if key in named else asset
            for key, asset in item["assets"].items()
            if key not in named or fault.kind == "hostile-href"
        }
        item = {**item, "assets": assets}
    return item
