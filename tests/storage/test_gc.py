"""gc: what is reachable, young or in use stays; the rest goes, in an order that tears nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from storage_steps import DAY, write

from geostack_pipeline.errors import ArtifactNotFoundError, SettingsError, StorageError
from geostack_pipeline.storage import gc as gc_module
from geostack_pipeline.storage import marker as marker_module
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.blobs import RENEW_S, BlobCache
from geostack_pipeline.storage.gc import collect
from geostack_pipeline.storage.pins import pin, pins, unpin
from geostack_pipeline.storage.roots import Root

NOW = timedelta(0)
HOUR = timedelta(hours=1)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch):
    """Let gc believe that time has passed."""

    def let(delta: timedelta) -> None:
        monkeypatch.setattr(gc_module, "_now", lambda: datetime.now(UTC) + delta)

    return let


def run(store: ArtifactStore, grace: timedelta = NOW, *, dry_run: bool = False):
    return collect(store, grace=grace, dry_run=dry_run)


def keys(root: Root) -> list[str]:
    return [meta["path"] for top in ("artifacts", "blobs") for meta in root.objects(top)]


def add_blob(root: Root, tmp_path: Path, name: str):
    file = tmp_path / "blob"
    file.write_bytes(name.encode())
    return BlobCache(root).add(
        BlobCache.key(name), file, origin=name, etag=None, source_size=None, suffix=".tif"
    )


def test_an_empty_root_has_nothing_to_collect(any_store: ArtifactStore) -> None:
    report = run(any_store)
    assert (report.versions, report.attempts, report.blobs, report.bytes, report.names) == (0, 0, 0, 0, ())


def test_what_no_pointer_leads_to_goes_with_all_its_files(any_store: ArtifactStore) -> None:
    store = any_store
    old = write(store, version="v1", files={"a": b"1" * 10, "b/c": b"2" * 5})
    new = write(store, version="v2")
    before = keys(store.root)
    planned = run(store, dry_run=True)
    assert keys(store.root) == before, "a dry run removes nothing"
    report = run(store)
    assert report.names == planned.names == (f"earth_search/scenes/{DAY}/v1",)
    assert (report.versions, report.bytes, report.kept) == (1, 15, 1)
    assert [key for key in keys(store.root) if "/v1/" in key] == []
    assert store.find("earth_search/scenes", DAY, "v1") is None
    assert store.current("earth_search/scenes", DAY) == new
    assert new.verify() == []
    if store.root.path is not None:
        assert not (store.root.path / old.key()).parent.exists()
    assert run(store).versions == 0


def test_lineage_of_what_is_pointed_at_stays(any_store: ArtifactStore) -> None:
    store = any_store
    write(store, "es/scenes", DAY, "s1")
    write(store, "es/granules", DAY, "g1", upstream={f"es/scenes/{DAY}": "s1"})
    cube = write(store, "es/cube", DAY, "c1", upstream={f"es/granules/{DAY}": "g1"})
    write(store, "es/scenes", DAY, "s2")
    write(store, "es/granules", DAY, "g2", upstream={f"es/scenes/{DAY}": "s2"})
    assert run(store).versions == 0, "the current cube was made from s1 through g1"
    write(store, "es/cube", DAY, "c2", upstream={f"es/granules/{DAY}": "g2"})
    report = run(store)
    assert report.names == (f"es/cube/{DAY}/c1", f"es/granules/{DAY}/g1", f"es/scenes/{DAY}/s1"), (
        "downstream first"
    )
    assert store.find("es/cube", DAY, cube.version) is None


def test_pins_keep_a_version_and_its_lineage(any_store: ArtifactStore) -> None:
    store = any_store
    write(store, "es/scenes", DAY, "s1")
    write(store, "model", "all", "m1", upstream={f"es/scenes/{DAY}": "s1"})
    write(store, "es/scenes", DAY, "s2")
    write(store, "model", "all", "m2")
    pin(store.root, "paper", asset="model", partition="all", version="m1", reason="a publication")
    assert [(one.name, one.version, one.reason) for one in pins(store.root)] == [
        ("paper", "m1", "a publication")
    ]
    assert run(store).versions == 0
    unpin(store.root, "paper")
    unpin(store.root, "paper")
    assert pins(store.root) == []
    assert run(store).versions == 2
    with pytest.raises(ArtifactNotFoundError, match="only a complete version"):
        pin(store.root, "paper", asset="model", partition="all", version="m1", reason="")
    with pytest.raises(SettingsError, match="pin name"):
        pin(store.root, "../x", asset="model", partition="all", version="m2", reason="")


def test_the_grace_period_counts_from_the_moment_a_version_lost_its_pointer(
    any_store: ArtifactStore, later
) -> None:
    store = any_store
    write(store, version="v1")
    later(10 * HOUR)
    one = store.find("earth_search/scenes", DAY, "v1")
    assert run(store, HOUR).versions == 0
    write(store, version="v2")
    later(0.5 * HOUR)
    assert run(store, HOUR).versions == 0, "a reader may still be at v1"
    assert one.verify() == []
    later(1.5 * HOUR)
    assert run(store, HOUR).versions == 1


def test_an_old_version_that_has_just_lost_its_pointer_is_protected(store: ArtifactStore) -> None:
    write(store, version="v1")
    folder = store.root.path / f"artifacts/earth_search/scenes/{DAY}"
    for path in (folder / "v1").rglob("*"):
        os.utime(path, (1e9, 1e9))  # written long ago
    write(store, version="v2")
    assert run(store, HOUR).versions == 0
    assert run(store, NOW).versions == 1


def test_a_version_not_yet_pointed_at_is_protected_with_its_lineage(any_store: ArtifactStore, later) -> None:
    store = any_store
    write(store, "es/scenes", DAY, "s1")
    write(store, "es/cube", DAY, "c1", upstream={f"es/scenes/{DAY}": "s1"}, point=False)
    write(store, "es/scenes", DAY, "s2")
    assert run(store, HOUR).versions == 0
    later(2 * HOUR)
    assert run(store, HOUR).names == (f"es/cube/{DAY}/c1", f"es/scenes/{DAY}/s1")


def test_a_running_attempt_keeps_itself_and_what_it_reads(any_store: ArtifactStore, later) -> None:
    store = any_store
    write(store, "es/scenes", DAY, "s1")
    write(store, "es/scenes", DAY, "s2")
    with store.begin(
        "es/cube", DAY, "c1", kind="tree", code_version="1", upstream={f"es/scenes/{DAY}": "s1"}
    ) as attempt:
        attempt.put("f", b"1")
        if store.root.path is not None:
            later(1000 * HOUR)  # on a local disk the kernel knows that its writer lives
        assert run(store, NOW).names == ()
        snapshot = attempt.commit(meta={})
    store.point(snapshot)
    later(NOW)
    assert run(store, NOW).versions == 0, "s1 is lineage now"


def test_an_attempt_that_ended_during_the_survey_counts_as_just_completed(
    store: ArtifactStore, monkeypatch
) -> None:
    from geostack_pipeline.storage import gc_marking

    write(store, "es/scenes", DAY, "s1")
    write(store, "es/scenes", DAY, "s2")
    attempt = store.begin(
        "es/cube", DAY, "c1", kind="tree", code_version="1", upstream={f"es/scenes/{DAY}": "s1"}
    ).__enter__()
    attempt.put("f", b"1")
    real = gc_marking._read_documents

    def commit_in_between(*args: object) -> None:
        attempt.commit(meta={})
        real(*args)

    monkeypatch.setattr(gc_marking, "_read_documents", commit_in_between)
    assert run(store).versions == 0
    assert store.find("es/cube", DAY, "c1") is not None
    assert store.find("es/scenes", DAY, "s1") is not None


KILLED = """
import os, signal, sys
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.roots import open_root
store = ArtifactStore(open_root(sys.argv[1]))
with store.begin("es/cube", "p", "v", kind="tree", code_version="1", upstream={}) as attempt:
    attempt.put("a/b", b"12345")
    if sys.argv[2] == "committed":
        attempt._end_marker = lambda: None
        attempt.commit(meta={})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_goes_after_the_grace_period(store: ArtifactStore, later) -> None:
    subprocess.run([sys.executable, "-c", KILLED, store.root.url, "open"], timeout=60, check=False)
    assert len(keys(store.root)) == 2
    assert run(store, HOUR).attempts == 0
    report = run(store, NOW)
    assert (report.attempts, report.bytes, report.versions) == (1, 5, 0)
    assert keys(store.root) == []
    assert report.names[0].startswith("es/cube/p/v/attempt-")


def test_a_writer_killed_after_its_commit_leaves_only_a_marker_to_tidy(store: ArtifactStore) -> None:
    subprocess.run([sys.executable, "-c", KILLED, store.root.url, "committed"], timeout=60, check=False)
    snapshot = store.find("es/cube", "p", "v")
    store.point(snapshot)
    assert any(key.endswith(f"{snapshot.attempt}.json") for key in keys(store.root))
    report = run(store)
    assert (report.attempts, report.versions) == (0, 0)
    assert not any(key.endswith(f"{snapshot.attempt}.json") for key in keys(store.root))
    assert snapshot.verify() == []


def test_hard_links_do_not_make_an_attempt_look_old(store: ArtifactStore) -> None:
    old = write(store, files={"t/a": b"1"})
    os.utime(store.root.path / old.key("t/a"), (1e9, 1e9))
    with store.begin("a", "p", "v", kind="tree", code_version="1", upstream={}) as attempt:
        attempt.reference(old, "t")
        (store.root.path / f"artifacts/a/p/v/{attempt.id}.json").unlink()  # even without its marker
        assert run(store, HOUR).attempts == 0
        attempt._state = "abandoned"


def test_blobs_that_a_remaining_version_names_stay_and_others_go(
    any_root: Root, tmp_path: Path, later
) -> None:
    store = ArtifactStore(any_root)
    one, two, three = (add_blob(any_root, tmp_path, name) for name in ("one", "two", "three"))
    write(store, "es/granules", DAY, "g1", blobs=(one.path,))
    write(store, "es/granules", DAY, "g2", blobs=(two.path,))
    later(timedelta(seconds=RENEW_S + 60))
    report = run(store, NOW)
    assert (report.versions, report.blobs) == (1, 2)
    cache = BlobCache(any_root)
    assert cache.find(BlobCache.key("two")) == two
    assert cache.verify(two)
    for name, blob in (("one", one), ("three", three)):
        assert cache.find(BlobCache.key(name)) is None
        assert any_root.size(blob.path) is None
    assert len(any_root.objects("blobs")) == 2


def test_blobs_found_within_the_grace_period_stay(store: ArtifactStore, tmp_path: Path, later) -> None:
    root, cache = store.root, BlobCache(store.root)
    used, idle = add_blob(root, tmp_path, "used"), add_blob(root, tmp_path, "idle")
    for blob in (used, idle):
        for path in (root.path / blob.path).parent.iterdir():
            os.utime(path, (time.time() - 7200,) * 2)
    cache.find(BlobCache.key("used"))
    assert run(store, HOUR).names == (idle.path,)
    assert cache.verify(used)


def test_a_blob_found_at_the_last_moment_stays(store: ArtifactStore, tmp_path: Path, monkeypatch) -> None:
    blob = add_blob(store.root, tmp_path, "x")
    for path in (store.root.path / blob.path).parent.iterdir():
        os.utime(path, (time.time() - 7200,) * 2)
    real = gc_module.unused_blobs

    def find_after(*args: object, **kwargs: object):
        found = real(*args, **kwargs)
        BlobCache(store.root).find(BlobCache.key("x"))
        return found

    monkeypatch.setattr(gc_module, "unused_blobs", find_after)
    assert run(store, HOUR).blobs == 0
    assert BlobCache(store.root).verify(blob)


def test_superseded_bytes_of_a_source_go_without_the_current_ones(
    store: ArtifactStore, tmp_path: Path
) -> None:
    cache, file = BlobCache(store.root), tmp_path / "f"
    blobs = []
    for data in (b"old", b"new"):
        file.write_bytes(data)
        blobs.append(cache.add(BlobCache.key("k"), file, origin="k", etag=None, source_size=None, suffix=""))
    write(store, blobs=(blobs[1].path,))
    assert run(store).names == (blobs[0].path,)
    assert cache.find(BlobCache.key("k")) == blobs[1]


def test_a_pointer_that_moves_back_during_gc_saves_the_version(any_store: ArtifactStore, monkeypatch) -> None:
    store = any_store
    write(store, "es/scenes", DAY, "s1")
    one = write(store, "es/cube", DAY, "c1", upstream={f"es/scenes/{DAY}": "s1"})
    write(store, "es/scenes", DAY, "s2")
    write(store, "es/cube", DAY, "c2", upstream={f"es/scenes/{DAY}": "s2"})
    real = gc_module.mark

    def move_after(*args: object, **kwargs: object):
        keep = real(*args, **kwargs)
        store.point(one)
        return keep

    monkeypatch.setattr(gc_module, "mark", move_after)
    report = run(store)
    assert report.names == ()
    assert store.current("es/cube", DAY) == one
    assert store.find("es/scenes", DAY, "s1") is not None, "its lineage stays, too"
    monkeypatch.undo()
    assert run(store).names == (f"es/cube/{DAY}/c2",), "nothing was left condemned"
    store.point(one)


def test_on_an_object_store_a_move_during_the_removal_is_refused(s3_root: Root, monkeypatch) -> None:
    store = ArtifactStore(s3_root)
    one = write(store, version="v1")
    write(store, version="v2")
    real, outcome = gc_module.fence, []

    def fence_then_move(*args: object):
        pointer = real(*args)
        try:
            store.point(one)
        except ArtifactNotFoundError as error:
            outcome.append(str(error))
        return pointer

    monkeypatch.setattr(gc_module, "fence", fence_then_move)
    assert run(store).versions == 1
    assert "gc is removing it" in outcome[0]
    assert store.current("earth_search/scenes", DAY).version == "v2"
    assert [key for key in keys(s3_root) if "condemned" in key] == []
    assert write(store, version="v1").verify() == [], "it can be made anew"


def test_a_condemnation_that_a_killed_gc_left_is_lifted(s3_root: Root, later) -> None:
    store = ArtifactStore(s3_root)
    one = write(store, version="v1", point=False)
    s3_root.put(f"artifacts/earth_search/scenes/{DAY}/v1/condemned.json", b"{}")
    run(store, 24 * HOUR)
    with pytest.raises(ArtifactNotFoundError):
        store.point(one)
    later(2 * HOUR)
    run(store, 24 * HOUR)
    store.point(one)


def test_an_attempt_that_was_silent_too_long_does_not_commit(s3_root: Root) -> None:
    store = ArtifactStore(s3_root)
    with store.begin("a", "p", "v", kind="table", code_version="1", upstream={}) as attempt:
        attempt.put("f", b"1")
        attempt._marker._renewed -= 4 * marker_module.HEARTBEAT_S  # the machine slept
        with pytest.raises(StorageError, match="silent so long"):
            attempt.commit(meta={})
    assert store.find("a", "p", "v") is None


def test_a_marker_on_an_object_store_is_renewed(s3_root: Root, monkeypatch) -> None:
    monkeypatch.setattr(marker_module, "HEARTBEAT_S", 0.02)
    puts: list[str] = []
    real = Root.put
    monkeypatch.setattr(Root, "put", lambda self, key, data: (puts.append(key), real(self, key, data)))
    with ArtifactStore(s3_root).begin("a", "p", "v", kind="table", code_version="1", upstream={}) as attempt:
        end = time.monotonic() + 5
        while len(puts) < 3 and time.monotonic() < end:
            time.sleep(0.01)
    assert puts[:3] == [f"artifacts/a/p/v/{attempt.id}.json"] * 3


@pytest.mark.parametrize("name", ["current.json", "v1/complete.json"])
def test_nothing_is_removed_while_a_document_cannot_be_read(store: ArtifactStore, name: str) -> None:
    write(store, version="v1")
    write(store, version="v2")
    store.root.put(f"artifacts/earth_search/scenes/{DAY}/{name}", b"{")
    before = keys(store.root)
    with pytest.raises(StorageError, match="cannot be read"):
        run(store)
    assert keys(store.root) == before


def test_a_damaged_pin_stops_gc(store: ArtifactStore) -> None:
    write(store, version="v1")
    write(store, version="v2")
    for text in (b"{", b'{"format": 1}'):
        store.root.put("pins/x.json", text)
        with pytest.raises(StorageError, match=r"pin x\.json"):
            run(store)


def test_stale_staging_files_go_and_fresh_ones_stay(store: ArtifactStore) -> None:
    write(store)
    folder = store.root.path / f"artifacts/earth_search/scenes/{DAY}"
    stale, fresh = folder / "current.json#1", folder / "v1/complete.json#2"
    for path in (stale, fresh):
        path.write_text("")
    os.utime(stale, (time.time() - 4000,) * 2)
    run(store, NOW)
    assert (stale.exists(), fresh.exists()) == (False, True)


def test_one_gc_at_a_time(store: ArtifactStore, monkeypatch) -> None:
    from geostack_pipeline.storage.leases import lease

    monkeypatch.setattr(gc_module, "lease", lambda root, a, p, timeout_s: lease(root, a, p, timeout_s=0.05))
    with lease(store.root, "gc", "all"), pytest.raises(StorageError, match="lease is taken"):
        run(store)


def test_a_negative_grace_period_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(SettingsError):
        run(store, -HOUR)
