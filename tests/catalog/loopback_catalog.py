"""A STAC API on loopback that speaks every paging style and fails on demand: the engine's opposite in tests."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from geostack_pipeline.providers.contract import Dialect, SearchWindow

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class LoopbackCatalog:
    """Serves items; ``fault`` may replace any answer: (number of the request from 1, method, body) -> Reply or None."""

    items: list[dict[str, Any]]
    paging: str = "post-false"
    counts: bool = True
    largest: int = 10_000
    empty_last: bool = True
    fault: Callable[[int, str, dict[str, Any]], Reply | None] = lambda number, method, body: None
    log: list[tuple[str, str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    lie: int = 0
    delay: float = 0.0
    url: str = ""
    lock: Any = field(default_factory=threading.Lock)

    def answer(self, method: str, path: str, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self.lock:
            self.log.append((method, path, body, headers))
            number = len(self.log)
        if self.delay:
            time.sleep(self.delay)
        replaced = self.fault(number, method, body)
        if replaced is not None:
            return replaced
        return page(self.document(body))

    def document(self, body: dict[str, Any]) -> dict[str, Any]:
        found = [item for item in self.items if matches(item, body)]
        limit = min(int(body.get("limit", 10)), self.largest)
        start = int(
            body.get("next") or body.get("token") or body.get("startIndex") or body.get("cursor") or 0
        )
        features = found[start : start + limit]
        result: dict[str, Any] = {"type": "FeatureCollection", "features": features, "links": []}
        if self.counts:
            result["numberMatched"] = len(found) + self.lie
            result["context"] = {"matched": len(found) + self.lie, "returned": len(features), "limit": limit}
        following = start + len(features)
        more = following < len(found) or (self.empty_last and len(features) > 0)
        if more and self.paging == "context":
            result.setdefault("context", {})["next"] = following
        elif more:
            result["links"].append(self.link(body, following, limit))
        return result

    def link(self, body: dict[str, Any], following: int, limit: int) -> dict[str, Any]:
        href = f"{self.url}/search"
        if self.paging == "post-false":  # Earth Search; its own next bodies drop the limit's default
            return {
                "rel": "next",
                "method": "POST",
                "merge": False,
                "href": href,
                "body": {**body, "next": str(following)},
            }
        if self.paging == "post-plain":  # Planetary Computer
            return {"rel": "next", "method": "POST", "href": href, "body": {**body, "token": str(following)}}
        if self.paging == "post-true":  # DLR
            return {
                "rel": "next",
                "method": "POST",
                "merge": True,
                "href": f"{href}?f=application%2Fgeo%2Bjson",
                "body": {"startIndex": following, "limit": limit},
            }
        if self.paging == "get":  # CMR-STAC
            state = base64.urlsafe_b64encode(json.dumps({**body, "cursor": following}).encode()).decode()
            return {"rel": "next", "href": f"{href}?cursor={state}"}
        raise AssertionError(self.paging)


def matches(item: dict[str, Any], body: dict[str, Any]) -> bool:
    """Closed interval, boxes by the item's bbox, collections, ``query`` with lt; ``filter`` is ignored."""
    if item.get("collection") not in body.get("collections", [item.get("collection")]):
        return False
    if "bbox" in body:
        west, south, east, north = body["bbox"]
        box = item["bbox"]
        if box[0] > east or box[2] < west or box[1] > north or box[3] < south:
            return False
    if "datetime" in body:
        first, last = (text.replace("+00:00", "Z") for text in body["datetime"].split("/"))
        if not _padded(first) <= _padded(item["properties"]["datetime"]) <= _padded(last):
            return False
    return all(item["properties"].get(name, 0) < rule["lt"] for name, rule in body.get("query", {}).items())


def _padded(text: str) -> str:
    seconds, _, fraction = text.removesuffix("Z").partition(".")
    return f"{seconds}.{fraction.ljust(9, '0')}"


def page(document: Any, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"content-type": "application/geo+json", **named}, json.dumps(document).encode()


@contextmanager
def serving(catalog: LoopbackCatalog) -> Iterator[LoopbackCatalog]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self, method: str, body: dict[str, Any]) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, fields, data = catalog.answer(method, self.path, body, headers)
            try:
                self.send_response(status)
                claimed = fields.pop("content-length", str(len(data)))
                for name, value in fields.items():
                    self.send_header(name, value)
                self.send_header("content-length", claimed)
                self.end_headers()
                self.wfile.write(data)
                if claimed != str(len(data)):
                    self.close_connection = True
            except OSError:
                self.close_connection = True

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            self._reply("POST", json.loads(data))

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            state = query.get("cursor")
            self._reply("GET", json.loads(base64.urlsafe_b64decode(state[0])) if state else {})

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    catalog.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield catalog
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class StubProvider:
    """A catalog of any dialect; its items are canonical as they are."""

    key = "stub"

    def __init__(
        self, url: str, *, headers: dict[str, str] | None = None, filter_: Any = None, **dialect: Any
    ) -> None:
        self.url = url
        self.collections = ("things",)
        self._headers = headers or {}
        self.dialect = Dialect(
            **{"page_size": 10, "walker": "pager", "count": "exact", "request_timeout_s": 5.0, **dialect}
        )
        self._filter = filter_

    def search_headers(self) -> dict[str, str]:
        return self._headers

    def renew(self, store_id: str | None) -> bool:
        return False

    def search_body(self, window: SearchWindow) -> dict[str, Any]:
        body: dict[str, Any] = {
            "collections": list(self.collections),
            "bbox": list(window.bbox),
            "datetime": f"{window.start:%Y-%m-%dT%H:%M:%SZ}/{window.end:%Y-%m-%dT%H:%M:%SZ}",
        }
        if self._filter is not None:
            body |= {"filter": self._filter, "filter-lang": "cql2-json"}
        return body

    def canonical(self, item: dict[str, Any]) -> dict[str, Any]:
        return item

    def template(self) -> dict[str, Any]:
        raise AssertionError("not used")

    def locate(self, href: str) -> Any:
        raise AssertionError("not used")

    def store(self, store_id: str) -> Any:
        raise AssertionError("not used")


def thing(number: int, *, when: str | None = None, lon: float = 10.0, lat: float = 50.0) -> dict[str, Any]:
    """One item of the stub collection on 2024-06-01, minute by minute."""
    hour, minute = divmod(number, 60)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"thing-{number:05d}",
        "collection": "things",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[lon, lat], [lon + 1, lat], [lon + 1, lat + 1], [lon, lat + 1], [lon, lat]]],
        },
        "bbox": [lon, lat, lon + 1, lat + 1],
        "properties": {"datetime": when or f"2024-06-01T{hour % 24:02d}:{minute:02d}:{number % 60:02d}Z"},
        "links": [],
        "assets": {"data": {"href": f"https://example.com/{number}.tif"}},
    }
