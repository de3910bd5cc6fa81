"""The ledger: nothing that was moved is missing, whoever else writes, also where a run fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from geostack_pipeline.errors import StorageError, TransferError
from geostack_pipeline.providers import logins
from geostack_pipeline.settings import parse_settings
from geostack_pipeline.stages import ledger
from geostack_pipeline.stages.workspace import Workspace, open_workspace
from geostack_pipeline.storage.artifacts import ArtifactStore

DAY = "2024-06-07"


def workspace(folder: Path, run: str | None = "run-1") -> Workspace:
    return open_workspace(parse_settings({"root": str(folder / "store")}), run_id=run)


@pytest.fixture(autouse=True)
def no_logins() -> None:
    logins.take()


def moves(ws: Workspace, host: str = "s3://bucket", *, requests: int = 3, moved: int = 700) -> None:
    with ledger.recording(ws, "p", DAY, "fetch") as traffic:
        traffic.add(host, requests=requests, moved=moved, fetched=1)
        traffic.add(host, hits=2)


def fails(ws: Workspace) -> None:
    with ledger.recording(ws, "p", DAY, "fetch") as traffic:
        traffic.add("s3://bucket", requests=5, moved=90)
        raise TransferError("gone", subject="x")


def test_each_run_adds_its_rows(tmp_path: Path) -> None:
    for run in ("first", "second"):
        moves(workspace(tmp_path, run))
    ws = workspace(tmp_path)
    frame = ledger.read(ws, "p", DAY)
    assert frame.drop("recorded_at").rows() == [
        (run, "fetch", "s3://bucket", 3, 700, 2, 1) for run in ("first", "second")
    ]
    assert dict(frame.schema) == dict(ledger.SCHEMA)
    snapshot = ws.artifacts.current("p/ledger", DAY)
    assert snapshot is not None
    assert snapshot.meta == {"rows": 2, "requests": 6, "bytes_moved": 1400}
    assert snapshot.verify() == []


def test_what_moved_nothing_writes_nothing(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    with ledger.recording(ws, "p", DAY, "search"):
        pass
    assert ledger.read(ws, "p", DAY).height == 0
    assert ws.artifacts.pointer("p/ledger", DAY) is None


def test_a_run_that_fails_has_moved_what_it_moved(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    with pytest.raises(TransferError, match="gone"):
        fails(ws)
    assert ledger.read(ws, "p", DAY)["requests"].to_list() == [5]


def test_the_first_error_is_the_one_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise StorageError("the disk is full", subject="p/ledger")

    monkeypatch.setattr(ArtifactStore, "begin", full)
    with pytest.raises(TransferError):
        fails(workspace(tmp_path))
    with pytest.raises(StorageError, match="full"):
        moves(workspace(tmp_path))


def test_runs_that_write_at_once_lose_no_row(tmp_path: Path) -> None:
    names = [f"run-{index}" for index in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: moves(workspace(tmp_path, name)), names))
    frame = ledger.read(workspace(tmp_path), "p", DAY)
    assert sorted(frame["run"]) == names
    assert frame["bytes_moved"].sum() == 8 * 700


def test_bytes_that_nobody_saw_are_null(tmp_path: Path) -> None:
    ws = workspace(tmp_path, None)
    with ledger.recording(ws, "p", DAY, "search") as traffic:
        traffic.add("catalog.example", requests=2, unseen=True)
    assert ledger.read(ws, "p", DAY)["bytes_moved"].to_list() == [None]
    assert ledger.read(ws, "p", DAY)["run"].to_list() == [None]


def test_logins_are_counted_once_by_host(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/first":
            return httpx.Response(302, headers={"location": "https://b.example/second"})
        return httpx.Response(200, content=b"token" * 10)

    transport = httpx.MockTransport(answer)
    with httpx.Client(transport=transport, event_hooks=logins.HOOKS, follow_redirects=True) as client:
        client.get("https://a.example/first?secret=hush")
    ws = workspace(tmp_path)
    moves(ws)
    moves(ws)
    frame = ledger.read(ws, "p", DAY)
    seen = frame.filter(frame["purpose"] == "login")
    assert seen.select("host", "requests", "bytes_moved").rows() == [
        ("a.example", 1, 0),
        ("b.example", 1, 50),
    ]
    assert "hush" not in str(frame.rows())
