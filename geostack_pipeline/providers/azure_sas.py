"""Logins to Azure containers: signatures (SAS) that a token server hands out, kept until shortly before they end.

A token server answers ``GET <url>/<account>/<container>`` with ``{"msft:expiry": …, "token": "st=…&se=…&sig=…"}``.
Its answers are few and precious (it limits its callers), and obstore asks its credential provider again on each request
once less than five minutes of a login are left.  So tokens are kept here, one per container, and every request of
every store asks here: a token that was renewed by one thread is used by all others at once.
"""

from __future__ import annotations

import json
import random
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

import httpx

from geostack_pipeline.errors import AuthError, CatalogUnavailableError, GeostackError
from geostack_pipeline.providers import logins
from geostack_pipeline.providers.coerce import parse_time
from geostack_pipeline.providers.credentials import Secret

KEY_HEADER = "Ocp-Apim-Subscription-Key"
"""Header of the subscription key.  Custom headers survive redirects to other hosts, so none is followed."""

MARGIN = timedelta(minutes=5)
"""How long before its end a token is replaced: longer than any one request takes."""

_ATTEMPTS = 5
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 120.0
_TIMEOUT_S = 30.0
_ANSWER_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class SasToken:
    """A signature for one container."""

    token: Secret
    """Query string, without ``?``."""
    number: int
    """Counts the tokens of the container: a new one has a higher number."""
    renew_at: float = field(repr=False)
    """When it is replaced, in seconds of the monotonic clock."""


class SasTokens:
    """Tokens of the containers behind one token server.  Thread-safe; refuses to be pickled.

    Args:
        url: Of the token server; account and container are appended.
        provider: Name for messages.
        key: Subscription key, sent to this server alone.
        key_variable: Environment variable that holds the key, for messages.
        clock: Seconds of a clock that never goes back.
        sleep: Waits some seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        provider: str,
        key: Secret | None = None,
        key_variable: str = "",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._provider = provider
        self._key = key
        self._key_variable = key_variable
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._fetching: dict[tuple[str, str], threading.Lock] = {}
        self._tokens: dict[tuple[str, str], SasToken] = {}
        self._count = 0

    def __reduce__(self) -> NoReturn:
        """Refuse: a pickle would hold tokens and key in clear."""
        raise TypeError("tokens are not pickled; build the provider again")

    def get(self, account: str, container: str) -> SasToken:
        """Return a token that is valid for a while; one thread asks the server while others wait for its answer.

        Raises:
            AuthError: The server refuses.
            CatalogUnavailableError: It does not answer, or keeps answering 429 or 5xx.
        """
        place = (account, container)
        with self._lock:
            fetching = self._fetching.setdefault(place, threading.Lock())
        if (known := self._valid(place)) is not None:
            return known
        with fetching:
            if (known := self._valid(place)) is not None:
                return known
            text, life = self._fetch(account, container)
            seconds = life.total_seconds()
            kept = seconds - min(MARGIN.total_seconds(), 0.2 * seconds)
            with self._lock:
                self._count += 1
                token = SasToken(token=Secret(text), number=self._count, renew_at=self._clock() + kept)
                self._tokens[place] = token
            return token

    def drop(self, account: str, container: str, number: int | None = None) -> bool:
        """Forget a token that was refused; returns whether asking again makes sense.

        Args:
            account: Storage account.
            container: Its container.
            number: The token that was refused, so that one that replaced it meanwhile stays; None drops any.
        """
        with self._lock:
            token = self._tokens.get((account, container))
            if token is None:
                return False
            if number is None or token.number == number:
                del self._tokens[(account, container)]
            return True

    def _valid(self, place: tuple[str, str]) -> SasToken | None:
        with self._lock:
            token = self._tokens.get(place)
        return token if token is not None and self._clock() < token.renew_at else None

    def _fetch(self, account: str, container: str) -> tuple[str, timedelta]:
        """Return a fresh token and how long it lives."""
        subject = f"{self._provider} az://{account}/{container}"
        headers = {"accept": "application/json"}
        if self._key:
            headers[KEY_HEADER] = self._key.reveal()
        found = "no answer"
        with httpx.Client(
            timeout=_TIMEOUT_S,
            trust_env=False,
            follow_redirects=False,
            verify=_trust(),
            headers=headers,
            event_hooks=logins.HOOKS,
        ) as client:
            for attempt in range(1, _ATTEMPTS + 1):
                wait = random.uniform(0.0, min(30.0, 0.5 * 2.0**attempt))  # noqa: S311 - no secret depends on it
                try:
                    response = client.get(f"{self.url}/{account}/{container}")
                except httpx.TransportError as error:
                    # Its text may hold the URL, which is no secret; headers are never in it.
                    found = f"{type(error).__name__}: {error}"[:160]
                else:
                    if response.status_code == 200:
                        try:
                            return _read(response)
                        except _AnswerError as error:
                            found = str(error)
                    elif response.status_code in _RETRIED:
                        found = f"status {response.status_code}"
                        asked = _retry_after(response)
                        if asked is not None:
                            wait = min(asked, _LONGEST_WAIT_S)
                            found += f" (asks to wait {asked:.0f} s)"
                    else:
                        raise self._refusal(response, subject)
                if attempt < _ATTEMPTS:
                    self._sleep(wait)
        raise CatalogUnavailableError(
            "the token server gives no token",
            subject=subject,
            found=f"{found}, in each of {_ATTEMPTS} attempts at {_plain(self.url)}",
            action="run again later"
            + (
                ""
                if self._key or not self._key_variable
                else f"; with {self._key_variable} set, more requests are granted"
            ),
            retryable=True,
        )

    def _refusal(self, response: httpx.Response, subject: str) -> GeostackError:
        status = response.status_code
        found = f"status {status} from {_plain(self.url)}"
        if 300 <= status < 400:
            target = urlsplit(response.headers.get("location", "")).hostname
            return AuthError(
                "the token server sends elsewhere instead of giving a token",
                subject=subject,
                found=found + (f", to {target}" if target else ""),
                action=f"check the endpoint of the token server of {self._provider}",
            )
        if status in {401, 403} and self._key:
            return AuthError(
                "the token server refuses the subscription key",
                subject=subject,
                found=found,
                action=f"correct or unset {self._key_variable}, then run again",
            )
        if status in {401, 403}:
            return AuthError(
                "the token server refuses to give a token",
                subject=subject,
                found=found,
                action=f"set {self._key_variable} to a subscription key, or run again later",
            )
        return AuthError(
            "the token server gives no token for this container",
            subject=subject,
            found=found,
            action=f"check the endpoint of the token server of {self._provider}; the container may have moved",
        )


class SasLogin:
    """The login of one store, in the form that obstore asks for it (``AzureSASToken``); refuses to be pickled."""

    def __init__(self, tokens: SasTokens, account: str, container: str) -> None:
        self.account = account
        self.container = container
        self._tokens = tokens
        self.number: int | None = None
        """Number of the token that was given last."""

    def __call__(self) -> dict[str, Any]:
        """Return the token; as it says to end now, obstore keeps it for one request and asks here again."""
        token = self._tokens.get(self.account, self.container)
        self.number = token.number
        return {"sas_token": token.token.reveal(), "expires_at": datetime.now(UTC)}

    def drop(self) -> bool:
        """Forget the token that was given last; returns whether asking again makes sense."""
        return self._tokens.drop(self.account, self.container, self.number)

    def __reduce__(self) -> NoReturn:
        """Refuse: the other process builds its provider itself."""
        raise TypeError("a login is not pickled; build the provider again")


class _AnswerError(Exception):
    """An answer with status 200 that holds no usable token: the text says why, without the token."""


def _read(response: httpx.Response) -> tuple[str, timedelta]:
    """Return token and life of an answer; its life is counted by the server's clock, which ours may differ from."""
    if len(response.content) > _ANSWER_BYTES:
        raise _AnswerError(f"an answer of {len(response.content)} bytes")
    try:
        value = json.loads(response.content)
    except (ValueError, RecursionError):
        kind = response.headers.get("content-type", "no type")[:40]
        raise _AnswerError(f"{len(response.content)} bytes ({kind}) that are no JSON") from None
    text = value.get("token") if isinstance(value, dict) else None
    ends = parse_time(value.get("msft:expiry")) if isinstance(value, dict) else None
    if not isinstance(text, str) or ends is None:
        raise _AnswerError("JSON without token or msft:expiry")
    text = text.strip().removeprefix("?")
    if not text.isascii() or not text.isprintable() or " " in text or "sig" not in parse_qs(text):
        raise _AnswerError("a token that is no signed query string")
    try:
        now = parsedate_to_datetime(response.headers.get("date", ""))
    except (ValueError, TypeError, IndexError):
        now = datetime.now(UTC)
    life = ends - (now if now.tzinfo is not None else now.replace(tzinfo=UTC))
    if life <= timedelta(0):
        raise _AnswerError("a token that has ended already")
    return text, life


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, as a number or an HTTP date; None without a valid one."""
    text = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    return seconds if 0.0 <= seconds < float("inf") else None


def _plain(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@cache
def _trust() -> ssl.SSLContext:
    """Return the TLS settings of all requests: reading the certificates takes longer than a request."""
    return httpx.create_ssl_context()
