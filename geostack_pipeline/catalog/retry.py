"""When a catalog is asked again: limits, backoff with jitter, Retry-After, and one shared pause."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may pass; every other 4xx and 5xx says that the same request will fail again."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How patient a search is."""

    attempts: int = 5
    """Times one request is sent before the catalog counts as unavailable."""
    timeouts: int = 2
    """Times one request may time out before its window is halved."""
    base_s: float = 0.5
    """Upper bound of the first random wait; doubles with each attempt."""
    cap_s: float = 30.0
    """Upper bound of any random wait."""
    retry_after_cap_s: float = 120.0
    """Longest wait that one Retry-After header is granted."""
    deadline_s: float = 1800.0
    """Time limit of a whole search."""
    walk_timeout_s: float = 600.0
    """Time limit of one walk through the pages of one window."""
    floor: timedelta = timedelta(hours=1)
    """Shortest window that halving may produce."""
    walks: int = 3
    """Walks through a window before differing answers are an error."""
    split_above: int = 1000
    """A window that matches more items is halved before it is walked, so that halves walk side by side."""

    def backoff(self, attempt: int) -> float:
        """Return a random wait in seconds before attempt ``attempt + 1`` (full jitter), attempts from 1."""
        return random.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** (attempt - 1)))  # noqa: S311 - no secret


def retry_after(
    headers: Mapping[str, str], *, now: datetime | None = None, unit_s: float = 1.0
) -> float | None:
    """Return the seconds a ``Retry-After`` header asks for, as a number or an HTTP date; None without a valid one.

    A date in the past is 0.  ``unit_s`` is how many seconds the number 1 means.
    """
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
        return max(0.0, seconds)
    return seconds * unit_s if 0.0 <= seconds < float("inf") else None


def exhausted_for(headers: Mapping[str, str]) -> float | None:
    """Return the seconds until a spent rate limit renews, from ``x-ratelimit-*`` or ``ratelimit-*``; None if not spent.

    The reset is taken as seconds from now, or, where it is far too large for that, as Unix time.
    """
    for prefix in ("x-ratelimit-", "ratelimit-", "x-rate-limit-"):
        try:
            remaining = float(headers.get(f"{prefix}remaining", "").split(",")[0].split(";")[0])
            reset = float(headers.get(f"{prefix}reset", "").split(",")[0].split(";")[0])
        except ValueError:
            continue
        if remaining > 0.0 or not 0.0 <= reset < float("inf"):
            continue
        return max(0.0, reset - time.time()) if reset > 1e9 else reset
    return None


class Pace:
    """One search's clock: its deadline, its common pause, and how long it waited. For one event loop."""

    def __init__(self, deadline_s: float) -> None:
        self.ends = time.monotonic() + deadline_s
        self.waited_s = 0.0
        self.retries = 0
        self._resume = 0.0

    def remaining(self) -> float:
        """Return the seconds until the deadline, not below 0."""
        return max(0.0, self.ends - time.monotonic())

    def hold(self, seconds: float) -> None:
        """Let every request of the search wait: a rate limit is the catalog's, not one window's."""
        self._resume = max(self._resume, time.monotonic() + seconds)

    async def ready(self) -> None:
        """Wait while the search is on hold, but not beyond the deadline."""
        while (seconds := self._resume - time.monotonic()) > 0.0 and self.remaining() > 0.0:
            await self.wait(seconds)

    async def wait(self, seconds: float) -> None:
        """Wait, but not beyond the deadline."""
        seconds = min(seconds, self.remaining())
        if seconds > 0.0:
            self.waited_s += seconds
            await asyncio.sleep(seconds)
