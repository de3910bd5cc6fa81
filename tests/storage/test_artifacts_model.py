"""Random histories of writers, readers and crashes, against a dictionary that says what must be seen."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from geostack_pipeline.storage import attempt as attempt_module
from geostack_pipeline.storage.artifacts import ArtifactStore, Attempt, Snapshot
from geostack_pipeline.storage.roots import Root, open_root

PARTITIONS = st.sampled_from(["2024-06-01", "2024-06-02"])
VERSIONS = st.sampled_from(["v1", "v2"])
PATHS = st.sampled_from(["a", "b/c", "tree.zarr/c/0/0"])
DATA = st.binary(max_size=40)


class KilledError(BaseException):
    """Stands for the process's end: nothing of ours may catch it."""


def abandon(attempt: Attempt) -> None:
    """Leave an attempt as a killed process does: nothing is tidied, the kernel releases the lock."""
    attempt._state = "killed"
    marker = attempt._marker
    if marker is not None and marker._descriptor is not None:
        os.close(marker._descriptor)
        marker._descriptor = None


class Histories(RuleBasedStateMachine):
    attempts = Bundle("attempts")
    snapshots = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = ArtifactStore(open_root(str(self.folder)))
        # What must be seen: complete versions with their files, and the current version of each partition.
        self.complete: dict[tuple[str, str], dict[str, bytes]] = {}
        self.current: dict[str, str] = {}
        self.written: dict[str, dict[str, bytes]] = {}
        self.patch = pytest.MonkeyPatch()

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.folder)

    @rule(target=attempts, partition=PARTITIONS, version=VERSIONS, path=PATHS, data=DATA)
    def begin(self, partition: str, version: str, path: str, data: bytes) -> Attempt:
        attempt = self.store.begin("es/cube", partition, version, kind="tree", code_version="1", upstream={})
        self.written[attempt.id] = {}
        attempt.__enter__()
        self.put(attempt, path, data)
        return attempt

    @rule(attempt=attempts, path=PATHS, data=DATA)
    def put(self, attempt: Attempt, path: str, data: bytes) -> None:
        if attempt._state == "open":
            attempt.put(path, data)
            self.written[attempt.id][path] = data

    @rule(attempt=attempts, snapshot=snapshots, over=st.none() | DATA)
    def reference(self, attempt: Attempt, snapshot: Snapshot, over: bytes | None) -> None:
        if attempt._state == "open" and snapshot is not None:
            path = min(snapshot.files)
            assert attempt.reference(snapshot, path) == 1
            self.written[attempt.id][path] = self.complete[snapshot.partition, snapshot.version][path]
            if over is not None:
                self.put(attempt, path, over)

    @rule(target=snapshots, attempt=attempts)
    def commit(self, attempt: Attempt):
        files = self.written[attempt.id]
        if attempt._state != "open" or not files:
            return self.any_snapshot()
        snapshot = attempt.commit(meta={"by": attempt.id})
        key = (attempt.partition, attempt.version)
        assert attempt.adopted == (key in self.complete)
        self.complete.setdefault(key, dict(files))
        return snapshot

    @rule(attempt=attempts)
    def withdraw(self, attempt: Attempt) -> None:
        if attempt._state == "open":
            attempt.__exit__(None, None, None)

    @rule(snapshot=snapshots)
    def point(self, snapshot: Snapshot) -> None:
        if snapshot is not None:
            self.store.point(snapshot)
            self.current[snapshot.partition] = snapshot.version

    @rule(attempt=attempts)
    def killed_while_writing(self, attempt: Attempt) -> None:
        if attempt._state == "open":
            abandon(attempt)

    @rule(attempt=attempts, landed=st.booleans())
    def killed_at_the_commit(self, attempt: Attempt, landed: bool) -> None:
        files = self.written[attempt.id]
        if attempt._state != "open" or not files:
            return
        self._kill_at(Root, "create", landed)
        try:
            attempt.commit(meta={"by": attempt.id})
        except KilledError:
            pass
        else:
            raise AssertionError("the commit went on after the kill")
        finally:
            self.patch.undo()
        abandon(attempt)
        if landed:
            self.complete.setdefault((attempt.partition, attempt.version), dict(files))

    @rule(attempt=attempts)
    def killed_while_reading_back(self, attempt: Attempt) -> None:
        if attempt._state != "open" or not self.written[attempt.id]:
            return
        self._kill_at(attempt_module, "hash_object", False)
        try:
            attempt.commit(meta={})
        except KilledError:
            abandon(attempt)
        else:  # every file was referenced, so there was nothing to hash
            self.complete.setdefault((attempt.partition, attempt.version), dict(self.written[attempt.id]))
        finally:
            self.patch.undo()

    @rule(snapshot=snapshots, landed=st.booleans())
    def killed_at_the_pointer(self, snapshot: Snapshot, landed: bool) -> None:
        if snapshot is None:
            return
        self._kill_at(Root, "put", landed)
        try:
            self.store.point(snapshot)
        except KilledError:
            if landed:
                self.current[snapshot.partition] = snapshot.version
        else:
            assert self.current[snapshot.partition] == snapshot.version, (
                "only an unmoved pointer needs no put"
            )
        finally:
            self.patch.undo()

    @rule(snapshot=snapshots)
    def read_an_old_handle(self, snapshot: Snapshot) -> None:
        if snapshot is not None:
            expected = self.complete[snapshot.partition, snapshot.version]
            assert {path: snapshot.read(path) for path in snapshot.files} == expected

    @invariant()
    def readers_see_whole_versions(self) -> None:
        for partition in ("2024-06-01", "2024-06-02"):
            seen = self.store.current("es/cube", partition)
            assert (seen and seen.version) == self.current.get(partition)
            known = {version for part, version in self.complete if part == partition}
            assert set(self.store.versions("es/cube", partition)) == known
            for version in known:
                snapshot = self.store.find("es/cube", partition, version)
                expected = self.complete[partition, version]
                assert {path: snapshot.read(path) for path in snapshot.files} == expected
                assert snapshot.verify() == []

    def any_snapshot(self):
        return next((self.store.find("es/cube", *key) for key in self.complete), None)

    def _kill_at(self, owner: object, name: str, landed: bool) -> None:
        real = getattr(owner, name)

        def killed(*args: object) -> None:
            if landed:
                real(*args)
            raise KilledError

        self.patch.setattr(owner, name, killed)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
