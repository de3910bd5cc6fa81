"""A small HTTP/1.1 server for loopback, in a process of its own: what is measured shares no interpreter with it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any
from urllib.request import urlopen

_ROOT = Path(__file__).parents[1]
_REASONS = {200: "OK", 206: "Partial Content", 404: "Not Found", 412: "Precondition Failed", 500: "Error"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request, read whole."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: bytes in memory, or a part of a file that the kernel sends."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    file: Path | None = None
    start: int = 0
    length: int = 0
    """Bytes of the file from ``start``."""
    cut: bool = False
    """Send half of the body and hang up."""


Handler = Callable[[Request], Awaitable[Answer]]


class Server:
    """Answers requests and counts them; ``GET /_counts`` tells, and begins anew."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._counts = {"requests": 0, "bytes": 0}

    async def serve(self) -> None:
        """Listen on a free port of the loopback, print it, and go on until the standard input closes."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=1 << 20)
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait() -> None:
            sys.stdin.read()
            loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=wait, daemon=True).start()
        await ended.wait()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read(reader)) is not None and await self._answer(request, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Send the answer; return whether the connection stays open."""
        if request.path == "/_counts":
            answer = Answer(body=json.dumps(self._counts).encode())
            self._counts = {"requests": 0, "bytes": 0}
        else:
            answer = await self._handler(request)
            self._counts["requests"] += 1
        size = answer.length if answer.file is not None else len(answer.body)
        lines = [f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}", f"content-length: {size}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        if request.method == "HEAD":
            await writer.drain()
            return True
        if answer.file is None:
            body = answer.body[: size // 2] if answer.cut else answer.body
            writer.write(body)
            await writer.drain()
        elif size:
            await writer.drain()
            with answer.file.open("rb") as file:
                await asyncio.get_running_loop().sendfile(writer.transport, file, answer.start, size)
        if request.path != "/_counts":
            self._counts["bytes"] += size
        return not answer.cut


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method=method, path=path, headers=headers, body=body)


@contextmanager
def running(module: str, *arguments: str) -> Iterator[str]:
    """Start a server module in a process of its own; yield its URL; end it."""
    command = [sys.executable, "-m", module, *arguments]
    with Popen(command, stdin=PIPE, stdout=PIPE, cwd=_ROOT) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{module} did not start: exit code {process.wait()}")
            yield f"http://127.0.0.1:{json.loads(line)['port']}"
        finally:
            process.stdin.close()
            process.terminate()
            process.wait(10)


def counts(url: str) -> dict[str, int]:
    """Return requests and body bytes since the last call."""
    with urlopen(f"{url}/_counts", timeout=10) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def options(**defaults: Any) -> argparse.Namespace:
    """Return the options of a server's command line; the types are those of the defaults."""
    parser = argparse.ArgumentParser()
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()
