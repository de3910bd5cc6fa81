"""Random histories with gc in them, against a model of what is reachable."""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from storage_steps import write
from test_artifacts_model import abandon

from geostack_pipeline.storage.artifacts import ArtifactStore, Attempt
from geostack_pipeline.storage.blobs import Blob, BlobCache
from geostack_pipeline.storage.gc import collect
from geostack_pipeline.storage.pins import pin, unpin
from geostack_pipeline.storage.roots import open_root

ASSETS = st.sampled_from(["a", "b/c"])
PARTITIONS = st.sampled_from(["p", "q"])
Version = tuple[str, str, str]


class Collections(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = ArtifactStore(open_root(str(self.folder / "root")))
        self.cache = BlobCache(self.store.root)
        # The model: what each version was made from and names, and what leads to versions.
        self.upstream: dict[Version, set[Version]] = {}
        self.named: dict[Version, set[str]] = {}
        self.pointers: dict[tuple[str, str], Version] = {}
        self.pinned: dict[str, Version] = {}
        self.running: dict[str, tuple[Attempt, set[Version]]] = {}
        self.blobs: dict[str, Blob] = {}
        self.count = 0

    def teardown(self) -> None:
        for attempt, _ in self.running.values():
            attempt.__exit__(None, None, None)
        shutil.rmtree(self.folder)

    def some_versions(self, data) -> set[Version]:
        known = sorted(self.upstream)
        return set(data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=2))) if known else set()

    def as_upstream(self, versions: set[Version]) -> tuple[dict[str, str], set[Version]]:
        """One version per upstream partition, as the store records it."""
        chosen = {f"{asset}/{partition}": version for asset, partition, version in sorted(versions)}
        return chosen, {version for version in versions if chosen[f"{version[0]}/{version[1]}"] == version[2]}

    @rule(data=st.data(), count=st.integers(1, 4))
    def write_several(self, data, count: int) -> None:
        for _ in range(count):
            self.write(data, data.draw(ASSETS), data.draw(PARTITIONS), data.draw(st.booleans()))

    def write(self, data, asset: str, partition: str, point: bool) -> None:
        self.count += 1
        names, upstream = self.as_upstream(self.some_versions(data))
        blobs = (
            set(data.draw(st.lists(st.sampled_from(sorted(self.blobs)), max_size=2))) if self.blobs else set()
        )
        version = (asset, partition, f"v{self.count}")
        write(self.store, *version, upstream=names, blobs=tuple(blobs), point=point)
        self.upstream[version], self.named[version] = upstream, blobs
        if point:
            self.pointers[asset, partition] = version

    @precondition(lambda self: self.upstream)
    @rule(data=st.data())
    def point_at_any(self, data) -> None:
        version = data.draw(st.sampled_from(sorted(self.upstream)))
        self.store.point(self.store.find(*version))
        self.pointers[version[:2]] = version

    @precondition(lambda self: self.upstream)
    @rule(data=st.data(), name=st.sampled_from(["one", "two"]))
    def pin(self, data, name: str) -> None:
        version = data.draw(st.sampled_from(sorted(self.upstream)))
        pin(self.store.root, name, asset=version[0], partition=version[1], version=version[2], reason="")
        self.pinned[name] = version

    @rule(name=st.sampled_from(["one", "two"]))
    def unpin(self, name: str) -> None:
        unpin(self.store.root, name)
        self.pinned.pop(name, None)

    @rule(name=st.sampled_from(["x", "y", "z"]))
    def add_blob(self, name: str) -> None:
        file = self.folder / "blob"
        file.write_text(name)
        blob = self.cache.add(BlobCache.key(name), file, origin=name, etag=None, source_size=None, suffix="")
        self.blobs[blob.path] = blob

    @rule(data=st.data(), asset=ASSETS, partition=PARTITIONS)
    def begin(self, data, asset: str, partition: str) -> None:
        if len(self.running) < 3:
            self.count += 1
            names, upstream = self.as_upstream(self.some_versions(data))
            attempt = self.store.begin(
                asset, partition, f"v{self.count}", kind="table", code_version="1", upstream=names
            )
            attempt.__enter__().put("f", b"running")
            self.running[attempt.id] = (attempt, upstream)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["commit", "kill", "withdraw"]))
    def end(self, data, how: str) -> None:
        attempt, upstream = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        if how == "commit":
            assert attempt.commit(meta={}).verify() == []
            version = (attempt.asset, attempt.partition, attempt.version)
            self.upstream[version], self.named[version] = upstream, set()
        elif how == "kill":
            abandon(attempt)
        else:
            attempt.__exit__(None, None, None)

    @rule()
    def collect_nothing_young(self) -> None:
        report = collect(self.store, grace=timedelta(hours=1), dry_run=False)
        assert (report.versions, report.attempts, report.blobs) == (0, 0, 0)

    @rule(dry_first=st.booleans())
    def collect_all(self, dry_first: bool) -> None:
        planned = collect(self.store, grace=timedelta(0), dry_run=True).names if dry_first else None
        report = collect(self.store, grace=timedelta(0), dry_run=False)
        if planned is not None:
            assert report.names == planned
        keep = self.reachable()
        gone = set(self.upstream) - keep
        assert report.versions == len(gone)
        assert report.kept == len(keep)
        for version in gone:
            assert self.store.find(*version) is None
            del self.upstream[version], self.named[version]
        named = set().union(*self.named.values()) if self.named else set()
        assert report.blobs == len(set(self.blobs) - named)
        self.blobs = {path: blob for path, blob in self.blobs.items() if path in named}
        left = {
            meta["path"]
            for meta in self.store.root.objects("blobs")
            if not meta["path"].endswith("blob.json")
        }
        assert left == named
        attempts = {
            m["path"].split("attempt-")[1].split("/")[0].removesuffix(".json")
            for m in self.store.root.objects("artifacts")
            if "attempt-" in m["path"]
        }
        winners = {self.store.find(*version).attempt for version in keep}
        assert {f"attempt-{one}" for one in attempts} == winners | set(self.running)

    @invariant()
    def nothing_reachable_is_lost(self) -> None:
        for version in self.reachable():
            snapshot = self.store.find(*version)
            assert snapshot is not None, version
            assert snapshot.verify() == []
            for path in snapshot.blobs:
                assert self.cache.verify(self.blobs[path])
        for (asset, partition), version in self.pointers.items():
            assert self.store.current(asset, partition).version == version[2]
        for attempt, _ in self.running.values():
            assert bytes(attempt.store.get("f").bytes()) == b"running"

    def reachable(self) -> set[Version]:
        reached: set[Version] = set()
        waiting = {*self.pointers.values(), *self.pinned.values()}
        for _, upstream in self.running.values():
            waiting |= upstream
        while waiting:
            version = waiting.pop()
            if version not in reached:
                reached.add(version)
                waiting |= self.upstream[version]
        return reached


TestCollections = Collections.TestCase
TestCollections.settings = settings(
    max_examples=50, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
