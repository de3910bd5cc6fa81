"""Digests: sha256 of bytes and files, canonical JSON, version names, multihash checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

CHUNK = 1 << 20
"""Bytes read at once when a file is hashed; hashlib lets other threads run above 2 kB."""
_VERSION_DIGITS = 16


def sha256_bytes(data: bytes | memoryview) -> str:
    """Return the sha256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> tuple[int, str]:
    """Return a file's size in bytes and its sha256, reading :data:`CHUNK` bytes at a time."""
    return sha256_chunks(_chunks(path))


def sha256_chunks(chunks: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Return the total size and the sha256 of a stream of buffers."""
    digest = hashlib.sha256()
    size = 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def _chunks(path: Path) -> Iterable[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def canonical_json(obj: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8, no NaN or infinity.

    Tuples are written as lists, any ``Mapping`` as an object.

    Raises:
        TypeError: A key is not a string (``{1: …}`` and ``{"1": …}`` would look the same), or a value
            has no JSON form.
        ValueError: A number is NaN or infinite, or a string holds a lone surrogate.
    """
    text = json.dumps(_plain(obj), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def _plain(obj: Any) -> Any:
    if isinstance(obj, Mapping):
        for key in obj:
            if not isinstance(key, str):
                raise TypeError(f"canonical JSON needs string keys, found {key!r} ({type(key).__name__})")
        return {key: _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    return obj


def version_of(obj: Any) -> str:
    """Return the version name of a value: the first 16 hex digits of the sha256 of its canonical JSON.

    64 bits: among a million versions of one partition, two differing ones meet with a chance of 3e-8.
    """
    return sha256_bytes(canonical_json(obj))[:_VERSION_DIGITS]


class Hasher(Protocol):
    """The part of a ``hashlib`` object that is used here."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Return the digest of what was taken in."""
        ...

    def copy(self) -> Hasher:
        """Return an independent hasher in the same state."""
        ...


_ALGORITHMS: dict[int, tuple[str, int]] = {
    0x11: ("sha1", 20),
    0x12: ("sha256", 32),
    0x13: ("sha512", 64),
    0x14: ("sha3_512", 64),
    0x15: ("sha3_384", 48),
    0x16: ("sha3_256", 32),
    0x17: ("sha3_224", 28),
    0xD5: ("md5", 16),
}
"""Multihash code -> name in hashlib, digest length in bytes (multiformats' table)."""


@dataclass(frozen=True, kw_only=True)
class Multihash:
    """A checksum with its algorithm, as STAC's ``file:checksum`` gives it."""

    algorithm: str
    """Name in ``hashlib``: ``sha256``, ``md5``, ``sha3_256`` …"""
    hexdigest: str
    """The expected digest, lower-case hex."""

    @classmethod
    def parse(cls, text: str) -> Multihash:
        """Return the checksum of a hex multihash: ``1220…`` sha256, ``d50110…`` md5, ``1620…`` sha3-256.

        Raises:
            ValueError: Not hex, an unknown algorithm, or another length than the algorithm has.
        """
        try:
            raw = bytes.fromhex(text)
        except ValueError:
            raise ValueError(f"not a hex multihash: {text[:80]!r}") from None
        code, rest = _varint(raw)
        length, digest = _varint(rest)
        if code not in _ALGORITHMS:
            raise ValueError(f"multihash algorithm 0x{code:x} is not known: {text[:80]!r}")
        name, expected = _ALGORITHMS[code]
        if length != expected or len(digest) != expected:
            raise ValueError(
                f"a {name} multihash holds {expected} bytes, found {len(digest)} (says {length})"
            )
        return cls(algorithm=name, hexdigest=digest.hex())

    def hasher(self) -> Hasher:
        """Return a fresh hasher of the algorithm."""
        make: Callable[..., Hasher] = hashlib.new
        # md5 and sha1 detect damage here, they protect nothing.
        return make(self.algorithm, usedforsecurity=False)

    def matches(self, data: bytes) -> bool:
        """Return whether bytes have this digest."""
        hasher = self.hasher()
        hasher.update(data)
        return hasher.hexdigest() == self.hexdigest


def _varint(raw: bytes) -> tuple[int, bytes]:
    """Return the unsigned varint (7 bits per byte, low first) at the start, and the bytes after it."""
    value = 0
    for index, byte in enumerate(raw[:9]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, raw[index + 1 :]
    raise ValueError("a multihash ends within its header")
