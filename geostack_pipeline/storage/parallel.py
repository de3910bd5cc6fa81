"""A bounded map over threads: for hashing (hashlib lets other threads run) and for many small requests."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_MOST_THREADS = 16
"""More parallel requests gain nothing and cost memory."""


def in_threads(
    function: Callable[[T], R], items: Sequence[T], *, threads: int | None = None, serial_below: int = 2
) -> list[R]:
    """Return the function's results in the order of the items; the first failure ends it and is raised.

    Fewer than ``serial_below`` items are worked through without threads.
    """
    if len(items) < serial_below:
        return [function(item) for item in items]
    count = min(threads or min(_MOST_THREADS, 4 * (os.cpu_count() or 1)), len(items))
    with ThreadPoolExecutor(count, thread_name_prefix="geostack-io") as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
