"""Leases: one holder at a time, on a disk and on an object store, however the holder ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import obstore
import pytest

from geostack_pipeline.errors import LeaseTakenError, StorageError
from geostack_pipeline.storage import object_lease
from geostack_pipeline.storage.leases import StillHeld, lease
from geostack_pipeline.storage.roots import Root

PROJECT = Path(__file__).parents[2]
_HOLD = """
import sys, time
from geostack_pipeline.storage.leases import StillHeld, lease
from geostack_pipeline.storage.roots import open_root
with lease(open_root(sys.argv[1]), "training", "all", holder="the other one"):
    print("held", flush=True)
    time.sleep(600)
"""


def loses(still_held: StillHeld) -> None:
    """Ask whether a lease is held until it is not."""
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        still_held()
        time.sleep(0.05)


def test_one_holds_it_and_the_other_hears_who(any_root: Root) -> None:
    with lease(any_root, "training", "all", holder="process 7 on here"):
        with (
            pytest.raises(LeaseTakenError, match=r"not let go within 0\.1 s.*Found: process 7 on here"),
            lease(any_root, "training", "all", timeout_s=0.1, holder="late"),
        ):
            pass
        # Another name is another lease.
        with lease(any_root, "training", "other", timeout_s=0.0):
            pass
    with lease(any_root, "training", "all", timeout_s=0.0, holder="late") as still_held:
        still_held()


def test_takers_in_threads_exclude_each_other(any_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_lease, "_PAUSE_S", 0.02)
    inside, most, entered = 0, 0, 0
    lock = threading.Lock()

    def take() -> None:
        nonlocal inside, most, entered
        with lease(any_root, "training", "all", timeout_s=60.0, holder="one"):
            with lock:
                inside, entered = inside + 1, entered + 1
                most = max(most, inside)
            time.sleep(0.02)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, entered) == (1, 6)


def test_a_killed_holder_lets_go_at_once_on_a_disk(root: Root) -> None:
    assert root.path is not None
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", _HOLD, str(root.path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(LeaseTakenError, match="the other one"),
            lease(root, "training", "all", timeout_s=0.0),
        ):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(timeout=30)
        with lease(root, "training", "all", timeout_s=0.0, holder="next"):
            assert (root.path / "leases/training/all.lock").read_text() == "next"
    finally:
        holder.kill()
        holder.wait(timeout=30)


def test_a_silent_holder_is_taken_over_on_an_object_store_and_hears_of_it(
    s3_root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_lease, "BEAT_S", 0.2)
    # As a holder that was killed leaves it.
    left = json.dumps({"holder": "dead", "free": False, "taker": "x", "beat": 3}).encode()
    obstore.put(s3_root.store, "leases/training/all.json", left)
    with pytest.raises(LeaseTakenError, match="dead"), lease(s3_root, "training", "all", timeout_s=0.3):
        pass
    began = time.monotonic()
    with lease(s3_root, "training", "all", timeout_s=30.0, holder="next") as still_held:
        assert time.monotonic() - began >= 1.0
        # Somebody takes it away, as from a machine that slept.
        obstore.put(s3_root.store, "leases/training/all.json", left)
        with pytest.raises(StorageError, match="its lease was lost"):
            loses(still_held)
    assert bytes(obstore.get(s3_root.store, "leases/training/all.json").bytes()) == left, "it is not ours"


def test_a_working_holder_keeps_it_on_an_object_store(s3_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    # Taken over after five seconds of silence.
    monkeypatch.setattr(object_lease, "BEAT_S", 1.0)
    with lease(s3_root, "training", "all", holder="at work") as still_held:
        with (
            pytest.raises(LeaseTakenError, match="at work"),
            lease(s3_root, "training", "all", timeout_s=7.0),
        ):
            pass
        still_held()
