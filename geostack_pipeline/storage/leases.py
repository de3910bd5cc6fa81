"""Leases on local disks: ``flock`` on a lock file, released by the kernel however the holder ends.

A local disk has no compare-and-swap, so writers of one partition's pointer take turns.  Each lease
opens the file anew, so threads of one process exclude each other like processes do.  Work that must
not be done twice at once takes turns on object stores too, there by :mod:`.object_lease`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from geostack_pipeline.errors import LeaseTakenError
from geostack_pipeline.storage.failures import storage_errors
from geostack_pipeline.storage.layout import LEASES
from geostack_pipeline.storage.object_lease import object_lease
from geostack_pipeline.storage.roots import Root

TIMEOUT_S = 60.0
"""A pointer is moved in milliseconds; whoever waits longer waits for a holder that hangs."""
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.1
_MOST_FOLDER_RACES = 10
_MOST_TOLD = 1000


StillHeld = Callable[[], None]
"""Raises a StorageError where the lease was lost; the kernel takes none away, an object store may."""


@contextmanager
def lease(
    root: Root, asset: str, partition: str, *, timeout_s: float = TIMEOUT_S, holder: str = ""
) -> Iterator[StillHeld]:
    """Hold the lease of a partition, or of anything else that has a name of two parts.

    Args:
        root: Where; pointers of an object store need none, they have conditional writes.
        asset: First part of the name.
        partition: Second part.
        timeout_s: How long to wait for another holder; 0 only looks.
        holder: Who holds it, told to those who wait in vain.

    Raises:
        LeaseTakenError: Another holder kept it for the whole time limit.
        StorageError: The root cannot be written.
    """
    subject = f"{asset} {partition}"
    if root.path is None:
        key = f"{LEASES}/{asset}/{partition}.json"
        with object_lease(root, key, subject, timeout_s=timeout_s, holder=holder) as still_held:
            yield still_held
        return
    path = root.path / LEASES / asset / f"{partition}.lock"
    with storage_errors(subject, "taking its lease"):
        descriptor = _open(path)
        try:
            _wait(descriptor, subject, timeout_s)
            if holder:
                # What a killed holder left is written over; nobody reads it while the lock is free.
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, holder.encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
    try:
        yield lambda: None
    finally:
        if holder:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
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
            holder = os.pread(descriptor, _MOST_TOLD, 0).decode(errors="replace") or "another process"
            raise LeaseTakenError(
                f"its lease is taken, and was not let go within {timeout_s:g} s",
                subject=subject,
                found=holder,
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
