"""NASA's CMR asked for revisions: ``granules.umm_json`` by revision date, and ``deleted-granules.json``.

By its documentation and its own tests:

- ``revision_date[]`` is a range, both ends included; pages follow the header ``CMR-Search-After``; ``CMR-Hits`` counts.
- Deleted granules are asked for by a first date alone, which lies within a year; they come in one answer, counted by
  ``CMR-Hits`` too.  A granule that is ingested again is not among them any more.
- Deletions name their collection by its concept id, so that has to be asked for as well.
"""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from geostack_pipeline.errors import AuthError, CatalogError, CatalogUnavailableError, IncompleteSearchError
from geostack_pipeline.providers import umm
from geostack_pipeline.providers.coerce import parse_time
from geostack_pipeline.providers.emit_form import Collection, parse_granule
from geostack_pipeline.providers.geometry import GeometryError, bbox_of, canonical_geometry
from geostack_pipeline.providers.revisions import Revision

URL = "https://cmr.earthdata.nasa.gov/search"
"""The root of CMR's search."""
PAGE_SIZE = 500
"""Granules a page: about 5 MB of JSON, so that an answer comes well within the time limit."""
DELETIONS_KEPT = timedelta(days=364)
"""How far back deletions are asked for: CMR refuses more than a year, and its clock is not ours."""
ATTEMPTS = 5
WALKS = 3
"""Walks through the pages before differing counts are an error: a revision in between moves a granule out of a page."""
REQUEST_TIMEOUT_S = 30.0
DEADLINE_S = 300.0
LONGEST_WAIT_S = 60.0
"""Longest wait that one ``Retry-After`` is granted."""

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_ANSWER = 256 << 20
_PROVIDER = "LPCLOUD"


class _FaultError(Exception):
    """Something that may pass; the text says what was seen."""

    def __init__(self, found: str, *, wait_s: float | None = None, malformed: bool = False) -> None:
        self.wait_s = wait_s
        self.malformed = malformed
        super().__init__(found)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    content: Any
    hits: int
    after: str | None
    """Where the next page begins; None on the last one."""


class CmrRevisions:
    """Asks one CMR what changed.  Thread-safe: each question has connections of its own.

    Args:
        url: CMR's search root.
        subject: Key of the provider, for messages.
        deadline_s: Time limit of one question, all its pages and waits included.
        sleep: Waits; another one in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        subject: str,
        deadline_s: float = DEADLINE_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._subject = f"{subject} revisions"
        self._deadline_s = deadline_s
        self._sleep = sleep
        self._concepts: dict[str, str] = {}

    def ask(self, collections: Sequence[Collection], since: datetime, until: datetime) -> list[Revision]:
        """Return the changes of some collections: see :meth:`RevisionSource.revisions`."""
        first = since.astimezone(UTC).replace(microsecond=0)
        last = until.astimezone(UTC).replace(microsecond=0)
        if last < until:
            last += timedelta(seconds=1)
        found: list[Revision] = []
        with _Exchange(self._url, self._subject, time.monotonic() + self._deadline_s, self._sleep) as cmr:
            for collection in collections:
                found += self._changed(cmr, collection, first, last)
                found += self._deleted(cmr, collection, first, last)
        return sorted(found, key=lambda each: (each.revision_date, each.concept_id))

    # -- added and revised ----------------------------------------------------------------------------

    def _changed(
        self, cmr: _Exchange, collection: Collection, since: datetime, until: datetime
    ) -> list[Revision]:
        asked = [
            ("short_name", collection.short_name),
            ("version", collection.version),
            ("provider", _PROVIDER),
            ("revision_date[]", f"{_stamp(since)},{_stamp(until)}"),
            ("sort_key[]", "revision_date"),
            ("page_size", str(PAGE_SIZE)),
        ]
        seen: dict[str, Revision] = {}
        counts: set[int] = set()
        for _ in range(WALKS):
            seen, counts = self._walk(cmr, asked, collection)
            if counts == {len(seen)}:
                self._check_span(collection, seen.values(), since, until)
                return list(seen.values())
        raise self._incomplete(collection, "changed granules", len(seen), counts)

    def _walk(
        self, cmr: _Exchange, asked: Sequence[tuple[str, str]], collection: Collection
    ) -> tuple[dict[str, Revision], set[int]]:
        """Return the granules of all pages by concept id, and every count that was given on the way."""
        seen: dict[str, Revision] = {}
        counts: set[int] = set()
        after: str | None = None
        while True:
            answer = cmr.get(
                "granules.umm_json",
                asked,
                lambda content: [_revision(item, collection) for item in content["items"]],
                after=after,
            )
            counts.add(answer.hits)
            known = len(seen)
            for each in answer.content:
                seen[each.concept_id] = each
            if answer.after is None or len(seen) == known or len(seen) >= answer.hits:
                return seen, counts
            after = answer.after

    def _check_span(
        self, collection: Collection, found: Iterable[Revision], since: datetime, until: datetime
    ) -> None:
        for each in found:
            if not since <= each.revision_date <= until:
                raise CatalogError(
                    "CMR gives granules that were not revised in the span that was asked for",
                    subject=self._subject,
                    found=f"{each.item} of {collection.id}, revised {_stamp(each.revision_date)}, "
                    f"for {_stamp(since)} to {_stamp(until)}",
                    action="check that the option cmr_url is the root of a CMR search",
                )

    # -- deleted --------------------------------------------------------------------------------------

    def _deleted(
        self, cmr: _Exchange, collection: Collection, since: datetime, until: datetime
    ) -> list[Revision]:
        since = max(since, datetime.now(UTC) - DELETIONS_KEPT)
        if since > until:
            return []
        asked = [
            ("revision_date", _stamp(since)),
            ("parent_collection_id", self._concept(cmr, collection)),
        ]
        found: list[Revision] = []
        count = -1
        for _ in range(WALKS):
            answer = cmr.get(
                "deleted-granules.json",
                asked,
                lambda content: [_deletion(entry, collection) for entry in _listed(content)],
            )
            found, count = answer.content, answer.hits
            if len({each.concept_id for each in found}) == count:
                # There is no last date to ask for: what was deleted after it belongs to the next question.
                return [each for each in found if since <= each.revision_date <= until]
        raise self._incomplete(collection, "deleted granules", len(found), {count})

    def _concept(self, cmr: _Exchange, collection: Collection) -> str:
        known = self._concepts.get(collection.id)
        if known is not None:
            return known
        asked = [
            ("short_name", collection.short_name),
            ("version", collection.version),
            ("provider", _PROVIDER),
        ]
        answer = cmr.get(
            "collections.umm_json",
            asked,
            lambda content: [str(item["meta"]["concept-id"]) for item in content["items"]],
        )
        if len(answer.content) != 1:
            raise CatalogError(
                "CMR does not have exactly one collection of this name and version",
                subject=f"{self._subject}, {collection.id}",
                found=", ".join(answer.content[:5]) or "none",
                action="check the provider's collections and the option cmr_url",
            )
        self._concepts[collection.id] = answer.content[0]
        return self._concepts[collection.id]

    def _incomplete(
        self, collection: Collection, what: str, got: int, counts: set[int]
    ) -> IncompleteSearchError:
        return IncompleteSearchError(
            f"CMR counts another number of {what} than it gives",
            subject=f"{self._subject}, {collection.id}",
            found=f"{got} received, {' or '.join(map(str, sorted(counts)))} counted, in each of {WALKS} walks",
            action="nothing was taken over; it is asked again at the next turn",
            retryable=True,
        )


class _Exchange:
    """The requests of one question."""

    def __init__(self, url: str, subject: str, ends: float, sleep: Callable[[float], None]) -> None:
        self._url = url
        self._subject = subject
        self._ends = ends
        self._sleep = sleep
        self._http = httpx.Client(
            headers={"user-agent": "geostack_pipeline", "accept": "application/json"},
            timeout=httpx.Timeout(REQUEST_TIMEOUT_S, connect=15.0),
            follow_redirects=False,
            verify=_trust(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(
        self,
        path: str,
        asked: Sequence[tuple[str, str]],
        read: Callable[[Any], list[Any]],
        *,
        after: str | None = None,
    ) -> _Answer:
        """Return an answer, its content as ``read`` makes it, after as many attempts as are granted.

        ``read`` raises ``KeyError``, ``TypeError``, ``AttributeError`` or ``ValueError`` for content that is none.
        """
        fault = _FaultError("no answer")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._once(path, asked, read, after)
            except httpx.TransportError as error:
                fault = _FaultError(f"{type(error).__name__}: {error}"[:160])
            except _FaultError as error:
                fault = error
            wait = random.uniform(0.0, min(30.0, 0.5 * 2.0**attempt))  # noqa: S311 - no secret depends on it
            if fault.wait_s is not None:
                wait = min(fault.wait_s, LONGEST_WAIT_S)
            if attempt == ATTEMPTS or time.monotonic() + wait >= self._ends:
                break
            self._sleep(wait)
        tried = f"{fault}, the last of {attempt} attempt(s) at {self._url}/{path}"
        if fault.malformed:
            raise CatalogError(
                "CMR answers with something that is no list of what was asked for",
                subject=self._subject,
                found=tried,
                action="check the option cmr_url; if it is right, run again later",
                retryable=True,
            )
        raise CatalogUnavailableError(
            "CMR is not available",
            subject=self._subject,
            found=tried,
            action="nothing was taken over; it is asked again at the next turn",
            retryable=True,
        )

    def _once(
        self,
        path: str,
        asked: Sequence[tuple[str, str]],
        read: Callable[[Any], list[Any]],
        after: str | None,
    ) -> _Answer:
        headers = {"CMR-Search-After": after} if after is not None else {}
        data = bytearray()
        limit = min(self._ends, time.monotonic() + REQUEST_TIMEOUT_S)
        with self._http.stream(
            "GET", f"{self._url}/{path}", params=httpx.QueryParams(list(asked)), headers=headers
        ) as response:
            # The limit is for the whole answer: one that drips in for ever is none.
            for chunk in response.iter_bytes():
                data += chunk
                if time.monotonic() > limit:
                    raise _FaultError(f"no complete answer within {REQUEST_TIMEOUT_S:g} s")
                if len(data) > _MAX_ANSWER:
                    raise _FaultError(f"an answer of more than {_MAX_ANSWER >> 20} MiB", malformed=True)
        if response.status_code != 200:
            raise self._refusal(response.status_code, response.headers, bytes(data), path)
        content = _json(bytes(data), response.headers.get("content-type", ""))
        hits = response.headers.get("cmr-hits", "")
        if not hits.isdecimal():
            raise _FaultError("an answer without a count (CMR-Hits)", malformed=True)
        try:
            made = read(content)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _FaultError(
                f"JSON of another form ({type(error).__name__} {error})"[:160], malformed=True
            ) from None
        return _Answer(content=made, hits=int(hits), after=response.headers.get("cmr-search-after"))

    def _refusal(self, status: int, headers: Mapping[str, str], data: bytes, path: str) -> Exception:
        found = f"status {status} from {self._url}/{path}"
        if status in _PASSING:
            return _FaultError(found, wait_s=_wait(headers))
        if status in {401, 403}:
            return AuthError(
                "CMR asks for a login",
                subject=self._subject,
                found=found,
                action="check the option cmr_url: the collections are public",
            )
        if 300 <= status < 400:
            target = urlsplit(headers.get("location", "")).netloc.rpartition("@")[2]
            found += f" to {target}" if target else ""
        said = "".join(letter for letter in data[:200].decode("utf-8", "replace") if letter.isprintable())
        return CatalogError(
            "CMR refused the question",
            subject=self._subject,
            found=f"{found}: {said}" if said else found,
            action="check the option cmr_url and the provider's collections",
        )


def _revision(granule: Any, collection: Collection) -> Revision:
    """Return the revision that a granule's metadata tell; raises as :meth:`_Exchange.get` says."""
    meta = granule["meta"]
    # The metadata stay as they are inside: a granule that the scene list would reject has changed all the same.
    item = umm.item_of({"umm": granule["umm"], "meta": meta})
    name, number = item["id"], meta["revision-id"]
    if not isinstance(name, str) or isinstance(number, bool) or not isinstance(number, int):
        raise TypeError("a granule without name or revision")
    if item["collection"] != collection.id:
        raise ValueError(f"a granule of {item['collection']}")
    begins = parse_time(item["properties"].get("datetime"))
    try:
        west, south, east, north = bbox_of(canonical_geometry(item["geometry"]))
        bbox = (west, south, east, north)
    except (GeometryError, ValueError):
        bbox = None
    return Revision(
        concept_id=_text(meta["concept-id"]),
        item=name,
        collection=collection.id,
        revision_id=number,
        revision_date=_moment(meta["revision-date"]),
        deleted=False,
        dates=(begins.date(),) if begins is not None else (),
        named=_named(name),
        bbox=bbox,
    )


def _deletion(entry: Any, collection: Collection) -> Revision:
    name = _text(entry["granule-ur"])
    return Revision(
        concept_id=_text(entry["concept-id"]),
        item=name,
        collection=collection.id,
        revision_id=None,
        revision_date=_moment(entry["revision-date"]),
        deleted=True,
        dates=(),
        named=_named(name),
        bbox=None,
    )


def _named(name: str) -> date | None:
    """Return the date in a granule's name; None where it is none of EMIT's."""
    granule = parse_granule(name)
    if granule is None:
        return None
    try:
        return datetime.strptime(granule.start, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).date()
    except ValueError:
        return None


def _listed(content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise TypeError("no list")
    return content


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("a name that is no text")
    return value


def _moment(value: Any) -> datetime:
    moment = parse_time(value)
    if moment is None:
        raise ValueError("a revision date that is none")
    return moment


def _json(data: bytes, content_type: str) -> Any:
    if "html" in content_type.lower():
        raise _FaultError("an HTML page (a login or error page?) instead of JSON", malformed=True)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise _FaultError(f"{len(data)} bytes that are no complete JSON", malformed=True) from None


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _wait(headers: Mapping[str, str]) -> float | None:
    try:
        seconds = float(headers.get("retry-after", "").strip())
    except ValueError:
        return None
    return seconds if 0.0 <= seconds < float("inf") else None


@cache
def _trust() -> ssl.SSLContext:
    """Return the TLS settings of all questions: reading the certificates takes longer than a request."""
    return httpx.create_ssl_context()
