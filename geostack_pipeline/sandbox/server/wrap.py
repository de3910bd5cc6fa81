"""What stands before every server: the request log and the faults of the wire."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from geostack_pipeline.sandbox.server.faults import Fault, FaultBoard

_LOGIN_PAGE = (
    b"<!DOCTYPE html><html><head><title>Log in</title></head><body><h1>Please log in</h1>"
    b"<form method='post'><input name='username'><input name='password' type='password'></form></body></html>"
)


class RequestLog:
    """What was asked of the servers: the newest entries, and totals that never forget."""

    def __init__(self, keep: int = 20_000) -> None:
        self._lock = Lock()
        self._entries: deque[dict[str, Any]] = deque(maxlen=keep)
        self._totals: dict[str, Counter[str]] = {}

    def add(self, entry: dict[str, Any]) -> None:
        """Note one finished request."""
        with self._lock:
            self._entries.append(entry)
            totals = self._totals.setdefault(entry["target"], Counter())
            totals["requests"] += 1
            totals["bytes"] += entry["bytes"]
            totals[f"status_{entry['status']}"] += 1
            totals[entry["method"]] += 1

    def report(self, target: str | None = None) -> dict[str, Any]:
        """Return ``{"totals": {target: {requests, bytes, status_…, <method>}}, "entries": […]}``."""
        with self._lock:
            entries = [entry for entry in self._entries if target in {None, entry["target"]}]
            totals = {name: dict(counts) for name, counts in self._totals.items() if target in {None, name}}
        return {"totals": totals, "entries": entries}

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._totals.clear()


class Watched:
    """An application with the log and the faults before it.

    Args:
        app: The application.
        target: Its name for faults and in the log: a provider key; None takes the first part of the path, the
            bucket.
        board: The faults.
        log: The log.
        forget: What the fault ``expired-login`` calls: each ends the logins that one server has given out.
    """

    def __init__(
        self,
        app: ASGIApp,
        target: str | None,
        board: FaultBoard,
        log: RequestLog,
        forget: Sequence[Callable[[], object]] = (),
    ) -> None:
        self._app = app
        self._target = target
        self._board = board
        self._log = log
        self._forget = forget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        target = self._target or path.strip("/").partition("/")[0]
        faults = self._board.take(target, path)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        entry: dict[str, Any] = {
            "time": time.time(),
            "target": target,
            "method": scope["method"],
            "path": path,
            "query": scope["query_string"].decode("latin-1"),
            "range": headers.get("range"),
            "authorization": "authorization" in headers,
            "faults": [fault.kind for fault in faults],
            "status": 0,
            "bytes": 0,
        }

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
            else:
                entry["bytes"] += len(message.get("body", b""))
            await send(message)

        wire = next((fault for fault in faults if fault.is_wire), None)
        try:
            if any(fault.kind == "expired-login" for fault in faults):
                for end_logins in self._forget:
                    await asyncio.to_thread(end_logins)
            if wire is None:
                await self._app({**scope, "sandbox.faults": faults}, receive, counting)
            else:
                await self._misbehave(wire, {**scope, "sandbox.faults": faults}, receive, counting)
        finally:
            entry["seconds"] = round(time.time() - entry["time"], 6)
            self._log.add(entry)

    async def _misbehave(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if fault.status is not None:
            await _refuse(fault, send)
        elif fault.kind == "hang":
            await _wait_or_leave(fault.seconds or 120.0, receive)
            # Returning without an answer makes the server close the connection, after a bare 500.
        elif fault.kind == "html":
            await _plain(send, 200, _LOGIN_PAGE, b"text/html; charset=utf-8")
        else:
            start, body = await _collect(self._app, scope, receive)
            await _spoil_body(fault, start, body, send)


async def _refuse(fault: Fault, send: Send) -> None:
    status = fault.status or 500
    more = []
    if fault.seconds is not None and status in {429, 503}:
        more.append((b"retry-after", f"{fault.seconds:g}".encode()))
    text = b'{"code":"Fault","description":"the sandbox was told to answer %d"}' % status
    await _plain(send, status, text, b"application/json; charset=utf-8", more)


async def _plain(
    send: Send, status: int, body: bytes, kind: bytes, more: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *(more or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _wait_or_leave(seconds: float, receive: Receive) -> None:
    """Wait, but no longer than the client does."""

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    with_client = asyncio.ensure_future(until_gone())
    try:
        await asyncio.wait([with_client], timeout=seconds)
    finally:
        with_client.cancel()


async def _collect(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    """Return what the application would have sent."""
    start: Message = {}
    parts: list[bytes] = []

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, keep)
    return start, b"".join(parts)


async def _spoil_body(fault: Fault, start: Message, body: bytes, send: Send) -> None:
    headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
    length = len(body)
    if fault.kind == "truncated":
        body = body[: length // 2]
        length = len(body)
    elif fault.kind == "corrupt":
        spoiled = bytearray(body)
        for place in range(length // 3, length, max(length // 7, 1)):
            spoiled[place] ^= 0x5A
        body = bytes(spoiled)
    await send({**start, "headers": [*headers, (b"content-length", str(length).encode())]})
    if fault.kind == "drip":
        pieces = 20
        size = max(-(-length // pieces), 1)
        for place in range(0, length, size):
            await send({"type": "http.response.body", "body": body[place : place + size], "more_body": True})
            await asyncio.sleep((fault.seconds or 30.0) / pieces)
        await send({"type": "http.response.body", "body": b""})
    elif fault.kind == "cut":
        # The promised length never comes: on return the server has to close the connection.
        await send({"type": "http.response.body", "body": body[: length // 2], "more_body": True})
    else:
        await send({"type": "http.response.body", "body": body})
