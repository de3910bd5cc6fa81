"""Who hears of a run that failed: the log always, a webhook where the settings name one.

The address of a webhook is a secret (whoever has it may post), so it is read from the environment, and appears in no
log, message or event: the request goes past httpx's client, which would log it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from geostack_pipeline.errors import SettingsError, TransferError
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.settings import NotifySettings
from geostack_pipeline.storage.hrefs import is_loopback

_LOG = logging.getLogger(__name__)
ATTEMPTS = 2
PAUSE_S = 1.0
LONGEST_ERROR = 1500
"""Characters of an error that are passed on."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One failed run."""

    run_id: str
    job: str
    error: str
    """What the run says of itself, without a secret."""
    provider: str | None = None
    dates: str | None = None
    """Date, or first and last date."""
    will_retry: bool = False
    """Whether it is tried again by itself."""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """One line for people."""
        what = f"{self.job}{f' for {self.dates}' if self.dates else ''}"
        after = " It is tried again." if self.will_retry else ""
        return f"geostack: the run {self.run_id[:8]} of {what} failed.{after} {self.error}".strip()


class Notifier(Protocol):
    """Takes notices somewhere.  One of your own needs this method only."""

    def notify(self, notice: Notice) -> None:
        """Pass a notice on, within seconds; raises ``TransferError`` where that does not work."""
        ...


class LogNotifier:
    """Writes notices into a log."""

    def __init__(self, log: Callable[..., object] = _LOG.error) -> None:
        self._log = log

    def notify(self, notice: Notice) -> None:
        """Write one line."""
        self._log("%s", notice.text)


class WebhookNotifier:
    """Posts notices as JSON: ``text``, which chat services show, and ``geostack`` with the parts.

    Args:
        url: The address.
        name: Variable that holds it, for messages.
        timeout_s: Time limit of one attempt, from connecting to the answer's head; there are :data:`ATTEMPTS`.

    Raises:
        SettingsError: The address is not https (or http on loopback).
    """

    def __init__(self, url: Secret, *, name: str, timeout_s: float = 10.0) -> None:
        parts = urlsplit(url.reveal())
        plain = parts.scheme == "http" and is_loopback(parts.hostname or "")
        if not parts.hostname or not (parts.scheme == "https" or plain):
            raise SettingsError(
                "the webhook's address cannot be used",
                subject=f"environment variable {name}",
                action="set it to an https address",
            )
        self._url = url
        self._name = name
        self._timeout_s = timeout_s

    def notify(self, notice: Notice) -> None:
        """Post a notice; returns when the service has taken it.

        Raises:
            TransferError: It was not taken; the text holds neither the address nor the answer.
        """
        content = {
            "text": notice.text,
            "geostack": {
                "run_id": notice.run_id,
                "job": notice.job,
                "provider": notice.provider,
                "dates": notice.dates,
                "error": notice.error,
                "will_retry": notice.will_retry,
            },
        }
        found = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_S)
            try:
                status = asyncio.run(self._post(content))
            except TimeoutError:
                found = f"no answer within {self._timeout_s:g} s"
            except (httpx.HTTPError, OSError) as error:
                # Its text may hold the address.
                found = type(error).__name__
            else:
                if 200 <= status < 300:
                    return
                found = f"status {status}"
                if 300 <= status < 500 and status not in {408, 429}:
                    break
        raise TransferError(
            "the webhook did not take the notice",
            subject=f"webhook in {self._name}",
            found=found,
            action=f"check the address in {self._name}; the run's own log has the error",
            retryable=True,
        )

    async def _post(self, content: Any) -> int:
        limits = httpx.Timeout(self._timeout_s).as_dict()
        request = httpx.Request(
            "POST",
            self._url.reveal(),
            json=content,
            headers={"user-agent": "geostack_pipeline"},
            extensions={"timeout": limits},
        )
        async with asyncio.timeout(self._timeout_s), httpx.AsyncHTTPTransport(verify=_trust()) as transport:
            answer = await transport.handle_async_request(request)
            # What it says is of no interest, and may be endless.
            await answer.aclose()
            return answer.status_code


def notifiers(settings: NotifySettings, log: Callable[..., object]) -> Iterator[Notifier]:
    """Yield who is told, in order: the log first, which cannot fail.

    Raises:
        SettingsError: After the log: the variable that should hold the webhook is not set, or holds no address.
    """
    yield LogNotifier(log)
    if settings.webhook is not None:
        name = settings.webhook.removeprefix("env:")
        url = os.environ.get(name)
        if not url:
            raise SettingsError(
                f"the environment variable {name} is not set",
                subject="setting automation.notify.webhook",
                action=f"export {name}, or remove the setting",
            )
        yield WebhookNotifier(Secret(url), name=name, timeout_s=settings.timeout_s)


@cache
def _trust() -> ssl.SSLContext:
    return httpx.create_ssl_context()
