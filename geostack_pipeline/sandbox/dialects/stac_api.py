"""An ordinary STAC API, as a small institution runs one: nothing odd, names of its own.

A collection of Sentinel-2 scenes under asset names that no other catalog here has (``swir_2``), the
numbers' scale and offset stated as they are, files on an open https host and the classification in an open bucket.  A
key is optional: without one everything works; a wrong one is refused.  ``next`` is a POST link with the whole body and
a token; ``numberMatched`` counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar
from urllib.parse import urlencode

import shapely
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from geostack_pipeline.sandbox.dialects.base import Addresses, Dialect, Item, Publication, StoredObject
from geostack_pipeline.sandbox.dialects.stac_query import BadRequestError, parse
from geostack_pipeline.sandbox.server.faults import spoil_page
from geostack_pipeline.sandbox.server.files import answer_file
from geostack_pipeline.sandbox.world.plan import ProcessingPlan
from geostack_pipeline.sandbox.world.scene import PhysicalScene
from geostack_pipeline.sandbox.world.world import Encoding, World

COLLECTION = "surface-reflectance"
HOST = "data.stac-sandbox.example"
FOLDER = "open/surface-reflectance"
BUCKET = "stac-sandbox-classes"
REGION = "eu-central-1"
HEADER = "X-Api-Key"
API_KEY = "sandbox-stac-key-7c1f0e5a"
DEFAULT_LIMIT = 10
LARGEST_LIMIT = 1000

BANDS: Mapping[str, tuple[str, int]] = {
    "B02": ("blue", 10),
    "B03": ("green", 10),
    "B04": ("red", 10),
    "B08": ("near_infrared", 10),
    "B11": ("swir_1", 20),
    "B12": ("swir_2", 20),
}
"""Band -> the catalog's name of its asset, and pixel size in metres."""
CLASSES = "scene_classes"

_STAC = "https://api.stacspec.org/v1.0.0"
_FEATURES = "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf"
CONFORMANCE = [
    f"{_STAC}/core",
    f"{_STAC}/collections",
    f"{_STAC}/ogcapi-features",
    f"{_STAC}/item-search",
    f"{_FEATURES}/core",
    f"{_FEATURES}/geojson",
]
_GEOJSON = "application/geo+json"
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"


class StacApiDialect(Dialect):
    """The catalog, its file host ``stac-files`` and its bucket."""

    key: ClassVar[str] = "stac_api"
    mount: ClassVar[str] = "/stac-sandbox/v1"
    servers: ClassVar[tuple[str, ...]] = ("stac-files",)

    def encodings(self, scene: PhysicalScene) -> Sequence[Encoding]:
        """Return the newest processing as the ground segment made it."""
        return [Encoding(baseline=scene.newest.baseline, offset=1000 if _shifted(scene.newest) else 0)]

    def publish(self, world: World, at: Addresses) -> Publication:
        """Return an item per scene."""
        items: list[Item] = []
        files: dict[str, StoredObject] = {}
        classes: dict[str, StoredObject] = {}
        for scene in world.scenes:
            items.append(_item(scene, world.facts(scene), at.root))
            encoding = self.encodings(scene)[0]
            for name, (path, about) in world.files(scene, encoding).items():
                stored = StoredObject(content_type=_COG, size=about["size"], md5=about["md5"], path=path)
                band = name.partition(".")[0]
                if band == "SCL":
                    classes[f"{scene.id}/{CLASSES}.tif"] = stored
                elif band in BANDS:
                    files[f"{FOLDER}/{scene.id}/{BANDS[band][0]}.tif"] = stored
        return Publication(items=items, buckets={BUCKET: classes}, files=files)

    def app(self, publication: Publication, at: Addresses) -> ASGIApp:
        """Return the API."""
        api = _Api(publication.items, at.root)
        return _WithKey(
            Starlette(
                routes=[
                    Route("/", api.landing),
                    Route("/conformance", api.conformance),
                    Route("/api", api.description),
                    Route("/collections", api.collections),
                    Route("/collections/{collection}", api.collection),
                    Route("/collections/{collection}/items", api.collection_items),
                    Route("/collections/{collection}/items/{item}", api.item),
                    Route("/search", api.search_get, methods=["GET"]),
                    Route("/search", api.search_post, methods=["POST"]),
                ]
            )
        )

    def services(self, publication: Publication, at: Addresses) -> Mapping[str, ASGIApp]:  # noqa: ARG002
        """Return the file host."""

        def serve(request: Request) -> Response:
            stored = publication.files.get(request.path_params["path"])
            return PlainTextResponse("not found", 404) if stored is None else answer_file(request, stored)

        return {"stac-files": Starlette(routes=[Route("/{path:path}", serve, methods=["GET", "HEAD"])])}

    def settings(self, at: Addresses) -> dict[str, Any]:
        """Return the whole description of the catalog."""
        return {
            "kind": "stac_api",
            "url": at.root,
            "collections": [COLLECTION],
            "where": '"eo:cloud_cover" < 80',
            "bands": ["B02", "B03", "B04", "B11", "B12"],
            "endpoints": {
                HOST: {"url": at.servers["stac-files"], "allow_http": True},
                BUCKET: {"url": at.buckets, "region": REGION, "allow_http": True},
            },
            "options": {
                "bands": {band: name for band, (name, _) in BANDS.items()},
                "classification": CLASSES,
                "allow": [{"https": f"{HOST}/{FOLDER}"}, {"s3": BUCKET, "region": REGION}],
                "count": "exact",
                "header": HEADER,
            },
        }

    def credentials(self, at: Addresses) -> Mapping[str, str]:  # noqa: ARG002
        """Return the key."""
        return {"STAC_API_TOKEN": API_KEY}


def _shifted(processing: ProcessingPlan) -> bool:
    return processing.baseline >= "04.00"


def _item(scene: PhysicalScene, facts: Mapping[str, Any], root: str) -> Item:
    outline = scene.footprint()
    made = scene.overpass.start + scene.newest.delay
    start = scene.overpass.start.strftime("%Y%m%dT%H%M%S")
    own = f"{root}/collections/{COLLECTION}"
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
            "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
            "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
            "https://stac-extensions.github.io/view/v1.0.0/schema.json",
        ],
        "id": f"sr-{scene.id.lower()}",
        "collection": COLLECTION,
        "geometry": {"type": "Polygon", "coordinates": shapely.get_coordinates(outline)[None].tolist()},
        "bbox": list(outline.bounds),
        "properties": {
            "datetime": scene.datetime.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "created": made.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "updated": made.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "platform": f"sentinel-{scene.platform[1:].lower()}",
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "eo:cloud_cover": facts["percentages"]["cloud_cover"],
            "grid:code": f"MGRS-{scene.tile.mgrs}",
            "proj:epsg": scene.tile.epsg,
            "view:sun_azimuth": round(scene.sun.azimuth_deg, 6),
            "view:sun_elevation": round(90.0 - scene.sun.zenith_deg, 6),
            "view:incidence_angle": scene.view_zenith_deg,
            "sat:relative_orbit": scene.overpass.relative_orbit,
            "s2:processing_baseline": scene.newest.baseline,
            "s2:datatake_id": f"G{scene.platform}_{start}_{scene.overpass.absolute_orbit:06d}_N{scene.newest.baseline}",
        },
        "links": [
            {"rel": "self", "type": _GEOJSON, "href": f"{own}/items/sr-{scene.id.lower()}"},
            {"rel": "parent", "type": "application/json", "href": own},
            {"rel": "collection", "type": "application/json", "href": own},
            {"rel": "root", "type": "application/json", "href": f"{root}/"},
        ],
        "assets": _assets(scene),
    }


def _assets(scene: PhysicalScene) -> dict[str, Any]:
    def place(metres: int) -> dict[str, Any]:
        grid = scene.grid.coarser(metres // 10)
        return {
            "proj:shape": [grid.height, grid.width],
            "proj:transform": [metres, 0, grid.west, 0, -metres, grid.north],
        }

    offset = -0.1 if _shifted(scene.newest) else 0.0
    bands = {
        name: {
            "href": f"https://{HOST}/{FOLDER}/{scene.id}/{name}.tif",
            "type": _COG,
            "roles": ["data"],
            "gsd": metres,
            **place(metres),
            "eo:bands": [{"name": name}],
            "raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 0.0001, "offset": offset}],
        }
        for name, metres in BANDS.values()
    }
    return {
        **bands,
        CLASSES: {
            "href": f"s3://{BUCKET}/{scene.id}/{CLASSES}.tif",
            "type": _COG,
            "roles": ["data"],
            **place(20),
            "raster:bands": [{"data_type": "uint8", "nodata": 0}],
        },
    }


class _WithKey:
    """The API behind an optional key: a wrong one is refused."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope.get("headers", [])).get(HEADER.lower().encode())
        revoked = any(
            fault.kind in {"revoked-token", "expired-login"} for fault in scope.get("sandbox.faults", ())
        )
        if given is not None and (revoked or given != API_KEY.encode()):
            await _refusal(401, "Unauthorized", "The API key is not valid")(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _answer(content: Mapping[str, Any], kind: str = "application/json", status: int = 200) -> Response:
    return Response(json.dumps(content, separators=(",", ":")).encode(), status, media_type=kind)


def _refusal(status: int, code: str, description: str) -> Response:
    return _answer({"code": code, "description": description}, status=status)


class _Api:
    """The routes, over a fixed list of items, the newest first."""

    def __init__(self, items: Sequence[Item], root: str) -> None:
        self._root = root
        self._items = {
            item["id"]: item
            for item in sorted(
                items, key=lambda item: (item["properties"]["datetime"], item["id"]), reverse=True
            )
        }
        self._shapes = {name: shapely.geometry.shape(item["geometry"]) for name, item in self._items.items()}

    def _link(self, rel: str, path: str, kind: str = "application/json", **more: Any) -> dict[str, Any]:
        return {"rel": rel, "type": kind, "href": f"{self._root}{path}", **more}

    async def landing(self, _: Request) -> Response:
        return _answer(
            {
                "type": "Catalog",
                "stac_version": "1.0.0",
                "id": "stac-sandbox",
                "title": "An ordinary catalog",
                "description": "Surface reflectance of a few places, for trying clients out",
                "conformsTo": CONFORMANCE,
                "links": [
                    self._link("self", "/"),
                    self._link("root", "/"),
                    self._link("conformance", "/conformance"),
                    self._link("service-desc", "/api", "application/vnd.oai.openapi+json;version=3.0"),
                    self._link("data", "/collections"),
                    self._link("child", f"/collections/{COLLECTION}"),
                    self._link("search", "/search", _GEOJSON, method="GET"),
                    self._link("search", "/search", _GEOJSON, method="POST"),
                ],
            }
        )

    async def conformance(self, _: Request) -> Response:
        return _answer({"conformsTo": CONFORMANCE})

    async def description(self, _: Request) -> Response:
        content = {"openapi": "3.0.3", "info": {"title": "An ordinary catalog", "version": "1"}, "paths": {}}
        return _answer(content, "application/vnd.oai.openapi+json;version=3.0")

    def _collection(self) -> dict[str, Any]:
        own = f"/collections/{COLLECTION}"
        return {
            "type": "Collection",
            "stac_version": "1.0.0",
            "id": COLLECTION,
            "title": "Surface reflectance",
            "description": "Sentinel-2 scenes under names of this catalog's own",
            "license": "CC-BY-4.0",
            "extent": {
                "spatial": {"bbox": [[-180, -90, 180, 90]]},
                "temporal": {"interval": [["2024-06-01T00:00:00Z", None]]},
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
        return _answer({"collections": [self._collection()], "links": links})

    async def collection(self, request: Request) -> Response:
        if request.path_params["collection"] != COLLECTION:
            return _refusal(404, "NotFound", "no such collection")
        return _answer(self._collection())

    async def item(self, request: Request) -> Response:
        found = self._items.get(request.path_params["item"])
        if found is None or request.path_params["collection"] != COLLECTION:
            return _refusal(404, "NotFound", "no such item")
        return _answer(found, _GEOJSON)

    async def search_post(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return _refusal(400, "BadRequest", "a JSON object was expected")
        return self._search(request, body, post=True, path="/search")

    async def search_get(self, request: Request) -> Response:
        return self._search(request, _from_query(request.query_params), post=False, path="/search")

    async def collection_items(self, request: Request) -> Response:
        name = request.path_params["collection"]
        if name != COLLECTION:
            return _refusal(404, "NotFound", "no such collection")
        body = {**_from_query(request.query_params), "collections": [name]}
        return self._search(request, body, post=False, path=f"/collections/{name}/items")

    def _search(self, request: Request, body: dict[str, Any], *, post: bool, path: str) -> Response:
        try:
            query = parse(body, default_limit=DEFAULT_LIMIT, largest_limit=LARGEST_LIMIT)
            found = [item for name, item in self._items.items() if query.matches(item, self._shapes[name])]
            start = _start(found, body.get("next"))
        except BadRequestError as error:
            return _refusal(400, "BadRequest", str(error))
        page = found[start : start + query.limit]
        links = [self._link("root", "/"), self._link("self", path, _GEOJSON)]
        if start + query.limit < len(found):
            links.append(self._next(body, page[-1]["id"], post=post, path=path))
        answer = {
            "type": "FeatureCollection",
            "numberMatched": len(found),
            "numberReturned": len(page),
            "context": {"limit": query.limit, "matched": len(found), "returned": len(page)},
            "features": page,
            "links": links,
        }
        return _answer(spoil_page(request.scope, answer, body.get("next")), _GEOJSON)

    def _next(self, body: Mapping[str, Any], token: str, *, post: bool, path: str) -> dict[str, Any]:
        asked = {name: value for name, value in body.items() if value is not None}
        if post:
            return self._link("next", path, _GEOJSON, method="POST", body={**asked, "next": token})
        flat = {
            name: ",".join(str(part) for part in value) if isinstance(value, list) else str(value)
            for name, value in asked.items()
            if path == "/search" or name != "collections"
        }
        return self._link("next", f"{path}?{urlencode({**flat, 'next': token})}", _GEOJSON, method="GET")


def _start(found: Sequence[Item], token: Any) -> int:
    if token is None:
        return 0
    for position, item in enumerate(found):
        if item["id"] == token:
            return position + 1
    raise BadRequestError("Invalid next token")


def _from_query(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the search body that a GET query means."""
    body: dict[str, Any] = {
        name: text.split(",") if name in {"bbox", "collections", "ids"} else text
        for name, text in parameters.items()
    }
    # What is no JSON stays text, which is refused like any other geometry that is none.
    with suppress(ValueError):
        body["intersects"] = json.loads(body.get("intersects", "null"))
    return body
