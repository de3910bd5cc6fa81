"""Part files: what a download has so far, so that another process can go on where this one was killed.

``<dest>.part`` holds the bytes, ``<dest>.part.json`` says of which object, size and ETag.  The state is
written before the first byte of a version and removed before the bytes of another one, so bytes never
stand under a wrong ETag.  A lock keeps two processes from writing one part file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from geostack_pipeline.storage.digest import CHUNK, Hasher
from geostack_pipeline.storage.failures import storage_errors
from geostack_pipeline.storage.leases import try_lock


class PartFile:
    """The part file of one destination, open and locked; a context manager.

    Args:
        dest: Final path.
        identity: Names the object, so that a part of another one is not continued.
        hashers: Fed with every byte of the part, beside sha256.
    """

    def __init__(self, dest: Path, identity: str, hashers: Sequence[Hasher] = ()) -> None:
        self.dest = dest
        self.identity = identity
        self.etag: str | None = None
        """ETag of the version that the bytes belong to."""
        self.size = -1
        """Size of that version in bytes; -1 before the first answer."""
        self.offset = 0
        """Bytes in the part."""
        self._extra = tuple(hashers)
        self._blank = [hasher.copy() for hasher in hashers]
        self._sha = hashlib.sha256()
        self._descriptor = -1
        self._path = dest.with_name(f"{dest.name}.part")

    def __enter__(self) -> Self:
        """Open and lock the part, and take up what a former process left in it."""
        with storage_errors(str(self.dest), "opening a part file"):
            self.dest.parent.mkdir(parents=True, exist_ok=True)
            if not self._lock():
                # Another process downloads the same: do not wait for it, do not disturb it.
                self._path = self.dest.with_name(f"{self.dest.name}.part-{uuid.uuid4().hex[:8]}")
                self._lock()
            self._take_up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; a part with bytes stays for the next process, an empty one goes."""
        if self._descriptor >= 0 and not self.offset:
            self.discard()
        self._close()

    def begin(self, etag: str | None, size: int) -> None:
        """Note which version the bytes that follow belong to; only an empty part begins."""
        assert self.offset == 0
        self.etag, self.size = etag, size
        state = json.dumps({"identity": self.identity, "etag": etag, "size": size})
        with storage_errors(str(self.dest), "noting a download"):
            staged = self._state.with_name(f"{self._state.name}#")
            staged.write_text(state)
            staged.replace(self._state)

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        with storage_errors(str(self.dest), "writing a download"):
            done = 0
            try:
                while done < len(data):
                    done += os.write(self._descriptor, data[done:])
            except BaseException:
                # Bytes that were not hashed must not stay.
                os.ftruncate(self._descriptor, self.offset)
                os.lseek(self._descriptor, self.offset, os.SEEK_SET)
                raise
        self._hash(data)
        self.offset += len(data)

    def restart(self) -> None:
        """Forget the bytes: they belong to a version that is no more, or cannot be continued."""
        with storage_errors(str(self.dest), "restarting a download"):
            self._state.unlink(missing_ok=True)
            self._truncate(0)
        self.etag, self.size = None, -1

    def discard(self) -> None:
        """Remove the part and its state."""
        with contextlib.suppress(OSError):
            self._state.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
        self._close()

    def finish(self) -> str:
        """Give the part its final name; returns its sha256."""
        with storage_errors(str(self.dest), "finishing a download"):
            self._path.replace(self.dest)
            self._state.unlink(missing_ok=True)
        self._close()
        return self.sha256

    @property
    def sha256(self) -> str:
        """The sha256 of the bytes so far."""
        return self._sha.hexdigest()

    @property
    def _state(self) -> Path:
        return self._path.with_name(f"{self._path.name}.json")

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _lock(self) -> bool:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not try_lock(descriptor):
                os.close(descriptor)
                return False
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._path.stat()):
                    self._descriptor = descriptor
                    return True
            # The holder finished in between and renamed what was opened here.
            os.close(descriptor)

    def _take_up(self) -> None:
        length = os.fstat(self._descriptor).st_size
        try:
            state = json.loads(self._state.read_text())
            usable = (
                state["identity"] == self.identity
                and 0 < length <= state["size"]
                and _is_strong(state["etag"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            usable = False
        if not usable:
            self.restart()
            return
        self.etag, self.size = state["etag"], state["size"]
        # A whole part still needs the source's word that it is current: its last byte is asked for again.
        self._truncate(min(length, self.size - 1))

    def _truncate(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._sha = hashlib.sha256()
        self._extra = tuple(hasher.copy() for hasher in self._blank)
        self.offset = 0
        while self.offset < length:
            chunk = os.read(self._descriptor, min(CHUNK, length - self.offset))
            if not chunk:
                break
            self._hash(memoryview(chunk))
            self.offset += len(chunk)

    def _hash(self, data: memoryview) -> None:
        self._sha.update(data)
        for hasher in self._extra:
            hasher.update(data)

    @property
    def digests(self) -> list[str]:
        """Digests of the hashers that were given, in their order."""
        return [hasher.hexdigest() for hasher in self._extra]


def _is_strong(etag: str | None) -> bool:
    return isinstance(etag, str) and bool(etag) and not etag.startswith("W/")
