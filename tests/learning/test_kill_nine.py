"""kill -9 in the middle of a training: the next run goes on and ends with the same result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from learning_world import START, some, store, workspace

from geostack_pipeline.stages import candidate_model, training_set
from geostack_pipeline.storage.snapshot import Snapshot

_TRAIN = """
import dataclasses, sys
sys.path[:0] = [{tests!r}]
from learning_world import TINY_RECIPE
from geostack_pipeline.learning.profiles import PROFILES
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import candidate_model
from geostack_pipeline.stages.progress import listening
from geostack_pipeline.stages.workspace import open_workspace
candidate_model.PROFILES = {{**PROFILES, "demo": TINY_RECIPE}}
with listening(lambda event: print(event.info.get("step"), flush=True)):
    outcome = candidate_model.build(open_workspace(load_settings({file!r})))
print("ended", outcome.stats["resumed_at"], flush=True)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    code = _TRAIN.format(tests=str(Path(__file__).parent), file=str(folder / "geostack.yaml"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def result(folder: Path) -> Snapshot:
    snapshot = workspace(folder, steps=40, test_share=0.2).artifacts.current(candidate_model.NAME, "all")
    assert snapshot is not None
    return snapshot


@pytest.mark.slow
def test_a_killed_training_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        ws = workspace(tmp_path / name, steps=40, test_share=0.2)
        store(ws, some(8))
        training_set.build(ws, now=START + timedelta(days=400))
    undisturbed = start(tmp_path / "whole")
    assert "ended 0" in undisturbed.communicate(timeout=900)[0]
    killed = start(tmp_path / "killed")
    assert killed.stdout is not None
    for line in killed.stdout:
        if line.strip() not in {"", "None"} and float(line) >= 12:
            break
    # Anywhere within the next steps, also while a checkpoint is written.
    time.sleep(0.03)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert killed.returncode == -signal.SIGKILL
    ws = workspace(tmp_path / "killed", steps=40, test_share=0.2)
    assert ws.artifacts.versions(candidate_model.NAME, "all") == [], "nothing torn is visible"
    said = start(tmp_path / "killed").communicate(timeout=900)[0]
    resumed_at = int(said.strip().splitlines()[-1].split()[1])
    assert resumed_at >= 10
    whole, again = result(tmp_path / "whole"), result(tmp_path / "killed")
    assert whole.version == again.version
    assert whole.files["model.safetensors"].sha256 == again.files["model.safetensors"].sha256
    histories = [pl.read_parquet(each.read("history.parquet")) for each in (whole, again)]
    assert histories[0]["loss"].to_list() == pytest.approx(histories[1]["loss"].to_list(), abs=1e-3)
