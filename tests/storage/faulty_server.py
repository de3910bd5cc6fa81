"""A loopback HTTP server whose faults are scripted request by request."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from obstore.store import HTTPStore

from geostack_pipeline.storage.roots import CLIENT_OPTIONS, retry_config


@dataclass
class Fault:
    """What is wrong with one answer."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    ignore_range: bool = False
    ignore_if_match: bool = False
    announce: int | None = None
    """Announce another Content-Length than the body has."""
    body: bytes | None = None
    """Replace the object from this request on."""
    etag: str | None = "keep"
    """Replace the ETag from this request on; None sends none."""
    stall_s: float = 0.0
    """Wait before the body."""


OK = Fault()


class FaultyServer:
    """Serves one object at every path; ``script`` holds the faults of the next requests, then all is well."""

    def __init__(self, body: bytes, *, etag: str | None = '"v1"') -> None:
        self.body = body
        self.etag = etag
        self.script: list[Fault] = []
        self.seen: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.url = ""

    def next_fault(self, request: dict[str, Any]) -> tuple[Fault, bytes, str | None]:
        with self.lock:
            self.seen.append(request)
            fault = self.script.pop(0) if self.script else OK
            if fault.body is not None:
                self.body = fault.body
            if fault.etag != "keep":
                self.etag = fault.etag
            return fault, self.body, self.etag

    def store(self, *, retries: int = 0, **client: Any) -> HTTPStore:
        options: Any = {**CLIENT_OPTIONS, "allow_http": True, **client}
        return HTTPStore.from_url(
            self.url, client_options=options, retry_config=retry_config(max_retries=retries)
        )

    @property
    def ranges(self) -> list[str | None]:
        return [request["range"] for request in self.seen]


@contextmanager
def serving(body: bytes, *, etag: str | None = '"v1"') -> Iterator[FaultyServer]:
    state = FaultyServer(body, etag=etag)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = {name: self.headers.get(name) for name in ("range", "if-match")}
            fault, body, etag = state.next_fault({**asked, "path": self.path})
            if fault.status is not None:
                return self.answer(fault.status, {**fault.headers, "Content-Length": "4"}, b"oops")
            headers = dict(fault.headers)
            if etag is not None:
                headers["ETag"] = etag
            if asked["if-match"] not in {None, etag} and not fault.ignore_if_match:
                return self.answer(412, {"Content-Length": "0"}, b"")
            start, stop, status = 0, len(body), 200
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked["range"] or "")
            if match and not fault.ignore_range:
                start = int(match[1])
                stop = min(int(match[2]) + 1 if match[2] else len(body), len(body))
                if start >= len(body):
                    return self.answer(416, {"Content-Length": "0"}, b"")
                status = 206
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
            part = body[start:stop]
            headers["Content-Length"] = str(len(part) if fault.announce is None else fault.announce)
            if fault.stall_s:
                time.sleep(fault.stall_s)
            if fault.cut_after is not None:
                part = part[: fault.cut_after]
                self.close_connection = True
            return self.answer(status, headers, part)

        def answer(self, status: int, headers: dict[str, str], part: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(part)
                self.wfile.flush()
            except OSError:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
