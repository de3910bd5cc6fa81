"""Counts the requests of logins, and keeps what they carry out of the logs.

They happen inside providers, whenever a token is due; a run's ledger takes them.  A client that logs in is made with
``event_hooks=logins.HOOKS``.  httpx logs the whole URL of every request, and httpcore the headers of every answer:
tickets, signatures and cookies are cut out of both, wherever the records go.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

_URL = re.compile(r"(?<=://)(?:[^/?#\s]*@)?([^?#\s]*)[?#]\S*")
_lock = threading.Lock()
_seen: dict[str, list[int]] = {}


def count(response: httpx.Response) -> None:
    """Count one answer, by the host that gave it; its bytes as it announces them, as nothing is read yet."""
    announced = response.headers.get("content-length", "")
    with _lock:
        counts = _seen.setdefault(response.request.url.netloc.decode("ascii"), [0, 0])
        counts[0] += 1
        counts[1] += int(announced) if announced.isdecimal() else 0


HOOKS: Mapping[str, list[Callable[..., Any]]] = {"response": [count]}
"""For ``httpx.Client(event_hooks=…)``."""


def take() -> dict[str, tuple[int, int]]:
    """Return host -> (requests, bytes) since the last call in this process, and begin anew.

    Whoever takes them has them: a login serves every date that is worked on, and must be counted once.
    """
    with _lock:
        taken = {host: (requests, size) for host, (requests, size) in _seen.items()}
        _seen.clear()
    return taken


def without_secrets(record: logging.LogRecord) -> bool:
    """Cut queries out of a record's URLs and headers out of what an answer brought; True: the record is kept."""
    text = record.getMessage()
    shown = text.partition(" return_value=")[0] if "headers" in text else text
    shown = _URL.sub(r"\1", shown)
    if shown != text:
        record.msg, record.args = shown, ()
    return True


for _name in ("httpx", "httpcore.http11", "httpcore.http2"):
    logging.getLogger(_name).addFilter(without_secrets)
