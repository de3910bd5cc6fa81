"""The one event loop of a process: async work is handed to it, and it is stopped before the process ends.

``asyncio.run`` builds and tears down a loop per call, which pools nothing and can abort the process
at exit (see :mod:`geostack_pipeline.storage.drain`).  One daemon thread owns one loop instead.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from geostack_pipeline.storage import drain

T = TypeVar("T")

_STOP_S = 2.0
"""How long cancelled tasks may take to unwind when the loop is stopped."""


class _LoopThread:
    """A daemon thread that runs one event loop until it is stopped."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="geostack-loop", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def stop(self) -> None:
        """Cancel what runs, let it unwind, end the thread."""
        if not self.thread.is_alive():
            return
        future = asyncio.run_coroutine_threadsafe(_cancel_all(), self.loop)
        with contextlib.suppress(Exception):
            future.result(_STOP_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(_STOP_S)


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


_current: _LoopThread | None = None
_lock = threading.Lock()


def run_async(coro: Coroutine[Any, Any, T], *, timeout: float | None = None) -> T:
    """Return the result of a coroutine that runs on the process's own loop thread.

    Any number of threads may call at once; their coroutines share the loop.

    Args:
        coro: What to run; its exceptions are raised here.
        timeout: Seconds after which the coroutine is cancelled and ``TimeoutError`` is raised.

    Raises:
        RuntimeError: When called from the loop itself, where waiting would never end: ``await`` there.
    """
    owner = _owner()
    if threading.current_thread() is owner.thread:
        coro.close()
        raise RuntimeError("run_async was called on the event loop's own thread; await the coroutine instead")
    future = asyncio.run_coroutine_threadsafe(coro, owner.loop)
    try:
        return future.result(timeout)
    except concurrent.futures.TimeoutError:
        if future.done():  # the coroutine itself timed out
            raise
        future.cancel()
        raise TimeoutError(f"async work did not finish within {timeout} s and was cancelled") from None
    except BaseException:
        # Ctrl-C in the waiting thread must not leave the work running behind the user's back.
        future.cancel()
        raise


def stop() -> None:
    """Stop the loop thread, if this process has one; the next :func:`run_async` starts another."""
    global _current
    with _lock:
        owner, _current = _current, None
    if owner is not None and owner.pid == os.getpid():
        owner.stop()


def _owner() -> _LoopThread:
    global _current  # noqa: PLW0603 - one loop per process
    with _lock:
        if _current is None or _current.pid != os.getpid() or not _current.thread.is_alive():
            _current = _LoopThread()
        return _current


def _forget_after_fork() -> None:
    # Threads do not survive a fork: the child inherits a loop nobody runs, and maybe a held lock.
    global _current, _lock  # noqa: PLW0603
    _current = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)
drain.before_drain(stop)
