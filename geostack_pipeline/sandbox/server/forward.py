"""Requests handed on to another server on loopback, as they are: a signature over them stays right."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
from starlette.types import Receive, Scope, Send

_OF_ONE_HOP = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"proxy-connection"}
)
"""Headers that concern one connection (RFC 9110, 7.6.1)."""
_OWN = frozenset({b"date", b"server"})
"""Headers that the sandbox's server sets itself."""


class Forward:
    """An ASGI application that is another server.  Bodies stream both ways; ``Host`` and the path stay as sent."""

    def __init__(self, target: str) -> None:
        self._target = httpx.URL(target)
        self._client: httpx.AsyncClient | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        if self._client is None:
            # Made here, since it belongs to the event loop that serves.
            limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
            self._client = httpx.AsyncClient(trust_env=False, timeout=120.0, limits=limits)
        query = scope["query_string"]
        path = scope["raw_path"].partition(b"?")[0] + (b"?" + query if query else b"")
        headers = [(name, value) for name, value in scope["headers"] if name not in _OF_ONE_HOP]
        has_body = any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])
        request = httpx.Request(
            scope["method"],
            self._target.copy_with(raw_path=path),
            headers=headers,
            content=_body(receive) if has_body else None,
        )
        answer = await self._client.send(request, stream=True)
        try:
            kept = [
                (name.lower(), value)
                for name, value in answer.headers.raw
                if name.lower() not in _OF_ONE_HOP | _OWN
            ]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
            async for chunk in answer.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        yield message.get("body", b"")
        if not message.get("more_body"):
            return
