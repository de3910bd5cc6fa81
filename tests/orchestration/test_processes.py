"""kill -9 of a process with a run: the run is put aside, and nothing waits for it any more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from geostack_pipeline.errors import BusyError
from geostack_pipeline.orchestration import processes
from geostack_pipeline.orchestration.launch import run_retrain
from geostack_pipeline.orchestration.processes import (
    PROCESS_TAG,
    is_dead,
    process_tag,
    put_dead_aside,
    running,
)
from geostack_pipeline.orchestration.resources import WorkspaceResource
from geostack_pipeline.orchestration.sensors import RETRAIN, RETRAIN_TAG, new_labels_sensor
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.retraining import Known

PROJECT = Path(__file__).parents[2]
_BY_COMMAND = """
import sys, time
import dagster as dg
from geostack_pipeline.orchestration.launch import run_retrain

@dg.op
def train():
    print("at work", flush=True)
    time.sleep(600)

@dg.job(name="retrain")
def retrain():
    train()

with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    run_retrain(dg.Definitions(jobs=[retrain]), instance)
"""
_BY_LAUNCHER = """
import sys, time
import dagster as dg
from geostack_pipeline.orchestration.processes import sign

@dg.asset
def training_set(context: dg.AssetExecutionContext) -> None:
    sign(context)
    print("at work", flush=True)
    time.sleep(600)

job = dg.define_asset_job("retrain", [training_set])
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    dg.Definitions(assets=[training_set], jobs=[job]).resolve_job_def("retrain").execute_in_process(instance=instance)
"""


@dg.op
def train() -> None:
    """Stand for a training."""


@dg.job(name=RETRAIN, tags=dict([RETRAIN_TAG]))
def retrain() -> None:
    """Stand for the job."""
    train()


@contextmanager
def at_work(home: Path, code: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process with a run that does not end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    text = (PROJECT / "dagster.yaml").read_text("utf-8").replace(".dagster", str(folder / "kept"))
    (folder / "dagster.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("code", [_BY_COMMAND, _BY_LAUNCHER], ids=["command", "launcher"])
def test_a_killed_training_holds_up_nobody(tmp_path: Path, home: Path, code: str) -> None:
    file = tmp_path / "geostack.yaml"
    file.write_text("automation: {new_labels: {granules: 1}}", encoding="utf-8")
    sensor = new_labels_sensor(retrain, load_settings(file), lambda _: Known(labelled={("a", "1")}))
    defs = dg.Definitions(jobs=[retrain], sensors=[sensor])
    with dg.DagsterInstance.from_config(str(home)) as instance:

        def turn(cursor: str | None) -> Any:
            with dg.build_sensor_context(
                instance=instance,
                cursor=cursor,
                resources={"workspace": WorkspaceResource(settings_file=str(file))},
                repository_def=defs.get_repository_def(),
            ) as context:
                return sensor.evaluate_tick(context)

        meant = turn(None)
        with at_work(home, code) as process:
            (run,) = instance.get_runs()
            assert run.status is dg.DagsterRunStatus.STARTED
            # Alive: it is waited for, and the command says by whom.
            assert put_dead_aside(instance) == []
            assert "a training runs" in (turn(meant.cursor).skip_message or "")
            with pytest.raises(BusyError, match=f"process {process.pid} on") as refused:
                run_retrain(defs, instance)
            assert run.run_id in str(refused.value)
            assert len(instance.get_runs()) == 1

            os.kill(process.pid, signal.SIGKILL)
            process.stdout.read()  # type: ignore[union-attr]
            # Nobody has asked yet how it ended: a process that is no more all the same.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            started = turn(meant.cursor)
        assert len(started.run_requests) == 1
        ended = instance.get_run_by_id(run.run_id)
        assert ended is not None
        assert ended.status is dg.DagsterRunStatus.FAILURE
        told = [entry.message for entry in instance.all_logs(run.run_id)]
        assert any("has ended without a word" in message for message in told)
        assert run_retrain(defs, instance) is None


@pytest.mark.slow
def test_the_command_after_a_kill(home: Path) -> None:
    defs = dg.Definitions(jobs=[retrain])
    with dg.DagsterInstance.from_config(str(home)) as instance:
        with at_work(home, _BY_COMMAND) as process:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(timeout=30)
        # A run that did not begin waits for the one by command, by dagster.yaml, not the other way round.
        instance.create_run_for_job(retrain)
        assert run_retrain(defs, instance) is None
        statuses = sorted(run.status.value for run in instance.get_runs())
        assert statuses == ["FAILURE", "NOT_STARTED", "SUCCESS"]
        # What Dagster's launcher began and says nothing of its process is waited for.
        instance.create_run_for_job(retrain, status=dg.DagsterRunStatus.STARTED)
        with pytest.raises(BusyError, match="not known"):
            run_retrain(defs, instance)


def test_only_what_is_surely_dead_is_put_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.ephemeral() as instance:

        def run_with(tags: dict[str, str], **more: Any) -> dg.DagsterRun:
            return instance.create_run_for_job(retrain, tags=tags, status=dg.DagsterRunStatus.STARTED, **more)

        def changed(run_id: str, **told: Any) -> dict[str, str]:
            return {PROCESS_TAG: json.dumps({**json.loads(process_tag(run_id)[PROCESS_TAG]), **told})}

        ids = [f"{number:08d}-0000-4000-8000-000000000000" for number in range(9)]
        mine = run_with(process_tag(ids[0]), run_id=ids[0])
        assert not is_dead(mine)
        # A number that another process has by now, and a host that was started anew.
        assert is_dead(run_with(changed(ids[1], began="1"), run_id=ids[1]))
        assert is_dead(run_with(changed(ids[2], boot="another"), run_id=ids[2]))
        # Other hosts and containers count their own processes.
        assert not is_dead(run_with(changed(ids[3], host="another", began="1"), run_id=ids[3]))
        assert not is_dead(run_with(changed(ids[4], space="pid:[1]", began="1"), run_id=ids[4]))
        # A run that tries another one again has its tags.
        assert not is_dead(run_with(changed(ids[1], began="1"), run_id=ids[5]))
        assert not is_dead(run_with({PROCESS_TAG: "{"}, run_id=ids[6]))
        assert not is_dead(run_with({}, run_id=ids[7]))
        cancelling = run_with(changed(ids[8], began="1"), run_id=ids[8])
        instance.report_run_canceling(cancelling)
        assert set(put_dead_aside(instance)) == {ids[1], ids[2], ids[8]}
        assert instance.get_run_by_id(ids[8]).status is dg.DagsterRunStatus.CANCELED  # type: ignore[union-attr]
        assert put_dead_aside(instance) == []
        assert running(instance, RETRAIN) is not None
        assert running(instance, "other") is None
        # Without /proc a process is known by its number alone.
        monkeypatch.setattr(processes, "_PROC", Path("/nowhere"))
        assert processes._began(os.getpid()) == ""
