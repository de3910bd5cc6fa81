"""The supervised search: every item that a catalog has for a date and some areas, or an error.

One date and a few boxes become windows, some of which are walked at once.  Each window is
probed for its count, walked, and checked; a window that is too much is halved.  A list
that is shorter than it should be is never returned.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import rustac

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog.http import CatalogClient, WindowTimedOutError, matched_of
from geostack_pipeline.catalog.pager import InconsistentWalkError, pages
from geostack_pipeline.catalog.retry import Pace, RetryPolicy
from geostack_pipeline.catalog.source import ask_source
from geostack_pipeline.catalog.windows import cluster, halve, windows
from geostack_pipeline.errors import CatalogUnavailableError, IncompleteSearchError, SettingsError
from geostack_pipeline.providers.contract import Item, ItemSource, Provider, SearchReport, SearchWindow
from geostack_pipeline.storage.loop import run_async

_RUSTAC_FIELDS = frozenset(
    {"intersects", "ids", "collections", "bbox", "datetime", "sortby", "filter", "query", "fields"}
)
_RUSTAC_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})")
_RUSTAC_FAULTS = 2
"""Failed walks of one window by rustac before our own pager, which sees statuses and headers, takes over."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Raw items of one date, each once, and what it took to get them."""

    items: list[Item]
    report: SearchReport


def search(
    provider: Provider,
    day: date,
    areas: Sequence[Area],
    *,
    policy: RetryPolicy | None = None,
    done: Callable[[SearchReport], None] | None = None,
) -> SearchResult:
    """Return all raw items of a UTC day whose footprint may touch an area, each once.

    The catalog is asked for the closed interval from midnight to midnight and for boxes
    around the areas: the list may hold a few items beyond, which
    :func:`~geostack_pipeline.catalog.normalise.normalise` sorts out.  Costs one probe and one
    walk per window.

    Args:
        provider: Which catalog.
        day: UTC date.
        areas: Areas of interest, at least one.
        policy: How patient to be.
        done: Called with the report at the end, also when an error is the end.

    Raises:
        SettingsError: No areas.
        AuthError: The catalog refused the login.
        CatalogUnavailableError: It did not answer in time, or kept answering 429 or 5xx.
        IncompleteSearchError: It returned another number of items than it counts, twice, or, without a count,
            never the same list twice in a row.
        CatalogError: It answered with something else than its protocol promises.
    """
    supervisor = _Supervisor(provider, day, areas, policy or RetryPolicy())
    try:
        items = [item for batch in supervisor.batches() for item in batch]
    finally:
        if done is not None:
            done(supervisor.report())
    return SearchResult(items=items, report=supervisor.report())


def stream(
    provider: Provider,
    day: date,
    areas: Sequence[Area],
    *,
    policy: RetryPolicy | None = None,
    done: Callable[[SearchReport], None] | None = None,
) -> Iterator[list[Item]]:
    """Yield the items of :func:`search` window by window as they are complete, so that few are held at once.

    A batch that was yielded is complete for its window; only when the generator ends without an
    error is the day complete.

    Args:
        provider: Which catalog.
        day: UTC date.
        areas: Areas of interest, at least one.
        policy: How patient to be.
        done: Called with the report after the last batch.
    """
    supervisor = _Supervisor(provider, day, areas, policy or RetryPolicy())
    yield from supervisor.batches()
    if done is not None:
        done(supervisor.report())


@dataclass(frozen=True, kw_only=True)
class _Walk:
    """One walk through one window."""

    items: list[Item]
    matched: int | None
    problem: str | None = None
    """Why the list cannot be right, whatever the count says."""


class _TooManyError(Exception):
    """A window matches more than is walked in one go."""


class _Supervisor:
    """Runs one search on the owned event loop; its steps are driven by the calling thread."""

    def __init__(self, provider: Provider, day: date, areas: Sequence[Area], policy: RetryPolicy) -> None:
        if not areas:
            raise SettingsError(
                "no area of interest",
                subject=f"{provider.key} {day.isoformat()}",
                action="name at least one area",
            )
        self._provider = provider
        self._day = day
        self._policy = policy
        self._pace = Pace(policy.deadline_s)
        self._queue = deque(windows(day, cluster(areas)))
        self._running: set[asyncio.Task[list[Item] | Sequence[SearchWindow]]] = set()
        self._client: CatalogClient | None = None
        self._seen: set[str] = set()
        self._report = SearchReport(
            windows=0, requests=0, matched=0, returned=0, retries=0, waited_s=0.0, bytes_moved=0
        )

    def batches(self) -> Iterator[list[Item]]:
        """Yield the new items of each window."""
        try:
            while (batch := run_async(self._step())) is not None:
                fresh = [item for item in batch if self._is_new(item)]
                self._report = replace(self._report, returned=self._report.returned + len(fresh))
                yield fresh
        finally:
            run_async(self._close())

    def report(self) -> SearchReport:
        """Return what was done so far."""
        return replace(self._report, retries=self._pace.retries, waited_s=round(self._pace.waited_s, 3))

    async def _step(self) -> list[Item] | None:
        """Return the items of the next window that is done; None when there is no more."""
        if self._client is None:
            self._client = CatalogClient(self._provider, self._day, policy=self._policy, pace=self._pace)
        while self._queue or self._running:
            while self._queue and len(self._running) < self._provider.dialect.max_parallel_windows:
                window = self._queue.popleft()
                self._running.add(asyncio.create_task(_WindowSearch(self, self._client, window).run()))
            done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            task = done.pop()
            self._running.discard(task)
            result = task.result()
            if isinstance(result, list):
                return result
            self._queue.extendleft(reversed(result))
        return None

    async def _close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()
        if self._client is not None:
            self.count(requests=self._client.requests, bytes_moved=self._client.bytes_moved)
            await self._client.aclose()
            self._client = None

    def count(
        self,
        *,
        windows: int = 0,
        requests: int = 0,
        bytes_moved: int | None = 0,
        matched: int | None = 0,
        note: str | None = None,
    ) -> None:
        """Add to the report; what a window does not tell, the whole search does not tell."""
        known, moved = self._report.matched, self._report.bytes_moved
        notes = self._report.notes
        self._report = replace(
            self._report,
            windows=self._report.windows + windows,
            requests=self._report.requests + requests,
            matched=None if known is None or matched is None else known + matched,
            bytes_moved=None if moved is None or bytes_moved is None else moved + bytes_moved,
            notes=notes if note is None or note in notes else (*notes, note),
        )

    def _is_new(self, item: Item) -> bool:
        identity = _identity(item)
        if identity in self._seen:
            return False
        self._seen.add(identity)
        return True


class _WindowSearch:
    """The search of one window: walk until a walk can be believed."""

    def __init__(self, supervisor: _Supervisor, client: CatalogClient, window: SearchWindow) -> None:
        self._supervisor = supervisor
        self._client = client
        self._window = window
        self._policy = client.policy
        self._dialect = client.provider.dialect
        self._body = client.provider.search_body(window)
        self._halves = halve(window, floor=self._policy.floor)
        self._page_size = self._dialect.page_size
        # rustac sends a body of these fields only
        able = self._dialect.walker == "rustac" and self._body.keys() <= _RUSTAC_FIELDS
        self._rustac_faults = 0 if able else _RUSTAC_FAULTS

    async def run(self) -> list[Item] | Sequence[SearchWindow]:
        """Return all items of the window, or the two halves to search instead."""
        try:
            items, matched = await self._verified()
        except _TooManyError:
            assert self._halves is not None
            return self._halves
        except WindowTimedOutError as error:
            if self._halves is not None:
                self._supervisor.count(note="a window that timed out was halved")
                return self._halves
            raise CatalogUnavailableError(
                "the catalog does not answer in time",
                subject=self._client.subject,
                found=f"{error}, for the window {self._name()}, the shortest that is tried",
                action="run again later, or ask for smaller areas",
                retryable=True,
            ) from None
        self._supervisor.count(windows=1, matched=matched)
        return items

    async def _verified(self) -> tuple[list[Item], int | None]:
        """Walk until the count agrees, or, where no count binds, until two walks in a row agree on the ids."""
        binding = self._dialect.count == "exact"
        seen: list[str] = []
        previous: frozenset[str] | None = None
        for turn in range(max(2, self._policy.walks)):
            walk = await self._walk()
            identities = [_identity(item) for item in walk.items]
            ids = frozenset(identities)
            problem = walk.problem
            if problem is None and len(ids) < len(identities):
                problem = "an item that was given twice"
            if problem is None and walk.matched is not None and len(ids) == walk.matched:
                return walk.items, walk.matched
            if problem is None and not (binding and walk.matched is not None):
                if ids == previous:
                    return walk.items, self._unbound(walk, len(ids))
                previous = ids
            counted = "no count" if walk.matched is None else f"{walk.matched} counted"
            seen.append(f"{counted}, {len(ids)} received" + (f", {problem}" if problem else ""))
            if turn and binding and (walk.matched is not None or problem):
                break
        raise IncompleteSearchError(
            "the catalog's lists cannot be trusted to be complete",
            subject=self._client.subject,
            found=f"for the window {self._name()}: " + "; then ".join(seen),
            action="run again later: the catalog may be taking in data; nothing was stored",
            retryable=True,
        )

    def _unbound(self, walk: _Walk, received: int) -> int | None:
        if walk.matched is not None:
            self._supervisor.count(
                note=f"the catalog estimates {walk.matched} where two walks agree on {received} items"
            )
        elif self._dialect.count != "none":
            self._supervisor.count(note="the catalog gave no count; two walks agree")
        return walk.matched

    async def _walk(self) -> _Walk:
        """Walk once: by the provider itself where its catalog is no STAC search, by rustac, or by our pager."""
        if isinstance(self._client.provider, ItemSource):
            return await self._walk_source(self._client.provider)
        while self._rustac_faults < _RUSTAC_FAULTS:
            # The probe also reads the rate headers and waits as Retry-After asks: rustac shows neither.
            matched = await self._probe()
            if matched == 0 and self._dialect.count == "exact":
                return _Walk(items=[], matched=0)
            walk = await self._walk_rustac(matched)
            if walk is not None:
                return walk
        return await self._walk_pages()

    async def _walk_source(self, source: ItemSource) -> _Walk:
        counted = await ask_source(self._client, lambda: source.count_items(self._window))
        self._check_size(counted.matched)
        if counted.matched == 0 and self._dialect.count == "exact":
            return _Walk(items=[], matched=0)
        answer = await ask_source(self._client, lambda: source.fetch_items(self._window))
        return _Walk(items=answer.items, matched=answer.matched)

    async def _probe(self) -> int | None:
        answer = await self._client.ask("POST", self._client.search_url, {**self._body, "limit": 1})
        matched = matched_of(answer.json)
        if matched == 0 and answer.json["features"]:
            matched = None
        self._check_size(matched)
        return matched

    def _check_size(self, matched: int | None) -> None:
        if self._halves is not None and matched is not None and matched > self._policy.split_above:
            raise _TooManyError

    async def _walk_rustac(self, matched: int | None) -> _Walk | None:
        """Return a walk by rustac; None when it failed in a way that the next probe or our pager will explain."""
        size = self._dialect.page_size
        # rustac follows repeating next links for ever: a ceiling above the count, where there is one, and a time limit
        ceiling = 100_000 if matched is None else matched + size
        walks = math.ceil(min(ceiling, self._policy.split_above * 10) / size) + 1
        limit = min(
            self._policy.walk_timeout_s, walks * self._dialect.request_timeout_s, self._pace.remaining()
        )
        client = rustac.ApiClient(
            self._client.provider.url, headers=dict(await self._client.headers()) or None
        )
        await self._pace.ready()
        try:
            async with asyncio.timeout(max(0.1, limit)):
                items = await client.search(**self._body, limit=size, max_items=ceiling)
        except TimeoutError:
            raise WindowTimedOutError(f"no complete walk within {limit:.0f} s") from None
        except rustac.RustacError as error:
            status = _RUSTAC_STATUS.search(str(error))
            # What is no status may be truncated JSON, HTML or a cut connection: only our pager can tell them apart.
            self._rustac_faults += 1 if status else _RUSTAC_FAULTS
            self._pace.retries += 1
            await self._pace.wait(self._policy.backoff(self._rustac_faults))
            return None
        self._supervisor.count(requests=len(items) // size + 1, bytes_moved=None)
        problem = f"a list of {len(items)} that does not end" if len(items) >= ceiling else None
        return _Walk(items=items, matched=matched, problem=problem)

    async def _walk_pages(self) -> _Walk:
        items: list[Item] = []
        matched: int | None = None
        seen: set[str] = set()
        size = self._page_size
        last = 0
        try:
            async for page in pages(self._client, {**self._body, "limit": size}):
                if not seen:
                    matched = page.matched
                    self._check_size(matched)
                fresh = {_identity(item) for item in page.items}
                items += page.items
                last = len(page.items)
                if len(fresh) < len(page.items) or fresh & seen:
                    # going on could be endless: the catalog repeats itself
                    return _Walk(items=items, matched=matched, problem="an item that was given twice")
                seen |= fresh
        except InconsistentWalkError as error:
            return _Walk(items=items, matched=matched, problem=str(error))
        if matched is None and last >= size > 1:
            # A full last page may be the end, or a next link that was left out, which two equal walks would both
            # believe: the next walk asks for pages of another size.
            self._page_size = size - 1
        return _Walk(items=items, matched=matched)

    @property
    def _pace(self) -> Pace:
        return self._client.pace

    def _name(self) -> str:
        box = ", ".join(f"{number:g}" for number in self._window.bbox)
        return f"{self._window.start:%Y-%m-%dT%H:%M:%SZ}/{self._window.end:%Y-%m-%dT%H:%M:%SZ} in [{box}]"


def _identity(item: dict[str, Any]) -> str:
    """Return what makes an item one of its kind: collection and id, or all of it where these are missing."""
    identifier, collection = item.get("id"), item.get("collection")
    if isinstance(identifier, str) and isinstance(collection, str | None):
        return f"{collection}/{identifier}"
    return hashlib.sha256(json.dumps(item, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
