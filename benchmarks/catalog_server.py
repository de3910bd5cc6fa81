"""A catalog in Earth Search's dialect with its items serialised beforehand, so that it costs next to nothing.

POST ``next`` links with the whole body and ``merge: false``, also on the last full page (so a walk ends with an empty
one), ``numberMatched`` and ``context``.  ``--fault`` makes it lie:

- ``count``: says one item more than it gives;
- ``cut``: the second page lacks items, nothing else;
- ``ends``: the second page has no next link;
- ``torn``: the second page breaks off in the middle, each time;
- ``error``: the second page is a 500, each time.

A page of ``limit: 1`` is never faulty but for the count: only walks are cut.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

from benchmarks.items import COLLECTION, make_items
from benchmarks.web import Answer, Request, Server, options

_JSON = {"content-type": "application/geo+json; charset=utf-8"}
_CONFORMANCE = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/item-search",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
]


class Catalog:
    """Answers searches over a fixed list of items."""

    def __init__(self, items: list[dict[str, Any]], latency_s: float, fault: str) -> None:
        self._keys = [(_moment(item["properties"]["datetime"]), item["bbox"]) for item in items]
        self._texts = [json.dumps(item, separators=(",", ":")).encode() for item in items]
        self._latency_s = latency_s
        self._fault = fault
        self._found: dict[str, list[int]] = {}

    async def __call__(self, request: Request) -> Answer:
        """Answer the landing page and POST /search."""
        root = f"http://{request.headers['host']}"
        if request.path == "/":
            return Answer(headers={"content-type": "application/json"}, body=self._landing(root))
        if request.path != "/search" or request.method != "POST":
            return Answer(status=404, headers={"content-type": "application/json"}, body=b"{}")
        await asyncio.sleep(self._latency_s)
        return self._page(root, json.loads(request.body))

    def _page(self, root: str, body: dict[str, Any]) -> Answer:
        found = self._matching(body)
        limit, start = int(body.get("limit", 10)), int(body.get("next", 0))
        part = found[start : start + limit]
        fault = self._fault if start == limit and limit > 1 else ""
        if fault == "error":
            return Answer(status=500, headers=_JSON, body=b'{"code":"InternalServerError"}')
        matched = len(found) + (self._fault == "count")
        links: list[dict[str, Any]] = [{"rel": "root", "type": "application/json", "href": root}]
        if part and fault != "ends":
            links.append(
                {
                    "rel": "next",
                    "method": "POST",
                    "type": "application/geo+json",
                    "href": f"{root}/search",
                    "merge": False,
                    "body": {**body, "next": str(start + limit)},
                }
            )
        if fault == "cut":
            part = part[: -max(1, len(part) // 4)]
        frame = {
            "type": "FeatureCollection",
            "stac_version": "1.0.0",
            "context": {"limit": limit, "matched": matched, "returned": len(part)},
            "numberMatched": matched,
            "numberReturned": len(part),
            "links": links,
        }
        text = json.dumps(frame).encode()[:-1] + b',"features":['
        whole = text + b",".join(self._texts[index] for index in part) + b"]}"
        return Answer(headers=_JSON, body=whole, cut=fault == "torn")

    def _matching(self, body: dict[str, Any]) -> list[int]:
        question = json.dumps([body.get(name) for name in ("bbox", "datetime", "collections")])
        if question not in self._found:
            begin, _, end = body["datetime"].partition("/")
            first, last = _moment(begin), _moment(end)
            west, south, east, north = body["bbox"]
            self._found[question] = [
                index
                for index, (moment, box) in enumerate(self._keys)
                if first <= moment <= last
                and box[0] <= east
                and box[2] >= west
                and box[1] <= north
                and box[3] >= south
            ]
        return self._found[question]

    @staticmethod
    def _landing(root: str) -> bytes:
        links = [
            {"rel": "self", "type": "application/json", "href": f"{root}/"},
            {"rel": "root", "type": "application/json", "href": f"{root}/"},
            {"rel": "search", "type": "application/geo+json", "href": f"{root}/search", "method": "POST"},
        ]
        return json.dumps(
            {
                "type": "Catalog",
                "stac_version": "1.0.0",
                "id": "benchmark",
                "description": COLLECTION,
                "conformsTo": _CONFORMANCE,
                "links": links,
            }
        ).encode()


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


if __name__ == "__main__":
    chosen = options(items=1000, days=10, latency=0.0, fault="none")
    catalog = Catalog(make_items(chosen.items, chosen.days), chosen.latency, chosen.fault)
    asyncio.run(Server(catalog).serve())
