"""Dagster's own sensor daemon, killed between requesting, queueing and committing: each change has one run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Any

import dagster as dg
import pytest
import yaml

from geostack_pipeline.sandbox.serve import Sandbox
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import scenes
from geostack_pipeline.stages.workspace import open_workspace

PROJECT = Path(__file__).parents[2]
PLACES = ("RUN_IDS_RESERVED", "RUN_CREATED", "RUN_LAUNCHED")
"""Where the daemon dies: before a run exists, before it is queued, and before the turn is committed."""


class Daemon:
    """The driver process of :mod:`tests.pipeline.sensor_daemon`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def do(self, command: str) -> bool:
        """Return whether the turn ended; False: the process died in it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline() == "done\n"


@contextmanager
def daemon(home: Path, settings: Path) -> Iterator[Daemon]:
    """Start a driver and end its whole group: its code server outlives a kill for a while."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER")}
    with (home / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("sensor_daemon.py"))],
            cwd=home,
            env={
                **env,
                "DAGSTER_HOME": str(home),
                "GEOSTACK_SETTINGS": str(settings),
                "PYTHONWARNINGS": "ignore",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    stuck = Timer(600.0, process.kill)
    stuck.start()
    try:
        yield Daemon(process)
    finally:
        stuck.cancel()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_daemon_that_is_killed_requests_each_run_once(
    worlds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("workspace.yaml", "dagster.yaml"):
        shutil.copy(PROJECT / name, home / name)
    with Sandbox.start(worlds, small=True, providers=["cmr_stac"], held=["20240609"]) as nasa:
        content: dict[str, Any] = {"root": f"file:{tmp_path / 'store'}", **nasa.settings()}
        content["providers"]["cmr_stac"]["collections"] = ["EMITL2BCH4ENH_002", "EMITL2BCH4PLM_002"]
        content["automation"] = {"running": True, "new_granules": {"every_minutes": 0.01}}
        file = tmp_path / "geostack.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        settings = load_settings(file)
        for day in ("2024-06-03", "2024-06-06", "2024-06-07"):
            scenes.build(open_workspace(settings), settings.build_provider("cmr_stac"), day)

        changes = [
            ("release", "20240609"),
            ("delete", "CH4ENH_002_20240603"),
            ("revise", "CH4PLM_002_20240607"),
        ]
        for place, change in zip(PLACES, changes, strict=True):
            with daemon(home, file) as running:
                assert running.do("turn"), (home / "daemon.log").read_text()[-3000:]
                nasa.change(*change)
                assert running.do("turn")
                # What was found is written down; the next turn hands it out.
                assert not running.do(f"die {place}")
        with daemon(home, file) as running:
            for _ in range(3):
                assert running.do("turn")
        nasa.change("revise", "CH4ENH_002_20240607")
        with daemon(home, file) as running:
            for _ in range(3):
                assert running.do("turn")

    monkeypatch.chdir(home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        runs = instance.get_runs()
    dates = sorted(run.tags["dagster/partition"] for run in runs)
    # Two changes of one date at different times are two runs.
    assert dates == ["2024-06-03", "2024-06-07", "2024-06-07", "2024-06-09"]
    told = [change for run in runs for change in run.tags["geostack/changes"].split(", ")]
    assert len(told) == len(set(told)) == 5
    assert len({run.tags["dagster/run_key"] for run in runs}) == 4
