"""Never two trainings at once: processes that begin at one instant, holders that are killed, waits that end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from learning_world import START, some, store, workspace

from geostack_pipeline.errors import BusyError
from geostack_pipeline.stages import candidate_model, training_set
from geostack_pipeline.stages.progress import Event, listening
from geostack_pipeline.stages.turns import TRAINING, training_turn
from geostack_pipeline.stages.workspace import Workspace
from geostack_pipeline.storage.leases import lease
from geostack_pipeline.storage.snapshot import Snapshot

PROJECT = Path(__file__).parents[2]

# Everything is real but what takes minutes: a stand-in for the training, which tells a witness when it begins and ends.
_PROLOGUE = """
import os, sys, time
import polars as pl
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import candidate_model
from geostack_pipeline.stages.progress import Event, emit, listening
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.workspace import open_workspace
log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def train(ws, source, target, turn):
    os.write(log, b"begin\\n")
    emit(Event(provider="", stage=candidate_model.NAME, day="all", status="moved", info={{"of": 1, "step": 1}}))
    with ws.artifacts.begin(candidate_model.NAME, "all", target, kind="model", code_version="1", upstream={{}}) as attempt:
        time.sleep(float(os.environ["SECONDS"]))
        attempt.put("history.parquet", parquet_bytes(pl.DataFrame({{"loss": [1.0, 0.5]}})))
        made = attempt.commit(meta={{"steps": 1}})
    os.write(log, b"end\\n")
    return made, {{}}

candidate_model._train = train

def barrier():
    print("ready", flush=True)
    sys.stdin.readline()

def tell(event):
    if event.stage == candidate_model.NAME and event.info:
        print(event.status, event.info.get("waits for"), flush=True)
"""
_STAGE = (
    _PROLOGUE
    + """
ws = open_workspace(load_settings({file!r}))
barrier()
with listening(tell):
    outcome = candidate_model.build(ws)
print("ended", outcome.reused, outcome.stats, outcome.snapshot.version, flush=True)
"""
)
_COMMAND = (
    _PROLOGUE
    + """
from geostack_pipeline.commands.train import train_command
from geostack_pipeline.orchestration import launch
from pathlib import Path
look = launch.running

def running(*args):
    found = look(*args)
    barrier()
    return found

launch.running = running
with listening(tell):
    train_command(settings_file=Path({file!r}), as_json=True)
print("ended", flush=True)
"""
)
_GRAPH = (
    _PROLOGUE
    + """
import dagster as dg
from geostack_pipeline.orchestration.build import build_definitions
defs = build_definitions(load_settings({file!r}), {file!r})
with dg.DagsterInstance.get() as instance:
    barrier()
    with listening(tell):
        done = defs.resolve_job_def("retrain").execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey([candidate_model.NAME])], raise_on_error=False)
print("ended", done.success, flush=True)
"""
)


def prepared(folder: Path, **learning: object) -> Workspace:
    """Return a workspace with all that a training starts from."""
    ws = workspace(folder, test_share=0.2, **learning)
    store(ws, some(8))
    training_set.build(ws, now=START + timedelta(days=400))
    return ws


def start(folder: Path, code: str, *, seconds: float = 3.0, **environment: str) -> subprocess.Popen[str]:
    """Start a process that says when it is ready, and waits for :func:`go`."""
    text = code.format(file=str(folder / "geostack.yaml"), log=str(folder / "trained"))
    return subprocess.Popen(
        [sys.executable, "-c", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "SECONDS": str(seconds), **environment},
    )


@contextmanager
def ended_after(*processes: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait(timeout=30)


def heard(process: subprocess.Popen[str], wanted: str) -> str:
    """Return the first line that begins like this."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(wanted):
            return line.strip()
    raise AssertionError(f"never said {wanted!r}: {lines}")


def go(*processes: subprocess.Popen[str]) -> None:
    """Let processes that are all ready go on at one instant."""
    for process in processes:
        assert heard(process, "ready")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def trained(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "trained").read_text().splitlines()]


@pytest.mark.slow
def test_of_three_that_begin_at_one_instant_one_trains(tmp_path: Path) -> None:
    ws = prepared(tmp_path)
    processes = [start(tmp_path, _STAGE) for _ in range(3)]
    with ended_after(*processes):
        go(*processes)
        said = [heard(process, "ended") for process in processes]
    assert trained(tmp_path) == ["begin", "end"]
    assert sum(line.startswith("ended False") for line in said) == 1
    assert sum("a training from the same data ended while this run waited" in line for line in said) == 2
    (version,) = ws.artifacts.versions(candidate_model.NAME, candidate_model.PARTITION)
    assert all(line.endswith(version) for line in said)


@pytest.mark.slow
def test_two_commands_and_the_asset_graph_train_once(tmp_path: Path) -> None:
    prepared(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    text = (PROJECT / "dagster.yaml").read_text("utf-8").replace(".dagster", str(home / "kept"))
    (home / "dagster.yaml").write_text(text, encoding="utf-8")
    # Its tables are made before anybody needs them.
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_runs() == []
    codes = (_COMMAND, _COMMAND, _GRAPH)
    processes = [start(tmp_path, code, DAGSTER_HOME=str(home)) for code in codes]
    with ended_after(*processes):
        # Both commands have looked whether another training runs, and seen none.
        go(*processes)
        said = [heard(process, "ended") for process in processes]
    assert trained(tmp_path) == ["begin", "end"]
    assert len(said) == 3
    # The stand-in's weights cannot be judged; that each came by its candidate is told by Dagster.
    with dg.DagsterInstance.from_config(str(home)) as instance:
        key = dg.AssetKey([candidate_model.NAME])
        assert len(instance.fetch_materializations(key, limit=9).records) == 3


@pytest.mark.slow
def test_a_killed_holder_lets_the_next_one_go_on(tmp_path: Path) -> None:
    prepared(tmp_path)
    first, second = (start(tmp_path, _STAGE, seconds=seconds) for seconds in (600.0, 0.0))
    with ended_after(first, second):
        go(first)
        assert heard(first, "moved")
        go(second)
        assert f"process {first.pid} on" in heard(second, "waits")
        os.kill(first.pid, signal.SIGKILL)
        first.wait(timeout=30)
        assert heard(second, "ended").startswith("ended False")
    assert trained(tmp_path) == ["begin", "begin", "end"], "the first never came to its end"


def test_a_wait_ends_and_says_who_has_the_turn(tmp_path: Path) -> None:
    ws = workspace(tmp_path, wait_hours=0.0)
    events: list[Event] = []
    with (
        training_turn(ws, candidate_model.NAME, "all"),
        listening(events.append),
        pytest.raises(BusyError) as refused,
        training_turn(ws, candidate_model.NAME, "all"),
    ):
        pass
    assert f"process {os.getpid()} on" in str(refused.value)
    assert "learning.wait_hours" in str(refused.value)
    assert refused.value.retryable
    assert [event.status for event in events] == ["waits"]


def test_what_was_trained_meanwhile_is_adopted_and_newer_labels_are_learnt_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder of the turn stores a newer training set before it lets go: that one is learnt from."""
    ws = prepared(tmp_path)
    before = candidate_model.current_training_set(ws)
    learnt: list[str] = []

    def train(ws: Workspace, source: Snapshot, target: str, turn: object) -> object:
        learnt.append(source.version)
        raise InterruptedError

    monkeypatch.setattr(candidate_model, "_train", train)

    def when_it_waits(event: Event) -> None:
        if event.status == "waits":
            store(ws, some(12))
            training_set.build(ws, now=START + timedelta(days=400))
            held.close()

    with ExitStack() as held, listening(when_it_waits):
        held.enter_context(lease(ws.artifacts.root, *TRAINING, holder="before"))
        with pytest.raises(InterruptedError):
            candidate_model.build(ws)
    after = candidate_model.current_training_set(ws)
    assert before.version != after.version
    assert learnt == [after.version]
