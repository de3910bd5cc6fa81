"""A pointer moves from one version to the next only where it still is what the writer read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from geostack_pipeline.storage.artifacts import ArtifactStore, Snapshot

ASSET, DAY = "p/ledger", "2024-06-07"


def version(store: ArtifactStore, name: str, text: str) -> Snapshot:
    with store.begin(ASSET, DAY, name, kind="table", code_version="1", upstream={}) as attempt:
        attempt.put("rows.txt", text.encode())
        return attempt.commit(meta={})


def test_only_the_first_of_two_writers_moves_it(any_store: ArtifactStore) -> None:
    first, second, third = (version(any_store, name, name) for name in ("one", "two", "three"))
    assert any_store.replace(first, None, run_id="a")
    assert not any_store.replace(second, None)
    before = any_store.pointer(ASSET, DAY)
    assert before is not None
    assert (before.version, before.run_id) == ("one", "a")
    assert any_store.replace(second, before)
    assert not any_store.replace(third, before)
    now = any_store.pointer(ASSET, DAY)
    assert now is not None
    assert now.version == "two"


def test_rows_added_by_many_writers_at_once_are_all_kept(any_store: ArtifactStore) -> None:
    def add(row: str) -> None:
        while True:
            before = any_store.pointer(ASSET, DAY)
            found = None if before is None else any_store.find(ASSET, DAY, before.version)
            text = (found.read("rows.txt").decode() if found else "") + row
            if any_store.replace(version(any_store, f"v{text}", text), before):
                return

    rows = "abcdefgh"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, rows))
    snapshot = any_store.current(ASSET, DAY)
    assert snapshot is not None
    assert sorted(snapshot.read("rows.txt").decode()) == sorted(rows)
