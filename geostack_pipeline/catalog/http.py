"""One catalog over HTTP: requests that are retried, timed and told apart by what went wrong."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

import httpx

from geostack_pipeline.catalog.retry import RETRIED, Pace, RetryPolicy, exhausted_for, retry_after
from geostack_pipeline.errors import AuthError, CatalogError, CatalogUnavailableError
from geostack_pipeline.providers.contract import Provider

MAX_ANSWER_BYTES = 256 << 20
"""An answer beyond this is no page of items."""

_TAG = re.compile(r"<[^>]*>")
_SPACE = re.compile(r"\s+")


class WindowTimedOutError(Exception):
    """A request kept timing out: its window may be too much at once."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One JSON object that a catalog answered with status 200."""

    json: dict[str, Any]
    headers: Mapping[str, str]


class _FaultError(Exception):
    """Something that may pass: its text says what was seen."""

    def __init__(self, found: str, *, malformed: bool = False) -> None:
        self.malformed = malformed
        super().__init__(found)


class CatalogClient:
    """Sends the requests of one search. Lives on one event loop; close it with ``await aclose()``."""

    def __init__(self, provider: Provider, day: date, *, policy: RetryPolicy, pace: Pace) -> None:
        self.provider = provider
        self.subject = f"{provider.key} {day.isoformat()}"
        self.policy = policy
        self.pace = pace
        self.requests = 0
        self.bytes_moved = 0
        self._renewals = 0
        self._renewing = asyncio.Lock()
        self._sent: Mapping[str, str] = {}
        self._http = httpx.AsyncClient(
            headers={
                "user-agent": f"geostack_pipeline/{_version()}",
                "accept": "application/geo+json, application/json",
            },
            timeout=httpx.Timeout(provider.dialect.request_timeout_s, connect=15.0),
            limits=httpx.Limits(max_connections=provider.dialect.max_parallel_windows + 1),
            follow_redirects=False,
            verify=_trust(),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @property
    def search_url(self) -> str:
        """Where searches are posted."""
        return f"{self.provider.url}/search"

    async def ask(self, method: str, url: str, body: Mapping[str, Any] | None) -> Answer:
        """Return the catalog's answer, after as many attempts as the policy allows.

        Raises:
            AuthError: 401 or 403.
            CatalogError: 404 and other final statuses, redirects, or an answer that stays malformed.
            CatalogUnavailableError: No connection, 429 or 5xx until the last attempt, or the deadline.
            WindowTimedOutError: The request timed out as often as the policy allows.
        """
        timeouts = 0
        fault = _FaultError("no answer")
        for attempt in range(1, self.policy.attempts + 1):
            if attempt > 1:
                self.pace.retries += 1
            await self.pace.ready()
            if self.pace.remaining() <= 0.0:
                break
            try:
                return await self._logged_in(method, url, body)
            except TimeoutError:
                timeouts += 1
                fault = _FaultError(f"no answer within {self.provider.dialect.request_timeout_s:g} s")
                if timeouts >= self.policy.timeouts:
                    raise WindowTimedOutError(str(fault)) from None
            except httpx.TransportError as error:
                fault = _FaultError(_plain(error))
            except _FaultError as error:
                fault = error
            if attempt < self.policy.attempts:
                await self.pace.wait(self.policy.backoff(attempt))
        raise self._failure(fault, url)

    async def headers(self) -> Mapping[str, str]:
        """Return the provider's headers; it may have to ask for a token first, which must not hold the loop up."""
        self._sent = await asyncio.to_thread(self.provider.search_headers)
        return self._sent

    async def _logged_in(self, method: str, url: str, body: Mapping[str, Any] | None) -> Answer:
        """Ask once; a refused login is renewed once per search, since a token may expire or be revoked half-way."""
        before = self._renewals
        try:
            return await self._once(method, url, body)
        except AuthError:
            async with self._renewing:
                # Requests side by side are refused together: the first one renews the login for all of them.
                if self._renewals == before:
                    if before or not await asyncio.to_thread(self.provider.renew, None):
                        raise
                    self._renewals += 1
            return await self._once(method, url, body)

    async def _once(self, method: str, url: str, body: Mapping[str, Any] | None) -> Answer:
        self.requests += 1
        limit = min(self.provider.dialect.request_timeout_s, max(0.1, self.pace.remaining()))
        data = bytearray()
        own = await self.headers()
        try:
            # the limit is for the whole exchange: an answer that drips in for ever is a timeout too
            async with asyncio.timeout(limit):
                request = self._http.build_request(method, url, json=body, headers=dict(own))
                response = await self._http.send(request, stream=True)
                try:
                    async for chunk in response.aiter_bytes():
                        data += chunk
                        self.bytes_moved += len(chunk)
                        if len(data) > MAX_ANSWER_BYTES:
                            raise self._error(
                                "the answer is too large", found=f"more than {MAX_ANSWER_BYTES} bytes"
                            )
                finally:
                    await response.aclose()
        except httpx.ConnectTimeout as error:
            raise _FaultError(_plain(error)) from None
        except httpx.TimeoutException:
            raise TimeoutError from None
        except httpx.InvalidURL as error:
            raise self._error("the URL cannot be used", found=_plain(error)) from None
        headers = {name.lower(): value for name, value in response.headers.items()}
        if response.status_code != 200:
            self._refused(response.status_code, headers, bytes(data), url)
        if (seconds := exhausted_for(headers)) is not None:
            self.pace.hold(min(seconds, self.policy.retry_after_cap_s))
        return Answer(json=_parse(bytes(data), headers.get("content-type", "")), headers=headers)

    def _refused(self, status: int, headers: Mapping[str, str], data: bytes, url: str) -> None:
        """Raise what a status other than 200 means."""
        said = self._excerpt(data)
        where = plain_url(url)
        found = f"status {status} from {where}" + (f": {said}" if said else "")
        if status in RETRIED:
            asked = retry_after(headers, unit_s=self.provider.dialect.retry_after_unit_s)
            if asked is None:
                asked = exhausted_for(headers)
            if asked is not None:
                self.pace.hold(min(asked, self.policy.retry_after_cap_s))
                found += f" (asks to wait {asked:.0f} s)"
            raise _FaultError(found)
        if status in {401, 403}:
            raise AuthError(
                "the catalog refused the login" if self._sent else "the catalog asks for a login",
                subject=self.subject,
                found=found,
                action=f"check the credentials and the rights of {self.provider.key}",
            )
        if status == 404:
            raise self._error(
                "the catalog does not know what was asked for",
                found=f"{found}, asking for {', '.join(self.provider.collections)}",
                action="check the provider's url and collections",
            )
        if 300 <= status < 400:
            target = urlsplit(headers.get("location", "")).netloc.rpartition("@")[2]
            raise self._error(
                "the catalog sends elsewhere instead of answering",
                found=f"status {status} from {where}" + (f" to {target}" if target else ""),
                action="check the provider's url; a redirect often leads to a login page",
            )
        raise self._error(
            "the catalog refused the search",
            found=found,
            action="check the provider's collections, query and areas",
        )

    def _failure(self, fault: _FaultError, url: str) -> CatalogError:
        if fault.malformed:
            return self._error(
                "the catalog answers with something that is no STAC", found=str(fault), retryable=True
            )
        if self.pace.remaining() <= 0.0:
            return CatalogUnavailableError(
                "the search ran out of time",
                subject=self.subject,
                found=f"{self.policy.deadline_s:g} s passed, the last thing seen was: {fault}",
                action="run again later, or ask for fewer or smaller areas",
                retryable=True,
            )
        return CatalogUnavailableError(
            "the catalog is not available",
            subject=self.subject,
            found=f"{fault}, in each of {self.policy.attempts} attempts at {plain_url(url)}",
            action="run again later; what is stored stays as it is",
            retryable=True,
        )

    def _error(
        self, problem: str, *, found: str | None = None, action: str | None = None, retryable: bool = False
    ) -> CatalogError:
        return CatalogError(
            problem,
            subject=self.subject,
            found=found,
            action=action or "run again later; if it stays, check the provider's url",
            retryable=retryable,
        )

    def _excerpt(self, data: bytes) -> str:
        """Return the beginning of an answer as plain text, without any secret that was sent."""
        text = _SPACE.sub(" ", _TAG.sub(" ", data[:2000].decode("utf-8", "replace"))).strip()
        for value in self._sent.values():
            for secret in {value, *value.split()}:
                if len(secret) > 7:
                    text = text.replace(secret, "…")
        return "".join(letter for letter in text[:160] if letter.isprintable())


def plain_url(url: str) -> str:
    """Return scheme, host, port and path of a URL: no user info, query or fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def matched_of(page: Mapping[str, Any]) -> int | None:
    """Return how many items a search matches, from ``numberMatched`` or ``context.matched``; None if not said."""
    context = page.get("context")
    for value in (page.get("numberMatched"), context.get("matched") if isinstance(context, dict) else None):
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def _parse(data: bytes, content_type: str) -> dict[str, Any]:
    head = data[:200].lstrip().lower()
    if "html" in content_type.lower() or head.startswith((b"<!doctype", b"<html")):
        raise _FaultError("an HTML page (a login or error page?) instead of JSON", malformed=True)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _FaultError(
            f"{len(data)} bytes that are no complete JSON ({str(error)[:80]})", malformed=True
        ) from None
    if not isinstance(value, dict) or not isinstance(value.get("features"), list):
        raise _FaultError("JSON that is no FeatureCollection", malformed=True)
    if not all(isinstance(feature, dict) for feature in value["features"]):
        raise _FaultError("a FeatureCollection with features that are no objects", malformed=True)
    return value


def _plain(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:160] if str(error) else type(error).__name__


@cache
def _trust() -> ssl.SSLContext:
    """Return the TLS settings of all searches: reading the certificates takes longer than a request."""
    return httpx.create_ssl_context()


@cache
def _version() -> str:
    try:
        return metadata.version("geostack_pipeline")
    except metadata.PackageNotFoundError:
        return "0"
