"""Versions that tell the truth: changed bytes, lost versions, pins, refused lists."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geostack_pipeline.errors import IntegrityError
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import fetching, granules, scenes, selected
from geostack_pipeline.stages.plan import make_plan
from geostack_pipeline.stages.workspace import Check, Workspace, open_workspace
from geostack_pipeline.storage.blobs import Blob
from geostack_pipeline.storage.snapshot import Snapshot

DAY = "2024-06-06"
Opened = tuple[Workspace, Any]


def _open(file: Path, **options: Any) -> Opened:
    return open_workspace(load_settings(file), **options), load_settings(file).build_provider("earth_search")


def _manifest(ws: Workspace, provider: Any, *, refresh: bool = False) -> Snapshot:
    found = scenes.build(ws, provider, DAY).snapshot
    chosen = selected.build(ws, provider, DAY, found).snapshot
    return granules.build(ws, provider, DAY, chosen, refresh=refresh).snapshot


def _recache(ws: Workspace, snapshot: Snapshot, tmp_path: Path) -> Blob:
    """Put other bytes into the cache for one row, with the source's present etag: as a killed refresh leaves it."""
    row = snapshot.open().row(0, named=True)
    key = row["blob"].split("/")[-2]
    known = ws.blobs.find(key)
    assert known is not None
    other = tmp_path / "other.tif"
    other.write_bytes(ws.artifacts.root.read(known.path) + b"\0")
    return ws.blobs.add(
        key,
        other,
        origin=known.origin,
        etag=known.etag,
        source_size=known.source_size,
        suffix=".tif",
        extra=known.extra,
    )


def test_bytes_cached_by_a_refresh_that_was_killed_are_noticed_by_the_next(
    sandbox_settings: Callable[..., Path], tmp_path: Path
) -> None:
    ws, provider = _open(sandbox_settings())
    before = _manifest(ws, provider)
    changed = _recache(ws, before, tmp_path)
    after = _manifest(ws, provider, refresh=True)
    assert after.version != before.version
    assert after.open().filter(after.open()["sha256"] == changed.sha256).height == 1
    assert len(after.meta["changed"]) == 1
    # The next refresh finds nothing new, and a plain run keeps what the refresh found.
    assert _manifest(ws, provider, refresh=True).version == after.version
    assert _manifest(ws, provider).version == after.version


def test_a_version_left_behind_by_other_settings_is_not_taken_for_the_changed_bytes(
    sandbox_settings: Callable[..., Path], tmp_path: Path
) -> None:
    first = sandbox_settings("first.yaml", earth_search={"bands": ["B11", "B12"]})
    second = sandbox_settings("second.yaml", earth_search={"bands": ["B12"]})
    old = _manifest(*_open(first))
    _manifest(*_open(second))
    ws, provider = _open(first)
    changed = _recache(ws, old, tmp_path)
    new = _manifest(ws, provider, refresh=True)
    assert new.version != old.version
    assert changed.sha256 in set(new.open()["sha256"])


def test_lost_bytes_whose_source_changed_too_are_healed(
    sandbox_settings: Callable[..., Path], tmp_path: Path
) -> None:
    ws, provider = _open(sandbox_settings())
    before = _manifest(ws, provider)
    _recache(ws, before, tmp_path)
    assert ws.artifacts.root.path is not None
    (ws.artifacts.root.path / before.open().row(0, named=True)["blob"]).unlink()
    after = _manifest(ws, provider)
    assert after.version != before.version
    assert granules._lost(ws, after.open()) == []


def test_two_areas_of_one_extent_do_not_share_a_file(
    sandbox_settings: Callable[..., Path], small_sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    area = small_sandbox.settings()["areas"]["korpezhe"]
    ws, provider = _open(
        sandbox_settings(areas={"one": area, "two": area}, earth_search={"bands": ["B11", "B12"]})
    )
    files: list[Path] = []
    real = fetching.crop

    def watched(store: Any, key: str, plan: Any, dest: Path) -> Any:
        files.append(dest)
        return real(store, key, plan, dest)

    monkeypatch.setattr(fetching, "crop", watched)
    table = _manifest(ws, provider).open()
    assert len(files) == len(set(files))
    sides = [table.filter(table["area"] == name)["sha256"].to_list() for name in ("one", "two")]
    assert sides[0] == sides[1]


@pytest.mark.parametrize("stage", ["selected", "granules"])
def test_a_version_that_is_gone_is_planned_and_built_anew(
    stage: str, sandbox_settings: Callable[..., Path]
) -> None:
    ws, provider = _open(sandbox_settings(earth_search={"bands": ["B12"]}))
    _manifest(ws, provider)
    asset = f"earth_search/{stage}"
    before = ws.artifacts.current(asset, DAY)
    assert before is not None
    assert ws.artifacts.root.path is not None
    shutil.rmtree(ws.artifacts.root.path / "artifacts" / asset / DAY / before.version)
    plan = make_plan(ws, provider, [DAY], until="granules", frozen=[DAY])
    assert next((step.stage, step.reason) for step in plan.pending()) == (stage, "the stored version is gone")
    _manifest(ws, provider)
    after = ws.artifacts.current(asset, DAY)
    assert after is not None
    assert after.version == before.version
    assert after.verify() == []


def test_a_list_that_fails_its_check_is_never_shown(
    sandbox_settings: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ws, provider = _open(sandbox_settings())
    bad = Check(name="scene_list_count", passed=False, detail={"rows": 1, "found": 2})
    monkeypatch.setattr(scenes, "_checks", lambda _: (bad,))
    with pytest.raises(IntegrityError, match="scene_list_count did not pass"):
        scenes.build(ws, provider, DAY)
    assert ws.artifacts.pointer("earth_search/scenes", DAY) is None


def test_a_pinned_version_is_never_out_of_date(sandbox_settings: Callable[..., Path]) -> None:
    strict = sandbox_settings("strict.yaml", earth_search={"bands": ["B12"], "min_coverage": 0.01})
    _manifest(*_open(strict))
    ws, provider = _open(strict)
    current = ws.artifacts.current("earth_search/selected", DAY)
    assert current is not None
    other = sandbox_settings("other.yaml", earth_search={"bands": ["B12"], "min_coverage": 0.02})
    ws, provider = _open(other)
    moved = make_plan(ws, provider, [DAY], until="granules", frozen=[DAY])
    assert moved.pending("selected")
    ws, provider = _open(other, pins={f"earth_search/selected/{DAY}": current.version})
    assert not make_plan(ws, provider, [DAY], until="granules", frozen=[DAY]).pending()
