"""The learning loop in a real ``dagster dev``: from no model to a model that was improved, defended and used, by itself.

Nothing is launched here: NASA's catalog changes, and the sensors of the running daemon do the rest.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from geostack_pipeline.cli import app
from geostack_pipeline.sandbox.serve import Sandbox
from geostack_pipeline.stages import champion_model, evaluation, model_trail
from tests.pipeline.learning_loop import Clock, Pages, Runs, release, scenes_of, settings_for, workspace

sys.path.append(str(Path(__file__).parents[1] / "ui"))
from dagster_dev import dagster_dev, project_folder

DAILY, RETRAIN = "cmr_stac_daily", "retrain"
DAY, MORE, NEXT = "2024-06-04", "2024-06-05", "2024-06-08"
CAMPAIGN = 206
"""Granules: a hundred on each of the first two days, the others on the last."""
FIRST_LEARNT = 14
"""Places to train on that the first batch has: enough to beat the filter, few enough to be beaten."""
PATIENCE_S = int(os.environ.get("GEOSTACK_PATIENCE", "2400"))
"""Longest wait for one step of the loop."""
WORLD = os.environ.get("GEOSTACK_WORLD")
"""Folder that keeps the rendered granules from one run of this test to the next; none by default."""


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_loop_closes_by_itself(worlds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    with Sandbox.start(
        WORLD or worlds,
        small=True,
        providers=["cmr_stac"],
        campaign=CAMPAIGN,
        held=[day.replace("-", "") for day in (DAY, MORE, NEXT)],
        timeout_s=PATIENCE_S,
    ) as nasa:
        for name, value in nasa.credentials().items():
            monkeypatch.setenv(name, value)
        clock.say(f"sandbox with a campaign of {CAMPAIGN}")
        file = settings_for(nasa, tmp_path)
        ws = workspace(file)
        scenes = [each for each in scenes_of(nasa, ws) if each.split is not None]
        tested = [each for each in scenes if each.split == "test" and each.day == DAY]
        learnt = [each for each in scenes if each.split == "train" and each.day == DAY]
        chosen_on = [each for each in scenes if each.split == "validation" and each.day == DAY]
        more = [each for each in scenes if each.day == MORE]
        later = [each for each in scenes if each.day == NEXT]
        assert len(tested) >= 40
        # What NASA lists one after the other: the places of the test and for thresholds with few to train on, then the
        # rest of the day, then the next day in two parts.  Each has outlines enough to start one training.
        batch = learnt[:FIRST_LEARNT]
        portions = deque(
            [[*tested, *chosen_on, *batch], learnt[FIRST_LEARNT:], more[:50], more[50:]],
        )
        labelled = [each for each in batch if each.labels]
        late = labelled[0].labels[0]
        with dagster_dev(project_folder(tmp_path / "project"), file) as dev:
            clock.say("dagster dev")
            runs, pages = Runs(dev), Pages(dev)
            trainings = 0

            def next_portion() -> Any:
                """List what comes next; return the champion when the training that it starts is judged."""
                nonlocal trainings
                release(nasa, portions.popleft(), without=[late])
                trainings += 1
                run = runs.wait(RETRAIN, trainings, seconds=PATIENCE_S)
                assert run["tags"]["geostack/trigger"] == "enough_new_labels"
                clock.say(f"training {trainings}, stored and judged")
                return champion_model.champion(ws)

            # A candidate is promoted when all criteria hold; where one fails by chance, the loop goes on with more.
            assert champion_model.champion(ws) is None
            first = next_portion()
            while first is None:
                assert portions, pages.gate()
                first = next_portion()
            assert pages.gate()[-1][0]

            # Outlines are drawn anew, one of them wrongly, one comes late, one granule is withdrawn; more is listed.
            wider, wrong, gone = labelled[1], labelled[2], labelled[3]
            nasa.change("release", late)
            nasa.change("revise", list(wider.labels), label="wider")
            nasa.change("revise", list(wrong.labels), label="wrong")
            nasa.change("delete", gone.item_id)
            second = first
            while portions and second.version == first.version:
                second = next_portion()
            improved = second.version != first.version
            if improved:
                assert pages.gate()[-1][0]
                assert second.meta["replaced"] == first.version
                assert second.meta["auprc"] > first.meta["auprc"]
                before, after = (dict(each.meta["labelled"]) for each in (first, second))
                assert labelled[0].item_id in after
                assert after[wider.item_id] != before[wider.item_id]
                assert after[wrong.item_id] != before[wrong.item_id]
                assert gone.item_id in before
                assert gone.item_id not in after
                assert len(after) >= len(before) + 10
            refusals = len(model_trail.refusals(ws))
            assert refusals == trainings - 1 - improved

            # The outlines of all places for learning of the first day are put where there is no gas.
            spoilt = [name for each in (*learnt, *chosen_on) if each is not gone for name in each.labels]
            nasa.change("revise", spoilt, label="wrong")
            trainings += 1
            runs.wait(RETRAIN, trainings, seconds=PATIENCE_S)
            clock.say("poisoned labels stored, trained on and judged")
            refused = model_trail.refusals(ws)
            assert len(refused) == refusals + 1
            newest = max(refused, key=lambda each: each["judged"])
            assert newest["against"] == second.version
            assert "auprc_better" in newest["failed"]
            passed, numbers = pages.gate()[-1]
            assert not passed
            assert numbers["auprc_better"].startswith("NOT passed")
            kept = champion_model.champion(ws)
            assert kept is not None
            assert kept.version == second.version

            # The next day: what the model in use makes of it.
            release(nasa, later)
            runs.wait(DAILY, 1, seconds=PATIENCE_S, day=NEXT)
            clock.say("the next day")
            methane = ws.artifacts.current("cmr_stac/methane", NEXT)
            assert methane is not None
            assert methane.meta["model_version"] == second.version
            for node in methane.open().children.values():
                assert node.attrs["model_version"] == second.version
                assert node.attrs["model_name"] == "plume-unet"
                assert "plume_probability" in node.to_dataset()

            # No change was done twice, no training was started for the same labels again.
            told = [run["tags"]["geostack/changes"] for run in runs.all() if run["jobName"] == DAILY]
            assert len(told) == len(set(told))
            assert len([run for run in runs.all() if run["jobName"] == RETRAIN]) == trainings

            models = [first, second] if improved else [first]
            _follow_by_command(file, tested[0].item_id, gone.item_id, [each.version for each in models])
            _follow_in_the_ui(pages, ws, models, gone.item_id)
            clock.say("trail")
            assert improved, f"no later candidate was promoted, with all that is listed: {pages.gate()}"


def _follow_by_command(file: Path, item: str, gone: str, models: list[str]) -> None:
    def trail(*subject: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["model", "trail", *subject, "--json", "--settings", str(file)])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    back = trail()
    assert back["model"] == models[-1]
    items = {each["item_id"]: each for each in back["items"]}
    assert item in items
    assert (gone in items) == (len(models) == 1)
    assert all(each["digest"] and each["cube"].startswith("cmr_stac/cube/") for each in items.values())
    made = {each["methane"]: each["model"] for each in back["methane"]}
    assert made[f"cmr_stac/methane/{NEXT}"] == models[-1]
    forth = trail(item)
    assert forth["models"] == models
    assert f"cmr_stac/methane/{NEXT}" in {each["methane"] for each in forth["methane"]}
    assert trail(gone)["models"] == models[:1]


def _follow_in_the_ui(pages: Pages, ws: Any, models: list[Any], gone: str) -> None:
    used = models[-1]
    # Back, link by link, from the plumes of the next day to the scene lists.
    plumes = ws.artifacts.current("plumes", NEXT)
    reached = pages.back(("plumes", NEXT, plumes.version))
    assert ("champion_model", None, used.version) in reached
    assert ("evaluation", None, used.meta["evaluation"]) in reached
    assert ("training_set", None, used.meta["training_set"]) in reached
    assert {("cmr_stac/scenes", day) for day in (DAY, NEXT)} <= {place[:2] for place in reached}
    shown = pages.entries("cmr_stac/methane", NEXT)
    assert shown["model version"]["text"] == used.version
    assert shown["model"]["assetKey"]["path"] == ["champion_model"]
    items = {}
    for model in models:
        table = pages.entries("training_set", None, model.meta["training_set"])["items"]["table"]
        items[model.version] = {row["item_id"]: row for row in map(json.loads, table["records"])}
    known = {each["item_id"]: each for each in model_trail.back(ws)["items"]}
    assert set(items[used.version]) == set(known)
    for item, row in items[used.version].items():
        assert (row["digest"], row["label_revision"]) == (
            known[item]["digest"],
            known[item]["label_revision"],
        )
    # Forth: from the cubes to everything that the model marks.
    assert gone in items[models[0].version]
    assert (gone in items[used.version]) == (len(models) == 1)
    after = pages.downstream("cmr_stac/scenes")
    assert {"training_set", "champion_model", "cmr_stac/methane", "plumes", "published"} <= after
    assert {"cmr_stac/methane", "plumes"} <= pages.downstream("champion_model")
    judged = pages.version("evaluation")
    assert judged != used.meta["evaluation"]
    assert ws.artifacts.find(evaluation.NAME, "all", judged).meta["champion"] == used.version
