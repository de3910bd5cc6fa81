"""A real ``dagster dev`` whose run is killed, and which ends in the middle of one: the training is tried again, once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from dagster_dev import DagsterDev, dagster_dev, project_folder

_LOCATION = """
import os, time
from pathlib import Path
import dagster as dg
from geostack_pipeline.orchestration.processes import sign
from geostack_pipeline.orchestration.resources import WorkspaceResource
from geostack_pipeline.orchestration.sensors import RETRAIN_TAG, new_labels_sensor
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.retraining import Known

HERE = Path(__file__).parent
FILE = os.environ["GEOSTACK_SETTINGS"]

@dg.asset
def training_set(context: dg.AssetExecutionContext) -> None:
    sign(context)
    (HERE / context.run.run_id).write_text(str(os.getpid()))
    while not (HERE / "go").exists():
        time.sleep(0.2)
    (HERE / "judged").write_text("yes")

def state(ws):
    stored = {("a", "1")}
    return Known(labelled=stored, judged=stored if (HERE / "judged").exists() else None)

job = dg.define_asset_job("retrain", [training_set], tags=dict([RETRAIN_TAG]), executor_def=dg.in_process_executor)
defs = dg.Definitions(
    assets=[training_set], jobs=[job], sensors=[new_labels_sensor(job, load_settings(FILE), state)],
    resources={"workspace": WorkspaceResource(settings_file=FILE)},
)
"""


def runs(dev: DagsterDev) -> list[dict[str, Any]]:
    """Return all runs, the oldest first, with their tags as a dictionary."""
    found = dev.graphql("{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }")
    return [
        {**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}}
        for run in reversed(found["runsOrError"]["results"])
    ]


def at_work(dev: DagsterDev, folder: Path, count: int) -> tuple[str, int]:
    """Return the run that is the ``count``-th to work, and its process."""

    def there() -> tuple[str, int] | None:
        known = runs(dev)
        if len(known) < count or known[-1]["status"] != "STARTED":
            return None
        told = folder / known[-1]["runId"]
        text = told.read_text() if told.exists() else ""
        return (known[-1]["runId"], int(text)) if text else None

    found: tuple[str, int] = dev.wait_for(f"run {count} to work", there, seconds=900)
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_training_that_is_killed_is_tried_again_once(tmp_path: Path) -> None:
    home = project_folder(tmp_path / "home")
    (tmp_path / "location.py").write_text(_LOCATION, encoding="utf-8")
    (home / "workspace.yaml").write_text(
        f"load_from:\n  - python_file: {tmp_path / 'location.py'}\n", encoding="utf-8"
    )
    file = tmp_path / "geostack.yaml"
    file.write_text(
        f"root: file:{tmp_path / 'store'}\n"
        "automation: {running: true, new_labels: {granules: 1, every_minutes: 0.1}}\n",
        encoding="utf-8",
    )
    with dagster_dev(home, file) as dev:
        _, process = at_work(dev, tmp_path, 1)
        os.kill(process, signal.SIGKILL)
        second, _ = at_work(dev, tmp_path, 2)
    # What Dagster ended itself, or the fixture killed, is started still as far as Dagster knows.
    with dagster_dev(home, file) as dev:
        third, _ = at_work(dev, tmp_path, 3)
        (tmp_path / "go").write_text("", encoding="utf-8")
        dev.wait_for("the training", lambda: runs(dev)[-1]["status"] == "SUCCESS", seconds=900)
        dev.wait_for("turns after it", lambda: dev.tail(4000).count("no label since") >= 2, seconds=900)
        done = runs(dev)
    assert [run["status"] for run in done] == ["FAILURE", "FAILURE", "SUCCESS"]
    assert [run["runId"] for run in done[1:]] == [second, third]
    assert len({run["tags"]["dagster/run_key"] for run in done}) == 1
    assert [run["tags"].get("dagster/retry_number") for run in done] == [None, "1", "2"]
