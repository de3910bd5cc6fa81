"""What happens in a run, told to whoever listens: a progress bar, a test, nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["started", "built", "reused", "failed", "moved", "waits"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened to one date of one stage."""

    provider: str
    """Key of the provider; empty for a stage over all of them."""
    stage: str
    day: str
    status: Status
    """``moved`` reports bytes in flight, ``waits`` that another process has the turn; the others are the life of a date."""
    version: str | None = None
    error: str | None = None
    info: Mapping[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]
_listeners: list[Listener] = []
_lock = threading.Lock()


def emit(event: Event) -> None:
    """Tell every listener of this process."""
    with _lock:
        listeners = list(_listeners)
    for listener in listeners:
        listener(event)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener`` with every event until the block ends; from worker threads too."""
    with _lock:
        _listeners.append(listener)
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(listener)
