"""kill -9 at random instants of a run, while a second process runs the same date.

Promise: no reader ever sees a torn artifact, and a re-run ends with the same versions and the same bytes, read back, as an
undisturbed run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.plan import STAGES
from geostack_pipeline.stages.workspace import Workspace, open_workspace
from tests.pipeline.processes import await_ready, finish, go, start

DAY = "2024-06-02"
"""A date with duplicates and a mosaic of two tiles."""


def _digests(ws: Workspace) -> dict[str, tuple[str, str]]:
    """Return version and content digest of each stage, the files hashed anew."""
    found = {}
    for stage in STAGES:
        snapshot = ws.artifacts.current(f"earth_search/{stage}", DAY)
        assert snapshot is not None, stage
        assert snapshot.verify() == [], stage
        found[stage] = (snapshot.version, snapshot.content_digest())
    return found


class _Reader(threading.Thread):
    """Opens and verifies whatever is visible, over and over."""

    def __init__(self, ws: Workspace) -> None:
        super().__init__(daemon=True)
        self._ws = ws
        self._end = threading.Event()
        self.problems: list[str] = []
        self.looks = 0

    def run(self) -> None:
        while not self._end.is_set():
            for stage in STAGES:
                try:
                    snapshot = self._ws.artifacts.current(f"earth_search/{stage}", DAY)
                    if snapshot is None:
                        continue
                    self.looks += 1
                    self.problems += snapshot.verify()
                    opened = snapshot.open()
                    if snapshot.kind == "tree":
                        assert set(opened.children) == set(snapshot.nodes)
                    else:
                        assert opened.height == snapshot.meta["rows"]
                except Exception as error:
                    self.problems.append(f"{stage}: {type(error).__name__}: {error}")
            time.sleep(0.02)

    def stop(self) -> None:
        self._end.set()
        self.join(timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", range(int(os.environ.get("GEOSTACK_KILL_SEEDS", "1"))))
def test_ten_kills_leave_nothing_torn(
    seed: int, sandbox_settings: Callable[..., Path], tmp_path: Path, small_sandbox: Any
) -> None:
    calm = sandbox_settings("calm.yaml", root="file:calm")
    process = start(calm, DAY, *STAGES)
    await_ready(process)
    began = time.monotonic()
    go(process)
    code, _, err = finish(process)
    span = time.monotonic() - began
    assert code == 0, err
    expected = _digests(open_workspace(load_settings(calm)))

    rng = random.Random(seed)
    # Two processes on the same cores take about twice as long as one.
    longest = 2.0 * span
    killed = 0
    for attempt in range(40):
        file = sandbox_settings(f"round{attempt}.yaml", root=f"file:round{attempt}")
        ws = open_workspace(load_settings(file))
        reader = _Reader(ws)
        victim, other = start(file, DAY, *STAGES), start(file, DAY, *STAGES)
        await_ready(victim)
        await_ready(other)
        reader.start()
        began = time.monotonic()
        go(victim)
        go(other)
        try:
            victim.wait(rng.uniform(0.0, longest))
        except subprocess.TimeoutExpired:
            victim.send_signal(signal.SIGKILL)
            killed += 1
        else:
            # It was faster than thought, as when the calm run had shared its cores: not a kill, and a shorter guess.
            longest = min(longest, time.monotonic() - began)
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0.0, 0.5 * span))
            other.send_signal(signal.SIGKILL)
            finish(other)
        else:
            code, _, err = finish(other)
            assert code == 0, err
        code, _, err = finish(victim)
        assert code in (0, -signal.SIGKILL), err
        rerun = start(file, DAY, *STAGES)
        await_ready(rerun)
        go(rerun)
        code, _, err = finish(rerun)
        reader.stop()
        assert code == 0, err
        assert reader.problems == []
        assert reader.looks > 0
        assert _digests(ws) == expected
        shutil.rmtree(tmp_path / f"round{attempt}")
        if killed == 10:
            return
    pytest.fail(f"only {killed} of 40 processes were still at work when they were to be killed")
