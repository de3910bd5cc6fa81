"""Leases on local disks: ``flock`` on a lock file, released by the kernel however the holder ends.

A local disk has no compare-and-swap, so writers of one partition's pointer take turns.  Each lease
opens the file anew, so threads of one process exclude each other like processes do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geostack_pipeline.errors import StorageError
from geostack_pipeline.storage.failures import storage_errors
from geostack_pipeline.storage.layout import LEASES
from geostack_pipeline.storage.roots import Root

TIMEOUT_S = 60.0
"""A pointer is moved in milliseconds; whoever waits longer waits for a holder that hangs."""
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.1
_MOST_FOLDER_RACES = 10


@contextmanager
def lease(root: Root, asset: str, partition: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Hold the lease of a partition on a local root.

    Raises:
        StorageError: Another holder kept it for the whole time limit.
    """
    assert root.path is not None, "object stores use conditional writes instead"
    path = root.path / LEASES / asset / f"{partition}.lock"
    subject = f"{asset} {partition}"
    with storage_errors(subject, "taking its lease"):
        descriptor = _open(path)
        try:
            _wait(descriptor, subject, timeout_s)
        except BaseException:
            os.close(descriptor)
            raise
    try:
        yield
    finally:
        os.close(descriptor)


def _open(path: Path, more: int = 0) -> int:
    for _ in range(_MOST_FOLDER_RACES):
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | more, 0o644)
        # No folder yet, or gc removed the empty one in between.
        path.parent.mkdir(parents=True, exist_ok=True)
    raise FileNotFoundError(path)


def _wait(descriptor: int, subject: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    pause = _FIRST_PAUSE_S
    while not try_lock(descriptor):
        if time.monotonic() >= deadline:
            raise StorageError(
                "its lease is taken",
                subject=subject,
                found=f"another process held it for {timeout_s:g} s",
                action="end the process that hangs (its lease goes with it), then run again",
                retryable=True,
            )
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_S)


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file without waiting; returns whether it is held now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def create_locked(path: Path, data: bytes) -> int:
    """Create a file that is locked from the first instant it can be seen; returns its descriptor.

    Closing the descriptor, or the end of the process, releases the lock.
    """
    # obstore's own staging name: never listed, and swept by gc like those of obstore.
    staged = path.with_name(f"{path.name}#{os.getpid()}")
    descriptor = _open(staged, os.O_EXCL)
    try:
        os.write(descriptor, data)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        staged.rename(path)
    except BaseException:
        os.close(descriptor)
        staged.unlink(missing_ok=True)
        raise
    return descriptor


def is_held(path: Path) -> bool:
    """Return whether some process holds the lock of a file; a missing file is not held."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)
