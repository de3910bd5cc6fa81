"""Leases on object stores: an object that its holder renews by conditional puts.

The failure it prevents: two hosts do at once what may be done once at a time.  The rule: the object is
created or replaced only if it is still the one that was read, so one of several takers wins.  No kernel
tells here how a holder ended: it renews the object every minute, and whoever has seen the same object for
five takes it over.  Time is measured by the waiter's own clock, so clocks of hosts need not agree.  A
holder that was silent so long (a suspended machine) finds out by ``still_held``, before it does more.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import obstore
from obstore import exceptions as obs_errors

from geostack_pipeline.errors import LeaseTakenError, StorageError
from geostack_pipeline.storage.failures import storage_errors
from geostack_pipeline.storage.roots import Root

BEAT_S = 60.0
"""How often a holder renews its lease."""
MISSED_BEATS = 5
"""After so many it is taken over."""
_PAUSE_S = 2.0
"""Between two looks of a waiter."""
_FIELDS: dict[str, type] = {"holder": str, "free": bool, "taker": str, "beat": int}


@contextmanager
def object_lease(
    root: Root, key: str, subject: str, *, timeout_s: float, holder: str
) -> Iterator[Callable[[], None]]:
    """Hold a lease of an object store; yields a function that raises where it was lost.

    Raises:
        LeaseTakenError: Another holder kept it for the whole time limit.
        StorageError: The root cannot be written, or has no conditional writes.
    """
    held = _Held(root, key, subject, holder)
    held.take(timeout_s)
    beat = threading.Thread(target=held.renew, name="geostack-lease", daemon=True)
    beat.start()
    try:
        yield held.require
    finally:
        held.end(beat)


class _Held:
    """One taker of a lease."""

    def __init__(self, root: Root, key: str, subject: str, holder: str) -> None:
        self._root = root
        self._key = key
        self._subject = subject
        self._holder = holder
        self._taker = uuid.uuid4().hex
        self._beat = 0
        self._tag: str | None = None
        self._renewed = 0.0
        self._lost = False
        self._ended = threading.Event()

    def take(self, timeout_s: float) -> None:
        """Wait for the lease and take it."""
        deadline = time.monotonic() + timeout_s
        seen, since = "", time.monotonic()
        while True:
            told, tag = self._load()
            if tag != seen:
                seen, since = tag or "", time.monotonic()
            silent = time.monotonic() - since >= MISSED_BEATS * BEAT_S
            if (told is None or told["free"] or silent) and self._put(tag, free=False):
                return
            left = deadline - time.monotonic()
            if left <= 0:
                other = (told or {}).get("holder") or "another process"
                raise LeaseTakenError(
                    f"its lease is taken, and was not let go within {timeout_s:g} s",
                    subject=self._subject,
                    found=other,
                    action="end the process that hangs (its lease is free "
                    f"{MISSED_BEATS * BEAT_S / 60:g} minutes later), then run again",
                    retryable=True,
                )
            time.sleep(min(_PAUSE_S, left))

    def renew(self) -> None:
        """Renew the lease until it ends or is lost."""
        while not self._ended.wait(BEAT_S):
            # A beat that does not come through does no harm: others wait for several.
            with contextlib.suppress(StorageError):
                if not self._put(self._tag, free=False):
                    self._lost = True
                    return

    def require(self) -> None:
        """Raise where another one may hold the lease by now."""
        # By the wall clock, which goes on while a machine sleeps; well before others lose their patience.
        if self._lost or time.time() - self._renewed >= (MISSED_BEATS - 1) * BEAT_S:
            raise StorageError(
                "its lease was lost",
                subject=self._subject,
                found=f"it could not be renewed for {time.time() - self._renewed:.0f} s",
                action="look at the network and whether the machine slept, then run again",
                retryable=True,
            )

    def end(self, beat: threading.Thread) -> None:
        """Let the next one have it; what cannot be written ends by silence."""
        self._ended.set()
        beat.join()
        if not self._lost:
            with contextlib.suppress(StorageError):
                self._put(self._tag, free=True)

    def _put(self, tag: str | None, *, free: bool) -> bool:
        """Write the object if it is the one with an ETag, or this taker's own; returns whether it was."""
        self._beat += 1
        fields = {"holder": self._holder, "free": free, "taker": self._taker, "beat": self._beat}
        for _ in range(2):
            mode: Any = "create" if tag is None else {"e_tag": tag}
            before = time.time()
            try:
                with storage_errors(self._subject, "taking its lease"):
                    self._tag = obstore.put(
                        self._root.store, self._key, json.dumps(fields).encode(), mode=mode
                    )["e_tag"]
            except (obs_errors.AlreadyExistsError, obs_errors.PreconditionError, FileNotFoundError):
                told, tag = self._load()
                if told is None or told["taker"] != self._taker:
                    return False
                # This write, or one before it, landed and only its answer was lost.
                self._tag = tag
                if told["beat"] != self._beat:
                    continue
            self._renewed = before
            return True
        return False

    def _load(self) -> tuple[dict[str, Any] | None, str | None]:
        try:
            with storage_errors(self._subject, "reading its lease"):
                answer = obstore.get(self._root.store, self._key)
                data = bytes(answer.bytes())
        except FileNotFoundError:
            return None, None
        tag = answer.meta["e_tag"]
        if tag is None:
            raise StorageError(
                "the object store gives no ETag",
                subject=self._root.url,
                action="use a store with conditional writes: nobody can take turns safely without",
            )
        try:
            told = dict(json.loads(data))
            return {name: kind(told[name]) for name, kind in _FIELDS.items()}, tag
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(
                "its lease cannot be read",
                subject=self._root.describe(self._key),
                found=f"{type(error).__name__}: {error}"[:160],
                action="remove this object when no training runs, then run again",
            ) from error
