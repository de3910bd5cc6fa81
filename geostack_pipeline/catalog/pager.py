"""Our own walk through a search's pages, for every paging style that was seen.

- a POST ``next`` link whose body is complete (``merge: false``, or no ``merge``);
- a POST ``next`` link whose body is to be merged into the last one (``merge: true``);
- a GET ``next`` link, also after a POST search;
- ``context.next``, sent back as ``next`` in the body.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from geostack_pipeline.catalog.http import CatalogClient, matched_of, plain_url
from geostack_pipeline.errors import CatalogError
from geostack_pipeline.providers.contract import Item

EMPTY_PAGES = 3
"""Empty pages in a row, each with a next link, before the walk counts as stuck."""


class InconsistentWalkError(Exception):
    """The pages contradict themselves: a repeated token or item, or no progress. The text says which."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a search."""

    items: list[Item]
    matched: int | None
    """Items of the whole search, if the page says so."""


@dataclass(frozen=True, kw_only=True)
class _Request:
    method: str
    url: str
    body: Mapping[str, Any] | None

    def identity(self) -> str:
        return json.dumps([self.method, self.url, self.body], sort_keys=True)


async def pages(client: CatalogClient, body: Mapping[str, Any]) -> AsyncIterator[Page]:
    """Yield the pages of a search, in order.

    Raises:
        InconsistentWalkError: A next link that was followed before, or only empty pages.
        CatalogError: A next link to another host, or one that cannot be read.
    """
    request: _Request | None = _Request(method="POST", url=client.search_url, body=body)
    asked: set[str] = set()
    empty = 0
    while request is not None:
        identity = request.identity()
        if identity in asked:
            raise InconsistentWalkError("a next link that was followed before")
        asked.add(identity)
        answer = (await client.ask(request.method, request.url, request.body)).json
        items: list[Item] = answer["features"]
        yield Page(items=items, matched=matched_of(answer))
        request = _next(client, request, body, answer)
        empty = 0 if items else empty + 1
        if request is not None and empty >= EMPTY_PAGES:
            raise InconsistentWalkError(f"{empty} empty pages in a row, each with a next link")


def _next(
    client: CatalogClient, last: _Request, first_body: Mapping[str, Any], answer: Mapping[str, Any]
) -> _Request | None:
    """Return the request for the page after ``answer``; None on the last page."""
    links = answer.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("rel") == "next":
            return _follow(client, last, first_body, link)
    context = answer.get("context")
    token = context.get("next") if isinstance(context, dict) else None
    if token is None:
        return None
    return _Request(method="POST", url=last.url, body={**(last.body or first_body), "next": token})


def _follow(
    client: CatalogClient, last: _Request, first_body: Mapping[str, Any], link: Mapping[str, Any]
) -> _Request:
    href, method = link.get("href"), str(link.get("method") or "GET").upper()
    if not isinstance(href, str) or method not in {"GET", "POST"}:
        raise _bad_link(client, f"a next link with method {method[:20]!r} and href {str(href)[:80]!r}")
    url = _same_origin(client, last.url, href)
    if method == "GET":
        return _Request(method="GET", url=url, body=None)
    body = link.get("body")
    if body is None:
        body = dict(last.body or first_body)
    if not isinstance(body, dict):
        raise _bad_link(client, f"a next link with a body that is a {type(body).__name__}")
    if link.get("merge") is True:
        # merged into the last body: the STAC API specification's meaning of merge
        body = {**(last.body or first_body), **body}
    return _Request(method="POST", url=url, body=body)


def _same_origin(client: CatalogClient, base: str, href: str) -> str:
    """Return the link's URL on the catalog's own origin; our headers may hold credentials."""
    try:
        url = urljoin(base, href)
        root, parts = urlsplit(client.provider.url), urlsplit(url)
        same = parts.hostname == root.hostname and (
            (parts.scheme, parts.port) == (root.scheme, root.port)
            # catalogs behind a proxy often write http in their links: asked by https all the same
            or (parts.scheme, root.scheme, parts.port) == ("http", "https", None)
        )
    except ValueError:
        raise _bad_link(client, "a next link that is no URL") from None
    if not same or "@" in parts.netloc:
        raise _bad_link(client, f"a next link to {plain_url(url)[:120]}")
    return parts._replace(scheme=root.scheme, netloc=root.netloc.rpartition("@")[2], fragment="").geturl()


def _bad_link(client: CatalogClient, found: str) -> CatalogError:
    return CatalogError(
        "the catalog's next link cannot be followed",
        subject=client.subject,
        found=found,
        action=f"check the provider's url: links must stay on {plain_url(client.provider.url)}",
    )
