"""Lets the native worker threads of obstore and rustac come to rest before the interpreter is torn down.

The failure: a coroutine of obstore or rustac resolves, the program ends at once, and a worker thread
of the native runtime still holds a reference that it wants to hand back to an interpreter that is
already being finalised; the process dies with SIGABRT, having lost its exit code.  The rule: at exit,
and at the end of a ``multiprocessing`` child, wait until no such thread has been scheduled for a few
milliseconds.  A process that never started these threads does not wait at all.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import util as mp_util
from pathlib import Path

QUIET_S = 0.03
"""How long no worker thread may have run before the process counts as drained."""
LEAST_S = 0.05
"""Shortest wait once worker threads exist; the pause that was seen to suffice on an idle machine."""
MOST_S = 2.0
"""Longest wait: a thread that is still busy then is busy with work nobody waits for."""
_STEP_S = 0.01
_BLIND_S = 0.1
_TASKS = Path("/proc/self/task")

_before: list[Callable[[], None]] = []
_lock = threading.Lock()
_installed = False


def install() -> None:
    """Register the drain with ``atexit`` and with ``multiprocessing``; further calls do nothing."""
    global _installed  # noqa: PLW0603 - once per process
    with _lock:
        if _installed:
            return
        _installed = True
    atexit.register(drain)
    # A spawned child runs its finalisers before atexit; a forked one runs nothing but these.
    # Priority 0 is run last among the finalisers that have one.
    mp_util.Finalize(None, drain, exitpriority=0)


def before_drain(action: Callable[[], None]) -> None:
    """Have an action run before each drain, e.g. the stop of an event loop."""
    with _lock:
        if action not in _before:
            _before.append(action)


def drain() -> None:
    """Stop what was registered, then wait until the native workers rest (at most :data:`MOST_S` seconds)."""
    for action in tuple(_before):
        with contextlib.suppress(Exception):
            action()
    settle()


def settle() -> float:
    """Wait until the native worker threads rest; returns the seconds waited."""
    start = time.monotonic()
    if not _TASKS.is_dir():
        # No way to look at the threads here: the fixed pause, if a native runtime was ever loaded.
        if any(name in sys.modules for name in ("obstore", "rustac")):
            time.sleep(_BLIND_S)
        return time.monotonic() - start
    seen = _worker_switches()
    quiet_since = start
    while seen:
        time.sleep(_STEP_S)
        now = time.monotonic()
        latest = _worker_switches()
        if latest != seen:
            seen, quiet_since = latest, now
        if now - start >= MOST_S or (now - start >= LEAST_S and now - quiet_since >= QUIET_S):
            break
    return time.monotonic() - start


def _worker_switches() -> dict[str, str]:
    """Return, for each native worker thread, how often it was scheduled so far."""
    switches: dict[str, str] = {}
    for task in _TASKS.iterdir():
        # A thread may end between the listing and the read.
        with contextlib.suppress(OSError):
            status = (task / "status").read_text()
            if status.startswith("Name:\ttokio"):
                switches[task.name] = status[status.find("voluntary_ctxt_switches") :]
    return switches
