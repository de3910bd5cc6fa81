"""A loopback server that answers as a test says, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Say:
    """One answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Server:
    """Answers by turns: the n-th request gets the n-th answer, later ones the last."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: list[Say | Callable[[Asked], Say]] = [Say()]
        self.url = ""
        self._lock = threading.Lock()

    def say(self, *answers: Say | Callable[[Asked], Say]) -> None:
        """Set the answers from here on."""
        with self._lock:
            self.asked, self.answers = [], list(answers)

    def answer(self, asked: Asked) -> Say:
        """Return the answer to a request."""
        with self._lock:
            turn = min(len(self.asked), len(self.answers) - 1)
            self.asked.append(asked)
            answer = self.answers[turn]
        return answer if isinstance(answer, Say) else answer(asked)


@contextmanager
def serving() -> Iterator[Server]:
    """Serve on a free port until the block ends."""
    script = Server()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            said = script.answer(
                Asked(
                    method=self.command,
                    path=self.path,
                    headers={name.lower(): value for name, value in self.headers.items()},
                    body=self.rfile.read(length),
                )
            )
            self.send_response(said.status)
            for name, value in {"Content-Length": str(len(said.body)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said.body)

        do_GET = do_POST = _do

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
