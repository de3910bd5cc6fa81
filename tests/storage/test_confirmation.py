"""A pointer that stays can note that its version was found right once more."""

from __future__ import annotations

from pathlib import Path

from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.roots import open_root


def test_confirming_moves_only_the_time_of_confirmation(tmp_path: Path) -> None:
    store = ArtifactStore(open_root(f"file://{tmp_path}"))
    with store.begin("p/scenes", "2024-06-01", "v1", kind="table", code_version="1", upstream={}) as attempt:
        attempt.put("scenes.parquet", b"x")
        snapshot = attempt.commit(meta={})
    first = store.point(snapshot, run_id="one")
    assert first.pointed_at == first.confirmed_at
    assert store.point(snapshot, run_id="two") == first
    again = store.point(snapshot, run_id="three", confirm=True)
    assert (again.pointed_at, again.run_id, again.version) == (first.pointed_at, "one", "v1")
    assert again.confirmed_at > first.confirmed_at
    assert store.pointer("p/scenes", "2024-06-01") == again
