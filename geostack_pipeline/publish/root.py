"""The catalog over all dates: collections that span them, and their items with absolute hrefs, in one folder."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from geostack_pipeline.publish.geoparquet import items_parquet
from geostack_pipeline.publish.items import GEOJSON, PARQUET, Document, catalog_document, extent

TITLE = "Methane results"
_OWN = frozenset({"root", "parent", "self", "item"})
"""Links inside a date's catalog: the place of an item in the larger one is another."""


@dataclass(frozen=True, kw_only=True)
class PublishedDate:
    """One date's documents."""

    url: str
    """Where its files lie, with a slash at the end."""
    documents: Mapping[str, Document]
    """Path -> catalog, collection or item."""


@dataclass(frozen=True, kw_only=True)
class RootCatalog:
    """The catalog over all dates."""

    collections: Sequence[Document]
    items: Sequence[Document]

    def write(self, folder: Path) -> list[Path]:
        """Write it as a static catalog with ``items.parquet`` and ``items.json``; return what `rustac serve` reads.

        Items stay where they are: the collections link to them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        served = []
        for one in self.collections:
            path = folder / one["id"] / "collection.json"
            path.parent.mkdir(exist_ok=True)
            _write(path, one)
            # Without links: the server makes its own, and would look for the items a second time.
            bare = folder / "served" / f"{one['id']}.json"
            bare.parent.mkdir(exist_ok=True)
            _write(bare, {**one, "links": [link for link in one["links"] if link["rel"] == "license"]})
            served.append(bare)
        links = [
            {
                "rel": "items",
                "href": "./items.parquet",
                "type": PARQUET,
                "title": "All items, stac-geoparquet",
            }
        ]
        about = catalog_document(
            catalog_id="methane",
            title=TITLE,
            description="Methane fields and plumes of all stored dates.",
            collections=self.collections,
            links=links,
        )
        _write(folder / "catalog.json", about)
        (folder / "items.parquet").write_bytes(items_parquet(self.items))
        _write(folder / "items.json", {"type": "FeatureCollection", "features": list(self.items)})
        return [*served, folder / "items.json"]


def root_catalog(dates: Iterable[PublishedDate]) -> RootCatalog:
    """Return the catalog over dates; collections of one id become one, their extents, makers and terms joined."""
    items: list[Document] = []
    collections: dict[str, Document] = {}
    for date in dates:
        for path, document in sorted(date.documents.items()):
            if document["type"] == "Feature":
                items.append(_absolute(document, path, date.url))
            elif document["type"] == "Collection":
                known = collections.get(document["id"])
                collections[document["id"]] = document if known is None else _joined(known, document)
    items.sort(key=lambda item: (item["collection"], item["properties"]["datetime"], item["id"]))
    return RootCatalog(
        collections=[_over(one, items) for _, one in sorted(collections.items())],
        items=items,
    )


def _absolute(item: Document, path: str, url: str) -> Document:
    """Return an item whose hrefs lead from anywhere."""
    here = f"{url}{path}"

    def full(href: str) -> str:
        return _join(here, href)

    return {
        **item,
        "links": [
            {"rel": "self", "href": here, "type": GEOJSON},
            *({**link, "href": full(link["href"])} for link in item["links"] if link["rel"] not in _OWN),
        ],
        "assets": {key: {**asset, "href": full(asset["href"])} for key, asset in item["assets"].items()},
    }


def _join(base: str, href: str) -> str:
    """Return a relative href made absolute; also below ``s3:`` and ``az:``, whose hrefs urljoin takes for opaque."""
    if "://" in href:
        return href
    scheme, _, rest = base.partition("://")
    if scheme in {"http", "https"}:
        return urljoin(base, href)
    return f"{scheme}://{posixpath.normpath(posixpath.join(posixpath.dirname(rest), href))}"


def _joined(one: Document, other: Document) -> Document:
    makers = {maker["name"]: maker for maker in (*one["providers"], *other["providers"])}
    terms = {
        link["href"]: link for each in (one, other) for link in each["links"] if link["rel"] == "license"
    }
    # Whoever processed it comes last, as in the collections of a date.
    ordered = sorted(makers.values(), key=lambda maker: ("processor" in maker["roles"], maker["name"]))
    return {**one, "providers": ordered, "links": [terms[href] for href in sorted(terms)]}


def _over(collection: Document, items: Sequence[Document]) -> Document:
    own = [item for item in items if item["collection"] == collection["id"]]
    links = [
        {"rel": "root", "href": "../catalog.json", "type": "application/json"},
        {"rel": "parent", "href": "../catalog.json", "type": "application/json"},
        *(link for link in collection["links"] if link["rel"] == "license"),
        *({"rel": "item", "href": item["links"][0]["href"], "type": GEOJSON} for item in own),
    ]
    summaries: dict[str, set[Any]] = {}
    for item in own:
        for name in ("platform", "constellation", "geostack:maturity", "geostack:method"):
            if item["properties"].get(name) is not None:
                summaries.setdefault(name, set()).add(item["properties"][name])
        summaries.setdefault("instruments", set()).update(item["properties"].get("instruments", []))
    made = {
        **collection,
        "extent": extent(own),
        "links": links,
        "summaries": {name: sorted(values) for name, values in sorted(summaries.items())},
    }
    # Tables of one date are no assets of all of them.
    made.pop("assets", None)
    return made


def _write(path: Path, document: Any, dump: Callable[..., str] = json.dumps) -> None:
    path.write_text(dump(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
