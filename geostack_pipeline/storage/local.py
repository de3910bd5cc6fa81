"""What only a local disk needs: writes that survive power loss, and the removal of empty folders."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from geostack_pipeline.storage.failures import storage_errors

_FLUSH_THREADS = 8
"""Parallel flushes share the disk's own queue, so several cost little more than one."""


def flush(base: Path, keys: list[str]) -> None:
    """Have the kernel write files below a folder, and the folders that name them, to the disk."""
    folders = {parent for key in keys for parent in (base / key).parents if base in (parent, *parent.parents)}
    with storage_errors(base.as_uri(), "flushing to disk"), ThreadPoolExecutor(_FLUSH_THREADS) as pool:
        list(pool.map(_fsync, [base / key for key in keys]))
        # The deepest first: a name is worth nothing before what it names.
        list(pool.map(_fsync, sorted(folders, key=lambda path: -len(path.parts))))


def create_flushed(path: Path, data: bytes) -> bool:
    """Write a file unless one exists: flushed before it has its name; returns whether this call made it."""
    staged = _staged(path, data)
    try:
        os.link(staged, path)
    except FileExistsError:
        return False
    finally:
        staged.unlink()
    _fsync(path.parent)
    return True


def replace_flushed(path: Path, data: bytes) -> None:
    """Replace a file atomically: flushed before it has its name, and its name before this returns."""
    _staged(path, data).rename(path)
    _fsync(path.parent)


def _staged(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The kind of name obstore stages under: never listed, swept by gc.
    staged = path.with_name(f"{path.name}#{os.getpid()}{os.urandom(4).hex()}")
    with staged.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return staged


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_empty(folder: Path, stop: Path) -> None:
    """Remove the empty folders at and below a folder, then its empty parents below ``stop``."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()
    parent = folder.parent
    while stop in parent.parents:
        try:
            parent.rmdir()
        except OSError:
            return
        parent = parent.parent
