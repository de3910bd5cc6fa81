"""Several processes at one root: races have one winner, and a kill at any instant tears nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from storage_steps import DAY, write

from geostack_pipeline.errors import StorageError
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.leases import is_held, lease
from geostack_pipeline.storage.roots import Root, open_root

RACER = """
import sys, time
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.roots import open_root
root, me, start = sys.argv[1], sys.argv[2], float(sys.argv[3])
store = ArtifactStore(open_root(root))
time.sleep(max(0.0, start - time.time()))
for round in range(15):
    with store.begin("es/cube", "p", f"v{round}", kind="tree", code_version="1", upstream={}) as attempt:
        for n in range(3):
            attempt.put(f"f{n}", f"{me} {round} {n}".encode())
        snapshot = attempt.commit(meta={"by": me})
    store.point(snapshot, run_id=me)
    print(round, snapshot.attempt, snapshot.meta["by"])
"""

WRITER = """
import sys
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.roots import open_root
store = ArtifactStore(open_root(sys.argv[1]))
print("ready", flush=True)
for round in range(int(sys.argv[2]), 10**9):
    with store.begin("es/cube", "p", f"v{round}", kind="tree", code_version="1", upstream={}) as attempt:
        for n in range(4):
            attempt.put(f"f{n}", f"{round} {n} ".encode() * 2000)
        snapshot = attempt.commit(meta={"round": round})
    store.point(snapshot)
"""


def test_racing_processes_agree_on_one_winner_per_version(root: Root) -> None:
    start = str(time.time() + 1.5)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, root.url, f"r{n}", start], stdout=subprocess.PIPE, text=True
        )
        for n in range(4)
    ]
    outputs = [racer.communicate(timeout=900)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    assert len(set(outputs)) == 1, "every process must have ended with the same winners"
    store = ArtifactStore(root)
    for turn in range(15):
        snapshot = store.find("es/cube", "p", f"v{turn}")
        by = snapshot.meta["by"]
        assert [snapshot.read(f"f{n}") for n in range(3)] == [f"{by} {turn} {n}".encode() for n in range(3)]
        assert snapshot.verify() == []
    assert store.current("es/cube", "p").version in {f"v{turn}" for turn in range(15)}
    attempts = {
        meta["path"].split("/")[5] for meta in root.objects("artifacts") if meta["path"].count("/") == 6
    }
    assert len(attempts) == 15, "losers must have removed what they wrote"


def test_a_kill_at_any_instant_leaves_a_whole_version(root: Root) -> None:
    store = ArtifactStore(root)
    rng = random.Random(7)
    last = -1
    for kill in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, root.url, str(kill * 1000)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout.readline() == "ready\n"
        end = time.monotonic() + rng.uniform(0.0, 0.25)
        while time.monotonic() < end:
            check_current(store)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait(10)
        writer.stdout.close()
        snapshot = check_current(store)
        if snapshot is not None:
            assert snapshot.meta["round"] >= last
            last = snapshot.meta["round"]
        for version in store.versions("es/cube", "p"):
            assert store.find("es/cube", "p", version).verify() == []
        # The kernel released the lease and the attempt's lock.
        with lease(root, "es/cube", "p", timeout_s=0.2):
            pass
        markers = [
            m["path"]
            for m in root.objects("artifacts")
            if m["path"].rsplit("/", 1)[-1].startswith("attempt-")
        ]
        assert not any(is_held(root.path / path) for path in markers)
    assert last >= 1000, "some kills must have come after a whole version"
    assert write(store, "es/cube", "p", "after").verify() == []


def check_current(store: ArtifactStore):
    snapshot = store.current("es/cube", "p")
    if snapshot is not None:
        turn = snapshot.meta["round"]
        assert [snapshot.read(f"f{n}") for n in range(4)] == [
            f"{turn} {n} ".encode() * 2000 for n in range(4)
        ]
    return snapshot


def test_a_lease_that_is_held_is_told_of_and_threads_exclude_each_other(root: Root) -> None:
    with (
        lease(root, "a", "p"),
        pytest.raises(StorageError, match=r"a p: its lease is taken.*0\.05 s"),
        lease(root, "a", "p", timeout_s=0.05),
    ):
        pass
    with lease(root, "a", "p", timeout_s=0.0), lease(root, "a", "q", timeout_s=0.0):
        pass


def test_a_pointer_moves_under_its_lease_alone(root: Root) -> None:
    store = ArtifactStore(root)
    snapshot = write(store, "a", "p", "v", point=False)
    moved = threading.Thread(target=store.point, args=(snapshot,))
    with lease(root, "a", "p"):
        moved.start()
        moved.join(0.3)
        assert moved.is_alive()
        assert store.pointer("a", "p") is None
    moved.join(10)
    assert store.current("a", "p") == snapshot


def _open_elsewhere(snapshot, queue) -> None:
    queue.put((snapshot.read("a"), snapshot.root_url))


def test_a_snapshot_opens_in_a_spawned_process(tmp_path: Path) -> None:
    snapshot = write(ArtifactStore(open_root(str(tmp_path / "with space"))), files={"a": b"1"})
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_open_elsewhere, args=(snapshot, queue))
    child.start()
    assert queue.get(timeout=60) == (b"1", snapshot.root_url)
    child.join(30)
    assert child.exitcode == 0


def test_a_running_attempt_is_marked_until_it_ends(root: Root) -> None:
    store = ArtifactStore(root)
    with store.begin("a", "p", "v", kind="table", code_version="1", upstream={"x/y": "z"}) as attempt:
        marker = root.path / f"artifacts/a/p/v/{attempt.id}.json"
        assert is_held(marker)
        assert b'"x/y":"z"' in marker.read_bytes()
        attempt.put("f", b"1")
        attempt.commit(meta={})
        assert not marker.exists()
    assert store.partitions("a") == []
    assert DAY not in store.partitions("a")
