"""NASA's CMR itself, as the earthaccess library asks it: ``granules.umm_json``.

As recorded: ``CMR-Hits`` counts, pages follow ``CMR-Search-After``, which every page with granules has and the next
request sends back; a request with ``page_size=0`` only counts.  Deleted granules have an address of their own, which takes a
first date within the last year and gives everything in one answer.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import shapely
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from geostack_pipeline.sandbox.dialects import emit_servers
from geostack_pipeline.sandbox.dialects.base import Addresses, Dialect, Item, Publication
from geostack_pipeline.sandbox.dialects.emit_granules import CONCEPTS
from geostack_pipeline.sandbox.dialects.emit_history import EmitHistory
from geostack_pipeline.sandbox.dialects.stac_query import BadRequestError, instant
from geostack_pipeline.sandbox.server.faults import HOSTILE_HREF, Fault, drift
from geostack_pipeline.sandbox.world.scene import PhysicalScene
from geostack_pipeline.sandbox.world.world import Encoding, World

DEFAULT_PAGE = 10
LARGEST_PAGE = 2000
_TYPE = "application/vnd.nasa.cmr.umm_results+json;version=1.6.6; charset=utf-8"
_KNOWN = frozenset(
    {
        "short_name",
        "version",
        "temporal[]",
        "temporal",
        "bounding_box",
        "provider",
        "page_size",
        "cloud_cover",
        "revision_date[]",
        "sort_key[]",
    }
)


class EarthaccessDialect(Dialect):
    """CMR's granule search, and the archive whose files it lists."""

    key: ClassVar[str] = "earthaccess"
    mount: ClassVar[str] = "/cmr/search"
    servers: ClassVar[tuple[str, ...]] = emit_servers.SERVERS

    def encodings(self, scene: PhysicalScene) -> Sequence[Encoding]:  # noqa: ARG002
        """Return nothing: it lists no Sentinel-2 scenes."""
        return ()

    def publish(self, world: World, at: Addresses) -> Publication:  # noqa: ARG002
        """Return the granules of every collection as CMR gives them, and their files."""
        told = emit_servers.history(world)
        return emit_servers.publication([record.umm_json() for record in told.listed()], told)

    def app(self, publication: Publication, at: Addresses) -> ASGIApp:  # noqa: ARG002
        """Return the search."""
        return make_cmr(publication)

    def services(self, publication: Publication, at: Addresses) -> Mapping[str, ASGIApp]:
        """Return login server, archive and the server of signed URLs."""
        return emit_servers.services(publication, at)

    def settings(self, at: Addresses) -> dict[str, Any]:
        """Return the provider's settings: methane enhancement and plumes."""
        return {
            "url": at.root,
            "collections": ["EMITL2BCH4ENH_002", "EMITL2BCH4PLM_002"],
            "endpoints": emit_servers.endpoints(at),
        }

    def credentials(self, at: Addresses) -> Mapping[str, str]:  # noqa: ARG002
        """Return the Earthdata login."""
        return emit_servers.credentials()


def make_cmr(publication: Publication) -> ASGIApp:
    """Return CMR's search over what is published, as it changes."""
    assert isinstance(publication.history, EmitHistory)
    api = _Api(publication.history)
    return Starlette(
        routes=[
            Route("/granules.umm_json", api.granules),
            Route("/deleted-granules.json", api.deleted),
            Route("/collections.umm_json", api.collections),
        ]
    )


class _Api:
    """The search, in the order of time or of revision."""

    def __init__(self, history: EmitHistory) -> None:
        self._history = history
        self._state = -1
        self._granules: list[Item] = []
        self._shapes: list[shapely.Geometry] = []
        self._made: dict[tuple[str, int], Item] = {}

    def _renew(self) -> None:
        """Take over what changed; granules that did not are kept, as their checksums take time."""
        if self._state == self._history.state:
            return
        self._state = self._history.state
        made = {}
        for record in self._history.listed():
            key = (record.name, record.revision)
            made[key] = self._made.get(key) or record.umm_json()
        self._made = made
        self._granules = sorted(made.values(), key=lambda each: (_span(each)[0], each["meta"]["concept-id"]))
        self._shapes = [_shape(each) for each in self._granules]

    async def granules(self, request: Request) -> Response:
        faults: Sequence[Fault] = request.scope.get("sandbox.faults", ())
        try:
            size = int(request.query_params.get("page_size", DEFAULT_PAGE))
            found = self._matching(request)
            start = _position(request.headers.get("cmr-search-after"))
        except ValueError as error:
            return _refusal(str(error))
        if not 0 <= size <= LARGEST_PAGE:
            return _refusal(f"page_size must be a number between 0 and {LARGEST_PAGE}")
        page = found[start : start + size]
        hits = len(found) + sum(fault.kind == "wrong-count" for fault in faults)
        headers = {"CMR-Hits": str(hits), "CMR-Took": "42", "Content-Type": _TYPE}
        if page:
            after = start if any(fault.kind == "repeat-token" for fault in faults) else start + size
            headers["CMR-Search-After"] = json.dumps(["lpcloud", after, 2546526969])
        content = {"hits": hits, "took": 41, "items": _spoiled(page, faults)}
        return Response(json.dumps(content, separators=(",", ":")), 200, headers)

    async def deleted(self, request: Request) -> Response:
        """Answer with everything that was deleted since a moment, in one page: there is no last date to ask for."""
        asked = request.query_params
        unknown = set(asked) - {"revision_date", "parent_collection_id", "provider"}
        if unknown:
            return _refusal(f"Parameter [{min(unknown)}] was not recognized.")
        if "revision_date" not in asked:
            return _refusal("One revision date is required for deleted granules search.")
        try:
            since = instant(asked["revision_date"])
        except ValueError as error:
            return _refusal(str(error))
        if since < datetime.now(UTC) - timedelta(days=365):
            return _refusal("Revision date must be within one year of today.")
        faults: Sequence[Fault] = request.scope.get("sandbox.faults", ())
        listed = [
            {
                "granule-ur": each.record.name,
                # Some of its dates end in +0000, others in Z.
                "revision-date": each.when.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000",
                "parent-collection-id": CONCEPTS[each.record.collection],
                "concept-id": each.record.concept,
                "provider-id": "LPCLOUD",
            }
            for each in self._history.deleted()
            if each.when >= since
            and asked.get("parent_collection_id") in {None, CONCEPTS[each.record.collection]}
            and asked.get("provider") in {None, "LPCLOUD"}
        ]
        hits = len(listed) + sum(fault.kind == "wrong-count" for fault in faults)
        if any(fault.kind == "drop-item" for fault in faults):
            del listed[:1]
        headers = {"CMR-Hits": str(hits), "Content-Type": "application/json;charset=utf-8"}
        return Response(json.dumps(listed, separators=(",", ":")), 200, headers)

    async def collections(self, request: Request) -> Response:
        """Answer with the collections of a short name and version."""
        asked = request.query_params
        items = []
        for name, concept in CONCEPTS.items():
            short_name, version = name.split("_")
            if asked.get("short_name") in {None, short_name} and asked.get("version") in {None, version}:
                meta = {"concept-id": concept, "concept-type": "collection", "provider-id": "LPCLOUD"}
                items.append({"meta": meta, "umm": {"ShortName": short_name, "Version": version}})
        headers = {"CMR-Hits": str(len(items)), "CMR-Took": "7", "Content-Type": _TYPE}
        content = {"hits": len(items), "took": 6, "items": items}
        return Response(json.dumps(content, separators=(",", ":")), 200, headers)

    def _matching(self, request: Request) -> list[Item]:
        self._renew()
        asked = request.query_params
        unknown = set(asked) - _KNOWN
        if unknown:
            raise BadRequestError(f"Parameter [{min(unknown)}] was not recognized.")
        time = asked.get("temporal[]", asked.get("temporal"))
        first, last = (instant(text) for text in time.split(",")) if time else (None, None)
        box = None
        if "bounding_box" in asked:
            box = shapely.box(*(float(text) for text in asked["bounding_box"].split(",")))
        revised = asked.get("revision_date[]")
        since, until = (instant(text) for text in revised.split(",")) if revised else (None, None)
        clouds = [float(text) for text in asked["cloud_cover"].split(",")] if "cloud_cover" in asked else None
        found = []
        for granule, shape in zip(self._granules, self._shapes, strict=True):
            reference = granule["umm"]["CollectionReference"]
            start, end = _span(granule)
            cover = granule["umm"].get("CloudCover")
            if (
                asked.get("short_name") in {None, reference["ShortName"]}
                and asked.get("version") in {None, reference["Version"]}
                and asked.get("provider") in {None, "LPCLOUD"}
                and (first is None or end >= first)
                and (last is None or start <= last)
                and (box is None or shapely.intersects(box, shape))
                and (since is None or since <= _revised(granule))
                and (until is None or _revised(granule) <= until)
                and (clouds is None or (cover is not None and clouds[0] <= cover <= clouds[1]))
            ):
                found.append(granule)
        if asked.get("sort_key[]") == "revision_date":
            found.sort(key=_revised)
        elif "sort_key[]" in asked:
            raise BadRequestError(f"The valid sort keys do not include [{asked['sort_key[]']}].")
        return found


def _refusal(text: str) -> Response:
    return Response(json.dumps({"errors": [text]}), 400, media_type="application/json")


def _span(granule: Item) -> tuple[datetime, datetime]:
    extent = granule["umm"]["TemporalExtent"]
    single = extent.get("SingleDateTime")
    span = extent.get("RangeDateTime", {})
    start = datetime.fromisoformat(single or span["BeginningDateTime"]).astimezone(UTC)
    return start, start if single else datetime.fromisoformat(span["EndingDateTime"]).astimezone(UTC)


def _revised(granule: Item) -> datetime:
    return datetime.fromisoformat(granule["meta"]["revision-date"])


def _shape(granule: Item) -> shapely.Geometry:
    domain = granule["umm"]["SpatialExtent"]["HorizontalSpatialDomain"]
    points = domain["Geometry"]["GPolygons"][0]["Boundary"]["Points"]
    return shapely.Polygon([(point["Longitude"], point["Latitude"]) for point in points])


def _position(header: str | None) -> int:
    if header is None:
        return 0
    try:
        return int(json.loads(header)[1])
    except (ValueError, TypeError, IndexError):
        raise BadRequestError("The CMR-Search-After header is not valid") from None


def _spoiled(page: Sequence[Item], faults: Sequence[Fault]) -> list[Item]:
    """Return a page with the faults of this request, in the words of this metadata."""
    items = list(page)
    for fault in faults:
        if fault.kind == "drop-item":
            del items[:1]
            continue
        named = [n for n, item in enumerate(items) if (fault.item or "") in item["umm"]["GranuleUR"]]
        for number in named if fault.item else named[:1]:
            item = items[number] = copy.deepcopy(items[number])
            umm = item["umm"]
            if fault.kind in {"missing-geometry", "null-geometry"}:
                umm["SpatialExtent"] = None
            elif fault.kind == "missing-datetime":
                umm.pop("TemporalExtent")
            elif fault.kind == "type-drift":
                umm["CloudCover"] = str(umm.get("CloudCover"))
                drift(umm.get("DataGranule") or {})
            elif fault.kind in {"missing-asset", "hostile-href"}:
                _spoil_urls(umm, fault)
    return items


def _spoil_urls(umm: Item, fault: Fault) -> None:
    data = [url for url in umm["RelatedUrls"] if url["Type"].startswith("GET DATA")]
    wanted = [url for url in data if f"_{fault.asset}_" in url["URL"].rsplit("/", 1)[-1]]
    if not wanted:
        name = data[0]["URL"].rsplit("/", 1)[-1]
        wanted = [url for url in data if url["URL"].endswith(f"/{name}")]
    if fault.kind == "missing-asset":
        umm["RelatedUrls"] = [url for url in umm["RelatedUrls"] if url not in wanted]
        return
    for url in wanted:
        # the file's name stays: it says which asset this is
        url["URL"] = HOSTILE_HREF + url["URL"].rsplit("/", 1)[-1]
